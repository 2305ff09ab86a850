"""timm's layers, run with the first channels of their weights."""
from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, ConvNormAct
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import fx, nn

from .slices import first_channels

fx.wrap('first_channels')  # a trace keeps the calls of this module whole


def first_channels_norm_act(
        norm: nn.BatchNorm2d, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, channels: int) -> torch.Tensor:
    """BatchNorm and activation of x (N, channels, H, W) with the layer's first weights and biases, (channels,) each.

    timm's layer has an activation, torch's has none. In training mode the first running statistics are updated in
    place, as in the original's dynamic BatchNorm. They mix all subnets, so each subnet must be recalibrated before it
    is used.
    """
    synchronized = norm.training and isinstance(norm, SynchronizedBatchNorm2d)
    if channels == norm.num_features and not synchronized:
        return norm(x)
    assert norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None
    assert norm.momentum is not None
    if norm.training:
        norm.num_batches_tracked.add_(1)
    mean, var = norm.running_mean[:channels], norm.running_var[:channels]
    if synchronized:
        x = _synchronized_batch_norm(x, mean, var, weight, bias, norm.momentum, norm.eps)
    else:
        x = F.batch_norm(x, mean, var, weight, bias, norm.training, norm.momentum, norm.eps)
    return norm.act(norm.drop(x)) if isinstance(norm, BatchNormAct2d) else x


class SynchronizedBatchNorm2d(nn.BatchNorm2d):
    """torch's layer, but in training its statistics are those of the batches of all processes, on any device."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            return first_channels_norm_act(self, x, self.weight, self.bias, self.num_features)
        return super().forward(x)


class SynchronizedBatchNormAct2d(SynchronizedBatchNorm2d, BatchNormAct2d):
    """The same for timm's layer, which has an activation."""


def synchronize_batch_norm(model: nn.Module) -> None:
    """Let all BatchNorm layers of a network use the statistics of all processes. Their batches must have one size."""
    for module in model.modules():
        if type(module) is BatchNormAct2d:
            module.__class__ = SynchronizedBatchNormAct2d
        elif type(module) is nn.BatchNorm2d:
            module.__class__ = SynchronizedBatchNorm2d


def _synchronized_batch_norm(
        x: torch.Tensor, running_mean: torch.Tensor, running_var: torch.Tensor, weight: torch.Tensor,
        bias: torch.Tensor, momentum: float, eps: float) -> torch.Tensor:
    """Normalize x (N, C, H, W), and update the running statistics (C,) in place."""
    from torch.distributed.nn.functional import all_reduce  # with gradient

    world = torch.distributed.get_world_size()
    wide, n = x if x.dtype == torch.float64 else x.float(), world * x.numel() // x.shape[1]
    mean = all_reduce(wide.mean((0, 2, 3))) / world
    centered = wide - mean.view(1, -1, 1, 1)
    var = all_reduce(centered.square().mean((0, 2, 3))) / world
    with torch.no_grad():
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_((var * (n / max(1, n - 1))).to(running_var.dtype), momentum)
    scale = weight * torch.rsqrt(var + eps)
    return (centered * scale.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)).to(x.dtype)


def squeeze_excite(se: SqueezeExcite, x: torch.Tensor, weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """Squeeze-and-excite of x (N, C, H, W) with the active weights and biases of its two convolutions."""
    reduce, reduce_bias, expand, expand_bias = weights
    s = se.act1(conv_of_points(x.mean((2, 3), keepdim=True), reduce, reduce_bias))
    return x * se.gate(conv_of_points(s, expand, expand_bias))


@fx.wrap
def conv_of_points(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Convolution of x (N, C, 1, 1) with weight (O, C, 1, 1). On a GPU a matrix product, which starts sooner."""
    if x.device.type == 'cuda':
        return F.linear(x.flatten(1), weight.flatten(1), bias)[:, :, None, None]
    return F.conv2d(x, weight, bias)


def first_channels_conv_norm_act(layer: ConvNormAct, x: torch.Tensor, out_chs: int) -> torch.Tensor:
    """Convolution from the C channels of x (N, C, H, W) to the first `out_chs`, then BatchNorm and activation."""
    conv, norm = layer.conv, layer.bn
    weight, scale, shift = first_channels(
        (conv.weight, norm.weight, norm.bias), ((out_chs, x.shape[1]), (out_chs,), (out_chs,)), 1)
    return first_channels_norm_act(norm, dense_conv(x, weight, conv.stride, conv.padding), scale, shift, out_chs)


@fx.wrap
def dense_conv(
        x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0)) -> torch.Tensor:
    """Convolution of x (N, C, H, W) with weight (O, C, K, K).

    For training on few images with one CPU thread, torch chooses its own 1x1 convolution. For a dilated convolution it
    chooses oneDNN's, which is an eighth faster. Dilation changes nothing in a kernel of a single point.
    """
    pointwise = weight.shape[-1] == 1 and x.device.type == 'cpu' and x.dtype is torch.float32
    dilation = 2 if pointwise and torch.is_grad_enabled() else 1
    return F.conv2d(x, weight, stride=stride, padding=padding, dilation=dilation)
