"""Measure the rows of a search space on a runtime of this machine: a `DeviceProfile` in seconds.

A row costs what it adds: [1x1 conv, row, mean] minus [1x1 conv, mean], both measured in the same sweeps, so that what
the machine does meanwhile falls on both. Along a network the means cancel, and what is left is the network itself.
Whole networks run in the same sweeps: some fit a few constants, others say how good the profile is (`heldout`).

How graphs are timed is said in `measuring`. Small networks stay in the caches from one run to the next, and are timed
warm, rows and all; larger ones do not, and are timed cold.
"""
from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ..errors import InputError, listed
from ..fields import check_slug, slug
from ..runtimes import BN_EPS, DEFAULT, load_runtime, mean_row
from ..spaces import Arch, Row, SearchSpace, load_space
from .energy import energy_mj
from .fewshot import MIN_NETWORKS
from .heldout import FITTED, RANDOM, check_networks
from .measuring import LOW_PERCENT, Progress, cpu_host, cpu_name, measure, measure_groups
from .profile import DeviceProfile, RowCost, latency_error

WARM_BYTES = 4 * 2**20  # of weights; networks up to here are timed warm
REFERENCES = 3  # networks that run at every resolution
LOADS = 3  # of a network that is measured alone: where it lies in memory moves its latency by a percent
NET_LOADS = 2  # of networks that fit or check a profile, but for random ones
FITTED_EACH, MAX_FITTED = 3, 24  # networks to fit on, a resolution and in all
GROUP_SPREAD, WEIGHT_SHARE = 0.01, 0.02  # of prices: how far a group is off, how much is by the weight (deviations)
NET_NOISE, MAX_SLOWER = 0.012, 0.05  # of a measured network, and what it may be slower but for other work
START_ROW = mean_row(1, 3)  # costs what every run costs, whatever the network
METHOD = '[1x1 conv, row, mean] - [1x1 conv, mean], paired in the same sweeps'
Graph = tuple[Row, ...]


def is_warm(rows: Sequence[Row]) -> bool:
    """Whether a network is timed warm: its float32 weights stay in the caches between runs."""
    return 4 * _params(rows) <= WARM_BYTES


def times_warm(space: SearchSpace, num_classes: int | None = None) -> bool:
    """Whether the networks of a space are timed warm, all of them or none: as its largest one is."""
    return is_warm(space.rows(space.max_arch(), num_classes))


def _params(rows: Sequence[Row]) -> int:
    return sum(row.params for row in rows)


def profile_space(space: str | SearchSpace, runtime: str = DEFAULT, *, precision: str = 'fp32', threads: int = 1,
                  batch_size: int = 1, processor: str = 'cpu', device: str | None = None,
                  device_name: str | None = None, num_classes: int | None = None,
                  resolutions: Sequence[int] | None = None, sweeps: int | None = None, seconds: float = 10.0,
                  check_nets: int = 12, random_nets: int | None = None, partial_results: str | Path | None = None,
                  seed: int = 0, progress: bool = True) -> DeviceProfile:
    """Measure every row of a space on this machine.

    Args:
        precision: Of the arithmetic, one that the runtime has; int8 is the runtime's own quantization after training.
        batch_size: Images of a run; latencies are of the whole batch.
        processor: 'cpu', or 'cuda' where there is a GPU.
        device: Slug of this device; None: from the name of the processor.
        num_classes: Of the head that is measured; None: the default of the space.
        resolutions: Of the space, in px; None: all.
        sweeps: Runs of each graph; None: as many as fit into about `seconds` in all, at least 20.
        check_nets: Whole networks of each kind to check the profile on; at least as many are there to fit constants.
        random_nets: Random ones among the former; None: as many.
        partial_results: File that keeps each resolution that is done, to go on from after an interruption; it is
            removed at the end.
    """
    kit = load_runtime(runtime, precision, processor)
    own_device, own_name = this_device(processor)
    positive(
        threads=threads, batch_size=batch_size, check_nets=check_nets, random_nets=random_nets, num_classes=num_classes,
        sweeps=sweeps)
    check_slug(device or own_device, 'device')
    plan = make_plan(load_space(space), resolutions, num_classes, check_nets, random_nets, seed)
    load = partial(
        kit.load, precision=precision, processor=processor, threads=threads, batch_size=batch_size, seed=seed)
    task = {
        **plan.task(precision, batch_size), 'runtime': kit.NAME, 'runtime_version': kit.version(),
        'processor': processor, 'threads': threads, 'wall': threads > 1 or processor != 'cpu', 'host': host(processor)}
    try:
        results = measure_groups(
            plan.groups, load, task, partial_results, sweeps=sweeps, seconds=seconds, progress=progress)
    except ValueError as error:
        raise InputError(str(error)) from None
    profile = make_profile(
        plan, results, device=device or own_device, device_name=device_name or device or own_name,
        source='measured with timm-ofa profile')
    if partial_results is not None:
        Path(partial_results).unlink(missing_ok=True)
    return profile


