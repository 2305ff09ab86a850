"""Search: feasible, non-dominated, repeatable, exact where it can be checked, and clear where nothing can be found."""
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from timm_ofa.accuracy.released import load_upstream_predictor
from timm_ofa.devices.memory import MemoryTable, peak_memory_mb
from timm_ofa.devices.profile import load_profile
from timm_ofa.errors import InputError
from timm_ofa.searching.additive import fit_additive
from timm_ofa.searching.anneal import anneal, changes
from timm_ofa.searching.exact import every_network
from timm_ofa.searching.knapsack import cheapest, least_memory
from timm_ofa.searching.limits import InfeasibleError, Limit, MaxMacs, MaxMemory, MaxParams
from timm_ofa.searching.pool import Pool
from timm_ofa.searching.problem import Problem
from timm_ofa.searching.strategy import ANNEALED, _starts, search
from timm_ofa.spaces.pricing import CostTable
from timm_ofa.spaces.shelf import load_space, space_names
from timm_ofa.spaces.space import SearchSpace


@dataclass
class ToyPredictor:
    """Every block adds something random, pairs of neighbors something more."""
    seed: int = 0
    known: tuple[int, ...] = (20, 24, 28, 32)
    judged: list = field(default_factory=list)

    def resolutions(self, space):
        return tuple(r for r in space.resolutions if r in self.known)

    def predict_codes(self, codes, space):
        self.judged.append(codes)
        rng = np.random.default_rng(self.seed)
        digits = np.concatenate([space.frames[codes[:, 0]][:, np.array(space.frame_sizes) > 1], codes[:, 1:]], 1)
        blocks, pairs = rng.random((digits.shape[1], 20)), rng.random((digits.shape[1], 20, 20))
        columns = np.arange(digits.shape[1])
        return 50 + blocks[columns, digits].sum(1) + pairs[columns[1:], digits[:, :-1], digits[:, 1:]].sum(1)


@dataclass(frozen=True)
class ToyProfile:
    """Latency goes with the MACs and a little with the kernel size."""
    name: str = 'toy'
    known: tuple[int, ...] = (20, 24, 28, 32)

    def resolutions(self, space):
        return tuple(r for r in space.resolutions if r in self.known)

    def cost_table(self, space):
        return space.cost_table(lambda row: row.macs / 1e6 + 0.01 * row.kernel_size)


@pytest.fixture(scope='module')
def space() -> SearchSpace:
    return load_space('ofa_mbv3_tiny')


@pytest.fixture(scope='module')
def small(space) -> SearchSpace:
    """Some thousand networks, depths with a gap."""
    return space.restrict(depths=[1, 3], kernel_sizes=[3], expand_ratios=[2, 4], resolutions=[24, 32])


@pytest.fixture(scope='module')
def resnet() -> SearchSpace:
    """28 thousand networks in 128 frames."""
    return load_space('ofa_resnet_tiny').restrict(depths=[1, 2], expand_ratios=[0.2, 0.35], resolutions=[24, 32],
                                                  widths=2)


def pareto(cost, top1):
    order = np.lexsort((-top1, cost))
    leads = top1[order] > np.r_[-np.inf, np.maximum.accumulate(top1[order])[:-1]]
    return cost[order][leads], top1[order][leads]


@pytest.fixture
def never_all(monkeypatch):
    """Searches as if there were too many networks to judge them all."""
    monkeypatch.setattr(sys.modules['timm_ofa.searching.strategy'], 'FEW', 0)


def assert_front_is_best(result, cost, top1, limit):
    assert result.best.top1_pct == top1[cost <= limit].max()
    front_cost, front_top1 = pareto(cost[cost <= limit], top1[cost <= limit])
    np.testing.assert_array_equal([c.latency_ms for c in result.front], front_cost)
    np.testing.assert_array_equal([c.top1_pct for c in result.front], front_top1)


@pytest.mark.parametrize('name, seed', [('small', 0), ('small', 1), ('small', 2), ('resnet', 0), ('resnet', 1)])
def test_a_small_space_gives_what_brute_force_gives(request, name, seed, never_all):
    small, predictor, profile = request.getfixturevalue(name), ToyPredictor(seed), ToyProfile()
    codes = every_network(small)
    cost, top1 = profile.cost_table(small)(codes), predictor.predict_codes(codes, small)
    limit = float(np.quantile(cost, 0.6))
    result = search(small, predictor, profile, max_latency_ms=limit, seed=seed)
    assert not result.proven
    assert_front_is_best(result, cost, top1, limit)


