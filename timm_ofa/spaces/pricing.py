"""Tables that price thousands of networks of a space at once.

Legend: N networks, F frames, P positions, C choices of a block and 0 for 'inactive', R resolutions.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from . import walk
from .rows import Row

if TYPE_CHECKING:
    from .space import SearchSpace


@dataclass(frozen=True)
class CostTable:
    """A cost that adds up in every network of a space: one constant for the frame, and one entry for each block.

    `const` has the shape (F,), `table` (F, P, C). C is 1 + the largest number of choices that a block has. Entry 0
    means 'inactive' and costs nothing.
    """
    const: np.ndarray
    table: np.ndarray

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """The costs (N,), in the unit of the table, of codes (N, 1 + P) as `SearchSpace.encode` gives them."""
        frame = codes[:, 0]
        blocks = self.table[frame[:, None], np.arange(self.table.shape[1]), codes[:, 1:]]
        return self.const[frame] + blocks.sum(1)

    def changes(self, codes: np.ndarray) -> np.ndarray:
        """What networks (N, 1 + P) would cost (N, P, C) if one block had each choice."""
        blocks = self.table[codes[:, 0]]
        return self(codes)[:, None, None] + (blocks - np.take_along_axis(blocks, codes[:, 1:, None], 2))


def tabulate(space: SearchSpace, price: Callable[[Row], float], num_classes: int,
             total: Callable[[Iterable[float]], float]) -> CostTable:
    resolution, stem, *widths = space.frames.T
    before = np.array([
        [total(map(price, walk.rows_before(space, r, s))) for s in space.stem_widths] for r in space.resolutions])
    after = np.array([
        [total(map(price, walk.rows_after(space, r, w, num_classes))) for w in space.stages[-1].widths]
        for r in space.resolutions])
    table = np.zeros((len(space.frames), len(space.positions), 1 + space.choice_counts.max()))
    block_inputs = [walk.inputs(space, 0).index(walk.block_input(space, s)) for s in space.stem_widths]
    for p, (i, j) in enumerate(space.positions):
        if j > 1 and not space.stages[i].blocks:  # the same as the second block of the stage
            table[:, p] = table[:, p - 1]
            continue
        inputs = (np.array(block_inputs)[stem], *widths)[i]
        prices = _block_prices(space, price, i, j)
        table[:, p, 1:1 + prices.shape[-1]] = prices[resolution, 0 if j else inputs, widths[i]]
    ends = before[resolution, stem], after[resolution, widths[-1]]
    return CostTable(np.array([total(pair) for pair in zip(*ends)]), table)


def _block_prices(space: SearchSpace, price: Callable[[Row], float], stage: int, index: int) -> np.ndarray:
    """Prices (R, inputs, widths, choices) of a block. Those of a later block do not depend on the stage's input."""
    s, inputs = space.stages[stage], walk.inputs(space, stage)
    return np.array([
        [[[price(walk.elastic_row(space, r, stage, index, i, w, k, e)) for k, e in s.choices(index)]
          for w in s.widths] for i in (inputs[:1] if index else inputs)] for r in space.resolutions], dtype=float)
