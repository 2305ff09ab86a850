"""From a supernet to one network: extract, recalibrate BatchNorm, fine-tune if wished."""
from __future__ import annotations

from collections.abc import Iterable

from timm.models.mobilenetv3 import MobileNetV3

from .accuracy import recalibrate_bn
from .space import Arch
from .supernet import MobileNetV3Supernet

FINETUNE_LR = 0.01


def specialize(
        supernet: MobileNetV3Supernet,
        arch: Arch,
        train_loader: Iterable,
        *,
        finetune_epochs: int = 0,
        lr: float = FINETUNE_LR,
        seed: int = 0,
) -> MobileNetV3:
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
            subnet, lambda epoch, skip: train_loader, steps_per_epoch=len(train_loader), epochs=finetune_epochs, lr=lr,
            seed=seed)
        subnet = recalibrate_bn(subnet, train_loader)
    return subnet.eval()