def test_of_few_networks_all_are_judged_and_the_front_is_proven(small):
    predictor, profile, codes = ToyPredictor(), ToyProfile(), every_network(small)
    assert len({str(arch) for arch in small.decode(codes)}) == len(codes) == small.size() * len(small.resolutions)
    cost, top1 = profile.cost_table(small)(codes), predictor.predict_codes(codes, small)
    limit = float(np.quantile(cost, 0.4))
    result = search(small, predictor, profile, max_latency_ms=limit)
    assert result.proven and result.evaluated == len(codes)
    assert_front_is_best(result, cost, top1, limit)


def test_every_limit_holds_and_the_front_ascends_to_the_best(space):
    profile, other = ToyProfile(), ToyProfile('other', (28, 32))
    mid = np.median(profile.cost_table(space)(space.encode(space.sample(np.random.default_rng(0), 100))))
    limits = [Limit(other, 0.9 * mid), MaxMacs(0.8e6 * mid), MaxParams(60e3 + space.params(space.min_arch()))]
    result = search(space, ToyPredictor(), profile, max_latency_ms=mid, limits=limits, steps=10)
    archs = [c.arch for c in result.front]
    assert len(archs) > 5 and {arch.resolution for arch in archs} <= {28, 32}
    assert max(c.latency_ms for c in result.front) <= 0.9 * mid
    assert max(space.macs(a) for a in archs) <= limits[1].maximum
    assert max(space.params(a) for a in archs) <= limits[2].maximum
    latency_ms, top1 = ([getattr(c, name) for c in result.front] for name in ('latency_ms', 'top1_pct'))
    assert all(np.diff(latency_ms) > 0) and all(np.diff(top1) > 0)
    assert result.best == result.front[-1]
    searched = space.restrict(resolutions=[28, 32])
    codes = searched.encode(archs)
    np.testing.assert_allclose(latency_ms, profile.cost_table(searched)(codes))
    np.testing.assert_allclose(top1, ToyPredictor().predict_codes(codes, searched))


def test_only_networks_of_the_space_are_judged(small, never_all):
    predictor = ToyPredictor()
    result = search(small, predictor, ToyProfile(), steps=5)
    judged = {tuple(code) for codes in predictor.judged for code in codes.tolist()}
    assert judged <= {tuple(code) for code in every_network(small).tolist()}
    assert result.evaluated == sum(map(len, predictor.judged)) == result.history[-1][0]
    assert [t for _, t in result.history] == sorted(t for _, t in result.history)


SCRIPT = '''
import sys; sys.path.insert(0, {here!r})
from test_search import ToyPredictor, ToyProfile, load_space, search
result = search(load_space('ofa_mbv3_tiny'), ToyPredictor(), ToyProfile(), max_latency_ms={limit}, seed=3, steps=10)
print([(str(c.arch), c.top1_pct) for c in result.front])
'''


def test_the_same_seed_gives_the_same_front_in_another_process(space):
    limit = float(1.3 * cheapest(space, ToyProfile().cost_table(space))[0].min())
    code = SCRIPT.format(here=str(Path(__file__).parent), limit=limit)
    env = {**os.environ, 'PYTHONPATH': str(Path(__file__).parents[2]), 'PYTHONHASHSEED': '7'}
    printed = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True, check=True).stdout
    again = search(space, ToyPredictor(), ToyProfile(), max_latency_ms=limit, seed=3, steps=10)
    assert printed.strip() == str([(str(c.arch), c.top1_pct) for c in again.front])


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


def test_the_search_stays_within_resolutions_that_all_judge(space):
    result = search(space, ToyPredictor(known=(20, 28)), ToyProfile(known=(28, 32)), steps=1)
    assert {c.arch.resolution for c in result.front} == {28}
    with pytest.raises(InputError, match=r'know \[20\] and \[32\] px, none in common'):
        search(space, ToyPredictor(known=(20,)), ToyProfile(known=(32,)))
    fixed = search(space, ToyPredictor(), ToyProfile(), resolutions=[24], steps=1)
    assert {c.arch.resolution for c in fixed.front} == {24}


@pytest.mark.parametrize('limit', [0, -1, float('nan'), 'fast', None])
def test_a_limit_must_be_a_positive_number(space, limit):
    with pytest.raises(InputError, match='is not a number above 0'):
        search(space, ToyPredictor(), ToyProfile(), limits=[MaxMacs(limit)])


def test_without_a_device_the_front_is_over_macs(space):
    limit = 3 * space.macs(space.min_arch())
    result = search(space, ToyPredictor(), limits=[MaxMacs(limit)], steps=3)
    macs = [space.macs(c.arch) for c in result.front]
    assert all(np.diff(macs) > 0) and macs[-1] <= limit and result.best.latency_ms is None
    with pytest.raises(InputError, match='needs a profile'):
        search(space, ToyPredictor(), max_latency_ms=5)


