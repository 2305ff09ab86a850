"""The energy of a run, where the platform counts it: NVIDIA GPUs by NVML, Intel and AMD processors by Linux' powercap.

A counter holds the whole device, whatever else it does and when it idles: keep it quiet. It moves about ten times a
second, so that a second of runs is right within some percent.
"""
from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

POWERCAP = Path('/sys/class/powercap')
CONNECTED = 'intel-rapl:[0-9]'  # processor packages; AMD's go by this name too
SECONDS = 1.5
Counter = Callable[[], float]  # millijoules since some time


def energy_mj(run: Callable[[], None], processor: str = 'cpu', seconds: float = SECONDS) -> float | None:
    """Millijoules of one run, the mean over about `seconds` of them one after the other; None: not counted here."""
    counter = cuda_counter() if processor == 'cuda' else cpu_counter()
    if counter is None:
        return None
    _repeat(run, seconds / 3)  # up to its usual power
    before = counter()
    runs = _repeat(run, seconds)
    used = counter() - before
    return round(used / runs, 4) if used > 0 else None  # at or below 0: the counter stood still or began again


def cuda_counter() -> Counter | None:
    """Of the current GPU, with nvidia-ml-py."""
    try:
        import pynvml
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f'GPU-{torch.cuda.get_device_properties().uuid}')
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except (ImportError, AttributeError):
        return None
    except pynvml.NVMLError:  # too old, a part of a GPU, not allowed
        return None
    return lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))


def cpu_counter(root: Path = POWERCAP) -> Counter | None:
    """Of all processor packages together; most systems let only their administrator read it."""
    files = sorted(package / 'energy_uj' for package in root.glob(CONNECTED))

    def total_mj() -> float:
        return sum(int(file.read_text()) for file in files) / 1e3

    try:
        return total_mj if files and total_mj() > 0 else None
    except (OSError, ValueError):
        return None


def _repeat(run: Callable[[], None], seconds: float) -> int:
    runs, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        run()
        runs += 1
    return runs
