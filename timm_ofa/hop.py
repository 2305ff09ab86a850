"""Basin hopping: many networks at a time climb to the nearest peak of accuracy, jump off, and climb again.

The slopes of the predictor at a network say what each change of a block promises; what two changes promise together is
the sum. A climbing network has the most promising changes judged and takes the best; where none is better it is on a
peak, goes back to its home if that is higher (now and then also if not, Metropolis), and jumps: some pairs of changes
are drawn, promising or not. Homes move to better networks of others. (Wales and Doye 1997; here vectorized, under
hard limits, with first-order slopes.)

Legend: N networks, P positions, C choices of a block, M most promising changes, K judged of them.
"""
from __future__ import annotations

import numpy as np

from .pool import Pool

JUDGED = 8  # changes of each network, of one block or of two, judged a step
JUDGED_MOVED = 4  # and so many with a part of the frame moved as well, where widths vary
PROMISING = 24  # changes of one block whose pairs are looked at
JUMPS = 2  # pairs of changes drawn when a network leaves a peak
HOT, COLD = 0.3, 0.02  # points of accuracy by which promises are shaken: to jump, to climb
LENIENT = 0.03  # points of accuracy, temperature for moving home to a lower peak
JOINING = 0.3  # chance to move home to a better network, of another one drawn
APART = 0.7  # share of the steps in which they only move to homes of the same resolution
FRAMED = 0.3  # chance that a jump changes a part of the frame, where widths vary
RESIZED = 0.05  # chance that it changes the resolution, where nothing else of the frame varies
RESTAGED = 0.1  # chance that it draws a whole stage anew
DEARER = 4  # times the price of cost while limits are broken
TINY = np.float32(1e-30)  # keeps logarithms finite
RECORDED = 5  # steps between two points of the history


