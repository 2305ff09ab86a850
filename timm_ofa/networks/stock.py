"""Subnets as stock timm networks.

Nothing here is a network of our own: an arch becomes strings in timm's arch-def grammar, and timm's `MobileNetV3`,
`EfficientNet` or `ByobNet` (whose stem may have a residual convolution here) is built from them. The registered
entry-points take those strings as JSON arguments, so that a saved folder or a Hub repository loads through
`timm.create_model` with its own architecture.

Paper: `Once-for-All: Train One Network and Specialize it for Efficient Deployment` - https://arxiv.org/abs/1908.09791
"""
from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import ConvNormAct
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._builder import pretrained_cfg_for_features
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def, resolve_act_layer, resolve_bn_args, round_channels
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg
from timm.models.efficientnet import EfficientNet, EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3, MobileNetV3Features
from torch import nn

from ..errors import InputError, listed
from ..fields import read_value
from ..spaces import MAX_WIDTH, Arch, SearchSpace, bottleneck_mid_chs, integer, load_space
from .weights import checked

__all__: list[str] = []  # the model registry adds each entry-point

ENTRY_POINTS = {'mobilenetv3': 'ofa_mobilenetv3', 'efficientnet': 'ofa_efficientnet', 'byobnet': 'ofa_byobnet'}
LAYER_NAMES = {  # first convolution and classifier
    'mobilenetv3': ('conv_stem', 'classifier'), 'efficientnet': ('conv_stem', 'classifier'),
    'byobnet': ('stem.conv1.conv', 'head.fc')}
ACT_LAYERS = {'re': 'relu', 'r6': 'relu6', 'hs': 'hard_swish'}
PAPER = dict(paper_ids='arXiv:1908.09791', paper_name='Once-for-All: Train One Network and Specialize it')
RATIO = r'(?P<ratio>\d{1,2}(\.\d{1,4})?)'
MOBILE_ROW = re.compile(
    rf'(ds|cn|ir(?=.*_e))_r1_k[13579]_s(?P<stride>[12])(_e{RATIO})?_c(?P<width>\d{{1,4}})(_se0\.\d{{1,4}})?_n(?P<act>re|r6|hs)')
BOTTLE_ROW = re.compile(rf'bottle_r1_k3_s(?P<stride>[12])_e{RATIO}_c(?P<width>\d{{1,4}})_n(?P<act>re|r6|hs)')
MAX_STAGES, MAX_BLOCKS = 12, 16