def profile_by_networks(space: str | SearchSpace, fitted_nets: int, runtime: str = DEFAULT, *, precision: str = 'fp32',
                        threads: int = 1, batch_size: int = 1, processor: str = 'cpu', device: str | None = None,
                        num_classes: int | None = None, resolutions: Sequence[int] | None = None,
                        sweeps: int | None = None, seconds: float = 10.0, check_nets: int = 12,
                        random_nets: int | None = None, seed: int = 0, progress: bool = True) -> DeviceProfile:
    """Measure whole networks of a space on this machine, and fit what a unit of work costs (`DeviceProfile.fit`).

    For where a graph takes long to load, on a GPU say: 60 networks are fewer than the hundreds of rows. It is less
    exact than `profile_space`, whose arguments these are. `fitted_nets` random networks give the prices; `check_nets`
    of each kind and `random_nets` say how good they are.
    """
    kit = load_runtime(runtime, precision, processor)
    own_device, own_name = this_device(processor)
    positive(MIN_NETWORKS, fitted_nets=fitted_nets)
    positive(
        threads=threads, batch_size=batch_size, check_nets=check_nets, random_nets=random_nets, num_classes=num_classes,
        sweeps=sweeps)
    check_slug(device or own_device, 'device')
    space = replace(_at(load_space(space), resolutions), extra_resolutions=())
    nets = check_networks(space, check_nets, random_nets, seed, fitted_nets)
    order = sorted(itertools.chain(*nets.values()), key=space.params, reverse=True)
    wall, warm = threads > 1 or processor != 'cpu', times_warm(space, num_classes)
    load = partial(
        kit.load, precision=precision, processor=processor, threads=threads, batch_size=batch_size, seed=seed)
    found = measure_groups(
        {'networks': [tuple(space.rows(net, num_classes)) for net in order]}, load,
        {'warm': warm, 'wall': wall, 'seed': seed}, sweeps=sweeps, seconds=seconds, progress=progress)
    group = found['groups']['networks']
    nets_ms = dict(zip(order, group['low_ms']))
    profile = DeviceProfile.fit(
        space, nets[FITTED], [nets_ms[net] for net in nets[FITTED]], device=device or own_device,
        device_name=device or own_name, runtime=kit.NAME, runtime_version=kit.version(), precision=precision,
        threads=threads, batch_size=batch_size, measured_on=found['measured_on'], num_classes=num_classes,
        statistic=statistic(wall, warm), source='measured with timm-ofa profile --few-shot', seed=seed)
    profile = replace(
        profile, name=_name(profile), protocol={
            **profile.protocol, 'sweeps': group['n'], 'order': 'random over all networks', 'processor': processor,
            'host': host(processor), **_steadiness(found['groups'])})
    return _checked(profile, space, nets, nets_ms)


# ---- what is measured, and what follows from it ---------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """The graphs that price a space; the same on any machine."""
    space: SearchSpace  # of the resolutions that are measured
    num_classes: int
    check_nets: int
    seed: int
    nets: dict[str, tuple[Arch, ...]]  # group -> whole networks, those to fit on among them
    groups: dict[str, tuple[Graph, ...]]  # resolution -> graphs, NET_LOADS times some; the last REFERENCES are the same

    def rows_of(self, net: Arch) -> Graph:
        return tuple(self.space.rows(net, self.num_classes))

    def is_warm(self) -> bool:
        return times_warm(self.space, self.num_classes)

    def task(self, precision: str, batch_size: int) -> dict:
        """What decides the graphs, for a file of results."""
        return {
            'space': self.space.name, 'num_classes': self.num_classes, 'resolutions': list(self.space.resolutions),
            'check_nets': self.check_nets, 'seed': self.seed, 'precision': precision, 'batch_size': batch_size,
            'warm': self.is_warm(), 'graphs': graphs_digest(self.groups.values())}


