"""Annealing many networks at a time: each takes the best of a few changes, or at times a worse one, ever more rarely.

The slopes of the predictor at a network say what each change of a block promises; what some changes promise together is
the sum. The most promising ones, of one block or two and of up to four, are judged; the best of them is taken if it is
better, and if it is worse by chance, as Metropolis has it. Now and then a network gives way to a better one.
(Kirkpatrick, Gelatt and Vecchi 1983; here vectorized, under hard limits, with first-order slopes.)

Legend: N networks, P positions, C choices of a block, M moves, L limits, K moves judged.
"""
from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .pool import Pool

JUDGED = 4  # changes of each network judged a step, one of them of up to four blocks, the others of one or two
JUDGED_MOVED = 3  # and so many with a part of the frame moved as well, where widths vary
PROMISING = 16  # changes of one block whose pairs are looked at
PAIRED = 12  # moves of one block or two whose pairs are looked at
HOT, COLD = 0.2, 0.03  # points of accuracy: temperature at the beginning, at the end
GIVING_WAY = 10  # steps between two chances to become a better network, of another one drawn
YIELDING = 0.03  # that chance, a temperature below it
APART = 0.3  # share of the steps in which only networks of the same resolution are drawn for that
DEARER = 4  # times the price of cost while limits are broken
TINY = np.float32(1e-30)  # keeps logarithms finite
RECORDED = 5  # steps between two points of the history


def anneal(pool: Pool, codes: np.ndarray, caps: np.ndarray, steps: int, rng: np.random.Generator,
           hot: float = HOT, lenient: float = 1, apart: float = APART) -> np.ndarray:
    """Some steps of networks (N, 1 + P), each within its cap (N,) on the axis; all that is judged goes to the pool.

    At the temperature `hot` to begin with; a worse network is taken as at `lenient` times that; at 0 never.
    Returns the accuracies (N,) that they end with, in percent.
    """
    codes, row = codes.copy(), np.arange(len(codes))
    top1, slopes, resolution = pool.judge(codes), pool.slopes(codes), pool.problem.space.frames[:, 0]
    for step in range(steps):
        temperature = hot * (COLD / hot) ** (step / steps)
        changed, fits = _candidates(pool, codes, caps, slopes, temperature, rng)
        found = np.full(fits.shape, -np.inf)
        found[fits] = pool.judge(changed[fits])
        best = found.argmax(1)
        found, changed = found[row, best], changed[row, best]
        moves = found - top1 > lenient * temperature * np.log(rng.random(len(codes)) + TINY)
        codes[moves], top1[moves] = changed[moves], found[moves]
        if step % GIVING_WAY == GIVING_WAY - 1:
            other = rng.integers(0, len(codes), len(codes))
            yields = rng.random(len(codes)) < YIELDING * (top1[other] - top1) / temperature
            yields &= pool.problem.axis(codes[other]) <= caps
            if step < apart * steps:
                yields &= resolution[codes[other, 0]] == resolution[codes[:, 0]]
            codes[yields], top1[yields] = codes[other[yields]], top1[other[yields]]
            moves |= yields
        if moves.any():
            slopes[moves] = pool.slopes(codes[moves])
        if step % RECORDED == RECORDED - 1:
            pool.record()
    return top1


