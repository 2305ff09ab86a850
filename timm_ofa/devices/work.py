"""How much work a row or a network is: operators to start, multiply-accumulates, values to move, weights to fetch.

Legend: N networks, U units.
"""
from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..spaces import Arch, Row, SearchSpace

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
    size, out_size, mid = row.size, row.out_size, row.mid_chs

    def conv(kind: str, side: int, in_chs: int, out_side: int, out_chs: int, weights: int) -> Operator:
        return Operator(kind, in_chs * side**2, out_chs * out_side**2, weights, weights * out_side**2)

    def pointwise(side: int, in_chs: int, out_chs: int) -> Operator:
        return conv('pointwise', side, in_chs, side, out_chs, in_chs * out_chs)

    area = row.kernel_size**2
    shortcut = [Operator('shortcut', 2 * row.out_chs * out_size**2, row.out_chs * out_size**2, 0, 0)]
    if row.kind == 'pool':
        return [conv('pool', size, row.in_chs, out_size, row.out_chs, 0)]
    if row.kind in ('conv', 'res'):
        kind, weights = 'dense' if area > 1 else 'pointwise', row.in_chs * row.out_chs * area
        return [conv(kind, size, row.in_chs, out_size, row.out_chs, weights), *(shortcut if row.skip else [])]
    if row.kind == 'head':
        layers = [(row.in_chs, mid), (mid, row.out_chs)] if mid else [(row.in_chs, row.out_chs)]
        return [conv('pool', size, row.in_chs, 1, row.in_chs, 0), *(pointwise(1, *layer) for layer in layers)]
    if row.kind == 'bottle':
        first, middle = pointwise(size, row.in_chs, mid), conv('dense', size, mid, out_size, mid, area * mid**2)
        aside = [] if row.skip else [pointwise(out_size, row.in_chs, row.out_chs)]
        return [first, middle, pointwise(out_size, mid, row.out_chs), *aside, *shortcut]
    found = [pointwise(size, row.in_chs, mid)] if row.kind == 'ir' else []
    found.append(conv('depthwise', size, mid, out_size, mid, area * mid))
    if row.se_chs:
        values = mid * out_size**2
        found.append(Operator('squeeze-excite', 2 * values, values, 2 * mid * row.se_chs, 0))
    return [*found, pointwise(out_size, mid, row.out_chs), *(shortcut if row.skip else [])]


@lru_cache(maxsize=100_000)
def work(row: Row) -> tuple[float, ...]:
    """How much of each unit (U,) a row holds. The unit 'network' belongs to no row, and is 0."""
    steps, mid = operators(row), row.mid_chs
    macs = {kind: sum(s.macs for s in steps if s.kind == kind) for kind in ('pointwise', 'dense', 'depthwise')}
    depthwise = sum(s.read + s.written for s in steps if s.kind == 'depthwise')
    inner = mid * (row.out_size**2 + (row.size**2 if row.kind in ('ir', 'bottle') else 0))
    activated = (inner or row.out_chs * row.out_size**2) if row.act == 'hs' else 0
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