def graphs_digest(groups: Iterable[Sequence[Graph]]) -> str:
    """SHA-256 of the keys of all rows."""
    keys = '\n'.join(row.key for graphs in groups for graph in graphs for row in graph)
    return hashlib.sha256(keys.encode()).hexdigest()


def make_plan(space: SearchSpace, resolutions: Sequence[int] | None = None, num_classes: int | None = None,
              check_nets: int = 12, random_nets: int | None = None, seed: int = 0) -> Plan:
    """All rows with and without, and whole networks, by resolution; see `profile_space`."""
    space = _at(space, resolutions)
    num_classes = num_classes or space.num_classes
    fitted_nets = max(check_nets, min(FITTED_EACH * len(space.resolutions), MAX_FITTED))
    nets = check_networks(space, check_nets, random_nets, seed, fitted_nets)
    references = [tuple(space.rows(net, num_classes)) for net in reversed(nets[FITTED][:REFERENCES])]
    groups, seen = {}, set()
    for resolution in space.resolutions:
        rows = [row for row in dict.fromkeys(space.all_rows(resolution, num_classes)) if row.key not in seen]
        seen.update(row.key for row in rows)
        here = {name: [tuple(space.rows(net, num_classes)) for net in group if net.resolution == resolution]
                for name, group in nets.items()}
        networks = [*itertools.chain(*here.values())]
        graphs = dict.fromkeys([(START_ROW,), *(graph for row in rows for graph in _probes(row)), *networks])
        others = [graph for graph in graphs if graph not in references]
        others += [graph for name, group in here.items() if name != RANDOM for graph in group] * (NET_LOADS - 1)
        groups[str(resolution)] = (*sorted(others, key=_params, reverse=True), *references)
    return Plan(space, num_classes, check_nets, seed, nets, groups)


def make_profile(plan: Plan, results: Mapping, *, device: str, device_name: str, source: str) -> DeviceProfile:
    """A profile from the results of all groups of a plan, fitted to whole networks and checked on others."""
    space, task = plan.space, results['task']
    table: dict[str, RowCost] = {}
    origins: dict[str, int] = {}  # row -> group
    starts_ms, nets_ms, visits = [], {}, []
    paces = _paces([results['groups'][name] for name in plan.groups], len(plan.nets[FITTED][:REFERENCES]))
    for number, (resolution, pace) in enumerate(zip(space.resolutions, paces)):
        group, graphs = results['groups'][str(resolution)], plan.groups[str(resolution)]
        low, median = (_by_graph(graphs, pace * np.array(group[name])) for name in ('low_ms', 'p50_ms'))
        for row in space.all_rows(resolution, plan.num_classes):
            if row.key not in table:
                table[row.key] = RowCost(_added(row, low), _added(row, median), group['n'])
                origins[row.key] = number
        starts_ms.append(low[START_ROW,])
        nets_ms.update({net: round(float(low[plan.rows_of(net)]), 6) for net in itertools.chain(*plan.nets.values())
                        if net.resolution == resolution})
        visits.append(group['n'])
    fitted = space, plan.nets[FITTED], np.array([nets_ms[net] for net in plan.nets[FITTED]])
    profile = DeviceProfile(
        name=device, space=space.name, device=device, device_name=device_name, runtime=task['runtime'],
        runtime_version=task['runtime_version'], precision=task['precision'], threads=task['threads'],
        batch_size=task['batch_size'], measured_on=results['measured_on'], num_classes=plan.num_classes,
        overhead_ms=round(float(np.median(starts_ms)), 6), scale=1.0, table=table,
        protocol={
            'statistic': statistic(task['wall'], task['warm']), 'sweeps': min(visits),
            'order': 'random over all graphs of a resolution', 'method': METHOD,
            'paced': f'each resolution to the median one, by {REFERENCES} networks that run at every one',
            'calibration_nets': len(plan.nets[FITTED]), 'processor': task['processor'],
            'host': task['host'], **_steadiness(results['groups'])},
        check=None, source=source)
    profile = _scaled(_corrected(replace(profile, name=_name(profile)), origins, *fitted), *fitted)
    return _checked(profile, space, plan.nets, nets_ms)


