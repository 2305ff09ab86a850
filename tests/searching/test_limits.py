"""Limits: exact costs, what can be met at all, and what is allowed."""
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest
from toy_search import AdditivePredictor, ToyPredictor, ToyProfile

from timm_ofa.devices.memory import MemoryTable, peak_memory_mb
from timm_ofa.errors import InputError
from timm_ofa.searching.exact import every_network
from timm_ofa.searching.knapsack import cheapest, least_memory
from timm_ofa.searching.limits import InfeasibleError, Limit, MaxMacs, MaxMemory, MaxParams
from timm_ofa.searching.problem import Problem
from timm_ofa.searching.strategy import search


def test_an_impossible_limit_is_refused_before_any_network_is_judged(space):
    predictor, profile = ToyPredictor(), ToyProfile()
    with pytest.raises(InfeasibleError, match=r'is within 0.002 ms on toy; the least is .* ms on toy \(r20:k') as error:
        search(space, predictor, profile, max_latency_ms=0.002)
    assert predictor.judged == [] and '\n' not in str(error.value)
    least = profile.cost_table(space)(space.encode([space.min_arch()]))[0]
    assert f'{least:.4g} ms' in str(error.value)
    with pytest.raises(InfeasibleError, match=r'is within 0\.001 M parameters; the least is'):
        search(space, predictor, profile, max_latency_ms=100, limits=[MaxParams(1e3)])
    assert predictor.judged == []


def test_the_smallest_value_of_the_refusal_can_be_reached(space):
    profile = ToyProfile()
    cost, codes = cheapest(space, profile.cost_table(space))
    result = search(space, ToyPredictor(), profile, max_latency_ms=float(cost.min()), steps=1)
    assert result.best.arch == space.decode(codes[cost.argmin()][None])[0] == space.min_arch()


@dataclass(frozen=True)
class ContraryProfile(ToyProfile):
    """The more MACs, the faster."""
    def cost_table(self, space):
        return space.cost_table(lambda row: 10 / (1 + row.macs / 1e6) if row.kind == 'ir' else 0)


def test_limits_that_can_only_be_met_one_by_one_are_named_together(space):
    profile, contrary = ToyProfile(), ContraryProfile('contrary')
    space = space.restrict(depths=[2])
    limits = [Limit(p, 1.01 * cheapest(space, p.cost_table(space))[0].min()) for p in (profile, contrary)]
    for limit in limits:
        assert search(space, ToyPredictor(), profile, limits=[limit], steps=1).best
    with pytest.raises(InfeasibleError, match=r'within .* ms on toy and .* ms on contrary at once; raise one of them'):
        search(space, ToyPredictor(), profile, limits=limits)


@pytest.mark.parametrize('limit', [0, -1, float('nan'), 'fast', None])
def test_a_limit_must_be_a_positive_number(space, limit):
    with pytest.raises(InputError, match='is not a number above 0'):
        search(space, ToyPredictor(), ToyProfile(), limits=[MaxMacs(limit)])


def test_memory_is_a_limit_like_the_others(space):
    least = peak_memory_mb(space, space.min_arch())
    result = search(space, ToyPredictor(), ToyProfile(), limits=[MaxMemory(1.3 * least)], steps=10)
    most = max(peak_memory_mb(space, c.arch) for c in result.front)
    assert 1.2 * least < most <= 1.3 * least
    with pytest.raises(InfeasibleError, match=r'is within 0.01 MB of memory; the least is .* MB of memory \(r20:k'):
        search(space, ToyPredictor(), ToyProfile(), limits=[MaxMemory(0.01)])


def test_memory_of_many_networks_is_that_of_each(space, resnet, rng):
    for one in (space, resnet):
        archs = one.sample(rng, 20)
        codes, table = one.encode(archs), MemoryTable.of(one, batch_size=3)
        np.testing.assert_allclose(table(codes), [peak_memory_mb(one, arch, 3) for arch in archs], rtol=1e-12)


@pytest.mark.parametrize('table', ['latency', 'memory'])
def test_costs_of_changes_are_those_of_the_changed_networks(resnet, table, rng):
    price = ToyProfile().cost_table(resnet) if table == 'latency' else MemoryTable.of(resnet)
    codes = resnet.encode(resnet.sample(rng, 30))
    costs = price.changes(codes)
    for p, c in product(*map(range, costs.shape[1:])):
        changed = codes.copy()
        changed[:, 1 + p] = c
        np.testing.assert_allclose(costs[:, p, c], price(changed))


