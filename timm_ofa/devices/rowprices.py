"""From the times of a plan's graphs to a `DeviceProfile`.

Each resolution is brought to the same pace, the price of a row is a difference of two times, and whole networks
correct the prices, give one factor on all of them, and say how good they are.
"""
from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..errors import InputError
from ..spaces import Arch, Row, SearchSpace
from .heldout import FITTED
from .measuring import LOW_PERCENT
from .plan import NETWORKS, REFERENCES, START_ROW, Graph, Plan, probes
from .profile import DeviceProfile, RowCost, latency_error

GROUP_SPREAD = 0.01  # standard deviation: how far the prices of a resolution are off together
WEIGHT_SHARE = 0.02  # standard deviation: the share of a price that fetching weights makes up
NET_NOISE = 0.012  # standard deviation of a measured network
MAX_SLOWER = 0.05  # slower or faster than the usual network by more: other work disturbed it
METHOD = '[1x1 conv, row, mean] - [1x1 conv, mean], paired in the same sweeps'


def make_profile(plan: Plan, results: Mapping, *, device: str, device_name: str, source: str) -> DeviceProfile:
    """A profile from the results of all groups of a plan, fitted to whole networks and checked on others."""
    if plan.fitted_nets is not None:
        return _fitted_profile(plan, results, device=device, device_name=device_name, source=source)
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
            'statistic': statistic(task), 'sweeps': min(visits),
            'order': 'random over all graphs of a resolution', 'method': METHOD,
            'paced': f'each resolution to the median one, by {REFERENCES} networks that run at every one',
            'calibration_nets': len(plan.nets[FITTED]), 'processor': task['processor'],
            'host': task['host'], **steadiness(results['groups'])},
        check=None, source=source)
    profile = _scaled(_corrected(profile, origins, *fitted), *fitted)
    return checked(profile, space, plan.nets, nets_ms)


def _fitted_profile(plan: Plan, results: Mapping, *, device: str, device_name: str, source: str) -> DeviceProfile:
    """A profile of prices that are fitted on whole networks (`DeviceProfile.fit`)."""
    space, task, group = plan.space, results['task'], results['groups'][NETWORKS]
    times_ms = _by_graph(plan.groups[NETWORKS], np.array(group['low_ms']))
    nets_ms = {net: times_ms[plan.rows_of(net)] for net in itertools.chain(*plan.nets.values())}
    profile = DeviceProfile.fit(
        space, plan.nets[FITTED], [nets_ms[net] for net in plan.nets[FITTED]], device=device, device_name=device_name,
        runtime=task['runtime'], runtime_version=task['runtime_version'], precision=task['precision'],
        threads=task['threads'], batch_size=task['batch_size'], processor=task['processor'],
        measured_on=results['measured_on'], num_classes=plan.num_classes, statistic=statistic(task), source=source,
        seed=plan.seed)
    profile = replace(profile, protocol={
        **profile.protocol, 'sweeps': group['n'], 'order': 'random over all networks', 'host': task['host'],
        **steadiness(results['groups'])})
    return checked(profile, space, plan.nets, nets_ms)


def statistic(task: Mapping) -> str:
    """What a latency of a task is, for people."""
    clock = 'wall-clock time' if task['wall'] else 'process CPU time'
    rounds = f', median of {task["rounds"]} rounds' if task.get('rounds') else ''
    return f'{LOW_PERCENT}th percentile of {clock}, {"warm" if task["warm"] else "cold"} runs{rounds}'


def steadiness(groups: Mapping) -> dict:
    """How far two halves of the visits are apart, and how far times of the same network at different moments are."""
    reference_ms = [ms for group in groups.values() for ms in group['reference_ms']]
    return {
        'noise_pct': round(float(np.median([group['noise_pct'] for group in groups.values()])), 2),
        'drift_pct': round(100 * (max(reference_ms) / min(reference_ms) - 1), 2)}


