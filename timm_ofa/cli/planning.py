"""A plan for `run`: what fits into the minutes that are given, from steps that are timed on this machine."""
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from ..accuracy import QUICK_REPAIR_IMAGES
from ..errors import InputError
from ..images import Crop, Data, ImageSet
from ..networks import Supernet, quick_depthwise, repair
from ..spaces import SearchSpace

TRAIN, JUDGE, FINETUNE = 0.4, 0.25, 0.25  # shares of the minutes; the rest is for measuring and for what goes wrong
LOOKED_AT = 64  # images, for their usual side
MOST_EPOCHS, MOST_SUBNETS, LEAST_SUBNETS, REPAIRED = 30, 80, 24, 64


def usual_side(images: ImageSet) -> int:
    """The median of the shorter sides of some images, as they are stored, px."""
    sides: list[int] = []

    def look(place: int, width: int, height: int) -> tuple[float, float, float, float]:
        sides.append(min(width, height))
        return 0.0, 0.0, float(width), float(height)

    images.fetch(np.unique(np.linspace(0, len(images) - 1, LOOKED_AT).astype(int)).tolist(), Crop(look, 1))
    return int(np.median(sides))


def sides_for(space: SearchSpace, usual: int) -> list[int]:
    """Resolutions (px) for images of a usual side: multiples of the network's reduction, down to half of the largest.

    The largest is not above the network's own, and not above the images' side unless that is below 64 px.
    """
    step = space.reduction
    largest = min(max(space.resolutions), max(64, usual // step * step))
    return list(range(-(-largest // 2 // step) * step, largest + 1, step))


@dataclass(frozen=True)
class Plan:
    """What a run does, and how long that takes."""
    epochs: int  # of the whole network; 0: it is trained already
    subnets: int  # judged for the predictor
    finetune_epochs: int  # of each network that is found
    train_s: float
    judge_s: float
    finetune_s: float

    def __str__(self) -> str:
        def part(what: str, seconds: float) -> str:
            return f'{what} ({seconds / 60:.1f} min)'
        parts = [part(f'{self.epochs} epochs of the whole network', self.train_s)] if self.epochs else []
        parts.append(part(f'{self.subnets} subnets repaired and judged', self.judge_s))
        if self.finetune_epochs:
            parts.append(part(f'{self.finetune_epochs} epochs of each network found', self.finetune_s))
        return ', '.join(parts)


def make_plan(supernet: Supernet, data: Data, minutes: float, networks: int, batch_size: int, trained: bool) -> Plan:
    """Time a step of each kind and divide the minutes; raises `InputError` if not even the least fits.

    Args:
        networks: How many are fine-tuned at the end.
        trained: The whole network needs no training.
    """
    if len(data.train) < batch_size:
        raise InputError(f'data {data.name!r:.60} has {len(data.train)} training images; give at least {batch_size}')
    space, total_s = supernet.space, 60 * minutes
    largest = space.max_arch()
    area = sum(r**2 for r in space.resolutions) / len(space.resolutions) / largest.resolution**2  # of a mean image
    images = _noise(max(batch_size, 2 * REPAIRED), largest.resolution)
    supernet.train()
    step_s = area * _seconds(partial(_step, supernet, images[:batch_size]))
    supernet.eval()
    images = images[:2 * REPAIRED]
    smallest = space.min_arch(largest.resolution)
    few_s, many_s = (_seconds(partial(repair, supernet, smallest, images[:n].split(REPAIRED)))
                     for n in (REPAIRED, 2 * REPAIRED))
    repair_s = few_s + area * max(0.0, many_s - few_s) * (QUICK_REPAIR_IMAGES / REPAIRED - 1)
    with torch.inference_mode():
        image_s = area * _seconds(lambda: supernet(images)) / len(images)
    subnet_s = repair_s + 0.6 * image_s * len(data.holdout)
    epoch_s = step_s * (len(data.train) // batch_size)
    subnets = max(LEAST_SUBNETS, min(MOST_SUBNETS, int(JUDGE * total_s / subnet_s)))
    epochs = 0 if trained else min(MOST_EPOCHS, int(TRAIN * total_s / epoch_s))
    whole_s, judge_s = 0.0 if trained else epoch_s, LEAST_SUBNETS * subnet_s
    if whole_s + judge_s > total_s or not (epochs or trained):
        training = '' if trained else f'an epoch of the whole network takes {epoch_s / 60:.1f} minutes, '
        raise InputError(
            f'--minutes {minutes:g} is too short: {training}judging {LEAST_SUBNETS} subnets takes {judge_s / 60:.1f} '
            f'minutes; give about {max(whole_s / TRAIN, judge_s / JUDGE) / 60 + 1:.0f}, or smaller --resolutions')
    tuned_s = 0.8 * epoch_s * networks  # a teacher is asked, the networks are smaller
    finetune_epochs = min(epochs or MOST_EPOCHS, int(FINETUNE * total_s / tuned_s))
    return Plan(epochs, subnets, finetune_epochs, epochs * epoch_s, subnets * subnet_s, finetune_epochs * tuned_s)


def _noise(n: int, resolution: int) -> torch.Tensor:
    """Images (n, 3, resolution, resolution) to time with, always the same."""
    return torch.randn(n, 3, resolution, resolution, generator=torch.Generator().manual_seed(0))


def _step(supernet: Supernet, images: torch.Tensor) -> None:
    """What a step of training computes; no weight changes."""
    with quick_depthwise(supernet):
        loss = supernet(images).square().mean()
        torch.autograd.grad(loss, [p for p in supernet.parameters() if p.requires_grad], allow_unused=True)


def _seconds(work: Callable[[], object]) -> float:
    """The shorter of two times; the first one warms up."""
    times = []
    for _ in range(2):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)
