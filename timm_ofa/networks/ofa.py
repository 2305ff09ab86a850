"""The entry-points that build any subnet, registered with timm: `ofa_timm` and one for each family.

They take an architecture as JSON arguments, so that a saved folder or a Hub repository loads through
`timm.create_model` with its own architecture. timm lists them by the name of this module.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import timm
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._builder import pretrained_cfg_for_features
from timm.models.efficientnet import EfficientNet, EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3, MobileNetV3Features
from torch import nn

from ..errors import InputError, listed
from ..fields import read_value
from ..spaces import MAX_WIDTH, integer, load_space
from .narrowing import narrowed
from .stock import (
    ACT_LAYERS,
    BOTTLE_ROW,
    MOBILE_ROW,
    PAPER,
    OFAResNet,
    all_levels,
    byobnet_kwargs,
    check_arch_def,
    check_stem_chs,
    data_cfg,
    efficientnet_kwargs,
    mobilenetv3_kwargs,
    set_stem_stride,
)
from .weights import checked

__all__: list[str] = []  # timm's registry adds each entry-point

ENTRY_POINTS = {
    'mobilenetv3': 'ofa_mobilenetv3', 'efficientnet': 'ofa_efficientnet', 'byobnet': 'ofa_byobnet',
    'timm': 'ofa_timm'}
DEFAULT_SPACES = {  # entry-point -> the space whose smallest net it builds when no blocks are given
    'ofa_mobilenetv3': 'ofa_mbv3_w10', 'ofa_efficientnet': 'ofa_proxyless_w13', 'ofa_byobnet': 'ofa_resnet50d'}
DEFAULT_NETWORK = 'mobilenetv3_small_050'  # that `ofa_timm` builds when none is named
OF_THE_NETWORK = ('input_size', 'pool_size', 'crop_pct', 'interpolation', 'mean', 'std', 'first_conv', 'classifier')
_cfg = timm.get_pretrained_cfg(DEFAULT_NETWORK)
assert _cfg is not None
default_cfgs = generate_default_cfgs({
    **{name: dict(url='', num_classes=1000, **data_cfg(load_space(space)), license='apache-2.0', **PAPER)
       for name, space in DEFAULT_SPACES.items()},
    'ofa_timm': dict(
        url='', num_classes=1000, input_size=(3, 224, 224), pool_size=(7, 7), crop_pct=0.875,
        interpolation='bilinear', mean=_cfg.mean, std=_cfg.std, first_conv=_cfg.first_conv,
        classifier=_cfg.classifier, license='apache-2.0', **PAPER)})


def _check_args(name: str, args: dict[str, Any], row_pattern: re.Pattern[str], kwargs: dict[str, Any]) -> int:
    """Check an entry-point's arguments, which may come from anywhere, and complete them. Returns the stem's stride."""
    if args['act'] not in list(ACT_LAYERS):
        raise InputError(f'act {args["act"]!r:.40} is unknown; choose from {listed(ACT_LAYERS)}')
    for key, limit in (('stem_stride', 2), ('stem_size', MAX_WIDTH), ('num_features', MAX_WIDTH)):
        if key in args:
            integer(args[key], key, limit)
    read_value(float, args['bn_eps'], 'bn_eps', low=1e-12, high=1)
    if args['arch_def'] is None:
        space = load_space(DEFAULT_SPACES[name])
        args['arch_def'] = space.arch_def(space.min_arch())
    if kwargs.get('features_only'):
        kwargs.setdefault('out_indices', all_levels(check_arch_def(args['arch_def'], row_pattern)))
    return args.pop('stem_stride')


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
) -> nn.Module:
    """Any Once-for-All MobileNetV3 subnet, as timm's class `MobileNetV3`. Source: arXiv:1908.09791, section 3.

    Args:
        arch_def: timm's block strings, one list a stage; without them the smallest net of `ofa_mbv3_w10` is built.
        stem_size: Channels of the stem.
        stem_stride: 2, or 1 for small images.
        num_features: Channels of the 1x1 convolution after the pool.
        act: Activation of stem, last convolution and head: 're', 'r6' or 'hs'.
        bn_eps: Epsilon of BatchNorm.
    """
    return _create_mobile(
        'ofa_mobilenetv3', pretrained, (MobileNetV3, MobileNetV3Features), mobilenetv3_kwargs,
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
) -> nn.Module:
    """Any Once-for-All ProxylessNAS subnet, as timm's class `EfficientNet`. Source: arXiv:1908.09791, section 3.

    Args:
        arch_def: timm's block strings, one list a stage; without them the smallest net of `ofa_proxyless_w13` is built.
        stem_size: Channels of the stem.
        stem_stride: 2, or 1 for small images.
        num_features: Channels of the 1x1 convolution before the pool.
        act: Activation of stem and last convolution: 're', 'r6' or 'hs'.
        bn_eps: Epsilon of BatchNorm.
    """
    return _create_mobile(
        'ofa_efficientnet', pretrained, (EfficientNet, EfficientNetFeatures), efficientnet_kwargs,
        dict(arch_def=arch_def, stem_size=stem_size, stem_stride=stem_stride, num_features=num_features, act=act,
             bn_eps=bn_eps), kwargs)


def _create_mobile(name: str, pretrained: bool, classes: tuple[type, type], network_kwargs: Callable[..., dict],
                   args: dict[str, Any], kwargs: dict[str, Any]) -> nn.Module:
    """Build timm's class through timm's builder; with `features_only=True` its features class, as timm does."""
    stem_stride = _check_args(name, args, MOBILE_ROW, kwargs)
    features_only = kwargs.pop('features_only', False)
    use_class = features_only and not {'feature_cfg', 'feature_cls'} & set(kwargs)
    network = classes[use_class]
    model: nn.Module = build_model_with_cfg(
        lambda **kw: set_stem_stride(network(**kw), stem_stride),
        name,
        pretrained,
        features_only=features_only and not use_class,
        pretrained_strict=not use_class,
        kwargs_filter=(
            ('num_classes', 'num_features', 'head_bias', 'global_pool') if use_class else None),  # type: ignore[arg-type]
        **network_kwargs(**args, kwargs=kwargs),
    )
    if use_class:
        cfg = pretrained_cfg_for_features(vars(model)['default_cfg'])
        vars(model).update(pretrained_cfg=cfg, default_cfg=cfg)
    return model


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
) -> nn.Module:
    """Any Once-for-All ResNet50D subnet, as timm's class `ByobNet`. Source: github.com/mit-han-lab/once-for-all.

    Args:
        arch_def: Block strings like 'bottle_r1_k3_s2_e0.25_c512_nre', one list a stage. The ratio is that of middle to
            output channels. Without them the smallest net of `ofa_resnet50d` is built.
        stem_chs: Channels of the stem's two 3x3 convolutions, or of three, of which the middle one is residual.
        stem_stride: Stride of the first convolution: 2, or 1 for small images.
        stem_pool: Max-pool of stride 2 behind the stem.
        act: Activation: 're', 'r6' or 'hs'.
        bn_eps: Epsilon of BatchNorm.
    """
    args = dict(
        arch_def=arch_def, stem_chs=check_stem_chs(stem_chs), stem_stride=stem_stride,
        stem_pool=read_value(bool, stem_pool, 'stem_pool'), act=act, bn_eps=bn_eps)
    stem_stride = _check_args('ofa_byobnet', args, BOTTLE_ROW, kwargs)
    return build_model_with_cfg(
        OFAResNet, 'ofa_byobnet', pretrained, stem_stride=stem_stride, feature_cfg=dict(flatten_sequential=True),
        **byobnet_kwargs(**args, kwargs=kwargs))


@register_model
@checked
def ofa_timm(
        pretrained: bool = False,
        network: str = DEFAULT_NETWORK,
        blocks: Sequence[Sequence[Sequence[int]]] | None = None,
        **kwargs,
) -> nn.Module:
    """Any network of timm's with fewer blocks and channels and smaller kernels, as timm's own class.

    Args:
        network: timm's name of the whole network.
        blocks: For each stage a list with [kernel size, middle channels] of each block that it keeps; without it the
            whole network is built. A block without middle channels has 0 of them.
    """
    if blocks is not None:
        blocks = read_value(tuple[tuple[tuple[int, ...], ...], ...], blocks, 'blocks', low=0, high=MAX_WIDTH)
    if kwargs.get('pretrained_cfg') is None and isinstance(network, str) and timm.is_model(network):
        own = timm.get_pretrained_cfg(network) or _cfg  # how images are prepared, and names of layers
        kwargs['pretrained_cfg_overlay'] = {
            **{key: getattr(own, key) for key in OF_THE_NETWORK}, **(kwargs.get('pretrained_cfg_overlay') or {})}
    return build_model_with_cfg(
        partial(narrowed, network, blocks), 'ofa_timm', pretrained, feature_cfg=dict(feature_cls='getter'), **kwargs)
