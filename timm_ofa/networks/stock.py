"""An arch as the arguments of a stock timm network: `MobileNetV3`, `EfficientNet` or `ByobNet`.

Nothing here is a network of our own. An arch becomes block strings in timm's arch-def grammar, and timm's class is
built from them; only the stem of `ByobNet` may have a residual convolution here. Strings from a stranger's file are
checked before anything is built.

Paper: `Once-for-All: Train One Network and Specialize it for Efficient Deployment` - https://arxiv.org/abs/1908.09791
"""
from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from timm.layers import ConvNormAct
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def, resolve_act_layer, resolve_bn_args, round_channels
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg
from torch import Tensor, nn

from ..errors import InputError
from ..spaces import MAX_STAGES, MAX_WIDTH, Arch, SearchSpace, bottleneck_mid_chs

LAYER_NAMES = {  # first convolution and classifier
    'mobilenetv3': ('conv_stem', 'classifier'), 'efficientnet': ('conv_stem', 'classifier'),
    'byobnet': ('stem.conv1.conv', 'head.fc')}
ACT_LAYERS = {'re': 'relu', 'r6': 'relu6', 'hs': 'hard_swish'}
PAPER = dict(paper_ids='arXiv:1908.09791', paper_name='Once-for-All: Train One Network and Specialize it')
RATIO = r'(?P<ratio>\d{1,2}(\.\d{1,4})?)'
MOBILE_ROW = re.compile(
    rf'(ds|cn|ir(?=.*_e))_r1_k[13579]_s(?P<stride>[12])(_e{RATIO})?_c(?P<width>\d{{1,4}})(_se0\.\d{{1,4}})?_n(?P<act>re|r6|hs)')
BOTTLE_ROW = re.compile(rf'bottle_r1_k3_s(?P<stride>[12])_e{RATIO}_c(?P<width>\d{{1,4}})_n(?P<act>re|r6|hs)')
MAX_BLOCKS = 16  # of a stage


