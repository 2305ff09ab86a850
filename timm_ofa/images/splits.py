"""The two kinds of splits: images at any index (`Part`), or images that are read in order (`Stream`)."""
from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ..errors import InputError
from .decoding import Look, T

UNLABELED = -1  # the label of an image whose class is not told
MAX_SHARDS = 256  # a stream of more shards is read in so many groups of shards
SPREAD = 20  # shards that are read in turn
SHUFFLE_BUFFER = 2048  # encoded images that a stream keeps in order to mix them


class Rows(Protocol):
    """Images at any index."""

    def see(self, i: int, look: Look[T], /) -> T:
        """What `look` makes of an image, which is opened and need not be decoded yet. An error names the image."""


@dataclass(frozen=True)
class InMemory:
    """Images that are decoded already."""
    images: Sequence[Image.Image]

    def see(self, i: int, look: Look[T], /) -> T:
        return look(self.images[i])


@dataclass(frozen=True)
class Part:
    """A split: the image `i` of the rows has the class `labels[i]`."""
    rows: Rows
    labels: Sequence[int]
    split: str


@dataclass(frozen=True)
class Stream:
    """A split that is read in order, each time from its start."""
    dataset: Any  # datasets.IterableDataset; its images are not decoded
    columns: tuple[str, str]  # of image and label
    split: str
    title: str
    length: int | None  # images; None: not known

    def items(self, seed: int) -> Iterator[tuple[dict, int]]:
        """Each (encoded image, label) once, see `decoding.decode_image`; `seed` draws the order."""
        rng = np.random.default_rng(seed)
        return mixed(self.read(rng), rng)

    def read(self, rng: np.random.Generator, begin: float = 0.0) -> Iterator[tuple[dict, int]]:
        """Each (encoded image, label) shard by shard, in an order of shards that `rng` draws.

        `begin`: the share of the stream that is left out at the front, if its length is known.
        """
        shards = min(self.dataset.num_shards, MAX_SHARDS)
        order, skipped = rng.permutation(shards).tolist(), int(begin * shards)
        for i in range(skipped, shards):
            part = self.dataset.shard(shards, order[i], contiguous=False)
            if self.length and i == skipped:
                part = part.skip(round((begin * shards - skipped) * self.length / shards))
            yield from map(self._item, part)

    def spread(self) -> Iterator[tuple[dict, int]]:
        """Each (encoded image, label) once, always in the same order: at first from SPREAD shards in turn, which lie
        far apart.

        Many sets are sorted by class. So the first images are of many classes, and only the beginning of each of these
        shards is read for them. In newer versions of datasets each row group of a parquet file is a shard.
        """
        dataset = self.dataset.reshard() if hasattr(self.dataset, 'reshard') else self.dataset
        shards = min(dataset.num_shards, MAX_SHARDS)
        first = [i * shards // SPREAD for i in range(SPREAD)] if shards > SPREAD else list(range(shards))
        order = [*first, *sorted(set(range(shards)) - set(first))]
        for start in range(0, shards, SPREAD):
            parts = deque(iter(dataset.shard(shards, i, contiguous=True)) for i in order[start:start + SPREAD])
            while parts:
                part = parts.popleft()
                for row in itertools.islice(part, 1):
                    yield self._item(row)
                    parts.append(part)

    def _item(self, row: Mapping) -> tuple[dict, int]:
        image, label = (row[column] for column in self.columns)
        if label is None or label < 0:
            raise InputError(f'{self.title} holds an image without a label; choose another split')
        return image, label


def mixed(items: Iterable[T], rng: np.random.Generator) -> Iterator[T]:
    """The items in another order: each waits in a buffer until a random later one takes its place."""
    buffer: list[T] = []
    for item in items:
        if len(buffer) < SHUFFLE_BUFFER:
            buffer.append(item)
        else:
            place = rng.integers(SHUFFLE_BUFFER)
            yield buffer[place]
            buffer[place] = item
    yield from (buffer[i] for i in rng.permutation(len(buffer)))


@dataclass(frozen=True)
class Opened:
    """What a source holds; train and test are of the same kind."""
    name: str
    class_names: tuple[str, ...]
    train: Part | Stream
    test: Part | Stream | None


def is_labeled(part: Part) -> bool:
    """Whether there are images, and each has a label."""
    return min(part.labels, default=UNLABELED) > UNLABELED


def unlabeled_test(source: str, split: str) -> InputError:
    """The error for a test split that was asked for and cannot be used."""
    return InputError(
        f'data {source!r:.120}: test images of {split!r:.60} have no label; choose another split, or leave out test=')


def refuse_same_split(source: str, train: str, test: str | None, same: bool) -> None:
    """Training images are no test."""
    if test and same:
        raise InputError(f'data {source!r:.120}: test={test:.60} is the training split {train!r:.60}; choose another '
                         'split, or leave out test=')


def image_digest(image: Mapping) -> bytes:
    """8 bytes by which an encoded image is recognized."""
    return hashlib.blake2b(image['bytes'] or image['path'].encode(), digest_size=8).digest()
