"""The training loop that all recipes and fine-tuning share, on one or many devices through Accelerate.

Every random choice is a function of the seed and of the place in the run. The epoch decides the order of images. The
step decides resolution, subnets and augmentation, whatever the number of processes; step and process decide dropout.
Source: arXiv:1908.09791, section 3.4; the released training script for what the paper leaves open.

Legend: B images, K classes.
"""
from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn
from tqdm import tqdm

from ..accuracy import launched
from ..errors import InputError
from ..spaces import Arch
from .average import MovingAverage
from .checkpoints import Progress
from .config import Phase
from .recipes import RECIPES, Targets

LOG_EVERY = 20  # steps between two log lines; losses are also looked at only then
GIVE_BACK_EVERY = 100  # steps after which the system gets back the memory that lies idle

Batches = Callable[[int, int, int], Iterable[tuple[torch.Tensor, torch.Tensor]]]
"""(epoch, steps to skip, pieces in which a batch is trained) -> batches of images and labels."""
Draw = Callable[[np.random.Generator, float], Sequence[Arch | None]]
"""(rng, share of the phase that is done) -> the archs of a step, all at one resolution; None: the whole model."""
Network = TypeVar('Network', bound=nn.Module)


def placed(network: Network, device: torch.device) -> Network:
    """The network on a device, its weights in channels-last order."""
    return network.to(device).to(memory_format=torch.channels_last)


@dataclass
class Loop:
    """What the phases of one run share."""
    accelerator: Accelerator
    model: nn.Module  # prepared
    optimizer: torch.optim.Optimizer  # prepared
    batches: Batches
    steps_per_epoch: int
    prepare: Callable[..., torch.Tensor]  # (pixels, rng, resolution, part) -> what the model sees; see `Augment`
    seed: int
    label_smoothing: float
    clip_grad: float | None
    accumulate: int  # parts in which each process takes its share of a batch
    log: Callable[[dict], None]
    bar: tqdm
    average: MovingAverage | None = None  # of the weights, which follows them
    unseen: list[tuple[int, Arch | None, torch.Tensor]] = field(default_factory=list)  # losses not looked at yet

    @torch.random.fork_rng(devices=[])
    def run_phase(self, phase: Phase, draw: Draw, teacher: nn.Module | None, start: Progress,
                  due: Callable[[], int] = lambda: 0,
                  save: Callable[[Progress, int], None] = lambda progress, why: None) -> Progress:
        """Train one phase from `start` on; returns the progress at its end.

        `save` is called when `due` is not 0. By then all losses so far were seen to be finite.
        """
        if not phase.epochs:
            return start
        if not (start.epoch or start.step):
            forget_momentum(self.optimizer)
        scheduler = self._scheduler(phase)
        epochs, progress = phase.warmup_epochs + phase.epochs, start
        for epoch in range(start.epoch, epochs):
            for pixels, labels in self.batches(1000 * start.phase + epoch, progress.step, self._pieces(phase)):
                step = epoch * self.steps_per_epoch + progress.step
                scheduler.step_update(step)
                done = step / (epochs * self.steps_per_epoch)
                self._step(phase, draw, teacher, pixels, labels, progress, done)
                progress = replace(progress, step=progress.step + 1, total_steps=progress.total_steps + 1)
                self.bar.update()
                if progress.total_steps % LOG_EVERY == 0 or progress.step == self.steps_per_epoch:
                    progress = self._report(phase, self._look(phase, progress))
                if progress.total_steps % GIVE_BACK_EVERY == 0:
                    give_back_memory()
                if progress.step == self.steps_per_epoch:
                    progress = replace(progress, epoch=epoch + 1, step=0)
                if why := due():
                    progress = self._look(phase, progress)
                    save(progress, why)
        return progress

    def _scheduler(self, phase: Phase) -> CosineLRScheduler:
        for group in self.optimizer.param_groups:
            group['lr'] = group['initial_lr'] = phase.lr
        per_epoch = self.steps_per_epoch
        return CosineLRScheduler(
            self.optimizer, t_initial=phase.epochs * per_epoch, warmup_t=phase.warmup_epochs * per_epoch,
            warmup_lr_init=phase.lr / 10, warmup_prefix=True, t_in_epochs=False)

    def _step(self, phase: Phase, draw: Draw, teacher: nn.Module | None, pixels: torch.Tensor, labels: torch.Tensor,
              progress: Progress, done: float) -> None:
        """One optimizer step. The gradients of all drawn subnets are summed, as in the original."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        archs = draw(self._rng(progress, 1), done)  # equal on all ranks
        resolution = None if archs[0] is None else archs[0].resolution
        torch.manual_seed(int(self._rng(progress, 3 + rank).integers(2**62)))
        x = self.prepare(pixels, self._rng(progress, 2), resolution, (rank, world, self._pieces(phase)))
        parts = list(zip(x.chunk(self.accumulate), labels.chunk(self.accumulate)))
        for i, (images, truth) in enumerate(parts):
            soft_targets = None
            if teacher is not None and phase.learns_from_teacher:
                soft_targets = self._ask(teacher, phase, progress, images)
            targets = Targets(truth, self.label_smoothing, soft_targets, phase.kd_weight, done=done)
            self._subnets(phase, archs, images, targets, progress, last=i == len(parts) - 1)
        if self.clip_grad:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.follow(progress.total_steps + 1)

    def _pieces(self, phase: Phase) -> int:
        """In how many parts a batch is trained."""
        return self.accumulate * phase.shares

    def _rng(self, progress: Progress, purpose: int) -> np.random.Generator:
        """A generator for this step and purpose. Purposes start at 1, because a seed ignores zeros at its end."""
        return np.random.default_rng([self.seed, progress.total_steps, purpose])

    def _ask(self, teacher: nn.Module, phase: Phase, progress: Progress, images: torch.Tensor) -> torch.Tensor:
        """The teacher's probabilities (B, K)."""
        with torch.inference_mode(), self.accelerator.autocast(), _memory_for('its teacher', phase, progress, images):
            soft_targets = teacher(images).float().softmax(1)
        return soft_targets.clone()  # the backward pass may keep it, an inference tensor it may not

    def _subnets(self, phase: Phase, archs: Sequence[Arch | None], images: torch.Tensor, targets: Targets,
                 progress: Progress, last: bool) -> None:
        """Forward and backward pass of each subnet; processes exchange gradients only after the last one."""
        recipe = RECIPES[phase.recipe]
        seen = list(zip(images.chunk(phase.shares), targets.labels.chunk(phase.shares)))
        for i, arch in enumerate(archs):
            x, labels = seen[i % len(seen)]
            exchange = last and i == len(archs) - 1
            apart = nullcontext() if exchange else self.accelerator.no_sync(self.model)
            with apart, _memory_for(f'subnet {arch}', phase, progress, x):
                logits = self.model(x) if arch is None else self.model(x, arch)
                loss = recipe.loss(logits, replace(targets, labels=labels))
                self.accelerator.backward(loss / self.accumulate)
            if targets.largest is None:
                targets = replace(targets, largest=logits.detach().float())
            self.unseen.append((progress.total_steps, arch, loss.detach()))

    def _look(self, phase: Phase, progress: Progress) -> Progress:
        """Move the losses since the last look into the progress; raises `InputError` if one is not finite."""
        if not self.unseen:
            return progress
        losses = self.accelerator.reduce(torch.stack([loss for _, _, loss in self.unseen]), 'mean').tolist()
        for (step, arch, _), loss in zip(self.unseen, losses):
            if not math.isfinite(loss):
                raise InputError(
                    f'loss {loss} in phase {phase.name!r} at step {step} with subnet {arch}; go on from the last '
                    f'checkpoint with a lower rate (--resume --set phases.{progress.phase}.lr={phase.lr / 4:g}) or '
                    'with clipped gradients (--resume --set clip_grad=1)')
        self.unseen.clear()
        return replace(progress, losses=(*progress.losses, *losses))

    def _report(self, phase: Phase, progress: Progress) -> Progress:
        """Log the mean loss since the last report."""
        mean = sum(progress.losses) / len(progress.losses)
        self.bar.set_postfix_str(f'{phase.name}, loss {mean:.3f}', refresh=False)
        self.log(dict(
            event='train', phase=phase.name, epoch=progress.epoch, step=progress.total_steps, loss=round(mean, 5),
            lr=round(self.optimizer.param_groups[0]['lr'], 8)))
        return replace(progress, losses=())


