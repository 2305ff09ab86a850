"""Rows of a network as an ONNX graph or as a torch module, with the same numbers in both.

Any contiguous part of a network will do: one block, or `space.rows(arch)`. The ONNX graph is written node by node
(3 ms a block, where tracing takes a second) with the operators of torch's exporter and BatchNorm folded into the
convolutions. Weights are random, or those of a stock timm MobileNetV3.

Besides the kinds of `Row`, a list may end in a row of kind 'mean' (global mean, flattened): what probes end in.
"""
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from timm.layers import get_act_layer
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import EfficientNetBuilder, decode_arch_def, round_channels
from torch import nn

from .errors import InputError
from .space import Row

OPSET = 17
IR_VERSION = 8  # the file version of that time: old runtimes read it too
ACT_NAMES = {'re': 'relu', 'r6': 'relu6', 'hs': 'hard_swish'}  # arch-def -> timm
BN_EPS = 1e-5
STEM = 'conv_stem'


class Layer(NamedTuple):
    """A convolution or linear layer of a row, under timm's names."""
    name: str
    norm: str  # the BatchNorm behind it; '': none
    shape: tuple[int, ...]  # of the weight
    bias: bool  # own bias
    name_in_net: str = ''  # '': the name inside the block


Weights = dict[str, tuple[np.ndarray, np.ndarray | None]]  # layer name -> (weight, bias), BatchNorm folded


def mean_row(size: int, chs: int) -> Row:
    """The last row of a probe: (N, C, H, W) -> (N, C)."""
    return Row('mean', 'mean', size, chs, 1, chs, 1, 1, 0, 0, 're', False, macs=0, params=0)


def layers(row: Row) -> tuple[Layer, ...]:
    """The weighted layers of a row, in the order in which they run."""
    mid, kernel = row.mid_chs, (row.kernel_size, row.kernel_size)
    if row.kind == 'conv':
        return (Layer('conv', 'bn1', (row.out_chs, row.in_chs, *kernel), False),)
    if row.kind == 'ds':
        return (
            Layer('conv_dw', 'bn1', (mid, 1, *kernel), False), *_squeeze_excite(row),
            Layer('conv_pw', 'bn2', (row.out_chs, mid, 1, 1), False))
    if row.kind == 'ir':
        return (
            Layer('conv_pw', 'bn1', (mid, row.in_chs, 1, 1), False), Layer('conv_dw', 'bn2', (mid, 1, *kernel), False),
            *_squeeze_excite(row), Layer('conv_pwl', 'bn3', (row.out_chs, mid, 1, 1), False))
    if row.kind == 'head':
        return (
            Layer('conv_head', '', (mid, row.in_chs, 1, 1), False), Layer('classifier', '', (row.out_chs, mid), True))
    assert row.kind == 'mean', row.kind
    return ()


def _squeeze_excite(row: Row) -> tuple[Layer, ...]:
    if not row.se_chs:
        return ()
    return (
        Layer('se.conv_reduce', '', (row.se_chs, row.mid_chs, 1, 1), True),
        Layer('se.conv_expand', '', (row.mid_chs, row.se_chs, 1, 1), True))


def random_weights(rows: Sequence[Row], seed: int = 0) -> list[Weights]:
    """Weights for each row that keep activations of order one; biases small and not zero."""
    rng = np.random.default_rng(seed)

    def draw(layer: Layer) -> tuple[np.ndarray, np.ndarray | None]:
        scale = np.float32((2 / np.prod(layer.shape[1:])) ** 0.5)
        bias = rng.standard_normal(layer.shape[0], np.float32) / 10 if layer.norm or layer.bias else None
        return rng.standard_normal(layer.shape, np.float32) * scale, bias

    return [{layer.name: draw(layer) for layer in layers(row)} for row in rows]


