"""Blocks that run at any kernel size and expansion: timm's own layers, with the leading slice of their weights.

An elastic block keeps the names and tensors of the stock block it is made from. What is active is an argument of
`forward`, never state. Source: arXiv:1908.09791, section 3.3 (elastic kernel, width), figures 3 and 4.
"""
from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, ConvNormAct
from timm.models._efficientnet_blocks import InvertedResidual, SqueezeExcite
from timm.models.byobnet import BottleneckBlock
from torch import fx, nn
from torch.autograd.function import once_differentiable

from ..spaces import bottleneck_mid_chs, make_divisible


def first_channels_norm_act(
        norm: BatchNormAct2d, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, channels: int) -> torch.Tensor:
    """BatchNorm and activation of x (N, channels, H, W) with the layer's first weights and biases, (channels,) each.

    In training mode their running statistics are updated in place, as in the original's dynamic BatchNorm: they mix
    all subnets, and each subnet is recalibrated before it is used.
    """
    synchronized = norm.training and isinstance(norm, SynchronizedBatchNormAct2d)
    if channels == norm.num_features and not synchronized:
        return norm(x)
    if norm.training:
        norm.num_batches_tracked.add_(1)
    mean, var = norm.running_mean[:channels], norm.running_var[:channels]
    if synchronized:
        x = _synchronized_batch_norm(x, mean, var, weight, bias, norm.momentum, norm.eps)
    else:
        x = F.batch_norm(x, mean, var, weight, bias, norm.training, norm.momentum, norm.eps)
    return norm.act(norm.drop(x))


class SynchronizedBatchNormAct2d(BatchNormAct2d):
    """BatchNorm over the batches of all processes, on any device; like the stock layer otherwise."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            return first_channels_norm_act(self, x, self.weight, self.bias, self.num_features)
        return super().forward(x)


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


def squeeze_excite(se: SqueezeExcite, x: torch.Tensor, weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """Squeeze-and-excite of x (N, C, H, W) with the active weights and biases of its two convolutions."""
    reduce, reduce_bias, expand, expand_bias = weights
    s = se.act1(conv_of_points(x.mean((2, 3), keepdim=True), reduce, reduce_bias))
    return x * se.gate(conv_of_points(s, expand, expand_bias))


@fx.wrap
def conv_of_points(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Convolution of x (N, C, 1, 1) with weight (O, C, 1, 1): on a GPU a product of matrices, launched sooner."""
    if x.device.type == 'cuda':
        return F.linear(x.flatten(1), weight.flatten(1), bias)[:, :, None, None]
    return F.conv2d(x, weight, bias)


def first_channels_conv_norm_act(layer: ConvNormAct, x: torch.Tensor, out_chs: int) -> torch.Tensor:
    """Convolution from the C channels of x (N, C, H, W) to the first `out_chs`, BatchNorm and activation."""
    conv, norm = layer.conv, layer.bn
    weight, scale, shift = first_channels(
        (conv.weight, norm.weight, norm.bias), ((out_chs, x.shape[1]), (out_chs,), (out_chs,)), 1)
    return first_channels_norm_act(norm, dense_conv(x, weight, conv.stride, conv.padding), scale, shift, out_chs)


@fx.wrap
def first_channels(
        tensors: Sequence[torch.Tensor], shapes: Sequence[tuple[int, ...]], cast: int) -> Sequence[torch.Tensor]:
    """The leading slices of parameters, each as long as its shape says in that many of its first dimensions. Where they
    are to be trained in mixed precision the first `cast` of them have its type already."""
    if not (torch.is_grad_enabled() and tensors[0].requires_grad):
        return [tensor[tuple(map(slice, shape))] for tensor, shape in zip(tensors, shapes)]
    layouts = tuple((t.shape, t.stride()) for t in tensors)
    plan = _plan(tuple(shapes), layouts, cast, tensors[0].dtype, _computed_in(tensors[0]))
    active = list(tensors)
    if plan.taken:
        for i, part in zip(plan.taken, _FirstChannels.apply(plan, *(tensors[i] for i in plan.taken))):
            active[i] = part
    return active


