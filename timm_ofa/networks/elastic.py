"""Blocks that run at any kernel size and expand ratio: timm's own layers, with the first channels of their weights.

An elastic block keeps the names and tensors of the stock block from which it is made. The active part is an argument of
`forward`, never state. Source: arXiv:1908.09791, section 3.3 (elastic kernel, width), figures 3 and 4.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from timm.layers import BatchNormAct2d, ConvNormAct
from timm.models._efficientnet_blocks import InvertedResidual, SqueezeExcite
from timm.models.byobnet import BottleneckBlock, DownsampleAvg
from torch import fx, nn

from ..spaces import Stage, bottleneck_mid_chs, make_divisible
from .chain import Chain, Link
from .depthwise import ElasticKernel, depthwise_conv
from .layers import dense_conv, first_channels_conv_norm_act, first_channels_norm_act, squeeze_excite
from .slices import first_channels

for _name in ('dense_conv', 'depthwise_conv', 'first_channels'):
    fx.wrap(_name)  # a trace keeps the calls of this module whole

Importance = Callable[[nn.Conv2d], torch.Tensor]  # how much each input channel (C,) of a convolution counts


def l1_norm(conv: nn.Conv2d) -> torch.Tensor:
    """Importance (C,) of each channel: the L1 norm of the weights that read it."""
    return conv.weight.abs().sum((0, 2, 3))


class ElasticInvertedResidual(ElasticKernel):
    """timm's `InvertedResidual` at any kernel size and expand ratio up to its own.

    It takes over the layers of the block that it is given.
    """
    if TYPE_CHECKING:  # TorchScript reads the annotations that are there when it runs
        conv_pw: nn.Conv2d
        bn1: BatchNormAct2d
        conv_dw: nn.Conv2d
        bn2: BatchNormAct2d
        se: SqueezeExcite
        conv_pwl: nn.Conv2d
        bn3: BatchNormAct2d
        drop_path: nn.Module
    feature_info = InvertedResidual.feature_info  # timm's feature extraction asks a block for it

    def __init__(self, block: InvertedResidual, kernel_sizes: Sequence[int], se_ratio: float):
        super().__init__()
        for name, layer in block.named_children():
            self.add_module(name, layer)
        self.has_skip = block.has_skip
        self.se_ratio = se_ratio
        self.add_matrices(kernel_sizes, self.conv_dw.weight)

    @staticmethod
    def chain(block: ElasticInvertedResidual | InvertedResidual) -> Chain:
        """Expansion, depthwise convolution and projection of an elastic or a stock block."""
        se = () if isinstance(block.se, nn.Identity) else (block.se,)
        links = Link(block.conv_pw, block.bn1), Link(block.conv_dw, block.bn2, se), Link(block.conv_pwl, block.bn3)
        return Chain(links, nn.Identity() if block.has_skip else None)

    def mid_chs(self, expand_ratio: float | None) -> int:
        """Active depthwise channels; for None, all."""
        if expand_ratio is None:
            return self.conv_dw.out_channels
        return make_divisible(self.conv_pw.in_channels * expand_ratio)

    def hidden_chs(self, mid_chs: int) -> int:
        """Active hidden units of squeeze-and-excite; 0 for a block without it."""
        return make_divisible(mid_chs * self.se_ratio) if self.se_ratio else 0

    def kernels(self, kernel_size: int, expand_ratio: float) -> dict[str, torch.Tensor]:
        return {'conv_dw.weight': self.kernel(kernel_size, self.mid_chs(expand_ratio))}

    def kernel(self, kernel_size: int | None, channels: int) -> torch.Tensor:
        """Depthwise weight (channels, 1, K, K) of a kernel size."""
        return self.smaller(self.conv_dw.weight[:channels], kernel_size)

    def active(self, kernel_size: int | None, mid: int) -> Sequence[torch.Tensor]:
        """The active slices of the weights, in this order.

        Weights and biases of squeeze-and-excite if there is one; weights of the projection, of the expansion, of the
        depthwise convolution before its matrices; weight and bias of the first and of the second BatchNorm.
        """
        norms = self.bn1.weight, self.bn1.bias, self.bn2.weight, self.bn2.bias
        parts: list[tuple[torch.Tensor, tuple[int, ...]]] = [
            (self.conv_pwl.weight, (self.conv_pwl.out_channels, mid)), (self.conv_pw.weight, (mid,)),
            (self.conv_dw.weight, (mid,)), *((norm, (mid,)) for norm in norms)]
        if self.se_ratio:
            reduce, excite, hidden = self.se.conv_reduce, self.se.conv_expand, self.hidden_chs(mid)
            assert reduce.bias is not None and excite.bias is not None
            parts = [
                (reduce.weight, (hidden, mid)), (reduce.bias, (hidden,)), (excite.weight, (mid, hidden)),
                (excite.bias, (mid,)), *parts]
        tensors, shapes = zip(*parts)
        transformed = kernel_size not in (None, self.conv_dw.kernel_size[0])
        return first_channels(tensors, shapes, len(parts) - 4 - transformed)

    def forward(
            self,
            x: torch.Tensor,
            kernel_size: int | None = None,
            expand_ratio: float | None = None,
    ) -> torch.Tensor:
        """x (N, C, H, W) at a kernel size and expand ratio; None means the largest."""
        shortcut, mid = x, self.mid_chs(expand_ratio)
        weights = self.active(kernel_size, mid)
        project, expand, depthwise, scale1, shift1, scale2, shift2 = weights[-7:]
        x = first_channels_norm_act(self.bn1, dense_conv(x, expand), scale1, shift1, mid)
        x = depthwise_conv(x, self.smaller(depthwise, kernel_size), self.conv_dw.stride)
        x = first_channels_norm_act(self.bn2, x, scale2, shift2, mid)
        if self.se_ratio:
            x = squeeze_excite(self.se, x, weights[:-7])
        x = self.bn3(dense_conv(x, project))
        return self.drop_path(x) + shortcut if self.has_skip else x

    @torch.no_grad()
    def sort_channels(self, keep: Sequence[Stage] = (), importance: Importance = l1_norm) -> None:
        """Order the middle channels by importance for the projection, the most important first.

        The function of the whole block stays the same. `keep` holds choices that are trained already: channels then
        move only between the borders of their expand ratios, so that the narrower blocks stay the same as well.
        """
        borders = [self.mid_chs(ratio) for stage in keep for ratio in stage.expand_ratios]
        order = descending(importance(self.conv_pwl), borders)
        self.conv_pwl.weight.copy_(self.conv_pwl.weight[:, order])
        for layer in (self.bn2, self.conv_dw, self.bn1, self.conv_pw):
            permute_outputs(layer, order)
        if self.se_ratio:
            reduce, expand = self.se.conv_reduce, self.se.conv_expand
            permute_outputs(expand, order)
            reduce.weight.copy_(reduce.weight[:, order])
            order = descending(importance(expand), [self.hidden_chs(border) for border in borders])
            expand.weight.copy_(expand.weight[:, order])
            permute_outputs(reduce, order)


class ElasticBottleneck(nn.Module):
    """timm's `BottleneckBlock` at any input width, expand ratio and output width up to its own.

    It takes over the layers of the block that it is given. Its input has the width of the stage before.
    """
    if TYPE_CHECKING:
        shortcut: DownsampleAvg | nn.Identity
        conv1_1x1: ConvNormAct
        conv2_kxk: ConvNormAct
        conv3_1x1: ConvNormAct
        drop_path: nn.Module
        act: nn.Module

    def __init__(self, block: BottleneckBlock):
        super().__init__()
        for name in ('shortcut', 'conv1_1x1', 'conv2_kxk', 'conv3_1x1', 'drop_path', 'act'):
            self.add_module(name, getattr(block, name))

    @staticmethod
    def chain(block: ElasticBottleneck) -> Chain:
        """The three convolutions of an elastic or a stock block."""
        layers = block.conv1_1x1, block.conv2_kxk, block.conv3_1x1
        return Chain(tuple(Link(layer.conv, layer.bn) for layer in layers), block.shortcut, block.act)

    def forward(self, x: torch.Tensor, expand_ratio: float | None = None, width: int | None = None) -> torch.Tensor:
        """x (N, C, H, W) at an expand ratio and output width; None means the largest."""
        out = self.conv3_1x1.conv.out_channels if width is None else width
        mid = self.conv1_1x1.conv.out_channels if expand_ratio is None else bottleneck_mid_chs(out, expand_ratio)
        y = first_channels_conv_norm_act(self.conv1_1x1, x, mid)
        y = first_channels_conv_norm_act(self.conv2_kxk, y, mid)
        y = first_channels_conv_norm_act(self.conv3_1x1, y, out)
        if isinstance(self.shortcut, DownsampleAvg):
            assert isinstance(self.shortcut.conv, ConvNormAct)
            x = first_channels_conv_norm_act(self.shortcut.conv, self.shortcut.pool(x), out)
        return self.act(self.drop_path(y) + x)

    @torch.no_grad()
    def sort_channels(self, keep: Sequence[Stage] = (), importance: Importance = l1_norm) -> None:
        """Order the channels between the convolutions by importance for their reader, the most important first.

        The function of the whole block stays the same; with `keep`, that of the same block at these expand ratios and
        widths as well.
        """
        borders = [bottleneck_mid_chs(width, ratio) for stage in keep for width in stage.widths
                   for ratio in stage.expand_ratios]
        for writer, reader in ((self.conv2_kxk, self.conv3_1x1), (self.conv1_1x1, self.conv2_kxk)):
            order = descending(importance(reader.conv), borders)
            reader.conv.weight.copy_(reader.conv.weight[:, order])
            permute_outputs(writer.conv, order)
            permute_outputs(writer.bn, order)


def descending(importance: torch.Tensor, borders: Sequence[int]) -> torch.Tensor:
    """Indices (C,) that sort importance (C,) downward within each group between the borders."""
    edges = [0, *sorted({border for border in borders if border < len(importance)}), len(importance)]
    return torch.cat([
        start + torch.argsort(importance[start:end], descending=True, stable=True)
        for start, end in pairwise(edges)])


def permute_outputs(layer: nn.Module, order: torch.Tensor) -> None:
    """Reorder a layer's output channels: weights, biases and running statistics."""
    for tensor in (*layer.parameters(recurse=False), *layer.buffers(recurse=False)):
        if tensor.ndim:  # not BatchNorm's count of batches
            tensor.copy_(tensor[order])
