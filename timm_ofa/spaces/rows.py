"""The rows of a network: what each of them computes, what it costs, and its name.

A `Row` is one block at a given input shape, as a list of `Step`s. Building, pricing, measuring and cards use it. MACs
count convolutions and linear layers; parameters count all of them. A new kind of row is a list of steps.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


def make_divisible(value: float) -> int:
    """Round to a multiple of 8, never below 90 % of `value` (the MobileNet rule)."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


def bottleneck_mid_chs(out_chs: int, expand_ratio: float) -> int:
    """The middle channels of a bottleneck: a share of its *output* channels, as in the original code."""
    return make_divisible(round(out_chs * expand_ratio))


class Step(NamedTuple):
    """One layer of a row, with the BatchNorm and the activation that follow it.

    `kind` is one of
    - 'conv': convolution, BatchNorm if it has a `norm`, activation if it has an `act`
    - 'se': squeeze-and-excite with `hidden` units
    - 'max', 'average': pool of stride 2, over 3x3 or 2x2; a window at the edge averages only what lies inside
    - 'mean': global mean; 'flatten': (N, C, 1, 1) -> (N, C)
    - 'linear'
    """
    kind: str
    size: int  # side of the input, px
    in_chs: int
    out_size: int
    out_chs: int
    name: str = ''  # of the layer, within its block; of 'se': of its first convolution
    norm: str = ''  # of the BatchNorm that follows; '': none
    kernel_size: int = 1
    stride: int = 1
    groups: int = 1
    act: str = ''  # '': none
    bias: bool = False
    same: bool = False  # padded as TensorFlow does: the more on the right, the more the input needs
    hidden: int = 0  # of 'se'
    second: str = ''  # of 'se': name of its second convolution
    gate: str = ''  # of 'se': 'hard_sigmoid' or 'sigmoid'

    @property
    def weights(self) -> int:
        """The weights of convolutions and linear layers, without biases."""
        if self.kind == 'se':
            return 2 * self.in_chs * self.hidden
        weighted = self.kind in ('conv', 'linear')
        return self.kernel_size**2 * self.in_chs * self.out_chs // self.groups if weighted else 0

    @property
    def macs(self) -> int:
        return self.weights * (1 if self.kind == 'se' else self.out_size**2)

    @property
    def biases(self) -> int:
        """The biases; a BatchNorm counts as one."""
        return self.in_chs + self.hidden if self.kind == 'se' else self.out_chs * bool(self.bias or self.norm)

    @property
    def pads(self) -> tuple[int, int]:
        """What a convolution adds before and after the image, in both directions, px."""
        if not self.same or self.stride == 1:
            return self.kernel_size // 2, self.kernel_size // 2
        missing = max(0, (self.out_size - 1) * self.stride + self.kernel_size - self.size)
        return missing // 2, missing - missing // 2