def test_a_space_of_one_network_is_searched_too(space):
    one = space.restrict(depths=[2], kernel_sizes=[5], expand_ratios=[3], resolutions=[24])
    result = search(one, ToyPredictor(), ToyProfile(), steps=2)
    assert [c.arch for c in result.front] == [one.max_arch()]


@dataclass
class AdditivePredictor(ToyPredictor):
    """Every block adds something random, as a table says."""

    def accuracy_table(self, space):
        rng = np.random.default_rng(self.seed)
        most = max(len(space.choices(i)) for i in range(len(space.stages)))
        shape = len(space.frames), len(space.positions), 1 + most
        table = rng.normal(size=shape)
        table[..., 0] = 0
        return CostTable(50 + rng.normal(size=len(space.frames)), table)

    def predict_codes(self, codes, space):
        self.judged.append(codes)
        return self.accuracy_table(space)(codes)


@pytest.mark.parametrize('name, seed', [('small', 0), ('small', 1), ('resnet', 0)])
def test_where_accuracy_is_additive_the_front_is_proven_without_judging_all(request, name, seed, never_all):
    small, predictor, profile = request.getfixturevalue(name), AdditivePredictor(seed), ToyProfile()
    small = small.restrict(widths=1)
    codes = every_network(small)
    cost, top1 = profile.cost_table(small)(codes), predictor.predict_codes(codes, small)
    limit = float(np.quantile(cost, 0.7))
    result = search(small, predictor, profile, max_latency_ms=limit, seed=seed)
    assert result.proven and result.evaluated == len(result.front)
    assert_front_is_best(result, cost, top1, limit)


def test_with_more_limits_than_dynamic_programming_takes_nothing_is_claimed(space):
    limits = [MaxParams(1.5 * space.params(space.min_arch()))]
    result = search(space, AdditivePredictor(), ToyProfile(), limits=limits, steps=5)
    assert not result.proven and max(space.params(c.arch) for c in result.front) <= limits[0].maximum


def random_restriction(rng):
    """One of the spaces of the shelf with few of its choices left, now and then so few that all are judged."""
    space = load_space(str(rng.choice(space_names())))
    kernels = sorted({k for stage in space.stages for k in stage.kernel_sizes})
    ratios = sorted({e for stage in space.stages for e in stage.expand_ratios})
    few = rng.random() < 0.4
    return space.restrict(
        resolutions=rng.choice(space.resolutions, 2, replace=False).tolist(), widths=1 + int(not few),
        kernel_sizes=rng.choice(kernels, 1 if few else 2 if len(kernels) > 1 else 1, replace=False).tolist(),
        expand_ratios=rng.choice(ratios, 1 if few else 2, replace=False).tolist(), deepest=1 + int(rng.integers(2)))


@pytest.mark.parametrize('seed', range(10))
def test_in_any_space_under_any_limits_the_front_is_feasible_sorted_and_repeatable(seed):
    rng = np.random.default_rng(seed)
    space = random_restriction(rng)
    predictor, profile = ToyPredictor(seed, space.resolutions), ToyProfile(known=space.resolutions)
    table = profile.cost_table(space)
    costs = {
        Limit: lambda a: table(space.encode([a]))[0], MaxMacs: space.macs, MaxParams: space.params,
        MaxMemory: lambda a: peak_memory_mb(space, a)}
    some = space.sample(rng)  # keeps all limits
    kinds = [kind for kind in costs if rng.random() < 0.6]
    limits = [kind(*([profile] if kind is Limit else []), 1.02 * costs[kind](some)) for kind in kinds]
    result, again = (search(space, predictor, profile, limits=limits, seed=seed, steps=6) for _ in range(2))
    assert result == again and result.best == result.front[-1]
    for kind, limit in zip(kinds, limits):
        assert max(costs[kind](c.arch) for c in result.front) <= limit.maximum * (1 + 1e-12)
    assert all(np.diff([c.latency_ms for c in result.front]) > 0)
    assert all(np.diff([c.top1_pct for c in result.front]) > 0)
    if result.proven:
        archs = [arch for arch in space.decode(every_network(space)) if all(
            costs[kind](arch) <= limit.maximum for kind, limit in zip(kinds, limits))]
        assert result.best.top1_pct == predictor.predict_codes(space.encode(archs), space).max()


def test_memory_of_many_networks_is_that_of_each(space, resnet, rng):
    for one in (space, resnet):
        archs = one.sample(rng, 20)
        codes, table = one.encode(archs), MemoryTable.of(one, batch_size=3)
        np.testing.assert_allclose(table(codes), [peak_memory_mb(one, arch, 3) for arch in archs], rtol=1e-12)


