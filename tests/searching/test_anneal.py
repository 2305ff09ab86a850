"""Annealing: moves that are networks within the limits, and better with more steps."""
from dataclasses import dataclass, replace

import numpy as np
import pytest
from toy_search import ToyPredictor, pool_of

from timm_ofa.accuracy.released import load_upstream_predictor
from timm_ofa.devices.memory import peak_memory_mb
from timm_ofa.searching.anneal import _moved_depths, _moved_frames, anneal, changes
from timm_ofa.searching.limits import MaxMacs, MaxMemory, MaxParams
from timm_ofa.searching.problem import Problem
from timm_ofa.spaces.shelf import load_space


@dataclass
class MoreIsBetter(ToyPredictor):
    """Each active block is worth a point, or costs one."""
    sign: int = 1

    def predict_codes(self, codes, space):
        return 50 + self.sign * (codes[:, 1:] > 0).sum(1).astype(float)


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


def test_a_space_with_fewer_changes_than_are_judged_is_annealed(rng):
    space = load_space('ofa_resnet_tiny').restrict(depths=[1], expand_ratios=[0.25])
    pool = pool_of(space, [])
    caps = np.full(20, 1e9)
    codes = pool.problem.codes(pool.problem.random_genes(20, rng))
    pool.judge(codes)
    pool.record()
    ends, top1 = anneal(pool, codes, caps, 3, rng, judged=200)
    assert len(ends) == len(top1) == 20 and (pool.problem.excess(ends, caps) == 0).all()


@pytest.mark.parametrize('name', ['space', 'resnet'])
def test_annealing_changes_depths_that_have_a_gap_between_them(request, name, rng):
    whole = request.getfixturevalue(name)
    if name == 'resnet':
        whole = replace(whole, stages=tuple(replace(s, depths=(1, 4)) for s in whole.stages))
    gapped = whole.restrict(depths=[1, 3]) if name == 'space' else whole
    deepest = tuple(s.depths[-1] for s in gapped.stages)
    pool = pool_of(gapped, [], MoreIsBetter(known=gapped.resolutions))
    shallow = gapped.restrict(depths=[1])
    codes = gapped.encode(shallow.sample(rng, 30))
    pool.judge(codes)
    pool.record()
    ends, _ = anneal(pool, codes, np.full(30, 1e9), 40, rng)
    assert gapped.encode(gapped.decode(ends)).tolist() == ends.tolist()
    assert {arch.depth for arch in gapped.decode(ends)} == {deepest}
    back = MoreIsBetter(known=gapped.resolutions, sign=-1)
    pool = pool_of(gapped, [], back)
    codes = gapped.encode(gapped.restrict(deepest=1).sample(rng, 30))
    pool.judge(codes)
    pool.record()
    ends, _ = anneal(pool, codes, np.full(30, 1e9), 40, rng)
    assert {arch.depth for arch in gapped.decode(ends)} == {(1,) * len(deepest)}


def test_a_moved_frame_differs_in_one_part_of_it_and_in_nothing_else(resnet, rng):
    pool, codes = pool_of(resnet, []), resnet.encode(resnet.sample(rng, 200))
    moved = _moved_frames(pool, codes, rng)
    parts = resnet.frames[moved[:, 0]] != resnet.frames[codes[:, 0]]
    assert (parts.sum(1) == 1).all() and parts.any(0).tolist() == [size > 1 for size in resnet.frame_sizes]
    np.testing.assert_array_equal(moved[:, 1:], codes[:, 1:])


def test_a_moved_depth_is_the_next_one_of_one_stage_and_the_blocks_before_stay(resnet, rng):
    gapped = replace(resnet, stages=tuple(replace(s, depths=(1, 2, 4)) for s in resnet.stages))
    pool, archs = pool_of(gapped, []), gapped.sample(rng, 200)
    codes = gapped.encode(archs)
    moved = _moved_depths(pool, codes, rng)
    np.testing.assert_array_equal(gapped.encode(gapped.decode(moved)), moved)
    new = set()
    for before, after, code, other in zip(archs, gapped.decode(moved), codes, moved):
        steps = [s.depths.index(b) - s.depths.index(a) for s, a, b in zip(gapped.stages, before.depth, after.depth)]
        assert sorted(map(abs, steps))[-2:] == [0, 1]
        both = (code > 0) & (other > 0)
        assert (code[both] == other[both]).all() and code[0] == other[0]
        new.update(other[(code == 0) & (other > 0)].tolist())
    assert new == set(range(1, 1 + max(len(s.choices(1)) for s in gapped.stages)))


def test_a_network_above_a_limit_is_offered_cheaper_ones_though_they_promise_less(space, rng, monkeypatch):
    """Here a change is worth twice what it costs, until the price rises."""
    pool = pool_of(space, [])
    codes = space.encode(space.sample(rng, 40))
    pool.judge(codes)
    pool.record()
    monkeypatch.setattr(pool, 'price', lambda caps: np.ones(len(caps)))
    axis = pool.problem.axis
    slopes, cost = 2 * axis.table[codes[:, 0]], axis(codes)
    dear = cost > np.median(cost)
    changed, fits = changes(pool, codes, np.where(dear, 0.97 * cost, 2 * cost), slopes, 8, 1e-9, rng)
    assert fits.any(1).all()
    rises = axis(changed.reshape(-1, codes.shape[1])).reshape(fits.shape) > cost[:, None]
    assert not rises[dear][fits[dear]].any() and rises[~dear][fits[~dear]].mean() > 0.9


@pytest.mark.parametrize('apart', [1.0, 0.0])
def test_networks_of_other_resolutions_take_the_place_of_one_only_after_a_share_of_the_steps(
        space, rng, monkeypatch, apart):
    monkeypatch.setattr('timm_ofa.searching.anneal.YIELDING', 1e9)
    pool, codes = pool_of(space, []), space.encode(space.sample(rng, 30))
    pool.judge(codes)
    pool.record()
    ends, _ = anneal(pool, codes, np.full(30, 1e9), 10, rng, apart=apart)
    assert (ends[:, 0] == codes[:, 0]).all() == (apart == 1.0)
    assert len(np.unique(ends, axis=0)) < 30  # some did


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
