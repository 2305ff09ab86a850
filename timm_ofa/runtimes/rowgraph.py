"""A network written operator by operator, from its rows; a subclass for each file format supplies the operators.

Any contiguous part of a network will do: one block, or all of `space.rows(arch)`. BatchNorm is already folded into the
convolutions (`layers`).
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from ..spaces import Row, Step
from .layers import Weights, row_weights

WeightAndBias = tuple[np.ndarray, np.ndarray | None]


class RowGraph(Protocol):
    """Walks over rows and calls the operators, which take names of tensors (N, C, H, W) and return the name of one."""

    def conv(self, x: str, weight_and_bias: WeightAndBias, stride: int = 1, groups: int = 1,
             pads: tuple[int, int] = (0, 0)) -> str:
        """A convolution of an image with `pads` zeros before and after it, in both directions."""

    def act(self, x: str, act: str) -> str:
        """An activation: 're', 'r6', 'hs' or 'sw', as in timm's strings; 'hard_sigmoid' or 'sigmoid'."""

    def add(self, x: str, y: str) -> str: ...

    def multiply(self, x: str, gate: str) -> str:
        """(N, C, H, W) times (N, C, 1, 1)."""

    def global_mean(self, x: str) -> str:
        """(N, C, H, W) -> (N, C, 1, 1)."""

    def max_pool(self, x: str) -> str:
        """3x3 with stride 2, padded by 1."""

    def average_pool(self, x: str, size: int) -> str:
        """2x2 with stride 2. Where `size` is odd, a window at the edge averages only what lies inside."""

    def flatten(self, x: str) -> str:
        """(N, C, 1, 1) -> (N, C)."""

    def linear(self, x: str, weight_and_bias: WeightAndBias) -> str: ...

    def network(self, x: str, rows: Sequence[Row], weights: Mapping | None, bn_eps: float, seed: int) -> str:
        """All rows, one after the other, with the weights of `layers.row_weights`."""
        for row, own in zip(rows, row_weights(rows, weights, bn_eps, seed)):
            x = self._row(x, row, own)
        return x

    def _row(self, x: str, row: Row, weights: Weights) -> str:
        y = self._steps(x, row.steps, weights)
        if row.skip or row.shortcut:
            y = self.add(y, self._steps(x, row.shortcut, weights))
        return self.act(y, row.last_act) if row.last_act else y

    def _steps(self, x: str, steps: Sequence[Step], weights: Weights) -> str:
        for step in steps:
            x = self._step(x, step, weights)
        return x

    def _step(self, x: str, step: Step, weights: Weights) -> str:
        match step.kind:
            case 'conv':
                x = self.conv(x, weights[step.name], step.stride, step.groups, step.pads)
                return self.act(x, step.act) if step.act else x
            case 'se':
                gate = self.act(self.conv(self.global_mean(x), weights[step.name]), step.act)
                return self.multiply(x, self.act(self.conv(gate, weights[step.second]), step.gate))
            case 'max':
                return self.max_pool(x)
            case 'average':
                return self.average_pool(x, step.size)
            case 'mean':
                return self.global_mean(x)
            case 'flatten':
                return self.flatten(x)
            case 'linear':
                return self.linear(x, weights[step.name])
        raise ValueError(f'no operator is known for {step.kind!r}')
