"""Subnets as stock timm networks.

Nothing here is a network of our own: an arch becomes timm's architecture strings, and timm's `MobileNetV3` is built
from them. The registered entry-point takes those strings as JSON arguments, so that a saved folder or a Hub repository
loads through `timm.create_model` with its own architecture.

Paper: `Once-for-All: Train One Network and Specialize it for Efficient Deployment` - https://arxiv.org/abs/1908.09791
"""
from __future__ import annotations

import math
import re
from functools import partial
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._builder import pretrained_cfg_for_features
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def, resolve_act_layer, resolve_bn_args, round_channels
from timm.models.mobilenetv3 import MobileNetV3, MobileNetV3Features
from torch import nn

from .errors import InputError, listed
from .space import Arch, SearchSpace, load_space

__all__: list[str] = []  # the model registry adds each entry-point

ACT_LAYERS = {'re': 'relu', 'r6': 'relu6', 'hs': 'hard_swish'}
PAPER = dict(paper_ids='arXiv:1908.09791', paper_name='Once-for-All: Train One Network and Specialize it')
ROW = re.compile(r'(ds|ir|cn)_r1_k([13579])_s[12](_e\d{1,2}(\.\d{1,4})?)?_c(\d{1,4})(_se0\.\d{1,4})?_n(re|r6|hs)')
MAX_STAGES, MAX_BLOCKS, MAX_WIDTH = 12, 16, 8192


def data_cfg(space: SearchSpace, resolution: int | None = None) -> dict[str, Any]:
    """The part of a pretrained cfg that says how images go in, at a resolution (px) or the space's largest.

    The original resizes to ceil(resolution / crop), timm to floor(resolution / crop_pct): `crop_pct` is set such that
    both give the same side.
    """
    resolution = resolution or max(space.resolutions)
    stride = math.prod([space.stem_stride, space.first.stride, *(s.stride for s in space.stages)])
    return dict(
        input_size=(3, resolution, resolution), pool_size=(-(-resolution // stride),) * 2,
        crop_pct=math.floor(1e4 * resolution / math.ceil(resolution / space.crop_pct)) / 1e4, interpolation='bilinear',
        mean=space.mean, std=space.std, first_conv='conv_stem', classifier='classifier')


def model_args(space: SearchSpace, arch: Arch) -> dict[str, Any]:
    """The JSON arguments with which `timm.create_model('ofa_mobilenetv3', **args)` builds this arch."""
    return dict(
        arch_def=space.arch_def(space.check(arch)), stem_size=space.stem_width, stem_stride=space.stem_stride,
        num_features=space.num_features, act=space.act, bn_eps=space.bn_eps)


def network_kwargs(arch_def: list[list[str]], stem_size: int, num_features: int, act: str, bn_eps: float,
                   kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of timm's `MobileNetV3` class; `kwargs` gives up the BatchNorm arguments that it holds."""
    kwargs.setdefault('bn_eps', bn_eps)
    return dict(
        block_args=decode_arch_def(arch_def),
        stem_size=stem_size,
        num_features=num_features,
        head_bias=False,
        norm_layer=partial(nn.BatchNorm2d, **resolve_bn_args(kwargs)),
        act_layer=resolve_act_layer(kwargs, ACT_LAYERS[act]),
        se_layer=partial(SqueezeExcite, gate_layer='hard_sigmoid', force_act_layer=nn.ReLU, rd_round_fn=round_channels),
        **kwargs,
    )


def set_stem_stride(model: nn.Module, stem_stride: int) -> nn.Module:
    """timm's stem always halves the image; small images need it not to. Reductions are told accordingly."""
    if stem_stride == 1:
        model.conv_stem.stride = (1, 1)
        for info in getattr(model.feature_info, 'info', model.feature_info):
            info['reduction'] //= 2
    return model


def check_arch_def(arch_def: Any) -> list[list[str]]:
    """Untrusted architecture strings, checked before anything is built from them."""
    stages = arch_def if isinstance(arch_def, (list, tuple)) else ()
    if not 0 < len(stages) <= MAX_STAGES or not all(
            isinstance(s, (list, tuple)) and 0 < len(s) <= MAX_BLOCKS for s in stages):
        raise InputError(
            f'arch_def {arch_def!r:.80} is not a list of 1 to {MAX_STAGES} stages; give lists of block strings')
    for row in (row for stage in stages for row in stage):
        match = ROW.fullmatch(row) if isinstance(row, str) else None
        if not match or not 0 < int(match[5]) <= MAX_WIDTH or (match[3] and not 0 < float(match[3][2:]) <= 16):
            raise InputError(f"arch_def row {row!r:.80} is not a block; write it like 'ir_r1_k5_s2_e3_c40_se0.25_nre'")
    return [list(stage) for stage in stages]


default_cfgs = generate_default_cfgs({
    'ofa_mobilenetv3': dict(
        url='', num_classes=1000, **data_cfg(load_space('ofa_mbv3_w10')), license='apache-2.0', **PAPER),
})


@register_model
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
    if arch_def is None:
        space = load_space('ofa_mbv3_w10')
        arch_def = space.arch_def(space.min_arch())
    if act not in ACT_LAYERS or stem_stride not in (1, 2):
        raise InputError(f'act {act!r:.40}, stem_stride {stem_stride!r:.40}: choose from {listed(ACT_LAYERS)} and 1, 2')
    arch_def = check_arch_def(arch_def)
    if kwargs.get('features_only'):  # timm's default of five is more than small networks have
        levels = 1 + sum('_s2_' in row for stage in arch_def for row in stage)
        kwargs.setdefault('out_indices', tuple(range(levels)))
    return create_mobilenetv3('ofa_mobilenetv3', pretrained, stem_stride, **network_kwargs(
        arch_def, stem_size, num_features, act, bn_eps, kwargs))


def create_mobilenetv3(variant: str, pretrained: bool, stem_stride: int, **kwargs) -> MobileNetV3:
    """Build the stock class through timm's builder; `features_only=True` gives the features class, as in timm."""
    features_only = kwargs.pop('features_only', False)
    use_class = features_only and not {'feature_cfg', 'feature_cls'} & set(kwargs)
    network = MobileNetV3Features if use_class else MobileNetV3
    model = build_model_with_cfg(
        lambda **kw: set_stem_stride(network(**kw), stem_stride),
        variant,
        pretrained,
        features_only=features_only and not use_class,
        pretrained_strict=not use_class,
        kwargs_filter=('num_classes', 'num_features', 'head_bias', 'global_pool') if use_class else None,
        **kwargs,
    )
    if use_class:
        model.default_cfg = pretrained_cfg_for_features(model.default_cfg)
    return model
