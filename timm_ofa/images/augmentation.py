"""From bytes to the normalized floats that a network reads: for evaluation, training and calibration.

Flips, crops, colors, scaling: all happen to whole batches, on the device of the batch. What is random is a function of
the generator that the caller gives. Calibration gives a subnet its BatchNorm statistics.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..fields import choice, number
from ..spaces import SearchSpace
from .image_sets import Box, ImageSet, StreamSet

Share = tuple[int, int, int]  # (i, n, pieces): the i-th of n equal parts of each of the equal pieces of a batch
CALIBRATION_BATCH = 200  # images
LUMA = 0.299, 0.587, 0.114  # how bright red, green and blue are, ITU-R BT.601
RATIOS = np.log(3 / 4), np.log(4 / 3)  # logarithm of width by height of a random-resized crop, as in torchvision


def _color(values: tuple[float, float, float], x: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, device=x.device).view(1, 3, 1, 1)


def normalize(pixels: torch.Tensor, space: SearchSpace) -> torch.Tensor:
    """Bytes (B, 3, S, S) -> floats with the space's mean and standard deviation."""
    return _standardize(pixels.float().div_(255), space)


def _standardize(x: torch.Tensor, space: SearchSpace) -> torch.Tensor:
    """Floats (B, 3, S, S) from 0 to 1 -> with the space's mean and standard deviation, in place."""
    return x.sub_(_color(space.mean, x)).div_(_color(space.std, x))


def resize(x: torch.Tensor, side: int) -> torch.Tensor:
    """Floats or bytes (B, 3, S, S) -> (B, 3, side, side), bilinear with anti-aliasing, as an image library does."""
    if x.shape[-1] == side:
        return x
    return F.interpolate(x, (side, side), mode='bilinear', align_corners=False, antialias=True)


def _scaled_side(resolution: int, space: SearchSpace) -> int:
    """The side (px) to which evaluation scales an image before it cuts the center out."""
    return int(np.ceil(resolution / space.crop_pct))


def eval_batch(pixels: torch.Tensor, space: SearchSpace, resolution: int) -> torch.Tensor:
    """Bytes (B, 3, S, S) -> floats (B, 3, resolution, resolution): scaled, then cut to the center."""
    side = _scaled_side(resolution, space)
    margin = (side - resolution) // 2
    x = resize(normalize(pixels, space), side)
    return x[..., margin:margin + resolution, margin:margin + resolution].contiguous(memory_format=torch.channels_last)


def places_of(part: Share, batch_size: int) -> np.ndarray:
    """The places (batch_size / n,) of a part in the whole batch.

    A process has its share of each piece, where a batch is trained piece by piece. So a piece holds the same images for
    any number of processes.
    """
    i, n, pieces = part
    return np.arange(batch_size).reshape(pieces, n, -1)[:, i].ravel()


