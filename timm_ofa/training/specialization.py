"""From a supernet to one network: extract, recalibrate BatchNorm, fine-tune if wished."""
from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from ..accuracy import recalibrate_bn
from ..networks import Supernet
from ..spaces import Arch
from .config import FinetuneConfig


def specialize(
        supernet: Supernet,
        arch: Arch,
        train_loader: Iterable,
        *,
        finetune_epochs: int = 0,
        lr: float = 0.01,
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
            phase=FinetuneConfig(finetune_epochs, lr).phase, seed=seed)
        subnet = recalibrate_bn(subnet, train_loader)
    return subnet.eval()
