"""The energy of one run, where the platform counts it: NVML for NVIDIA GPUs, Linux' powercap for Intel and AMD CPUs.

A counter covers the whole device, with other work and idle time: keep the device quiet. It is updated about ten times
a second, so the result of a second of runs is right within some percent.
"""
from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

POWERCAP = Path('/sys/class/powercap')
DOMAINS = 'intel-rapl:*'  # those of AMD have this name too
SECONDS = 1.5
Counter = Callable[[], float]  # millijoules used since some fixed moment


def energy_mj(run: Callable[[], None], processor: str = 'cpu', seconds: float = SECONDS) -> float | None:
    """Energy of one run in mJ: the mean over about `seconds` of runs. None: there is no counter here."""
    counter = cuda_counter() if processor == 'cuda' else cpu_counter()
    if counter is None:
        return None
    _repeat(run, seconds / 3)  # until the device has its usual power
    before = counter()
    runs = _repeat(run, seconds)
    used = counter() - before
    return round(used / runs, 4) if used > 0 else None  # 0 or less: the counter stood still, or started again


def cuda_counter() -> Counter | None:
    """The counter of the current GPU, read with nvidia-ml-py; None: there is none."""
    try:
        import pynvml
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f'GPU-{torch.cuda.get_device_properties().uuid}')
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except (ImportError, AttributeError):
        return None
    except pynvml.NVMLError:  # the GPU is too old or only a part of one, or reading is not allowed
        return None
    return lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))


def cpu_counter(root: Path = POWERCAP) -> Counter | None:
    """The counter of all processor packages together; None: there is none, or only root may read it."""
    def total_mj() -> float:
        return sum(int(file.read_text()) for file in files) / 1e3

    try:  # beside packages there are their parts, and 'psys': the platform, which has the packages in it
        files = [domain / 'energy_uj' for domain in sorted(root.glob(DOMAINS))
                 if (domain / 'name').read_text().startswith('package-')]
        return total_mj if files and total_mj() > 0 else None
    except (OSError, ValueError):
        return None


def _repeat(run: Callable[[], None], seconds: float) -> int:
    runs, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        run()
        runs += 1
    return runs
