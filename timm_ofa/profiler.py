"""Measure the rows of a search space on a runtime of this machine: a `DeviceProfile` in seconds.

A row costs what it adds: [1x1 conv, row, mean] minus [1x1 conv, mean], both measured in the same sweeps, so that what
the machine does meanwhile falls on both. Along a network the means cancel, and what is left is the network itself.
Whole random networks run in the same sweeps: one half fits one constant, the other half says how good the profile is.

All graphs are visited in random order and a low percentile of the times of each counts: the rest is other work. With
one thread the clock counts the CPU time of this process, which other load on the machine hardly touches. Small networks
stay in the caches from one run to the next, and are timed warm, rows and all; larger ones do not, and are timed cold.
"""
from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
from tqdm import tqdm

from .errors import InputError, listed
from .fields import check_slug, slug
from .latency import DeviceProfile, RowCost, latency_error
from .layers import BN_EPS, mean_row
from .runtimes import DEFAULT, load_runtime
from .space import Arch, Row, SearchSpace, load_space

MIN_SWEEPS = 20
WARM_BYTES = 4 * 2**20  # of weights; networks up to here are timed warm
LOW_PERCENT = 5
START_ROW = mean_row(1, 3)  # costs what every run costs, whatever the network


def is_warm(rows: Sequence[Row]) -> bool:
    """Whether a network is timed warm: its float32 weights stay in the caches between runs."""
    return 4 * sum(row.params for row in rows) <= WARM_BYTES


@dataclass(frozen=True)
class Timing:
    """Times of M runners in S visits: `samples_ms` (M, S)."""
    samples_ms: np.ndarray

    def low_ms(self) -> np.ndarray:
        """(M,), the statistic of profiles: undisturbed, and unlike the minimum blind to the number of visits.

        Clocks of CPU time on virtual machines also err downwards, by half, about once in thousands of runs.
        """
        return self.percentile_ms(LOW_PERCENT)

    def percentile_ms(self, percent: float) -> np.ndarray:
        """(M,)."""
        return np.percentile(self.samples_ms, percent, axis=1)


