"""A kit that measures a space, or one network, where this package is not: ONNX files, a list and a script.

The script needs numpy and ONNX Runtime (or OpenVINO). Its results come back as the same `DeviceProfile` that
`profile_space` makes on its own machine, or as what `measure_network` gives there: the same graphs, the same statistic.
"""
from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, listed
from ..fields import MAX_LONG_TEXT, check_slug, choice, number, plain, read, text
from ..files import write_text
from ..runtimes import BN_EPS, input_shape, load_runtime, to_onnx
from ..spaces import Row, SearchSpace, load_space
from . import measuring
from .plan import Graph, Plan, graphs_digest, is_warm, make_plan, network_graphs
from .profile import MAX_COUNT, MAX_MS, DeviceProfile
from .profiler import positive
from .rowprices import make_profile, statistic

if TYPE_CHECKING:
    import onnx

SCRIPT = Path(__file__).parent / 'run_kit.py'
WEIGHTS = 'weights.bin'  # all large weights of all graphs, the same numbers
WEIGHT_STD = 0.03  # keeps activations far from overflow and, with biases of 0.1, far from zero: both change the speed
NETWORK = 'network'  # the one group of a kit of one network
SMALL = 256  # numbers; so many stay in the ONNX file


def export_kit(folder: str | Path, space: str | SearchSpace, *, precision: str = 'fp32', batch_size: int = 1,
               num_classes: int | None = None, resolutions: Sequence[int] | None = None, check_nets: int = 12,
               seed: int = 0) -> Path:
    """Write a kit into a new or empty folder; arguments as of `profiler.profile_space`."""
    folder, space = Path(folder), load_space(space)
    load_runtime('onnxruntime', precision)
    positive(batch_size=batch_size, check_nets=check_nets, num_classes=num_classes)
    plan = make_plan(space, resolutions, num_classes, check_nets, seed=seed)
    return _write_kit(folder, plan.groups, plan.task(precision, batch_size), {})


def export_network_kit(folder: str | Path, rows: Sequence[Row], *, weights: Mapping | None = None,
                       bn_eps: float = BN_EPS, precision: str = 'fp32', batch_size: int = 1, seed: int = 0,
                       warm: bool | None = None) -> Path:
    """Write a kit of one network into a new or empty folder; arguments as of `profiler.measure_network`."""
    load_runtime('onnxruntime', precision)
    positive(batch_size=batch_size)
    graphs, model = network_graphs(rows), to_onnx(rows, weights=weights, bn_eps=bn_eps, seed=seed,
                                                  batch_size=batch_size)
    task = _network_task(rows, precision, batch_size, seed, is_warm(rows) if warm is None else warm)
    return _write_kit(Path(folder), {NETWORK: (*graphs[1:], graphs[0])}, task, {graphs[0]: model})


def _network_task(rows: Sequence[Row], precision: str, batch_size: int, seed: int, warm: bool) -> dict:
    return {
        'precision': precision, 'batch_size': batch_size, 'seed': seed, 'warm': warm,
        'graphs': graphs_digest([network_graphs(rows)])}