@dataclass(frozen=True)
class Row:
    """One row of a network: `block` in timm's arch-def grammar, at a given input shape.

    Its steps follow one another; then its input is added if it has a shortcut. `kind` is one of
    - 'conv': convolution, BN, activation
    - 'res': the same, then its input is added
    - 'pool': max-pool 3x3 of stride 2
    - 'ds': depthwise separable block
    - 'ir': inverted residual block
    - 'bottle': ResNet bottleneck; if it has no identity shortcut, its shortcut is an average pool of the stride, a 1x1
      convolution and BN
    - 'head': global pool, then (if it has features) a 1x1 convolution and an activation, then linear
    - a kind of block of timm's, see `blocks`
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
    steps: tuple[Step, ...] = field(default=(), compare=False)
    shortcut: tuple[Step, ...] = field(default=(), compare=False)  # on the input, before it is added
    last_act: str = field(default='', compare=False)  # after the addition
    place: str | None = field(default=None, compare=False)  # prefix of the layers' names; None: see `layers`

    @property
    def key(self) -> str:
        """The name of this row in device profiles, e.g. '56x56x24/ir_r1_k5_s2_e3_c40_se0.25_nre'."""
        return f'{self.size}x{self.size}x{self.in_chs}/{self.block}'

    @property
    def all_steps(self) -> tuple[Step, ...]:
        return self.steps + self.shortcut


def row_of(kind: str, block: str, steps: tuple[Step, ...], *, act: str, kernel_size: int = 1, stride: int = 1,
           mid_chs: int = 0, skip: bool = False, shortcut: tuple[Step, ...] = (), last_act: str = '',
           place: str | None = None) -> Row:
    """A row of these steps. Shapes and costs follow from them."""
    all_steps = steps + shortcut
    params = sum(s.weights + s.biases + s.out_chs * bool(s.norm) for s in all_steps)
    return Row(
        kind, block, steps[0].size, steps[0].in_chs, steps[-1].out_size, steps[-1].out_chs, kernel_size, stride,
        mid_chs, max(s.hidden for s in steps), act, skip, sum(s.macs for s in all_steps), params, steps, shortcut,
        last_act, place)


def conv(size: int, in_chs: int, out_chs: int, name: str, norm: str = '', kernel_size: int = 1, stride: int = 1,
         **more) -> Step:
    """A convolution, padded by half its kernel or as TensorFlow does. `more` are fields of `Step`."""
    return Step('conv', size, in_chs, -(-size // stride), out_chs, name, norm, kernel_size, stride, **more)


def squeeze_excite(size: int, chs: int, hidden: int, act: str = 're', gate: str = 'hard_sigmoid',
                   names: tuple[str, str] = ('se.conv_reduce', 'se.conv_expand')) -> tuple[Step, ...]:
    """Squeeze-and-excite of `chs` channels; nothing without hidden units."""
    return (Step('se', size, chs, size, chs, names[0], act=act, hidden=hidden, second=names[1], gate=gate),) * bool(
        hidden)


def conv_row(size: int, in_chs: int, out_chs: int, kernel_size: int, stride: int, act: str) -> Row:
    """Convolution, BatchNorm, activation."""
    step = conv(size, in_chs, out_chs, 'conv', 'bn1', kernel_size, stride, act=act)
    return row_of('conv', f'cn_r1_k{kernel_size}_s{stride}_c{out_chs}_n{act}', (step,), act=act,
                  kernel_size=kernel_size, stride=stride)


def residual_conv_row(size: int, chs: int, act: str) -> Row:
    """3x3 convolution, BatchNorm, activation; then the input is added."""
    step = conv(size, chs, chs, 'conv', 'bn', 3, act=act)
    return row_of('res', f'res_r1_k3_s1_c{chs}_n{act}', (step,), act=act, kernel_size=3, skip=True)


def pool_row(size: int, chs: int, place: str | None = None) -> Row:
    """Max-pool 3x3 of stride 2."""
    return row_of('pool', 'maxpool_k3_s2', (Step('max', size, chs, -(-size // 2), chs),), act='re', kernel_size=3,
                  stride=2, place=place)


def mobile_row(kind: str, size: int, in_chs: int, out_chs: int, kernel_size: int, stride: int, expand_ratio: float,
               act: str, se_ratio: float) -> Row:
    """Depthwise separable ('ds') or inverted residual ('ir') block."""
    out, expands, mid = -(-size // stride), kind == 'ir', make_divisible(in_chs * expand_ratio)
    hidden = make_divisible(mid * se_ratio) if se_ratio else 0
    names = (('conv_pw', 'bn1'), ('conv_dw', 'bn2'), ('conv_pwl', 'bn3')) if expands else (
        ('conv_dw', 'bn1'), ('conv_pw', 'bn2'))
    steps = (
        *([conv(size, in_chs, mid, *names[0], act=act)] if expands else []),
        conv(size, mid, mid, *names[-2], kernel_size, stride, groups=mid, act=act),
        *squeeze_excite(out, mid, hidden), conv(out, mid, out_chs, *names[-1]))
    se_part = f'_se{se_ratio:g}' if hidden else ''
    return row_of(
        kind, f'{kind}_r1_k{kernel_size}_s{stride}_e{expand_ratio:g}_c{out_chs}{se_part}_n{act}', steps, act=act,
        kernel_size=kernel_size, stride=stride, mid_chs=mid, skip=stride == 1 and in_chs == out_chs)


def bottleneck_row(size: int, in_chs: int, out_chs: int, kernel_size: int, stride: int, expand_ratio: float,
                   act: str) -> Row:
    """ResNet-D bottleneck. Its middle convolution has the stride."""
    out = -(-size // stride)
    mid, skip = bottleneck_mid_chs(out_chs, expand_ratio), stride == 1 and in_chs == out_chs
    steps = (
        conv(size, in_chs, mid, 'conv1_1x1.conv', 'conv1_1x1.bn', act=act),
        conv(size, mid, mid, 'conv2_kxk.conv', 'conv2_kxk.bn', kernel_size, stride, act=act),
        conv(out, mid, out_chs, 'conv3_1x1.conv', 'conv3_1x1.bn'))
    pool = [Step('average', size, in_chs, out, in_chs)] if stride > 1 else []
    shortcut = () if skip else (*pool, conv(out, in_chs, out_chs, 'shortcut.conv.conv', 'shortcut.conv.bn'))
    return row_of(
        'bottle', f'bottle_r1_k{kernel_size}_s{stride}_e{expand_ratio:g}_c{out_chs}_n{act}', steps, act=act,
        kernel_size=kernel_size, stride=stride, mid_chs=mid, skip=skip, shortcut=shortcut, last_act=act)


def head_row(size: int, in_chs: int, num_features: int, num_classes: int, act: str, *, name: str = 'classifier',
             norm: str = '', bias: bool = False, place: str | None = None) -> Row:
    """Global pool, then 1x1 convolution and activation (none if `num_features` is 0), then linear.

    `norm` and `bias` are of the convolution.
    """
    features = [conv(1, in_chs, num_features, 'conv_head', norm, act=act, bias=bias)] if num_features else []
    pooled = num_features or in_chs
    steps = (
        Step('mean', size, in_chs, 1, in_chs), *features, Step('flatten', 1, pooled, 1, pooled),
        Step('linear', 1, pooled, 1, num_classes, name, bias=True))
    more = '_bn' * bool(norm) + '_bias' * bias
    block = f'head_c{num_features}_n{act}{more}_{num_classes}' if num_features else f'head_{num_classes}'
    return row_of('head', block, steps, act=act, mid_chs=num_features, place=place)
