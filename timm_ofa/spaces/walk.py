"""The walk over a network, from the stem to the head, as rows. Pricing, building, measuring and cards all read it."""
from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from .arch import Arch
from .rows import (
    Row,
    bottleneck_row,
    conv_row,
    head_row,
    mobile_row,
    pool_row,
    residual_conv_row,
)

if TYPE_CHECKING:
    from .space import SearchSpace


def rows(space: SearchSpace, arch: Arch, num_classes: int) -> list[Row]:
    stem, widths = space.widths(arch)
    inputs = (block_input(space, stem), *widths)
    blocks = [
        elastic_row(space, arch.resolution, i, j, inputs[i], widths[i], k, e)
        for i, (kernels, ratios) in enumerate(zip(arch.kernel_size, arch.expand_ratio))
        for j, (k, e) in enumerate(zip(kernels, ratios))]
    return [*rows_before(space, arch.resolution, stem), *blocks,
            *rows_after(space, arch.resolution, widths[-1], num_classes)]


def all_rows(space: SearchSpace, resolution: int, num_classes: int) -> list[Row]:
    found = [row for stem in space.stem_widths for row in rows_before(space, resolution, stem)]
    for i, s in enumerate(space.stages):
        for j in range(max(s.depths) if s.blocks else min(2, max(s.depths))):  # later ones are like the second
            found += [
                elastic_row(space, resolution, i, j, in_chs, out_chs, *choice)
                for in_chs, out_chs, choice in itertools.product(inputs(space, i), s.widths, s.choices(j))]
    for width in space.stages[-1].widths:
        found += rows_after(space, resolution, width, num_classes)
    return list(dict.fromkeys(found))


def block_input(space: SearchSpace, stem: tuple[int, ...]) -> int:
    """The channels that the first stage gets from a stem."""
    return space.first.width if space.first else stem[-1]


def inputs(space: SearchSpace, stage: int) -> tuple[int, ...]:
    """All numbers of channels that a stage may get."""
    return space.stages[stage - 1].widths if stage else tuple(
        dict.fromkeys(block_input(space, stem) for stem in space.stem_widths))


def rows_before(space: SearchSpace, resolution: int, stem: tuple[int, ...]) -> list[Row]:
    """The rows before the first stage."""
    if space.network:
        return space.network.rows_before(resolution)
    image, full, pooled, *_ = _sides(space, resolution)
    found = [conv_row(image, 3, stem[0], 3, space.stem_stride, space.act)]
    if len(stem) == 3:
        found.append(residual_conv_row(full, stem[0], space.act))
    if len(stem) > 1:
        found.append(conv_row(full, stem[-2], stem[-1], 3, 1, space.act))
    if space.stem_pool:
        found.append(pool_row(full, stem[-1]))
    if space.first:
        found.append(mobile_row(
            'ds', pooled, stem[-1], space.first.width, 3, space.first.stride, 1, space.first.act, 0))
    return found


def rows_after(space: SearchSpace, resolution: int, width: int, num_classes: int) -> list[Row]:
    """The rows after the last stage, which has `width` channels."""
    side = _sides(space, resolution)[-1]
    if space.network:
        return space.network.rows_after(side, width, num_classes)
    last = [conv_row(side, width, space.last_width, 1, 1, space.act)] if space.last_width else []
    return [*last, head_row(side, space.last_width or width, space.num_features, num_classes, space.act)]


def elastic_row(space: SearchSpace, resolution: int, stage: int, index: int, in_chs: int, out_chs: int,
                kernel_size: int, expand_ratio: float) -> Row:
    """The row of a block of a stage. Only the first one has the stride and gets `in_chs` channels."""
    s = space.stages[stage]
    key = (resolution, stage, index if s.blocks else min(index, 1), in_chs, out_chs, kernel_size, expand_ratio)
    if cached := space.row_cache.get(key):
        return cached
    side = _sides(space, resolution)[stage + (4 if index else 3)]
    if s.blocks:
        row = s.blocks[index].row(side, s.blocks[index - 1].width if index else in_chs, kernel_size, expand_ratio)
    else:
        stride, in_chs = (1, out_chs) if index else (s.stride, in_chs)
        shape = (side, in_chs, out_chs, kernel_size, stride, expand_ratio, s.act)
        row = bottleneck_row(*shape) if s.block == 'bottle' else mobile_row(s.block, *shape, s.se_ratio)
    space.row_cache[key] = row
    return row


def _sides(space: SearchSpace, resolution: int) -> tuple[int, ...]:
    """The sides (px) that these get: the stem, its pool, the first block, each stage, the rows after the stages."""
    sides = [resolution]
    for stride in (space.stem_stride, *space.strides):
        sides.append(-(-sides[-1] // stride))
    return tuple(sides)
