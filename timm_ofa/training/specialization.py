"""From a supernet to one network: extract it, recalibrate its BatchNorm, fine-tune it if wished."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import nn

from ..accuracy import recalibrate_bn
from ..console import progress_bar
from ..networks import Supernet, quick_depthwise
from ..spaces import Arch
from .checkpoints import Progress
from .config import FinetuneConfig, Phase
from .loop import Loop, accelerated, make_optimizer, placed


def specialize(supernet: Supernet, arch: Arch, train_loader: Sequence, *, finetune_epochs: int = 0, lr: float = 0.01,
               seed: int = 0) -> nn.Module:
    """The stock network of `arch` in evaluation mode, with BatchNorm statistics of its own.

    Args:
        train_loader: Batches of normalized training images (B, 3, R, R) at `arch.resolution`, with labels if the
            network is fine-tuned. It has a length and can be iterated over again and again.
        finetune_epochs: Epochs of training on labels afterwards; 0: none.
    """
    subnet = recalibrate_bn(supernet.extract(arch), train_loader)
    if finetune_epochs:
        subnet = finetune(
            subnet, lambda epoch, skip: train_loader, steps_per_epoch=len(train_loader),
            phase=FinetuneConfig(finetune_epochs, lr).phase, seed=seed)
        subnet = recalibrate_bn(subnet, train_loader)
    return subnet.eval()


def finetune(model: nn.Module, batches: Callable[[int, int], Iterable[tuple[torch.Tensor, torch.Tensor]]], *,
             steps_per_epoch: int, phase: Phase, teacher: nn.Module | None = None, momentum: float = 0.9,
             weight_decay: float = 3e-5, label_smoothing: float = 0.1,
             prepare: Callable[..., torch.Tensor] = lambda x, rng, resolution, part: x,
             precision: str | None = None, seed: int = 0) -> nn.Module:
    """Train one network further, in the loop that trains supernets; the network is changed in place and returned.

    Args:
        batches: `batches(epoch, skip)` iterates over the (inputs, labels) of an epoch.
        phase: Epochs, rate and weight of the teacher. The rate warms up, then follows a cosine to 0.
        teacher: Another model; None: labels alone.
        prepare: (inputs, rng, None, part) -> what the model sees; see `Augment`.
        precision: Mixed precision, 'no', 'bf16' or 'fp16'; None: as `accelerate launch` says.
    """
    optimizer = make_optimizer(model, phase.lr, momentum, weight_decay)
    bar = progress_bar((phase.warmup_epochs + phase.epochs) * steps_per_epoch, 'fine-tune', 'step')
    with accelerated(precision) as accelerator, bar:
        device = accelerator.device
        model, teacher = placed(model, device).train(), teacher and placed(teacher, device)
        prepared, optimizer = accelerator.prepare(model, optimizer)

        def on_device(epoch: int, skip: int, pieces: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for inputs, labels in batches(epoch, skip):
                yield inputs.to(device), labels.to(device)

        loop = Loop(
            accelerator, prepared, optimizer, on_device, steps_per_epoch, prepare, seed, label_smoothing, None, 1,
            lambda event: None, bar)
        with quick_depthwise(model):
            loop.run_phase(phase, lambda rng, done: [None], teacher, Progress())
        return accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)  # mixed precision wraps the model
