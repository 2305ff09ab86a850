"""Sets of images that training and judging read: `ImageSet` gives any image, `StreamSet` the next ones of a stream."""
from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch.utils.data import get_worker_info

from ..console import progress_bar
from ..errors import InputError, listed
from .decoding import Look, T, decode_image, turned_rgb, turned_size
from .splits import Rows, Stream, image_digest, mixed

DECODE = ('auto', 'once', 'always')  # when images are decoded; auto: once if they fit into MEMORY_LIMIT
MEMORY_LIMIT = 4 * 2**30  # bytes of decoded images
MAX_NAMED = 1000  # broken images that one message names
Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom, px


@dataclass(frozen=True)
class Crop:
    """A part of each original image, as a square of `side` px."""
    draw: Callable[[int, int, int], Box]  # (place of the image, width, height) -> the part that is seen
    side: int

    def at(self, place: int) -> Callable[[Image.Image], torch.Tensor]:
        """What makes the square of the image at a place."""
        return partial(square, side=self.side, crop=partial(self.draw, place))


@dataclass(frozen=True)
class Inspection:
    """What is known of a set of images once each was decoded."""
    digests: list[bytes]  # 8 bytes by which an image is recognized; none of a broken one
    broken: dict[int, InputError]  # by index


def refuse_broken(errors: Iterable[InputError]) -> None:
    """Raise if there are errors of images: the error of a single one, or one that names all of them."""
    errors = list(errors)
    if len(errors) == 1:
        raise InputError(f'{errors[0]}; replace or remove it, or leave it out with --skip-broken')
    if errors:
        names = [str(error).partition(' cannot be decoded')[0] for error in errors]
        raise InputError(f'{len(names)} images cannot be decoded: {listed(names, MAX_NAMED)}; replace or remove them, '
                         'or leave them out with --skip-broken')