def _candidates(pool: Pool, codes: np.ndarray, caps: np.ndarray, slopes: np.ndarray, temperature: float,
                rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """What networks may become, as `changes`; where widths vary, also with one part of the frame moved."""
    changed, fits = changes(pool, codes, caps, slopes, JUDGED, temperature, rng)
    if len(pool.problem.parts) == 1:
        return changed, fits
    part = rng.choice(pool.problem.parts, len(codes))
    sizes = np.array(pool.problem.space.frame_sizes)[part]
    place = pool.problem.space.frames[codes[:, 0], part]
    moved = codes.copy()
    moved[:, 0] += ((place + rng.integers(1, np.maximum(sizes, 2))) % sizes - place) * pool.problem.strides[part]
    also, fit = changes(pool, moved, caps, pool.slopes(moved), JUDGED_MOVED, temperature, rng)
    alone = pool.problem.excess(moved, caps) <= 0
    return np.concatenate([changed, also, moved[:, None]], 1), np.concatenate([fits, fit, alone[:, None]], 1)


class _Moves(NamedTuple):
    """Moves (N, M) of N networks, each a change of some blocks."""
    changes: np.ndarray  # (N, M, B): of each block that changes, where its choice is in (P, C); one may be there twice
    rise: np.ndarray  # (N, M): points of accuracy that they promise; -inf: not a network
    blocks: np.ndarray  # (N, M): bits of the blocks; two moves of the same one exclude each other
    depths: np.ndarray  # (N, M): bits of the stages that they make deeper or less deep; likewise
    dearer: np.ndarray  # (N, M, L): of each limit

    def take(self, index: np.ndarray) -> _Moves:
        """Those at index (N, K)."""
        return _Moves(*(np.take_along_axis(a, index.reshape(index.shape + (1,) * (a.ndim - 2)), 1) for a in self))

    def pairs(self) -> _Moves:
        """Any two of them at once."""
        i, j = np.triu_indices(self.rise.shape[1], 1)
        apart = (self.blocks[:, i] & self.blocks[:, j] | self.depths[:, i] & self.depths[:, j]) == 0
        return _Moves(
            np.concatenate([self.changes[:, i], self.changes[:, j]], 2),
            np.where(apart, self.rise[:, i] + self.rise[:, j], -np.inf), self.blocks[:, i] | self.blocks[:, j],
            self.depths[:, i] | self.depths[:, j], self.dearer[:, i] + self.dearer[:, j])


def changes(pool: Pool, codes: np.ndarray, caps: np.ndarray, slopes: np.ndarray, n: int, temperature: float,
            rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Networks (N, K, 1 + P), K = n, that promise most, one of them with up to four blocks changed, the others with one
    or two; and which of them fit (N, K).

    Promises are shaken by noise of a temperature in points (Gumbel's: the larger, the more often, as Boltzmann has it).
    """
    problem, row = pool.problem, np.arange(len(codes))[:, None]
    choices = problem.axis.table.shape[2]
    rise = (slopes - np.take_along_axis(slopes, codes[:, 1:, None], 2)).reshape(len(codes), -1).astype(np.float32)
    limits = [(problem.axis, caps), *problem.others]
    dearer, room = [], []
    for table, maximum in limits:
        cost = table(codes)
        dearer.append((table.changes(codes) - cost[:, None, None]).reshape(len(codes), -1))
        room.append(maximum - cost)
    room = np.stack(room, 1)
    price = (pool.price(caps) * np.where((room < 0).any(1), DEARER, 1))[:, None]
    rise -= np.float32(temperature) * np.log(rng.standard_exponential(rise.shape, np.float32) + TINY)
    promise = np.where(_legal(pool, codes), rise - (price * dearer[0]).astype(np.float32), -np.inf)
    change = _largest(promise, PROMISING)
    position, choice = np.divmod(change, choices)
    switched = (choice > 0) != (codes[row, 1 + position] > 0)
    one = _Moves(
        change[..., None], np.where(np.isfinite(promise[row, change]), rise[row, change], -np.inf), _bits(position),
        np.where(switched, _bits(problem.stage[position]), 0), np.stack([costs[row, change] for costs in dearer], 2))
    two = one.pairs()
    few = _Moves(*(np.concatenate(both, 1) for both in zip(one._replace(changes=one.changes.repeat(2, 2)), two)))
    many = few.take(_largest(few.rise - price * few.dearer[..., 0], PAIRED)).pairs()
    made, fits = [], []
    for moves, count in ((few, n - 1), (many, 1)):
        within = np.where((moves.dearer <= room[:, None]).all(2), moves.rise, -np.inf)
        best = _largest(within, count)
        changed = np.repeat(codes[:, None], best.shape[1], 1)
        position, choice = np.divmod(moves.take(best).changes, choices)
        np.put_along_axis(changed, 1 + position, choice, 2)
        made.append(changed)
        fits.append(np.isfinite(within[row, best]))
    changed, fits = np.concatenate(made, 1), np.concatenate(fits, 1)
    if problem.others:  # of memory, what several changes take together was only estimated
        fits &= (problem.excess(changed.reshape(-1, codes.shape[1]), np.repeat(caps, changed.shape[1])) <= 0
                 ).reshape(fits.shape)
    return changed, fits


def _bits(index: np.ndarray) -> np.ndarray:
    """A bit for each index; from 63 on some share one, which excludes too much, never too little."""
    return np.int64(1) << index % 63


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
