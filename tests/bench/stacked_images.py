"""Images for many trainings at once: see `stacked.py`.

Legend: S runs, N images of a batch, M images in all, R side of an image in px.
"""
from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from timm_ofa.images import ImageSet
from timm_ofa.images.augmentation import normalize, resize
from timm_ofa.spaces import SearchSpace

REACH = 4  # images shift by up to 4 of their 32 px


class Images:
    """Normalized images with a border of zeros, on the device (M, 3, S + 2 REACH, S + 2 REACH), and labels (M,)."""

    def __init__(self, images: ImageSet, space: SearchSpace, device: torch.device):
        x = normalize(images.fetch(torch.arange(len(images))), space)
        self.x = F.pad(x, (REACH,) * 4).to(device)
        self.labels, self.side = images.labels.to(device), x.shape[-1]
        self.steps = torch.arange(self.side, device=device)
        self.colors = torch.arange(3, device=device)[None, :, None, None, None]

    def batch(self, packed: torch.Tensor, resolution: int, shifted: torch.Tensor | None = None) -> torch.Tensor:
        """Images (S, 3, N, R, R) of packed draws (S, N).

        A draw is index * 2^9 + row * 2^5 + column * 2 + whether it is flipped.
        """
        rows, columns, flips = packed >> 5 & 15, packed >> 1 & 15, (packed & 1).bool()
        if shifted is not None:
            rows, columns = torch.where(shifted, rows, REACH), torch.where(shifted, columns, REACH)
        along = torch.where(flips[..., None], self.side - 1 - self.steps, self.steps) + columns[..., None]
        x = self.x[(packed >> 9)[:, None, :, None, None], self.colors,
                   (rows[..., None] + self.steps)[:, None, :, :, None], along[:, None, :, None, :]]
        return x if resolution == self.side else resize(x.flatten(0, 2)[None], resolution).view(
            *x.shape[:3], resolution, resolution)


def draws(n: int, steps: int, batch: int, seed: int) -> np.ndarray:
    """Packed draws (steps, batch): every epoch in an order of its own, every image with a shift and a flip."""
    rng, per_epoch = np.random.default_rng([seed, 5]), n // batch
    epochs = -(-steps // per_epoch)
    order = np.concatenate([rng.permutation(n)[:per_epoch * batch] for _ in range(epochs)])[:steps * batch]
    low = rng.integers(0, 2 * REACH + 1, (2, len(order))), rng.integers(0, 2, len(order))
    return (order * 512 + low[0][0] * 32 + low[0][1] * 2 + low[1]).astype(np.int32).reshape(steps, batch)
