"""What a training run leaves on disk, and how it is stopped and found again: checkpoints, log, the finished folder."""
from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import accelerate
import timm
import torch
import yaml
from accelerate import Accelerator
from safetensors import SafetensorError

from ..errors import InputError, one_line
from ..files import read_yaml, replacing, save_tensors, sha256_of, write_text
from ..networks import BLOCK, CONFIG, DIGEST, WEIGHTS, Supernet, read_json
from .config import TrainConfig

LOG, TIMES = 'log.jsonl', 'times.jsonl'
RUN_FILES = (LOG, TIMES, 'emissions.csv')  # beside a supernet's weights; the last is what codecarbon writes
MAX_LOG_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Progress:
    """Where a run stands: the phase, the epoch in it, the step in that, and all steps so far."""
    phase: int = 0
    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    losses: tuple[float, ...] = ()  # since the last report
    log_bytes: int = 0  # of the log so far


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, after a checkpoint was written."""


def open_run(config: TrainConfig, output: Path, resume: bool) -> None:
    """Create the folder of a run, or check that it holds this one."""
    file = output / 'train.yaml'
    if resume:
        if not file.exists():
            raise InputError(f'output {str(output)!r:.120} holds no run to resume; leave out --resume')
        before = TrainConfig.from_dict(read_yaml(file.read_text()), file.name)
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
    """Folders `step-N-phase-P` with all that a run needs to go on; each is complete or absent, one always stays."""

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
        """Write to a temporary folder, flush it to disk, rename it, then remove older ones.

        Raises `InputError` if the disk is full or the like; the last good checkpoint is still there.
        """
        name = f'step-{progress.total_steps:08d}-phase-{progress.phase:02d}'
        temporary, final = self.folder / '.part', self.folder / name
        if final.exists():  # complete, or it would not have its name
            return
        if self.accelerator.is_main_process and temporary.exists():
            shutil.rmtree(temporary)
        self.accelerator.wait_for_everyone()
        try:
            self.accelerator.save_state(str(temporary))
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                (temporary / 'progress.json').write_text(json.dumps(asdict(progress)))
                for path in (*temporary.iterdir(), temporary):
                    _flush(path)
                os.replace(temporary, final)
                _flush(self.folder)
                for older in self.folder.glob('step-*'):
                    if older != final:
                        shutil.rmtree(older)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            kept = max((path.name for path in self.folder.glob('step-*')), default='none')
            raise InputError(
                f'checkpoint {str(final)!r:.120} cannot be written ({one_line(error)}); free space and '
                f'resume; the last complete one: {kept}') from None
        self.accelerator.wait_for_everyone()
        self.last = time.monotonic()

    def load(self) -> Progress:
        """Go back to the newest checkpoint; the start if there is none."""
        newest = max(self.folder.glob('step-*'), default=None)
        if newest is None:
            return Progress()
        self.accelerator.load_state(str(newest))
        progress = json.loads((newest / 'progress.json').read_text())
        return Progress(**{**progress, 'losses': tuple(progress['losses'])})


def _flush(path: Path) -> None:
    """Make sure that a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class RunLog:
    """`log.jsonl`, one event a line, the same for the same run, however often it was stopped; trackers get the numbers
    as well. What differs from time to time goes to `times.jsonl`."""

    def __init__(self, folder: Path, accelerator: Accelerator, size: int = 0):
        """Goes on behind the first `size` bytes of the log; the steps that wrote the rest are done again."""
        self.path, self.times = folder / LOG, folder / TIMES
        self.accelerator, self.began = accelerator, time.perf_counter()
        if accelerator.is_main_process:
            self.path.touch()
            os.truncate(self.path, size)

    def seconds(self) -> float:
        """Since the run was started or resumed."""
        return time.perf_counter() - self.began

    def size(self) -> int:
        """Bytes of the log, which are on disk afterwards."""
        if not self.accelerator.is_main_process:
            return 0
        _flush(self.path)
        return self.path.stat().st_size

    def time(self, event: dict) -> None:
        """Note when something happened."""
        if self.accelerator.is_main_process:
            self._append(self.times, {**event, 'date': datetime.now().isoformat(timespec='seconds')})

    def __call__(self, event: dict) -> None:
        if not self.accelerator.is_main_process:
            return
        self._append(self.path, event)
        numbers = {k: v for k, v in event.items() if isinstance(v, (int, float))}
        if self.accelerator.trackers and 'step' in event:
            self.accelerator.log(numbers, step=event['step'])

    def _append(self, path: Path, event: dict) -> None:
        with path.open('a') as file:
            file.write(json.dumps(event) + '\n')


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


def save_supernet(supernet: Supernet, folder: Path, about: dict) -> None:
    """Weights and timm's `config.json` (plus a `timm_ofa` block) into a folder that `load_supernet` reads."""
    from timm.models._hub import save_config_for_hf

    save_tensors(folder / WEIGHTS, supernet.state_dict())
    digest = sha256_of(folder / WEIGHTS)
    with replacing(folder / CONFIG) as temporary:
        save_config_for_hf(supernet, str(temporary), model_config={
            BLOCK: {'kind': 'supernet', DIGEST: digest, 'space': supernet.space.name, **about}})


def supernet_folder(source: str) -> Path:
    """Where the files beside a supernet's weights are: its folder, or the cache of the Hub's client, with those that a
    repository has of `config.json` and the files of `RUN_FILES`."""
    if not source.startswith('hf-hub:'):
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError

    repo_id, _, revision = source.removeprefix('hf-hub:').partition('@')
    try:
        return Path(snapshot_download(repo_id, revision=revision or None, allow_patterns=[CONFIG, *RUN_FILES]))
    except (HTTPError, OSError, ValueError) as error:
        raise InputError(f'files of {source!r:.120} cannot be fetched ({one_line(error)}); try again') from None


def supernet_config(folder: str | Path) -> TrainConfig | None:
    """The configuration with which a supernet's folder was trained; None where it is not known."""
    file = Path(folder) / CONFIG
    block = read_json(file).get(BLOCK) if file.exists() else None
    training = block.get('training') if isinstance(block, Mapping) else None
    return training and TrainConfig.from_dict(training, file.name)


def run_events(folder: str | Path, name: str) -> list[dict]:
    """What a log of a run says, an event a line; nothing where there is none. Raises `InputError` naming the line."""
    path = Path(folder) / name
    if not path.is_file():
        return []
    if path.stat().st_size > MAX_LOG_BYTES:
        raise InputError(f'{str(path)!r:.200} is above {MAX_LOG_BYTES} bytes; shorten it')
    events = []
    for number, line in enumerate(path.read_text(encoding='utf-8', errors='replace').splitlines(), 1):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, dict):
            raise InputError(f'{str(path)!r:.200} line {number}: {line!r:.60} is not an event; remove it')
        events.append(event)
    return events


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    return dict(
        python=platform.python_version(), torch=torch.__version__, timm=timm.__version__,
        accelerate=accelerate.__version__)
