"""Training a supernet from the first phase of its configuration to the last, into one folder."""
from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import DistributedDataParallelKwargs

from ..accuracy import SubnetJudge
from ..console import progress_bar
from ..devices import this_device
from ..errors import InputError, Interrupted, stopped
from ..files import locked
from ..images import Data, EpochBatches
from ..networks import Supernet, initialize, new_supernet, synchronize_batch_norm
from .average import MovingAverage
from .checkpoints import Checkpoints, Progress, graceful_stop, newest_checkpoint
from .config import TrainConfig, differing, refuse_idle, trained_before
from .loop import Loop, accelerated, keep_freed_memory, make_optimizer, placed
from .recipes import RECIPES
from .report import judge_ends
from .runs import CHECKPOINTS, RunLog, check_run, save_supernet, versions, write_settings
from .teachers import PhaseTeachers
from .trackers import check_trackers, start_trackers

logger = get_logger(__name__)


def train_supernet(config: TrainConfig, data: Data, output: str | Path, *, resume: bool = False,
                   log_with: Sequence[str] = (), remarks: Sequence[str] = (),
                   at_end: Callable[[Supernet], None] = lambda supernet: None) -> Supernet:
    """Train the phases one after the other into the folder `output`; returns the trained supernet.

    Writes `train.yaml`, `log.jsonl`, `times.jsonl` and `checkpoints/`, and at the end `config.json` and
    `model.safetensors`, so that `load_supernet` and `timm.create_model('local-dir:...')` load the folder.

    Args:
        log_with: Trackers of Accelerate, such as 'wandb'; files of TensorBoard go to `output`/tensorboard.
        remarks: On the data, for the log; said once all is checked.
        at_end: Called with the trained supernet while the processes of a launch still are together.

    Raises:
        InputError: a wrong value, or a loss that is no longer finite.
        Interrupted: after Ctrl-C, SIGTERM or SIGHUP; a checkpoint was written.
    """
    output = Path(output)
    refuse_idle(config, differing(config), config.name)
    check_trackers(log_with)
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)]  # a subnet leaves parameters unused
    trackers = dict(log_with=list(log_with), project_dir=str(output / 'tensorboard')) if log_with else {}
    with accelerated(config.precision, kwargs_handlers=handlers, **trackers) as accelerator, ExitStack() as alone:
        alone.enter_context(locked(output, wait=False) if accelerator.is_main_process else nullcontext())
        changed = check_run(config, output, resume)
        run = _Run(config, data, output, accelerator, resume)
        for remark in remarks:
            logger.info(remark)
        accelerator.wait_for_everyone()  # all have looked; from here on the run writes
        if accelerator.is_main_process:
            write_settings(config, output)
        accelerator.wait_for_everyone()
        if log_with:
            start_trackers(accelerator, config)
        supernet = run.train(changed)
        with stopped('stopped after the training, which is saved; add --resume for the table of subnets'):
            at_end(supernet)
        accelerator.end_training()
    return supernet


