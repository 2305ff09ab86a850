"""Annealing of many networks at the same time, under hard limits.

In each step, the slopes of the predictor at a network tell what each change of a block promises; several changes
together promise the sum. The most promising changes, of one or two blocks and of up to four, are judged. A network
takes the best of them if it is better, and sometimes if it is worse, ever more rarely (Metropolis' rule). Now and then
a network is replaced by a better one. (Kirkpatrick, Gelatt and Vecchi 1983; here with first-order slopes.)

Legend: N networks, P positions, C choices of a block, M moves, L limits, K moves judged.
"""
from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..devices import MemoryTable
from ..spaces import CostTable
from .limits import bound
from .pool import Pool

JUDGED = 4  # changes that are judged for each network and step: one of up to four blocks, the others of one or two
JUDGED_MOVED = 3  # if widths vary or depths have gaps: more changes, together with one of that kind
PROMISING = 16  # changes of one block that are combined to pairs
PAIRED = 12  # moves of one or two blocks that are combined to pairs
HOT, COLD = 0.2, 0.03  # temperature at the beginning and at the end, in points of accuracy
GIVING_WAY = 10  # steps between two chances to be replaced by another, better network, which is drawn at random
YIELDING = 0.03  # that chance, if the other network is better by one temperature
APART = 0.3  # for this share of the steps, only networks of the same resolution replace each other
DEARER = 4  # factor on the price of cost while a network is above a limit
TINY = np.float32(1e-30)  # makes logarithms finite
RECORDED = 5  # steps between two points of the history


def anneal(pool: Pool, codes: np.ndarray, caps: np.ndarray, steps: int, rng: np.random.Generator, hot: float = HOT,
           lenient: float = 1, apart: float = APART, judged: int = JUDGED, agreed: float = np.inf,
           ) -> tuple[np.ndarray, np.ndarray]:
    """Anneal networks (N, 1 + P), each within its cap (N,) on the axis. Everything that is judged goes to the pool.

    The temperature begins at `hot`. For taking a worse network, it is multiplied by `lenient`; 0: never take one.
    Annealing ends early when `agreed` of the networks under the highest cap have come to the best one independently.
    Returns the networks (N, 1 + P) at the end, and their accuracies (N,) in percent.
    """
    codes, row = codes.copy(), np.arange(len(codes))
    top1, slopes, resolution = pool.judge(codes), pool.slopes(codes), pool.problem.space.frames[:, 0]
    alone, reached, best_top1 = caps >= caps.max(), np.zeros(len(codes), dtype=bool), -np.inf
    for step in range(steps):
        temperature = hot * (COLD / hot) ** (step / steps)
        changed, fits = _candidates(pool, codes, caps, slopes, judged, temperature, rng)
        found = np.full(fits.shape, -np.inf)
        found[fits] = pool.judge(changed[fits])
        best = found.argmax(1)
        found, changed = found[row, best], changed[row, best]
        moves = found - top1 > lenient * temperature * np.log(rng.random(len(codes)) + TINY)
        codes[moves], top1[moves] = changed[moves], found[moves]
        if top1.max() > best_top1:
            best_top1, reached[:] = top1.max(), False
        reached |= moves & alone & (top1 == best_top1)
        if reached.sum() >= agreed:
            break
        if step % GIVING_WAY == GIVING_WAY - 1:
            other = rng.integers(0, len(codes), len(codes))
            yields = rng.random(len(codes)) < YIELDING * (top1[other] - top1) / temperature
            yields &= pool.problem.axis(codes[other]) <= caps
            if step < apart * steps:
                yields &= resolution[codes[other, 0]] == resolution[codes[:, 0]]
            codes[yields], top1[yields] = codes[other[yields]], top1[other[yields]]
            moves |= yields
            alone &= ~yields
        if moves.any():
            slopes[moves] = pool.slopes(codes[moves])
        if step % RECORDED == RECORDED - 1:
            pool.record()
    return codes, top1


