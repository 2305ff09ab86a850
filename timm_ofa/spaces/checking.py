"""What a search space from a file must keep, so that its networks can be built."""
from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from ..errors import InputError, listed
from . import walk
from .arch import MAX_WIDTH

if TYPE_CHECKING:
    from .space import SearchSpace, Stage

BLOCKS = {'mobilenetv3': 'ir', 'efficientnet': 'ir', 'byobnet': 'bottle'}  # the elastic block of each family
MAX_FRAMES = 100_000
MAX_STAGES = 12  # of a network, with the first block and the last convolution
MAX_PRICES = 50_000_000  # numbers of a cost table, 400 MB
MAX_PARAMS = 2_000_000_000  # of the largest network, 8 GB


def check_space(space: SearchSpace, where: str) -> SearchSpace:
    """Return the space, or raise `InputError`, which begins with `where` and names the field."""
    if not space.stages or not space.resolutions:
        raise InputError(f'{where}: stages and resolutions must not be empty; add at least one each')
    _check_family(space, where)
    fixed = [w for w in (space.first and space.first.width, space.last_width, space.num_features) if w]
    for width in (*fixed, *itertools.chain(*space.stem_widths, *(s.widths for s in space.stages))):
        if width % 8 or not 8 <= width <= MAX_WIDTH:
            raise InputError(
                f'{where}: width {width} is not a multiple of 8 from 8 to {MAX_WIDTH}; round it to one')
    most = MAX_STAGES - bool(space.first) - bool(space.last_width)
    if len(space.stages) > most:
        raise InputError(f'{where}: stages are {len(space.stages)}, a network of {space.family} has at most {most}; '
                         'give fewer')
    for i, stage in enumerate(space.stages, 1):
        _check_stage(stage, i, BLOCKS[space.family], where)
    if list(space.resolutions) != sorted(set(space.resolutions)):
        raise InputError(f'{where}: resolutions {listed(space.resolutions)} must ascend; sort them')
    most = max(len(s.kernel_sizes) * len(s.expand_ratios) for s in space.stages)
    prices = math.prod(space.frame_sizes) * len(space.positions) * (1 + most)
    if prices > MAX_PRICES:
        raise InputError(f'{where}: resolutions, widths, blocks and their choices make a table of {prices:.3g} prices, '
                         f'more than {MAX_PRICES:.0e}; give fewer')
    params = space.params(space.max_arch())
    if params > MAX_PARAMS:
        raise InputError(f'{where}: widths, expand_ratios and depths give the largest network {params:.3g} parameters, '
                         f'more than {MAX_PARAMS:.0e}; give smaller ones')
    return space


def _check_stage(stage: Stage, number: int, block: str, where: str) -> None:
    for name in ('widths', 'depths', 'kernel_sizes', 'expand_ratios'):
        values, limit = getattr(stage, name), MAX_WIDTH if name == 'widths' else 16
        if not values or list(values) != sorted(set(values)) or not 0 < values[0] <= values[-1] <= limit:
            raise InputError(f'{where}: {name} {list(values)} of stage {number} must ascend within 1 to {limit}')
    if stage.block != block:
        raise InputError(f'{where}: block {stage.block!r:.40} of stage {number} is unknown; use {block!r}')
    if any(k % 2 == 0 for k in stage.kernel_sizes):
        raise InputError(
            f'{where}: kernel_sizes {list(stage.kernel_sizes)} of stage {number} must be odd; change them')


def _check_family(space: SearchSpace, where: str) -> None:
    """Refuse what the timm class of the family cannot build."""
    def refuse(field: str, value: object, cure: str) -> None:
        raise InputError(f'{where}: {field} {value!r:.80} does not fit the family {space.family}; {cure}')

    stems = space.stem_widths
    if space.family == 'byobnet':
        if not stems or len(set(stems)) < len(stems) or any(
                len(s) not in (2, 3) or (len(s) == 3 and s[0] != s[1]) for s in stems):
            refuse('stem_widths', stems, 'give choices [mid, out] and [mid, mid, out], each once')
        combinations = math.prod(space.frame_sizes)
        if combinations > MAX_FRAMES:
            refuse('combinations of resolutions and widths', combinations, f'give at most {MAX_FRAMES}')
        for field in ('first', 'last_width', 'num_features'):
            if getattr(space, field):
                refuse(field, getattr(space, field), 'give null or 0')
        for i, s in enumerate(space.stages):
            if s.se_ratio or len(s.kernel_sizes) > 1:
                refuse(f'stage {i + 1}', (s.se_ratio, s.kernel_sizes), 'give se_ratio 0 and one kernel size')
            if s.stride == 1 and set(walk.inputs(space, i)) & set(s.widths):
                refuse('widths', s.widths, f'of stage {i + 1} some equal its input; its first block changes width')
        return
    if len(stems) != 1 or len(stems[0]) != 1:
        refuse('stem_widths', stems, 'give one choice of one convolution, [[16]]')
    if space.first is None or not space.last_width:
        refuse('first, last_width', (space.first, space.last_width), 'give both')
    if bool(space.num_features) != (space.family == 'mobilenetv3') or space.stem_pool:
        refuse('num_features, stem_pool', (space.num_features, space.stem_pool),
               'MobileNetV3 has features behind the pool, EfficientNet has not, neither has a stem_pool')
    for i, s in enumerate(space.stages, 1):
        if len(s.widths) != 1:
            refuse('widths', s.widths, f'give one for stage {i}')
