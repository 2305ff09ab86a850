"""Linear layers in closed form: moments of what a layer reads and should give, and the layer that is nearest to them.

Moments are added up batch by batch. Products within a batch are of the network's type, around the mean of the first
batch; sums and solutions are float64. So neither many images nor a large mean cost accuracy.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame, pad_same
from torch import nn

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # strengths that are tried, as shares of the inputs' mean variance
CHOOSING = 64  # targets that choose the strength; all of them would take several times as long


class Covariances(NamedTuple):
    """Second moments of one layer, or of several at once in the dimensions before; float64."""
    inputs: torch.Tensor  # (..., c, c)
    targets: torch.Tensor  # (..., o, c): of each target with each input
    input_means: torch.Tensor  # (..., c)
    target_means: torch.Tensor  # (..., o)

    def solve(self, kept: torch.Tensor, ridge: float) -> torch.Tensor:
        """The weight (..., o, c) with the least squared error, and a penalty on the distance from `kept`."""
        variance = self.inputs.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        penalty = (ridge * variance + torch.finfo(torch.float64).tiny) * torch.eye(kept.shape[-1]).to(variance)
        factor = torch.linalg.cholesky(self.inputs + penalty)
        return kept + torch.cholesky_solve((self.targets - kept @ self.inputs).mT, factor).mT

    def of(self, outputs: Sequence[int]) -> Covariances:
        """Those of some targets alone."""
        return self._replace(targets=self.targets[..., outputs, :], target_means=self.target_means[..., outputs])

    def error(self, weight: torch.Tensor) -> float:
        """Mean squared error of a weight (..., o, c), less what all weights have in common."""
        return float(((weight @ self.inputs - 2 * self.targets) * weight).sum())


class Moments:
    """Sums over rows of inputs and targets, apart for images of even and odd number, and the layer nearest to them."""

    def __init__(self) -> None:
        self.images, self.rows = 0, [0, 0]

    def add(self, inputs: torch.Tensor, targets: torch.Tensor, images: int) -> None:
        """Add the rows of some images, one image after the other: inputs (..., n, c), targets (..., n, o)."""
        both, self._inputs = torch.cat([inputs, targets], -1), inputs.shape[-1]
        if not self.images:
            self._origin = both.mean(-2, keepdim=True)
            self._sums = [torch.zeros_like(self._origin, dtype=torch.float64)] * 2
            self._products = [self._sums[0].new_zeros(1)] * 2
        both = (both - self._origin).unflatten(-2, (images, -1))
        for half in (0, 1):
            rows = both[..., (self.images + half) % 2::2, :, :].flatten(-3, -2)
            self._sums[half] = self._sums[half] + rows.sum(-2, keepdim=True)
            self._products[half] = self._products[half] + rows.mT @ rows[..., :self._inputs]
            self.rows[half] += rows.shape[-2]
        self.images += images

    def covariances(self, halves: Sequence[int] = (0, 1)) -> Covariances:
        """Those of one half of the images, or of all."""
        rows, c = sum(self.rows[half] for half in halves), self._inputs
        mean = torch.stack([self._sums[half] for half in halves]).sum(0) / rows
        products = torch.stack([self._products[half] for half in halves]).sum(0)
        covariance = products / rows - mean.mT @ mean[..., :c]
        mean = (mean + self._origin).squeeze(-2)
        return Covariances(covariance[..., :c, :], covariance[..., c:, :], mean[..., :c], mean[..., c:])

    def nearest(self, kept: torch.Tensor, ridges: Sequence[float] = RIDGES) -> torch.Tensor:
        """The weight (..., o, c) whose outputs are nearest to the targets, a constant aside: ridge regression.

        Args:
            kept: Weight (..., o, c) to which the penalty draws. It is the answer where its outputs are right.
            ridges: Strengths of the penalty, rising, of which the one is taken that, from each half of the images,
                comes nearest to the other half, for some of the targets. They are shares of the inputs' mean variance.
        """
        if len(ridges) > 1 and min(self.rows):
            some = range(0, kept.shape[-2], -(-kept.shape[-2] // CHOOSING))
            first, second = self.covariances([0]).of(some), self.covariances([1]).of(some)
            own, least, chosen = kept[..., some, :], math.inf, ridges[0]
            for ridge in ridges:  # the error falls, then rises
                error = first.error(second.solve(own, ridge)) + second.error(first.solve(own, ridge))
                if error >= least:
                    break
                least, chosen = error, ridge
            ridges = [chosen]
        return self.covariances().solve(kept, ridges[0])


class Spread:
    """Mean and variance of each channel, batch by batch."""

    def __init__(self) -> None:
        self.rows = 0

    def add(self, x: torch.Tensor) -> None:
        """Add x (N, C, H, W)."""
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        variance, mean, rows = variance.double(), mean.double(), x.numel() // x.shape[1]
        if not self.rows:
            self.mean, self.variance = torch.zeros_like(mean), torch.zeros_like(variance)
        share = rows / (rows + self.rows)
        self.variance += share * (variance - self.variance + (1 - share) * (mean - self.mean).square())
        self.mean += share * (mean - self.mean)
        self.rows += rows


def points(x: torch.Tensor) -> torch.Tensor:
    """x (N, C, H, W) as rows (N·H·W, C)."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def patches(conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """What a convolution reads at each point of its output: (C, N·H·W, K·K), for x (N, C, height, width)."""
    (rows, columns), (down, right), (tall, wide) = conv.kernel_size, conv.stride, conv.dilation
    if isinstance(conv, Conv2dSame):
        x = pad_same(x, list(conv.kernel_size), list(conv.stride), list(conv.dilation))
    else:
        assert not isinstance(conv.padding, str)
        x = F.pad(x, [conv.padding[1]] * 2 + [conv.padding[0]] * 2)
    height = (x.shape[2] - tall * (rows - 1) - 1) // down + 1
    width = (x.shape[3] - wide * (columns - 1) - 1) // right + 1
    found = [
        x[:, :, i:i + down * (height - 1) + 1:down, j:j + right * (width - 1) + 1:right]
        for i in range(0, tall * rows, tall) for j in range(0, wide * columns, wide)]
    return torch.stack(found, -1).transpose(0, 1).flatten(1, 3)


def inputs_of(conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """What a full convolution reads of x (N, C, H, W), as rows (N·H·W, C·K·K) in the order of its weight."""
    if conv.kernel_size == (1, 1) and conv.stride == (1, 1):
        return points(x)
    return patches(conv, x).transpose(0, 1).flatten(1)