def _computed_in(weight: torch.Tensor) -> torch.dtype:
    """The type in which a convolution takes this weight."""
    kind = weight.device.type
    if weight.dtype is torch.float32 and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return weight.dtype


class _Plan(NamedTuple):
    """How slices of parameters are taken, and where their gradients lie in one buffer."""
    taken: tuple[int, ...]  # which parameters: those that are cut or change their type; all below is of these
    dtype: torch.dtype  # of the parameters
    types: tuple[torch.dtype, ...]  # of the slices
    slices: tuple[tuple, ...]  # their shapes and strides
    wholes: tuple[tuple, ...]  # shapes, strides and offsets of the gradients
    squeezed: tuple[tuple, ...]  # of the gradients of the slices, without dimensions of length 1
    apart: tuple[int, ...]  # slices with gaps, copied one by one
    together: tuple[tuple[int, ...], ...]  # slices without gaps, by type
    size: int  # of the buffer


@cache
def _plan(
        shapes: tuple[tuple[int, ...], ...], layouts: tuple[tuple, ...], cast: int, dtype: torch.dtype,
        mixed: torch.dtype) -> _Plan:
    types = [mixed if i < cast else dtype for i in range(len(shapes))]
    taken = [
        i for i, (shape, (whole, _)) in enumerate(zip(shapes, layouts))
        if types[i] is not dtype or shape != whole[:len(shape)]]
    slices, wholes, squeezed, apart, size = [], [], [], [], 0
    for n, (shape, (whole, stride)) in enumerate((shapes[i], layouts[i]) for i in taken):
        part = shape + whole[len(shape):]
        kept = [d for d, length in enumerate(part) if length > 1]
        slices.append((part, stride))
        wholes.append((whole, stride, size))
        squeezed.append((tuple(part[d] for d in kept), tuple(stride[d] for d in kept), size))
        if part[1:] != whole[1:]:  # the first dimension is the outermost
            apart.append(n)
        size += whole.numel()
    types = [types[i] for i in taken]
    together = [[n for n in range(len(taken)) if n not in apart and types[n] is kind] for kind in set(types)]
    return _Plan(
        tuple(taken), dtype, tuple(types), tuple(slices), tuple(wholes), tuple(squeezed), tuple(apart),
        tuple(tuple(group) for group in together if group), size)