def _name(profile: DeviceProfile) -> str:
    """Device, runtime, space, and what is not usual."""
    variant = [
        *([] if profile.precision == 'fp32' else [profile.precision]),
        *([] if profile.threads == 1 else [f'{profile.threads}t']),
        *([] if profile.batch_size == 1 else [f'b{profile.batch_size}'])]
    return slug(' '.join([profile.device, profile.runtime, profile.space, *variant]))


def _checked(profile: DeviceProfile, space: SearchSpace, nets: Mapping[str, Sequence[Arch]],
             nets_ms: Mapping[Arch, float]) -> DeviceProfile:
    """The profile with all whole networks, and its error on those that it was not fitted on."""
    held_out = [net for name, group in nets.items() if name != FITTED for net in group]
    check = latency_error(np.array([nets_ms[net] for net in held_out]), profile.latency_ms(space, held_out))
    networks = {name: {str(net): nets_ms[net] for net in group} for name, group in nets.items()}
    return DeviceProfile.from_dict(replace(profile, check=check, networks=networks).to_dict(), 'profile')


def _by_graph(graphs: Sequence[Graph], times_ms: np.ndarray) -> dict[Graph, float]:
    """Graph -> ms, the mean of its loads."""
    found: dict[Graph, list[float]] = {}
    for graph, ms in zip(graphs, times_ms.tolist()):
        found.setdefault(graph, []).append(ms)
    return {graph: sum(loads) / len(loads) for graph, loads in found.items()}


def _paces(groups: Sequence[Mapping], references: int) -> np.ndarray:
    """What brings the times of each group to the pace of the median one."""
    log_ms = np.log([group['low_ms'][-references:] for group in groups])
    return np.exp(np.median(np.median(log_ms, axis=0) - log_ms, axis=1))


def _steadiness(groups: Mapping) -> dict:
    """How far two halves of the visits are apart, and the same network at different times."""
    reference_ms = [ms for group in groups.values() for ms in group['reference_ms']]
    return {
        'noise_pct': round(float(np.median([group['noise_pct'] for group in groups.values()])), 2),
        'drift_pct': round(100 * (max(reference_ms) / min(reference_ms) - 1), 2)}


def positive(least: int = 1, /, **values: int | None) -> None:
    """Refuse what is given and below the least, by name."""
    for name, value in values.items():
        if value is not None and value < least:
            raise InputError(f'{name} {value} is too small; give {least} or more')


def _at(space: SearchSpace, resolutions: Sequence[int] | None) -> SearchSpace:
    unknown = [r for r in resolutions or () if r not in space.resolutions]
    if unknown:
        raise InputError(
            f'resolution {listed(unknown)} is not searched in {space.name}; choose from {listed(space.resolutions)}')
    return space.restrict(resolutions=resolutions)


def _probes(row: Row) -> tuple[Graph, Graph]:
    """The graphs with and without a row; the stem takes the image itself, and is compared with nothing at all."""
    if row.in_chs == 3:
        return (row, mean_row(row.out_size, row.out_chs)), (START_ROW,)
    before = Row(
        'conv', f'cn_r1_k1_s1_c{row.in_chs}_nre', row.size, row.in_chs, row.size, row.in_chs, 1, 1, 0, 0, 're', False,
        macs=0, params=0)
    after = () if row.kind == 'head' else (mean_row(row.out_size, row.out_chs),)
    return (before, row, *after), (before, mean_row(row.size, row.in_chs))


def _added(row: Row, times_ms: Mapping[Graph, float]) -> float:
    with_row, without = _probes(row)
    return round(max(0.0, float(times_ms[with_row] - times_ms[without])), 6)


