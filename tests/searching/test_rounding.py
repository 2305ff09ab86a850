"""Within a limit is decided in one place: equal costs are equal, however they were added up or printed."""
from dataclasses import dataclass

import numpy as np
import pytest
from toy_search import AdditivePredictor, ToyPredictor, ToyProfile

from timm_ofa.searching.exact import every_network
from timm_ofa.searching.limits import InfeasibleError, Limit, MaxMacs, MaxMemory, MaxParams, rounded_up, within
from timm_ofa.searching.pool import KEPT, Pool
from timm_ofa.searching.problem import Problem
from timm_ofa.searching.strategy import search


@dataclass(frozen=True)
class OddProfile(ToyProfile):
    """Latencies that are no short binary fractions, so that the order of a sum changes its last digits."""
    scale: float = 1.0

    def cost_table(self, space):
        return space.cost_table(lambda row: self.scale * (row.macs / 3e6 + 0.0137 * row.kernel_size))


def test_costs_that_only_rounding_makes_different_are_equal():
    costs = np.random.default_rng(0).random(40)
    totals = [sum(costs), sum(sorted(costs)), sum(reversed(sorted(costs))), costs.sum()]
    assert len(set(totals)) > 1 and all(within(a, b) for a in totals for b in totals)
    assert not within(10**11 + 1, 10**11) and not within(1.00000001, 1.0) and within(5.0, np.inf)


@pytest.mark.parametrize('predictor', [ToyPredictor, AdditivePredictor])
def test_the_latency_of_a_known_network_is_a_limit_that_it_keeps(space, predictor):
    """Also where the limit was added up row by row, and not block by block."""
    profile, some = OddProfile(), space.sample(np.random.default_rng(0), 30)
    for arch in some:
        sums = [sum(row.macs / 3e6 + 0.0137 * row.kernel_size for row in rows)
                for rows in (space.rows(arch), space.rows(arch)[::-1])]
        problem = Problem(space, profile, [Limit(profile, min(sums))])
        assert problem.excess(space.encode([arch]))[0] == 0
    single = space.restrict(depths=[1], kernel_sizes=[3], expand_ratios=[2], resolutions=[24])
    for factor in (1 - 1e-13, 1, 1 + 1e-13):
        limit = factor * profile.cost_table(single)(every_network(single))[0]
        assert search(single, predictor(), profile, max_latency_ms=limit).best.arch == single.max_arch()


@pytest.mark.parametrize('name', ['small', 'resnet'])
def test_each_point_of_an_exact_front_fed_back_as_a_limit_is_found_again(request, name, never_all):
    space = request.getfixturevalue(name).restrict(widths=1)
    whole = search(space, AdditivePredictor(), OddProfile()).front
    for i, point in enumerate(whole):
        again = search(space, AdditivePredictor(), OddProfile(), max_latency_ms=point.latency_ms)
        assert again.proven and again.front == whole[:i + 1]


def test_of_two_networks_that_cost_the_same_the_better_one_is_on_the_front(small):
    codes = every_network(small)[:3]
    pool = Pool(Problem(small, ToyProfile(), []), ToyPredictor())
    pool.codes, pool.top1, pool.cost = codes, np.array([70., 71., 72.]), np.array([1., 1 + 1e-14, 2.])
    assert pool.front().tolist() == [1, 2]


@pytest.mark.parametrize('value, text', [
    (9.8901, '9.891'), (9.89, '9.89'), (9.89 * (1 + 1e-15), '9.89'), (0.1 + 0.2, '0.3'), (123456, '1.235e+05'),
    (0.00012344, '0.0001235'), (12, '12')])
def test_what_is_rounded_up_is_never_below_the_value(value, text):
    assert rounded_up(value) == text and within(value, float(text))


@pytest.mark.parametrize('kind', ['latency', 'macs', 'params', 'memory'])
@pytest.mark.parametrize('seed', range(3))
def test_the_least_value_that_a_refusal_prints_can_be_given_back(space, kind, seed):
    profile = OddProfile(scale=1 + np.random.default_rng(seed).random())
    limit = {'latency': lambda n: Limit(profile, n), 'macs': lambda n: MaxMacs(1e6 * n),
             'params': lambda n: MaxParams(1e6 * n), 'memory': lambda n: MaxMemory(n)}[kind]
    space = space.restrict(deepest=1 + seed % 2, kernel_sizes=[5])
    with pytest.raises(InfeasibleError, match='the least is') as error:
        search(space, ToyPredictor(), profile, limits=[limit(1e-6)])
    least = float(str(error.value).split('the least is ')[1].split()[0])
    assert search(space, ToyPredictor(), profile, limits=[limit(least)], steps=1).best
    with pytest.raises(InfeasibleError):
        search(space, ToyPredictor(), profile, limits=[limit(least * 0.998)], steps=1)


def test_a_refusal_repeats_the_limit_as_it_was_given(space):
    with pytest.raises(InfeasibleError, match=r'within 0\.0012345 ms on toy;'):
        search(space, ToyPredictor(), ToyProfile(), max_latency_ms=0.0012345)


def test_a_front_of_any_length_is_kept_whole(space, rng):
    pool = Pool(Problem(space, OddProfile(), []), AdditivePredictor())
    codes = np.unique(space.encode(space.sample(rng, 6000)), axis=0)
    _, first = np.unique(pool.problem.axis(codes).round(9), return_index=True)  # ascending costs, no two equal
    codes, top1 = codes[first], np.linspace(0, 100, len(first))
    order = rng.permutation(len(codes))
    pool.fresh.append((codes[order], top1[order]))
    pool.record()
    assert len(codes) > 1.5 * KEPT
    np.testing.assert_array_equal(pool.codes[pool.front()], codes)


def test_the_price_of_cost_is_the_slope_of_the_front_below_a_cap(space):
    pool = Pool(Problem(space, OddProfile(), []), AdditivePredictor())
    pool.front_cost, pool.front_top1 = np.array([1., 2., 4., 4.5]), np.array([70., 80., 90., 91.])
    caps = np.array([0.5, 1., 2.1, 4., 4.5, 99.])
    expected = [0, 0, 10 / (0.15 * 2.1), 10 / (0.15 * 4), 11 / (0.15 * 4.5), 11 / (0.15 * 4.5)]
    np.testing.assert_allclose(pool.price(caps), expected)