def test_the_least_memory_of_each_frame_is_exact(small, resnet):
    for one in (small, resnet):
        codes, table = every_network(one), MemoryTable.of(one, batch_size=20)
        memory = table(codes)
        least, found = least_memory(one, table)
        np.testing.assert_allclose(least, [memory[codes[:, 0] == f].min() for f in range(len(one.frames))])
        np.testing.assert_allclose(table(found), least)


def test_memory_is_a_limit_like_the_others(space):
    least = peak_memory_mb(space, space.min_arch())
    result = search(space, ToyPredictor(), ToyProfile(), limits=[MaxMemory(1.3 * least)], steps=10)
    most = max(peak_memory_mb(space, c.arch) for c in result.front)
    assert 1.2 * least < most <= 1.3 * least
    with pytest.raises(InfeasibleError, match=r'is within 0.01 MB of memory; the least is .* MB of memory \(r20:k'):
        search(space, ToyPredictor(), ToyProfile(), limits=[MaxMemory(0.01)])


@pytest.mark.parametrize('table', ['latency', 'memory'])
def test_costs_of_changes_are_those_of_the_changed_networks(resnet, table, rng):
    price = ToyProfile().cost_table(resnet) if table == 'latency' else MemoryTable.of(resnet)
    codes = resnet.encode(resnet.sample(rng, 30))
    costs = price.changes(codes)
    for p, c in product(*map(range, costs.shape[1:])):
        changed = codes.copy()
        changed[:, 1 + p] = c
        np.testing.assert_allclose(costs[:, p, c], price(changed))


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
                    legal = c < 1 + len(space.choices(stage)) and (
                        np.array_equal(space.encode(space.decode(changed[None])), changed[None]))
                except (InputError, ValueError, LookupError):
                    legal = False
                assert allowed == legal, (p, c)


def pool_of(space, limits, predictor=None):
    return Pool(Problem(space, ToyProfile(), limits), predictor or ToyPredictor())


@pytest.mark.parametrize('name', ['space', 'resnet'])
def test_changes_are_networks_of_up_to_four_other_blocks_within_all_limits(request, name, rng):
    space = request.getfixturevalue(name)
    limits = [MaxMemory(0.7 * peak_memory_mb(space, space.max_arch())), MaxParams(0.6 * space.params(space.max_arch()))]
    pool = pool_of(space, limits)
    caps = rng.uniform(0.3, 0.6, 40) * pool.problem.axis(space.encode([space.max_arch()]))
    codes = pool.problem.repair(pool.problem.random_genes(40, rng), rng, caps)
    pool.judge(codes)
    pool.record()
    changed, fits = changes(pool, codes, caps, pool.slopes(codes), 8, 0.1, rng)
    assert changed.shape == (40, 8, codes.shape[1]) and fits.mean() > 0.5
    blocks = (changed != codes[:, None]).sum(2)
    assert set(blocks[:, :-1][fits[:, :-1]]) == {1, 2} and set(blocks[:, -1][fits[:, -1]]) <= {2, 3, 4}
    for code, cap, some in zip(codes, caps, (c[f] for c, f in zip(changed, fits))):
        np.testing.assert_array_equal(space.encode(space.decode(some)), some)
        assert (some[:, 0] == code[0]).all()
        assert (pool.problem.excess(some, np.full(len(some), cap)) <= 0).all()


class Prefers28(ToyPredictor):
    """28 px are worth three points."""

    def predict_codes(self, codes, space):
        at = np.array(space.resolutions)[space.frames[codes[:, 0], 0]]
        return super().predict_codes(codes, space) + 3 * (at == 28)


def test_most_networks_start_at_the_resolution_whose_pilots_come_furthest(space, rng):
    shares = []
    for predictor in (Prefers28(), ToyPredictor()):
        pool = pool_of(space, [], predictor)
        first = pool.problem.codes(pool.problem.random_genes(200, rng))
        pool.judge(first)
        pool.record()
        starts = _starts(pool, first, 5, rng)
        assert abs(len(starts) - ANNEALED) <= len(space.resolutions)
        shares.append(np.bincount(space.frames[starts[:, 0], 0], minlength=4) / len(starts))
    assert shares[0][space.resolutions.index(28)] > 0.95 > shares[1].max()