def checked(profile: DeviceProfile, space: SearchSpace, nets: Mapping[str, Sequence[Arch]],
            nets_ms: Mapping[Arch, float]) -> DeviceProfile:
    """The profile with all whole networks, and with its error on those that it was not fitted on, if there are any."""
    held_out = [net for name, group in nets.items() if name != FITTED for net in group]
    check = latency_error(
        np.array([nets_ms[net] for net in held_out]), profile.latency_ms(space, held_out)) if held_out else None
    networks = {name: {str(net): nets_ms[net] for net in group} for name, group in nets.items()}
    return replace(profile, check=check, networks=networks).named(space)


def _by_graph(graphs: Sequence[Graph], times_ms: np.ndarray) -> dict[Graph, float]:
    """Graph -> ms, the mean over its loads."""
    found: dict[Graph, list[float]] = {}
    for graph, ms in zip(graphs, times_ms.tolist()):
        found.setdefault(graph, []).append(ms)
    return {graph: sum(loads) / len(loads) for graph, loads in found.items()}


def _paces(groups: Sequence[Mapping], references: int) -> np.ndarray:
    """The factor on the times of each group that brings it to the pace of the median group."""
    log_ms = np.log([group['low_ms'][-references:] for group in groups])
    return np.exp(np.median(np.median(log_ms, axis=0) - log_ms, axis=1))


def _added(row: Row, times_ms: Mapping[Graph, float]) -> float:
    with_row, without = probes(row)
    return round(max(0.0, float(times_ms[with_row] - times_ms[without])), 6)


def _corrected(profile: DeviceProfile, origins: Mapping[str, int], space: SearchSpace, nets: Sequence[Arch],
               measured_ms: np.ndarray) -> DeviceProfile:
    """The prices (row -> group in `origins`), corrected by ridge regression on how much slower whole networks (N,) are.

    Rows that were measured together are off by a percent together, because of where they lay in memory. Weights cost
    more in a network, where most of them come from memory, than in a probe, which has them in a cache.
    """
    params = np.zeros(len(nets))
    parts_ms = np.zeros((len(nets), 1 + max(origins.values())))
    for n, net in enumerate(nets):
        for row in space.rows(net, profile.num_classes):
            params[n] += row.params
            parts_ms[n, origins[row.key]] += profile.table[row.key].ms
    rows_ms = parts_ms.sum(1)
    slower = (measured_ms - profile.overhead_ms) / np.maximum(rows_ms, 1e-9)
    if not (rows_ms.min() > 0 and np.median(slower) > 0):
        raise InputError(
            f'the times of {profile.device} do not tell what rows cost: with a row a run takes no longer than without; '
            'measure again while the device does nothing else, or whole networks, with --few-shot')
    slower = np.clip(slower / np.median(slower) - 1, -MAX_SLOWER, MAX_SLOWER)
    usual = float(np.mean(params / rows_ms))  # parameters fetched in a ms
    features = np.column_stack([parts_ms / rows_ms[:, None], params / rows_ms / usual - 1])
    spread = np.array([*[GROUP_SPREAD] * parts_ms.shape[1], WEIGHT_SHARE])
    ridge = np.diag((NET_NOISE / spread) ** 2)
    *by_group, by_weight = np.linalg.solve(features.T @ features + ridge, features.T @ slower).tolist()
    weight = {row.key: row.params for resolution in space.resolutions
              for row in space.all_rows(resolution, profile.num_classes)}

    def corrected(key: str, ms: float) -> float:
        return round(max(0.0, (1 + by_group[origins[key]] - by_weight) * ms + by_weight * weight[key] / usual), 6)

    table = {key: RowCost(corrected(key, cost.ms), None if cost.p50_ms is None else corrected(key, cost.p50_ms), cost.n)
             for key, cost in profile.table.items()}
    return replace(profile, table=table, protocol={
        **profile.protocol, 'share_by_weights': round(by_weight, 4),
        'corrected_pct': ' '.join(f'{100 * share:.2f}' for share in by_group)})


def _scaled(profile: DeviceProfile, space: SearchSpace, nets: Sequence[Arch], measured_ms: np.ndarray) -> DeviceProfile:
    """One factor on all rows: the median over whole networks (N,)."""
    rows_ms = profile.latency_ms(space, nets) - profile.overhead_ms
    return replace(profile, scale=round(float(np.median((measured_ms - profile.overhead_ms) / rows_ms)), 4))
