"""Depthwise convolutions that train faster on a CPU, and kernels cut from larger ones through matrices."""
from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from .slices import computed_in


def depthwise_conv(x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int]) -> torch.Tensor:
    """Depthwise convolution of x (N, C, H, W) with weight (C, 1, K, K), padded by half a kernel."""
    if x.device.type == 'cpu' and torch.is_grad_enabled():
        dtype = torch.get_autocast_dtype('cpu') if torch.is_autocast_enabled('cpu') else x.dtype
        side, strided = weight.shape[-1], max(stride) > 1
        if (dtype is torch.float32 and side > 3) or (dtype is torch.bfloat16 and side > (1 if strided else 3)):
            return _DepthwiseConv.apply(x.to(dtype), weight.to(dtype), stride)
    return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=len(weight))


@contextmanager
def quick_depthwise(model: nn.Module) -> Iterator[None]:
    """Inside this context, a stock network computes its depthwise convolutions as an elastic network does.

    The results are the same, and training on a CPU is faster.
    """
    convs = [
        m for m in model.modules()
        if type(m) is nn.Conv2d and m.groups == m.in_channels == m.out_channels and m.bias is None
        and m.kernel_size in ((3, 3), (5, 5), (7, 7)) and m.padding == (m.kernel_size[0] // 2,) * 2
        and (m.padding_mode, m.dilation) == ('zeros', (1, 1))]
    for conv in convs:
        vars(conv)['_conv_forward'] = partial(_depthwise_forward, conv.stride)
    try:
        yield
    finally:
        for conv in convs:
            del vars(conv)['_conv_forward']


def _depthwise_forward(stride: Sequence[int], x: torch.Tensor, weight: torch.Tensor, _: None) -> torch.Tensor:
    return depthwise_conv(x, weight, stride)


class _DepthwiseConv(torch.autograd.Function):
    """The same convolution, with gradients computed in the way in which oneDNN is fast.

    For a kernel wider than 3, oneDNN's own gradient of the weight takes 2 to 70 times as long as that of strips of
    three columns. In bfloat16, its gradient of the input of a strided convolution takes 25 to 200 times as long as in
    float32.
    """

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
        wanted: tuple[bool, bool]) -> Sequence[torch.Tensor]:
    """Gradients of the input and of the weight of a depthwise convolution. Only those that are wanted are computed."""
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, [pad, pad], [1, 1], False, [0, 0], len(weight), [*wanted, False])


class SmallerKernel(torch.autograd.Function):
    """Depthwise weights (C, 1, K, K) of a smaller kernel size: the center goes through one matrix for each step.

    It is computed in the type of the weight and returned in the type of mixed precision, where that is on.
    """

    @staticmethod
    def forward(ctx, weight: torch.Tensor, *matrices: torch.Tensor) -> torch.Tensor:
        shapes: list[torch.Size] = []
        centers: list[torch.Tensor] = []
        for matrix in matrices:
            small = math.isqrt(len(matrix))
            center = _center(weight, small).reshape(len(weight), -1)
            shapes.append(weight.shape)
            centers.append(center)
            product = torch.mm(center, matrix.t(), out=torch.empty_like(center))  # mixed precision leaves it alone
            weight = product.view(-1, 1, small, small)
        ctx.shapes = shapes
        ctx.save_for_backward(*centers, *matrices)
        return weight.to(computed_in(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        saved, steps = ctx.saved_tensors, len(ctx.shapes)
        grads: list[torch.Tensor] = []
        grad = grad.to(saved[0].dtype)
        for shape, center, matrix in reversed(list(zip(ctx.shapes, saved, saved[steps:]))):
            small, flat = grad.shape[-1], grad.reshape(center.shape)
            grads.insert(0, flat.t() @ center)
            grad = flat.new_zeros(shape)
            _center(grad, small).copy_((flat @ matrix).view(-1, 1, small, small))
        return grad, *grads


class ElasticKernel(nn.Module):
    """A block with a depthwise convolution of several kernel sizes."""
    if TYPE_CHECKING:
        kernel_transform: nn.ParameterDict

    def add_matrices(self, sizes: Iterable[int], weight: torch.Tensor) -> None:
        """Add a square matrix for each pair of consecutive sizes (7 to 5, 5 to 3), the identity at first.

        All channels of the depthwise weight share it.
        """
        self.kernel_pairs = list(pairwise(sorted(sizes, reverse=True)))
        if self.kernel_pairs:
            self.kernel_transform = nn.ParameterDict({
                f'k{large}to{small}': nn.Parameter(torch.eye(small**2, device=weight.device, dtype=weight.dtype))
                for large, small in self.kernel_pairs})

    def kernels(self, kernel_size: int, expand_ratio: float) -> dict[str, torch.Tensor]:
        """The tensors of the stock block at this choice that are not leading slices, by name."""
        raise NotImplementedError

    def smaller(self, weight: torch.Tensor, kernel_size: int | None) -> torch.Tensor:
        """Weight (C, 1, K, K) of a kernel size, from that of the largest; None: the largest itself.

        Each step to the next smaller size takes the center and multiplies it with the matrix of that step.
        """
        if kernel_size in (None, weight.shape[-1]):
            return weight
        steps = [f'k{large}to{small}' for large, small in self.kernel_pairs if small >= kernel_size]
        return SmallerKernel.apply(weight, *(self.kernel_transform[step] for step in steps))


def _center(weight: torch.Tensor, size: int) -> torch.Tensor:
    """The center (C, 1, size, size) of a weight (C, 1, K, K)."""
    margin = (weight.shape[-1] - size) // 2
    return weight[:, :, margin:margin + size, margin:margin + size]
