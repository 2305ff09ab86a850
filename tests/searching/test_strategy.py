"""Searches: within all limits, the best front, repeatable."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from toy_search import ToyPredictor, ToyProfile, assert_front_is_best, pool_of

from timm_ofa.accuracy.released import load_upstream_predictor
from timm_ofa.devices.memory import peak_memory_mb
from timm_ofa.devices.profile import load_profile
from timm_ofa.errors import InputError
from timm_ofa.searching.exact import every_network
from timm_ofa.searching.knapsack import cheapest
from timm_ofa.searching.limits import Limit, MaxMacs, MaxMemory, MaxParams
from timm_ofa.searching.problem import leading
from timm_ofa.searching.strategy import ANNEALED, _starts, search
from timm_ofa.spaces.shelf import load_space, space_names


@pytest.mark.parametrize('name, seed', [('small', 0), ('small', 1), ('small', 2), ('resnet', 0), ('resnet', 1)])
def test_a_small_space_gives_what_brute_force_gives(request, name, seed, never_all):
    small, predictor, profile = request.getfixturevalue(name), ToyPredictor(seed), ToyProfile()
    codes = every_network(small)
    cost, top1 = profile.cost_table(small)(codes), predictor.predict_codes(codes, small)
    limit = float(np.quantile(cost, 0.6))
    result = search(small, predictor, profile, max_latency_ms=limit, seed=seed)
    assert not result.proven
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


def test_of_equal_networks_only_the_cheapest_leads():
    assert leading(np.array([2, 1, 3, 1]), np.array([5, 5, 6, 5])).tolist() in ([1, 2], [3, 2])


def test_only_networks_of_the_space_are_judged(small, never_all):
    predictor = ToyPredictor()
    result = search(small, predictor, ToyProfile(), steps=5)
    judged = {tuple(code) for codes in predictor.judged for code in codes.tolist()}
    assert judged <= {tuple(code) for code in every_network(small).tolist()}
    assert result.evaluated == sum(map(len, predictor.judged)) == result.history[-1][0]
    assert [t for _, t in result.history] == sorted(t for _, t in result.history)


SCRIPT = '''
import sys; sys.path.insert(0, {here!r})
from toy_search import ToyPredictor, ToyProfile
from timm_ofa.searching.strategy import search
from timm_ofa.spaces.shelf import load_space
result = search(load_space('ofa_mbv3_tiny'), ToyPredictor(), ToyProfile(), max_latency_ms={limit}, seed=3, steps=10)
print([(str(c.arch), c.top1_pct) for c in result.front])
'''


def test_the_same_seed_gives_the_same_front_in_another_process(space):
    limit = float(1.3 * cheapest(space, ToyProfile().cost_table(space))[0].min())
    code = SCRIPT.format(here=str(Path(__file__).parents[1]), limit=limit)
    env = {**os.environ, 'PYTHONPATH': str(Path(__file__).parents[2]), 'PYTHONHASHSEED': '7'}
    printed = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True, check=True).stdout
    again = search(space, ToyPredictor(), ToyProfile(), max_latency_ms=limit, seed=3, steps=10)
    assert printed.strip() == str([(str(c.arch), c.top1_pct) for c in again.front])


def test_the_search_stays_within_resolutions_that_all_judge(space):
    result = search(space, ToyPredictor(known=(20, 28)), ToyProfile(known=(28, 32)), steps=1)
    assert {c.arch.resolution for c in result.front} == {28}
    with pytest.raises(InputError, match=r'know \[20\] and \[32\] px, none in common'):
        search(space, ToyPredictor(known=(20,)), ToyProfile(known=(32,)))
    fixed = search(space, ToyPredictor(), ToyProfile(), resolutions=[24], steps=1)
    assert {c.arch.resolution for c in fixed.front} == {24}


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
