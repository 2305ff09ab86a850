"""Searches that prove their result.

If a space has few networks, all are judged. If accuracy is a sum over the frame and the blocks, dynamic programming
finds the front.

Legend: N networks, P positions, F frames, L labels. A label is a network up to a position, with its cost and value.
"""
from __future__ import annotations

import itertools
import math

import numpy as np

from ..spaces import CostTable, SearchSpace
from .problem import Problem

FEW = 20_000  # up to so many networks, all are judged
MAX_FRAMES = 100  # up to so many frames, dynamic programming is used
MAX_LABELS = 1_000_000  # with more labels, it is given up


def count(space: SearchSpace) -> int:
    """The number of networks of a space; each resolution counts."""
    return space.size() * len(space.resolutions)


def every_network(space: SearchSpace) -> np.ndarray:
    """The codes (N, 1 + P) of all networks of a space."""
    stages = []
    for s, stage in enumerate(space.stages):
        choices, deepest = range(1, 1 + len(space.choices(s))), stage.depths[-1]
        stages.append([
            (*blocks, *[0] * (deepest - depth))
            for depth in stage.depths for blocks in itertools.product(choices, repeat=depth)])
    blocks = np.array([sum(parts, ()) for parts in itertools.product(*stages)])
    frames = np.repeat(np.arange(len(space.frames)), len(blocks))
    return np.column_stack([frames, np.tile(blocks, (len(space.frames), 1))])


def best_sums(problem: Problem, accuracy: CostTable) -> tuple[np.ndarray, np.ndarray] | None:
    """The whole front, exact, if accuracy is additive and only the axis is limited.

    In each frame, blocks are added one by one. A label that is neither cheaper nor better than another one cannot lead
    to a network of the front, whatever follows, and is dropped (Nemhauser and Ullmann 1969).

    Returns codes (N, 1 + P) and accuracies (N,) in percent, the cheapest network first; None if there are too many
    labels or frames, or other limits.
    """
    if problem.others or len(problem.space.frames) > MAX_FRAMES:
        return None
    found = []
    for frame in range(len(problem.space.frames)):
        labels = _front_of_frame(problem, accuracy, frame)
        if labels is None:
            return None
        found.append(labels)
    cost, value = (np.concatenate([labels[i] for labels in found]) for i in range(2))
    codes = np.concatenate([np.column_stack([np.full(len(labels[2]), f), labels[2]]) for f, labels in enumerate(found)])
    kept = _leading(cost, value)
    return codes[kept], value[kept]


def _front_of_frame(
        problem: Problem, accuracy: CostTable, frame: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Costs (L,), values (L,) and block codes (L, P) of the front of one frame; None if there are too many labels."""
    positions, top = len(problem.index), problem.top
    cost, value = problem.axis.const[frame:frame + 1], accuracy.const[frame:frame + 1]
    codes = np.zeros((1, positions), dtype=np.int8)
    for s, stage in enumerate(problem.space.stages):
        open_, closed = (cost, value, codes), []
        for j, p in enumerate(np.flatnonzero(problem.stage == s)):
            choices = slice(1, 1 + len(problem.space.choices(s)))
            more, worth = (table.table[frame, p, choices] for table in (problem.axis, accuracy))
            cost, value = ((a[:, None] + b).ravel() for a, b in zip(open_, (more, worth)))
            kept = _leading(cost, value)
            kept = kept[cost[kept] <= top]
            if len(kept) > MAX_LABELS:
                return None
            label, choice = np.divmod(kept, len(more))
            codes = open_[2][label]
            codes[:, p] = 1 + choice
            open_ = cost[kept], value[kept], codes
            if j + 1 in stage.depths:
                closed.append(open_)
        cost, value = (np.concatenate([labels[i] for labels in closed]) for i in range(2))
        kept = _leading(cost, value)
        cost, value, codes = cost[kept], value[kept], np.concatenate([labels[2] for labels in closed])[kept]
    return cost, value, codes


def _leading(cost: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Indices of the front, the cheapest first: of entries that have a higher value than all that cost no more."""
    order = np.lexsort((-value, cost))
    best = np.maximum.accumulate(value[order])
    return order[value[order] > np.r_[-math.inf, best[:-1]]]
