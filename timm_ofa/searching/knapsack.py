"""The cheapest network of each frame, exact, because costs add up over the blocks of a frame.

Legend: P positions, C codes of a position (0: inactive), F frames. The active blocks of a stage are its first ones, as
many as one of its depths.
"""
from __future__ import annotations

import numpy as np

from ..devices import MemoryTable
from ..spaces import CostTable, SearchSpace


def stage_positions(space: SearchSpace) -> list[list[int]]:
    """For each stage, the indices of its positions."""
    return [[p for p, (stage, _) in enumerate(space.positions) if stage == s] for s in range(len(space.stages))]


def cheapest(space: SearchSpace, table: CostTable) -> tuple[np.ndarray, np.ndarray]:
    """The least cost in each frame: costs (F,), and the codes (F, 1 + P) of the networks that have them."""
    codes = np.zeros((len(table.const), 1 + len(space.positions)), dtype=np.int64)
    codes[:, 0] = np.arange(len(codes))
    known = np.where(np.arange(table.table.shape[2] - 1) < space.choice_counts[:, None], table.table[..., 1:], np.inf)
    for stage, positions in zip(space.stages, stage_positions(space)):
        blocks = known[:, positions]
        sums = blocks.min(2).cumsum(1)[:, np.array(stage.depths) - 1]
        depth = np.array(stage.depths)[sums.argmin(1)]
        for j, p in enumerate(positions):
            codes[:, 1 + p] = np.where(j < depth, 1 + blocks[:, j].argmin(1), 0)
    return table(codes), codes


def least_memory(space: SearchSpace, table: MemoryTable) -> tuple[np.ndarray, np.ndarray]:
    """The least memory in each frame, like `cheapest`: the lightest weights for every bound on the activations."""
    activations, weights = table.activations, table.weights
    apart = [p for p, (stage, index) in enumerate(space.positions) if index <= 1 or space.stages[stage].blocks]
    frames, const = len(weights.const), activations.const[:, None]
    bounds = np.maximum(np.concatenate([const, activations.table[:, apart].reshape(frames, -1)], 1), const)
    least, codes = np.full(frames, np.inf), np.zeros((frames, 1 + len(space.positions)), dtype=np.int64)
    for bound in np.unique(bounds, axis=1).T:
        fitting = np.where(activations.table <= bound[:, None, None], weights.table, np.inf)
        light, found = cheapest(space, CostTable(weights.const, fitting))
        memory = np.where(np.isfinite(light), table(found), np.inf)
        better = memory < least
        least[better], codes[better] = memory[better], found[better]
    return least, codes