def fold_weights(rows: Sequence[Row], state_dict: Mapping[str, torch.Tensor], bn_eps: float = BN_EPS) -> list[Weights]:
    """Weights for each row of a whole network from a stock timm MobileNetV3; raises `InputError` naming the tensor."""
    def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in state_dict:
            raise InputError(f'weights hold no {name!r}; give the state_dict of the timm model of this very arch')
        if tuple(state_dict[name].shape) != shape:
            raise InputError(
                f'weights {name!r} are {tuple(state_dict[name].shape)}, the network needs {shape}; '
                'give the state_dict of the timm model of this very arch')
        return state_dict[name].detach().double().cpu().numpy()

    def fold(prefix: str, layer: Layer) -> tuple[np.ndarray, np.ndarray | None]:
        name, norm = (f'{prefix}{part}' for part in (layer.name, layer.norm))
        if prefix == STEM:
            name, norm = 'conv_stem', layer.norm
        weight, chs = tensor(f'{name}.weight', layer.shape), layer.shape[:1]
        bias = tensor(f'{name}.bias', chs) if layer.bias or f'{name}.bias' in state_dict else None
        if layer.norm:
            gain = tensor(f'{norm}.weight', chs) / np.sqrt(tensor(f'{norm}.running_var', chs) + bn_eps)
            weight = weight * gain.reshape(-1, *[1] * (weight.ndim - 1))
            bias = tensor(f'{norm}.bias', chs) - gain * tensor(f'{norm}.running_mean', chs)
        return weight.astype(np.float32), None if bias is None else bias.astype(np.float32)

    prefixes = _prefixes(rows, state_dict)
    return [{la.name: fold(prefix, la) for la in layers(row)} for prefix, row in zip(prefixes, rows)]


def _prefixes(rows: Sequence[Row], state_dict: Mapping) -> list[str]:
    """Where each row of a whole network lies in timm's state dict: the stem, 'blocks.S.B.' in order, the head."""
    matches = [re.match(r'blocks\.(\d+)\.(\d+)\.', name) for name in state_dict]
    blocks = sorted({tuple(map(int, match.groups())) for match in matches if match})
    whole = len(rows) > 2 and rows[0].kind == 'conv' and rows[-1].kind == 'head'
    if not whole or len(blocks) != len(rows) - 2:
        raise InputError(
            f'weights of {len(blocks)} blocks do not fit {len(rows)} rows; '
            'give all rows of the network and the state_dict of its timm model')
    return [STEM, *(f'blocks.{s}.{b}.' for s, b in blocks), '']


def row_weights(rows: Sequence[Row], weights: Mapping | None, bn_eps: float, seed: int) -> list[Weights]:
    """What every runtime runs: a state dict folded, or random numbers of that seed."""
    return random_weights(rows, seed) if weights is None else fold_weights(rows, weights, bn_eps)


def input_shape(rows: Sequence[Row], batch_size: int = 1) -> tuple[int, int, int, int]:
    """(N, C, H, W) that a list of rows takes."""
    return batch_size, rows[0].in_chs, rows[0].size, rows[0].size


def random_input(rows: Sequence[Row], batch_size: int = 1, seed: int = 0) -> np.ndarray:
    """(N, C, H, W) float32 for a list of rows, standard normal."""
    return np.random.default_rng(seed).standard_normal(input_shape(rows, batch_size), np.float32)


# ---- ONNX -------------------------------------------------------------------------------------------------------


def to_onnx(rows: Sequence[Row], *, weights: Mapping[str, torch.Tensor] | None = None, bn_eps: float = BN_EPS,
            seed: int = 0, batch_size: int = 1, opset: int = OPSET) -> bytes:
    """An ONNX file of the rows: input 'x' (N, C, H, W), output 'y', (N, classes) behind a head.

    Args:
        weights: State dict of the stock timm model of the whole network; None: random.
        bn_eps: Of that model's BatchNorms.
    """
    graph = _Graph()
    last = 'x'
    for row, own in zip(rows, row_weights(rows, weights, bn_eps, seed)):
        last = graph.row(last, row, own)
    end = rows[-1]
    flat = end.kind in ('head', 'mean')
    return graph.file(
        last, input_shape(rows, batch_size),
        (batch_size, end.out_chs) if flat else (batch_size, end.out_chs, end.out_size, end.out_size), opset)