def data_cfg(space: SearchSpace, resolution: int | None = None) -> dict[str, Any]:
    """The part of a pretrained cfg that says how images go in, at a resolution (px) or the space's largest.

    The original resizes to ceil(resolution / crop), timm to floor(resolution / crop_pct): `crop_pct` is set such that
    both give the same side.
    """
    resolution = resolution or max(space.resolutions)
    first_conv, classifier = LAYER_NAMES[space.family]
    return dict(
        input_size=(3, resolution, resolution), pool_size=(-(-resolution // space.reduction),) * 2,
        crop_pct=math.floor(1e4 * resolution / math.ceil(resolution / space.crop_pct)) / 1e4, interpolation='bilinear',
        mean=space.mean, std=space.std, first_conv=first_conv, classifier=classifier)


def model_args(space: SearchSpace, arch: Arch) -> dict[str, Any]:
    """The JSON arguments with which `timm.create_model(ENTRY_POINTS[space.family], **args)` builds this arch."""
    args = dict(
        arch_def=space.arch_def(space.check(arch)), stem_stride=space.stem_stride, act=space.act, bn_eps=space.bn_eps)
    stem = space.widths(arch)[0]
    if space.family == 'byobnet':
        return args | dict(stem_chs=list(stem), stem_pool=space.stem_pool)
    return args | dict(stem_size=stem[0], num_features=space.num_features or space.last_width)


# ---- MobileNetV3 and EfficientNet ---------------------------------------------------------------------------------


def mobilenetv3_kwargs(arch_def: list[list[str]], stem_size: int, num_features: int, act: str, bn_eps: float,
                       kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of timm's `MobileNetV3` class; `kwargs` gives up the BatchNorm arguments that it holds."""
    return dict(
        head_bias=False,
        se_layer=partial(SqueezeExcite, gate_layer='hard_sigmoid', force_act_layer=nn.ReLU, rd_round_fn=round_channels),
        **efficientnet_kwargs(arch_def, stem_size, num_features, act, bn_eps, kwargs))


def efficientnet_kwargs(arch_def: list[list[str]], stem_size: int, num_features: int, act: str, bn_eps: float,
                        kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of timm's `EfficientNet` class; `kwargs` gives up the BatchNorm arguments that it holds."""
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


def set_stem_stride(model: nn.Module, stem_stride: int) -> nn.Module:
    """timm's stem always halves the image; small images need it not to. Reductions are told accordingly."""
    if stem_stride == 1:
        model.conv_stem.stride = (1, 1)
        for info in getattr(model.feature_info, 'info', model.feature_info):
            info['reduction'] //= 2
    return model


def check_arch_def(arch_def: Any, row_pattern: re.Pattern) -> list[list[str]]:
    """Untrusted architecture strings, checked before anything is built from them."""
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


def all_levels(arch_def: Sequence[Sequence[str]]) -> tuple[int, ...]:
    """The feature levels that a network has; timm's default of five is more than small networks do."""
    resnet = arch_def[0][0].startswith('bottle')  # its stem is a level even where the first stage does not stride
    return tuple(range(1 + resnet + sum('_s2_' in row for stage in arch_def[resnet:] for row in stage)))


def check_args(args: dict[str, Any], default_space: str) -> dict[str, Any]:
    """Untrusted arguments of an entry-point; without blocks, with those of a space's smallest net."""
    if args['act'] not in list(ACT_LAYERS):
        raise InputError(f'act {args["act"]!r:.40} is unknown; choose from {listed(ACT_LAYERS)}')
    for name, limit in (('stem_stride', 2), ('stem_size', MAX_WIDTH), ('num_features', MAX_WIDTH)):
        if name in args:
            integer(args[name], name, limit)
    read_value(float, args['bn_eps'], 'bn_eps', low=1e-12, high=1)
    if args['arch_def'] is None:
        space = load_space(default_space)
        return args | {'arch_def': space.arch_def(space.min_arch())}
    return args


default_cfgs = generate_default_cfgs({
    entry_point: dict(
        url='', num_classes=1000, **data_cfg(load_space(space)), license='apache-2.0', **PAPER)
    for entry_point, space in {
        'ofa_mobilenetv3': 'ofa_mbv3_w10', 'ofa_efficientnet': 'ofa_proxyless_w13', 'ofa_byobnet': 'ofa_resnet50d',
    }.items()})


@register_model
@checked
def ofa_mobilenetv3(
        pretrained: bool = False,
        arch_def: list[list[str]] | None = None,
        stem_size: int = 16,
        stem_stride: int = 2,
        num_features: int = 1280,
        act: str = 'hs',
        bn_eps: float = 1e-5,
        **kwargs,
) -> MobileNetV3:
    """Any Once-for-All MobileNetV3 subnet, as the stock class. Source: arXiv:1908.09791, section 3.

    Args:
        arch_def: timm's block strings, one list a stage; the smallest net of `ofa_mbv3_w10` if not given.
        stem_size: Channels of the stem.
        stem_stride: 2, or 1 for small images.
        num_features: Channels of the 1x1 convolution after the pool.
        act: Activation of stem, last convolution and head: 're', 'r6' or 'hs'.
    """
    return _create_mobile(
        'ofa_mobilenetv3', pretrained, 'ofa_mbv3_w10', (MobileNetV3, MobileNetV3Features), mobilenetv3_kwargs,
        dict(arch_def=arch_def, stem_size=stem_size, stem_stride=stem_stride, num_features=num_features, act=act,
             bn_eps=bn_eps), kwargs)


@register_model
@checked
def ofa_efficientnet(
        pretrained: bool = False,
        arch_def: list[list[str]] | None = None,
        stem_size: int = 40,
        stem_stride: int = 2,
        num_features: int = 1664,
        act: str = 'r6',
        bn_eps: float = 1e-3,
        **kwargs,
) -> EfficientNet:
    """Any Once-for-All ProxylessNAS subnet, as the stock class `EfficientNet`. Source: arXiv:1908.09791, section 3.

    Args:
        arch_def: timm's block strings, one list a stage; the smallest net of `ofa_proxyless_w13` if not given.
        stem_size: Channels of the stem.
        stem_stride: 2, or 1 for small images.
        num_features: Channels of the 1x1 convolution before the pool.
        act: Activation of stem and last convolution: 're', 'r6' or 'hs'.
    """
    return _create_mobile(
        'ofa_efficientnet', pretrained, 'ofa_proxyless_w13', (EfficientNet, EfficientNetFeatures), efficientnet_kwargs,
        dict(arch_def=arch_def, stem_size=stem_size, stem_stride=stem_stride, num_features=num_features, act=act,
             bn_eps=bn_eps), kwargs)


def _create_mobile(variant: str, pretrained: bool, default_space: str, classes: tuple[type, type], network_kwargs,
                   args: dict[str, Any], kwargs: dict[str, Any]) -> nn.Module:
    """Build the stock class through timm's builder; `features_only=True` gives the features class, as in timm."""
    args = check_args(args, default_space)
    stem_stride = args.pop('stem_stride')
    features_only = kwargs.pop('features_only', False)
    if features_only:
        kwargs.setdefault('out_indices', all_levels(check_arch_def(args['arch_def'], MOBILE_ROW)))
    use_class = features_only and not {'feature_cfg', 'feature_cls'} & set(kwargs)
    network = classes[use_class]
    model = build_model_with_cfg(
        lambda **kw: set_stem_stride(network(**kw), stem_stride),
        variant,
        pretrained,
        features_only=features_only and not use_class,
        pretrained_strict=not use_class,
        kwargs_filter=('num_classes', 'num_features', 'head_bias', 'global_pool') if use_class else None,
        **network_kwargs(**args, kwargs=kwargs),
    )
    if use_class:
        model.pretrained_cfg = model.default_cfg = pretrained_cfg_for_features(model.default_cfg)
    return model


# ---- ResNet -------------------------------------------------------------------------------------------------------


class ResidualStemConv(ConvNormAct):
    """Convolution, BatchNorm, activation, and the input added: the middle of a stem of three."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
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
    """Arguments of `OFAResNet` for timm's builder; `kwargs` gives up the BatchNorm arguments that it holds."""
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
        norm_layer=partial(nn.BatchNorm2d, **resolve_bn_args(kwargs)),
    )
    return dict(model_cfg=cfg, **kwargs)


def _byob_block(row: str, act: str) -> ByoBlockCfg:
    match = BOTTLE_ROW.fullmatch(row)
    stride, width, ratio = int(match['stride']), int(match['width']), float(match['ratio'])
    if match['act'] != act or width % 8:
        raise InputError(
            f'arch_def row {row!r:.80} does not fit: its act must be {act!r}, and widths are multiples of 8; change it')
    return ByoBlockCfg(type='bottle', d=1, c=width, s=stride, gs=0, br=bottleneck_mid_chs(width, ratio) / width)


@register_model
@checked
def ofa_byobnet(
        pretrained: bool = False,
        arch_def: list[list[str]] | None = None,
        stem_chs: Sequence[int] = (24, 40),
        stem_stride: int = 2,
        stem_pool: bool = True,
        act: str = 're',
        bn_eps: float = 1e-5,
        **kwargs,
) -> OFAResNet:
    """Any Once-for-All ResNet50D subnet, as the stock class `ByobNet`. Source: github.com/mit-han-lab/once-for-all.

    Args:
        arch_def: Block strings like 'bottle_r1_k3_s2_e0.25_c512_nre' (the ratio is that of middle to output channels),
            one list a stage; the smallest net of `ofa_resnet50d` if not given.
        stem_chs: Channels of the stem's two 3x3 convolutions, or of three, of which the middle one is residual.
        stem_stride: Of the first convolution: 2, or 1 for small images.
        stem_pool: Max-pool of stride 2 behind the stem.
        act: Activation: 're', 'r6' or 'hs'.
    """
    args = check_args(dict(
        arch_def=arch_def, stem_chs=check_stem_chs(stem_chs), stem_stride=stem_stride,
        stem_pool=read_value(bool, stem_pool, 'stem_pool'), act=act, bn_eps=bn_eps), 'ofa_resnet50d')
    stem_stride = args.pop('stem_stride')
    if kwargs.get('features_only'):
        kwargs.setdefault('out_indices', all_levels(check_arch_def(args['arch_def'], BOTTLE_ROW)))
    return build_model_with_cfg(
        OFAResNet, 'ofa_byobnet', pretrained, stem_stride=stem_stride, feature_cfg=dict(flatten_sequential=True),
        **byobnet_kwargs(**args, kwargs=kwargs))


def check_stem_chs(stem_chs: Any) -> list[int]:
    """Untrusted channels of a stem."""
    valid = isinstance(stem_chs, (list, tuple)) and len(stem_chs) in (2, 3) and all(
        isinstance(c, int) and not isinstance(c, bool) and 0 < c <= MAX_WIDTH for c in stem_chs)
    if not valid or (len(stem_chs) == 3 and stem_chs[0] != stem_chs[1]):
        raise InputError(f'stem_chs {stem_chs!r:.80} is not [mid, out] or [mid, mid, out]; give such channels')
    return list(stem_chs)