class _Run:
    """What a run needs, all of it checked, and nothing written yet."""

    def __init__(self, config: TrainConfig, data: Data, output: Path, accelerator: Accelerator, resume: bool):
        self.config, self.data, self.output, self.accelerator, self.resume = config, data, output, accelerator, resume
        _check_batch(config, accelerator)
        supernet = _beginning(config, data.num_classes, resume and newest_checkpoint(output / CHECKPOINTS) is not None)
        self.teachers = PhaseTeachers(config, supernet, output / 'teacher.safetensors', accelerator)
        if accelerator.device.type == 'cpu':
            keep_freed_memory()
        n = accelerator.num_processes
        self.batches = EpochBatches(
            data.train, config.batch_size, config.seed, config.workers, accelerator, config.augment,
            largest=max(config.load_space().resolutions))
        if config.sync_bn and n > 1:
            synchronize_batch_norm(supernet)
        self.supernet = placed(supernet, accelerator.device)
        decay = config.model_ema_decay
        self.average = None if decay is None else MovingAverage(self.supernet, decay)
        self.result = self.supernet if self.average is None else self.average.network  # what is judged and saved
        self.total = sum(len(self.batches) * (p.warmup_epochs + p.epochs) for p in config.phases)
        logger.info(
            f'{n} {"process" if n == 1 else "processes"} on {accelerator.device.type}, {config.batch_size // n} '
            'images each')

    def train(self, changed: dict[str, Any]) -> Supernet:
        """Train what is left of the run, and save the supernet; `changed`: settings that are new from here on."""
        config, accelerator, supernet, batches = self.config, self.accelerator, self.supernet, self.batches
        optimizer = make_optimizer(supernet, config.phases[0].lr, config.momentum, config.weight_decay)
        model, optimizer = accelerator.prepare(supernet, optimizer)
        if self.average is not None:
            accelerator.register_for_checkpointing(self.average.network)
        checkpoints = Checkpoints(self.output / CHECKPOINTS, accelerator, config.checkpoint_minutes * 60)
        start = checkpoints.load() if self.resume else Progress()
        log, augment = RunLog(self.output, accelerator, start.log_bytes, start.total_steps), batches.augment
        assert augment is not None
        bar = progress_bar(
            self.total, 'train', 'step', shown=accelerator.is_main_process, initial=start.total_steps, smoothing=0.05)
        loop = Loop(
            accelerator, model, optimizer, batches, len(batches),
            lambda pixels, rng, resolution, part: augment(pixels, supernet.space, resolution, rng, part),
            config.seed, config.label_smoothing, config.clip_grad, config.accumulate, log, bar, self.average)
        with log.session(self._opening(start, changed)), bar:
            if not start.log_bytes:
                log(dict(
                    event='start', config=config.to_dict(), processes=accelerator.num_processes, data=self.data.name,
                    images=len(self.data.train), steps=self.total))
            self._run_phases(loop, checkpoints, start, log)
            if accelerator.is_main_process:
                save_supernet(self.result, self.output, dict(
                    data=self.data.name, class_names=list(self.data.class_names), training=config.to_dict(),
                    **({'skipped_images': self.data.skipped} if self.data.skipped else {})))
            accelerator.wait_for_everyone()
        accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # mixed precision wraps the model
        return self.result

    def _opening(self, start: Progress, changed: dict[str, Any]) -> dict[str, Any]:
        """Where a session begins, and with which new settings."""
        device = self.accelerator.device
        name = this_device(device.type)[1] if device.type in ('cpu', 'cuda') else device.type
        return dict(
            event='resume' if self.resume else 'start', at_step=start.total_steps, device=str(device), device_name=name,
            processes=self.accelerator.num_processes, versions=versions(), **(dict(changed=changed) if changed else {}))

    def _run_phases(self, loop: Loop, checkpoints: Checkpoints, start: Progress, log: RunLog) -> None:
        """Run the phases that are left, a checkpoint at the end of each, and whenever one is due."""
        config, space = self.config, self.supernet.space
        teacher, here = self.teachers.of_phase(start.phase), start
        with graceful_stop() as ended_by:
            def save(progress: Progress, why: int) -> None:
                checkpoints.save(replace(progress, log_bytes=log.size()))
                if why == 2:
                    raise Interrupted(f'stopped at step {progress.total_steps} of {self.total}; add --resume to go on',
                                      ended_by() or signal.SIGINT)  # it may have come to another process
                log.time(dict(event='checkpoint', at_step=progress.total_steps))

            for i, phase in enumerate(config.phases[start.phase:], start.phase):
                subspace, recipe = phase.subspace(space), RECIPES[phase.recipe]
                if phase.sort_channels and not (here.epoch or here.step):
                    self.supernet.sort_channels(keep=trained_before(space, config.phases, i))
                    if self.average is not None:
                        self.average.start_anew()
                began = time.perf_counter()
                here = loop.run_phase(
                    phase, partial(recipe.draw, subspace, phase.subnets_per_step, whole=space), teacher, here,
                    lambda: checkpoints.due(ended_by()), save)
                judge = SubnetJudge(
                    self.result, self.data.train, self.data.holdout, augment=config.augment, seed=config.seed,
                    repairs=not config.trains_subnets)
                judge_ends(phase, subspace, judge, log)
                log.time(dict(event='phase', phase=phase.name, seconds=round(time.perf_counter() - began, 1)))
                if i == 0:
                    self.teachers.keep()
                    teacher = self.teachers.of_phase(1)
                here = Progress(phase=i + 1, total_steps=here.total_steps)
                save(here, 0)


def _check_batch(config: TrainConfig, accelerator: Accelerator) -> None:
    """Raise `InputError` unless a batch divides into equal parts of at least two images."""
    for shares in sorted({phase.shares for phase in config.phases}):
        parts = accelerator.num_processes * config.accumulate * shares
        if config.batch_size % parts or config.batch_size // parts < 2:
            divided = f' x {shares} subnets' if shares > 1 else ''
            raise InputError(
                f'batch_size {config.batch_size} does not divide into {accelerator.num_processes} processes x '
                f'accumulate {config.accumulate}{divided} of at least 2 images; make it a multiple of {parts}, '
                f'{2 * parts} or more')


def _beginning(config: TrainConfig, num_classes: int, begun: bool) -> Supernet:
    """The supernet as training begins with it. If the run has `begun`, a checkpoint holds its weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        supernet = new_supernet(config.load_space(), num_classes=num_classes, drop_rate=config.drop_rate)
    source = config.initial_checkpoint or (config.space.network and config.space.network.name)
    if source and not begun and initialize(supernet, source):
        for phase in config.phases:
            if phase.sort_channels:
                raise InputError(
                    f'{config.name}: sort_channels in phase {phase.name!r} would change the trained subnets of '
                    f'initial_checkpoint {source!r:.120}; leave it out')
    return supernet
