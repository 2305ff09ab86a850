"""Training a supernet: the loop that all phases share, on one or many devices through Accelerate.

Every random choice is a function of the seed and the place in the run: the order of images, of the epoch; resolution,
subnets and augmentation, of the step, whatever the number of processes; dropout, of the step and the process.
Source: arXiv:1908.09791, section 3.4; the released training script for what the paper leaves open.
"""
from __future__ import annotations

import ctypes
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from safetensors.torch import load_file
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn
from tqdm import tqdm

from ..accuracy import SubnetJudge, judge_together, launched
from ..console import say
from ..errors import InputError
from ..files import save_tensors
from ..images import Data, EpochBatches
from ..networks import Supernet, initialize, load_trained, new_supernet, quick_depthwise, synchronize_batch_norm
from ..spaces import Arch, SearchSpace
from .config import Phase, TrainConfig, kept_ratios
from .recipes import RECIPES, Targets
from .runs import Checkpoints, Interrupted, Progress, RunLog, graceful_stop, open_run, save_supernet, versions

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
    parts = accelerator.num_processes * config.accumulate
    if config.batch_size % parts or config.batch_size // parts < 2:
        raise InputError(
            f'batch_size {config.batch_size} does not divide into {accelerator.num_processes} processes x accumulate '
            f'{config.accumulate} of at least 2 images; make it a multiple of {parts}')
    return accelerator


