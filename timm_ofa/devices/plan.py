"""What is run to price a search space: graphs of rows, and whole networks. The plan is the same on every machine.

A row costs what it adds: the time of [1x1 conv, row, mean] minus the time of [1x1 conv, mean]. The means cancel along a
network, and the network itself is left.
"""
from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..errors import InputError
from ..runtimes import mean_row
from ..spaces import Arch, Row, SearchSpace
from .fewshot import MIN_NETWORKS
from .heldout import FITTED, RANDOM, check_networks

WARM_BYTES = 4 * 2**20  # of weights; networks up to this size are timed warm
REFERENCES = 3  # networks that run at every resolution
NET_LOADS = 2  # of each network that fits or checks a profile; random networks are loaded once
FITTED_EACH, MAX_FITTED = 3, 24  # networks to fit on: for each resolution, and in all
NETWORKS = 'networks'  # the only group of whole networks
START_ROW = mean_row(1, 3)  # costs what every run costs, whatever the network
Graph = tuple[Row, ...]


def is_warm(rows: Sequence[Row]) -> bool:
    """Whether a network is timed warm: its float32 weights stay in the caches between runs."""
    return 4 * _params(rows) <= WARM_BYTES


def times_warm(space: SearchSpace, num_classes: int | None = None) -> bool:
    """Whether the networks of a space are timed warm. The largest one decides for all of them."""
    return is_warm(space.rows(space.max_arch(), num_classes))


def _params(rows: Sequence[Row]) -> int:
    return sum(row.params for row in rows)


@dataclass(frozen=True)
class Plan:
    """The graphs that price a space."""
    space: SearchSpace  # with the resolutions that are measured, and no others
    num_classes: int
    check_nets: int
    seed: int
    nets: dict[str, tuple[Arch, ...]]  # group -> whole networks; one group is for fitting
    groups: dict[str, tuple[Graph, ...]]  # resolution -> graphs, some NET_LOADS times; the last REFERENCES are the same
    fitted_nets: int | None = None  # where only whole networks are run, in one group: how many the prices are fitted on

    def rows_of(self, net: Arch) -> Graph:
        return tuple(self.space.rows(net, self.num_classes))

    def task(self, precision: str, batch_size: int) -> dict:
        """What decides the graphs, for a file of results."""
        return {
            'space': self.space.name, 'num_classes': self.num_classes, 'resolutions': list(self.space.resolutions),
            'check_nets': self.check_nets, 'seed': self.seed, 'precision': precision, 'batch_size': batch_size,
            **({'fitted_nets': self.fitted_nets} if self.fitted_nets else {}),
            'warm': times_warm(self.space, self.num_classes), 'graphs': graphs_digest(self.groups.values())}


def graphs_digest(groups: Iterable[Sequence[Graph]]) -> str:
    """SHA-256 of the keys of all rows."""
    keys = '\n'.join(row.key for graphs in groups for graph in graphs for row in graph)
    return hashlib.sha256(keys.encode()).hexdigest()


def make_plan(space: SearchSpace, resolutions: Sequence[int] | None = None, num_classes: int | None = None,
              check_nets: int = 12, random_nets: int | None = None, seed: int = 0) -> Plan:
    """The graphs with and without each row, and whole networks, by resolution; arguments as of `profile_space`."""
    space = space.restrict(resolutions=resolutions)
    num_classes = num_classes or space.num_classes
    fitted_nets = max(check_nets, min(FITTED_EACH * len(space.resolutions), MAX_FITTED))
    nets = check_networks(space, check_nets, random_nets, seed, fitted_nets)
    references = [tuple(space.rows(net, num_classes)) for net in reversed(nets[FITTED][:REFERENCES])]
    groups: dict[str, tuple[Graph, ...]] = {}
    seen: set[str] = set()
    for resolution in space.resolutions:
        rows = [row for row in dict.fromkeys(space.all_rows(resolution, num_classes)) if row.key not in seen]
        seen.update(row.key for row in rows)
        here = {name: [tuple(space.rows(net, num_classes)) for net in group if net.resolution == resolution]
                for name, group in nets.items()}
        graphs = dict.fromkeys([
            (START_ROW,), *(graph for row in rows for graph in probes(row)), *itertools.chain(*here.values())])
        others = [graph for graph in graphs if graph not in references]
        others += [graph for name, group in here.items() if name != RANDOM for graph in group] * (NET_LOADS - 1)
        groups[str(resolution)] = (*sorted(others, key=_params, reverse=True), *references)
    return Plan(space, num_classes, check_nets, seed, nets, groups)


def plan_networks(space: SearchSpace, fitted_nets: int, resolutions: Sequence[int] | None = None,
                  num_classes: int | None = None, check_nets: int = 12, random_nets: int | None = None,
                  seed: int = 0) -> Plan:
    """Whole networks to fit prices on and to check them; arguments as of `profile_by_networks`. Raises `InputError`."""
    space = replace(space.restrict(resolutions=resolutions), extra_resolutions=())
    nets = check_networks(space, check_nets, random_nets, seed, fitted_nets)
    if len(nets[FITTED]) < MIN_NETWORKS:
        raise InputError(
            f'{space.name} has too few networks to fit prices on {MIN_NETWORKS} of them; measure every row')
    order = sorted(itertools.chain(*nets.values()), key=space.params, reverse=True)
    num_classes = num_classes or space.num_classes
    graphs = tuple(tuple(space.rows(net, num_classes)) for net in order)
    return Plan(space, num_classes, check_nets, seed, nets, {NETWORKS: graphs}, fitted_nets)


def network_graphs(rows: Sequence[Row]) -> tuple[Graph, ...]:
    """A network, then the probes of its rows, which run in between."""
    network = tuple(rows)
    return network, *dict.fromkeys(graph for row in rows for graph in probes(row) if graph != network)


def probes(row: Row) -> tuple[Graph, Graph]:
    """The graphs with and without a row. The stem takes the image itself; it is compared with an empty network."""
    if row.in_chs == 3:
        return (row, mean_row(row.out_size, row.out_chs)), (START_ROW,)
    before = Row(
        'conv', f'cn_r1_k1_s1_c{row.in_chs}_nre', row.size, row.in_chs, row.size, row.in_chs, 1, 1, 0, 0, 're', False,
        macs=0, params=0)
    after = () if row.kind == 'head' else (mean_row(row.out_size, row.out_chs),)
    return (before, row, *after), (before, mean_row(row.size, row.in_chs))
