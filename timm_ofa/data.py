"""Images: from a name or a folder to batches, and every random choice a function of (seed, step).

Images are decoded once to squares of one side and kept as bytes (where they fit in memory); cropping, flipping,
normalizing and resizing happen on whole batches, on the training device.
"""
from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from .errors import InputError, listed
from .fields import choice, number
from .space import SearchSpace

IMAGES_DIR = Path(__file__).parent / 'images'  # what ships with the package, one folder a data set
BUILT_IN = 'fashion-mnist-12k'
TEST_SPLITS = ('test', 'validation', 'valid', 'val', 'dev')
MEMORY_LIMIT = 4 * 2**30  # bytes of decoded images; larger sets are decoded again each time


class ImageSet(Dataset):
    """Square images of one side (px) with labels; `fetch` gives bytes (B, 3, side, side)."""

    def __init__(self, rows, labels: Sequence[int], side: int, title: str):
        """`rows`: anything indexable that gives a PIL image."""
        self.rows, self.side, self.title = rows, side, title
        self.labels = torch.as_tensor(labels, dtype=torch.long)
        self._pixels: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def decode(self) -> ImageSet:
        """Decode everything into memory now if it fits; returns itself."""
        if self._pixels is None and len(self) * 3 * self.side**2 <= MEMORY_LIMIT:
            pixels = torch.empty(len(self), 3, self.side, self.side, dtype=torch.uint8)
            for i in tqdm(range(len(self)), desc=f'decode {self.title}', unit='img', leave=False, delay=5):
                pixels[i] = self._load(i)
            self._pixels = pixels
        return self

    def _load(self, i: int) -> torch.Tensor:
        image = self.rows[i].convert('RGB')
        width, height = image.size
        if (width, height) != (self.side, self.side):
            scale = self.side / min(width, height)
            width, height = max(self.side, round(width * scale)), max(self.side, round(height * scale))
            left, top = (width - self.side) // 2, (height - self.side) // 2
            image = image.resize((width, height), Image.Resampling.BILINEAR)
            image = image.crop((left, top, left + self.side, top + self.side))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def fetch(self, indices: Sequence[int] | torch.Tensor) -> torch.Tensor:
        """Bytes (B, 3, side, side) of some images."""
        self.decode()
        if self._pixels is not None:
            return self._pixels[torch.as_tensor(indices)]
        return torch.stack([self._load(int(i)) for i in indices])

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.fetch([i])[0], self.labels[i]

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return self.fetch(indices), self.labels[torch.as_tensor(indices)]

    def subset(self, indices: Sequence[int], title: str) -> ImageSet:
        """Some of the images, as a set of their own."""
        part = ImageSet(_Picked(self.rows, indices), self.labels[torch.as_tensor(indices)], self.side, title)
        if self._pixels is not None:
            part._pixels = self._pixels[torch.as_tensor(indices)]
        return part


class _Picked:
    """A selection from something indexable."""

    def __init__(self, rows, indices: Sequence[int]):
        self.rows, self.indices = rows, indices

    def __getitem__(self, i: int):
        return self.rows[int(self.indices[i])]


class _Column:
    """The image column of a Hugging Face dataset, one decoded PIL image at a time."""

    def __init__(self, dataset, column: str):
        self.dataset, self.column = dataset, column

    def __getitem__(self, i: int) -> Image.Image:
        return self.dataset[i][self.column]


@dataclass(frozen=True)
class Data:
    """A data set: `train` to learn from, `holdout` (taken out of training) to compare subnets on, `test` for the
    accuracy that is reported at the end."""
    name: str
    class_names: tuple[str, ...]
    train: ImageSet
    holdout: ImageSet
    test: ImageSet
    split: str = 'test'  # what the data set calls the test images

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def stored_side(space: SearchSpace) -> int:
    """The side (px) at which images are kept for a space: enough for its largest resolution."""
    return int(np.ceil(max(space.resolutions) / space.crop_pct))


