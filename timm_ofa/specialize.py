"""From a supernet to one network: extract, recalibrate BatchNorm, fine-tune if wished."""
from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from .accuracy import recalibrate_bn
from .shrink import Phase
from .space import Arch
from .supernet import Supernet

FINETUNE_LR = 0.01


def finetune_phase(epochs: int, lr: float = FINETUNE_LR) -> Phase:
    """Plain training: a cosine from `lr` to 0, labels alone."""
    return Phase('finetune', epochs, lr, kd_weight=0)


def specialize(
        supernet: Supernet,
        arch: Arch,
        train_loader: Iterable,
        *,
        finetune_epochs: int = 0,
        lr: float = FINETUNE_LR,
        seed: int = 0,
) -> nn.Module:
    """The stock network of `arch`, with BatchNorm statistics of its own, in evaluation mode.

    Args:
        train_loader: Batches of normalized training images (B, 3, R, R) at `arch.resolution`, with labels if it is
            fine-tuned; can be iterated over again and again.
        finetune_epochs: Epochs of plain training afterwards, 0: none.
    """
    subnet = recalibrate_bn(supernet.extract(arch), train_loader)
    if finetune_epochs:
        from .engine import finetune  # training machinery, only when asked for

        subnet = finetune(
            subnet, lambda epoch, skip: train_loader, steps_per_epoch=len(train_loader),
            phase=finetune_phase(finetune_epochs, lr), seed=seed)
        subnet = recalibrate_bn(subnet, train_loader)
    return subnet.eval()
