"""timm's blocks at any kernel size and share of their middle channels, for spaces that are read off networks.

A new kind of block is a class here: timm's class, its name in rows, and its chain of convolutions. What may vary
follows from the chain. The middle channels are those from the first dense convolution to the last; an elastic kernel is
that of the last depthwise convolution before the last dense one.
"""
from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame, pad_same
from timm.models import _efficientnet_blocks as mobile
from timm.models import byobnet, resnet
from torch import fx, nn

from ..spaces import Block
from .chain import Chain, Link
from .depthwise import ElasticKernel, depthwise_conv
from .elastic import ElasticBottleneck, ElasticInvertedResidual, Importance, descending, l1_norm, permute_outputs
from .layers import dense_conv, first_channels_norm_act, squeeze_excite
from .slices import first_channels

for _name in ('dense_conv', 'depthwise_conv', 'first_channels', 'pad_same'):
    fx.wrap(_name)  # a trace keeps the calls of this module whole


def middle(chain: Chain) -> range:
    """The links of a chain that give middle channels."""
    dense = [i for i, link in enumerate(chain.links) if not link.depthwise]
    return range(dense[0], dense[-1])


def kernel_link(chain: Chain) -> int | None:
    """The link whose kernel may be smaller; None if there is none."""
    dense = [i for i, link in enumerate(chain.links) if not link.depthwise]
    return max((i for i, link in enumerate(chain.links) if link.depthwise and i < dense[-1]), default=None)


