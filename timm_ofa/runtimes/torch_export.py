"""Rows of a network as a torch module, layer by layer: the reference for all other runtimes."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from timm.layers import SelectAdaptivePool2d
from torch import nn

from ..spaces import Row, Step
from .layers import BN_EPS, Weights, row_weights

ACTS = {'re': nn.ReLU, 'r6': nn.ReLU6, 'hs': nn.Hardswish, 'sw': nn.SiLU}
GATES = {'hard_sigmoid': nn.Hardsigmoid, 'sigmoid': nn.Sigmoid}

def to_torch(rows: Sequence[Row], *, weights: Mapping[str, torch.Tensor] | None = None, bn_eps: float = BN_EPS,
             seed: int = 0) -> nn.Sequential:
    """The rows as a module in eval mode, with one child for each row. BatchNorm stays a layer of its own.

    The arguments are those of `to_onnx`.
    """
    children = [_TorchRow(row, own) for row, own in zip(rows, row_weights(rows, weights, bn_eps, seed))]
    return nn.Sequential(*children).eval().requires_grad_(False)


class _TorchRow(nn.Module):
    """The steps of a row, and its shortcut."""

    def __init__(self, row: Row, weights: Weights) -> None:
        super().__init__()
        self.steps = nn.Sequential(*(_module(step, weights) for step in row.steps))
        self.shortcut = nn.Sequential(*(_module(step, weights) for step in row.shortcut))
        self.adds = row.skip or bool(row.shortcut)
        self.act = _act(row.last_act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.steps(x)
        return self.act(y + self.shortcut(x) if self.adds else y)


class _SqueezeExcite(nn.Module):
    def __init__(self, step: Step, weights: Weights) -> None:
        super().__init__()
        self.reduce = nn.Sequential(_conv(*weights[step.name]), _act(step.act))
        self.expand = nn.Sequential(_conv(*weights[step.second]), GATES[step.gate]())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.expand(self.reduce(x.mean((2, 3), keepdim=True)))


def _module(step: Step, weights: Weights) -> nn.Module:
    if step.kind == 'mean':
        return SelectAdaptivePool2d(pool_type='fast', flatten=False)
    if step.kind == 'flatten':
        return nn.Flatten()
    if step.kind == 'max':
        return nn.MaxPool2d(3, 2, 1)
    if step.kind == 'average':
        return nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
    if step.kind == 'se':
        return _SqueezeExcite(step, weights)
    weight, bias = weights[step.name]
    if step.kind == 'linear':
        linear = nn.Linear(step.in_chs, step.out_chs)
        linear.weight.data, linear.bias.data = torch.from_numpy(weight), torch.from_numpy(bias)
        return linear
    first, last = step.pads
    pad = [nn.ZeroPad2d((first, last, first, last))] if first != last else []
    conv = _conv(weight, None if step.norm else bias, step.stride, step.groups, 0 if pad else first)
    norm = [_norm(bias)] if step.norm and bias is not None else []
    return nn.Sequential(*pad, conv, *norm, _act(step.act))


def _conv(weight, bias, stride: int = 1, groups: int = 1, padding: int = 0) -> nn.Conv2d:
    out_chs, in_chs, side, _ = weight.shape
    conv = nn.Conv2d(in_chs * groups, out_chs, side, stride, padding, groups=groups, bias=bias is not None)
    conv.weight.data = torch.from_numpy(weight)
    if conv.bias is not None:
        conv.bias.data = torch.from_numpy(bias)
    return conv


def _norm(bias) -> nn.BatchNorm2d:
    """A BatchNorm that only adds its bias: with mean 0, variance 1 and gain 1."""
    norm = nn.BatchNorm2d(len(bias))
    norm.bias.data = torch.from_numpy(bias)
    norm.running_var = torch.full((len(bias),), 1 - norm.eps)
    return norm


def _act(act: str) -> nn.Module:
    return ACTS[act](inplace=True) if act else nn.Identity()
