"""What the training of a supernet took, from the files that it leaves."""
from __future__ import annotations

import csv
from datetime import datetime, timedelta
from pathlib import Path

from ..errors import InputError
from ..training import RUN_FILES, TIMES, run_events
from .record import Training


def training_cost(folder: str | Path) -> Training | None:
    """What the training of a supernet took, from the times that its folder notes; None if it notes none.

    The time between a stop and the resumption does not count. CO2 is what codecarbon measured, if its file is there.
    """
    took, start, last = timedelta(), None, datetime.min
    try:
        for event in run_events(folder, TIMES):
            now = datetime.fromisoformat(event['date'])
            if event.get('event') in ('start', 'resume'):
                start, last = event, now
            if start:
                took, last = took + (now - last), now
        if start is None:
            return None
        seconds, processes = took.total_seconds(), int(start.get('processes', 1))
        hardware = str(start.get('device', 'unknown')).split(':')[0]
    except (KeyError, TypeError, ValueError):
        raise InputError(f'{TIMES} in {str(folder)!r:.120} is not what training wrote; remove it') from None
    gpu_hours = round(seconds * processes / 3600, 4) if hardware == 'cuda' else None
    co2_g = _measured_co2_g(Path(folder) / RUN_FILES[-1])
    return Training(
        seconds=seconds, hardware=hardware, processes=processes, gpu_hours=gpu_hours, co2_g=co2_g,
        co2_source=None if co2_g is None else 'codecarbon')


def _measured_co2_g(path: Path) -> float | None:
    """The sum (g) over the runs in codecarbon's file, which gives kg."""
    if not path.is_file():
        return None
    try:
        with path.open(encoding='utf-8', newline='') as file:
            return round(1000 * sum(float(row['emissions']) for row in csv.DictReader(file)), 3)
    except (KeyError, TypeError, ValueError):
        raise InputError(f'{str(path)!r:.120} is not what codecarbon writes; remove it') from None