class _Graph:
    """Collects nodes and weights; each method adds nodes behind the tensor `x` and returns the name of the result."""

    def __init__(self) -> None:
        import onnx
        self._onnx = onnx
        self._nodes: list = []
        self._tensors: list = []

    def row(self, x: str, row: Row, weights: Weights) -> str:
        if row.kind == 'mean':
            return self._node('Flatten', self._node('GlobalAveragePool', x))
        if row.kind == 'head':
            x = self._act(self._conv(self._node('GlobalAveragePool', x), weights['conv_head']), row.act)
            weight, bias = weights['classifier']
            return self._node('Gemm', self._node('Flatten', x), self._tensor(weight), self._tensor(bias), transB=1)
        if row.kind == 'conv':
            return self._act(self._conv(x, weights['conv'], row.stride), row.act)
        y = x
        if row.kind == 'ir':
            y = self._act(self._conv(y, weights['conv_pw']), row.act)
        y = self._act(self._conv(y, weights['conv_dw'], row.stride, groups=row.mid_chs), row.act)
        if row.se_chs:
            y = self._squeeze_excite(y, weights)
        y = self._conv(y, weights['conv_pwl' if row.kind == 'ir' else 'conv_pw'])
        return self._node('Add', y, x) if row.skip else y

    def file(self, last: str, in_shape: tuple[int, ...], out_shape: tuple[int, ...], opset: int) -> bytes:
        helper, float32 = self._onnx.helper, self._onnx.TensorProto.FLOAT
        self._nodes[-1].output[0] = 'y'
        graph = helper.make_graph(
            self._nodes, 'timm_ofa', [helper.make_tensor_value_info('x', float32, in_shape)],
            [helper.make_tensor_value_info('y', float32, out_shape)], self._tensors)
        model = helper.make_model(
            graph, producer_name='timm_ofa', opset_imports=[helper.make_opsetid('', opset)], ir_version=IR_VERSION)
        return model.SerializeToString()

    def _conv(self, x: str, weight_and_bias: tuple, stride: int = 1, groups: int = 1) -> str:
        weight, bias = weight_and_bias
        inputs = [self._tensor(weight)] + ([] if bias is None else [self._tensor(bias)])
        kernel = weight.shape[-1]
        return self._node(
            'Conv', x, *inputs, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4, group=groups)

    def _act(self, x: str, act: str) -> str:
        if act == 'r6':
            return self._node('Clip', x, self._tensor(np.float32(0)), self._tensor(np.float32(6)))
        return self._node({'re': 'Relu', 'hs': 'HardSwish'}[act], x)

    def _squeeze_excite(self, x: str, weights: Weights) -> str:
        gate = self._node('Relu', self._conv(self._node('GlobalAveragePool', x), weights['se.conv_reduce']))
        gate = self._node('HardSigmoid', self._conv(gate, weights['se.conv_expand']), alpha=1 / 6, beta=0.5)
        return self._node('Mul', x, gate)

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
    """Global mean, 1x1 conv, act, linear: (N, C, H, W) -> (N, classes)."""

    def __init__(self, row: Row, bias: bool) -> None:
        super().__init__()
        self.conv_head = nn.Conv2d(row.in_chs, row.mid_chs, 1, bias=bias)
        self.act = get_act_layer(ACT_NAMES[row.act])(inplace=True)
        self.classifier = nn.Linear(row.mid_chs, row.out_chs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.conv_head(x.mean((2, 3), keepdim=True)))
        return self.classifier(x.flatten(1))


def _torch_row(row: Row, weights: Weights) -> nn.Module:
    if row.kind == 'mean':
        return _Mean()
    module = _Head(row, bias=weights['conv_head'][1] is not None) if row.kind == 'head' else _torch_block(row)
    for layer in layers(row):
        weight, bias = weights[layer.name]
        own, norm = module.get_submodule(layer.name), module.get_submodule(layer.norm) if layer.norm else None
        own.weight.data.copy_(torch.from_numpy(weight))
        if norm is not None:  # mean 0, variance 1, gain 1: the bias is all that it adds
            norm.running_var.fill_(1 - norm.eps)
        if bias is not None:
            (norm or own).bias.data.copy_(torch.from_numpy(bias))
    return module


def _torch_block(row: Row) -> nn.Module:
    builder = EfficientNetBuilder(
        se_from_exp=True, act_layer=nn.ReLU, norm_layer=nn.BatchNorm2d,
        se_layer=partial(
            SqueezeExcite, gate_layer='hard_sigmoid', force_act_layer=nn.ReLU, rd_round_fn=round_channels))
    return builder(row.in_chs, decode_arch_def([[row.block]]))[0][0]
