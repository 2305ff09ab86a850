"""A network written operator by operator, from its rows; a subclass for each file format supplies the operators.

Any contiguous part of a network will do: one block, or all of `space.rows(arch)`. BatchNorm is already folded into the
convolutions (`layers`).
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from ..spaces import Row
from .layers import Weights, row_weights

WeightAndBias = tuple[np.ndarray, np.ndarray | None]


class RowGraph(Protocol):
    """Walks over rows and calls the operators, which take names of tensors (N, C, H, W) and return the name of one."""

    def conv(self, x: str, weight_and_bias: WeightAndBias, stride: int = 1, groups: int = 1) -> str:
        """A convolution, padded on each side by half its kernel."""

    def act(self, x: str, act: str) -> str:
        """An activation: 're', 'r6' or 'hs', or 'gate', which is the hard sigmoid."""

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
