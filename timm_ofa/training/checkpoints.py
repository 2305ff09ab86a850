"""How a run stops and goes on exactly where it stopped: checkpoints, each of them whole or absent."""
from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from safetensors import SafetensorError

from ..errors import InputError, Interrupted, ending_signals, one_line


@dataclass(frozen=True)
class Progress:
    """Where a run stands: the phase, the epoch in it, the step in that, and all steps so far."""
    phase: int = 0
    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    losses: tuple[float, ...] = ()  # since the last report
    log_bytes: int = 0  # of the log so far


class Checkpoints:
    """Folders `step-N-phase-P`, one for each checkpoint; the newest complete one always stays."""

    def __init__(self, folder: Path, accelerator: Accelerator, every_s: float):
        self.folder, self.accelerator, self.every_s = folder, accelerator, every_s
        self.last = time.monotonic()

    def due(self, stopped: int) -> int:
        """0: not yet, 1: the interval has passed, 2: stopped; the main process decides for all."""
        due = 2 if stopped else int(time.monotonic() - self.last > self.every_s)
        if self.accelerator.num_processes > 1:
            due = int(broadcast(torch.tensor(due, device=self.accelerator.device)).item())
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
                    flush(path)
                os.replace(temporary, final)
                flush(self.folder)
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
        """Go back to the newest checkpoint; the start if there is none. Raises `InputError` if it is damaged."""
        if (newest := newest_checkpoint(self.folder)) is not None:
            with reading_back(newest):
                self.accelerator.load_state(str(newest))
        return progress_of(self.folder)


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint among those of a run."""
    return max(folder.glob('step-*'), default=None)


def progress_of(folder: Path) -> Progress:
    """Where the newest checkpoint of a run stands; the start if there is none. Raises `InputError` if it is damaged."""
    newest = newest_checkpoint(folder)
    if newest is None:
        return Progress()
    with reading_back(newest):
        progress = json.loads((newest / 'progress.json').read_text())
        return Progress(**{**progress, 'losses': tuple(progress['losses'])})


@contextmanager
def reading_back(path: Path) -> Iterator[None]:
    """Turn any error of reading what a run wrote into one `InputError`."""
    try:
        yield
    except Exception as error:  # unpickling what is damaged raises nearly anything
        raise InputError(f'{str(path)!r:.160} is damaged ({one_line(error)}); copy it again, or begin anew in another '
                         'folder') from None


def flush(path: Path) -> None:
    """Make sure that a file, or the names in a folder, are on disk; Windows flushes files only."""
    try:
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except PermissionError:
        if path.is_dir():  # Windows opens no folder
            return
        raise
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def graceful_stop() -> Iterator[Callable[[], int]]:
    """Ctrl-C, SIGTERM and SIGHUP only set a flag, so that a step is finished first; a second one stops at once.

    Gives a function that says which signal came, 0 for none. After a signal the block does not end without an error.
    """
    flag: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        if flag:
            raise Interrupted(number=number)
        flag.append(number)

    before = {number: signal.signal(number, handler) for number in ending_signals()}
    try:
        yield lambda: flag[0] if flag else 0
        if flag:  # nobody has asked since it came
            raise Interrupted(number=flag[0])
    finally:
        for number, old in before.items():
            signal.signal(number, old)
