"""A network as descriptive numbers, from which a predictor with few samples learns what matters.

Legend: N networks, P positions, D features of a group.
"""
from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..spaces import CostTable, SearchSpace


def feature_groups(space: SearchSpace, codes: np.ndarray) -> list[np.ndarray]:
    """Features of codes (N, 1 + P) in four groups (N, D): what each position chooses, the same as numbers, sums over
    each stage, and cost and resolution of the whole network."""
    active = codes[:, 1:] > 0
    numbers = np.zeros((2, *active.shape))  # kernel size, expand ratio
    for p in range(len(space.positions)):
        numbers[:, :, p] = np.array([(0, 0), *space.choices(p)], dtype=float)[codes[:, 1 + p]].T
    kernels, ratios = numbers
    options = [sorted({v for s in space.stages for v in getattr(s, n)}) for n in ('kernel_sizes', 'expand_ratios')]
    choices = [active, *(kernels == k for k in options[0]), *(ratios == e for e in options[1])]
    widths = _widths(space, codes)
    choices += [width[:, None] == options for width, options in widths]
    sums = []
    for stage in range(len(space.stages)):
        inside = [p for p, (s, _) in enumerate(space.positions) if s == stage]
        depth, kernel, ratio = (x[:, inside].sum(1) for x in (active, kernels, ratios))
        sums += [depth, np.log(depth), kernel, ratio, np.sqrt(ratio), np.log(ratio)]
    macs, params = (np.log(table(codes)) for table in _cost_tables(space))
    resolutions = np.log(np.array(space.resolutions, dtype=float))
    resolution = resolutions[space.frames[codes[:, 0], 0]]
    whole = [macs, macs**2, params, resolution]
    if widths:  # reduces the error for ResNet50D by a third
        whole.append((resolution - resolutions.mean()) ** 2)
    return [
        np.concatenate(choices, 1).astype(float),
        np.concatenate([active, kernels, ratios, *(np.log(width)[:, None] for width, _ in widths)], 1),
        np.stack(sums, 1), np.stack(whole, 1)]


def _widths(space: SearchSpace, codes: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Widths (N,) and their choices if they are elastic: channels of the stem's first and last convolution, how many
    convolutions the stem has, channels of each stage."""
    if not space.elastic_widths:
        return []
    _, stem, *widths = space.frames[codes[:, 0]].T
    tables = np.array([(s[0], s[-1], len(s)) for s in space.stem_widths], dtype=float).T
    found = [(table[stem], np.unique(table)) for table in tables]
    return [*found, *((np.array(s.widths)[width], np.array(s.widths)) for s, width in zip(space.stages, widths))]


@lru_cache(maxsize=16)
def _cost_tables(space: SearchSpace) -> tuple[CostTable, CostTable]:
    """MACs and parameters. They are kept, since a search asks for them hundreds of times."""
    return space.cost_table(lambda row: row.macs), space.cost_table(lambda row: row.params)
