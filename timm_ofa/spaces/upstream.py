"""Archs of the original code: dictionaries with an entry for every position, active or not."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import InputError, listed
from .arch import Arch, is_whole
from .shelf import load_space, space_names
from .space import SearchSpace


def read_upstream(space: SearchSpace, data: Mapping[str, Any]) -> Arch:
    """See `SearchSpace.from_upstream`."""
    if space.name in space_names() and space.stages != load_space(space.name).stages:  # positions of the whole space
        return space.check(load_space(space.name).from_upstream(data))
    _check_keys(space, data)
    resolution = data.get('r', data.get('image_size', max(space.resolutions)))
    if isinstance(resolution, (list, tuple)) and len(resolution) == 1:
        resolution = resolution[0]

    def spread(key: str, n: int) -> list[Any]:
        value = data[key]
        value = list(value) if isinstance(value, (list, tuple)) else [value] * n
        if len(value) != n:
            raise InputError(f'upstream {key!r} has {len(value)} entries; {space.name} needs {n}')
        return value

    slots = [max(s.depths) for s in space.stages]
    ratios = spread('e', sum(slots))
    widths: tuple[tuple[int, ...], tuple[int, ...]] = (), ()
    if space.elastic_widths:
        stem_depth, *depths = spread('d', 1 + len(slots))
        widths = _widths(space, spread('w', 2 + len(slots)), keeps_residual=stem_depth == 2)
        depths = [d + s.depths[0] if is_whole(d) else d for d, s in zip(depths, space.stages)]
        kernels = [s.kernel_sizes[0] for s in space.stages for _ in range(max(s.depths))]
    else:
        depths, kernels = spread('d', len(slots)), spread('ks', sum(slots))
    for depth, stage in zip(depths, space.stages):
        if not is_whole(depth) or depth not in stage.depths:
            raise InputError(f"upstream 'd' {data['d']!r:.40} is not a depth of {space.name}: "
                             f'{depth!r:.40} blocks, choose from {listed(stage.depths)}')
    starts = np.cumsum([0, *slots]).tolist()
    return space.check(Arch.from_dict({
        'resolution': resolution,
        'kernel_size': [kernels[a:a + d] for a, d in zip(starts, depths)],
        'expand_ratio': [ratios[a:a + d] for a, d in zip(starts, depths)],
        'width': widths[0], 'stem_width': widths[1]}))


def _check_keys(space: SearchSpace, data: Mapping[str, Any]) -> None:
    needed, known = ({'d', 'e', 'w'}, {'image_size'}) if space.elastic_widths else (
        {'d', 'e', 'ks'}, {'r', 'image_size', 'wid'})
    if not isinstance(data, Mapping):
        raise InputError(f'upstream arch {data!r:.120} is not an object; give the keys {listed(sorted(needed))}')
    for key in data:
        if key not in needed | known or (key == 'wid' and data['wid'] is not None):
            raise InputError(f'upstream {key!r:.40} ({data[key]!r:.60}) is no choice of {space.name}; '
                             f'give the keys {listed(sorted(needed))}')
    for key in sorted(needed - set(data)):
        raise InputError(f'upstream {key!r} is missing; {space.name} needs the keys {listed(sorted(needed))}')


def _widths(space: SearchSpace, index: list[Any], keeps_residual: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The width fields of an arch from indices of widths: of the two stem convolutions, then of each stage."""
    inner, outer = (sorted({stem[end] for stem in space.stem_widths}) for end in (0, -1))
    inner = [inner[0]] * (len(outer) - len(inner)) + inner  # the smallest widths of the original may be the same
    for i, choices in zip(index, (inner, outer, *(s.widths for s in space.stages))):
        if not is_whole(i) or not 0 <= i < len(choices):
            raise InputError(f"upstream 'w' {i!r:.40} is not the index of a width; give 0 to {len(choices) - 1}")
    mid, out = inner[index[0]], outer[index[1]]
    return space.width_fields(
        (mid, mid, out) if keeps_residual else (mid, out), [s.widths[i] for s, i in zip(space.stages, index[2:])])
