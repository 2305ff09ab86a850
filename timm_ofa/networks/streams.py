"""Batches on their way through the whole network and a subnet of it, side by side, within a limit of memory."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch


class Pair(NamedTuple):
    """One batch at one place of both networks."""
    whole: torch.Tensor  # (N, C, H, W)
    subnet: torch.Tensor  # (N, c, H, W); the same tensor as long as nothing is cut
    whole_input: torch.Tensor  # of the block that it is in
    subnet_input: torch.Tensor


class Stream:
    """Batches that move on by steps. Each pass over them takes the steps that are new since the last one.

    Where all batches together take no more than `max_bytes`, they are kept, so that no step is taken twice. Where they
    would take more, the next pass begins again from what was kept last. The results are the same.
    """

    def __init__(self, pairs: Iterable[Pair], max_bytes: int):
        self._kept, self._steps, self._max_bytes = list(pairs), list[Callable[[Pair], Pair]](), max_bytes

    def then(self, step: Callable[[Pair], Pair]) -> None:
        """Take one more step with each batch, in the next pass."""
        self._steps.append(step)

    def __iter__(self) -> Iterator[Pair]:
        moved = self._moved(self._kept[0])
        keep = bool(self._steps) and len(self._kept) * _bytes(moved) <= self._max_bytes
        for i, pair in enumerate(self._kept):
            moved = self._moved(pair) if i else moved
            if keep:
                self._kept[i] = moved
            yield moved
        if keep:
            self._steps.clear()

    def _moved(self, pair: Pair) -> Pair:
        for step in self._steps:
            pair = step(pair)
        return pair


def _bytes(pair: Pair) -> int:
    """Memory of a batch. Tensors that share theirs are counted once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in pair}
    return sum(storages.values())
