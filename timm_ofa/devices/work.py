"""How much work a row or a network is: operators to start, multiply-accumulates, values to move, weights to fetch.

Legend: N networks, U units.
"""
from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..spaces import Arch, Row, SearchSpace, Step

GIGA = 1e9
UNITS = (  # of work on one image, each with a price of its own; 'values' are entries of feature maps
    'network', 'operator', 'squeeze-excite', 'shortcut', 'GMAC pointwise', 'GMAC dense', 'GMAC depthwise',
    'G values read', 'G values written', 'G values depthwise', 'G values depthwise, kernel above 3',
    'G values hard-swish', 'G weights')


class Operator(NamedTuple):
    """One step of a row, for one image."""
    kind: str  # 'pointwise', 'dense', 'depthwise', 'pool', 'squeeze-excite', 'shortcut'
    read: int  # values
    written: int  # values
    weights: int
    macs: int


def operators(row: Row) -> list[Operator]:
    """The steps of a row; BatchNorm and activation belong to their convolution."""
    found = [operator for step in row.all_steps for operator in _operators(step)]
    values = row.out_chs * row.out_size**2
    return [*found, *([Operator('shortcut', 2 * values, values, 0, 0)] if row.skip or row.shortcut else [])]


def _operators(step: Step) -> list[Operator]:
    read, written = step.in_chs * step.size**2, step.out_chs * step.out_size**2
    if step.kind in ('flatten', 'average'):  # views and small pools cost nothing of note
        return []
    if step.kind == 'se':
        return [Operator('squeeze-excite', 2 * read, read, step.weights, 0)]
    dense = 'depthwise' if step.groups > 1 else 'dense' if step.kernel_size > 1 else 'pointwise'
    return [Operator(dense if step.weights else 'pool', read, written, step.weights, step.macs)]


@lru_cache(maxsize=100_000)
def work(row: Row) -> tuple[float, ...]:
    """How much of each unit (U,) a row holds. The unit 'network' belongs to no row, and is 0."""
    steps = operators(row)
    macs = {kind: sum(s.macs for s in steps if s.kind == kind) for kind in ('pointwise', 'dense', 'depthwise')}
    depthwise = sum(s.read + s.written for s in steps if s.kind == 'depthwise')
    activated = sum(s.out_chs * s.out_size**2 for s in row.steps if s.kind == 'conv' and s.act in ('hs', 'sw'))
    special = [sum(s.kind == kind for s in steps) for kind in ('squeeze-excite', 'shortcut')]
    values = (*macs.values(), sum(s.read for s in steps), sum(s.written for s in steps), depthwise,
              depthwise * max(0, row.kernel_size - 3) / 2, activated, sum(s.weights for s in steps))
    return (0.0, len(steps) - sum(special), *special, *(value / GIGA for value in values))


def network_work(space: SearchSpace, archs: Iterable[Arch], num_classes: int | None = None) -> np.ndarray:
    """Archs -> how much of each unit they hold, (N, U). Raises `InputError` for an arch that is not in the space."""
    sums = [np.sum([work(row) for row in space.rows(space.check(arch), num_classes)], axis=0) for arch in archs]
    found = np.array(sums, dtype=float).reshape(-1, len(UNITS))
    found[:, 0] = 1
    return found
