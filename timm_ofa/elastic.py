"""Blocks that run at any kernel size and expansion: timm's own layers, with the leading slice of their weights.

An elastic block keeps the names and tensors of the stock block it is made from. What is active is an argument of
`forward`, never state. Source: arXiv:1908.09791, section 3.3 (elastic kernel, width), figures 3 and 4.
"""
from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, ConvNormAct
from timm.models._efficientnet_blocks import InvertedResidual, SqueezeExcite
from timm.models.byobnet import BottleneckBlock
from torch import fx, nn
from torch.autograd.function import once_differentiable

from .rows import bottleneck_mid_chs, make_divisible


def first_channels_norm_act(norm: BatchNormAct2d, x: torch.Tensor, channels: int) -> torch.Tensor:
    """BatchNorm and activation of the first `channels` channels, x (N, channels, H, W).

    In training mode their running statistics are updated in place, as in the original's dynamic BatchNorm: they mix
    all subnets, and each subnet is recalibrated before it is used.
    """
    synchronized = norm.training and isinstance(norm, SynchronizedBatchNormAct2d)
    if channels == norm.num_features and not synchronized:
        return norm(x)
    if norm.training:
        norm.num_batches_tracked.add_(1)
    tensors = [t[:channels] for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)]
    if synchronized:
        x = _synchronized_batch_norm(x, *tensors, norm.momentum, norm.eps)
    else:
        x = F.batch_norm(x, *tensors, norm.training, norm.momentum, norm.eps)
    return norm.act(norm.drop(x))


class SynchronizedBatchNormAct2d(BatchNormAct2d):
    """BatchNorm over the batches of all processes, on any device; like the stock layer otherwise."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return first_channels_norm_act(self, x, self.num_features) if self.training else super().forward(x)


def synchronize_batch_norm(model: nn.Module) -> None:
    """Let all BatchNorm layers of a network use the statistics of all processes, whose batches are of one size."""
    for module in model.modules():
        if type(module) is BatchNormAct2d:
            module.__class__ = SynchronizedBatchNormAct2d


def _synchronized_batch_norm(
        x: torch.Tensor, running_mean: torch.Tensor, running_var: torch.Tensor, weight: torch.Tensor,
        bias: torch.Tensor, momentum: float, eps: float) -> torch.Tensor:
    """x (N, C, H, W) normalized; running statistics (C,) are updated in place."""
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


def first_channels_squeeze_excite(se: SqueezeExcite, x: torch.Tensor, hidden: int) -> torch.Tensor:
    """Squeeze-and-excite of the first C channels through the first `hidden` units, x (N, C, H, W)."""
    channels, reduce, expand = x.shape[1], se.conv_reduce, se.conv_expand
    s = x.mean((2, 3), keepdim=True)
    s = se.act1(F.conv2d(s, reduce.weight[:hidden, :channels], reduce.bias[:hidden]))
    s = F.conv2d(s, expand.weight[:channels, :hidden], expand.bias[:channels])
    return x * se.gate(s)


def first_channels_conv_norm_act(layer: ConvNormAct, x: torch.Tensor, out_chs: int) -> torch.Tensor:
    """Convolution from the C channels of x (N, C, H, W) to the first `out_chs`, BatchNorm and activation."""
    conv = layer.conv
    x = dense_conv(x, first_channels(conv.weight, out_chs, x.shape[1]), conv.stride, conv.padding)
    return first_channels_norm_act(layer.bn, x, out_chs)


@fx.wrap
def first_channels(weight: torch.Tensor, out_chs: int, in_chs: int) -> torch.Tensor:
    """The weight (out_chs, in_chs, K, K) of the first channels of a convolution, weight (O, I, K, K)."""
    if weight.shape[:2] == (out_chs, in_chs):
        return weight
    if torch.is_grad_enabled() and weight.requires_grad:
        return _FirstChannels.apply(weight, out_chs, in_chs)
    return weight[:out_chs, :in_chs]


class _FirstChannels(torch.autograd.Function):
    """The slice as a copy, which convolutions would make of it once forward and once backward; and its gradient in one
    pass and in the order of the weight, where two slices take four passes and one more to reorder."""

    @staticmethod
    def forward(ctx, weight: torch.Tensor, out_chs: int, in_chs: int) -> torch.Tensor:
        ctx.layout = weight.shape, weight.stride()
        return weight[:out_chs, :in_chs].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        whole = torch.empty_strided(*ctx.layout, dtype=grad.dtype, device=grad.device).zero_()
        whole[:grad.shape[0], :grad.shape[1]] = grad
        return whole, None, None


@fx.wrap
def dense_conv(
        x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0)) -> torch.Tensor:
    """Convolution of x (N, C, H, W) with weight (O, C, K, K).

    To train on few images with one thread of a CPU, torch would choose its own 1x1 convolution; it takes oneDNN's,
    which is an eighth faster, for a dilated one, and a single point has nothing to dilate.
    """
    pointwise = weight.shape[-1] == 1 and x.device.type == 'cpu' and x.dtype is torch.float32
    dilation = 2 if pointwise and torch.is_grad_enabled() else 1
    return F.conv2d(x, weight, stride=stride, padding=padding, dilation=dilation)


@fx.wrap
def depthwise_conv(x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int]) -> torch.Tensor:
    """Depthwise convolution of x (N, C, H, W) with weight (C, 1, K, K), padded by half a kernel."""
    if x.device.type == 'cpu' and torch.is_grad_enabled():
        dtype = torch.get_autocast_dtype('cpu') if torch.is_autocast_enabled('cpu') else x.dtype
        wide, strided = weight.shape[-1] > 3, max(stride) > 1
        if (dtype is torch.float32 and wide) or (dtype is torch.bfloat16 and (wide or strided)):
            return _DepthwiseConv.apply(x.to(dtype), weight.to(dtype), stride)
    return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=len(weight))


class _DepthwiseConv(torch.autograd.Function):
    """The same with gradients taken as oneDNN is fast at: where the kernel is wider than 3, its own gradient of the
    weight takes 2 to 70 times as long as that of strips of three columns; in bfloat16 its gradient of a strided one's
    input takes 25 to 200 times as long as in float32."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int]) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        x, weight = ctx.saved_tensors
        side, pad, grad_x, grad_weight = weight.shape[-1], weight.shape[-1] // 2, None, None
        if ctx.needs_input_grad[0]:
            dtype = x.dtype if max(ctx.stride) == 1 else torch.float32
            grad_x = _conv_gradients(
                grad.to(dtype), x.to(dtype), weight.to(dtype), ctx.stride, pad, (True, False))[0].to(x.dtype)
        if ctx.needs_input_grad[1]:
            grad_weight, width = torch.empty_like(weight), (grad.shape[-1] - 1) * ctx.stride[1] + 3
            for left in sorted({*range(0, side - 2, 3), side - 3}):
                strip = F.pad(x, (pad - left, width + left - pad - x.shape[-1], pad, pad))
                columns = slice(left, left + 3)
                grad_weight[..., columns] = _conv_gradients(
                    grad, strip, weight[..., columns], ctx.stride, 0, (False, True))[1]
        return grad_x, grad_weight, None