def _corrected(profile: DeviceProfile, origins: Mapping[str, int], space: SearchSpace, nets: Sequence[Arch],
               measured_ms: np.ndarray) -> DeviceProfile:
    """The rows (key -> group) as whole networks (N,) show them, by ridge regression of what these are slower.

    Rows that were measured together are together a percent off: where they lay in memory. And weights cost more in a
    network, where most of them come from memory, than in a probe, which has them in a cache.
    """
    params = np.zeros(len(nets))
    parts_ms = np.zeros((len(nets), 1 + max(origins.values())))
    for n, net in enumerate(nets):
        for row in space.rows(net, profile.num_classes):
            params[n] += row.params
            parts_ms[n, origins[row.key]] += profile.table[row.key].ms
    rows_ms = parts_ms.sum(1)
    slower = (measured_ms - profile.overhead_ms) / rows_ms
    slower = np.clip(slower / np.median(slower) - 1, -MAX_SLOWER, MAX_SLOWER)
    usual = float(np.mean(params / rows_ms))  # a ms
    features = np.column_stack([parts_ms / rows_ms[:, None], params / rows_ms / usual - 1])
    spread = np.array([*[GROUP_SPREAD] * parts_ms.shape[1], WEIGHT_SHARE])
    ridge = np.diag((NET_NOISE / spread) ** 2)
    *by_group, by_weight = np.linalg.solve(features.T @ features + ridge, features.T @ slower).tolist()
    weight = {row.key: row.params for resolution in space.resolutions
              for row in space.all_rows(resolution, profile.num_classes)}

    def corrected(key: str, ms: float) -> float:
        return round(max(0.0, (1 + by_group[origins[key]] - by_weight) * ms + by_weight * weight[key] / usual), 6)

    table = {key: RowCost(corrected(key, cost.ms), corrected(key, cost.p50_ms), cost.n)
             for key, cost in profile.table.items()}
    return replace(profile, table=table, protocol={
        **profile.protocol, 'share_by_weights': round(by_weight, 4),
        'corrected_pct': ' '.join(f'{100 * share:.2f}' for share in by_group)})


def _scaled(profile: DeviceProfile, space: SearchSpace, nets: Sequence[Arch], measured_ms: np.ndarray) -> DeviceProfile:
    """One factor on the rows, the median over whole networks (N,)."""
    rows_ms = profile.latency_ms(space, nets) - profile.overhead_ms
    return replace(profile, scale=round(float(np.median((measured_ms - profile.overhead_ms) / rows_ms)), 4))


def statistic(wall: bool, warm: bool) -> str:
    """What a latency is, for people."""
    clock = 'wall-clock time' if wall else 'process CPU time'
    return f'{LOW_PERCENT}th percentile of {clock}, {"warm" if warm else "cold"} runs'


# ---- one network ------------------------------------------------------------------------------------------------


def measure_network(rows: Sequence[Row], runtime: str = DEFAULT, *, weights: Mapping | None = None,
                    bn_eps: float = BN_EPS, precision: str = 'fp32', threads: int = 1, batch_size: int = 1,
                    processor: str = 'cpu', sweeps: int | None = None, seconds: float = 3.0, seed: int = 0,
                    warm: bool | None = None, progress: bool = False) -> dict:
    """Latency of one network as a profile predicts it: same clock, same statistic, and the same company.

    In an endless loop of nothing else a network gets up to 20 % faster still, as caches and branch predictors learn it
    by heart; so probes of its own rows run in between. Where a network lies in memory moves its latency by a percent:
    it is loaded three times, and the mean counts. Energy and peak memory are there where the platform tells them.

    Args:
        warm: Whether it is timed warm; `times_warm` of its space, if a profile is to predict it. None: if it is small.
    """
    positive(threads=threads, batch_size=batch_size, sweeps=sweeps)
    kit, wall = load_runtime(runtime, precision, processor), threads > 1 or processor != 'cpu'
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
        'statistic': statistic(wall, warm), 'runtime': kit.NAME, 'runtime_version': kit.version(),
        'precision': precision, 'threads': threads, 'batch_size': batch_size,
        **{name: value for name, value in told.items() if value is not None}, 'host': host(processor),
    }


def network_graphs(rows: Sequence[Row]) -> tuple[Graph, ...]:
    """A network, and the probes of its rows that run in between."""
    network = tuple(rows)
    return network, *dict.fromkeys(graph for row in rows for graph in _probes(row) if graph != network)


# ---- this machine -----------------------------------------------------------------------------------------------


def this_device(processor: str = 'cpu') -> tuple[str, str]:
    """(slug, name for people) of a processor of this machine."""
    if processor == 'cuda':
        name = torch.cuda.get_device_name()
        return slug(name, 'gpu'), name
    return slug(cpu_name(), 'cpu'), cpu_name()


def host(processor: str = 'cpu') -> str:
    """What a number was measured on, in a few words; no host name."""
    return f'{this_device(processor)[1]}, {cpu_host()}' if processor == 'cuda' else cpu_host()
