"""Rows of a network as an ONNX graph or as a torch module, with the same numbers in both.

Any contiguous part of a network will do: one block, or `space.rows(arch)`. The ONNX graph is written node by node
(3 ms a block, where tracing takes a second) with the operators of torch's exporter and BatchNorm folded into the
convolutions. Weights are random, or those of a stock timm model.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from timm.layers import ConvNormAct, get_act_layer
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import EfficientNetBuilder, decode_arch_def, round_channels
from timm.models.byobnet import BottleneckBlock, LayerFn
from torch import nn

from ..networks import ACT_LAYERS, ResidualStemConv
from ..spaces import Row
from .layers import BN_EPS, Weights, input_shape, layers, row_weights

OPSET = 17
IR_VERSION = 8  # the file version of that time: old runtimes read it too

# ---- ONNX -------------------------------------------------------------------------------------------------------


def to_onnx(rows: Sequence[Row], *, weights: Mapping[str, torch.Tensor] | None = None, bn_eps: float = BN_EPS,
            seed: int = 0, batch_size: int | None = 1, opset: int = OPSET) -> bytes:
    """An ONNX file of the rows: input 'x' (N, C, H, W), output 'y', (N, classes) behind a head.

    Args:
        weights: State dict of the stock timm model of the whole network; None: random.
        bn_eps: Of that model's BatchNorms (`space.bn_eps`).
        batch_size: None: any, as the symbolic dimension 'N'.
    """
    graph = _OnnxGraph()
    last = 'x'
    for row, own in zip(rows, row_weights(rows, weights, bn_eps, seed)):
        last = graph.row(last, row, own)
    end, batch = rows[-1], 'N' if batch_size is None else batch_size
    flat = end.kind in ('head', 'mean')
    return graph.file(
        last, (batch, *input_shape(rows)[1:]),
        (batch, end.out_chs) if flat else (batch, end.out_chs, end.out_size, end.out_size), opset)


class RowGraph:
    """Writes rows operator by operator, for whatever takes graphs; `x` and what is returned are names of tensors.

    The operators are left to the format.
    """

    def conv(self, x: str, weight_and_bias: tuple, stride: int = 1, groups: int = 1) -> str:
        """Padded by half its kernel on each side."""
        raise NotImplementedError

    def act(self, x: str, act: str) -> str:
        """'re', 'r6', 'hs', or 'gate': hard sigmoid."""
        raise NotImplementedError

    def add(self, x: str, y: str) -> str:
        raise NotImplementedError

    def multiply(self, x: str, gate: str) -> str:
        """(N, C, H, W) times (N, C, 1, 1)."""
        raise NotImplementedError

    def global_mean(self, x: str) -> str:
        """(N, C, H, W) -> (N, C, 1, 1)."""
        raise NotImplementedError

    def max_pool(self, x: str) -> str:
        """3x3 of stride 2, padded by 1."""
        raise NotImplementedError

    def average_pool(self, x: str, size: int) -> str:
        """2x2 of stride 2: the mean of what lies inside, where the last column of an odd `size` stands alone."""
        raise NotImplementedError

    def flatten(self, x: str) -> str:
        """(N, C, 1, 1) -> (N, C)."""
        raise NotImplementedError

    def linear(self, x: str, weight_and_bias: tuple) -> str:
        raise NotImplementedError

    def row(self, x: str, row: Row, weights: Weights) -> str:
        """Nodes behind `x`."""
        if row.kind == 'mean':
            return self.flatten(self.global_mean(x))
        if row.kind == 'head':
            return self._head(x, row, weights)
        if row.kind == 'pool':
            return self.max_pool(x)
        if row.kind == 'bottle':
            return self._bottleneck(x, row, weights)
        if row.kind in ('conv', 'res'):
            y = self.act(self.conv(x, weights['conv'], row.stride), row.act)
        else:
            y = self._mobile(x, row, weights)
        return self.add(y, x) if row.skip else y

    def _mobile(self, x: str, row: Row, weights: Weights) -> str:
        if row.kind == 'ir':
            x = self.act(self.conv(x, weights['conv_pw']), row.act)
        x = self.act(self.conv(x, weights['conv_dw'], row.stride, groups=row.mid_chs), row.act)
        if row.se_chs:
            x = self._squeeze_excite(x, weights)
        return self.conv(x, weights['conv_pwl' if row.kind == 'ir' else 'conv_pw'])

    def _squeeze_excite(self, x: str, weights: Weights) -> str:
        gate = self.act(self.conv(self.global_mean(x), weights['se.conv_reduce']), 're')
        return self.multiply(x, self.act(self.conv(gate, weights['se.conv_expand']), 'gate'))

    def _bottleneck(self, x: str, row: Row, weights: Weights) -> str:
        y = self.act(self.conv(x, weights['conv1_1x1.conv']), row.act)
        y = self.act(self.conv(y, weights['conv2_kxk.conv'], row.stride), row.act)
        y = self.conv(y, weights['conv3_1x1.conv'])
        if row.stride > 1:
            x = self.average_pool(x, row.size)
        if not row.skip:
            x = self.conv(x, weights['shortcut.conv.conv'])
        return self.act(self.add(y, x), row.act)

    def _head(self, x: str, row: Row, weights: Weights) -> str:
        x = self.global_mean(x)
        if row.mid_chs:
            x = self.act(self.conv(x, weights['conv_head']), row.act)
        return self.linear(self.flatten(x), weights['classifier'])


class _OnnxGraph(RowGraph):
    """Collects nodes and weights."""

    def __init__(self) -> None:
        import onnx
        self._onnx = onnx
        self._nodes: list = []
        self._tensors: list = []

    def conv(self, x: str, weight_and_bias: tuple, stride: int = 1, groups: int = 1) -> str:
        weight, bias = weight_and_bias
        inputs = [self._tensor(weight)] + ([] if bias is None else [self._tensor(bias)])
        kernel = weight.shape[-1]
        return self._node(
            'Conv', x, *inputs, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4, group=groups)

    def act(self, x: str, act: str) -> str:
        if act == 'r6':
            return self._node('Clip', x, self._tensor(np.float32(0)), self._tensor(np.float32(6)))
        if act == 'gate':
            return self._node('HardSigmoid', x, alpha=1 / 6, beta=0.5)
        return self._node({'re': 'Relu', 'hs': 'HardSwish'}[act], x)

    def add(self, x: str, y: str) -> str:
        return self._node('Add', x, y)

    def multiply(self, x: str, gate: str) -> str:
        return self._node('Mul', x, gate)

    def global_mean(self, x: str) -> str:
        return self._node('GlobalAveragePool', x)

    def max_pool(self, x: str) -> str:
        return self._node('MaxPool', x, kernel_shape=[3] * 2, strides=[2] * 2, pads=[1] * 4)

    def average_pool(self, x: str, size: int) -> str:
        return self._node(
            'AveragePool', x, kernel_shape=[2] * 2, strides=[2] * 2, pads=[0, 0, *[size % 2] * 2], count_include_pad=0)

    def flatten(self, x: str) -> str:
        return self._node('Flatten', x)

    def linear(self, x: str, weight_and_bias: tuple) -> str:
        weight, bias = weight_and_bias
        return self._node('Gemm', x, self._tensor(weight), self._tensor(bias), transB=1)

    def file(self, last: str, in_shape: tuple, out_shape: tuple, opset: int) -> bytes:
        helper, float32 = self._onnx.helper, self._onnx.TensorProto.FLOAT
        self._nodes[-1].output[0] = 'y'
        graph = helper.make_graph(
            self._nodes, 'timm_ofa', [helper.make_tensor_value_info('x', float32, in_shape)],
            [helper.make_tensor_value_info('y', float32, out_shape)], self._tensors)
        model = helper.make_model(
            graph, producer_name='timm_ofa', opset_imports=[helper.make_opsetid('', opset)], ir_version=IR_VERSION)
        return model.SerializeToString()

    def _node(self, op: str, *inputs: str, **attributes) -> str:
        name = f't{len(self._nodes)}'
        self._nodes.append(self._onnx.helper.make_node(op, inputs, [name], **attributes))
        return name

    def _tensor(self, value: np.ndarray) -> str:
        name = f'w{len(self._tensors)}'
        self._tensors.append(self._onnx.numpy_helper.from_array(np.asarray(value), name))
        return name


# ---- torch ------------------------------------------------------------------------------------------------------


def to_torch(rows: Sequence[Row], *, weights: Mapping[str, torch.Tensor] | None = None, bn_eps: float = BN_EPS,
             seed: int = 0) -> nn.Sequential:
    """An eval-mode module of the rows, one child a row, from timm's own blocks (BatchNorm stays a layer of its own)."""
    children = [_torch_row(row, own) for row, own in zip(rows, row_weights(rows, weights, bn_eps, seed))]
    return nn.Sequential(*children).eval().requires_grad_(False)