class ElasticBlock(ElasticKernel):
    """A block of timm's that runs at any kernel size and expand ratio of `facts`.

    A stock block becomes elastic in place, see `make_elastic`. It keeps its layers, its attributes and the names of
    its tensors.
    """
    kind: ClassVar[str]  # in the names of rows
    if TYPE_CHECKING:
        facts: Block
        own: Chain
        drop_path: Any

    @staticmethod
    def chain(block: Any) -> Chain:
        """The convolutions of an elastic or a stock block, in order."""
        raise NotImplementedError

    def make_elastic(self, facts: Block) -> None:
        self.facts, self.own = facts, self.chain(self)
        self.middle, self.kernel_link = middle(self.own), kernel_link(self.own)
        weight = self.own.links[self.kernel_link or 0].conv.weight
        sides = {*facts.kernel_sizes, weight.shape[-1]} if self.kernel_link is not None else set()
        self.add_matrices(sides, weight)

    def mid_chs(self, expand_ratio: float | None) -> int:
        """Active middle channels; for None, all."""
        return self.facts.mid_chs if expand_ratio is None else self.facts.active_mid_chs(expand_ratio)

    def kernels(self, kernel_size: int, expand_ratio: float) -> dict[str, torch.Tensor]:
        if self.kernel_link is None:
            return {}
        conv = self.own.links[self.kernel_link].conv
        chs = self.mid_chs(expand_ratio) if self.kernel_link in self.middle else conv.out_channels
        name = next(name for name, module in self.named_modules() if module is conv)
        return {f'{name}.weight': self.smaller(conv.weight[:chs], kernel_size)}

    def active(self, kernel_size: int | None, mid: int) -> list[list[torch.Tensor]]:
        """The active slices of each link: weight of the convolution, weight and bias of its BatchNorm, weights and
        biases of squeeze-and-excite."""
        first: list[tuple[int, torch.Tensor, tuple[int, ...]]] = []  # link, tensor, lengths of the first dimensions
        last: list[tuple[int, torch.Tensor, tuple[int, ...]]] = []  # these keep their type in mixed precision
        for i, link in enumerate(self.own.links):
            out = mid if i in self.middle else link.conv.out_channels
            shape = (out,) if link.depthwise else (out, mid if i - 1 in self.middle else link.conv.in_channels)
            transformed = i == self.kernel_link and kernel_size not in (None, link.conv.kernel_size[0])
            (last if transformed else first).append((i, link.conv.weight, shape))
            last += [(i, link.norm.weight, (out,)), (i, link.norm.bias, (out,))]
            if i in self.middle:
                for se in (layer for layer in link.then if isinstance(layer, mobile.SqueezeExcite)):
                    reduce, expand, hidden = se.conv_reduce, se.conv_expand, se.conv_reduce.out_channels
                    assert reduce.bias is not None and expand.bias is not None
                    first += [(i, reduce.weight, (hidden, mid)), (i, reduce.bias, (hidden,)),
                              (i, expand.weight, (mid, hidden)), (i, expand.bias, (mid,))]
        parts = first + last
        slices = first_channels([part[1] for part in parts], [part[2] for part in parts], len(first))
        found: list[dict[int, torch.Tensor]] = [{} for _ in self.own.links]
        for n, (i, tensor, _) in enumerate(parts):
            found[i][id(tensor)] = slices[n]
        return [self._ordered(link, own) for link, own in zip(self.own.links, found)]

    @staticmethod
    def _ordered(link: Link, own: dict[int, torch.Tensor]) -> list[torch.Tensor]:
        leading = [own.pop(id(tensor)) for tensor in (link.conv.weight, link.norm.weight, link.norm.bias)]
        return [*leading, *own.values()]

    def forward(self, x: torch.Tensor, kernel_size: int | None = None, expand_ratio: float | None = None,
                ) -> torch.Tensor:
        """x (N, C, H, W) at a kernel size and expand ratio; None means the largest."""
        mid, y = self.mid_chs(expand_ratio), x
        for i, (link, (weight, scale, shift, *squeeze)) in enumerate(
                zip(self.own.links, self.active(kernel_size, mid))):
            if i == self.kernel_link:
                weight = self.smaller(weight, kernel_size)
            y = convolve(y, weight, link)
            y = first_channels_norm_act(link.norm, y, scale, shift, mid if i in self.middle else link.norm.num_features)
            for layer in link.then:
                y = squeeze_excite(layer, y, squeeze) if squeeze and isinstance(layer, mobile.SqueezeExcite) else (
                    layer(y))
        if self.drop_path is not None:
            y = self.drop_path(y)
        shortcut, act = self.own.shortcut, self.own.act  # an identity may be no layer of the block
        if shortcut is not None:
            y = y + (x if isinstance(shortcut, nn.Identity) else shortcut(x))
        return y if isinstance(act, nn.Identity) else act(y)

    @torch.no_grad()
    def sort_channels(self, keep: Sequence[Block] = (), importance: Importance = l1_norm) -> None:
        """Order the middle channels by importance for their reader, the most important first.

        The function of the whole block stays the same; with `keep`, that of the same block at these expand ratios as
        well.
        """
        borders = [self.mid_chs(ratio) for block in keep for ratio in block.expand_ratios]
        links = self.own.links
        dense = [i for i, link in enumerate(links) if not link.depthwise]
        for writer, reader in reversed(list(pairwise(dense))):
            conv = links[reader].conv
            order = descending(importance(conv), borders)
            conv.weight.copy_(conv.weight[:, order])
            for link in links[writer:reader]:
                permute_outputs(link.conv, order)
                permute_outputs(link.norm, order)
                for se in (layer for layer in link.then if isinstance(layer, mobile.SqueezeExcite)):
                    permute_outputs(se.conv_expand, order)
                    se.conv_reduce.weight.copy_(se.conv_reduce.weight[:, order])


def convolve(x: torch.Tensor, weight: torch.Tensor, link: Link) -> torch.Tensor:
    """The convolution of a link with a part of its weight, padded as the link's own."""
    conv = link.conv
    if isinstance(conv, Conv2dSame):
        return conv_same(x, weight, conv.stride, link.depthwise)
    if link.depthwise:
        return depthwise_conv(x, weight, conv.stride)
    assert not isinstance(conv.padding, str)
    return dense_conv(x, weight, conv.stride, conv.padding)


