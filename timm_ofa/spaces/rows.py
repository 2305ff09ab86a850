"""The rows of a network: what each of them computes, what it costs, and its name.

A `Row` is one line of timm's arch-def grammar at a given input shape. Building, pricing, measuring and cards use it.
MACs count convolutions and linear layers; parameters count all of them.
"""
from __future__ import annotations

from dataclasses import dataclass


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round to a multiple of `divisor`, never below 90 % of `value` (the MobileNet rule)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def bottleneck_mid_chs(out_chs: int, expand_ratio: float) -> int:
    """The middle channels of a bottleneck: a share of its *output* channels, as in the original code."""
    return make_divisible(round(out_chs * expand_ratio))


@dataclass(frozen=True)
class Row:
    """One row of a network: `block` in timm's arch-def grammar, at a given input shape.

    `kind` is one of
    - 'conv': convolution, BN, activation
    - 'res': the same, then its input is added
    - 'pool': max-pool 3x3 of stride 2
    - 'ds': depthwise separable block
    - 'ir': inverted residual block
    - 'bottle': ResNet bottleneck; if it has no identity shortcut, its shortcut is an average pool of the stride, a 1x1
      convolution and BN
    - 'head': global pool, then (if it has features) a 1x1 convolution without bias and an activation, then linear
    """
    kind: str
    block: str
    size: int  # side of the input, px
    in_chs: int
    out_size: int
    out_chs: int  # of 'head': the classes
    kernel_size: int
    stride: int
    mid_chs: int  # depthwise or bottleneck channels; of 'head': the features, or 0; of 'conv', 'res', 'pool': 0
    se_chs: int  # 0: none
    act: str
    skip: bool  # whether it has an identity shortcut
    macs: int
    params: int

    @property
    def key(self) -> str:
        """The name of this row in device profiles, e.g. '56x56x24/ir_r1_k5_s2_e3_c40_se0.25_nre'."""
        return f'{self.size}x{self.size}x{self.in_chs}/{self.block}'


def conv_row(size: int, in_chs: int, out_chs: int, kernel_size: int, stride: int, act: str) -> Row:
    """Convolution, BatchNorm, activation."""
    out = -(-size // stride)
    weights = in_chs * out_chs * kernel_size**2
    return Row(
        'conv', f'cn_r1_k{kernel_size}_s{stride}_c{out_chs}_n{act}', size, in_chs, out, out_chs, kernel_size, stride,
        0, 0, act, False, macs=weights * out**2, params=weights + 2 * out_chs)


def residual_conv_row(size: int, chs: int, act: str) -> Row:
    """3x3 convolution, BatchNorm, activation; then the input is added."""
    weights = 9 * chs**2
    return Row(
        'res', f'res_r1_k3_s1_c{chs}_n{act}', size, chs, size, chs, 3, 1, 0, 0, act, True,
        macs=weights * size**2, params=weights + 2 * chs)


def pool_row(size: int, chs: int) -> Row:
    """Max-pool 3x3 of stride 2."""
    return Row('pool', 'maxpool_k3_s2', size, chs, -(-size // 2), chs, 3, 2, 0, 0, 're', False, macs=0, params=0)


def mobile_row(kind: str, size: int, in_chs: int, out_chs: int, kernel_size: int, stride: int, expand_ratio: float,
               act: str, se_ratio: float) -> Row:
    """Depthwise separable ('ds') or inverted residual ('ir') block."""
    out = -(-size // stride)
    expands = kind == 'ir'
    mid = make_divisible(in_chs * expand_ratio)
    se = make_divisible(mid * se_ratio) if se_ratio else 0
    se_part = f'_se{se_ratio:g}' if se else ''
    macs = (in_chs * mid * size**2 if expands else 0) + (kernel_size**2 * mid + mid * out_chs) * out**2 + 2 * mid * se
    params = (in_chs * mid + 2 * mid if expands else 0) + (kernel_size**2 + 2) * mid + (mid + 2) * out_chs
    return Row(
        kind, f'{kind}_r1_k{kernel_size}_s{stride}_e{expand_ratio:g}_c{out_chs}{se_part}_n{act}', size, in_chs, out,
        out_chs, kernel_size, stride, mid, se, act, stride == 1 and in_chs == out_chs,
        macs=macs, params=params + (2 * mid * se + mid + se if se else 0))


def bottleneck_row(size: int, in_chs: int, out_chs: int, kernel_size: int, stride: int, expand_ratio: float,
                   act: str) -> Row:
    """ResNet-D bottleneck. Its middle convolution has the stride."""
    out = -(-size // stride)
    mid, skip = bottleneck_mid_chs(out_chs, expand_ratio), stride == 1 and in_chs == out_chs
    shortcut = 0 if skip else in_chs * out_chs
    weights = kernel_size**2 * mid**2 + mid * out_chs + shortcut  # of the convolutions at the output's size
    return Row(
        'bottle', f'bottle_r1_k{kernel_size}_s{stride}_e{expand_ratio:g}_c{out_chs}_n{act}', size, in_chs, out, out_chs,
        kernel_size, stride, mid, 0, act, skip, macs=in_chs * mid * size**2 + weights * out**2,
        params=in_chs * mid + weights + 4 * mid + (2 if skip else 4) * out_chs)


def head_row(size: int, in_chs: int, num_features: int, num_classes: int, act: str) -> Row:
    """Global pool, then 1x1 convolution and activation (none if `num_features` is 0), then linear."""
    weights = num_features * (in_chs + num_classes) if num_features else in_chs * num_classes
    block = f'head_c{num_features}_n{act}_{num_classes}' if num_features else f'head_{num_classes}'
    return Row(
        'head', block, size, in_chs, 1, num_classes, 1, 1, num_features, 0, act, False,
        macs=weights, params=weights + num_classes)