def _conv_gradients(
        grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], pad: int,
        wanted: tuple[bool, bool]) -> Sequence[torch.Tensor | None]:
    """Gradients of the input and the weight of a depthwise convolution, those that are wanted."""
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, [pad, pad], [1, 1], False, [0, 0], len(weight), [*wanted, False])


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
        x = dense_conv(x, first_channels(self.conv_pw.weight, mid, self.conv_pw.in_channels))
        x = first_channels_norm_act(self.bn1, x, mid)
        kernel = self.kernel(kernel_size, mid)
        x = depthwise_conv(x, kernel, self.conv_dw.stride)
        x = first_channels_norm_act(self.bn2, x, mid)
        if self.se_ratio:
            x = first_channels_squeeze_excite(self.se, x, self.hidden_chs(mid))
        x = self.bn3(dense_conv(x, first_channels(self.conv_pwl.weight, self.conv_pwl.out_channels, mid)))
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


class ElasticBottleneck(nn.Module):
    """timm's `BottleneckBlock` at any input width, expand ratio and output width up to its own.

    Takes over the layers of the block it is given. Its input's width is that of the stage before.
    """

    def __init__(self, block: BottleneckBlock):
        super().__init__()
        for name in ('shortcut', 'conv1_1x1', 'conv2_kxk', 'conv3_1x1', 'drop_path', 'act'):
            self.add_module(name, getattr(block, name))

    def forward(self, x: torch.Tensor, expand_ratio: float | None = None, width: int | None = None) -> torch.Tensor:
        """x (N, C, H, W) at an expand ratio and output width; None: the largest."""
        out = self.conv3_1x1.conv.out_channels if width is None else width
        mid = self.conv1_1x1.conv.out_channels if expand_ratio is None else bottleneck_mid_chs(out, expand_ratio)
        y = first_channels_conv_norm_act(self.conv1_1x1, x, mid)
        y = first_channels_conv_norm_act(self.conv2_kxk, y, mid)
        y = first_channels_conv_norm_act(self.conv3_1x1, y, out)
        if not isinstance(self.shortcut, nn.Identity):  # average pool, then convolution
            x = first_channels_conv_norm_act(self.shortcut.conv, self.shortcut.pool(x), out)
        return self.act(self.drop_path(y) + x)

    @torch.no_grad()
    def sort_channels(self, keep: Sequence[float] = ()) -> None:
        """Order the channels between the convolutions by importance, the L1 norm of the weights that read them.

        The function of the whole block stays; with `keep`, that of the same block at those expand ratios as well.
        """
        borders = [bottleneck_mid_chs(self.conv3_1x1.conv.out_channels, ratio) for ratio in keep]
        for writer, reader in ((self.conv2_kxk, self.conv3_1x1), (self.conv1_1x1, self.conv2_kxk)):
            weight = reader.conv.weight
            order = _descending(weight.abs().sum((0, 2, 3)), borders)
            weight.copy_(weight[:, order])
            _permute_outputs(writer.conv, order)
            _permute_outputs(writer.bn, order)


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
