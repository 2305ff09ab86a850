"""Training a supernet from the first phase of its configuration to the last, into one folder."""
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import DistributedDataParallelKwargs

from ..accuracy import SubnetJudge
from ..console import progress_bar
from ..errors import InputError
from ..images import Data, EpochBatches
from ..networks import Supernet, initialize, new_supernet, synchronize_batch_norm
from .checkpoints import Checkpoints, Interrupted, Progress, graceful_stop
from .config import TrainConfig, kept_ratios
from .loop import Loop, keep_freed_memory, make_optimizer, placed
from .recipes import RECIPES
from .report import judge_ends
from .runs import RunLog, check_run, open_run, save_supernet, versions
from .teachers import PhaseTeachers

logger = get_logger(__name__)


def train_supernet(config: TrainConfig, data: Data, output: str | Path, *, resume: bool = False,
                   tensorboard: bool = False, at_end: Callable[[Supernet], None] = lambda supernet: None) -> Supernet:
    """Train the phases one after the other into the folder `output`; returns the trained supernet.

    Writes `train.yaml`, `log.jsonl`, `times.jsonl` and `checkpoints/`, and at the end `config.json` and
    `model.safetensors`, so that `load_supernet` and `timm.create_model('local-dir:...')` load the folder.

    Args:
        at_end: Called with the trained supernet while the processes of a launch still are together.

    Raises:
        InputError: a wrong value, or a loss that is no longer finite.
        Interrupted: after Ctrl-C; a checkpoint was written.
    """
    output = Path(output)
    accelerator = make_accelerator(config, output if tensorboard else None)
    check_run(config, output, resume)
    supernet = _beginning(config, data.num_classes)
    data.train.decode()
    if config.sync_bn and accelerator.num_processes > 1:
        synchronize_batch_norm(supernet)
    supernet = placed(supernet, accelerator.device)
    optimizer = make_optimizer(supernet, config.phases[0].lr, config.momentum, config.weight_decay)
    model, optimizer = accelerator.prepare(supernet, optimizer)
    teachers = PhaseTeachers(config, supernet, output / 'teacher.safetensors', accelerator)
    batches = EpochBatches(
        data.train, config.batch_size, config.seed, config.workers, accelerator, config.augment, config.accumulate)
    _open(config, output, resume, accelerator)  # all settings are right: from here on the folder belongs to this run
    if tensorboard:
        accelerator.init_trackers('tensorboard')
    checkpoints = Checkpoints(output / 'checkpoints', accelerator, config.checkpoint_minutes * 60)
    start = checkpoints.load() if resume else Progress()
    total = sum(len(batches) * (p.warmup_epochs + p.epochs) for p in config.phases)
    log = RunLog(output, accelerator, start.log_bytes)
    _log_start(log, config, data, accelerator, start, resume, total)
    judge = SubnetJudge(supernet, data.train, data.holdout, augment=config.augment, seed=config.seed)
    augment = batches.augment
    assert augment is not None
    with progress_bar(total, 'train', 'step', shown=accelerator.is_main_process, initial=start.total_steps,
                      smoothing=0.05) as bar:
        loop = Loop(
            accelerator, model, optimizer, batches, len(batches),
            lambda pixels, rng, resolution, part: augment(pixels, supernet.space, resolution, rng, part),
            config.seed, config.label_smoothing, config.clip_grad, config.accumulate, log, bar)
        _run_phases(config, loop, supernet, teachers, judge, checkpoints, start, log)
    if accelerator.is_main_process:
        save_supernet(
            supernet, output,
            dict(data=data.name, class_names=list(data.class_names), training=config.to_dict()))
    log.time(dict(event='end', seconds=round(log.seconds(), 1)))
    accelerator.wait_for_everyone()
    at_end(supernet)
    accelerator.end_training()
    return supernet


def make_accelerator(config: TrainConfig, tensorboard: Path | None = None) -> Accelerator:
    """Accelerate as this training needs it: a subnet leaves parameters without a gradient."""
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


def _beginning(config: TrainConfig, num_classes: int) -> Supernet:
    """The supernet as training begins with it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        supernet = new_supernet(config.load_space(), num_classes=num_classes, drop_rate=config.drop_rate)
    if config.initial_checkpoint:
        initialize(supernet, config.initial_checkpoint)
    return supernet


def _open(config: TrainConfig, output: Path, resume: bool, accelerator: Accelerator) -> None:
    """Open the folder of the run, and say where the run takes place."""
    if accelerator.device.type == 'cpu':
        keep_freed_memory()
    if accelerator.is_main_process:
        open_run(config, output, resume)
        n = accelerator.num_processes
        logger.info(
            f'{n} {"process" if n == 1 else "processes"} on {accelerator.device.type}, {config.batch_size // n} '
            'images each')
    accelerator.wait_for_everyone()


def _log_start(log: RunLog, config: TrainConfig, data: Data, accelerator: Accelerator, start: Progress, resume: bool,
               total: int) -> None:
    """Write the settings at the start of the log; and each time, when and where the run goes on."""
    log.time(dict(
        event='resume' if resume else 'start', at_step=start.total_steps, processes=accelerator.num_processes,
        device=str(accelerator.device), versions=versions()))
    if not start.total_steps:
        log(dict(
            event='start', config=config.to_dict(), processes=accelerator.num_processes, data=data.name,
            images=len(data.train), steps=total))


def _run_phases(config: TrainConfig, loop: Loop, supernet: Supernet, teachers: PhaseTeachers, judge: SubnetJudge,
                checkpoints: Checkpoints, start: Progress, log: RunLog) -> None:
    """Run the phases that are left, a checkpoint at the end of each, and whenever one is due."""
    teacher = teachers.of_phase(start.phase)
    with graceful_stop() as stopped:
        def save(progress: Progress, why: int) -> None:
            checkpoints.save(replace(progress, log_bytes=log.size()))
            if why == 2:
                raise Interrupted(f'stopped at step {progress.total_steps} of {loop.bar.total}; add --resume to go on')

        here = start
        for i, phase in enumerate(config.phases[start.phase:], start.phase):
            subspace, recipe = phase.subspace(supernet.space), RECIPES[phase.recipe]
            if phase.sort_channels and not (here.epoch or here.step):
                supernet.sort_channels(kept_ratios(config.phases, i))
            began = time.perf_counter()
            here = loop.run_phase(
                phase, partial(recipe.draw, subspace, phase.subnets_per_step), teacher, here,
                lambda: checkpoints.due(stopped()), save)
            judge_ends(phase, subspace, judge, log)
            log.time(dict(event='phase', phase=phase.name, seconds=round(time.perf_counter() - began, 1)))
            if i == 0:
                teachers.keep()
                teacher = teachers.of_phase(1)
            here = Progress(phase=i + 1, total_steps=here.total_steps)
            save(here, 0)
