"""What the training of a supernet took, from the files that it leaves."""
from __future__ import annotations

import csv
from collections.abc import Iterable
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from ..errors import InputError
from ..fields import read, read_value
from ..training import RUN_FILES, TIMES, run_events, supernet_config
from .record import SessionCost, Training

EMISSIONS = RUN_FILES[-1]  # codecarbon's file


def training_cost(folder: str | Path) -> Training | None:
    """What the training of a supernet took, from the times that its folder notes; None if it notes none.

    The time between a stop and the resumption does not count, and sessions on different hardware are told apart. CO2 is
    what codecarbon measured, if its file is there.
    """
    config = supernet_config(folder)
    if config and not any(phase.epochs or phase.warmup_epochs for phase in config.phases):
        return None  # it was trained before
    seconds: dict[tuple[str, int, bool], float] = {}  # of work on (hardware, processes, whether that is a GPU)
    try:
        for session in _sessions(run_events(folder, TIMES)):
            device = str(session[0].get('device', 'unknown')).split(':')[0]
            setup = str(session[0].get('device_name', device)), int(session[0].get('processes', 1)), device == 'cuda'
            seconds[setup] = seconds.get(setup, 0.0) + _seconds(session)
        parts = [read(SessionCost, dict(seconds=s, hardware=name, processes=n), TIMES)
                 for (name, n, _), s in seconds.items()]
    except (KeyError, TypeError, ValueError, OverflowError):
        raise InputError(f'{TIMES} in {str(folder)!r:.120} is not what training wrote; remove it') from None
    if not seconds:
        return None
    most = max(parts, key=lambda part: part.seconds)
    gpu_hours = sum(s * n for (_, n, is_gpu), s in seconds.items() if is_gpu) / 3600
    co2_g = _measured_co2_g(Path(folder) / EMISSIONS)
    return Training(
        seconds=sum(seconds.values()), hardware=most.hardware, processes=most.processes,
        sessions=tuple(parts) if len(parts) > 1 else (),
        gpu_hours=round(gpu_hours, 4) if any(is_gpu for _, _, is_gpu in seconds) else None, co2_g=co2_g,
        co2_source=None if co2_g is None else 'codecarbon')


def _sessions(events: Iterable[dict]) -> list[list[dict]]:
    """The events of each session, which a start or a resumption begins."""
    found: list[list[dict]] = []
    for event in events:
        if event.get('event') in ('start', 'resume'):
            found.append([])
        if found:
            found[-1].append(event)
    return found


def _seconds(session: list[dict]) -> float:
    """How long a session took, as it counted itself. Older ones noted the local time alone, which may be set back."""
    if 'session_s' in session[-1]:
        return max(0.0, float(session[-1]['session_s']))
    dates = [datetime.fromisoformat(event['date']) for event in session]
    return sum(max(0.0, (after - before).total_seconds()) for before, after in pairwise(dates))


def _measured_co2_g(path: Path) -> float | None:
    """The sum (g) over the runs in codecarbon's file, which gives kg, and in each line what the run emitted so far."""
    if not path.is_file():
        return None
    most_kg: dict[str, float] = {}
    try:
        with path.open(encoding='utf-8', newline='') as file:
            for number, row in enumerate(csv.DictReader(file)):
                run = row.get('run_id') or str(number)
                kg = read_value(float, float(row['emissions']), 'emissions', low=0, high=1e9)
                most_kg[run] = max(most_kg.get(run, 0.0), kg)
    except (KeyError, TypeError, ValueError):
        raise InputError(f'{str(path)!r:.120} is not what codecarbon writes; remove it') from None
    return round(1000 * sum(most_kg.values()), 3)