@dataclass(frozen=True)
class Augment:
    """What training does to images at random."""
    crop: str = choice('shift', 'area', 'none', default='shift')  # center moved by `shift`; random-resized; center
    shift: float = number(0, 1, default=0.125)  # at most, share of the side
    scale: tuple[float, float] = number(1e-6, 1, default=(0.08, 1.0))  # 'area': share of the image that is seen
    flip: bool = True
    brightness: float = number(default=0.0)  # the factor is drawn from 1 - b, or 0, to 1 + b; the original: 32 / 255
    saturation: float = number(default=0.0)  # likewise; the original: 0.5
    erase: float = number(0, 1, default=0.0)  # probability that a rectangle is erased

    def __call__(self, pixels: torch.Tensor, space: SearchSpace, resolution: int, rng: np.random.Generator,
                 part: Share = (0, 1, 1)) -> torch.Tensor:
        """Bytes (B, 3, S, S) -> floats (B, 3, resolution, resolution).

        `part`: which part of a batch these images are. What is drawn belongs to a place in the whole batch: n processes
        together do what one process alone would do.
        """
        batch, side = len(pixels), pixels.shape[-1]
        places = places_of(part, batch * part[1])
        drawn = {name: values[places] for name, values in self._draw(batch * part[1], side, rng).items()}
        if self.crop == 'done':
            pixels = self._cut_out(pixels, drawn, resolution)
        x = pixels.float().div_(255)
        if self.brightness or self.saturation:
            x = _recolor(x, drawn['brightness'], drawn['saturation'])
        x = _standardize(x, space)
        if self.crop != 'done':
            x = resize(self._seen(x, drawn, self._window(side, space, resolution)), resolution)
        if self.erase:
            self._erase(x, drawn)
        return x.contiguous(memory_format=torch.channels_last)

    def _cut_out(self, pixels: torch.Tensor, drawn: dict[str, np.ndarray], resolution: int) -> torch.Tensor:
        """Bytes (B, 3, S, S) that a loader worker cut out -> (B, 3, resolution, resolution), some of them flipped.

        They are bytes on a CPU, which scales bytes in a fraction of the time that floats take, and floats on a GPU.
        """
        if self.flip:
            flipped = torch.from_numpy(drawn['width'] < 0).to(pixels.device).view(-1, 1, 1, 1)
            pixels = torch.where(flipped, pixels.flip(3), pixels)
        scaled = resize(pixels if pixels.device.type == 'cpu' else pixels.float(), resolution)
        return scaled.contiguous()  # colors are changed channel by channel

    def _seen(self, x: torch.Tensor, drawn: dict[str, np.ndarray], window: int) -> torch.Tensor:
        """Floats (B, 3, S, S) -> the parts (B, 3, window, window) that were drawn, some of them flipped."""
        theta = np.zeros((len(x), 2, 3), dtype=np.float32)
        theta[:, 0, 0], theta[:, 1, 1] = (drawn[name] * window / x.shape[-1] for name in ('width', 'height'))
        theta[:, 0, 2], theta[:, 1, 2] = drawn['center_x'], drawn['center_y']
        grid = F.affine_grid(torch.from_numpy(theta).to(x.device), [len(x), 3, window, window], align_corners=False)
        padding = 'border' if self.crop == 'area' else 'zeros'  # zero is the mean color
        return F.grid_sample(x, grid, padding_mode=padding, align_corners=False)

    def _window(self, side: int, space: SearchSpace, resolution: int) -> int:
        """The side (px) of what is seen of stored squares: as much as evaluation sees, so that objects have the same
        size; all of them if the part is drawn ('area')."""
        seen = resolution / _scaled_side(resolution, space) if self.crop in ('shift', 'none') else 1
        return side - 2 * round(side * (1 - seen) / 2)

    def box(self, width: int, height: int, rng: np.random.Generator) -> Box:
        """A random-resized crop of an image, drawn as torchvision draws it."""
        area, ratio = width * height * rng.uniform(*self.scale, 10), np.exp(rng.uniform(*RATIOS, 10))
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
        """Everything random about n images: name -> (n,). Lengths are relative to an image that is 2 wide."""
        drawn: dict[str, np.ndarray] = {}
        if self.brightness or self.saturation:
            for name, most in (('brightness', self.brightness), ('saturation', self.saturation)):
                drawn[name] = most * rng.uniform(-1 / max(1, most), 1, n)  # no factor is below 0
        width = height = np.ones(n)
        if self.crop == 'area':
            area, ratio = rng.uniform(*self.scale, n), np.exp(rng.uniform(*RATIOS, n))
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
            drawn['erased'] = np.less(rng.random(n), self.erase)
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


def _recolor(x: torch.Tensor, *changes: np.ndarray) -> torch.Tensor:
    """Floats (B, 3, S, S) from 0 to 1 -> the same, brighter or darker, then more or less saturated, as torchvision's
    color jitter does it. `changes`: of brightness (B,) and saturation (B,); 0: none."""
    brightness, saturation = (
        1 + torch.from_numpy(change.astype(np.float32)).to(x.device).view(-1, 1, 1, 1) for change in changes)
    x = x.mul_(brightness).clamp_(0, 1)
    gray = (x * _color(LUMA, x)).sum(1, keepdim=True)
    return x.sub_(gray).mul_(saturation).add_(gray).clamp_(0, 1)


def calibration_set(images: ImageSet | StreamSet, n: int = 2000, seed: int = 0) -> ImageSet:
    """`n` random training images. Other images are not decoded."""
    images = images.sample(n)
    return images.subset(np.random.default_rng(seed).permutation(len(images))[:n].tolist(), images.title)


def calibration_batches(images: ImageSet, space: SearchSpace, resolution: int, *, augment: Augment, seed: int = 0,
                        ) -> Iterator[torch.Tensor]:
    """Augmented batches (B, 3, resolution, resolution) of a calibration set; never a batch of one image."""
    rng = np.random.default_rng([seed, resolution])
    batches = torch.arange(len(images)).split(CALIBRATION_BATCH)
    return (augment(images.fetch(batch), space, resolution, rng) for batch in batches if len(batch) > 1)