def measure(runners: Sequence[Callable[[], None]], *, warm: bool = True, sweeps: int | None = None,
            seconds: float = 10.0, threads: int = 1, seed: int = 0, progress: bool = True,
            label: str = 'measuring') -> Timing:
    """Visit all M runners in random order, again and again, in S sweeps.

    Args:
        warm: A visit is one run for nothing, then the better of two; otherwise it is one run.
        sweeps: Visits of each runner; None: as many as fit into about `seconds`, at least 20.
        threads: With 1 the CPU time of the process counts, with more the wall clock.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    rng = np.random.default_rng(seed)

    def visit(run: Callable[[], None]) -> float:
        times_ms = []
        for _ in range(3 if warm else 1):
            start = clock()
            run()
            times_ms.append(1e3 * (clock() - start))
        return min(times_ms[1:] or times_ms)

    for run in runners:  # the first run of all allocates
        run()
    started = time.perf_counter()
    for run in runners:
        visit(run)
    if sweeps is None:
        sweeps = max(MIN_SWEEPS, int(seconds / (time.perf_counter() - started)))
    samples_ms = np.empty((len(runners), sweeps))
    for sweep in tqdm(range(sweeps), desc=label, unit='sweep', leave=False, disable=None if progress else True):
        for i in rng.permutation(len(runners)):
            samples_ms[i, sweep] = visit(runners[i])
    return Timing(samples_ms)


def profile_space(space: str | SearchSpace, runtime: str = DEFAULT, *, threads: int = 1, device: str | None = None,
                  device_name: str | None = None, num_classes: int | None = None,
                  resolutions: Sequence[int] | None = None, sweeps: int | None = None, seconds: float = 10.0,
                  check_nets: int = 12, seed: int = 0, progress: bool = True) -> DeviceProfile:
    """Measure every row of a space on this machine.

    Args:
        device: Slug of this device; None: from the name of the CPU.
        num_classes: Of the head that is measured; None: the default of the space.
        resolutions: Of the space, in px; None: all.
        sweeps: Runs of each graph; None: as many as fit into about `seconds` in all, at least 20.
        check_nets: Whole networks to fit one constant on, and as many again to check the profile on.
    """
    space, kit = load_space(space), load_runtime(runtime)
    own_device, own_name = this_device()
    _positive(threads=threads, check_nets=check_nets, num_classes=num_classes, sweeps=sweeps)
    check_slug(device or own_device, 'device')
    space = _at(space, resolutions)
    num_classes = num_classes or space.num_classes
    nets = _random_nets(space, 2 * check_nets, seed)
    warm = is_warm(space.rows(space.max_arch(), num_classes))
    table: dict[str, RowCost] = {}
    starts_ms: list[float] = []
    nets_ms: dict[Arch, float] = {}
    for resolution in tqdm(space.resolutions, desc='resolutions', unit='px', disable=None if progress else True):
        rows = [row for row in space.all_rows(resolution, num_classes) if row.key not in table]
        here = {arch: tuple(space.rows(arch, num_classes)) for arch in nets if arch.resolution == resolution}
        graphs = list(dict.fromkeys(
            [(START_ROW,), *(graph for row in rows for graph in _probes(row)), *here.values()]))
        timing = measure(
            [kit.load(graph, threads=threads, seed=seed) for graph in graphs], warm=warm, sweeps=sweeps,
            seconds=seconds / len(space.resolutions), threads=threads, seed=seed + resolution, progress=progress,
            label=f'{resolution} px')
        low, median = (dict(zip(graphs, times.tolist())) for times in (timing.low_ms(), timing.percentile_ms(50)))
        visits = timing.samples_ms.shape[1]
        table.update({row.key: RowCost(_added(row, low), _added(row, median), visits) for row in rows})
        starts_ms.append(low[START_ROW,])
        nets_ms.update({arch: low[graph] for arch, graph in here.items()})

    profile = DeviceProfile(
        name=slug(f'{device or own_device}-{runtime}-{space.name}' + (f'-{threads}t' if threads > 1 else '')),
        space=space.name, device=device or own_device, device_name=device_name or device or own_name,
        runtime=kit.NAME, runtime_version=kit.version(), precision=kit.PRECISION, threads=threads, batch_size=1,
        measured_on=date.today().isoformat(), num_classes=num_classes,
        overhead_ms=round(float(np.median(starts_ms)), 6), scale=1.0, table=table,
        protocol=_protocol(threads, warm, min(cost.n for cost in table.values()), check_nets), check=None,
        source='measured with timm-ofa profile')
    profile = _calibrate(profile, space, nets[:check_nets], nets_ms)
    held_out = nets[check_nets:]
    check = latency_error(np.array([nets_ms[arch] for arch in held_out]), profile.latency_ms(space, held_out))
    return DeviceProfile.from_dict(replace(profile, check=check).to_dict(), 'profile')


def _positive(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < 1:
            raise InputError(f'{name} {value} is too small; give 1 or more')


def _at(space: SearchSpace, resolutions: Sequence[int] | None) -> SearchSpace:
    unknown = [r for r in resolutions or () if r not in space.resolutions]
    if unknown:
        raise InputError(
            f'resolution {listed(unknown)} is not searched in {space.name}; choose from {listed(space.resolutions)}')
    return space.restrict(resolutions=resolutions)


def _random_nets(space: SearchSpace, n: int, seed: int) -> list[Arch]:
    """Random networks, the resolutions in turn."""
    archs = space.sample(np.random.default_rng(seed), n)
    return [replace(arch, resolution=space.resolutions[i % len(space.resolutions)]) for i, arch in enumerate(archs)]


def _probes(row: Row) -> tuple[tuple[Row, ...], ...]:
    """The graphs with and without a row; the stem takes the image itself, and is compared with nothing at all."""
    if row.in_chs == 3:
        return (row, mean_row(row.out_size, row.out_chs)), (START_ROW,)
    before = Row(
        'conv', f'cn_r1_k1_s1_c{row.in_chs}_nre', row.size, row.in_chs, row.size, row.in_chs, 1, 1, 0, 0, 're', False,
        macs=0, params=0)
    after = () if row.kind == 'head' else (mean_row(row.out_size, row.out_chs),)
    return (before, row, *after), (before, mean_row(row.size, row.in_chs))


def _added(row: Row, times_ms: Mapping[tuple[Row, ...], float]) -> float:
    with_row, without = _probes(row)
    return round(max(0.0, times_ms[with_row] - times_ms[without]), 6)


def _calibrate(profile: DeviceProfile, space: SearchSpace, nets: Sequence[Arch],
               nets_ms: Mapping[Arch, float]) -> DeviceProfile:
    """One factor on the rows, the median over whole networks."""
    rows_ms = profile.latency_ms(space, nets) - profile.overhead_ms
    measured_ms = np.array([nets_ms[arch] for arch in nets]) - profile.overhead_ms
    return replace(profile, scale=round(float(np.median(measured_ms / rows_ms)), 4))


def _statistic(threads: int, warm: bool) -> str:
    clock = 'process CPU time' if threads == 1 else 'wall-clock time'
    return f'{LOW_PERCENT}th percentile of {clock}, {"warm" if warm else "cold"} runs'


def _protocol(threads: int, warm: bool, sweeps: int, check_nets: int) -> dict:
    return {
        'statistic': _statistic(threads, warm), 'sweeps': sweeps, 'order': 'random over all graphs of a resolution',
        'method': '[1x1 conv, row, mean] - [1x1 conv, mean], paired in the same sweeps',
        'calibration_nets': check_nets, 'host': host(),
    }


def measure_network(rows: Sequence[Row], runtime: str = DEFAULT, *, weights: Mapping | None = None,
                    bn_eps: float = BN_EPS, threads: int = 1, batch_size: int = 1, sweeps: int | None = None,
                    seconds: float = 3.0, seed: int = 0, progress: bool = False) -> dict:
    """Latency of one network as a profile predicts it: same clock, same statistic, and the same company.

    In an endless loop of nothing else a network gets up to 20 % faster still, as caches and branch predictors learn it
    by heart; so probes of its own rows run in between.
    """
    _positive(threads=threads, batch_size=batch_size, sweeps=sweeps)
    kit, warm = load_runtime(runtime), is_warm(rows)
    network = kit.load(rows, weights=weights, bn_eps=bn_eps, threads=threads, batch_size=batch_size, seed=seed)
    company = [
        kit.load(graph, threads=threads, batch_size=batch_size, seed=seed)
        for graph in dict.fromkeys(graph for row in rows for graph in _probes(row))]
    timing = measure(
        [network, *company], warm=warm, sweeps=sweeps, seconds=seconds, threads=threads, seed=seed, progress=progress)
    return {
        'latency_ms': round(float(timing.low_ms()[0]), 6), 'p50_ms': round(float(timing.percentile_ms(50)[0]), 6),
        'p90_ms': round(float(timing.percentile_ms(90)[0]), 6), 'n': timing.samples_ms.shape[1],
        'statistic': _statistic(threads, warm), 'runtime': kit.NAME, 'runtime_version': kit.version(),
        'precision': kit.PRECISION, 'threads': threads, 'batch_size': batch_size, 'host': host(),
    }


# ---- this machine -----------------------------------------------------------------------------------------------


def this_device() -> tuple[str, str]:
    """(slug, name for people) of the CPU of this machine."""
    name = ' '.join(re.sub(r'\((R|TM)\)|\bCPU\b|@.*|\b\d+-Core\b|\bProcessor\b', ' ', _cpu_model()).split()) or 'CPU'
    return slug(name, 'cpu'), name


def _cpu_model() -> str:
    try:
        with open('/proc/cpuinfo', encoding='utf-8') as file:
            models = re.findall(r'^(?:model name|Hardware|Model)\s*:\s*(.+)$', file.read(), re.MULTILINE)
        return models[0] if models else platform.machine()
    except OSError:
        pass
    try:
        return subprocess.run(
            ['sysctl', '-n', 'machdep.cpu.brand_string'], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return platform.processor() or platform.machine()


def host() -> str:
    """What a number was measured on, in a few words; no host name."""
    return f'{this_device()[1]}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}'
