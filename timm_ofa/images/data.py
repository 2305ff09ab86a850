"""Images: from a source to batches, and every random choice a function of its seed.

Images are decoded once to squares of one side and kept as bytes where they fit in memory, else each time anew;
flipping, coloring, normalizing and resizing happen on whole batches, on the training device.
"""
from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import get_worker_info
from tqdm import tqdm

from ..errors import InputError
from ..fields import choice, number
from ..spaces import SearchSpace
from .sources import Opened, Part, Stream, decode_image, image_digest, open_source

DECODE = ('auto', 'once', 'always')  # when images are decoded; auto: once where they fit into MEMORY_LIMIT
MEMORY_LIMIT = 4 * 2**30  # bytes of decoded images
STREAM_IMAGES = 10_000  # at most so many images of a stream are held out, and so many tested on
Crop = Callable[[int, int, int], tuple[float, float, float, float]]
"""(place of the image in the epoch's data, width, height) -> left, top, right, bottom of what is seen, px."""


class ImageSet:
    """Square images of one side (px) with labels; `fetch` gives bytes (B, 3, side, side)."""

    def __init__(self, rows, labels: Sequence[int], side: int, title: str, decode: str = 'auto'):
        """`rows`: anything indexable that gives a PIL image. `decode`: one of DECODE."""
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
        """Decode everything into memory now if that is to be; returns itself."""
        if self._pixels is None and self.in_memory:
            pixels = torch.empty(len(self), 3, self.side, self.side, dtype=torch.uint8)
            bar = tqdm(range(len(self)), desc=f'decode {self.title}', unit='img', leave=False, delay=5)
            for i, image in zip(bar, self._squares(range(len(self)))):
                pixels[i] = image
            self._pixels = pixels
        return self

    def fetch(self, indices: Sequence[int] | torch.Tensor, crop: Crop | None = None) -> torch.Tensor:
        """Bytes (B, 3, side, side) of some images: their centers, or what `crop` sees of the originals."""
        self.decode()
        if self._pixels is not None and crop is None:
            return self._pixels[torch.as_tensor(indices)]
        return torch.stack(list(self._squares([int(i) for i in indices], crop)))

    def _squares(self, indices: Sequence[int], crop: Crop | None = None) -> Iterator[torch.Tensor]:
        """Images (3, side, side) one after the other, decoded by several threads; a loader worker has but one."""
        def load(i: int) -> torch.Tensor:
            return square(self.rows[i], self.side, crop and partial(crop, i))
        threads = 1 if get_worker_info() else min(8, os.cpu_count() or 1)
        with ThreadPoolExecutor(threads) if threads > 1 else nullcontext() as pool:
            for start in range(0, len(indices), 512):
                yield from (pool.map if pool else map)(load, indices[start:start + 512])

    def order(self, seed: int, epoch: int, start: int = 0) -> Iterator[int]:
        """What `load` takes, for the images of an epoch from the `start`-th on: a function of (seed, epoch)."""
        return iter(np.random.default_rng([seed, epoch]).permutation(len(self))[start:].tolist())

    def load(self, items: Sequence[int], crop: Crop | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Bytes (B, 3, side, side) and labels (B,) of items of `order`."""
        return self.fetch(items, crop), self.labels[torch.as_tensor(items)]

    def sample(self, n: int) -> ImageSet:
        """Images at any index, at least `n` if there are so many: itself."""
        return self

    def subset(self, indices: Sequence[int], title: str) -> ImageSet:
        """Some of the images, as a set of their own."""
        rows = _Picked(self.rows, indices)
        part = ImageSet(rows, self.labels[torch.as_tensor(indices)], self.side, title, self._when)
        if self._pixels is not None:
            part._pixels = self._pixels[torch.as_tensor(indices)]
        return part


class StreamSet:
    """Training images of a stream: an order of its own each epoch, no image at an index.

    Where an epoch is longer than the stream, the stream begins again, in another order.
    """
    in_memory = False

    def __init__(self, stream: Stream, length: int, side: int, held: frozenset[bytes]):
        """`held`: the digests of images that are left out."""
        self.stream, self.length, self.side, self.held, self.title = stream, length, side, held, stream.title
        self._sample: ImageSet | None = None

    def __len__(self) -> int:
        return self.length

    def decode(self) -> StreamSet:
        """Nothing of a stream is kept; returns itself."""
        return self

    def order(self, seed: int, epoch: int, start: int = 0) -> Iterator[tuple[int, dict, int]]:
        """(place, encoded image, label) of an epoch without end, from the `start`-th place on."""
        items = itertools.chain.from_iterable(self._turn(seed, epoch, turn) for turn in itertools.count())
        return ((i, *item) for i, item in itertools.islice(enumerate(items), start, None))

    def _turn(self, seed: int, epoch: int, turn: int) -> Iterator[tuple[dict, int]]:
        """Once through the stream."""
        rng, some = np.random.default_rng([seed, epoch, turn, 2]), False
        for image, label in self.stream.items(int(rng.integers(2**31))):
            if image_digest(image) not in self.held:
                some = True
                yield image, label
        if not some:
            raise InputError(f'{self.title} has no images besides the held-out ones; lower holdout')

    def load(self, items: Sequence, crop: Crop | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Bytes (B, 3, side, side) and labels (B,) of items of `order`."""
        rows = _Encoded([item[1:] for item in items], self.title)
        squares = [
            square(rows[i], self.side, crop and partial(crop, place)) for i, (place, *_) in enumerate(items)]
        return torch.stack(squares), torch.tensor([label for *_, label in items])

    def sample(self, n: int) -> ImageSet:
        """The first `n` images of one fixed order, in memory."""
        if self._sample is None or len(self._sample) < n:
            items = [item[1:] for item in itertools.islice(self.order(0, 0), min(n, len(self)))]
            self._sample = _encoded_set(items, self.side, f'{self.title} sample')
        return self._sample


def square(
        image: Image.Image,
        side: int,
        crop: Callable[[int, int], tuple[float, float, float, float]] | None = None,
) -> torch.Tensor:
    """Bytes (3, side, side): the center, or the part that `crop` of (width, height) sees, scaled with anti-aliasing."""
    image = image.convert('RGB')
    width, height = image.size
    if crop:
        image = image.resize((side, side), Image.Resampling.BILINEAR, box=crop(width, height))
    elif (width, height) != (side, side):
        scale = side / min(width, height)
        width, height = max(side, round(width * scale)), max(side, round(height * scale))
        left, top = (width - side) // 2, (height - side) // 2
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        image = image.crop((left, top, left + side, top + side))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


class _Picked:
    """A selection from something indexable."""

    def __init__(self, rows, indices: Sequence[int]):
        self.rows, self.indices = rows, np.asarray(indices)

    def __getitem__(self, i: int):
        return self.rows[int(self.indices[i])]


class _Encoded:
    """Images of (image, label) items of a stream."""

    def __init__(self, items: Sequence[tuple[dict, int]], title: str):
        self.items, self.title = items, title

    def __getitem__(self, i: int) -> Image.Image:
        return decode_image(self.items[i][0], f'an image of {self.title}')


def _encoded_set(items: Sequence[tuple[dict, int]], side: int, title: str) -> ImageSet:
    return ImageSet(_Encoded(items, title), [label for _, label in items], side, title, 'once')


@dataclass(frozen=True)
class Data:
    """A data set: `train` to learn from, `holdout` (taken out of training) to compare subnets on, `test` for the
    accuracy that is reported at the end."""
    name: str
    class_names: tuple[str, ...]
    train: ImageSet | StreamSet
    holdout: ImageSet
    test: ImageSet
    split: str = 'test'  # what the data set calls the test images

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def stored_side(space: SearchSpace) -> int:
    """The side (px) at which images are kept for a space: enough for its largest resolution."""
    return int(np.ceil(max(space.resolutions) / space.crop_pct))


def load_data(
        source: str,
        side: int,
        *,
        holdout: float = 0.1,
        limit: int | None = None,
        seed: int = 0,
        decode: str = 'auto',
        images_per_epoch: int | None = None,
) -> Data:
    """Images by name or place.

    Args:
        source: A Hub data set id, a folder of images by class, a folder of parquet files, 'digits', or the built-in
            'fashion-mnist-12k'; 'stream:' before an id or a folder reads it in order, without a copy on disk;
            'timm:' before a folder, a tar file, 'hfds/NAME' or 'torch/NAME' takes timm's readers. '?train=NAME&
            test=NAME&label=COLUMN' behind it chooses splits and column, '&root=FOLDER' where timm's reader looks.
        side: Side of the stored squares, px.
        holdout: Share of the training images that is held out; of a stream at most STREAM_IMAGES.
        limit: At most so many training images (the first ones).
        seed: Draws the held-out images.
        decode: When images are decoded, one of DECODE; not for streams.
        images_per_epoch: Length of an epoch of a stream, where the data set does not tell, or another one.
    """
    opened = open_source(source)
    if isinstance(opened.train, Stream):
        if limit is not None:
            raise InputError(f'limit {limit} does not go with the stream {source!r:.120}; set images_per_epoch')
        return _stream_data(opened, side, holdout, seed, images_per_epoch)
    if images_per_epoch is not None:
        raise InputError(f'images_per_epoch {images_per_epoch} is for streams, {source!r:.120} is none; leave it out')
    return _indexed_data(opened, source, side, holdout, limit, seed, decode)


def _indexed_data(
        opened: Opened, source: str, side: int, holdout: float, limit: int | None, seed: int, decode: str) -> Data:
    name, train, test_part = opened.name, opened.train, opened.test
    n = min(len(train.labels), limit or len(train.labels))
    order = np.random.default_rng([seed, n]).permutation(n)
    if test_part is None:  # no test part: a fifth of the training images serves
        cut = max(1, n // 5)
        test_indices, order = order[:cut], order[cut:]
        test_part = Part(_Picked(train.rows, test_indices), [train.labels[i] for i in test_indices], 'test')
    test = ImageSet(test_part.rows, test_part.labels, side, f'{name} {test_part.split}', decode)
    cut = max(1, round(len(order) * holdout))
    if len(order) <= cut:
        raise InputError(f'data {source!r:.120} has only {n} training images; give at least 10')
    everything = ImageSet(train.rows, train.labels, side, f'{name} train', decode)
    return Data(
        name, opened.class_names, everything.subset(sorted(order[cut:].tolist()), f'{name} train'),
        everything.subset(sorted(order[:cut].tolist()), f'{name} holdout'), test, test_part.split)


def _stream_data(opened: Opened, side: int, holdout: float, seed: int, images_per_epoch: int | None) -> Data:
    """The first images of an order drawn by `seed` are held out, and known again by their digests."""
    name, stream = opened.name, opened.train
    length = images_per_epoch or stream.length
    if length is None:
        raise InputError(f'the length of the stream {stream.title!r:.120} is not known; --set images_per_epoch=NUMBER')
    n = min(STREAM_IMAGES, MEMORY_LIMIT // (3 * side**2), max(1, round(length * holdout)))
    parts = 1 if opened.test else 2  # no test split: as many training images again
    held = list(itertools.islice(stream.items(seed), parts * n))
    if len(held) < parts * n:
        raise InputError(f'the stream {stream.title!r:.120} has only {len(held)} images; lower images_per_epoch')
    limit = min(STREAM_IMAGES, MEMORY_LIMIT // (3 * side**2))
    test = list(itertools.islice(opened.test.items(seed), limit)) if opened.test else held[n:]
    split = opened.test.split if opened.test else 'test'
    train = StreamSet(
        stream, images_per_epoch or length - len(held), side, frozenset(image_digest(image) for image, _ in held))
    return Data(name, opened.class_names, train, _encoded_set(held[:n], side, f'{name} holdout'),
                _encoded_set(test, side, f'{name} {split}'), split)


# ---- batches: bytes in, normalized floats out ---------------------------------------------------------------------

def normalize(pixels: torch.Tensor, space: SearchSpace) -> torch.Tensor:
    """Bytes (B, 3, S, S) -> floats with the space's mean and standard deviation."""
    mean = torch.tensor(space.mean, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(space.std, device=pixels.device).view(1, 3, 1, 1)
    return pixels.float().div_(255).sub_(mean).div_(std)


def resize(x: torch.Tensor, side: int) -> torch.Tensor:
    """Floats (B, 3, S, S) -> (B, 3, side, side), bilinear with anti-aliasing, as an image library does."""
    if x.shape[-1] == side:
        return x
    return F.interpolate(x, (side, side), mode='bilinear', align_corners=False, antialias=True)


def eval_batch(pixels: torch.Tensor, space: SearchSpace, resolution: int) -> torch.Tensor:
    """Bytes (B, 3, S, S) -> floats (B, 3, resolution, resolution): resize, then the center."""
    side = int(np.ceil(resolution / space.crop_pct))
    margin = (side - resolution) // 2
    x = resize(normalize(pixels, space), side)
    return x[..., margin:margin + resolution, margin:margin + resolution].contiguous(memory_format=torch.channels_last)


Share = tuple[int, int, int]  # (i, n, pieces): of each of the equal pieces of a batch, the i-th of n equal parts


def places_of(part: Share, batch_size: int) -> np.ndarray:
    """The places (batch_size / n,) of a part in the whole batch: a process that takes gradients piece by piece has its
    share of each piece, so that a piece holds the same images for any number of processes."""
    i, n, pieces = part
    return np.arange(batch_size).reshape(pieces, n, -1)[:, i].ravel()


@dataclass(frozen=True)
class Augment:
    """What training does to images. Every batch draws from its own generator."""
    crop: str = choice('shift', 'area', 'none', default='shift')  # move by up to `shift`; random-resized crop
    shift: float = number(0, 1, default=0.125)  # share of the side
    scale: tuple[float, float] = number(1e-6, 1, default=(0.08, 1.0))  # 'area': share of the image
    flip: bool = True
    brightness: float = number(default=0.0)  # factor drawn from 1 - b to 1 + b; the original: 32 / 255
    saturation: float = number(default=0.0)  # the original: 0.5
    erase: float = number(0, 1, default=0.0)  # probability of erasing a rectangle

    def __call__(
            self,
            pixels: torch.Tensor,
            space: SearchSpace,
            resolution: int,
            rng: np.random.Generator,
            part: Share = (0, 1, 1),
    ) -> torch.Tensor:
        """Bytes (B, 3, S, S) -> floats (B, 3, resolution, resolution).

        `part`: these images are that part of a batch. What is drawn belongs to a place in the whole batch, so that n
        processes do together what one does alone.
        """
        batch, side = len(pixels), pixels.shape[-1]
        places = places_of(part, batch * part[1])
        drawn = {name: values[places] for name, values in self._draw(batch * part[1], side, rng).items()}
        x = normalize(pixels, space)
        if self.brightness or self.saturation:
            zero = -torch.tensor(space.mean, device=x.device).view(1, 3, 1, 1) / torch.tensor(
                space.std, device=x.device).view(1, 3, 1, 1)  # black
            brightness, saturation = (
                1 + torch.from_numpy(drawn[name].astype(np.float32)).to(x.device).view(-1, 1, 1, 1)
                for name in ('brightness', 'saturation'))
            x = zero + (x - zero) * brightness
            gray = x.mean(1, keepdim=True)
            x = gray + (x - gray) * saturation
        theta = np.zeros((batch, 2, 3), dtype=np.float32)
        theta[:, 0, 0], theta[:, 1, 1] = drawn['width'], drawn['height']
        theta[:, 0, 2], theta[:, 1, 2] = drawn['center_x'], drawn['center_y']
        grid = F.affine_grid(torch.from_numpy(theta).to(x.device), [batch, 3, side, side], align_corners=False)
        padding = 'border' if self.crop == 'area' else 'zeros'  # zero is the mean color
        x = resize(F.grid_sample(x, grid, padding_mode=padding, align_corners=False), resolution)
        if self.erase:
            self._erase(x, drawn)
        return x.contiguous(memory_format=torch.channels_last)

    def box(self, width: int, height: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
        """Left, top, right, bottom (px) of a random-resized crop of an image, drawn as torchvision draws it."""
        area = width * height * rng.uniform(*self.scale, 10)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), 10))
        widths, heights = np.round(np.sqrt(area * ratio)), np.round(np.sqrt(area / ratio))
        fits = np.flatnonzero((widths > 0) & (widths <= width) & (heights > 0) & (heights <= height))
        if not len(fits):  # the center, as much of it as the ratios allow
            w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
            left, top = (width - w) // 2, (height - h) // 2
        else:
            w, h = widths[fits[0]], heights[fits[0]]
            left, top = np.floor(rng.random(2) * (width - w + 1, height - h + 1))
        return float(left), float(top), float(left + w), float(top + h)

    def _draw(self, n: int, side: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Everything random about n images, by name, (n,) each; lengths are relative to the image, which is 2 wide."""
        drawn = {}
        if self.brightness or self.saturation:
            drawn['brightness'] = self.brightness * rng.uniform(-1, 1, n)
            drawn['saturation'] = self.saturation * rng.uniform(-1, 1, n)
        width = height = np.ones(n)
        if self.crop == 'area':
            area, ratio = rng.uniform(*self.scale, n), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), n))
            width, height = np.sqrt(area * ratio).clip(max=1), np.sqrt(area / ratio).clip(max=1)
            center = rng.uniform(-1, 1, (2, n)) * (1 - np.stack([width, height]))
        elif self.crop == 'shift':
            reach = int(self.shift * side)
            center = rng.integers(-reach, reach + 1, (2, n)) * 2 / side
        else:
            center = np.zeros((2, n))
        drawn['width'] = width * rng.choice([-1, 1], n) if self.flip else width
        drawn['height'], (drawn['center_x'], drawn['center_y']) = height, center
        if self.erase:  # a rectangle of 2 to 33 % of the image
            area, ratio = rng.uniform(0.02, 0.33, n), np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3), n))
            drawn['erased'] = rng.random(n) < self.erase
            drawn['erase_height'], drawn['erase_width'] = np.sqrt(area * ratio), np.sqrt(area / ratio)
            drawn['erase_top'], drawn['erase_left'] = rng.random((2, n))
        return drawn

    def _erase(self, x: torch.Tensor, drawn: dict[str, np.ndarray]) -> None:
        """Fill the rectangles with the mean color, in place."""
        side = x.shape[-1]
        for i in np.flatnonzero(drawn['erased']):
            h, w = (min(side, max(1, round(side * drawn[f'erase_{name}'][i]))) for name in ('height', 'width'))
            top = int(drawn['erase_top'][i] * (side - h + 1))
            left = int(drawn['erase_left'][i] * (side - w + 1))
            x[i, :, top:top + h, left:left + w] = 0


def calibration_set(images: ImageSet | StreamSet, n: int = 2000, seed: int = 0) -> ImageSet:
    """Training images for BatchNorm statistics, the same for a seed; of the others none is decoded."""
    images = images.sample(n)
    return images.subset(np.random.default_rng(seed).permutation(len(images))[:n], images.title)


def calibration_batches(
        images: ImageSet,
        space: SearchSpace,
        resolution: int,
        *,
        augment: Augment,
        batch_size: int = 200,
        seed: int = 0,
) -> list[torch.Tensor]:
    """Augmented batches (B, 3, resolution, resolution) of a calibration set, the same for a seed."""
    rng = np.random.default_rng([seed, resolution])
    batches = torch.arange(len(images)).split(batch_size)
    return [augment(images.fetch(batch), space, resolution, rng) for batch in batches if len(batch) > 1]