@dataclass
class Loop:
    """What the phases of one run share."""
    accelerator: Accelerator
    model: nn.Module  # prepared
    optimizer: torch.optim.Optimizer  # prepared
    batches: Callable[[int, int], Iterable[tuple[torch.Tensor, torch.Tensor]]]  # of (epoch, steps to skip)
    steps_per_epoch: int
    prepare: Callable[..., torch.Tensor]  # (pixels, rng, resolution, part) -> what the model sees; see `Augment`
    seed: int
    label_smoothing: float
    clip_grad: float | None
    accumulate: int  # parts in which each process takes its share of a batch
    log: Callable[[dict], None]
    bar: tqdm
    unseen: list[tuple[int, Arch | None, torch.Tensor]] = field(default_factory=list)  # losses not looked at yet

    @torch.random.fork_rng(devices=[])
    def run_phase(
            self,
            phase: Phase,
            draw: Callable[[np.random.Generator, float], list[Arch | None]],
            teacher: nn.Module | None,
            start: Progress,
            due: Callable[[], int] = lambda: 0,
            save: Callable[[Progress, int], None] = lambda progress, why: None,
    ) -> Progress:
        """Train one phase from `start` on; returns the progress at its end.

        Before `save` is called, which happens when `due` is not 0, all losses so far were seen to be finite.

        Args:
            draw: (rng, share of the phase that is done) -> the archs of a step, of one resolution; None: the model's
                own network at whatever `prepare` makes.
        """
        if not (start.epoch or start.step):
            forget_momentum(self.optimizer)
        scheduler = self._scheduler(phase)
        epochs, progress = phase.warmup_epochs + phase.epochs, start
        for epoch in range(start.epoch, epochs):
            for pixels, labels in self.batches(1000 * start.phase + epoch, progress.step):
                step = epoch * self.steps_per_epoch + progress.step
                scheduler.step_update(step)
                done = step / (epochs * self.steps_per_epoch)
                self._step(phase, draw, teacher, pixels, labels, progress, done)
                progress = replace(progress, step=progress.step + 1, total_steps=progress.total_steps + 1)
                self.bar.update()
                if progress.total_steps % LOG_EVERY == 0 or progress.step == self.steps_per_epoch:
                    progress = self._report(phase, self._look(phase, progress))
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

    def _step(self, phase, draw, teacher, pixels, labels, progress, done) -> None:
        """One optimizer step: the same images through every drawn subnet, gradients summed, as the original."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        archs = draw(self._rng(progress, 1), done)  # equal on all ranks
        resolution = None if archs[0] is None else archs[0].resolution
        torch.manual_seed(int(self._rng(progress, 3 + rank).integers(2**62)))
        x = self.prepare(pixels, self._rng(progress, 2), resolution, (rank, world, self.accumulate))
        parts = list(zip(x.chunk(self.accumulate), labels.chunk(self.accumulate)))
        for i, (images, truth) in enumerate(parts):
            soft_targets = self._ask(teacher, phase, images, progress)
            targets = Targets(truth, self.label_smoothing, soft_targets, phase.kd_weight, None, done)
            self._subnets(phase, archs, images, targets, progress, last=i == len(parts) - 1)
        if self.clip_grad:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _rng(self, progress: Progress, purpose: int) -> np.random.Generator:
        """Numbers of their own for each step and purpose; 0 would be no purpose: seeds ignore zeros at their end."""
        return np.random.default_rng([self.seed, progress.total_steps, purpose])

    def _ask(self, teacher: nn.Module | None, phase: Phase, images: torch.Tensor,
             progress: Progress) -> torch.Tensor | None:
        """The teacher's probabilities (B, K), where this phase wants them."""
        if teacher is None or not phase.learns_from_teacher:
            return None
        with torch.inference_mode(), self.accelerator.autocast(), _memory_for('its teacher', phase, progress, images):
            soft_targets = teacher(images).float().softmax(1)
        return soft_targets.clone()  # may be kept for the backward pass

    def _subnets(self, phase, archs, images, targets, progress, last: bool) -> None:
        """Forward and backward of each subnet; processes exchange gradients behind the last one alone."""
        recipe = RECIPES[phase.recipe]
        for i, arch in enumerate(archs):
            exchange = last and i == len(archs) - 1
            apart = nullcontext() if exchange else self.accelerator.no_sync(self.model)
            with apart, _memory_for(f'subnet {arch}', phase, progress, images):
                logits = self.model(images) if arch is None else self.model(images, arch)
                loss = recipe.loss(logits, targets) / self.accumulate
                self.accelerator.backward(loss)
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
                    f'loss {loss} in phase {phase.name!r} at step {step} with subnet {arch}; '
                    'lower lr or set clip_grad, and resume from the last checkpoint')
        self.unseen.clear()
        return replace(progress, losses=(*progress.losses, *losses))

    def _report(self, phase: Phase, progress: Progress) -> Progress:
        """Log the mean loss since the last report."""
        mean = sum(progress.losses) * self.accumulate / len(progress.losses)
        self.bar.set_postfix_str(f'{phase.name}, loss {mean:.3f}', refresh=False)
        self.log(dict(
            event='train', phase=phase.name, epoch=progress.epoch, step=progress.total_steps, loss=round(mean, 5),
            lr=round(self.optimizer.param_groups[0]['lr'], 8)))
        return replace(progress, losses=())