def load_data(source: str, side: int, *, holdout: float = 0.1, limit: int | None = None, seed: int = 0) -> Data:
    """Images by name or place.

    Args:
        source: A Hub data set id, a folder of images by class, a folder of parquet files, 'digits', or the built-in
            'fashion-mnist-12k'.
        side: Side of the stored squares, px.
        holdout: Share of the training images that is held out.
        limit: At most so many training images (the first ones).
        seed: Draws the held-out images.
    """
    name, parts, class_names = _digits() if source == 'digits' else _hf_dataset(source)
    (train_rows, train_labels, _), split = parts[0], 'test'
    n = min(len(train_labels), limit or len(train_labels))
    order = np.random.default_rng([seed, n]).permutation(n)
    if parts[1] is None:  # no test part: a fifth of the training images serves
        cut = max(1, n // 5)
        test_indices, order = order[:cut], order[cut:]
        test_labels = [train_labels[i] for i in test_indices]
        test = ImageSet(_Picked(train_rows, test_indices), test_labels, side, f'{name} test')
    else:
        test_rows, test_labels, split = parts[1]
        test = ImageSet(test_rows, test_labels, side, f'{name} {split}')
    cut = max(1, round(len(order) * holdout))
    if len(order) <= cut:
        raise InputError(f'data {source!r:.120} has only {n} training images; give at least 10')
    train_all = ImageSet(train_rows, train_labels, side, f'{name} train')
    return Data(
        name, tuple(class_names), train_all.subset(sorted(order[cut:].tolist()), f'{name} train'),
        train_all.subset(sorted(order[:cut].tolist()), f'{name} holdout'), test, split)


def _digits():
    """scikit-learn's 8x8 digits: 1,437 + 360 images, for tests."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError("data 'digits' needs scikit-learn; pip install 'timm_ofa[digits]'") from None
    digits = load_digits()
    images = [Image.fromarray((image * 255 / 16).astype(np.uint8)) for image in digits.images]
    order = np.random.default_rng(0).permutation(len(images))
    labels = digits.target[order].tolist()
    images = [images[i] for i in order]
    parts = [(images[360:], labels[360:], 'train'), (images[:360], labels[:360], 'test')]
    return 'digits', parts, [str(i) for i in range(10)]


def _hf_dataset(source: str):
    """(name, [train, test or None], class names) of a folder or Hub data set, each part (images, labels, name)."""
    import datasets

    folder = IMAGES_DIR / source if source == BUILT_IN else Path(source)
    if not folder.is_dir() and (source.count('/') > 1 or source.startswith(('.', '/', '~')) or not source):
        raise InputError(f'data {source!r:.120} is not a folder; give a folder of images by class or of parquet files')
    if folder.is_dir() and not any(p.is_file() and not p.name.startswith('.') for p in folder.rglob('*')):
        raise InputError(f'data folder {source!r:.120} holds no files; put images by class or parquet files there')
    disable = datasets.utils.logging.is_progress_bar_enabled() and not os.isatty(2)
    if disable:
        datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(str(folder) if folder.is_dir() else source)
    except Exception as error:  # whatever the reader or the network raises is one line to the user
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f'data {source!r:.120} cannot be loaded ({reason:.200}); give a Hub data set id, a folder of images by '
            f"class, a folder of parquet files, or '{BUILT_IN}'") from None
    finally:
        if disable:
            datasets.enable_progress_bars()
    if 'train' not in loaded:
        raise InputError(f"data {source!r:.120} has the splits {listed(loaded)}; one must be called 'train'")
    features = loaded['train'].features
    image = next((name for name, f in features.items() if isinstance(f, datasets.Image)), None)
    label = next((name for name, f in features.items() if isinstance(f, datasets.ClassLabel)), None)
    if image is None or label is None:
        raise InputError(
            f'data {source!r:.120} has the columns {listed(features)}; an image and a class-label are needed')
    splits = {name: (_Column(loaded[name].select_columns([image]), image), loaded[name][label][:], name)
              for name in ('train', *TEST_SPLITS) if name in loaded}
    told = [name for name, (_, labels, _) in splits.items() if min(labels, default=-1) >= 0]  # -1: kept secret
    test = next((name for name in told if name != 'train'), None)
    parts = [splits['train'], splits.get(test)]
    name = source if not folder.is_dir() else folder.resolve().name
    return name, parts, features[label].names


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


@dataclass(frozen=True)
class Augment:
    """What training does to images. Every batch draws from its own generator."""
    crop: str = choice('shift', 'area', default='shift')  # move by up to `shift` of the side; random-resized crop
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
            part: tuple[int, int] = (0, 1),
    ) -> torch.Tensor:
        """Bytes (B, 3, S, S) -> floats (B, 3, resolution, resolution).

        `part` (i, n): these images are the i-th of n equal parts of a batch. What is drawn belongs to a place in the
        whole batch, so that n processes do together what one does alone.
        """
        batch, side = len(pixels), pixels.shape[-1]
        i, n = part
        drawn = {name: values[i * batch:(i + 1) * batch] for name, values in self._draw(n * batch, side, rng).items()}
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
        else:
            reach = int(self.shift * side)
            center = rng.integers(-reach, reach + 1, (2, n)) * 2 / side
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


def calibration_batches(
        images: ImageSet,
        space: SearchSpace,
        resolution: int,
        *,
        augment: Augment,
        n: int = 2000,
        batch_size: int = 200,
        seed: int = 0,
) -> list[torch.Tensor]:
    """Augmented training batches (B, 3, resolution, resolution) for BatchNorm recalibration; the same for a seed."""
    rng = np.random.default_rng([seed, resolution])
    chosen = np.random.default_rng(seed).permutation(len(images))[:n]
    batches = [chosen[i:i + batch_size] for i in range(0, len(chosen), batch_size)]
    return [augment(images.fetch(batch), space, resolution, rng) for batch in batches if len(batch) > 1]
