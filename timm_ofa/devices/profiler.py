"""Measure a search space, or one network, on a runtime of this machine: a `DeviceProfile` in seconds.

What is run is said in `plan`, how it is timed in `measuring`, and what follows from the times in `rowprices`. Small
networks stay in the caches from one run to the next, and are timed warm, rows and all; larger ones are timed cold.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..fields import check_slug, slug
from ..files import locked
from ..runtimes import BN_EPS, DEFAULT, load_runtime
from ..spaces import Row, SearchSpace, load_space
from .energy import energy_mj
from .fewshot import MIN_NETWORKS
from .measuring import Progress, cpu_host, cpu_name, measure, measure_groups, needs_wall_clock
from .plan import Plan, is_warm, make_plan, network_graphs, plan_networks
from .profile import DeviceProfile
from .rowprices import make_profile, statistic

LOADS = 3  # of a network that is measured alone: where it lies in memory moves its latency by a percent


def profile_space(space: str | SearchSpace, runtime: str = DEFAULT, *, precision: str = 'fp32', threads: int = 1,
                  batch_size: int = 1, processor: str = 'cpu', device: str | None = None,
                  device_name: str | None = None, num_classes: int | None = None,
                  resolutions: Sequence[int] | None = None, sweeps: int | None = None, seconds: float = 10.0,
                  check_nets: int = 12, random_nets: int | None = None, partial_results: str | Path | None = None,
                  seed: int = 0, progress: bool = True) -> DeviceProfile:
    """Measure every row of a space on this machine.

    Args:
        precision: Of the arithmetic; one that the runtime has. int8 is the runtime's own quantization after training.
        batch_size: Images in one run; a latency is that of the whole batch.
        processor: 'cpu', or 'cuda' where there is a GPU.
        device: Slug of this device; None: made from the name of the processor.
        num_classes: Outputs of the head that is measured; None: the default of the space.
        resolutions: Those of the space to measure, in px; None: all.
        sweeps: Runs of each graph; None: as many as fit into about `seconds` in all, at least 20.
        check_nets: Whole networks of each kind that check the profile; at least as many more fit its constants.
        random_nets: How many of the checking networks are random ones; None: `check_nets`.
        partial_results: File that keeps the resolutions that are done. An interrupted run goes on from it. Remove it
            once the profile is saved, as `profile_into` does.

    Raises `InputError` for an argument that cannot be, or where `partial_results` is of another task.
    """
    positive(check_nets=check_nets, random_nets=random_nets, num_classes=num_classes)
    return _measured(
        lambda: make_plan(load_space(space), resolutions, num_classes, check_nets, random_nets, seed),
        runtime, 'measured with timm-ofa profile', precision=precision, threads=threads, batch_size=batch_size,
        processor=processor, device=device, device_name=device_name, sweeps=sweeps, seconds=seconds,
        partial_results=partial_results, progress=progress)


def profile_into(path: str | Path, space: str | SearchSpace, **options: Any) -> DeviceProfile:
    """Measure a space as `profile_space` does, and save the profile; returns it.

    An interrupted measurement goes on from `path` + '.partial'. A second one into the same file is refused.
    """
    partial_results = Path(f'{path}.partial')
    with locked(path, wait=False):
        profile = profile_space(space, partial_results=partial_results, **options)
        profile.save(path)
        partial_results.unlink(missing_ok=True)
    return profile


def profile_by_networks(space: str | SearchSpace, fitted_nets: int, runtime: str = DEFAULT, *, precision: str = 'fp32',
                        threads: int = 1, batch_size: int = 1, processor: str = 'cpu', device: str | None = None,
                        num_classes: int | None = None, resolutions: Sequence[int] | None = None,
                        sweeps: int | None = None, seconds: float = 10.0, check_nets: int = 12,
                        random_nets: int | None = None, seed: int = 0, progress: bool = True) -> DeviceProfile:
    """Measure whole networks of a space on this machine, and fit what a unit of work costs (`DeviceProfile.fit`).

    It suits a device that takes long to load a graph, a GPU for example: it loads 60 networks instead of hundreds of
    rows. It is less exact than `profile_space`, which explains the arguments. The prices come from `fitted_nets` random
    networks; `check_nets` of each kind and `random_nets` say how good they are.
    """
    positive(MIN_NETWORKS, fitted_nets=fitted_nets)
    positive(check_nets=check_nets, random_nets=random_nets, num_classes=num_classes)
    return _measured(
        lambda: plan_networks(load_space(space), fitted_nets, resolutions, num_classes, check_nets, random_nets, seed),
        runtime, 'measured with timm-ofa profile --few-shot', precision=precision, threads=threads,
        batch_size=batch_size, processor=processor, device=device, sweeps=sweeps, seconds=seconds, progress=progress)


def _measured(make: Callable[[], Plan], runtime: str, source: str, *, precision: str, threads: int, batch_size: int,
              processor: str, device: str | None, sweeps: int | None, seconds: float, progress: bool,
              device_name: str | None = None, partial_results: str | Path | None = None) -> DeviceProfile:
    """The profile that follows from running the graphs of a plan on this machine."""
    kit = load_runtime(runtime, precision, processor)
    own_device, own_name = this_device(processor)
    positive(threads=threads, batch_size=batch_size, sweeps=sweeps)
    check_slug(device or own_device, 'device')
    plan = make()
    load = partial(
        kit.load, precision=precision, processor=processor, threads=threads, batch_size=batch_size, seed=plan.seed)
    task = {
        **plan.task(precision, batch_size), 'runtime': kit.NAME, 'runtime_version': kit.version(),
        'processor': processor, 'threads': threads, 'wall': needs_wall_clock(threads, processor),
        'host': host(processor)}
    try:
        results = measure_groups(
            plan.groups, load, task, partial_results, sweeps=sweeps, seconds=seconds, progress=progress)
    except ValueError as error:
        raise InputError(str(error)) from None
    return make_profile(
        plan, results, device=device or own_device, device_name=device_name or device or own_name, source=source)


def positive(least: int = 1, /, **values: int | None) -> None:
    """Refuse a value that is given and too small; the `InputError` names it."""
    for name, value in values.items():
        if value is not None and value < least:
            raise InputError(f'{name} {value} is too small; give {least} or more')


def measure_network(rows: Sequence[Row], runtime: str = DEFAULT, *, weights: Mapping | None = None,
                    bn_eps: float = BN_EPS, precision: str = 'fp32', threads: int = 1, batch_size: int = 1,
                    processor: str = 'cpu', sweeps: int | None = None, seconds: float = 3.0, seed: int = 0,
                    warm: bool | None = None, progress: bool = False) -> dict:
    """Measure one network the way a profile predicts it: with the same clock, statistic and other work in between.

    A network that runs alone in an endless loop gets up to 20 % faster, because caches and branch predictors learn it
    by heart. So probes of its own rows run in between. Its place in memory moves its latency by a percent, so it is
    loaded three times, and the mean counts. `energy_mj` and `peak_memory_mb` are there where the platform tells them.

    Args:
        weights: State dict of the network; None: random weights from the seed.
        warm: Whether it is timed warm: `times_warm` of its space, if a profile is to predict it. None: if it is small.

    Returns the fields of a `Measurement` that the measuring knows, and 'host'.
    """
    positive(threads=threads, batch_size=batch_size, sweeps=sweeps)
    kit, wall = load_runtime(runtime, precision, processor), needs_wall_clock(threads, processor)
    warm = is_warm(rows) if warm is None else warm
    load = partial(
        kit.load, precision=precision, processor=processor, threads=threads, batch_size=batch_size, seed=seed)
    network, *company = network_graphs(rows)
    loads = [load(network, weights=weights, bn_eps=bn_eps) for _ in range(LOADS)]
    show = Progress(progress)
    timing = measure(
        [*loads, *map(load, company)], warm=warm, wall=wall, sweeps=sweeps, seconds=seconds, seed=seed,
        report=partial(show, 'measuring'))
    told = {'energy_mj': energy_mj(loads[0], processor)}
    if hasattr(loads[0], 'peak_memory_mb'):
        told['peak_memory_mb'] = round(loads[0].peak_memory_mb(), 3)
    low_ms, p50_ms, p90_ms = (
        round(float(ms[:LOADS].mean()), 6) for ms in (timing.low_ms(), *map(timing.percentile_ms, (50, 90))))
    return {
        'latency_ms': low_ms, 'p50_ms': p50_ms, 'p90_ms': p90_ms, 'n': LOADS * timing.samples_ms.shape[1],
        'statistic': statistic({'wall': wall, 'warm': warm}), 'runtime': kit.NAME, 'runtime_version': kit.version(),
        'provider': processor, 'precision': precision, 'threads': threads, 'batch_size': batch_size,
        **{name: value for name, value in told.items() if value is not None}, 'host': host(processor),
    }


def this_device(processor: str = 'cpu') -> tuple[str, str]:
    """(slug, name for people) of a processor of this machine, 'cpu' or 'cuda'."""
    if processor == 'cuda':
        name = torch.cuda.get_device_name()
        return slug(name, 'gpu'), name
    return slug(cpu_name(), 'cpu'), cpu_name()


def host(processor: str = 'cpu') -> str:
    """The processor and the system that a number was measured on, in a few words; never the name of the host."""
    return f'{this_device(processor)[1]}, {cpu_host()}' if processor == 'cuda' else cpu_host()
