"""Rows of a network as a torch module, made of timm's own blocks: the reference for all other runtimes."""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from timm.layers import ConvNormAct, SelectAdaptivePool2d, get_act_layer
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import EfficientNetBuilder, decode_arch_def, round_channels
from timm.models.byobnet import BottleneckBlock, LayerFn
from torch import nn

from ..networks import ACT_LAYERS, ResidualStemConv
from ..spaces import Row
from .layers import BN_EPS, Weights, layers, row_weights


def to_torch(rows: Sequence[Row], *, weights: Mapping[str, torch.Tensor] | None = None, bn_eps: float = BN_EPS,
             seed: int = 0) -> nn.Sequential:
    """The rows as a module in eval mode, with one child for each row. BatchNorm stays a layer of its own.

    The arguments are those of `to_onnx`.
    """
    children = [_torch_row(row, own) for row, own in zip(rows, row_weights(rows, weights, bn_eps, seed))]
    return nn.Sequential(*children).eval().requires_grad_(False)


def _torch_row(row: Row, weights: Weights) -> nn.Module:
    module = _torch_module(row, weights)
    tensors = module.state_dict()
    for layer in layers(row):
        weight, bias = weights[layer.name]
        tensors[f'{layer.name}.weight'].copy_(torch.from_numpy(weight))
        if bias is not None:
            tensors[f'{layer.norm or layer.name}.bias'].copy_(torch.from_numpy(bias))
        if layer.norm:  # with mean 0, variance 1 and gain 1 it only adds its bias
            norm = module.get_submodule(layer.norm)
            assert isinstance(norm, nn.BatchNorm2d)
            tensors[f'{layer.norm}.running_var'].fill_(1 - norm.eps)
    return module


def _torch_module(row: Row, weights: Weights) -> nn.Module:
    if row.kind == 'mean':
        return SelectAdaptivePool2d(pool_type='fast', flatten=True)
    if row.kind == 'head':
        return _head(row, bias=bool(row.mid_chs) and weights['conv_head'][1] is not None)
    if row.kind == 'pool':
        return nn.MaxPool2d(3, 2, 1)
    act_layer = get_act_layer(ACT_LAYERS[row.act])
    if row.kind == 'res':
        return ResidualStemConv(row.in_chs, row.out_chs, row.kernel_size, act_layer=act_layer)
    if row.kind == 'bottle':
        return BottleneckBlock(
            row.in_chs, row.out_chs, row.kernel_size, row.stride, bottle_ratio=row.mid_chs / row.out_chs,
            downsample='avg', layers=LayerFn(
                conv_norm_act=partial(ConvNormAct, act_layer=act_layer), act=act_layer))  # type: ignore[arg-type]
    builder = EfficientNetBuilder(
        se_from_exp=True, act_layer=nn.ReLU, norm_layer=nn.BatchNorm2d,
        se_layer=partial(
            SqueezeExcite, gate_layer='hard_sigmoid', force_act_layer=nn.ReLU, rd_round_fn=round_channels))
    return builder(row.in_chs, decode_arch_def([[row.block]]))[0][0]


def _head(row: Row, bias: bool) -> nn.Module:
    """Global mean; 1x1 conv and activation, if the row has features; linear: (N, C, H, W) -> (N, classes)."""
    layers: dict[str, nn.Module] = {'global_pool': SelectAdaptivePool2d(pool_type='fast', flatten=False)}
    if row.mid_chs:
        layers['conv_head'] = nn.Conv2d(row.in_chs, row.mid_chs, 1, bias=bias)
        layers['act'] = get_act_layer(ACT_LAYERS[row.act])(inplace=True)
    return nn.Sequential(OrderedDict(
        **layers, flatten=nn.Flatten(), classifier=nn.Linear(row.mid_chs or row.in_chs, row.out_chs)))