class _Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


class _Head(nn.Module):
    """Global mean, 1x1 conv and act if there are features, linear: (N, C, H, W) -> (N, classes)."""

    def __init__(self, row: Row, bias: bool) -> None:
        super().__init__()
        self.conv_head = nn.Conv2d(row.in_chs, row.mid_chs, 1, bias=bias) if row.mid_chs else nn.Identity()
        self.act = get_act_layer(ACT_LAYERS[row.act])(inplace=True) if row.mid_chs else nn.Identity()
        self.classifier = nn.Linear(row.mid_chs or row.in_chs, row.out_chs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.conv_head(x.mean((2, 3), keepdim=True)))
        return self.classifier(x.flatten(1))


def _torch_row(row: Row, weights: Weights) -> nn.Module:
    module = _torch_module(row, weights)
    for layer in layers(row):
        weight, bias = weights[layer.name]
        own, norm = module.get_submodule(layer.name), module.get_submodule(layer.norm) if layer.norm else None
        own.weight.data.copy_(torch.from_numpy(weight))
        if norm is not None:  # mean 0, variance 1, gain 1: the bias is all that it adds
            norm.running_var.fill_(1 - norm.eps)
        if bias is not None:
            (norm or own).bias.data.copy_(torch.from_numpy(bias))
    return module


def _torch_module(row: Row, weights: Weights) -> nn.Module:
    if row.kind == 'mean':
        return _Mean()
    if row.kind == 'head':
        return _Head(row, bias=bool(row.mid_chs) and weights['conv_head'][1] is not None)
    if row.kind == 'pool':
        return nn.MaxPool2d(3, 2, 1)
    act_layer = get_act_layer(ACT_LAYERS[row.act])
    if row.kind == 'res':
        return ResidualStemConv(row.in_chs, row.out_chs, row.kernel_size, act_layer=act_layer)
    if row.kind == 'bottle':
        return BottleneckBlock(
            row.in_chs, row.out_chs, row.kernel_size, row.stride, bottle_ratio=row.mid_chs / row.out_chs,
            downsample='avg', layers=LayerFn(conv_norm_act=partial(ConvNormAct, act_layer=act_layer), act=act_layer))
    builder = EfficientNetBuilder(
        se_from_exp=True, act_layer=nn.ReLU, norm_layer=nn.BatchNorm2d,
        se_layer=partial(
            SqueezeExcite, gate_layer='hard_sigmoid', force_act_layer=nn.ReLU, rd_round_fn=round_channels))
    return builder(row.in_chs, decode_arch_def([[row.block]]))[0][0]
