"""How much memory a network takes: its weights, and the most activations that are alive at one time, in float32.

The figure is computed for a simple executor. It runs one operation after the other, frees a tensor after its last use,
folds BatchNorm into the convolution before it, and does activations, gates and sums in place. A real runtime takes more
(its own code, work space of convolutions, packed copies of weights), but the figure tells which network needs more.

Legend: N networks, P positions, C codes a position, F frames.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..spaces import Arch, CostTable, Row, SearchSpace, Step

BYTES = 4  # of a float32
MB = 1e6  # bytes


def peak_memory_mb(space: SearchSpace, arch: Arch, batch_size: int = 1, num_classes: int | None = None) -> float:
    """Weights and live activations of a network, in MB (1e6 bytes), while it runs on `batch_size` images."""
    rows = space.rows(arch, num_classes)
    numbers = sum(map(row_weights, rows)) + batch_size * max(map(row_activations, rows))
    return BYTES * numbers / MB


@dataclass(frozen=True)
class MemoryTable:
    """`peak_memory_mb` of thousands of networks of a space at once: weights add up, the largest activations count.

    Both tables are in MB; the activations are those of the whole batch. See `CostTable`.
    """
    weights: CostTable
    activations: CostTable

    @classmethod
    def of(cls, space: SearchSpace, batch_size: int = 1, num_classes: int | None = None) -> MemoryTable:
        return cls(
            space.cost_table(lambda row: BYTES * row_weights(row) / MB, num_classes),
            space.cost_table(lambda row: BYTES * batch_size * row_activations(row) / MB, num_classes, total=max))

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """Codes (N, 1 + P) of networks, see `SearchSpace.encode` -> MB (N,)."""
        return self.weights(codes) + np.maximum(self.activations.const[codes[:, 0]], self._blocks(codes).max(1))

    def changes(self, codes: np.ndarray) -> np.ndarray:
        """The MB (N, P, C) that networks (N, 1 + P) would take if one block of them had each of its choices."""
        frame, row, blocks = codes[:, 0], np.arange(len(codes)), self._blocks(codes)
        largest = blocks.argmax(1)
        others = np.repeat(blocks.max(1, keepdims=True), blocks.shape[1], 1)
        blocks[row, largest] = 0
        others[row, largest] = blocks.max(1)
        others = np.maximum(others, self.activations.const[frame][:, None])
        return self.weights.changes(codes) + np.maximum(others[:, :, None], self.activations.table[frame])

    def _blocks(self, codes: np.ndarray) -> np.ndarray:
        """MB of the activations of each block (N, P)."""
        return self.activations.table[codes[:, :1], np.arange(codes.shape[1] - 1), codes[:, 1:]]


def row_weights(row: Row) -> int:
    """How many numbers the weights of a row have. A folded BatchNorm leaves one per channel, the convolution's bias."""
    return sum(step.weights + step.biases for step in row.all_steps)


def row_activations(row: Row) -> int:
    """The most numbers that are alive at one time in a row for one image, its input included."""
    before, after = row.in_chs * row.size**2, row.out_chs * row.out_size**2
    aside = before if row.skip or row.shortcut else 0  # for the sum at the end
    steps = [(step, aside if i else 0) for i, step in enumerate(row.steps)] + [(step, after) for step in row.shortcut]
    return max(_alive(step) + waits for step, waits in steps)


def _alive(step: Step) -> int:
    """The numbers that a step reads and writes."""
    before = step.in_chs * step.size**2
    if step.kind == 'flatten':
        return before
    return before + (step.in_chs + step.hidden if step.kind == 'se' else step.out_chs * step.out_size**2)
