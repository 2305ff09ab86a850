"""The batches of an epoch: loader workers decode ahead, and each process gets its part of every batch.

A worker is asked for (epoch, item) pairs; what it gives is a function of them and the seed alone. So the batches do not
depend on the number of workers and processes, workers live on from epoch to epoch, and a run that resumes within an
epoch sees what it would have seen.
"""
from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset

from ..errors import InputError
from .augmentation import Augment, places_of
from .image_sets import Box, Crop, ImageSet, StreamSet

READ_AHEAD = 512  # encoded images that wait for the loader
T = TypeVar('T')


class EpochBatches:
    """Batches of bytes (B, 3, S, S) and labels (B,) on the device. The order is a function of (seed, epoch).

    An incomplete last batch is left out. `augment` is what is left to do on the device: if images are decoded each
    time, a random-resized crop is taken here, from the original image, with a box that is a function of (seed, epoch,
    place of the image).
    """

    def __init__(self, images: ImageSet | StreamSet, batch_size: int, seed: int, workers: int, accelerator: Accelerator,
                 augment: Augment | None = None, largest: int | None = None):
        """`batch_size`: of all processes together; `workers`: loader processes, 0 to decode in this one; `largest`: the
        largest resolution that is trained, px, which is the side of what is cropped here; by default that of the
        images."""
        if len(images) < batch_size:
            raise InputError(f'batch_size {batch_size} is more than the {len(images)} training images; lower it')
        self.images, self.batch_size, self.device = images, batch_size, accelerator.device
        crops = augment if augment is not None and augment.crop == 'area' and not images.in_memory else None
        self.augment = replace(crops, crop='done') if crops else augment
        self._process = accelerator.process_index, accelerator.num_processes
        self._plan = _Plan(images, batch_size, seed)
        self._loader: DataLoader = DataLoader(
            _Decoder(images.decode(), crops, seed, largest or images.side), batch_sampler=self._plan,
            collate_fn=_as_is, num_workers=workers, persistent_workers=workers > 0,
            pin_memory=self.device.type == 'cuda', generator=torch.Generator())  # instead of the global one

    def __len__(self) -> int:
        return len(self._plan)

    def __call__(self, epoch: int, skip: int, pieces: int = 1) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of an epoch from the `skip`-th on; `pieces`: in how many parts a batch is trained."""
        self._plan.epoch, self._plan.skip = epoch, skip
        self._plan.places = places_of((*self._process, pieces), self.batch_size)
        for batch in self._loader:
            if isinstance(batch, InputError):
                raise batch
            pixels, labels = (tensor.to(self.device, non_blocking=True) for tensor in batch)
            yield pixels, labels


class _Plan:
    """What loader workers are asked for: the (epoch, item) pairs of each batch, this process's part of it."""
    epoch = skip = 0
    places: np.ndarray  # of this process in a batch

    def __init__(self, images: ImageSet | StreamSet, batch_size: int, seed: int):
        self.images, self.batch_size, self.seed = images, batch_size, seed

    def __len__(self) -> int:
        return len(self.images) // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, Any]]]:
        items = self.images.order(self.seed, self.epoch, self.skip * self.batch_size)
        if isinstance(self.images, StreamSet):
            with closing(read_ahead(items, READ_AHEAD)) as ahead:
                yield from self._batches(ahead)
        else:
            yield from self._batches(items)

    def _batches(self, items: Iterator) -> Iterator[list[tuple[int, Any]]]:
        for _ in range(self.skip, len(self)):
            batch = list(itertools.islice(items, self.batch_size))
            yield [(self.epoch, batch[place]) for place in self.places]


class _Decoder(Dataset):
    """What a loader worker does: (epoch, item) pairs -> bytes and labels, or the error to raise."""

    def __init__(self, images: ImageSet | StreamSet, augment: Augment | None, seed: int, side: int):
        self.images, self.augment, self.seed, self.side = images, augment, seed, side

    def __getitems__(self, pairs: list[tuple[int, Any]]) -> tuple[torch.Tensor, torch.Tensor] | InputError:
        crop = Crop(partial(_random_box, self.augment, self.seed, pairs[0][0]), self.side) if self.augment else None
        try:
            return self.images.load([item for _, item in pairs], crop)
        except InputError as error:
            return error


def _random_box(augment: Augment, seed: int, epoch: int, place: int, width: int, height: int) -> Box:
    return augment.box(width, height, np.random.default_rng([seed, epoch, place, 1]))


def _as_is(batch: T) -> T:
    return batch


def read_ahead(items: Iterator[T], size: int) -> Generator[T, None, None]:
    """The same items. A thread reads up to `size` of them ahead, until this iterator is closed."""
    end = object()
    reader = ThreadPoolExecutor(1, 'read-ahead')
    try:
        ahead = deque(reader.submit(next, items, end) for _ in range(size))
        while (item := ahead.popleft().result()) is not end:
            ahead.append(reader.submit(next, items, end))
            yield cast(T, item)
    finally:
        reader.shutdown(wait=False, cancel_futures=True)
