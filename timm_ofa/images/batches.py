"""Batches of an epoch: loader workers decode ahead, each process gets its part, and the order never depends on either.

What a worker is asked for is (epoch, items) and what it gives is a function of that and the seed alone, so workers
live on from epoch to epoch, and a run that resumes within an epoch sees what it would have seen.
"""
from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from queue import Full, Queue
from threading import Event, Thread, current_thread

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset

from ..errors import InputError
from .data import Augment, ImageSet, Share, StreamSet, places_of

READ_AHEAD = 512  # encoded images that wait for the loader


class EpochBatches:
    """Batches of bytes (B, 3, side, side) and labels (B,) on the device; the order of an epoch is a function of
    (seed, epoch) alone, and each process gets its part of every batch. An incomplete last batch is left out.

    `augment` is what is left to do to them on the device: where images are decoded each time, a random-resized crop
    is taken here, of the original image, its box a function of (seed, epoch, place of the image).
    """

    def __init__(
            self,
            images: ImageSet | StreamSet,
            batch_size: int,
            seed: int,
            workers: int,
            accelerator: Accelerator,
            augment: Augment | None = None,
            pieces: int = 1,
    ):
        """`batch_size`: of all processes together, `pieces` that it is trained in; `workers`: loader processes, 0 to
        decode in this one."""
        if len(images) < batch_size:
            raise InputError(f'batch_size {batch_size} is more than the {len(images)} training images; lower it')
        self.images, self.batch_size, self.device = images, batch_size, accelerator.device
        crops = augment is not None and augment.crop == 'area' and not images.in_memory
        self.augment = replace(augment, crop='none') if crops else augment
        self._plan = _Plan(images, batch_size, seed, (accelerator.process_index, accelerator.num_processes, pieces))
        self._loader = DataLoader(
            _Decoder(images.decode(), augment if crops else None, seed), batch_sampler=self._plan, collate_fn=_as_is,
            num_workers=workers, persistent_workers=workers > 0, pin_memory=self.device.type == 'cuda',
            generator=torch.Generator())  # the global one is left alone

    def __len__(self) -> int:
        return len(self._plan)

    def __call__(self, epoch: int, skip: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of an epoch from the `skip`-th on."""
        self._plan.epoch, self._plan.skip = epoch, skip
        for batch in self._loader:
            if isinstance(batch, InputError):
                raise batch
            pixels, labels = (tensor.to(self.device, non_blocking=True) for tensor in batch)
            yield pixels, labels


class _Plan:
    """What loader workers are asked for: (epoch, items) of each batch, this process's part."""
    epoch = skip = 0

    def __init__(self, images: ImageSet | StreamSet, batch_size: int, seed: int, part: Share):
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.places = places_of(part, batch_size)

    def __len__(self) -> int:
        return len(self.images) // self.batch_size

    def __iter__(self) -> Iterator[tuple[int, list]]:
        items = self.images.order(self.seed, self.epoch, self.skip * self.batch_size)
        if isinstance(self.images, StreamSet):
            items = read_ahead(items, READ_AHEAD)
            with closing(items):
                yield from self._batches(items)
        else:
            yield from self._batches(items)

    def _batches(self, items: Iterator) -> Iterator[tuple[int, list]]:
        for _ in range(self.skip, len(self)):
            batch = list(itertools.islice(items, self.batch_size))
            yield self.epoch, [batch[place] for place in self.places]


class _Decoder(Dataset):
    """What a loader worker does: (epoch, items) -> bytes and labels, or the error to raise."""

    def __init__(self, images: ImageSet | StreamSet, augment: Augment | None, seed: int):
        self.images, self.augment, self.seed = images, augment, seed

    def __getitems__(self, batch: tuple[int, list]) -> tuple[torch.Tensor, torch.Tensor] | InputError:
        epoch, items = batch

        def crop(place: int, width: int, height: int) -> tuple[float, float, float, float]:
            return self.augment.box(width, height, np.random.default_rng([self.seed, epoch, place, 1]))
        try:
            return self.images.load(items, crop if self.augment else None)
        except InputError as error:
            return error


def _as_is(batch):
    return batch


def read_ahead(items: Iterator, size: int) -> Iterator:
    """The same items, read by a thread that is up to `size` ahead, until this iterator is closed."""
    ready, closed = Queue(size), Event()

    def put(item, error: Exception | None = None) -> None:
        while not closed.is_set():
            try:
                return ready.put((item, error), timeout=0.1)
            except Full:
                continue

    def read() -> None:
        try:
            for item in items:
                put(item)
                if closed.is_set():
                    return
            put(None, StopIteration())
        except Exception as error:
            put(None, error)
    thread = Thread(target=read, daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error:
                raise error
            yield item
    finally:
        closed.set()
        if thread is not current_thread():  # which may be the one that collects this garbage
            thread.join(timeout=10)  # one that still reads when Python ends would crash it
