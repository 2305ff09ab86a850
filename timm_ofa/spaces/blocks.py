"""The parts of a network that a space was read off: what each of them is at its largest, and its row at any choice.

They are facts of one timm network. The layers of a block are listed with timm's names, so any kind of block has its row
without a rule of its own.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..fields import choice, number, text
from .arch import MAX_RESOLUTION, MAX_WIDTH
from .rows import Row, Step, conv, head_row, make_divisible, pool_row, row_of, squeeze_excite

ACTS = ('re', 'r6', 'hs', 'sw')  # names of timm's arch-def strings: ReLU, ReLU6, hard-swish, swish
GATES = ('hard_sigmoid', 'sigmoid')
NAME = r'[a-z]\w*(\.\w+)*|'  # of a layer


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer of a network, with the BatchNorm and the activation that follow it."""
    brief: ClassVar[bool] = True
    kind: str = choice('conv', 'se', 'max', 'average', default='conv')  # see `Step`
    name: str = text(NAME, default='')  # within its block; outside of the blocks, within the network
    norm: str = text(NAME, default='')
    width: int = number(0, MAX_WIDTH, default=0)  # output channels; 0: the middle channels of the block's choice
    kernel_size: int = number(0, 31, default=1)  # 0: that of the block's choice
    stride: int = number(1, 2, default=1)
    depthwise: bool = False  # its input and output channels are the same
    act: str = choice('', *ACTS, default='')
    bias: bool = False
    same: bool = False  # padded as TensorFlow does
    hidden: int = number(0, MAX_WIDTH, default=0)  # of squeeze-and-excite
    second: str = text(NAME, default='')  # of squeeze-and-excite: its second convolution
    gate: str = choice('', *GATES, default='')  # of squeeze-and-excite

    def step(self, size: int, in_chs: int, kernel_size: int = 0, mid_chs: int = 0) -> Step:
        """The layer on `in_chs` channels of an image of this side (px), at a choice of its block."""
        out = -(-size // self.stride)
        if self.kind == 'se':
            return squeeze_excite(size, in_chs, self.hidden, self.act, self.gate, (self.name, self.second))[0]
        if self.kind != 'conv':
            return Step(self.kind, size, in_chs, out, in_chs)
        width = in_chs if self.depthwise else self.width or mid_chs
        return conv(
            size, in_chs, width, self.name, self.norm, self.kernel_size or kernel_size, self.stride,
            groups=in_chs if self.depthwise else 1, act=self.act, bias=self.bias, same=self.same)


def _steps(layers: Sequence[Layer], size: int, in_chs: int, kernel_size: int = 0, mid_chs: int = 0) -> tuple[Step, ...]:
    found: list[Step] = []
    for layer in layers:
        found.append(layer.step(size, in_chs, kernel_size, mid_chs))
        size, in_chs = found[-1].out_size, found[-1].out_chs
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Block:
    """One block of a network: its layers, and its choices. An expand ratio is a share of its own middle channels."""
    brief: ClassVar[bool] = True
    kind: str = text(r'[a-z]+')  # for people and for the names of rows
    place: str = text(NAME)  # in the network
    width: int = number(1, MAX_WIDTH)  # output channels
    mid_chs: int = number(0, MAX_WIDTH, default=0)  # at the largest; 0: it has no middle
    kernel_sizes: tuple[int, ...] = number(1, MAX_RESOLUTION)
    expand_ratios: tuple[int | float, ...] = number(1e-6, 1)
    layers: tuple[Layer, ...]
    skip: bool = False  # whether it has an identity shortcut
    shortcut: tuple[Layer, ...] = ()  # the layers of another shortcut
    last_act: str = choice('', *ACTS, default='')  # behind the sum with the shortcut

    @property
    def stride(self) -> int:
        return max(layer.stride for layer in self.layers)

    def active_mid_chs(self, expand_ratio: float) -> int:
        """The middle channels of a choice; 0 for a block without a middle."""
        return self.mid_chs if expand_ratio == 1 else make_divisible(self.mid_chs * expand_ratio)

    def row(self, size: int, in_chs: int, kernel_size: int, expand_ratio: float) -> Row:
        """The block at a choice, on `in_chs` channels of an image of this side (px)."""
        mid = self.active_mid_chs(expand_ratio)
        steps = _steps(self.layers, size, in_chs, kernel_size, mid)
        shortcut = _steps(self.shortcut, size, in_chs)
        acts = [step.act for step in steps if step.kind == 'conv' and step.act] or [self.last_act]
        wide = mid or max((step.in_chs for step in steps if step.groups > 1), default=0)
        return row_of(
            self.kind, self._text(in_chs, kernel_size, mid, acts[0]), steps, act=acts[0], kernel_size=kernel_size,
            stride=self.stride, mid_chs=wide, skip=self.skip, shortcut=shortcut, last_act=self.last_act,
            place=f'{self.place}.')

    def _text(self, in_chs: int, kernel_size: int, mid_chs: int, act: str) -> str:
        """The name of its row: everything that decides what it costs, but the input's shape."""
        squeeze = [layer.hidden for layer in self.layers if layer.kind == 'se']
        others = [layer.kernel_size for layer in self.layers if layer.depthwise and layer.kernel_size]
        parts = [self.kind, 'r1', f'k{kernel_size}', *(f'x{k}' for k in others), f's{self.stride}']
        parts += [f'e{mid_chs / in_chs:g}'] * bool(mid_chs) + [f'c{self.width}', *(f'se{n}' for n in squeeze)]
        parts += [f'n{act}', *(f'd{layer.kind}' for layer in self.shortcut)]
        return '_'.join(parts + ['noskip'] * (not self.skip and not self.shortcut))


@dataclass(frozen=True, kw_only=True)
class Network:
    """The timm network that a space was read off, besides its stages. `name` builds it."""
    brief: ClassVar[bool] = True
    name: str = text(r'[a-z0-9_]+')
    stem: tuple[Layer, ...]
    last: Layer | None = None  # between the last stage and the pool
    features: Layer | None = None  # between the pool and the classifier
    classifier: str = text(NAME)

    @property
    def stem_reduction(self) -> int:
        """The factor by which the stem shrinks the side of an image."""
        return math.prod(layer.stride * (2 if layer.kind == 'max' else 1) for layer in self.stem)

    def rows_before(self, resolution: int) -> list[Row]:
        """The rows of the stem."""
        size, in_chs, found = resolution, 3, []
        for layer in self.stem:
            found.append(pool_row(size, in_chs, '') if layer.kind == 'max' else _conv_row(layer, size, in_chs))
            size, in_chs = found[-1].out_size, found[-1].out_chs
        return found

    def rows_after(self, size: int, in_chs: int, num_classes: int) -> list[Row]:
        """The rows behind the last stage."""
        last = [] if self.last is None else [_conv_row(self.last, size, in_chs)]
        own = self.features or Layer()
        head = head_row(
            size, self.last.width if self.last else in_chs, own.width, num_classes, own.act, name=self.classifier,
            norm=own.norm, bias=own.bias, place='')
        return [*last, head]


def _conv_row(layer: Layer, size: int, in_chs: int) -> Row:
    step = layer.step(size, in_chs)
    text = f'cn_r1_k{layer.kernel_size}_s{layer.stride}_c{layer.width}_n{layer.act}'
    return row_of('conv', text + '_bias' * layer.bias, (step,), act=layer.act, kernel_size=layer.kernel_size,
                  stride=layer.stride, place='')
