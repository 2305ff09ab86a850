"""What a training run leaves on disk, and how it is stopped and found again: checkpoints, log, the finished folder."""
from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import accelerate
import timm
import torch
import yaml
from accelerate import Accelerator

from .errors import InputError
from .files import replacing, save_tensors, write_text
from .shrink import TrainConfig
from .supernet import MobileNetV3Supernet


@dataclass(frozen=True)
class Progress:
    """Where a run stands: the phase, the epoch in it, the step in that, and all steps so far."""
    phase: int = 0
    epoch: int = 0
    step: int = 0
    total_steps: int = 0


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, after a checkpoint was written."""


def open_run(config: TrainConfig, output: Path, resume: bool) -> None:
    """Create the folder of a run, or check that it holds this one."""
    file = output / 'train.yaml'
    if resume:
        if not file.exists():
            raise InputError(f'output {str(output)!r:.120} holds no run to resume; leave out --resume')
        before = TrainConfig.from_dict(yaml.safe_load(file.read_text()), file.name)
        for name, value in asdict(config).items():
            if asdict(before)[name] != value:
                raise InputError(
                    f'{name} is {str(value)!r:.60}, the run in {output.name!r} has {str(asdict(before)[name])!r:.60}; '
                    'resume with the same settings')
    elif file.exists():
        raise InputError(f'output {str(output)!r:.120} already holds a run; add --resume, or choose another folder')
    else:
        output.mkdir(parents=True, exist_ok=True)
        write_text(file, yaml.safe_dump(config.to_dict(), sort_keys=False))


class Checkpoints:
    """Folders `step-N` with everything a run needs to go on; each is complete or absent, the last good one stays."""

    def __init__(self, folder: Path, accelerator: Accelerator, every_s: float):
        self.folder, self.accelerator, self.every_s = folder, accelerator, every_s
        self.last = time.monotonic()

    def due(self, stopped: bool) -> int:
        """0: not yet, 1: the interval has passed, 2: stopped; the main process decides for all."""
        due = 2 if stopped else int(time.monotonic() - self.last > self.every_s)
        if self.accelerator.num_processes > 1:
            due = int(accelerate.utils.broadcast(torch.tensor(due, device=self.accelerator.device)).item())
        return due

    def save(self, progress: Progress) -> None:
        """Write to a temporary folder, flush it to disk, rename it, then remove older ones."""
        temporary, final = self.folder / '.part', self.folder / f'step-{progress.total_steps:08d}'
        if self.accelerator.is_main_process and temporary.exists():
            shutil.rmtree(temporary)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(temporary))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            (temporary / 'progress.json').write_text(json.dumps(asdict(progress)))
            for file in temporary.iterdir():
                with file.open('rb') as opened:
                    os.fsync(opened.fileno())
            if final.exists():
                shutil.rmtree(final)
            os.replace(temporary, final)
            for older in self.folder.glob('step-*'):
                if older != final:
                    shutil.rmtree(older)
        self.accelerator.wait_for_everyone()
        self.last = time.monotonic()

    def load(self) -> Progress:
        """Go back to the newest checkpoint; the start if there is none."""
        newest = max(self.folder.glob('step-*'), default=None)
        if newest is None:
            return Progress()
        self.accelerator.load_state(str(newest))
        return Progress(**json.loads((newest / 'progress.json').read_text()))


class RunLog:
    """`log.jsonl`: one event a line, always written; trackers get the numbers as well."""

    def __init__(self, path: Path, accelerator: Accelerator):
        self.path, self.accelerator, self.began = path, accelerator, time.perf_counter()

    def seconds(self) -> float:
        """Since the run was started or resumed."""
        return time.perf_counter() - self.began

    def __call__(self, event: dict) -> None:
        if not self.accelerator.is_main_process:
            return
        with self.path.open('a') as file:
            file.write(json.dumps(event) + '\n')
        numbers = {k: v for k, v in event.items() if isinstance(v, (int, float))}
        if self.accelerator.trackers and 'step' in event:
            self.accelerator.log(numbers, step=event['step'])


@contextmanager
def graceful_stop() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM only set a flag, so that a step is finished first; a second Ctrl-C stops at once."""
    flag: list[int] = []

    def handler(number: int, frame) -> None:
        if flag:
            raise KeyboardInterrupt
        flag.append(number)

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(flag)
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def save_supernet(supernet: MobileNetV3Supernet, folder: Path, about: dict) -> None:
    """Weights and timm's `config.json` (plus a `timm_ofa` block) into a folder that `load_supernet` reads."""
    from timm.models._hub import save_config_for_hf
    with replacing(folder / 'config.json') as temporary:
        save_config_for_hf(supernet, str(temporary), model_config=dict(
            timm_ofa=dict(kind='supernet', space=supernet.space.name, **about)))
    save_tensors(folder / 'model.safetensors', supernet.state_dict())


def supernet_config(folder: str | Path) -> TrainConfig | None:
    """The configuration with which a supernet's folder was trained; None where it is not known."""
    file = Path(folder) / 'config.json'
    block = json.loads(file.read_text()).get('timm_ofa') or {} if file.exists() else {}
    return TrainConfig.from_dict(block['training'], file.name) if 'training' in block else None


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    return dict(
        python=platform.python_version(), torch=torch.__version__, timm=timm.__version__,
        accelerate=accelerate.__version__)