def test_a_space_with_fewer_changes_than_are_judged_is_annealed(rng):
    space = load_space('ofa_resnet_tiny').restrict(depths=[1], expand_ratios=[0.25])
    pool = pool_of(space, [])
    caps = np.full(20, 1e9)
    codes = pool.problem.codes(pool.problem.random_genes(20, rng))
    pool.judge(codes)
    pool.record()
    ends, top1 = anneal(pool, codes, caps, 3, rng, judged=200)
    assert len(ends) == len(top1) == 20 and (pool.problem.excess(ends, caps) == 0).all()


def test_annealing_longer_ends_on_a_better_network(space, rng):
    pool = pool_of(space, [])
    caps = np.full(20, 2.5)
    codes = pool.problem.repair(pool.problem.random_genes(20, rng), rng, caps)
    pool.judge(codes)
    pool.record()
    best = []
    for steps in (0, 1, 6):
        anneal(pool, codes, caps, steps, np.random.default_rng(1))
        pool.record()
        best.append(pool.top1.max())
    assert best[0] < best[1] < best[2]


def test_the_slopes_of_the_published_predictor_tell_which_changes_help(shared, rng):
    whole = load_space('ofa_mbv3_w12')
    part = whole.restrict(resolutions=[192], kernel_sizes=[3, 7], depths=[2, 3])
    predictor = load_upstream_predictor(shared / 'upstream' / 'acc_predictor.pth', whole)
    code = part.encode(part.sample(rng, 1))
    slopes = predictor.block_slopes(code, part)[0]
    np.testing.assert_allclose(np.unique(predictor.block_slopes(whole.encode(part.decode(code)), whole)[0][:2, 1:3]),
                               np.unique(slopes[:2, 1:3]), atol=1e-5)
    problem = Problem(part, None, [])
    changes = problem.allowed[np.arange(len(problem.index)), problem.depth(code)[0, problem.stage]]
    changes[np.arange(len(problem.index)), code[0, 1:]] = False
    where = np.argwhere(changes)
    changed = np.repeat(code, len(where), 0)
    changed[np.arange(len(where)), 1 + where[:, 0]] = where[:, 1]
    rise = predictor.predict_codes(changed, part) - predictor.predict_codes(code, part)
    hoped = slopes[tuple(where.T)] - slopes[where[:, 0], code[0, 1 + where[:, 0]]]
    assert np.corrcoef(rise, hoped)[0, 1] > 0.6


def test_the_additive_model_learns_the_part_of_each_width(resnet, rng):
    codes = resnet.encode(resnet.sample(rng, 2000))
    parts = [rng.normal(size=size) for size in resnet.frame_sizes]
    top1 = 70 + sum(part[digit] for part, digit in zip(parts, resnet.frames[codes[:, 0]].T))
    table = fit_additive(resnet, codes[:1000], top1[:1000], 0.3)
    np.testing.assert_allclose(table(codes[1000:]), top1[1000:], atol=0.05)


def test_no_network_is_judged_twice(space, rng):
    predictor = ToyPredictor()
    pool = pool_of(space, [MaxMacs(1.5 * space.macs(space.min_arch()))], predictor)
    codes = space.encode(space.sample(rng, 30))
    twice = np.concatenate([codes, codes[::-1]])
    np.testing.assert_array_equal(pool.judge(twice), ToyPredictor().predict_codes(twice, space))
    pool.judge(codes)
    assert len(predictor.judged) == 1 and len(predictor.judged[0]) == pool.judged == 30
    pool.record()
    assert len(pool.codes) == (pool.problem.excess(codes) <= 0).sum()


def test_the_published_predictor_and_phone_give_the_known_optimum(shared):
    space = load_space('ofa_mbv3_w12').restrict(resolutions=[160, 176, 192, 208, 224])
    predictor = load_upstream_predictor(shared / 'upstream' / 'acc_predictor.pth', space)
    result = search(space, predictor, load_profile('note10'), max_latency_ms=15.0)
    assert result.best.latency_ms <= 15 and result.best.top1_pct > 78.78
    assert result.best.top1_pct == pytest.approx(predictor.predict([result.best.arch])[0], abs=1e-4)


@pytest.mark.parametrize('limit, best_pct', [(600e6, 78.501), (1200e6, 80.964)])
def test_the_published_predictor_of_resnet_gives_the_known_optimum(shared, limit, best_pct):
    space = load_space('ofa_resnet50d')
    predictor = load_upstream_predictor(shared / 'upstream' / 'ofa_resnet50_acc_predictor.pth', space)
    result = search(space, predictor, limits=[MaxMacs(limit)])
    archs = [c.arch for c in result.front]
    assert result.best.top1_pct >= best_pct and max(map(space.macs, archs)) <= limit
    np.testing.assert_allclose([c.top1_pct for c in result.front], predictor.predict(archs), atol=1e-4)
