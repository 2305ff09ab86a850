"""Archs as rows of integers, which search and predictors compute with.

A code row has 1 + P entries: the index of the frame, then one entry for each position: 0 if its block is inactive,
else 1 plus the index of the block's choice (`SearchSpace.choices`).
"""
from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError, listed
from .arch import Arch

if TYPE_CHECKING:
    from .space import SearchSpace


def encode_archs(space: SearchSpace, archs: Iterable[Arch]) -> np.ndarray:
    archs = list(archs)
    resolution_code = {r: i for i, r in enumerate(space.resolutions)}
    block_codes = [{choice: c for c, choice in enumerate(space.choices(p), 1)} for p in range(len(space.positions))]
    codes = np.zeros((len(archs), 1 + len(space.positions)), dtype=np.int64)
    for n, arch in enumerate(archs):
        space.check(arch)
        if arch.resolution not in resolution_code:
            raise InputError(
                f'resolution {arch.resolution} is outside what {space.name} searches: {listed(space.resolutions)}')
        stem, widths = space.widths(arch)
        codes[n, 0] = np.ravel_multi_index(
            (resolution_code[arch.resolution], space.stem_widths.index(stem),
             *(s.widths.index(width) for s, width in zip(space.stages, widths))), space.frame_sizes)
        for p, (i, j) in enumerate(space.positions, 1):
            if j < len(arch.kernel_size[i]):
                codes[n, p] = block_codes[p - 1][arch.kernel_size[i][j], arch.expand_ratio[i][j]]
    return codes


def decode_archs(space: SearchSpace, codes: np.ndarray) -> list[Arch]:
    choices = [[(0, 0.0), *space.choices(p)] for p in range(len(space.positions))]
    archs = []
    for row in np.asarray(codes).tolist():
        stages: list[list[tuple[int, float]]] = [[] for _ in space.stages]
        for p, (code, (i, _)) in enumerate(zip(row[1:], space.positions)):
            if code:
                stages[i].append(choices[p][code])
        resolution, stem, *widths = (int(i) for i in np.unravel_index(row[0], space.frame_sizes))
        archs.append(Arch(
            space.resolutions[resolution],
            tuple(tuple(k for k, _ in stage) for stage in stages),
            tuple(tuple(e for _, e in stage) for stage in stages),
            *space.width_fields(space.stem_widths[stem], [s.widths[w] for s, w in zip(space.stages, widths)])))
    return archs
