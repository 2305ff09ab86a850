"""Trackers of Accelerate, which get the losses, rates and accuracies of a run, and its settings."""
from __future__ import annotations

import json
from collections.abc import Sequence

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from ..errors import InputError, listed
from .config import TrainConfig, by_key


def check_trackers(names: Sequence[str]) -> None:
    """Raise `InputError` for a tracker that Accelerate does not know, or whose package is not installed."""
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise InputError(f'tracker {name!r:.60} is unknown; choose from {listed(sorted(LOGGER_TYPE_TO_CLASS))}')
        if name not in map(str, get_available_trackers()):
            raise InputError(f'tracker {name!r} is not installed; run: pip install {name}')


def start_trackers(accelerator: Accelerator, config: TrainConfig) -> None:
    """Begin a run in the project that has the name of the configuration; its settings are the keys of `--set`."""
    accelerator.init_trackers(config.name, {
        key: value if isinstance(value, (bool, int, float, str)) else json.dumps(value)  # lists, and what is missing
        for key, value in by_key(config.to_dict()).items()})
