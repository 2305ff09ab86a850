"""What a search space from a file must keep, so that its networks can be built."""
from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..errors import InputError, listed
from . import walk
from .arch import MAX_WIDTH

if TYPE_CHECKING:
    from .blocks import Layer, Network
    from .space import SearchSpace, Stage

BLOCKS = {  # the elastic block of each family
    'mobilenetv3': 'ir', 'efficientnet': 'ir', 'byobnet': 'bottle', 'timm': 'timm'}
MAX_KERNEL = 9  # px, of a space that was not read off; timm's block strings hold one digit
MAX_FRAMES = 100_000
MAX_DEPTH = 64  # of a stage of a network that a space was read off
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
        if (space.family != 'timm' and width % 8) or not 8 <= width <= MAX_WIDTH:
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
        values, limit = getattr(stage, name), MAX_WIDTH if name == 'widths' else MAX_DEPTH if stage.blocks else 16
        if not values or list(values) != sorted(set(values)) or not 0 < values[0] <= values[-1] <= limit:
            raise InputError(f'{where}: {name} {list(values)} of stage {number} must ascend within 1 to {limit}')
    if stage.block != block:
        raise InputError(f'{where}: block {stage.block!r:.40} of stage {number} is unknown; use {block!r}')
    if any(k % 2 == 0 for k in stage.kernel_sizes) or (not stage.blocks and stage.kernel_sizes[-1] > MAX_KERNEL):
        raise InputError(f'{where}: kernel_sizes {list(stage.kernel_sizes)} of stage {number} must be odd, up to '
                         f'{MAX_KERNEL}; change them')
    if stage.blocks:
        return
    for name, values, form in (('expand_ratios', stage.expand_ratios, r'\d+(\.\d{1,4})?'),
                               ('se_ratio', (stage.se_ratio,), r'0(\.\d{1,4})?')):
        if wrong := [value for value in values if not re.fullmatch(form, f'{value:g}')]:
            raise InputError(f'{where}: {name} {wrong[0]!r:.40} of stage {number} has more than 4 decimals'
                             f'{" or is not below 1" * (name == "se_ratio")}; change it')


def _check_family(space: SearchSpace, where: str) -> None:
    """Refuse what the timm class of the family cannot build."""
    def refuse(field: str, value: object, cure: str) -> None:
        raise InputError(f'{where}: {field} {value!r:.80} does not fit the family {space.family}; {cure}')

    stems = space.stem_widths
    if bool(space.network) != (space.family == 'timm'):
        refuse('network', space.network and space.network.name, 'only the family timm has one')
    if space.network:
        return _check_read_off(space, space.network, where)
    if any(s.blocks for s in space.stages):
        refuse('blocks', '[..]', 'only the family timm has them')
    acts = [space.act, *([space.first.act] if space.first else []), *(s.act for s in space.stages)]
    if 'sw' in acts:
        refuse('act', 'sw', 'give re, r6 or hs')
    if space.family == 'byobnet':
        if not stems or len(set(stems)) < len(stems) or any(
                len(s) not in (2, 3) or (len(s) == 3 and s[0] != s[1]) for s in stems):
            refuse('stem_widths', stems, 'give choices [mid, out] and [mid, mid, out], each once')
        combinations = math.prod(space.frame_sizes)
        if combinations > MAX_FRAMES:
            refuse('combinations of resolutions and widths', combinations, f'give at most {MAX_FRAMES}')
        if len(space.stages) < 2 or set(acts) != {space.act}:
            refuse('stages', [s.act for s in space.stages], f'give 2 or more, with the act {space.act} of the stem')
        for field in ('first', 'last_width', 'num_features'):
            if getattr(space, field):
                refuse(field, getattr(space, field), 'give null or 0')
        for i, s in enumerate(space.stages):
            if s.se_ratio or s.kernel_sizes != (3,):
                refuse(f'stage {i + 1}', (s.se_ratio, s.kernel_sizes), 'give se_ratio 0 and kernel_sizes [3]')
            if s.stride == 1 and set(walk.inputs(space, i)) & set(s.widths):
                refuse('widths', s.widths, f'of stage {i + 1} some equal its input; its first block changes width')
        return
    if len(stems) != 1 or len(stems[0]) != 1:
        refuse('stem_widths', stems, 'give one choice of one convolution, [[16]]')
    if space.first is None or not space.last_width:
        refuse('first, last_width', (space.first, space.last_width), 'give both')
    if bool(space.num_features) != (space.family == 'mobilenetv3') or space.stem_pool:
        refuse('num_features, stem_pool', (space.num_features, space.stem_pool),
               'MobileNetV3 has features behind the pool, EfficientNet has none, and neither has a stem_pool')
    for i, s in enumerate(space.stages, 1):
        if len(s.widths) != 1:
            refuse('widths', s.widths, f'give one for stage {i}')


def _check_read_off(space: SearchSpace, network: Network, where: str) -> None:
    """Check that the parts of a network fit together."""
    def refuse(part: str, why: str) -> None:
        raise InputError(f'{where}: {part:.80} {why}; read the space off {network.name} again')

    def refuse_empty(layers: Iterable[Layer], mid_chs: int = 0) -> None:
        for layer in layers:
            dense = layer.kind == 'conv' and not layer.depthwise
            if (layer.kind == 'se' and not layer.hidden) or (dense and not (layer.width or mid_chs)):
                refuse(layer.name or 'a layer', 'has no channels')

    refuse_empty([*network.stem, *filter(None, (network.last, network.features))])
    if space.first or space.last_width or space.num_features or [len(s) for s in space.stem_widths] != [1]:
        refuse('first, last_width, num_features, stem_widths', 'are not null, 0, 0 and one choice of one width')
    if not network.stem or network.stem_reduction != space.stem_stride * (1 + space.stem_pool):
        refuse('stem', f'shrinks the image by {network.stem_reduction}')
    for i, stage in enumerate(space.stages, 1):
        if not stage.blocks or not all(block.layers for block in stage.blocks):
            refuse(f'stage {i}', 'has no blocks, or a block without layers')
        if stage.depths[-1:] != (len(stage.blocks),) or stage.blocks[0].stride != stage.stride:
            refuse(f'stage {i}', 'does not have as many blocks as its depth, or has another stride')
        if {b.width for b in stage.blocks[stage.depths[0] - 1:]} != set(stage.widths):
            refuse(f'stage {i}', 'changes its width where it may end')
        for block in stage.blocks:
            refuse_empty(block.layers, block.mid_chs)
            refuse_empty(block.shortcut)
            own = (block.kernel_sizes, stage.kernel_sizes), (block.expand_ratios, stage.expand_ratios)
            if any(not values or list(values) != sorted(set(values) & set(known)) for values, known in own):
                refuse(block.place, 'has choices that its stage does not have, or has them in another order')
            if stage.blocks.index(block) and block.stride > 1:
                refuse(block.place, 'has a stride inside its stage')
