"""Exact optima where costs are additive: the cheapest network, and the best one for every budget.

Legend: P positions, C codes a position (0: inactive), F frames, Q problems, B budget bins. A stage is active from its
first position up to one of its depths. Costs add up within a frame.
"""
from __future__ import annotations

import numpy as np

from .space import CostTable, SearchSpace


def stage_positions(space: SearchSpace) -> list[list[int]]:
    """Indices of the positions of each stage."""
    return [[p for p, (stage, _) in enumerate(space.positions) if stage == s] for s in range(len(space.stages))]


def cheapest(space: SearchSpace, table: CostTable) -> tuple[np.ndarray, np.ndarray]:
    """The least cost in each frame, exact: costs (F,) and the codes (F, 1 + P) that reach them."""
    codes = np.zeros((len(table.const), 1 + len(space.positions)), dtype=np.int64)
    codes[:, 0] = np.arange(len(codes))
    for stage, positions in zip(space.stages, stage_positions(space)):
        choices = 1 + len(stage.kernel_sizes) * len(stage.expand_ratios)
        blocks = table.table[:, positions, 1:choices]
        sums = blocks.min(2).cumsum(1)[:, np.array(stage.depths) - 1]
        depth = np.array(stage.depths)[sums.argmin(1)]
        for j, p in enumerate(positions):
            codes[:, 1 + p] = np.where(j < depth, 1 + blocks[:, j].argmin(1), 0)
    return table(codes), codes


def best_by_budget(
        space: SearchSpace, value: np.ndarray, weight: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """The network of the highest value for each budget 0 .. bins - 1.

    Args:
        space: Gives depths and choices; its frames play no part.
        value: (Q, P, C), one table a problem.
        weight: (P, C) whole numbers >= 0, the cost in bins, the same for all problems.
        bins: B.

    Returns:
        Block codes (Q, B, P) and values (Q, B); -inf where no network fits.
    """
    problems = len(value)
    best = np.zeros((problems, bins))
    picks = np.zeros((value.shape[1], problems, bins), dtype=np.int8)
    depths = np.zeros((len(space.stages), problems, bins), dtype=np.int8)
    for s, (stage, positions) in enumerate(zip(space.stages, stage_positions(space))):
        idle = value[:, positions, 0][:, ::-1].cumsum(1)[:, ::-1]  # (Q, j): positions j and later are inactive
        reach, best = best, np.full((problems, bins), -np.inf)
        for j, p in enumerate(positions):
            reach = _extend(reach, value[:, p], weight[p], len(space.choices(s)), picks[p])
            if j + 1 in stage.depths:
                total = reach + idle[:, j + 1, None] if j + 1 < len(positions) else reach
                better = total > best
                np.copyto(best, total, where=better)
                depths[s][better] = j + 1
    return _walk_back(space, picks, depths, weight), best


def _extend(reach: np.ndarray, value: np.ndarray, weight: np.ndarray, choices: int, picks: np.ndarray) -> np.ndarray:
    """One more active block: values (Q, B) so far -> values with it; its choice goes to `picks` (Q, B)."""
    bins = reach.shape[1]
    extended = np.full_like(reach, -np.inf)
    for c in range(1, 1 + choices):
        used = int(weight[c])
        if used < bins:
            total = reach[:, :bins - used] + value[:, c, None]
            better = total > extended[:, used:]
            np.copyto(extended[:, used:], total, where=better)
            picks[:, used:][better] = c
    return extended


def _walk_back(space: SearchSpace, picks: np.ndarray, depths: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The choices (Q, B, P) behind the last values."""
    positions, problems, bins = picks.shape
    codes = np.zeros((problems, bins, positions), dtype=np.int64)
    budget = np.tile(np.arange(bins), (problems, 1))
    rows = np.arange(problems)[:, None]
    for s, stage in reversed(list(enumerate(stage_positions(space)))):
        depth = depths[s][rows, budget]
        for j, p in reversed(list(enumerate(stage))):
            codes[..., p] = np.where(j < depth, picks[p][rows, budget], 0)
            budget = np.maximum(budget - weight[p][codes[..., p]], 0)
    return codes
