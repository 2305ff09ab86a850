"""Trackers of Accelerate, which get the losses, rates and accuracies of a run, and its settings."""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from ..errors import InputError, listed
from .config import TrainConfig


def check_trackers(names: Sequence[str]) -> None:
    """Raise `InputError` for a tracker that Accelerate does not know, or whose package is not installed."""
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise InputError(f'tracker {name!r:.60} is unknown; choose from {listed(sorted(LOGGER_TYPE_TO_CLASS))}')
        if name not in map(str, get_available_trackers()):
            raise InputError(f'tracker {name!r} is not installed; run: pip install {name}')


def start_trackers(accelerator: Accelerator, config: TrainConfig) -> None:
    """Begin a run in the project that has the name of the configuration; its settings are the keys of `--set`."""
    accelerator.init_trackers(config.name, _by_key(config.to_dict()))


def _by_key(value: Any, at: str = '') -> dict[str, bool | int | float | str]:
    """Settings by their keys, such as 'phases.0.lr'. Lists of numbers and missing values are JSON texts."""
    if isinstance(value, Mapping):
        inside = list(value.items())
    elif isinstance(value, (list, tuple)) and any(isinstance(v, Mapping) for v in value):
        inside = list(enumerate(value))
    else:
        return {at: value if isinstance(value, (bool, int, float, str)) else json.dumps(value)}
    return {name: v for key, part in inside for name, v in _by_key(part, f'{at}.{key}' if at else str(key)).items()}
