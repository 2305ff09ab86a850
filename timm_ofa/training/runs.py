"""The folder of a run: its settings, its log and its times, and at the end the trained supernet."""
from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import accelerate
import timm
import torch
import yaml

from ..errors import InputError, one_line
from ..files import read_yaml, replacing, save_tensors, sha256_of, write_text
from ..networks import BLOCK, CONFIG, DIGEST, WEIGHTS, Supernet, read_json
from .checkpoints import flush
from .config import TrainConfig

LOG, TIMES = 'log.jsonl', 'times.jsonl'
RUN_FILES = (LOG, TIMES, 'emissions.csv')  # beside a supernet's weights; codecarbon writes the last
MAX_LOG_BYTES = 64 * 2**20


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


class RunLog:
    """`log.jsonl`, one event a line. The same run writes the same log, however often it was stopped.

    Trackers get the numbers as well. What differs from time to time goes to `times.jsonl`.
    """

    def __init__(self, folder: Path, accelerator: accelerate.Accelerator, size: int = 0):
        """Keep the first `size` bytes of the log. The steps that wrote the rest are done again."""
        self.path, self.times = folder / LOG, folder / TIMES
        self.accelerator, self.began = accelerator, time.perf_counter()
        if accelerator.is_main_process:
            self.path.touch()
            os.truncate(self.path, size)

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
            self._append(self.times, {**event, 'date': datetime.now().isoformat(timespec='seconds')})

    def __call__(self, event: dict) -> None:
        """Write an event of the run."""
        if not self.accelerator.is_main_process:
            return
        self._append(self.path, event)
        numbers = {k: v for k, v in event.items() if isinstance(v, (int, float))}
        if self.accelerator.trackers and 'step' in event:
            self.accelerator.log(numbers, step=event['step'])

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
    from timm.models._hub import save_config_for_hf

    save_tensors(folder / WEIGHTS, supernet.state_dict())
    digest = sha256_of(folder / WEIGHTS)
    with replacing(folder / CONFIG) as temporary:
        save_config_for_hf(supernet, str(temporary), model_config={
            BLOCK: {'kind': 'supernet', DIGEST: digest, 'space': supernet.space.name, **about}})


def supernet_folder(source: str) -> Path:
    """The folder with `config.json` and the files of `RUN_FILES` of a supernet.

    For `hf-hub:...` they are fetched into the cache of the Hub's client; raises `InputError` if that fails.
    """
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
    return TrainConfig.from_dict(training, file.name) if training else None


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    return dict(
        python=platform.python_version(), torch=torch.__version__, timm=timm.__version__,
        accelerate=accelerate.__version__)