@fx.wrap
def conv_same(x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], depthwise: bool) -> torch.Tensor:
    """Convolution of x (N, C, H, W) with weight (O, C, K, K), padded as TensorFlow does.

    For an even side and stride 2 that is one pixel later than padding by half a kernel. So, in training, a depthwise
    convolution is the one that is fast there, of an image with one more row and column, without its first results.
    """
    side = weight.shape[-1]
    even = x.shape[-1] % 2 == x.shape[-2] % 2 == 0
    if depthwise and torch.is_grad_enabled() and even and tuple(stride) == (2, 2) and side > 3:
        return depthwise_conv(F.pad(x, (1, 0, 1, 0)), weight, stride)[:, :, 1:, 1:]
    x = pad_same(x, [side, side], list(stride))
    return F.conv2d(x, weight, None, stride, groups=len(weight) if depthwise else 1)


def _there(*layers: Any) -> tuple[Any, ...]:
    return tuple(layer for layer in layers if layer is not None and not isinstance(layer, nn.Identity))


def _skip(block: Any) -> nn.Module | None:
    return nn.Identity() if block.has_skip else None


# ---- the kinds of blocks ---------------------------------------------------------------------------------------------


class InvertedResidual(ElasticBlock, mobile.InvertedResidual):
    kind = 'ir'

    @staticmethod
    def chain(block: Any) -> Chain:
        return ElasticInvertedResidual.chain(block)


class DepthwiseSeparable(ElasticBlock, mobile.DepthwiseSeparableConv):
    kind = 'ds'

    @staticmethod
    def chain(block: Any) -> Chain:
        return Chain((Link(block.conv_dw, block.bn1, _there(block.se)), Link(block.conv_pw, block.bn2)), _skip(block))


class EdgeResidual(ElasticBlock, mobile.EdgeResidual):
    kind = 'er'

    @staticmethod
    def chain(block: Any) -> Chain:
        return Chain((Link(block.conv_exp, block.bn1, _there(block.se)), Link(block.conv_pwl, block.bn2)), _skip(block))


class ConvBnAct(ElasticBlock, mobile.ConvBnAct):
    kind = 'cn'

    @staticmethod
    def chain(block: Any) -> Chain:
        return Chain((Link(block.conv, block.bn1),), _skip(block))


class UniversalInvertedResidual(ElasticBlock, mobile.UniversalInvertedResidual):
    kind = 'uir'

    @staticmethod
    def chain(block: Any) -> Chain:
        before = _there(block.dw_start, block.pw_exp, block.dw_mid)
        links = [Link(layer.conv, layer.bn, _there(block.se) if layer is before[-1] else ()) for layer in before]
        links += [Link(layer.conv, layer.bn) for layer in _there(block.pw_proj, block.dw_end)]
        return Chain(tuple(links), _skip(block))


class ResNetBasic(ElasticBlock, resnet.BasicBlock):
    kind = 'basic'

    @staticmethod
    def chain(block: Any) -> Chain:
        links = (Link(block.conv1, block.bn1, (block.act1,)), Link(block.conv2, block.bn2, _there(block.se)))
        return Chain(links, block.downsample or nn.Identity(), block.act2)


class ResNetBottleneck(ElasticBlock, resnet.Bottleneck):
    kind = 'bottle'

    @staticmethod
    def chain(block: Any) -> Chain:
        links = (Link(block.conv1, block.bn1, (block.act1,)), Link(block.conv2, block.bn2, (block.act2,)),
                 Link(block.conv3, block.bn3, _there(block.se)))
        return Chain(links, block.downsample or nn.Identity(), block.act3)


class ByobBasic(ElasticBlock, byobnet.BasicBlock):
    kind = 'basic'

    @staticmethod
    def chain(block: Any) -> Chain:
        layers = block.conv1_kxk, block.conv2_kxk
        return Chain(tuple(Link(layer.conv, layer.bn) for layer in layers), block.shortcut, block.act)


class ByobBottleneck(ElasticBlock, byobnet.BottleneckBlock):
    kind = 'bottle'

    @staticmethod
    def chain(block: Any) -> Chain:
        return ElasticBottleneck.chain(block)


KINDS: dict[type[nn.Module], type[ElasticBlock]] = {kind.__bases__[1]: kind for kind in ElasticBlock.__subclasses__()}


def make_elastic(block: nn.Module, facts: Block) -> None:
    """Let a stock block become elastic, in place."""
    block.__class__ = KINDS[type(block)]
    assert isinstance(block, ElasticBlock)
    block.make_elastic(facts)
