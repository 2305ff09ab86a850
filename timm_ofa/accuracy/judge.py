"""How good a subnet is: recalibrate its BatchNorm statistics or repair it, then count its hits."""
from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..devices import peak_memory_mb
from ..errors import InputError
from ..images import (
    CALIBRATION_BATCH,
    Augment,
    ImageSet,
    StreamSet,
    calibration_batches,
    calibration_set,
    eval_batch,
)
from ..networks import Supernet, in_mode, repair
from ..spaces import Arch, SearchSpace

if TYPE_CHECKING:
    from accelerate import PartialState

CALIBRATION_IMAGES = 2000
REPAIR_IMAGES = 768
QUICK_REPAIR_IMAGES = 256  # a third of the time; enough to compare subnets
EVAL_BATCH, EVAL_PIXELS = 500, 200 * 128**2  # images of a batch, and their pixels together; the smaller bound counts
KEPT_BYTES = 256 * 2**20  # calibration batches that are kept; others are made anew for each subnet
TORCH_MEMORY = 2.1  # times the live activations of `peak_memory_mb`: what torch takes, measured on three families


@torch.no_grad()
def recalibrate_bn(subnet: nn.Module, loader: Iterable) -> nn.Module:
    """Give a subnet BatchNorm statistics of its own: averages over the batches of `loader`, weighted by their images.

    The running statistics of a supernet mix those of all subnets; with them a subnet is hardly better than chance.

    Args:
        subnet: What `supernet.extract(arch)` gave; changed in place and returned.
        loader: Batches of *training* images (B, 3, R, R), normalized, or (images, labels) pairs.

    Raises:
        InputError: `loader` gives no batches.
    """
    device, images = next(subnet.parameters()).device, 0
    norms = {module: module.momentum for module in subnet.modules() if isinstance(module, _BatchNorm)}
    for norm in norms:
        norm.reset_running_stats()
    with in_mode(subnet, training=True):
        for batch in loader:
            x = batch[0] if isinstance(batch, (list, tuple)) else batch
            images += len(x)
            for norm in norms:
                norm.momentum = len(x) / images
            subnet(x.to(device))
    for norm, momentum in norms.items():
        norm.momentum = momentum
    if not images:
        raise InputError('loader gives no batches, or was read before; give batches of training images')
    return subnet


@torch.inference_mode()
def answers(model: nn.Module, images: ImageSet, space: SearchSpace, resolution: int, *, top: int = 1) -> torch.Tensor:
    """The first `top` answers (N, top) of a model to images at a resolution (px): classes, likeliest first."""
    device, given = next(model.parameters()).device, []
    with in_mode(model):
        for indices in torch.arange(len(images)).split(_eval_batch_size(resolution)):
            x = eval_batch(images.fetch(indices).to(device), space, resolution)
            given.append(model(x).topk(top).indices.cpu())
    return torch.cat(given)


def evaluate(model: nn.Module, images: ImageSet, space: SearchSpace, resolution: int, *, top: int = 1) -> float:
    """Accuracy of a model at a resolution (px), percent: how often the label is among its first `top` answers."""
    given = answers(model, images, space, resolution, top=top)
    return 100 * int((given == images.labels[:, None]).sum()) / len(images)


