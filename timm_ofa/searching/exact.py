"""Searches that prove their result.

If a space has few networks, all are judged. If accuracy is a sum over the frame and the blocks, dynamic programming
finds the front.

Legend: N networks, P positions, F frames, S stages, C codes of a position, A choices of a part of a frame, L labels. A
label is a network up to a position, with its cost and value.
"""
from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from ..spaces import CostTable, SearchSpace
from .limits import TOLERANCE, within
from .problem import Problem, leading

FEW = 20_000  # up to so many networks, all are judged
MAX_FRAMES = 100  # up to so many frames, each is solved for itself if it must be
MAX_LABELS = 1_000_000  # with more labels, it is given up


def every_network(space: SearchSpace) -> np.ndarray:
    """The codes (N, 1 + P) of all networks of a space."""
    stages = []
    for stage in space.stages:
        deepest = stage.depths[-1]
        choices = [range(1, 1 + len(stage.choices(j))) for j in range(deepest)]
        stages.append([
            (*blocks, *[0] * (deepest - depth))
            for depth in stage.depths for blocks in itertools.product(*choices[:depth])])
    blocks = np.array([sum(parts, ()) for parts in itertools.product(*stages)])
    frames = np.repeat(np.arange(len(space.frames)), len(blocks))
    return np.column_stack([frames, np.tile(blocks, (len(space.frames), 1))])


class _Labels(NamedTuple):
    """Networks up to a position, with the choices that they have made."""
    cost: np.ndarray  # (L,)
    value: np.ndarray  # (L,), percent
    codes: np.ndarray  # (L, P), of the blocks
    parts: np.ndarray  # (L, 1 + S), of the frame: the stem, and the width of each stage


class _TooManyError(Exception):
    """There are too many labels."""


def best_sums(problem: Problem, accuracy: CostTable) -> tuple[np.ndarray, np.ndarray] | None:
    """The whole front, exact, if accuracy is additive and only the axis is limited.

    Blocks are added one by one. A label that is neither cheaper nor better than another one with the same last width
    cannot lead to a network of the front, whatever follows, and is dropped (Nemhauser and Ullmann 1969).

    Returns codes (N, 1 + P) and accuracies (N,) in percent, the cheapest network first; None if there are too many
    labels, or other limits, or many frames whose costs or accuracies are no sums over stem and widths.
    """
    if problem.others:
        return None
    frames = np.arange(len(problem.space.frames)).reshape(problem.space.frame_sizes)
    groups = list(frames)  # of each resolution
    if not all(_Sums.of(table, problem, group) for table in (problem.axis, accuracy) for group in groups):
        if frames.size > MAX_FRAMES:
            return None
        groups = list(frames.reshape(-1, *[1] * (frames.ndim - 1)))
    try:
        found = [_front_of_frames(problem, accuracy, group) for group in groups]
    except _TooManyError:
        return None
    cost, value = (np.concatenate([labels[i] for labels in found]) for i in range(2))
    codes = np.concatenate([
        np.column_stack([group[tuple(labels.parts.T)], labels.codes]) for group, labels in zip(groups, found)])
    kept = leading(cost, value)
    return codes[kept], value[kept]


class _Sums(NamedTuple):
    """A table over the frames of a group (A0, ..., AS) as sums: a constant for each part, and blocks."""
    const: float
    parts: list[np.ndarray]  # for each part (A,), from 0 on
    blocks: list[np.ndarray]  # for each stage (input parts A, own widths A, positions, C)

    @classmethod
    def of(cls, table: CostTable, problem: Problem, frames: np.ndarray) -> _Sums | None:
        """The sums; None if the constant of a frame is none, or a block depends on more than the widths around it."""
        const, base = table.const[frames], (0,) * frames.ndim
        parts, blocks, total = [], [], np.full(frames.shape, const[base])
        for part in range(frames.ndim):
            line = const[tuple(slice(None) if i == part else 0 for i in range(frames.ndim))] - const[base]
            parts.append(line - line.min())
            total = total + line.reshape([-1 if i == part else 1 for i in range(frames.ndim)])
        for stage in range(frames.ndim - 1):
            whole = table.table[frames][..., problem.stage == stage, :]
            around = tuple(slice(None) if i in (stage, stage + 1) else slice(1) for i in range(frames.ndim))
            if not np.array_equal(whole, np.broadcast_to(whole[around], whole.shape)):
                return None
            blocks.append(whole[around].reshape(*frames.shape[stage:stage + 2], *whole.shape[-2:]))
        scale = np.abs(const).max()
        return cls(total.min(), parts, blocks) if np.abs(total - const).max() <= TOLERANCE * scale else None


def _front_of_frames(problem: Problem, accuracy: CostTable, frames: np.ndarray) -> _Labels:
    """The front of a group of frames (A0, ..., AS) whose tables are sums."""
    costs, values = _Sums.of(problem.axis, problem, frames), _Sums.of(accuracy, problem, frames)
    assert costs and values
    labels = {}  # for each choice of the last part
    for choice in range(len(frames)):
        parts = np.zeros((1, frames.ndim), dtype=np.int16)
        parts[0, 0] = choice
        labels[choice] = _Labels(
            np.array([costs.const + costs.parts[0][choice]]), np.array([values.const + values.parts[0][choice]]),
            np.zeros((1, len(problem.index)), dtype=np.int8), parts)
    for stage in range(frames.ndim - 1):
        following = {}
        for width in range(frames.shape[stage + 1]):
            more, worth = costs.parts[stage + 1][width], values.parts[stage + 1][width]
            ends = []
            for choice, each in labels.items():
                parts = each.parts.copy()
                parts[:, stage + 1] = width
                ends += _ends_of_stage(problem, stage, _Labels(each.cost + more, each.value + worth, each.codes, parts),
                                       costs.blocks[stage][choice, width], values.blocks[stage][choice, width])
            following[width] = _best_of(ends)
        labels = following
    return _best_of(list(labels.values()))


def _ends_of_stage(problem: Problem, stage: int, labels: _Labels, costs: np.ndarray, values: np.ndarray,
                   ) -> list[_Labels]:
    """Labels with the blocks of a stage, for each of its depths; prices of the blocks are (positions, C)."""
    ends = []
    for j, p in enumerate(np.flatnonzero(problem.stage == stage)):
        choices = slice(1, 1 + problem.space.choice_counts[p])
        more, worth = costs[j, choices], values[j, choices]
        cost, value = ((a[:, None] + b).ravel() for a, b in ((labels.cost, more), (labels.value, worth)))
        kept = leading(cost, value)
        kept = kept[within(cost[kept], problem.top)]
        if len(kept) > MAX_LABELS:
            raise _TooManyError
        label, choice = np.divmod(kept, len(more))
        codes = labels.codes[label]
        codes[:, p] = 1 + choice
        labels = _Labels(cost[kept], value[kept], codes, labels.parts[label])
        if j + 1 in problem.space.stages[stage].depths:
            ends.append(labels)
    return ends


def _best_of(labels: list[_Labels]) -> _Labels:
    """The front of all labels together."""
    cost, value, codes, parts = (np.concatenate(arrays) for arrays in zip(*labels))
    kept = leading(cost, value)
    return _Labels(cost[kept], value[kept], codes[kept], parts[kept])