def test_the_least_memory_of_each_frame_is_exact(small, resnet):
    for one in (small, resnet):
        codes, table = every_network(one), MemoryTable.of(one, batch_size=20)
        memory = table(codes)
        least, found = least_memory(one, table)
        np.testing.assert_allclose(least, [memory[codes[:, 0] == f].min() for f in range(len(one.frames))])
        np.testing.assert_allclose(table(found), least)


@pytest.mark.parametrize('name', ['small', 'resnet'])
def test_the_least_cost_of_each_frame_is_exact(request, name):
    space = request.getfixturevalue(name)
    codes, table = every_network(space), ToyProfile().cost_table(space)
    costs = table(codes)
    least, found = cheapest(space, table)
    np.testing.assert_allclose(least, [costs[codes[:, 0] == f].min() for f in range(len(space.frames))])
    np.testing.assert_allclose(table(found), least)
    np.testing.assert_array_equal(found[:, 0], np.arange(len(space.frames)))


def test_each_width_is_a_gene_of_its_own(resnet, rng):
    problem = Problem(resnet, None, [])
    assert problem.sizes[:len(problem.parts)].tolist() == list(resnet.frame_sizes) == [2, 8, 2, 2, 2]
    genes = problem.random_genes(50, rng)
    codes = problem.codes(genes)
    np.testing.assert_array_equal(resnet.encode(resnet.decode(codes)), codes)
    genes[:, 3] = 1 - genes[:, 3]  # the width of the second stage
    for arch, changed in zip(resnet.decode(codes), resnet.decode(problem.codes(genes))):
        assert changed.width[1] != arch.width[1]
        assert replace(changed, width=arch.width) == arch and changed.width[::2] == arch.width[::2]


@pytest.mark.parametrize('name', ['small', 'space', 'resnet'])
def test_allowed_choices_are_those_that_give_a_network(request, name, rng):
    space = request.getfixturevalue(name)
    problem = Problem(space, ToyProfile(), [Limit(ToyProfile(), 1e9)])
    for code in space.encode(space.sample(rng, 5)):
        depth = problem.depth(code[None])[0]
        for p, (stage, _) in enumerate(space.positions):
            for c, allowed in enumerate(problem.allowed[p, depth[stage]]):
                changed = code.copy()
                changed[1 + p] = c
                try:
                    legal = c < 1 + len(space.stages[stage].choices(0)) and (
                        np.array_equal(space.encode(space.decode(changed[None])), changed[None]))
                except (InputError, ValueError, LookupError):
                    legal = False
                assert allowed == legal, (p, c)


@pytest.mark.parametrize('num_classes, batch_size', [(21841, 1), (10, 64), (None, 4)])
def test_limits_count_for_the_classes_and_the_batch_of_the_profile(space, num_classes, batch_size):
    profile = ToyProfile(num_classes=num_classes, batch_size=batch_size)
    some = space.min_arch(28)
    exact = {
        MaxMacs: space.macs(some, num_classes), MaxParams: space.params(some, num_classes),
        MaxMemory: peak_memory_mb(space, some, batch_size, num_classes)}
    only = space.restrict(resolutions=[28])
    for kind, maximum in exact.items():
        result = search(only, ToyPredictor(), profile, limits=[kind(maximum)], steps=1)
        assert result.best.arch == some
        with pytest.raises(InfeasibleError, match='the least is'):
            search(only, ToyPredictor(), profile, limits=[kind(0.999 * maximum)], steps=1)
    beside = [Limit(profile, 1e9), MaxParams(exact[MaxParams])]  # no profile of its own: that of the first limit counts
    assert search(only, ToyPredictor(), limits=beside, steps=1).best.arch == some
    given = [MaxParams(space.params(some, 7), num_classes=7), MaxMemory(peak_memory_mb(space, some, 2, 7), 2, 7)]
    assert search(only, ToyPredictor(), profile, limits=given, steps=1).best.arch == some


def test_a_limit_on_an_equal_profile_is_a_limit_on_the_same_latency(space):
    profile, equal = ToyProfile(), ToyProfile()
    assert profile is not equal
    problem = Problem(space, profile, [Limit(equal, 3.0), Limit(profile, 2.0), Limit(ToyProfile('other'), 4.0)])
    assert problem.top == 2.0 and [maximum for _, maximum in problem.others] == [4.0]
    assert search(space, AdditivePredictor(), profile, max_latency_ms=3, limits=[Limit(equal, 2.5)]).proven
    problem = Problem(space, None, [MaxMacs(2e6), MaxMacs(1e6), MaxParams(1e9)])
    assert problem.top == 1e6 and len(problem.others) == 1
