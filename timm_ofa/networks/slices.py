"""The leading slices of many parameters at once, as a subnet uses them, and their gradients.

A narrow subnet uses the first channels of each weight. Taken one by one, each slice costs passes over the whole
parameter in the backward pass. Here one autograd function takes all slices of a block.
"""
from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch.autograd.function import once_differentiable

Ints = tuple[int, ...]


def first_channels(tensors: Sequence[torch.Tensor], shapes: Sequence[Ints], cast: int) -> Sequence[torch.Tensor]:
    """The leading slice of each parameter. A shape gives the lengths of the first dimensions, the others stay whole.

    In mixed-precision training the first `cast` slices have the type of the computation already.
    """
    if not (torch.is_grad_enabled() and tensors[0].requires_grad):
        return [tensor[tuple(map(slice, shape))] for tensor, shape in zip(tensors, shapes)]
    layouts = tuple((t.shape, t.stride()) for t in tensors)
    plan = _plan(tuple(shapes), layouts, cast, tensors[0].dtype, computed_in(tensors[0]))
    active = list(tensors)
    if plan.taken:
        for i, part in zip(plan.taken, _FirstChannels.apply(plan, *(tensors[i] for i in plan.taken))):
            active[i] = part
    return active


def computed_in(weight: torch.Tensor) -> torch.dtype:
    """The type in which a convolution uses this weight."""
    kind = weight.device.type
    if weight.dtype is torch.float32 and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return weight.dtype


class _Plan(NamedTuple):
    """How slices are taken, and where their gradients lie in one buffer. Parameters count in the order of `taken`."""
    taken: Ints  # the parameters that are cut or change their type
    dtype: torch.dtype  # of the parameters
    types: tuple[torch.dtype, ...]  # of the slices
    slices: tuple[tuple[Ints, Ints], ...]  # shape and strides of each slice
    wholes: tuple[tuple[Ints, Ints, int], ...]  # shape, strides and offset of each parameter's gradient
    squeezed: tuple[tuple[Ints, Ints, int], ...]  # the same of each slice's gradient, without dimensions of length 1
    apart: Ints  # slices with gaps: they are copied one by one
    together: tuple[Ints, ...]  # slices without gaps, grouped by type
    size: int  # elements of the buffer


@cache
def _plan(shapes: tuple[Ints, ...], layouts: tuple[tuple[torch.Size, Ints], ...], cast: int, dtype: torch.dtype,
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
    """Slices of many parameters at once.

    Slices with gaps are copied here, because a convolution would copy them once forward and once backward. All
    gradients share one buffer, which is set to 0 once and written once. Taken alone, a slice needs two passes over the
    whole parameter for each dimension, and one more for a change of type. On a GPU, one kernel copies all slices
    without gaps.
    """

    @staticmethod
    def forward(ctx, plan: _Plan, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.plan = plan
        ctx.set_materialize_grads(False)
        parts = [tensor.as_strided(size, stride) for tensor, (size, stride) in zip(tensors, plan.slices)]
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
        plan: _Plan = ctx.plan
        known = {i: grad for i, grad in enumerate(grads) if grad is not None}
        buffer = next(iter(known.values())).new_zeros(plan.size, dtype=plan.dtype)
        for i in plan.apart:
            if i in known:
                buffer.as_strided(*plan.slices[i], plan.wholes[i][2]).copy_(known[i])
        for group in plan.together:
            found = [i for i in group if i in known]
            if found:
                torch._foreach_copy_(
                    [buffer.as_strided(*plan.squeezed[i]) for i in found], [known[i].squeeze() for i in found])
        return None, *(
            buffer.as_strided(*whole) if i in known else None for i, whole in enumerate(plan.wholes))
