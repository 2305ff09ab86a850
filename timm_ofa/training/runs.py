"""The folder of a run: its settings, its log and its times, and at the end the trained supernet."""
from __future__ import annotations

import json
import os
import platform
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import accelerate
import timm
import torch
import yaml

from ..errors import InputError, Interrupted, listed
from ..files import drop_torn_line, read_yaml_file, replacing, save_tensors, sha256_of, write_text
from ..networks import BLOCK, CONFIG, DIGEST, WEIGHTS, Supernet, hub_errors, our_block, write_config
from .checkpoints import flush, progress_of
from .config import TrainConfig, by_key

SETTINGS, LOG, TIMES = 'train.yaml', 'log.jsonl', 'times.jsonl'
CHECKPOINTS = 'checkpoints'  # folder in that of a run
MAY_CHANGE = ('accumulate', 'checkpoint_minutes', 'clip_grad', 'workers')  # settings, when a run is resumed
RUN_FILES = (LOG, TIMES, 'emissions.csv')  # beside a supernet's weights; codecarbon writes the last
MAX_LOG_BYTES = 64 * 2**20


def check_run(config: TrainConfig, output: Path, resume: bool) -> dict[str, Any]:
    """Raise `InputError` unless this run may begin in its folder, or go on there. Writes nothing.

    A run that is resumed may change the settings in MAY_CHANGE, and the `lr` of phases that are not over; returns the
    changed ones by their keys.
    """
    file = output / SETTINGS
    if output.exists() and not output.is_dir():
        raise InputError(f'output {str(output)!r:.120} is a file; give a folder')
    if not resume:
        if file.exists():
            raise InputError(f'output {str(output)!r:.120} already holds a run; add --resume, or choose another folder')
        return {}
    if not file.exists():
        raise InputError(f'output {str(output)!r:.120} holds no run to resume; leave out --resume')
    settings = read_yaml_file(file, f'config {str(file)!r:.120}')
    if isinstance(settings, dict):
        settings.pop('kind', None)  # older files do not have it
    before = TrainConfig.from_dict(settings, file.name)
    phases_over, phases = progress_of(output / CHECKPOINTS).phase, len(before.phases)
    may_change = (*MAY_CHANGE, *(f'phases.{i}.lr' for i in range(phases_over, phases))) if phases_over < phases else ()
    wanted, known = by_key(asdict(config)), by_key(asdict(before))
    changed = [key for key in {**wanted, **known} if wanted.get(key) != known.get(key)]
    for key in changed:
        if key not in may_change:
            raise InputError(
                f'{key} is {str(wanted.get(key))!r:.60}, the run in {output.name!r} has {str(known.get(key))!r:.60}; '
                f'resume with the same settings; only {listed(MAY_CHANGE)} and lr may change, until the phase is over')
    return {key: wanted[key] for key in changed}


def write_settings(config: TrainConfig, output: Path) -> None:
    """Create the folder of a run, with its settings as a configuration that `load_config` reads."""
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / SETTINGS, yaml.safe_dump({'kind': 'supernet', **config.to_dict()}, sort_keys=False))


class RunLog:
    """`log.jsonl`, one event a line. The same run writes the same log, however often it was stopped.

    Trackers get the numbers as well. What differs from time to time goes to `times.jsonl`: the sessions of the run,
    each from a 'start' or 'resume' to an 'end' or 'stop', with the UTC date and the seconds of the session so far.
    """

    def __init__(self, folder: Path, accelerator: accelerate.Accelerator, size: int = 0, step: int = 0):
        """Keep the first `size` bytes of the log, up to `step`. The steps that wrote the rest are done again."""
        self.path, self.times, self.step = folder / LOG, folder / TIMES, step
        self.accelerator, self.began = accelerator, time.perf_counter()
        if accelerator.is_main_process:
            self.path.touch()
            os.truncate(self.path, min(size, self.path.stat().st_size))
            drop_torn_line(self.times)

    def seconds(self) -> float:
        """Seconds since the run was started or resumed."""
        return time.perf_counter() - self.began

    def size(self) -> int:
        """Bytes of the log, which are on disk afterwards."""
        if not self.accelerator.is_main_process:
            return 0
        flush(self.path)
        return self.path.stat().st_size

    def time(self, event: dict) -> None:
        """Note when something happened."""
        if self.accelerator.is_main_process:
            now = datetime.now(timezone.utc).isoformat(timespec='seconds')
            self._append(self.times, {**event, 'date': now, 'session_s': round(self.seconds(), 1)})

    @contextmanager
    def session(self, event: dict) -> Iterator[None]:
        """Note the start and the end of a session, also if it ends early; after Ctrl-C say how to go on."""
        self.time(event)
        try:
            yield
        except BaseException as error:
            self.time(dict(event='stop'))
            if isinstance(error, KeyboardInterrupt) and not str(error):
                number = getattr(error, 'number', signal.SIGINT)
                raise Interrupted('stopped; add --resume to go on', number) from None
            raise
        self.time(dict(event='end', seconds=round(self.seconds(), 1)))

    def __call__(self, event: dict) -> None:
        """Write an event of the run."""
        if not self.accelerator.is_main_process:
            return
        self._append(self.path, event)
        self.step = event.get('step', self.step)
        if event['event'] != 'start':
            self.accelerator.log({k: v for k, v in event.items() if isinstance(v, (int, float))}, step=self.step)

    def _append(self, path: Path, event: dict) -> None:
        with path.open('a') as file:
            file.write(json.dumps(event) + '\n')


def run_events(folder: str | Path, name: str) -> list[dict]:
    """The events of a run's log, one for each line; none where there is no log. Raises `InputError` naming the line."""
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


def save_supernet(supernet: Supernet, folder: Path, about: dict) -> None:
    """Write the weights and timm's `config.json` (plus a `timm_ofa` block) into a folder that `load_supernet` reads."""
    save_tensors(folder / WEIGHTS, supernet.state_dict())
    digest = sha256_of(folder / WEIGHTS)
    with replacing(folder / CONFIG) as temporary:
        names = {'label_names': about['class_names']} if about.get('class_names') else {}
        write_config(temporary, supernet, {
            **names, BLOCK: {'kind': 'supernet', DIGEST: digest, 'space': supernet.space.name, **about}})


def supernet_folder(source: str) -> Path:
    """The folder with `config.json` and the files of `RUN_FILES` of a supernet.

    For `hf-hub:...` they are fetched into the cache of the Hub's client; raises `InputError` if that fails.
    """
    if not source.startswith('hf-hub:'):
        return Path(source)
    from huggingface_hub import snapshot_download

    repo_id, _, revision = source.removeprefix('hf-hub:').partition('@')
    with hub_errors(repr(source)):
        return Path(snapshot_download(repo_id, revision=revision or None, allow_patterns=[CONFIG, *RUN_FILES]))


def supernet_config(folder: str | Path) -> TrainConfig | None:
    """The configuration with which a supernet's folder was trained; None where it is not known."""
    training = (our_block(Path(folder)) or {}).get('training')
    return TrainConfig.from_dict(training, CONFIG) if training else None


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    return dict(
        python=platform.python_version(), torch=torch.__version__, timm=timm.__version__,
        accelerate=accelerate.__version__)