def _write_kit(folder: Path, groups: Mapping[str, Sequence[Graph]], task: dict, models: Mapping[Graph, bytes]) -> Path:
    """Files of all graphs, light ones but for those whose `models` are given."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f'{str(folder)!r:.120} is not an empty folder; give a new one')
    networks, precision, batch_size = folder / 'networks', task['precision'], task['batch_size']
    networks.mkdir(parents=True, exist_ok=True)
    files: dict[Graph, str] = {}
    most = 0  # numbers in the largest tensor
    for graph in dict.fromkeys(itertools.chain(*groups.values())):
        files[graph] = f'networks/{len(files):04d}.onnx'
        model, numbers = models.get(graph), 0
        if model is None:
            model = to_onnx(graph, seed=task['seed'], batch_size=batch_size)
        if precision == 'int8':
            from ..runtimes import quantize_on_noise
            model = quantize_on_noise(model, input_shape(graph, batch_size))
        if graph not in models:
            model, numbers = _light_model(model)
        (folder / files[graph]).write_bytes(model)
        most = max(most, numbers)
    noise = WEIGHT_STD * np.random.default_rng(task['seed']).standard_normal(most, np.float32)
    noise.astype(np.float32).tofile(networks / WEIGHTS)
    listing = {'task': task, 'groups': {name: [files[graph] for graph in graphs] for name, graphs in groups.items()}}
    write_text(folder / 'list.json', json.dumps(listing, indent=1))
    for source in (SCRIPT, Path(measuring.__file__)):
        shutil.copyfile(source, folder / source.name)
    return folder


def _light_model(model: bytes) -> tuple[bytes, int]:
    """An ONNX file without its large float weights, and how many numbers the largest of these has."""
    import onnx

    loaded = onnx.load_model_from_string(model)
    most = max((_externalize(tensor) for tensor in loaded.graph.initializer), default=0)
    return loaded.SerializeToString(), most


def _externalize(tensor: onnx.TensorProto) -> int:
    """Let a large float tensor take its numbers from the start of the common file; returns how many, or 0."""
    import onnx

    numbers = int(np.prod(tensor.dims))
    if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2 or numbers <= SMALL:
        return 0
    tensor.ClearField('raw_data')
    tensor.ClearField('float_data')
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (('location', WEIGHTS), ('offset', 0), ('length', 4 * numbers)):
        tensor.external_data.add(key=key, value=str(value))
    return numbers


# ---- the way back -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Task:
    """What was measured, and how: of the kit, then of the device."""
    precision: str
    batch_size: int = number(1, MAX_COUNT)
    seed: int = number(0)
    warm: bool
    graphs: str = text('[0-9a-f]{64}')
    runtime: str = text(r'.*\S.*')
    runtime_version: str = text(r'.*\S.*')
    processor: str
    threads: int = number(1, 4096)
    wall: bool
    host: str = text(limit=MAX_LONG_TEXT)


@dataclass(frozen=True, kw_only=True)
class SpaceTask(Task):
    """Of a kit of a space."""
    space: str
    num_classes: int = number(1, MAX_COUNT)
    resolutions: tuple[int, ...] = number(1, MAX_COUNT)
    check_nets: int = number(1, 1000)


@dataclass(frozen=True)
class Group:
    """Times of the graphs of a resolution."""
    low_ms: tuple[float, ...] = number(0, MAX_MS)
    p50_ms: tuple[float, ...] = number(0, MAX_MS)
    n: int = number(1, MAX_COUNT)
    noise_pct: float = number(0, 1e9)
    reference_ms: tuple[float, float] = number(1e-6, MAX_MS)


@dataclass(frozen=True)
class Results:
    """The file that a kit writes, that of one network."""
    format: int = choice(measuring.FORMAT)
    task: Task
    measured_on: str = text(r'\d{4}-\d\d-\d\d')
    groups: dict[str, Group]


@dataclass(frozen=True)
class SpaceResults(Results):
    """That of a space."""
    task: SpaceTask


def _read_results(path: str | Path, kind: type) -> tuple[Any, str]:
    """The results, and how errors name them."""
    where = f'results {Path(path).name}'
    try:
        data: Any = json.loads(Path(path).read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        raise InputError(f'results {str(path)!r:.120} cannot be read; give the file that run_kit.py wrote') from None
    return read(kind, data, where), where


def import_network_kit(path: str | Path, rows: Sequence[Row]) -> dict:
    """What `measure_network` gives, from the results of the kit of these rows; raises `InputError` for others."""
    results, where = _read_results(path, Results)
    task, graphs = results.task, network_graphs(rows)
    for name, value in _network_task(rows, task.precision, task.batch_size, task.seed, task.warm).items():
        if getattr(task, name) != value:
            raise InputError(f'{where}: {name} {getattr(task, name)!r:.60} is not that of this network, {value!r:.60}; '
                             'give the folder of which the kit was made')
    if NETWORK not in results.groups:
        raise InputError(f'{where}: the network is not measured; run run_kit.py again, it goes on')
    group = results.groups[NETWORK]
    _refuse_other_lengths(NETWORK, group, graphs, where)
    if not group.low_ms[-1] > 0:
        raise InputError(f'{where}: the network takes no time; measure again')
    return {
        'latency_ms': group.low_ms[-1], 'p50_ms': group.p50_ms[-1], 'n': group.n,
        'statistic': statistic(task.wall, task.warm), 'runtime': task.runtime, 'runtime_version': task.runtime_version,
        'precision': task.precision, 'threads': task.threads, 'batch_size': task.batch_size, 'host': task.host}


def _refuse_other_lengths(name: str, group: Group, graphs: Sequence, where: str) -> None:
    if not len(group.low_ms) == len(group.p50_ms) == len(graphs):
        raise InputError(f'{where}: group {name} has {len(group.low_ms)} times for {len(graphs)} graphs; '
                         'give the file as run_kit.py wrote it')


def import_kit(path: str | Path, *, device: str, device_name: str | None = None,
               space: str | SearchSpace | None = None) -> DeviceProfile:
    """The profile of a device from the results of its kit; raises `InputError` naming what does not fit.

    Args:
        device: Slug of the device.
        space: Of the kit, where it is not on the shelf.
    """
    check_slug(device, 'device')
    results, where = _read_results(path, SpaceResults)
    plan = _same_plan(load_space(space or results.task.space), results.task, where)
    missing = [name for name in plan.groups if name not in results.groups]
    if missing:
        raise InputError(f'{where}: resolution {listed(missing)} is not measured; run run_kit.py again, it goes on')
    for name, graphs in plan.groups.items():
        group = results.groups[name]
        _refuse_other_lengths(name, group, graphs, where)
        _refuse_zero(plan, name, group, where)
    return make_profile(
        plan, asdict(results), device=device, device_name=device_name or device,
        source='measured with a kit of timm-ofa profile')


def _same_plan(space: SearchSpace, task: SpaceTask, where: str) -> Plan:
    """The plan of the kit, made again."""
    plan = make_plan(space, task.resolutions, task.num_classes, task.check_nets, seed=task.seed)
    given: Mapping = plain(task)
    for name, value in plan.task(task.precision, task.batch_size).items():
        if given[name] != value:
            raise InputError(f'{where}: {name} {given[name]!r:.60} is not that of the kit for {space.name}, '
                             f'{value!r:.60}; give the space of the kit, and the version of timm_ofa that made it')
    return plan


def _refuse_zero(plan: Plan, name: str, group: Group, where: str) -> None:
    for net in itertools.chain(*plan.nets.values()):
        graph = plan.rows_of(net)
        if graph in plan.groups[name] and not group.low_ms[plan.groups[name].index(graph)] > 0:
            raise InputError(f'{where}: group {name}: network {net} takes no time; measure again')