class _FirstChannels(torch.autograd.Function):
    """Slices of many parameters at once. Those with gaps are copied, which convolutions would do once forward and once
    backward. The gradients share one buffer, filled with 0 once and written once, in the order of the parameters: of
    its own each slice takes two passes over the whole parameter for every dimension, and a change of type one more.
    What has no gaps takes one kernel of a GPU together."""

    @staticmethod
    def forward(ctx, plan: _Plan, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.plan = plan
        ctx.set_materialize_grads(False)
        parts = [tensor.as_strided(*layout) for tensor, layout in zip(tensors, plan.slices)]
        for i in plan.apart:
            parts[i] = parts[i].to(plan.types[i], copy=True)
        for group in plan.together:
            if plan.types[group[0]] is not plan.dtype:
                sources = [parts[i] for i in group]
                for i in group:
                    parts[i] = torch.empty_like(parts[i], dtype=plan.types[i])
                torch._foreach_copy_([parts[i] for i in group], sources)
        return tuple(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        plan = ctx.plan
        some = next(grad for grad in grads if grad is not None)
        buffer = some.new_zeros(plan.size, dtype=plan.dtype)
        for i in plan.apart:
            if grads[i] is not None:
                buffer.as_strided(*plan.slices[i], plan.wholes[i][2]).copy_(grads[i])
        for group in plan.together:
            group = [i for i in group if grads[i] is not None]
            if group:
                torch._foreach_copy_(
                    [buffer.as_strided(*plan.squeezed[i]) for i in group], [grads[i].squeeze() for i in group])
        return None, *(
            None if grad is None else buffer.as_strided(*whole) for grad, whole in zip(grads, plan.wholes))


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


@contextmanager
def quick_depthwise(model: nn.Module) -> Iterator[None]:
    """Inside, the depthwise convolutions of a plain network are those of an elastic one: the same results, trained
    faster on a CPU."""
    convs = [
        m for m in model.modules()
        if type(m) is nn.Conv2d and m.groups == m.in_channels == m.out_channels and m.bias is None
        and m.kernel_size in ((3, 3), (5, 5), (7, 7)) and m.padding == (m.kernel_size[0] // 2,) * 2
        and (m.padding_mode, m.dilation) == ('zeros', (1, 1))]
    for conv in convs:
        conv._conv_forward = partial(_depthwise_forward, conv.stride)
    try:
        yield
    finally:
        for conv in convs:
            del conv._conv_forward


def _depthwise_forward(stride: Sequence[int], x: torch.Tensor, weight: torch.Tensor, _: None) -> torch.Tensor:
    return depthwise_conv(x, weight, stride)


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


class _SmallerKernel(torch.autograd.Function):
    """Centers of depthwise weights (C, 1, K, K) through one matrix a step, in the type of the weight, and then in that
    of mixed precision."""

    @staticmethod
    def forward(ctx, weight: torch.Tensor, *matrices: torch.Tensor) -> torch.Tensor:
        ctx.shapes, centers = [], []
        for matrix in matrices:
            small = math.isqrt(len(matrix))
            center = _center(weight, small).reshape(len(weight), -1)
            ctx.shapes.append(weight.shape)
            centers.append(center)
            product = torch.mm(center, matrix.t(), out=torch.empty_like(center))  # mixed precision leaves it alone
            weight = product.view(-1, 1, small, small)
        ctx.save_for_backward(*centers, *matrices)
        return weight.to(_computed_in(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        saved, grads = ctx.saved_tensors, []
        grad = grad.to(saved[0].dtype)
        for shape, center, matrix in reversed(list(zip(ctx.shapes, saved, saved[len(ctx.shapes):]))):
            small, flat = grad.shape[-1], grad.reshape(center.shape)
            grads.insert(0, flat.t() @ center)
            grad = flat.new_zeros(shape)
            _center(grad, small).copy_((flat @ matrix).view(-1, 1, small, small))
        return grad, *grads


def _center(weight: torch.Tensor, size: int) -> torch.Tensor:
    """The middle (C, 1, size, size) of a weight (C, 1, K, K)."""
    margin = (weight.shape[-1] - size) // 2
    return weight[:, :, margin:margin + size, margin:margin + size]


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
        """Depthwise weight (channels, 1, K, K)."""
        return self.smaller(self.conv_dw.weight[:channels], kernel_size)

    def smaller(self, weight: torch.Tensor, kernel_size: int | None) -> torch.Tensor:
        """The weight (C, 1, K, K) of a size from that of the largest: crop the center, apply the matrix, one step
        smaller at a time."""
        if kernel_size in (None, weight.shape[-1]):
            return weight
        steps = [f'k{large}to{small}' for large, small in self.kernel_pairs if small >= kernel_size]
        return _SmallerKernel.apply(weight, *(self.kernel_transform[step] for step in steps))

    def active(self, kernel_size: int | None, mid: int) -> Sequence[torch.Tensor]:
        """The active slices of weights: squeeze-and-excite's if there is one, projection, expansion, the depthwise one
        before its matrices, weight and bias of the first and of the second BatchNorm."""
        norms = self.bn1.weight, self.bn1.bias, self.bn2.weight, self.bn2.bias
        parts = [
            (self.conv_pwl.weight, (self.conv_pwl.out_channels, mid)), (self.conv_pw.weight, (mid,)),
            (self.conv_dw.weight, (mid,)), *((norm, (mid,)) for norm in norms)]
        if self.se_ratio:
            reduce, excite, hidden = self.se.conv_reduce, self.se.conv_expand, self.hidden_chs(mid)
            parts = [
                (reduce.weight, (hidden, mid)), (reduce.bias, (hidden,)), (excite.weight, (mid, hidden)),
                (excite.bias, (mid,)), *parts]
        transformed = kernel_size not in (None, self.conv_dw.kernel_size[0])
        return first_channels(*zip(*parts), len(parts) - 4 - transformed)

    def forward(
            self,
            x: torch.Tensor,
            kernel_size: int | None = None,
            expand_ratio: float | None = None,
    ) -> torch.Tensor:
        """x (N, C, H, W) at a kernel size and expand ratio; None: the largest."""
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