def make_optimizer(model: nn.Module, lr: float, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum that goes over the parameters once; no decay on BatchNorm and biases."""
    optimizer = create_optimizer_v2(model, opt='sgd', lr=lr, momentum=momentum, weight_decay=weight_decay, fused=True)
    forget_momentum(optimizer)
    return optimizer


def forget_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Back to the start, where momentum is 0. None at all would be the same, but a fused optimizer then needs a
    gradient of every parameter in its first step, which a subnet does not give."""
    for group in optimizer.param_groups:
        for parameter in group['params']:
            optimizer.state[parameter] = {'momentum_buffer': torch.zeros_like(parameter)}


@contextmanager
def _memory_for(network: str, phase: Phase, progress: Progress, images: torch.Tensor) -> Iterator[None]:
    """Says which network takes too much memory, and what to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)):
            raise
        raise InputError(
            f'out of memory in phase {phase.name!r} at step {progress.total_steps} with {network} on {len(images)} '
            'images; lower batch_size, raise accumulate, or leave out the largest resolutions') from None


def keep_freed_memory() -> None:
    """Let the C library keep what a step frees for the next one; page faults take a tenth of a step on a CPU."""
    with suppress(OSError, TypeError, AttributeError):  # another library than glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: large blocks come from the heap
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: bytes at its end that may lie idle


def train_supernet(
        config: TrainConfig,
        data: Data,
        output: str | Path,
        *,
        resume: bool = False,
        tensorboard: bool = False,
        at_end: Callable[[Supernet], None] = lambda supernet: None,
) -> Supernet:
    """Progressive shrinking from the first phase to the last, into the folder `output`.

    Writes `train.yaml`, `log.jsonl`, `checkpoints/`, and at the end a folder that `load_supernet` and
    `timm.create_model('local-dir:...')` load: `config.json`, `model.safetensors`.

    Args:
        at_end: Called with the trained supernet while the processes of a launch still are together.

    Raises:
        InputError: a wrong value, or a loss that is no longer finite.
        Interrupted: after Ctrl-C; a checkpoint was written.
    """
    output = Path(output)
    accelerator = make_accelerator(config, output if tensorboard else None)
    supernet = _beginning(config, data.num_classes)
    _open(config, output, resume, accelerator)
    if tensorboard:
        accelerator.init_trackers('tensorboard')
    supernet, batches = _on_device(config, supernet, data, accelerator)
    optimizer = make_optimizer(supernet, config.phases[0].lr, config.momentum, config.weight_decay)
    model, optimizer = accelerator.prepare(supernet, optimizer)

    checkpoints = Checkpoints(output / 'checkpoints', accelerator, config.checkpoint_minutes * 60)
    start = checkpoints.load() if resume else Progress()
    teachers = _Teachers(config, supernet, output / 'teacher.safetensors', accelerator)
    teacher = teachers.of_phase(start.phase)
    total = sum(len(batches) * (p.warmup_epochs + p.epochs) for p in config.phases)
    log = RunLog(output, accelerator, start.log_bytes)
    _log_start(log, config, data, accelerator, start, resume, total)
    judge = SubnetJudge(supernet, data.train, data.holdout, augment=config.augment, seed=config.seed)
    bar = tqdm(
        total=total, initial=start.total_steps, desc='train', unit='step', smoothing=0.05,
        disable=not accelerator.is_main_process)
    loop = Loop(
        accelerator, model, optimizer, batches, len(batches),
        lambda pixels, rng, resolution, part: batches.augment(pixels, supernet.space, resolution, rng, part),
        config.seed, config.label_smoothing, config.clip_grad, config.accumulate, log, bar)
    with bar, graceful_stop() as stopped:
        def save(progress: Progress, why: int) -> None:
            checkpoints.save(replace(progress, log_bytes=log.size()))
            if why == 2:
                raise Interrupted(f'stopped at step {progress.total_steps} of {total}; add --resume to go on')

        here = start
        for i, phase in enumerate(config.phases[start.phase:], start.phase):
            subspace, recipe = phase.subspace(supernet.space), RECIPES[phase.recipe]
            if phase.sort_channels and not (here.epoch or here.step):
                supernet.sort_channels(kept_ratios(config.phases, i))
            began = time.perf_counter()
            here = loop.run_phase(
                phase, partial(recipe.draw, subspace, phase.subnets_per_step), teacher, here,
                lambda: checkpoints.due(stopped()), save)
            _judge_ends(phase, subspace, judge, log)
            log.time(dict(event='phase', phase=phase.name, seconds=round(time.perf_counter() - began, 1)))
            if i == 0:
                teachers.keep()
                teacher = teachers.of_phase(1)
            here = Progress(phase=i + 1, total_steps=here.total_steps)
            save(here, 0)
    if accelerator.is_main_process:
        save_supernet(
            supernet, output,
            dict(data=data.name, class_names=list(data.class_names), training=config.to_dict()))
    log.time(dict(event='end', seconds=round(log.seconds(), 1)))
    accelerator.wait_for_everyone()
    at_end(supernet)
    accelerator.end_training()
    return supernet


def _open(config: TrainConfig, output: Path, resume: bool, accelerator: Accelerator) -> None:
    """The folder of the run, and what the user is told first."""
    if accelerator.device.type == 'cpu':
        keep_freed_memory()
    if accelerator.is_main_process:
        open_run(config, output, resume)
        n = accelerator.num_processes
        each = f'on {accelerator.device.type}, {config.batch_size // n} images each'
        say(f'{n} {"process" if n == 1 else "processes"} {each}')
    accelerator.wait_for_everyone()


def _beginning(config: TrainConfig, num_classes: int) -> Supernet:
    """The supernet as training begins with it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        supernet = new_supernet(config.load_space(), num_classes=num_classes, drop_rate=config.drop_rate)
    if config.initial_checkpoint:
        initialize(supernet, config.initial_checkpoint)
    return supernet


def _on_device(config: TrainConfig, supernet: Supernet, data: Data, accelerator: Accelerator,
               ) -> tuple[Supernet, EpochBatches]:
    """The supernet and its batches."""
    data.train.decode()
    if _synchronizes(config, accelerator):
        synchronize_batch_norm(supernet)
    supernet = supernet.to(device=accelerator.device, memory_format=torch.channels_last)
    batches = EpochBatches(
        data.train, config.batch_size, config.seed, config.workers, accelerator, config.augment, config.accumulate)
    return supernet, batches


def _synchronizes(config: TrainConfig, accelerator: Accelerator) -> bool:
    return config.sync_bn and accelerator.num_processes > 1


def _log_start(log: RunLog, config: TrainConfig, data: Data, accelerator: Accelerator, start: Progress, resume: bool,
               total: int) -> None:
    """The settings, at the start of the log; when and where, each time."""
    log.time(dict(
        event='resume' if resume else 'start', at_step=start.total_steps, processes=accelerator.num_processes,
        device=str(accelerator.device), versions=versions()))
    if not start.total_steps:
        log(dict(
            event='start', config=config.to_dict(), processes=accelerator.num_processes, data=data.name,
            images=len(data.train), steps=total))


def _judge_ends(phase: Phase, space: SearchSpace, judge: SubnetJudge, log: RunLog) -> None:
    """Accuracies of the largest and the smallest subnet of a phase's space, into the log."""
    ends = space.max_arch(), space.min_arch(max(space.resolutions))
    largest_pct, smallest_pct = (round(top1_pct, 2) for top1_pct in judge_together(judge, ends))
    log(dict(event='phase', phase=phase.name, largest_top1_pct=largest_pct, smallest_top1_pct=smallest_pct))


class _Teachers:
    """Who teaches in which phase: the network that the configuration names, in all; else the largest net, as the first
    phase left it, from the second on."""

    def __init__(self, config: TrainConfig, supernet: Supernet, file: Path, accelerator: Accelerator):
        taught = any(phase.learns_from_teacher for phase in config.phases)
        self.supernet, self.file, self.accelerator = supernet, file, accelerator
        self.named = load_teacher(config.teacher, supernet) if taught and config.teacher else None
        self.keeps_own = taught and config.teacher is None and len(config.phases) > 1
        self.synchronize = _synchronizes(config, accelerator)

    def keep(self) -> None:
        """Write the largest net, if it is to teach."""
        if self.keeps_own and self.accelerator.is_main_process:
            save_tensors(self.file, self.supernet.extract(self.supernet.space.max_arch()).state_dict())
        self.accelerator.wait_for_everyone()

    def of_phase(self, i: int) -> nn.Module | None:
        """The teacher of the i-th phase."""
        return _own_teacher(self.file, self.supernet, self.synchronize) if self.keeps_own and i else self.named


def finetune(
        model: nn.Module,
        batches: Callable[[int, int], Iterable],
        *,
        steps_per_epoch: int,
        phase: Phase,
        teacher: nn.Module | None = None,
        momentum: float = 0.9,
        weight_decay: float = 3e-5,
        label_smoothing: float = 0.1,
        prepare: Callable[..., torch.Tensor] = lambda x, rng, resolution, part: x,
        precision: str | None = None,
        seed: int = 0,
) -> nn.Module:
    """Train a plain model on, in the loop that trains supernets; changed in place and returned.

    Args:
        batches: `batches(epoch, skip)` iterates over (inputs, labels) of an epoch.
        phase: Epochs, rate and weight of the teacher; warm-up, then a cosine to 0.
        teacher: Another model, on the same device; None: labels alone.
        prepare: What is done to inputs before the model sees them: (inputs, rng, None, part), see `Augment`.
        precision: Mixed precision: 'no', 'bf16' or 'fp16'; None: as `accelerate launch` says.
    """
    accelerator = Accelerator(mixed_precision=precision)
    optimizer = make_optimizer(model, phase.lr, momentum, weight_decay)
    model = model.to(accelerator.device, memory_format=torch.channels_last).train()
    prepared, optimizer = accelerator.prepare(model, optimizer)
    bar = tqdm(total=(phase.warmup_epochs + phase.epochs) * steps_per_epoch, desc='fine-tune', unit='step')

    def on_device(epoch: int, skip: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for inputs, labels in batches(epoch, skip):
            yield inputs.to(accelerator.device), labels.to(accelerator.device)

    loop = Loop(
        accelerator, prepared, optimizer, on_device, steps_per_epoch, prepare, seed, label_smoothing, None, 1,
        lambda event: None, bar)
    with bar, quick_depthwise(model):
        loop.run_phase(phase, lambda rng, done: [None], teacher, Progress())
    return accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)  # which mixed precision has put around it


def _own_teacher(file: Path, supernet: Supernet, synchronize: bool) -> nn.Module:
    """The largest net as it was after the first phase. It stays in training mode: batch statistics, as the original."""
    teacher = supernet.extract(supernet.space.max_arch())
    teacher.load_state_dict(load_file(file))
    if synchronize:
        synchronize_batch_norm(teacher)
    device = next(supernet.parameters()).device
    return teacher.to(device=device, memory_format=torch.channels_last).requires_grad_(False).train()


class Teacher(nn.Module):
    """Another network in evaluation mode, which sees images normalized its own way, x (N, 3, H, W)."""

    def __init__(self, model: nn.Module, space: SearchSpace):
        super().__init__()
        self.model = model.requires_grad_(False)
        own = model.pretrained_cfg
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
    teacher = Teacher(model, supernet.space)
    return teacher.to(device=next(supernet.parameters()).device, memory_format=torch.channels_last)


def subnet_table(judge: SubnetJudge, log: Path, n: int = 8, seed: int = 0) -> list[dict]:
    """Accuracy of the largest, the smallest and `n` random subnets with inherited weights, also into the log.

    The processes of a launch share the subnets, the main one writes.
    """
    space, state = judge.supernet.space, launched()
    largest = space.max_arch()
    archs = {
        'largest': largest, 'smallest': space.min_arch(largest.resolution),
        'smallest, small images': space.min_arch()}
    archs |= {f'random {i}': arch for i, arch in enumerate(space.sample(np.random.default_rng(seed), n), 1)}
    rows, left = [], iter(archs.items())
    with tqdm(total=len(archs), desc='evaluate', unit='subnet', leave=False, disable=not state.is_main_process) as bar:
        while part := dict(islice(left, state.num_processes)):
            for (name, arch), top1_pct in zip(part.items(), judge_together(judge, list(part.values()))):
                rows.append(dict(
                    subnet=name, top1_pct=round(top1_pct, 2),
                    macs_m=round(space.macs(arch, judge.supernet.num_classes) / 1e6, 2),
                    params_k=round(space.params(arch, judge.supernet.num_classes) / 1e3, 1), arch=str(arch)))
                bar.update()
    if state.is_main_process:
        with log.open('a') as file:
            file.writelines(
                json.dumps(dict(event='subnet', images=judge.images.title, **row)) + '\n' for row in rows)
    return rows