def data_cfg(space: SearchSpace, resolution: int | None = None) -> dict[str, Any]:
    """The part of a pretrained cfg that says how images are prepared, at a resolution (px) or at the space's largest.

    The original resizes images to ceil(resolution / crop), timm to floor(resolution / crop_pct). `crop_pct` is chosen
    such that both give the same side.
    """
    resolution = resolution or max(space.resolutions)
    network = space.network
    first_conv, classifier = (network.stem[0].name, network.classifier) if network else LAYER_NAMES[space.family]
    return dict(
        input_size=(3, resolution, resolution), pool_size=(-(-resolution // space.reduction),) * 2,
        crop_pct=math.floor(1e4 * resolution / math.ceil(resolution / space.crop_pct)) / 1e4, interpolation='bilinear',
        mean=space.mean, std=space.std, first_conv=first_conv, classifier=classifier)


def model_args(space: SearchSpace, arch: Arch) -> dict[str, Any]:
    """The JSON arguments with which the entry-point of the space's family builds this arch."""
    if space.network:
        return dict(network=space.network.name, blocks=[
            [[k, b.active_mid_chs(e)] for b, k, e in zip(stage.blocks, kernels, ratios)]
            for stage, kernels, ratios in zip(space.stages, space.check(arch).kernel_size, arch.expand_ratio)])
    args = dict(
        arch_def=space.arch_def(space.check(arch)), stem_stride=space.stem_stride, act=space.act, bn_eps=space.bn_eps)
    stem = space.widths(arch)[0]
    if space.family == 'byobnet':
        return args | dict(stem_chs=list(stem), stem_pool=space.stem_pool)
    return args | dict(stem_size=stem[0], num_features=space.num_features or space.last_width)


def check_arch_def(arch_def: Any, row_pattern: re.Pattern[str]) -> list[list[str]]:
    """Block strings from anywhere; raises `InputError` for what is no architecture."""
    stages = arch_def if isinstance(arch_def, (list, tuple)) else ()
    least = 2 if row_pattern is BOTTLE_ROW else 1  # timm's ByobNet takes no fewer
    if not least <= len(stages) <= MAX_STAGES or not all(
            isinstance(s, (list, tuple)) and 0 < len(s) <= MAX_BLOCKS for s in stages):
        raise InputError(
            f'arch_def {arch_def!r:.80} is not a list of {least} to {MAX_STAGES} stages; give lists of block strings')
    example = 'bottle_r1_k3_s2_e0.25_c512_nre' if row_pattern is BOTTLE_ROW else 'ir_r1_k5_s2_e3_c40_se0.25_nre'
    for i, row in ((i, row) for stage in stages for i, row in enumerate(stage)):
        match = row_pattern.fullmatch(row) if isinstance(row, str) else None
        if not match or not 0 < int(match['width']) <= MAX_WIDTH or not 0 < float(match['ratio'] or 1) <= 16:
            raise InputError(f'arch_def row {row!r:.80} is not a block; write it like {example!r}')
        if i and match['stride'] != '1':
            raise InputError(f'arch_def row {row!r:.80} strides; only the first block of a stage may, write _s1_')
    return [list(stage) for stage in stages]


def check_stem_chs(stem_chs: Any) -> list[int]:
    """Channels of a ResNet's stem from anywhere; raises `InputError` for what are none."""
    valid = isinstance(stem_chs, (list, tuple)) and len(stem_chs) in (2, 3) and all(
        isinstance(c, int) and not isinstance(c, bool) and 0 < c <= MAX_WIDTH for c in stem_chs)
    if not valid or (len(stem_chs) == 3 and stem_chs[0] != stem_chs[1]):
        raise InputError(f'stem_chs {stem_chs!r:.80} is not [mid, out] or [mid, mid, out]; give such channels')
    return list(stem_chs)


def all_levels(arch_def: Sequence[Sequence[str]]) -> tuple[int, ...]:
    """The feature levels that a network has. Small networks have fewer than timm's default of five."""
    resnet = arch_def[0][0].startswith('bottle')  # its stem is a level even where the first stage does not stride
    return tuple(range(1 + resnet + sum('_s2_' in row for stage in arch_def[resnet:] for row in stage)))


# ---- MobileNetV3 and EfficientNet ---------------------------------------------------------------------------------


def mobilenetv3_kwargs(arch_def: list[list[str]], stem_size: int, num_features: int, act: str, bn_eps: float,
                       kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of timm's class `MobileNetV3`. BatchNorm's arguments are taken out of `kwargs`."""
    return dict(
        head_bias=False,
        se_layer=partial(SqueezeExcite, gate_layer='hard_sigmoid', force_act_layer=nn.ReLU, rd_round_fn=round_channels),
        **efficientnet_kwargs(arch_def, stem_size, num_features, act, bn_eps, kwargs))


def efficientnet_kwargs(arch_def: list[list[str]], stem_size: int, num_features: int, act: str, bn_eps: float,
                        kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of timm's class `EfficientNet`. BatchNorm's arguments are taken out of `kwargs`."""
    kwargs.setdefault('bn_eps', bn_eps)
    return dict(
        block_args=decode_arch_def(check_arch_def(arch_def, MOBILE_ROW)),
        stem_size=stem_size,
        fix_stem=True,
        num_features=num_features,
        norm_layer=partial(nn.BatchNorm2d, **resolve_bn_args(kwargs)),
        act_layer=resolve_act_layer(kwargs, ACT_LAYERS[act]),
        **kwargs,
    )


class _Mobile(Protocol):
    """What `MobileNetV3`, `EfficientNet` and their features classes share."""
    conv_stem: nn.Conv2d
    feature_info: Any  # a list of dictionaries, or timm's `FeatureInfo` around one


Mobile = TypeVar('Mobile', bound=_Mobile)


def set_stem_stride(model: Mobile, stem_stride: int) -> Mobile:
    """Set the stride of the stem, and the reductions that follow from it. timm's stem always has stride 2."""
    if stem_stride == 1:
        model.conv_stem.stride = (1, 1)
        for info in getattr(model.feature_info, 'info', model.feature_info):
            info['reduction'] //= 2
    return model


# ---- ResNet -------------------------------------------------------------------------------------------------------


class ResidualStemConv(ConvNormAct):
    """Convolution, BatchNorm and activation, to which the input is added: the middle of a stem of three."""

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)) + x


class OFAResNet(ByobNet):
    """timm's `ByobNet` with the stem of OFA-ResNet50D: of three convolutions the middle one is residual."""

    def __init__(self, cfg: ByoModelCfg, stem_stride: int = 2, device=None, dtype=None, **kwargs):
        super().__init__(cfg, device=device, dtype=dtype, **kwargs)
        convs = [conv for conv in self.stem if isinstance(conv, ConvNormAct)]
        if len(convs) == 3:
            convs[1].__class__ = ResidualStemConv  # keeps its initialized weights
        for i, conv in enumerate(convs):
            conv.conv.stride = (1, 1) if i else (stem_stride, stem_stride)
        too_much = 4 // (stem_stride * (2 if cfg.stem_pool else 1))  # timm's stem divides the side by 4
        stem, *stages = self.feature_info
        self.feature_info = [stem | {'reduction': stem_stride}] + [
            info | {'reduction': info['reduction'] // too_much} for info in stages if info['stage']]  # one of the stem
        self.stage_ends = [info['stage'] for info in self.feature_info]
        for norm in (m for m in self.modules() if isinstance(m, nn.BatchNorm2d)):  # timm's shortcuts have their own
            norm.eps, norm.momentum = convs[0].bn.eps, convs[0].bn.momentum


def byobnet_kwargs(arch_def: list[list[str]], stem_chs: Sequence[int], stem_pool: bool, act: str, bn_eps: float,
                   kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `OFAResNet` for timm's builder. BatchNorm's arguments are taken out of `kwargs`."""
    kwargs.setdefault('bn_eps', bn_eps)
    cfg = ByoModelCfg(
        blocks=tuple(
            tuple(_byob_block(row, act) for row in stage)
            for stage in check_arch_def(arch_def, BOTTLE_ROW)),
        downsample='avg',
        stem_type='3x3',
        stem_chs=list(stem_chs),
        stem_pool='maxpool' if stem_pool else '',
        act_layer=ACT_LAYERS[act],
        norm_layer=partial(nn.BatchNorm2d, **resolve_bn_args(kwargs)),  # type: ignore[arg-type] # timm's own configs too
    )
    return dict(model_cfg=cfg, **kwargs)


def _byob_block(row: str, act: str) -> ByoBlockCfg:
    match = BOTTLE_ROW.fullmatch(row)
    assert match, row  # check_arch_def has seen it
    stride, width, ratio = int(match['stride']), int(match['width']), float(match['ratio'])
    if match['act'] != act or width % 8:
        raise InputError(
            f'arch_def row {row!r:.80} does not fit: its act must be {act!r}, and widths are multiples of 8; change it')
    return ByoBlockCfg(type='bottle', d=1, c=width, s=stride, gs=0, br=bottleneck_mid_chs(width, ratio) / width)
