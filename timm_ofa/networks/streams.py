"""Batches on their way through the whole network and a subnet of it, side by side, within a limit of memory."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from ..errors import InputError

if TYPE_CHECKING:
    from .supernet import Supernet

BATCH = 64  # images, where they come as one tensor


@contextmanager
def in_mode(network: nn.Module, *, training: bool = False) -> Iterator[None]:
    """A network in evaluation or in training mode, and afterwards in the mode in which it was, whatever happens."""
    before = network.training
    try:
        network.train(training)
        yield
    finally:
        network.train(before)


def checked_batches(
        images: torch.Tensor | Iterable, supernet: Supernet, resolution: int | None = None) -> list[torch.Tensor]:
    """Normalized images as batches on the supernet's device, without empty ones. Raises `InputError` for what is none.

    Args:
        images: One tensor (N, channels, H, W), or batches of that, or (batch, labels) pairs.
        supernet: Where they will go.
        resolution: Their side (px), if it matters.
    """
    weight, channels, batches = next(supernet.parameters()), supernet.in_chans, list[torch.Tensor]()
    if isinstance(images, torch.Tensor):
        images = images.split(BATCH) if images.ndim else [images]
    for batch in images:
        batch = batch[0] if isinstance(batch, (list, tuple)) else batch
        shape = tuple(batch.shape) if isinstance(batch, torch.Tensor) else ()
        side = (resolution, resolution) if resolution else shape[2:]
        if len(shape) != 4 or shape[1:] != (channels, *side) or not batch.is_floating_point():
            what = f'{batch.dtype} {shape}' if isinstance(batch, torch.Tensor) else type(batch).__name__
            height, width = side if resolution else 'HW'
            raise InputError(
                f'a batch of images is {what:.80}; give normalized floats (N, {channels}, {height}, {width})')
        if not batch.isfinite().all():
            raise InputError(f'a batch of {len(batch)} images holds NaN or infinite values; give it without them')
        if len(batch):
            batches.append(batch.to(weight.device, weight.dtype))
    if not batches:
        raise InputError('there are no images; give some hundred')
    return batches


class Pair(NamedTuple):
    """One batch at one place of both networks."""
    whole: torch.Tensor  # (N, C, H, W)
    subnet: torch.Tensor  # (N, c, H, W); the same tensor as long as nothing is cut
    whole_input: torch.Tensor  # of the block that it is in
    subnet_input: torch.Tensor


class Stream:
    """Batches that move on by steps. A pass over them takes the steps that are new, and may end early.

    Where all batches together take no more than `max_bytes`, they are kept as they are then, so that no step is taken
    twice. Where they would take more, the next pass begins again from what was kept last. The results are the same.
    """

    def __init__(self, pairs: Iterable[Pair], max_bytes: int):
        self._kept = [(pair, 0) for pair in pairs]  # with the number of steps that it has taken
        self._steps: list[Callable[[Pair], Pair]] = []
        self._max_bytes = max_bytes

    def then(self, step: Callable[[Pair], Pair]) -> None:
        """Take one more step with each batch, in the next pass."""
        self._steps.append(step)

    def __iter__(self) -> Iterator[Pair]:
        keep = None
        for i, (pair, taken) in enumerate(self._kept):
            for step in self._steps[taken:]:
                pair = step(pair)
            keep = len(self._kept) * _bytes(pair) <= self._max_bytes if keep is None else keep
            if keep:
                self._kept[i] = pair, len(self._steps)
            yield pair


def _bytes(pair: Pair) -> int:
    """Memory of a batch. Tensors that share theirs are counted once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in pair}
    return sum(storages.values())