def _candidates(pool: Pool, codes: np.ndarray, caps: np.ndarray, slopes: np.ndarray, judged: int, temperature: float,
                rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """What networks may become, as by `changes`; also with one change that `changes` cannot make, if there are such."""
    changed, fits = changes(pool, codes, caps, slopes, judged, temperature, rng)
    kinds = ([_moved_frames] if len(pool.problem.parts) > 1 else []) + ([_moved_depths] if pool.problem.gaps else [])
    if not kinds:
        return changed, fits
    moved = kinds[0](pool, codes, rng)
    if len(kinds) > 1:
        moved = np.where(rng.random((len(codes), 1)) < 0.5, moved, kinds[1](pool, codes, rng))
    also, fit = changes(pool, moved, caps, pool.slopes(moved), JUDGED_MOVED, temperature, rng)
    alone = pool.problem.excess(moved, caps) <= 0
    return np.concatenate([changed, also, moved[:, None]], 1), np.concatenate([fits, fit, alone[:, None]], 1)


def _moved_frames(pool: Pool, codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Networks (N, 1 + P) with another choice of one part of the frame."""
    part = rng.choice(pool.problem.parts, len(codes))
    sizes = np.array(pool.problem.space.frame_sizes)[part]
    place = pool.problem.space.frames[codes[:, 0], part]
    moved = codes.copy()
    moved[:, 0] += ((place + rng.integers(1, np.maximum(sizes, 2))) % sizes - place) * pool.problem.strides[part]
    return moved


def _moved_depths(pool: Pool, codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Networks (N, 1 + P) with the next depth of one stage whose depths have a gap; new blocks are random."""
    problem, moved = pool.problem, codes.copy()
    stage = rng.choice(problem.gaps, len(codes))
    for s in problem.gaps:
        rows, positions = np.flatnonzero(stage == s), 1 + np.flatnonzero(problem.stage == s)
        depths = np.array(problem.space.stages[s].depths)
        place = np.searchsorted(depths, (codes[rows][:, positions] > 0).sum(1))
        step = np.where(rng.random(len(rows)) < 0.5, 1, -1)
        step = np.where((place + step < 0) | (place + step >= len(depths)), -step, step)
        counts = problem.space.choice_counts[positions - 1]
        blocks = 1 + rng.integers(0, counts.max(), (len(rows), len(positions))) % counts
        blocks = np.where(codes[rows][:, positions] > 0, codes[rows][:, positions], blocks)
        active = np.arange(len(positions)) < depths[place + step][:, None]
        moved[np.ix_(rows, positions)] = np.where(active, blocks, 0)
    return moved


class _Moves(NamedTuple):
    """M moves of each of N networks. A move changes some blocks."""
    rise: np.ndarray  # (N, M): points of accuracy that a move promises; -inf: it gives no network
    parts: np.ndarray  # (N, M): a bit for each block and depth that changes; moves with a common bit exclude each other
    dearer: np.ndarray  # (N, L, M): how much the cost of each limit rises

    def pairs(self, single: bool) -> _Moves:
        """All pairs of moves (N, M·M). If `single`, the pair of a move with itself is that move alone."""
        size = self.rise.shape[1]
        rise, dearer = (a[..., :, None] + a[..., None, :] for a in (self.rise, self.dearer))
        one, other = self.parts[:, :, None], self.parts[:, None, :]
        np.copyto(rise, -np.inf, where=(one & other != 0) | np.tri(size, dtype=bool))
        if single:
            same = np.arange(size)
            rise[:, same, same], dearer[..., same, same] = self.rise, self.dearer
        return _Moves(*(a.reshape(*a.shape[:-2], size * size) for a in (rise, one | other, dearer)))


def changes(pool: Pool, codes: np.ndarray, caps: np.ndarray, slopes: np.ndarray, n: int, temperature: float,
            rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The K = n most promising networks (N, K, 1 + P), and which of them are within the limits (N, K).

    One of them has up to four blocks changed, the others one or two. Gumbel noise of `temperature` points is added to
    the promises, so that changes are drawn with the probabilities of Boltzmann.
    """
    problem, row = pool.problem, np.arange(len(codes))[:, None]
    choices = problem.axis.table.shape[2]
    rise = (slopes - np.take_along_axis(slopes, codes[:, 1:, None], 2)).reshape(len(codes), -1).astype(np.float32)
    limits: list[tuple[CostTable | MemoryTable, float | np.ndarray]] = [(problem.axis, caps), *problem.others]
    costs = [table(codes) for table, _ in limits]
    dearer = [(table.changes(codes) - cost[:, None, None]).reshape(len(codes), -1)
              for (table, _), cost in zip(limits, costs)]
    room = np.stack([bound(maximum) - cost for (_, maximum), cost in zip(limits, costs)], 1)
    price = (pool.price(caps) * np.where((room < 0).any(1), DEARER, 1))[:, None]
    rise -= np.float32(temperature) * np.log(rng.standard_exponential(rise.shape, np.float32) + TINY)
    promise = np.where(_legal(pool, codes), rise - (price * dearer[0]).astype(np.float32), -np.inf)
    change = _largest(promise, PROMISING)
    position, choice = np.divmod(change, choices)
    switched = (choice > 0) != (codes[row, 1 + position] > 0)
    one = _Moves(
        np.where(np.isfinite(promise[row, change]), rise[row, change], -np.inf),
        _bits(position) | np.where(switched, _bits(len(problem.stage) + problem.stage[position]), 0),
        np.stack([more[row, change] for more in dearer], 1))
    few = one.pairs(single=True)
    top = _largest(few.rise - price * few.dearer[:, 0], PAIRED)
    many = _Moves(few.rise[row, top], few.parts[row, top], np.take_along_axis(few.dearer, top[:, None], 2)).pairs(False)
    fits, moves = [], []
    for pairs, count in ((few, n - 1), (many, 1)):
        within = np.where((pairs.dearer <= room[:, :, None]).all(1), pairs.rise, -np.inf)
        moves.append(_largest(within, count))
        fits.append(np.isfinite(within[row, moves[-1]]))
    n = moves[0].shape[1] + 1  # a small space may have fewer than are wanted
    moved = np.concatenate([moves[0], *(top[row, k] for k in np.divmod(moves[1], top.shape[1]))], 1)  # (N, n + 1)
    changed = np.repeat(codes[:, None], n, 1)
    network = np.minimum(np.arange(n + 1), n - 1)  # the last two are of one network
    for which in np.divmod(moved, change.shape[1]):
        changed[row, network, 1 + position[row, which]] = choice[row, which]
    within_all = np.concatenate(fits, 1)
    if problem.others:  # for memory, the sum over several changes was only an estimate
        within_all &= (problem.excess(changed.reshape(-1, codes.shape[1]), np.repeat(caps, n)) <= 0).reshape(
            within_all.shape)
    return changed, within_all


def _bits(index: np.ndarray) -> np.ndarray:
    """A bit for each index. From 63 on, indices share bits: then too many moves exclude each other, never too few."""
    return np.int64(1) << index % 63


def _legal(pool: Pool, codes: np.ndarray) -> np.ndarray:
    """Whether the change of one block to each choice gives a network (N, P·C)."""
    problem = pool.problem
    depth = problem.depth(codes)[:, problem.stage]
    legal = problem.allowed[np.arange(len(problem.index)), depth]
    np.put_along_axis(legal, codes[:, 1:, None], False, 2)
    return legal.reshape(len(codes), -1)


def _largest(values: np.ndarray, n: int) -> np.ndarray:
    """Indices (N, n) of the n largest values of each row, in any order; all indices if a row has no more than n."""
    if n >= values.shape[1]:
        return np.tile(np.arange(values.shape[1]), (len(values), 1))
    return np.argpartition(-values, n, 1)[:, :n]
