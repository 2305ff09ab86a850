"""Training images from which a subnet gets its BatchNorm statistics; the same ones for a seed."""
from __future__ import annotations

import numpy as np
import torch

from ..spaces import SearchSpace
from .augmentation import Augment
from .image_sets import ImageSet, StreamSet


def calibration_set(images: ImageSet | StreamSet, n: int = 2000, seed: int = 0) -> ImageSet:
    """`n` random training images. Other images are not decoded."""
    images = images.sample(n)
    return images.subset(np.random.default_rng(seed).permutation(len(images))[:n].tolist(), images.title)


def calibration_batches(images: ImageSet, space: SearchSpace, resolution: int, *, augment: Augment,
                        batch_size: int = 200, seed: int = 0) -> list[torch.Tensor]:
    """Augmented batches (B, 3, resolution, resolution) of a calibration set; never a batch of one image."""
    rng = np.random.default_rng([seed, resolution])
    batches = torch.arange(len(images)).split(batch_size)
    return [augment(images.fetch(batch), space, resolution, rng) for batch in batches if len(batch) > 1]
