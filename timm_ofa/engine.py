"""Training a supernet: the loop that all phases share, on one or many devices through Accelerate.

Every random choice - order, augmentation, resolution, subnets - is a function of (seed, epoch, step, rank).
Source: arXiv:1908.09791, section 3.4; the released training script for what the paper leaves open.
"""
from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import accelerate
import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from safetensors.torch import load_file
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from .accuracy import SubnetJudge
from .data import Data, ImageSet
from .errors import InputError
from .files import save_tensors
from .runs import Checkpoints, Interrupted, Progress, RunLog, graceful_stop, open_run, save_supernet, versions
from .shrink import Phase, TrainConfig, kept_ratios
from .space import Arch, SearchSpace
from .supernet import MobileNetV3Supernet, new_supernet

LOG_EVERY = 20  # steps; also how often losses are looked at


def make_accelerator(config: TrainConfig, tensorboard: Path | None = None) -> Accelerator:
    """Accelerate as this training wants it: a subnet leaves parameters unused."""
    if tensorboard and find_spec('tensorboard') is None:
        raise InputError("tensorboard is not installed; pip install 'timm_ofa[tensorboard]'")
    accelerator = Accelerator(
        mixed_precision=config.precision,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        log_with='tensorboard' if tensorboard else None,
        project_dir=str(tensorboard) if tensorboard else None,
    )
    if config.batch_size % accelerator.num_processes:
        raise InputError(
            f'batch_size {config.batch_size} does not divide by {accelerator.num_processes} processes; '
            'make it a multiple')
    return accelerator


def distillation_loss(
        logits: torch.Tensor,
        labels: torch.Tensor,
        soft_targets: torch.Tensor | None,
        label_smoothing: float,
        kd_weight: float,
) -> torch.Tensor:
    """Cross entropy with smoothed labels, plus `kd_weight` times that with the teacher's probabilities.

    logits (B, classes), labels (B,), soft_targets (B, classes) or None. Temperature 1, as the original.
    """
    loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    return loss if soft_targets is None else loss + kd_weight * F.cross_entropy(logits, soft_targets)