def _eval_batch_size(resolution: int) -> int:
    """A batch has fewer images where they are large."""
    return max(1, min(EVAL_BATCH, EVAL_PIXELS // resolution**2))


class SubnetJudge:
    """Accuracy of the subnets of one supernet on one set of images.

    `repairs`: only the largest subnet was trained, and the others are repaired, with images as they are judged, because
    that was better than augmented ones. The supernet then gets its channels sorted by energy.

    `calibration_images`: None for as many as are enough to compare subnets.
    """

    def __init__(self, supernet: Supernet, calibration: ImageSet | StreamSet, images: ImageSet, *,
                 augment: Augment | None = None, calibration_images: int | None = None, seed: int = 0,
                 repairs: bool = False):
        self.supernet, self.calibration, self.images, self.repairs = supernet, calibration, images, repairs
        self.augment = Augment(crop='none', flip=False) if repairs else augment or Augment()
        self.calibration_images = calibration_images or (QUICK_REPAIR_IMAGES if repairs else CALIBRATION_IMAGES)
        self.seed = seed
        self._batches: dict[int, list[torch.Tensor]] = {}
        self._wholes: dict[int, Supernet] = {}

    @cached_property
    def _calibration_set(self) -> ImageSet:
        return calibration_set(self.calibration, self.calibration_images, self.seed)

    def batches(self, resolution: int) -> Iterable[torch.Tensor]:
        """Calibration batches at a resolution (px), the same ones each time. A few resolutions stay in memory."""
        if resolution in self._batches:
            return self._batches[resolution]
        device, images = next(self.supernet.parameters()).device, self._calibration_set
        made = (batch.to(device) for batch in calibration_batches(
            images, self.supernet.space, resolution, augment=self.augment, seed=self.seed))
        kept = sum(4 * batch.numel() for batches in self._batches.values() for batch in batches)
        if kept + 12 * len(images) * resolution**2 > KEPT_BYTES:
            return made
        self._batches[resolution] = list(made)
        return self._batches[resolution]

    def calibration_digest(self) -> str:
        """SHA-256 of the calibration images, in hex."""
        return self._calibration_set.digest()

    @property
    def memory_mb(self) -> float:
        """About how much memory judging takes at most, MB (1e6 bytes), besides the images and the supernet."""
        space = self.supernet.space
        largest = space.max_arch()
        batch_size = max(CALIBRATION_BATCH, _eval_batch_size(largest.resolution))
        return KEPT_BYTES / 1e6 + TORCH_MEMORY * peak_memory_mb(space, largest, batch_size, self.supernet.num_classes)

    def subnet(self, arch: Arch) -> nn.Module:
        """The stock network of an arch, recalibrated or repaired, in evaluation mode."""
        if self.repairs:
            return repair(self._whole(arch.resolution), arch, self.batches(arch.resolution))
        return recalibrate_bn(self.supernet.extract(arch), self.batches(arch.resolution)).eval()

    @cached_property
    def _sorted(self) -> Supernet:
        """The supernet with its channels sorted."""
        supernet = copy.deepcopy(self.supernet)
        supernet.sort_channels(self.batches(max(supernet.space.resolutions)))
        return supernet

    def _whole(self, resolution: int) -> Supernet:
        """The sorted supernet with the BatchNorm statistics of a resolution (px)."""
        if resolution not in self._wholes:
            supernet = copy.deepcopy(self._sorted)
            recalibrate_bn(supernet, self.batches(resolution))
            self._wholes[resolution] = supernet.eval()
        return self._wholes[resolution]

    def top1_pct(self, arch: Arch) -> float:
        """Top-1 accuracy of an arch, percent."""
        return evaluate(self.subnet(arch), self.images, self.supernet.space, arch.resolution)


def launched() -> PartialState:
    """The place of this process among those that were launched together; a single one is the first of one.

    Accelerate joins processes without a GPU only if it is told that they use the CPU, as here.
    """
    import accelerate
    from accelerate.utils import parse_flag_from_env

    return accelerate.PartialState(
        cpu=parse_flag_from_env('ACCELERATE_USE_CPU') or not torch.accelerator.is_available())


def leave() -> None:
    """Wait for the other processes and disconnect from them. A process that just ends can crash another one."""
    state = launched()
    state.wait_for_everyone()
    state.destroy_process_group()


def judge_together(judge: SubnetJudge, archs: Sequence[Arch]) -> list[float]:
    """Top-1 accuracy of each arch, percent. The processes share the archs, and each gets all results."""
    from accelerate.utils import gather_object

    rank, world = launched().process_index, launched().num_processes
    told = gather_object([(i, judge.top1_pct(archs[i])) for i in range(rank, len(archs), world)])
    return [top1_pct for _, top1_pct in sorted(told)]
