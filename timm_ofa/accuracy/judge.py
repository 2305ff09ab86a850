"""How good a subnet is: recalibrate its BatchNorm statistics, then count its hits."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..images import Augment, ImageSet, StreamSet, calibration_batches, calibration_set, eval_batch
from ..networks import Supernet
from ..spaces import Arch, SearchSpace

if TYPE_CHECKING:
    from accelerate import PartialState

CALIBRATION_IMAGES = 2000


@torch.no_grad()
def recalibrate_bn(subnet: nn.Module, loader: Iterable) -> nn.Module:
    """Give a subnet BatchNorm statistics of its own: averages over the batches of `loader`, weighted by their images.

    The running statistics of a supernet mix those of all subnets; with them a subnet is hardly better than chance.

    Args:
        subnet: What `supernet.extract(arch)` gave; changed in place and returned.
        loader: Batches of *training* images (B, 3, R, R), normalized, or (images, labels) pairs.
    """
    device, was_training, images = next(subnet.parameters()).device, subnet.training, 0
    norms = {module: module.momentum for module in subnet.modules() if isinstance(module, _BatchNorm)}
    for norm in norms:
        norm.reset_running_stats()
    subnet.train()
    for batch in loader:
        x = batch[0] if isinstance(batch, (list, tuple)) else batch
        images += len(x)
        for norm in norms:
            norm.momentum = len(x) / images
        subnet(x.to(device))
    for norm, momentum in norms.items():
        norm.momentum = momentum
    return subnet.train(was_training)


@torch.inference_mode()
def evaluate(model: nn.Module, images: ImageSet, space: SearchSpace, resolution: int, batch_size: int = 500, *,
             top: int = 1) -> float:
    """Accuracy of a model at a resolution (px), percent: how often the label is among its first `top` answers."""
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    hits = 0
    for start in range(0, len(images), batch_size):
        indices = torch.arange(start, min(start + batch_size, len(images)))
        x = eval_batch(images.fetch(indices).to(device), space, resolution)
        hits += int((model(x).topk(top).indices.cpu() == images.labels[indices][:, None]).sum())
    model.train(was_training)
    return 100 * hits / len(images)


class SubnetJudge:
    """Accuracy of the subnets of one supernet on one set of images. Calibration batches are kept by resolution."""

    def __init__(self, supernet: Supernet, calibration: ImageSet | StreamSet, images: ImageSet, *,
                 augment: Augment | None = None, calibration_images: int = CALIBRATION_IMAGES, seed: int = 0):
        self.supernet, self.calibration, self.images = supernet, calibration, images
        self.augment = augment or Augment()
        self.calibration_images, self.seed = calibration_images, seed
        self._batches: dict[int, list[torch.Tensor]] = {}

    @cached_property
    def _calibration_set(self) -> ImageSet:
        return calibration_set(self.calibration, self.calibration_images, self.seed)

    def batches(self, resolution: int) -> list[torch.Tensor]:
        """Calibration batches at a resolution (px), the same ones each time."""
        if resolution not in self._batches:
            device = next(self.supernet.parameters()).device
            self._batches[resolution] = [batch.to(device) for batch in calibration_batches(
                self._calibration_set, self.supernet.space, resolution, augment=self.augment, seed=self.seed)]
        return self._batches[resolution]

    def subnet(self, arch: Arch) -> nn.Module:
        """The stock network of an arch, recalibrated, in evaluation mode."""
        return recalibrate_bn(self.supernet.extract(arch), self.batches(arch.resolution)).eval()

    def top1_pct(self, arch: Arch) -> float:
        """Top-1 accuracy of an arch, percent."""
        return evaluate(self.subnet(arch), self.images, self.supernet.space, arch.resolution)


def launched() -> PartialState:
    """The place of this process among those that were launched together; a single one is the first of one."""
    import accelerate
    from accelerate.utils import parse_flag_from_env

    return accelerate.PartialState(cpu=parse_flag_from_env('ACCELERATE_USE_CPU'))


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