class EpochBatches:
    """Batches of bytes and labels on the device; the order of an epoch is a function of (seed, epoch) alone, and each
    process gets its part of every batch. An incomplete last batch is left out."""

    def __init__(self, images: ImageSet, batch_size: int, seed: int, workers: int, accelerator: Accelerator):
        self.images, self.batch_size, self.seed, self.workers = images, batch_size, seed, workers
        self.accelerator = accelerator
        if not len(self):
            raise InputError(f'batch_size {batch_size} is more than the {len(images)} training images; lower it')

    def __len__(self) -> int:
        return len(self.images) // self.batch_size

    def __call__(self, epoch: int, skip: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of an epoch from the `skip`-th on."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.images))
        parts = order[:len(self) * self.batch_size].reshape(len(self), self.accelerator.num_processes, -1)
        mine = parts[skip:, self.accelerator.process_index].tolist()
        for pixels, labels in DataLoader(
                self.images, batch_sampler=mine, collate_fn=_as_is, num_workers=self.workers):
            yield pixels.to(self.accelerator.device), labels.to(self.accelerator.device)


def _as_is(batch):
    return batch


@dataclass
class Loop:
    """What the phases of one run share. `draw(rng)` gives (resolution, archs) of a step; None: the model's own."""
    accelerator: Accelerator
    model: nn.Module  # prepared
    optimizer: torch.optim.Optimizer  # prepared
    batches: Callable[[int, int], Iterable[tuple[torch.Tensor, torch.Tensor]]]  # of (epoch, steps to skip)
    steps_per_epoch: int
    prepare: Callable[..., torch.Tensor]  # (pixels, rng[, resolution]) -> what the model sees
    seed: int
    label_smoothing: float
    clip_grad: float | None
    log: Callable[[dict], None]
    bar: tqdm

    @torch.random.fork_rng(devices=[])
    def run_phase(
            self,
            phase: Phase,
            draw: Callable[[np.random.Generator], tuple[int | None, list[Arch | None]]],
            teacher: nn.Module | None,
            start: Progress,
            due: Callable[[], int] = lambda: 0,
            save: Callable[[Progress, int], None] = lambda progress, why: None,
    ) -> Progress:
        """Train one phase from `start` on; returns the progress at its end.

        Before `save` is called, which happens when `due` is not 0, all losses so far were seen to be finite.
        """
        if not (start.epoch or start.step):
            self.optimizer.state.clear()
        scheduler = self._scheduler(phase)
        progress, seen = start, []
        for epoch in range(start.epoch, phase.warmup_epochs + phase.epochs):
            for pixels, labels in self.batches(1000 * start.phase + epoch, progress.step):
                scheduler.step_update(epoch * self.steps_per_epoch + progress.step)
                seen += self._step(phase, draw, teacher, pixels, labels, progress)
                progress = replace(progress, step=progress.step + 1, total_steps=progress.total_steps + 1)
                self.bar.update()
                why = due()
                if why or progress.total_steps % LOG_EVERY == 0 or progress.step == self.steps_per_epoch:
                    self._report(phase, progress, seen)
                    seen = []
                if progress.step == self.steps_per_epoch:
                    progress = replace(progress, epoch=epoch + 1, step=0)
                if why:
                    save(progress, why)
        return progress

    def _scheduler(self, phase: Phase) -> CosineLRScheduler:
        for group in self.optimizer.param_groups:
            group['lr'] = group['initial_lr'] = phase.lr
        per_epoch = self.steps_per_epoch
        return CosineLRScheduler(
            self.optimizer, t_initial=phase.epochs * per_epoch, warmup_t=phase.warmup_epochs * per_epoch,
            warmup_lr_init=phase.lr / 10, warmup_prefix=True, t_in_epochs=False)

    def _step(self, phase, draw, teacher, pixels, labels, progress) -> list[tuple[Progress, Arch | None, torch.Tensor]]:
        """One optimizer step: the same images through every drawn subnet, gradients summed, as the original."""
        rng = np.random.default_rng([self.seed, progress.total_steps])  # equal on all ranks
        resolution, archs = draw(rng)
        rank = self.accelerator.process_index
        own_rng = np.random.default_rng([self.seed, progress.total_steps, 1 + rank])
        torch.manual_seed(int(own_rng.integers(2**62)))  # dropout; `run_phase` gives the caller's state back
        x = self.prepare(pixels, own_rng) if resolution is None else self.prepare(pixels, own_rng, resolution)
        soft_targets = None
        if teacher is not None and phase.kd_weight:
            with torch.no_grad(), self.accelerator.autocast():
                soft_targets = teacher(x).float().softmax(1)
        seen = []
        for i, arch in enumerate(archs):
            wait = self.accelerator.no_sync(self.model) if i < len(archs) - 1 else nullcontext()
            with wait:
                logits = self.model(x) if arch is None else self.model(x, arch)
                loss = distillation_loss(logits, labels, soft_targets, self.label_smoothing, phase.kd_weight)
                self.accelerator.backward(loss)
            seen.append((progress, arch, loss.detach()))
        if self.clip_grad:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return seen

    def _report(self, phase: Phase, progress: Progress, seen: Sequence[tuple]) -> None:
        losses = torch.stack([loss for _, _, loss in seen]).tolist()
        for (where, arch, _), loss in zip(seen, losses):
            if not math.isfinite(loss):
                raise InputError(
                    f'loss {loss} in phase {phase.name!r} at step {where.total_steps} with subnet {arch}; '
                    'lower lr or set clip_grad, and resume from the last checkpoint')
        mean = sum(losses) / len(losses)
        self.bar.set_postfix_str(f'{phase.name}, loss {mean:.3f}', refresh=False)
        self.log(dict(
            event='train', phase=phase.name, epoch=progress.epoch, step=progress.total_steps, loss=round(mean, 5),
            lr=round(self.optimizer.param_groups[0]['lr'], 8)))


def train_supernet(
        config: TrainConfig,
        data: Data,
        output: str | Path,
        *,
        resume: bool = False,
        tensorboard: bool = False,
) -> MobileNetV3Supernet:
    """Progressive shrinking from the first phase to the last, into the folder `output`.

    Writes `train.yaml`, `log.jsonl`, `checkpoints/`, and at the end a folder that `load_supernet` and
    `timm.create_model('local-dir:...')` load: `config.json`, `model.safetensors`.

    Raises:
        InputError: a wrong value, or a loss that is no longer finite.
        Interrupted: after Ctrl-C; a checkpoint was written.
    """
    output = Path(output)
    accelerator = make_accelerator(config, output if tensorboard else None)
    if accelerator.is_main_process:
        open_run(config, output, resume)
    accelerator.wait_for_everyone()
    if tensorboard:
        accelerator.init_trackers('tensorboard')
    space = config.load_space()
    data.train.decode()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        supernet = new_supernet(space, num_classes=data.num_classes, drop_rate=config.drop_rate)
    supernet = supernet.to(device=accelerator.device, memory_format=torch.channels_last)
    batches = EpochBatches(data.train, config.batch_size, config.seed, config.workers, accelerator)
    optimizer = create_optimizer_v2(
        supernet, opt='sgd', lr=config.phases[0].lr, momentum=config.momentum, weight_decay=config.weight_decay)
    model, optimizer = accelerator.prepare(supernet, optimizer)

    checkpoints = Checkpoints(output / 'checkpoints', accelerator, config.checkpoint_minutes * 60)
    start = checkpoints.load() if resume else Progress()
    teacher_file = output / 'teacher.safetensors'
    teacher = _load_teacher(teacher_file, supernet) if start.phase else None
    total = sum(len(batches) * (p.warmup_epochs + p.epochs) for p in config.phases)
    log = RunLog(output / 'log.jsonl', accelerator)
    log(dict(
        event='resume' if resume else 'start', config=config.to_dict(), processes=accelerator.num_processes,
        device=str(accelerator.device), data=data.name, images=len(data.train), steps=total,
        at_step=start.total_steps, versions=versions()))
    judge = SubnetJudge(supernet, data.train, data.holdout, augment=config.augment, seed=config.seed)
    bar = tqdm(
        total=total, initial=start.total_steps, desc='train', unit='step', smoothing=0.05,
        disable=not accelerator.is_main_process)
    loop = Loop(
        accelerator, model, optimizer, batches, len(batches),
        lambda pixels, rng, resolution: config.augment(pixels, space, resolution, rng), config.seed,
        config.label_smoothing, config.clip_grad, log, bar)
    with bar, graceful_stop() as stopped:
        def save(progress: Progress, why: int) -> None:
            checkpoints.save(progress)
            if why == 2:
                raise Interrupted(f'stopped at step {progress.total_steps} of {total}; add --resume to go on')

        here = start
        for i, phase in enumerate(config.phases[start.phase:], start.phase):
            subspace = phase.subspace(space)
            if phase.sort_channels and not (here.epoch or here.step):
                supernet.sort_channels(kept_ratios(config.phases, i))
            began = time.perf_counter()
            here = loop.run_phase(
                phase, subnet_draw(subspace, phase.subnets_per_step), teacher, here,
                lambda: checkpoints.due(stopped()), save)
            largest = subspace.max_arch()
            log(dict(
                event='phase', phase=phase.name, seconds=round(time.perf_counter() - began, 1),
                largest_top1_pct=round(judge.top1_pct(largest), 2),
                smallest_top1_pct=round(judge.top1_pct(subspace.min_arch(largest.resolution)), 2)))
            if i == 0 and any(p.kd_weight for p in config.phases[1:]):
                if accelerator.is_main_process:
                    save_tensors(teacher_file, supernet.subnet_state_dict(space.max_arch()))
                accelerator.wait_for_everyone()
                teacher = _load_teacher(teacher_file, supernet)
            here = Progress(phase=i + 1, total_steps=here.total_steps)
            checkpoints.save(here)
    if accelerator.is_main_process:
        save_supernet(
            supernet, output,
            dict(data=data.name, class_names=list(data.class_names), training=config.to_dict()))
        log(dict(event='end', seconds=round(log.seconds(), 1)))
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return supernet


def finetune(
        model: nn.Module,
        batches: Callable[[int, int], Iterable],
        *,
        steps_per_epoch: int,
        epochs: int,
        lr: float,
        weight_decay: float = 3e-5,
        label_smoothing: float = 0.1,
        prepare: Callable[[torch.Tensor, np.random.Generator], torch.Tensor] = lambda x, rng: x,
        seed: int = 0,
) -> nn.Module:
    """Train a plain model on: cosine schedule from `lr` to 0, no teacher; changed in place and returned.

    Args:
        batches: `batches(epoch, skip)` iterates over (inputs, labels) of an epoch.
        prepare: What is done to inputs before the model sees them.
    """
    accelerator = Accelerator()
    optimizer = create_optimizer_v2(model, opt='sgd', lr=lr, momentum=0.9, weight_decay=weight_decay)
    model = model.to(accelerator.device, memory_format=torch.channels_last).train()
    prepared, optimizer = accelerator.prepare(model, optimizer)
    bar = tqdm(total=epochs * steps_per_epoch, desc='fine-tune', unit='step')

    def on_device(epoch: int, skip: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for inputs, labels in batches(epoch, skip):
            yield inputs.to(accelerator.device), labels.to(accelerator.device)

    loop = Loop(
        accelerator, prepared, optimizer, on_device, steps_per_epoch, prepare, seed, label_smoothing, None,
        lambda event: None, bar)
    with bar:
        loop.run_phase(Phase('finetune', epochs, lr, kd_weight=0), lambda rng: (None, [None]), None, Progress())
    return model


def subnet_draw(subspace: SearchSpace, n: int) -> Callable[[np.random.Generator], tuple[int, list[Arch]]]:
    """One resolution for the step and `n` uniformly drawn subnets."""
    def draw(rng: np.random.Generator) -> tuple[int, list[Arch]]:
        archs = subspace.sample(rng, n)
        resolution = archs[0].resolution
        return resolution, [replace(arch, resolution=resolution) for arch in archs]
    return draw


def _load_teacher(file: Path, supernet: MobileNetV3Supernet) -> nn.Module | None:
    """The largest net as it was after the first phase. It stays in training mode: batch statistics, as the original."""
    if not file.exists():
        return None
    teacher = supernet.extract(supernet.space.max_arch())
    teacher.load_state_dict(load_file(file))
    device = next(supernet.parameters()).device
    return teacher.to(device=device, memory_format=torch.channels_last).requires_grad_(False).train()


def subnet_table(judge: SubnetJudge, log: Path, n: int = 8, seed: int = 0) -> list[dict]:
    """Accuracy of the largest, the smallest and `n` random subnets with inherited weights, also into the log."""
    space = judge.supernet.space
    largest = space.max_arch()
    archs = {
        'largest': largest, 'smallest': space.min_arch(largest.resolution),
        'smallest, small images': space.min_arch()}
    archs |= {f'random {i}': arch for i, arch in enumerate(space.sample(np.random.default_rng(seed), n), 1)}
    rows = []
    for name, arch in tqdm(archs.items(), desc='evaluate', unit='subnet', leave=False):
        rows.append(dict(
            subnet=name, top1_pct=round(judge.top1_pct(arch), 2),
            macs_m=round(space.macs(arch, judge.supernet.num_classes) / 1e6, 2),
            params_k=round(space.params(arch, judge.supernet.num_classes) / 1e3, 1), arch=str(arch)))
        with log.open('a') as file:
            file.write(json.dumps(dict(event='subnet', images=judge.images.title, **rows[-1])) + '\n')
    return rows


def is_main_process() -> bool:
    """Whether this process is the one that reports."""
    return accelerate.PartialState().is_main_process