def hop(pool: Pool, codes: np.ndarray, caps: np.ndarray, steps: int, rng: np.random.Generator) -> None:
    """Some steps of networks (N, 1 + P), each within its cap (N,) on the axis; all that is judged goes to the pool."""
    codes, homes = codes.copy(), codes.copy()
    top1 = pool.judge(codes)
    home_top1, home_cost = top1.copy(), pool.problem.axis(codes)
    jumps = np.zeros(len(codes), dtype=np.int64)  # still to do
    resolution = pool.problem.space.frames[:, 0]
    for step in range(steps):
        jumping, climbing = np.flatnonzero(jumps > 0), np.flatnonzero(jumps == 0)
        slopes = pool.slopes(codes)
        if jumping.size:
            changed, fits = changes(pool, codes[jumping], caps[jumping], slopes[jumping], 1, HOT, rng)
            codes[jumping] = np.where(fits, changed[:, 0], codes[jumping])
            top1[jumping] = -np.inf
            jumps[jumping] -= 1
        if climbing.size:
            changed, fits = _candidates(pool, codes[climbing], caps[climbing], slopes[climbing], rng)
            fits[np.isinf(top1[climbing]), JUDGED // 2:] = False  # right behind a jump fewer will do
            found = np.full(fits.shape, -np.inf)
            found[fits] = pool.judge(changed[fits])
            best = found.argmax(1)
            found = found[np.arange(len(best)), best]
            better = found > top1[climbing]
            up, peaks = climbing[better], climbing[~better]
            codes[up], top1[up] = changed[better, best[better]], found[better]
            moves = peaks[rng.random(len(peaks)) < np.exp(np.minimum((top1[peaks] - home_top1[peaks]) / LENIENT, 0))]
            homes[moves], home_top1[moves] = codes[moves], top1[moves]
            home_cost[moves] = pool.problem.axis(codes[moves])
            other = rng.integers(0, len(codes), len(peaks))
            joins = (home_top1[other] > home_top1[peaks]) & (home_cost[other] <= caps[peaks])
            joins &= rng.random(len(peaks)) < JOINING
            if step < APART * steps:
                joins &= resolution[homes[other, 0]] == resolution[homes[peaks, 0]]
            for array in (homes, home_top1, home_cost):
                array[peaks[joins]] = array[other[joins]]
            codes[peaks], top1[peaks], jumps[peaks] = homes[peaks], home_top1[peaks], JUMPS
            codes[peaks] = _leapt(pool, codes[peaks], rng)
        if step % RECORDED == RECORDED - 1:
            pool.record()


def _candidates(pool: Pool, codes: np.ndarray, caps: np.ndarray, slopes: np.ndarray, rng: np.random.Generator,
                ) -> tuple[np.ndarray, np.ndarray]:
    """What climbing networks may become, as `changes`; where widths vary, also with one part of the frame moved."""
    changed, fits = changes(pool, codes, caps, slopes, JUDGED, COLD, rng)
    if len(pool.problem.parts) == 1:
        return changed, fits
    part = rng.choice(pool.problem.parts, len(codes))
    sizes = np.array(pool.problem.space.frame_sizes)[part]
    place = pool.problem.space.frames[codes[:, 0], part]
    step = rng.choice((-1, 1), len(codes))
    moved = codes.copy()
    moved[:, 0] += ((place + step).clip(0, sizes - 1) - place) * pool.problem.strides[part]
    also, fit = changes(pool, moved, caps, pool.slopes(moved), JUDGED_MOVED, COLD, rng)
    alone = pool.problem.excess(moved, caps) <= 0
    return np.concatenate([changed, also, moved[:, None]], 1), np.concatenate([fits, fit, alone[:, None]], 1)


def changes(pool: Pool, codes: np.ndarray, caps: np.ndarray, slopes: np.ndarray, n: int, temperature: float,
            rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Networks (N, K, 1 + P), K = n, with one or two blocks changed, those that promise most; and which fit (N, K).

    Promises are shaken by noise of a temperature in points (Gumbel's: the larger, the more often, as Boltzmann has it).
    """
    problem, row = pool.problem, np.arange(len(codes))[:, None]
    choices = problem.axis.table.shape[2]
    rise = (slopes - np.take_along_axis(slopes, codes[:, 1:, None], 2)).reshape(len(codes), -1).astype(np.float32)
    limits = [(problem.axis, caps), *problem.others]
    dearer, slack = [], []
    for table, maximum in limits:
        cost = table(codes)
        dearer.append((table.changes(codes) - cost[:, None, None]).reshape(len(codes), -1))
        slack.append(maximum - cost)
    broken = np.any([room < 0 for room in slack], 0)
    price = pool.price(caps) * np.where(broken, DEARER, 1)
    rise -= np.float32(temperature) * np.log(rng.standard_exponential(rise.shape, np.float32) + TINY)
    promise = np.where(_legal(pool, codes), rise - (price[:, None] * dearer[0]).astype(np.float32), -np.inf)
    change = _largest(promise, PROMISING)
    position, choice = np.divmod(change, choices)
    legal, one = np.isfinite(promise[row, change]), rise[row, change]
    switched = (choice > 0) != (codes[row, 1 + position] > 0)
    stage = problem.stage[position]
    fits = legal[:, :, None] & legal[:, None] & (position[:, :, None] < position[:, None])
    fits &= ~(switched[:, :, None] & switched[:, None] & (stage[:, :, None] == stage[:, None]))  # none after a gap
    fits |= legal[:, :, None] & np.eye(change.shape[1], dtype=bool)  # a change by itself
    alone = 1 - np.eye(change.shape[1], dtype=np.float32) / 2  # it counts once
    for costs, room in zip(dearer, slack):
        fits &= _both(costs[row, change]) * alone <= room[:, None, None]
    both = np.where(fits, _both(one) * alone, -np.inf).reshape(len(codes), -1)
    taken = _largest(both, n)
    n = taken.shape[1]
    changed = np.repeat(codes[:, None], n, 1)
    for which in np.divmod(taken, change.shape[1]):
        changed[row, np.arange(n), 1 + position[row, which]] = choice[row, which]
    fits = np.isfinite(both[row, taken])
    if problem.others:  # of memory, pairs were only estimated
        fits &= (problem.excess(changed.reshape(-1, codes.shape[1]), np.repeat(caps, n)) <= 0).reshape(fits.shape)
    return changed, fits


def _both(single: np.ndarray) -> np.ndarray:
    """(N, M) -> sums (N, M, M)."""
    return single[:, :, None] + single[:, None]


def _legal(pool: Pool, codes: np.ndarray) -> np.ndarray:
    """Which changes (N, P·C) of one block give a network."""
    problem = pool.problem
    depth = problem.depth(codes)[:, problem.stage]
    legal = problem.allowed[np.arange(len(problem.index)), depth]
    np.put_along_axis(legal, codes[:, 1:, None], False, 2)
    return legal.reshape(len(codes), -1)


def _largest(values: np.ndarray, n: int) -> np.ndarray:
    """Indices (N, n) of the n largest values of each row, in any order; of all where there are no more."""
    if n >= values.shape[1]:
        return np.tile(np.arange(values.shape[1]), (len(values), 1))
    return np.argpartition(-values, n, 1)[:, :n]


def _leapt(pool: Pool, codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The codes, in a share of which is drawn anew what changes of blocks hardly reach: a part of the frame, and the
    depth and the blocks of a stage. What breaks the limits by that is mended on the way up."""
    problem, codes = pool.problem, codes.copy()
    share = FRAMED / len(problem.parts) if len(problem.parts) > 1 else RESIZED
    for part in problem.parts:
        chosen = np.flatnonzero(rng.random(len(codes)) < share)
        frames = problem.moved_frames(codes[chosen], part)
        codes[chosen, 0] = frames[np.arange(len(chosen)), rng.integers(0, frames.shape[1], len(chosen))]
    for s, stage in enumerate(problem.space.stages):
        chosen = np.flatnonzero(rng.random(len(codes)) < RESTAGED / len(problem.space.stages))[:, None]
        positions = np.flatnonzero(problem.stage == s)
        depth = rng.choice(stage.depths, (len(chosen), 1))
        new = rng.integers(1, 1 + len(problem.space.choices(s)), (len(chosen), len(positions)))
        codes[chosen, 1 + positions] = np.where(np.arange(len(positions)) < depth, new, 0)
    return codes
