"""What to evaluate next: areas are exact, choices spread along the front, an interrupted collection goes on."""
import json

import numpy as np
import pytest

from timm_ofa.accuracy import AccuracyPredictor
from timm_ofa.accuracy.active import BATCH, FIRST, Active, added_area, choose, hypervolume
from timm_ofa.accuracy.records import subnets_to_judge
from timm_ofa.errors import InputError
from timm_ofa.spaces.arch import Arch
from timm_ofa.spaces.shelf import load_space


@pytest.fixture(scope='module')
def space():
    return load_space('ofa_mbv3_tiny').restrict(resolutions=[24, 32])


def counted_area(cost, top1, worst_cost, worst_top1, steps=400):
    """Of a raster, how much lies behind a network."""
    x = (np.arange(steps) + 0.5) / steps * worst_cost
    y = worst_top1 + (np.arange(steps) + 0.5) / steps * (100 - worst_top1)
    behind = ((cost[:, None, None] <= x[None, :, None]) & (top1[:, None, None] >= y[None, None])).any(0)
    return behind.mean() * worst_cost * (100 - worst_top1)


def test_the_hypervolume_is_the_area_behind_the_networks(rng):
    for n in (1, 2, 30):
        cost, top1 = rng.uniform(0, 12, n), rng.uniform(55, 100, n)  # some beyond the worst
        assert hypervolume(cost, top1, 10, 60) == pytest.approx(counted_area(cost, top1, 10, 60), abs=2)


def test_what_a_network_adds_is_the_difference_of_two_areas(rng):
    cost, top1 = rng.uniform(1, 9, 12), rng.uniform(62, 95, 12)
    order = np.lexsort((-top1, cost))
    leads = order[top1[order] > np.r_[-np.inf, np.maximum.accumulate(top1[order])[:-1]]]
    new_cost, new_top1 = rng.uniform(0, 11, 40), rng.uniform(58, 100, 40)
    added = added_area(new_cost, new_top1, (cost[leads], top1[leads]), 10, 60)
    for c, t, area in zip(new_cost, new_top1, added):
        both = hypervolume(np.r_[cost, c], np.r_[top1, t], 10, 60)
        assert area == pytest.approx(both - hypervolume(cost, top1, 10, 60), abs=1e-9)


def test_a_batch_spreads_along_the_front_and_prefers_what_is_unsure():
    cost = np.array([5.0, 5.01, 2.0, 8.0, 8.0])
    mean, spread = np.array([80.0, 80.0, 70.0, 90.0, 90.0]), np.array([1.0, 1.0, 1.0, 0.0, 3.0])
    chosen = choose(cost, mean, spread, np.array([1.0, 9.0]), np.array([60.0, 89.0]), 3).tolist()
    assert set(chosen) == {0, 2, 4}
    assert len(choose(cost, mean - 50, 0 * spread, np.array([1.0, 9.0]), np.array([60.0, 89.0]), 3)) == 0


def told(space, arch):
    return round(60 + 3 * np.log(space.macs(arch) / 1e6) + 0.4 * sum(map(sum, arch.kernel_size)) / 9, 4)


def collected(space, n, seed=0):
    """As `collect` does, one process, without an interruption."""
    propose, records = Active(space, seed=seed), []
    while len(records) < n:
        records += [(arch, told(space, arch)) for arch in propose(records, 1)]
    return records


def test_an_interrupted_collection_goes_on_as_it_would_have(space):
    whole = collected(space, FIRST + BATCH + 3)
    archs = [arch for arch, _ in whole]
    assert len(set(archs)) == len(archs)
    assert archs[:FIRST] == [arch for arch, _ in zip(subnets_to_judge(space, 0), range(FIRST))]
    again = Active(space)
    assert again(whole[:FIRST + 4], 50) == archs[FIRST + 4:FIRST + BATCH]
    assert again(whole[:FIRST + BATCH], 2) == archs[FIRST + BATCH:FIRST + BATCH + 2]


@pytest.mark.parametrize('seed', range(3))
def test_a_small_space_is_collected_to_its_last_network(space, seed):
    small = space.restrict(depths=[1], kernel_sizes=[3, 5], expand_ratios=[2, 3], resolutions=[24])
    assert len({arch for arch, _ in collected(small, 64, seed)}) == small.size() == 64
    assert Active(small, seed=seed)(collected(small, 64, seed), 5) == []


class Profile:
    """Of a device that prices some resolutions."""
    name, num_classes, batch_size = 'toy', None, 1

    def __init__(self, priced):
        self.priced = priced

    def resolutions(self, space):
        return tuple(r for r in space.resolutions if r in self.priced)

    def cost_table(self, space):
        return space.cost_table(lambda row: row.kernel_size)


def test_where_a_device_prices_no_further_network_none_is_proposed(space):
    small = space.restrict(depths=[1], kernel_sizes=[3], expand_ratios=[2, 3])
    propose, records = Active(small, Profile([24])), []
    while archs := propose(records, 3):
        records += [(arch, told(space, arch)) for arch in archs]
        assert len(records) <= 8
    assert {arch.resolution for arch, _ in records} == {24} and len(set(records)) == small.size() == 8


def test_the_second_axis_may_be_the_latency_of_a_device(space):
    records = [(arch, told(space, arch)) for arch, _ in zip(subnets_to_judge(space, 0), range(FIRST))]
    archs = [Active(space, profile)(records, BATCH) for profile in (None, Profile(space.resolutions))]
    assert archs[0] != archs[1] and all(len(set(a) | {b for b, _ in records}) == FIRST + BATCH for a in archs)
    partly = Active(space, Profile([24]))
    first = partly([], FIRST)
    later = partly([(arch, told(space, arch)) for arch in first], BATCH)
    assert {arch.resolution for arch in (*first, *later)} == {24}
    with pytest.raises(InputError, match='toy prices ofa_mbv3_tiny whole at no resolution'):
        Active(space, Profile([]))


def test_on_real_accuracies_it_reaches_the_front_with_a_hundred_evaluations(shared):
    space = load_space('ofa_mbv3_w10')
    lines = (shared / 'archives' / 'ofa_mbv3_w1.0_imagenet_top1.jsonl').read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    archs = [Arch.from_dict({k: r[k] for k in ('resolution', 'kernel_size', 'expand_ratio')}) for r in rows]
    top1, macs = (np.array([r[k] for r in rows]) for k in ('top1_pct', 'macs'))
    codes, done = space.encode(archs), np.random.default_rng(0).permutation(len(archs))[:20]
    while len(done) < 100:
        predictor = AccuracyPredictor.fit(space, [archs[i] for i in done], top1[done])
        rest = np.setdiff1d(np.arange(len(archs)), done)
        chosen = choose(macs[rest], predictor.predict_codes(codes[rest], space),
                        predictor.spread_codes(codes[rest], space), macs[done], top1[done], 20)
        done = np.r_[done, rest[chosen]]
    reached = hypervolume(macs[done], top1[done], 600e6, 70) / hypervolume(macs, top1, 600e6, 70)
    assert reached > 0.985
