"""Teachers: the networks whose soft targets subnets learn from."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn

from ..errors import InputError
from ..files import save_tensors
from ..networks import Supernet, load_trained, synchronize_batch_norm
from ..spaces import SearchSpace
from .checkpoints import reading_back
from .config import TrainConfig
from .loop import placed


class Teacher(nn.Module):
    """Another network in evaluation mode, which gets its images normalized its own way; x (B, 3, H, W)."""
    mean: torch.Tensor
    std: torch.Tensor
    own_mean: torch.Tensor
    own_std: torch.Tensor

    def __init__(self, model: nn.Module, space: SearchSpace):
        super().__init__()
        self.model = model.requires_grad_(False)
        own = cast(Mapping[str, Any], model.pretrained_cfg)  # timm sets it on every model
        values = dict(mean=space.mean, std=space.std, own_mean=own['mean'], own_std=own['std'])
        for name, value in values.items():
            self.register_buffer(name, torch.tensor(value).view(1, 3, 1, 1))
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model((x * self.std + self.mean - self.own_mean) / self.own_std)


def load_teacher(source: str, supernet: Supernet) -> nn.Module:
    """A teacher by timm's name or from a folder, on the supernet's device; raises `InputError`."""
    model = load_trained(source, 'teacher')
    if model.num_classes != supernet.num_classes:
        raise InputError(
            f'teacher {source!r:.120} knows {model.num_classes} classes, the data has {supernet.num_classes}; '
            'give one that was trained on the same classes')
    return placed(Teacher(model, supernet.space), next(supernet.parameters()).device)


class PhaseTeachers:
    """The teacher of each phase: in all phases the network that the configuration names.

    Where it names none, the largest subnet teaches from the second phase on, as the first phase left it. Raises
    `InputError` if the named network cannot teach.
    """

    def __init__(self, config: TrainConfig, supernet: Supernet, file: Path, accelerator: Accelerator):
        taught = any(phase.learns_from_teacher for phase in config.phases)
        self.supernet, self.file, self.accelerator = supernet, file, accelerator
        self.named = load_teacher(config.teacher, supernet) if taught and config.teacher else None
        self.keeps_own = taught and config.teacher is None and len(config.phases) > 1
        self.synchronize = config.sync_bn and accelerator.num_processes > 1

    def keep(self) -> None:
        """Write the largest subnet to the file, if it is to teach."""
        if self.keeps_own and self.accelerator.is_main_process:
            save_tensors(self.file, self.supernet.extract(self.supernet.space.max_arch()).state_dict())
        self.accelerator.wait_for_everyone()

    def of_phase(self, i: int) -> nn.Module | None:
        """The teacher of the i-th phase."""
        device = next(self.supernet.parameters()).device
        teacher = self._own() if self.keeps_own and i else self.named
        return None if teacher is None else placed(teacher, device)

    def _own(self) -> nn.Module:
        """The largest subnet of the file. As in the original, its BatchNorm uses the batch, and it drops nothing."""
        teacher = self.supernet.extract(self.supernet.space.max_arch())
        with reading_back(self.file):
            teacher.load_state_dict(load_file(self.file))
        if self.synchronize:
            synchronize_batch_norm(teacher)
        for module in teacher.requires_grad_(False).eval().modules():
            module.training = isinstance(module, nn.modules.batchnorm._BatchNorm)
        return teacher
