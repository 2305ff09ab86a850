"""Blocks that run at any kernel size and expansion: timm's own layers, with the leading slice of their weights.

An elastic block keeps the names and tensors of the stock block it is made from. What is active is an argument of
`forward`, never state. Source: arXiv:1908.09791, section 3.3 (elastic kernel, width), figures 3 and 4.
"""
from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from timm.models._efficientnet_blocks import InvertedResidual, SqueezeExcite
from torch import nn

from .space import make_divisible


def first_channels_norm_act(norm: BatchNormAct2d, x: torch.Tensor) -> torch.Tensor:
    """BatchNorm and activation of the first C channels, x (N, C, H, W).

    In training mode the first C running statistics are updated in place, as the original's dynamic BatchNorm: they mix
    all subnets, and each subnet is recalibrated before it is used.
    """
    channels = x.shape[1]
    if channels == norm.num_features:
        return norm(x)
    if norm.training:
        norm.num_batches_tracked.add_(1)
    x = F.batch_norm(
        x, norm.running_mean[:channels], norm.running_var[:channels], norm.weight[:channels], norm.bias[:channels],
        norm.training, norm.momentum, norm.eps)
    return norm.act(x)


def first_channels_squeeze_excite(se: SqueezeExcite, x: torch.Tensor, hidden: int) -> torch.Tensor:
    """Squeeze-and-excite of the first C channels through the first `hidden` units, x (N, C, H, W)."""
    channels, reduce, expand = x.shape[1], se.conv_reduce, se.conv_expand
    s = x.mean((2, 3), keepdim=True)
    s = se.act1(F.conv2d(s, reduce.weight[:hidden, :channels], reduce.bias[:hidden]))
    s = F.conv2d(s, expand.weight[:channels, :hidden], expand.bias[:channels])
    return x * se.gate(s)


class ElasticInvertedResidual(nn.Module):
    """timm's `InvertedResidual` at any kernel size and expand ratio up to its own.

    Takes over the layers of the block it is given; adds one square matrix for each consecutive pair of kernel sizes
    (7 to 5, 5 to 3), the identity at first, shared by the channels of the layer.
    """

    def __init__(self, block: InvertedResidual, kernel_sizes: Sequence[int], se_ratio: float):
        super().__init__()
        for name, layer in block.named_children():
            self.add_module(name, layer)
        self.has_skip = block.has_skip
        self.se_ratio = se_ratio
        self.kernel_pairs = list(zip(sorted(kernel_sizes, reverse=True), sorted(kernel_sizes, reverse=True)[1:]))
        weight = self.conv_dw.weight
        self.kernel_transform = nn.ParameterDict({
            f'k{large}to{small}': nn.Parameter(torch.eye(small**2, device=weight.device, dtype=weight.dtype))
            for large, small in self.kernel_pairs})

    def feature_info(self, location: str) -> dict:
        """What timm's feature extraction asks of a block."""
        return InvertedResidual.feature_info(self, location)

    def mid_chs(self, expand_ratio: float | None) -> int:
        """Active depthwise channels; None: all."""
        if expand_ratio is None:
            return self.conv_dw.out_channels
        return make_divisible(self.conv_pw.in_channels * expand_ratio)

    def hidden_chs(self, mid_chs: int) -> int:
        """Active hidden units of squeeze-and-excite, 0 without one."""
        return make_divisible(mid_chs * self.se_ratio) if self.se_ratio else 0

    def kernel(self, kernel_size: int | None, channels: int) -> torch.Tensor:
        """Depthwise weight (channels, 1, K, K): crop the center, apply the matrix, one step smaller at a time."""
        weight = self.conv_dw.weight[:channels]
        for large, small in self.kernel_pairs:
            if kernel_size is None or weight.shape[-1] <= kernel_size:
                break
            margin = (large - small) // 2
            center = weight[:, :, margin:-margin, margin:-margin].flatten(2)
            weight = F.linear(center, self.kernel_transform[f'k{large}to{small}']).view(channels, 1, small, small)
        return weight

    def forward(
            self,
            x: torch.Tensor,
            kernel_size: int | None = None,
            expand_ratio: float | None = None,
    ) -> torch.Tensor:
        """x (N, C, H, W) at a kernel size and expand ratio; None: the largest."""
        shortcut = x
        mid = self.mid_chs(expand_ratio)
        x = F.conv2d(x, self.conv_pw.weight[:mid])
        x = first_channels_norm_act(self.bn1, x)
        kernel = self.kernel(kernel_size, mid)
        x = F.conv2d(x, kernel, stride=self.conv_dw.stride, padding=kernel.shape[-1] // 2, groups=mid)
        x = first_channels_norm_act(self.bn2, x)
        if self.se_ratio:
            x = first_channels_squeeze_excite(self.se, x, self.hidden_chs(mid))
        x = self.bn3(F.conv2d(x, self.conv_pwl.weight[:, :mid]))
        return self.drop_path(x) + shortcut if self.has_skip else x

    @torch.no_grad()
    def sort_channels(self, keep: Sequence[float] = ()) -> None:
        """Order the middle channels by importance, the L1 norm of the projection that reads them, largest first.

        The function of the whole block stays. With `keep` (expand ratios that are already trained) channels move only
        between those borders, so that those narrower blocks stay as well.
        """
        borders = [self.mid_chs(ratio) for ratio in keep]
        order = _descending(self.conv_pwl.weight.abs().sum((0, 2, 3)), borders)
        self.conv_pwl.weight.copy_(self.conv_pwl.weight[:, order])
        for layer in (self.bn2, self.conv_dw, self.bn1, self.conv_pw):
            _permute_outputs(layer, order)
        if self.se_ratio:
            reduce, expand = self.se.conv_reduce, self.se.conv_expand
            _permute_outputs(expand, order)
            reduce.weight.copy_(reduce.weight[:, order])
            order = _descending(expand.weight.abs().sum((0, 2, 3)), [self.hidden_chs(border) for border in borders])
            expand.weight.copy_(expand.weight[:, order])
            _permute_outputs(reduce, order)


def _descending(importance: torch.Tensor, borders: Sequence[int]) -> torch.Tensor:
    """Indices (C,) that sort importance (C,) downwards within each group between the borders."""
    edges = [0, *sorted(border for border in borders if border < len(importance)), len(importance)]
    return torch.cat([
        start + torch.argsort(importance[start:end], descending=True, stable=True)
        for start, end in pairwise(edges)])


def _permute_outputs(layer: nn.Module, order: torch.Tensor) -> None:
    """Reorder a layer's output channels: weights, biases and running statistics."""
    for tensor in (*layer.parameters(recurse=False), *layer.buffers(recurse=False)):
        if tensor.ndim:  # not BatchNorm's count of batches
            tensor.copy_(tensor[order])