@contextmanager
def accelerated(precision: str | None, **kwargs: Any) -> Iterator[Accelerator]:
    """Accelerate in a mixed precision; None: as `accelerate launch` says.

    Accelerate keeps the first precision of a process for whatever comes later, and refuses another one. So its state
    is put aside here, and given back at the end. Where fp16 cannot be had, Accelerate trains in fp32; this refuses.
    """
    launched()  # joins the processes, which Accelerator then finds
    state = AcceleratorState._shared_state
    before = dict(state)
    state.clear()
    try:
        accelerator = Accelerator(mixed_precision=precision, **kwargs)
        if accelerator.mixed_precision == 'fp16' and accelerator.device.type == 'cpu':
            raise InputError('precision fp16 needs a GPU, but this trains on a CPU; take bf16 or no')
        yield accelerator
    finally:
        state.clear()
        state.update(before)


def make_optimizer(model: nn.Module, lr: float, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
    """SGD, with Nesterov momentum if there is any, fused: one pass over the parameters.

    BatchNorm and biases do not decay.
    """
    optimizer = create_optimizer_v2(
        model, opt='sgd' if momentum else 'momentum', lr=lr, momentum=momentum, weight_decay=weight_decay, fused=True)
    forget_momentum(optimizer)
    return optimizer


def forget_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Set the momentum of every parameter to 0.

    An absent buffer would mean the same. But then the first step of a fused optimizer needs a gradient of every
    parameter, and a subnet leaves some without one.
    """
    for group in optimizer.param_groups:
        for parameter in group['params']:
            optimizer.state[parameter] = {'momentum_buffer': torch.zeros_like(parameter)}


@contextmanager
def _memory_for(network: str, phase: Phase, progress: Progress, images: torch.Tensor) -> Iterator[None]:
    """Turn a lack of memory into an `InputError` that says which network needs it, and what to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)):
            raise
        raise InputError(
            f'out of memory in phase {phase.name!r} at step {progress.total_steps} with {network} on {len(images)} '
            'images; go on with smaller parts of a batch: --resume --set accumulate=NUMBER, or start again in another '
            'folder with a lower batch_size or without the largest resolutions') from None


def keep_freed_memory() -> None:
    """Let the C library keep the memory that a step frees; page faults cost a tenth of a step on a CPU.

    Subnets of many sizes leave gaps, so from time to time `give_back_memory` is called.
    """
    with suppress(OSError, TypeError, AttributeError):  # the library is not glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: large blocks come from the heap
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: bytes at its end that may lie idle


def give_back_memory() -> None:
    """Give the system all whole pages that the C library keeps without use, also those between others."""
    with suppress(OSError, TypeError, AttributeError):  # the library is not glibc
        ctypes.CDLL(None).malloc_trim(0)