class ImageSet:
    """Square images of one side (px) with labels. They are decoded once, or each time they are fetched."""

    def __init__(self, rows: Rows, labels: Sequence[int] | torch.Tensor, side: int, title: str, decode: str = 'auto'):
        """`decode`: one of DECODE."""
        self.rows, self.side, self.title, self._when = rows, side, title, decode
        self.labels = torch.as_tensor(labels, dtype=torch.long)
        self._pixels: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def in_memory(self) -> bool:
        """Whether the images are decoded once."""
        fits = len(self) * 3 * self.side**2 <= MEMORY_LIMIT
        return fits if self._when == 'auto' else self._when == 'once'

    def decode(self) -> ImageSet:
        """Decode all images now if they are to be in memory; returns itself. Raises `InputError` with all broken ones.
        """
        if self._pixels is None and self.in_memory:
            refuse_broken(self.inspect().broken.values())
        return self

    def inspect(self) -> Inspection:
        """Decode every image once. They stay in memory if they are to be there."""
        pixels = self._pixels
        if pixels is None and self.in_memory:
            pixels = torch.empty(len(self), 3, self.side, self.side, dtype=torch.uint8)
        digests, broken = list[bytes](), dict[int, InputError]()
        with progress_bar(len(self), f'decode {self.title}', 'img', leave=False, delay=5) as bar:
            for i, image in enumerate(self._squares(range(len(self))) if self._pixels is None else self._pixels):
                digests.append(b'')
                if isinstance(image, InputError):
                    broken[i] = image
                else:
                    digests[i] = hashlib.blake2b(image.contiguous().numpy().data, digest_size=8).digest()
                    if pixels is not None:
                        pixels[i] = image
                bar.update()
        self._pixels = None if broken else pixels
        return Inspection(digests, broken)

    def without_broken(self) -> ImageSet:
        """The images that can be decoded; itself if all can."""
        broken = self.inspect().broken
        return self.subset([i for i in range(len(self)) if i not in broken], self.title) if broken else self

    def fetch(self, indices: Sequence[int] | torch.Tensor, crop: Crop | None = None) -> torch.Tensor:
        """Bytes (B, 3, S, S) of some images: their centers, or what `crop` sees of the originals."""
        self.decode()
        if self._pixels is not None and crop is None:
            return self._pixels[torch.as_tensor(indices)]
        squares = list(self._squares([int(i) for i in indices], crop))
        refuse_broken(image for image in squares if isinstance(image, InputError))
        return _stacked([image for image in squares if isinstance(image, torch.Tensor)])

    def _squares(self, indices: Sequence[int], crop: Crop | None = None) -> Iterator[torch.Tensor | InputError]:
        """Images (3, side, side), or why there is none, one after the other. Several threads decode them; a loader
        worker uses one."""
        def load(i: int) -> torch.Tensor | InputError:
            try:
                return self.rows.see(i, crop.at(i) if crop else partial(square, side=self.side))
            except InputError as error:
                return error
        threads = 1 if get_worker_info() else min(8, os.cpu_count() or 1)
        with ThreadPoolExecutor(threads) if threads > 1 else nullcontext() as pool:
            for start in range(0, len(indices), 512):
                yield from (pool.map if pool else map)(load, indices[start:start + 512])

    def digest(self) -> str:
        """SHA-256 of all pixels and labels, in hex: which images these are."""
        found = hashlib.sha256(self.labels.numpy().data)
        for chunk in torch.arange(len(self)).split(500):
            found.update(self.fetch(chunk).contiguous().numpy().data)
        return found.hexdigest()

    def order(self, seed: int, epoch: int, start: int = 0) -> Iterator[int]:
        """The items of an epoch from the `start`-th on, for `load`: a function of (seed, epoch)."""
        return iter(np.random.default_rng([seed, epoch]).permutation(len(self))[start:].tolist())

    def load(self, items: Sequence[int], crop: Crop | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Bytes (B, 3, S, S) and labels (B,) of items of `order`."""
        return self.fetch(items, crop), self.labels[torch.as_tensor(items)]

    def sample(self, n: int) -> ImageSet:
        """A set of at least `n` of the images, if there are so many: the whole set."""
        return self

    def part(self, n: int, seed: int) -> ImageSet:
        """`n` random images, in which each class keeps its share; itself if there are no more than that."""
        return self if n >= len(self) else self.subset(stratified(self.labels.numpy(), n, seed), self.title)

    def at(self, side: int) -> ImageSet:
        """The same images, of another side (px), decoded once if they fit into memory."""
        return ImageSet(self.rows, self.labels, side, self.title)

    def subset(self, indices: Sequence[int], title: str) -> ImageSet:
        """Some of the images, as a set of their own."""
        chosen = torch.as_tensor(indices, dtype=torch.long)
        part = ImageSet(_Picked(self.rows, indices), self.labels[chosen], self.side, title, self._when)
        if self._pixels is not None:
            part._pixels = self._pixels[chosen]
        return part


class StreamSet:
    """Training images of a stream. Nothing of a stream is kept in memory.

    An epoch goes on where the epoch before it ended. After its end the stream begins again, in another order. If its
    length is not known, an epoch has to read all that came before it.
    """
    in_memory = False

    def __init__(self, stream: Stream, length: int, side: int, held: frozenset[bytes]):
        """`length`: images of an epoch. `held`: the digests of images that are left out."""
        self.stream, self.length, self.side, self.held, self.title = stream, length, side, held, stream.title
        self._sample: ImageSet | None = None

    def __len__(self) -> int:
        return self.length

    def decode(self) -> StreamSet:
        """Nothing to do; returns itself."""
        return self

    def order(self, seed: int, epoch: int, start: int = 0) -> Iterator[tuple[int, dict, int]]:
        """(place, encoded image, label) of an epoch from the `start`-th place on."""
        return ((i, *item) for i, item in itertools.islice(enumerate(self._epoch(seed, epoch)), start, None))

    def _epoch(self, seed: int, epoch: int) -> Iterator[tuple[dict, int]]:
        """(encoded image, label): the part of the endless stream that belongs to an epoch, mixed turn by turn."""
        turn, begin, skip, left = 0, 0.0, epoch * len(self), len(self)
        if self.stream.length:
            usable = max(1, self.stream.length - len(self.held))
            turn, begin, skip = skip // usable, skip % usable / usable, 0
        while left:
            rows = self.stream.read(np.random.default_rng([seed, turn, 2]), begin)
            free = (row for row in rows if image_digest(row[0]) not in self.held)
            skipped, taken = sum(1 for _ in itertools.islice(free, skip)), 0
            for item in mixed(itertools.islice(free, left), np.random.default_rng([seed, epoch, turn, 3])):
                taken += 1
                yield item
            if not (skipped or taken or begin):
                raise InputError(f'{self.title} has no images besides the held-out ones; lower holdout')
            turn, begin, skip, left = turn + 1, 0.0, skip - skipped, left - taken

    def load(self, items: Sequence[tuple[int, dict, int]], crop: Crop | None = None,
             ) -> tuple[torch.Tensor, torch.Tensor]:
        """Bytes (B, 3, S, S) and labels (B,) of items of `order`."""
        rows = _Encoded([image for _, image, _ in items], self.title)
        try:
            squares = [rows.see(i, crop.at(place) if crop else partial(square, side=self.side))
                       for i, (place, *_) in enumerate(items)]
        except InputError as error:
            raise InputError(f'{error}; replace or remove it') from None
        return _stacked(squares), torch.tensor([label for *_, label in items])

    def sample(self, n: int) -> ImageSet:
        """The first `n` images of one fixed order, in memory."""
        n = min(n, len(self))
        if self._sample is None or len(self._sample) < n:
            items = [item[1:] for item in itertools.islice(self.order(0, 0), n)]
            self._sample = encoded_set(items, self.side, f'{self.title} sample')
        return self._sample.subset(range(n), self._sample.title)


def stratified(labels: np.ndarray, n: int, seed: int) -> list[int]:
    """Indices, ascending, of `n` random images in which each class keeps its share of the labels (N,)."""
    rng = np.random.default_rng([seed, len(labels), n])
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind='stable')]  # class by class, at random within it
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    ranks = np.arange(len(labels)) - np.repeat(starts, counts)
    shares = (ranks + np.repeat(rng.random(len(counts)), counts)) / np.repeat(counts, counts)
    return np.sort(order[np.argsort(shares, kind='stable')[:n]]).tolist()


def square(image: Image.Image, side: int, crop: Callable[[int, int], Box] | None = None) -> torch.Tensor:
    """Bytes (3, side, side) of an opened image: the center, or what `crop(width, height)` sees; scaled with
    anti-aliasing."""
    width, height = turned_size(image)
    if crop:
        left, top, right, bottom = crop(width, height)
        image = turned_rgb(image, (side * width / (right - left), side * height / (bottom - top)))
        across, down = image.width / width, image.height / height  # 1, unless it was decoded smaller
        box = left * across, top * down, min(right * across, image.width), min(bottom * down, image.height)
        return _bytes(image.resize((side, side), Image.Resampling.BILINEAR, box=box))
    scale = side / min(width, height)
    image = turned_rgb(image, (width * scale, height * scale))
    width, height = image.size
    if (width, height) != (side, side):
        scale = side / min(width, height)
        width, height = max(side, round(width * scale)), max(side, round(height * scale))
        left, top = (width - side) // 2, (height - side) // 2
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        image = image.crop((left, top, left + side, top + side))
    return _bytes(image)


def _bytes(image: Image.Image) -> torch.Tensor:
    """The bytes (3, height, width) of an image, in the order of memory that it has them in: channels last."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _stacked(squares: Sequence[torch.Tensor]) -> torch.Tensor:
    """Images (3, side, side) as one tensor (B, 3, side, side) with the same order of memory."""
    return torch.stack([image.permute(1, 2, 0) for image in squares]).permute(0, 3, 1, 2)


class _Picked:
    """A selection of `rows`."""

    def __init__(self, rows: Rows, indices: Sequence[int]):
        self.rows, self.indices = rows, np.asarray(indices)

    def see(self, i: int, look: Look[T]) -> T:
        return self.rows.see(int(self.indices[i]), look)


class _Encoded:
    """Encoded images of a stream, decoded when they are asked for."""

    def __init__(self, images: Sequence[dict], title: str):
        self.images, self.title = images, title

    def see(self, i: int, look: Look[T]) -> T:
        return decode_image(self.images[i], f'an image of {self.title}', look)


def encoded_set(items: Sequence[tuple[dict, int]], side: int, title: str) -> ImageSet:
    """A set of (encoded image, label) items of a stream."""
    images, labels = [image for image, _ in items], [label for _, label in items]
    return ImageSet(_Encoded(images, title), labels, side, title, 'once')
