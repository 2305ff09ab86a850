"""A kit measures a search space, or one network, on a device without this package: files of networks, a list, a script.

There are two kinds. ONNX files are run by a script on the device, which needs numpy and ONNX Runtime (or OpenVINO): the
results become the `DeviceProfile` that `profile_space` would make on that device, or what `measure_network` would give
there, because the graphs and the statistic are the same. TFLite files are run on an Android device by a script on a
computer with adb.
"""
from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, listed
from ..fields import MAX_LONG_TEXT, check_slug, choice, number, plain, read, text
from ..files import replacing_folder, write_text
from ..runtimes import BN_EPS, DEFAULT, input_shape, load_runtime, quantize_on_noise, to_onnx, to_tflite
from ..spaces import Row, SearchSpace, load_space, shelf_space
from . import measuring
from .fewshot import MAX_MS, MIN_MS, MIN_NETWORKS
from .plan import NETWORKS, Graph, Plan, graphs_digest, is_warm, make_plan, network_graphs, plan_networks
from .profile import MAX_COUNT, DeviceProfile
from .profiler import positive
from .rowprices import make_profile, statistic

SCRIPT, ANDROID_SCRIPT = 'run_kit.py', 'run_android.py'
PRECISIONS = {  # of a kit's runtimes
    'onnxruntime': ('fp32', 'int8'), 'openvino': ('fp32', 'int8'), 'litert': ('fp32', 'fp16')}
WEIGHTS = 'weights.bin'  # the numbers that all large weights of all ONNX files share
WEIGHT_STD = 0.03  # with biases of 0.1, activations stay far from overflow and from zero, which change the speed
NETWORK = 'network'  # the only group in the kit of one network
MAX_NETS = 1000  # of each kind that a kit runs whole
SMALL = 256  # numbers; a weight of up to this size stays in the ONNX file


def export_kit(folder: str | Path, space: str | SearchSpace, *, android: bool = False, precision: str = 'fp32',
               batch_size: int = 1, num_classes: int | None = None, resolutions: Sequence[int] | None = None,
               fitted_nets: int | None = None, check_nets: int = 12, seed: int = 0) -> Path:
    """Write the kit of a search space into a new or empty folder.

    Args:
        android: For an Android device and a computer with adb.
        fitted_nets: Whole networks to fit prices on, in place of every row; see `profile_by_networks`.

    The other arguments are those of `profile_space`.
    """
    folder, space = Path(folder), load_space(space)
    _check_kind(android, precision)
    positive(batch_size=batch_size, check_nets=check_nets, num_classes=num_classes)
    positive(MIN_NETWORKS, fitted_nets=fitted_nets)
    for name, value in (('check_nets', check_nets), ('fitted_nets', fitted_nets or 0)):
        if value > MAX_NETS:
            raise InputError(f'{name} {value} is more than a kit runs; give {MAX_NETS} or less')
    plan = _plan(space, resolutions, num_classes, check_nets, fitted_nets, seed)
    return _write_kit(folder, plan.groups, _as_run(plan.task(precision, batch_size), android), {}, android)


def export_network_kit(folder: str | Path, rows: Sequence[Row], *, android: bool = False,
                       weights: Mapping | None = None, bn_eps: float = BN_EPS, precision: str = 'fp32',
                       batch_size: int = 1, seed: int = 0, warm: bool | None = None) -> Path:
    """Write the kit of one network into a new or empty folder; arguments as of `measure_network` and `export_kit`."""
    _check_kind(android, precision)
    positive(batch_size=batch_size)
    graphs, write = _network_graphs(rows, android), to_tflite if android else to_onnx
    model = write(rows, weights=weights, bn_eps=bn_eps, seed=seed, batch_size=batch_size)
    task = _network_task(rows, precision, batch_size, seed, is_warm(rows) if warm is None else warm)
    return _write_kit(
        Path(folder), {NETWORK: (*graphs[1:], graphs[0])}, _as_run(task, android), {graphs[0]: model}, android)


def _plan(space: SearchSpace, resolutions: Sequence[int] | None, num_classes: int | None, check_nets: int,
          fitted_nets: int | None, seed: int) -> Plan:
    if fitted_nets is None:
        return make_plan(space, resolutions, num_classes, check_nets, seed=seed)
    return plan_networks(space, fitted_nets, resolutions, num_classes, check_nets, seed=seed)


def _check_kind(android: bool, precision: str) -> None:
    runtime = 'litert' if android else DEFAULT
    load_runtime(runtime)
    if precision not in PRECISIONS[runtime]:
        raise InputError(
            f'precision {precision!r:.60} is not one of {runtime}; choose from {listed(PRECISIONS[runtime])}')


def _network_graphs(rows: Sequence[Row], android: bool) -> tuple[Graph, ...]:
    """The network and what runs in between. On an Android device each file runs in a process of its own."""
    return network_graphs(rows)[:1] if android else network_graphs(rows)


def _as_run(task: dict, android: bool) -> dict:
    """The task as a kind of kit runs it: benchmark_model runs a network many times, which is always warm."""
    return {**task, 'warm': True} if android else task


def _network_task(rows: Sequence[Row], precision: str, batch_size: int, seed: int, warm: bool) -> dict:
    return {
        'precision': precision, 'batch_size': batch_size, 'seed': seed, 'warm': warm,
        'graphs': graphs_digest([network_graphs(rows)])}


def _write_kit(folder: Path, groups: Mapping[str, Sequence[Graph]], task: dict, models: Mapping[Graph, bytes],
               android: bool) -> Path:
    """Write one file for each graph: that of `models` where it is given, otherwise one with weights from the seed."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f'{str(folder)!r:.120} is not an empty folder; give a new one')
    with replacing_folder(folder) as new:
        _write_files(new, groups, task, models, android)
    return folder


def _write_files(folder: Path, groups: Mapping[str, Sequence[Graph]], task: dict, models: Mapping[Graph, bytes],
                 android: bool) -> None:
    kind, script = ('tflite', ANDROID_SCRIPT) if android else ('onnx', SCRIPT)
    (folder / 'networks').mkdir()
    graphs = dict.fromkeys(itertools.chain(*groups.values()))
    files = {graph: f'networks/{number:04d}.{kind}' for number, graph in enumerate(graphs)}
    if android:
        for graph, file in files.items():
            (folder / file).write_bytes(
                models.get(graph) or to_tflite(graph, seed=task['seed'], batch_size=task['batch_size']))
    else:
        _write_onnx_files(folder, files, task, models)
    listing = {'task': task, 'groups': {name: [files[graph] for graph in graphs] for name, graphs in groups.items()}}
    write_text(folder / 'list.json', json.dumps(listing, indent=1))
    for name in (script, Path(measuring.__file__).name):
        shutil.copyfile(Path(__file__).with_name(name), folder / name)


def _write_onnx_files(folder: Path, files: Mapping[Graph, str], task: dict, models: Mapping[Graph, bytes]) -> None:
    """Write ONNX files; those that are not given share the numbers of their large weights, in one file."""
    most = 0  # numbers in the largest tensor
    for graph, file in files.items():
        model, numbers = models.get(graph), 0
        if model is None:
            model = to_onnx(graph, seed=task['seed'], batch_size=task['batch_size'])
        if task['precision'] == 'int8':
            model = quantize_on_noise(model, input_shape(graph, task['batch_size']), reduce_range=True)
        if graph not in models:
            model, numbers = _light_model(model)
        (folder / file).write_bytes(model)
        most = max(most, numbers)
    noise = WEIGHT_STD * np.random.default_rng(task['seed']).standard_normal(most, np.float32)
    (folder / 'networks' / WEIGHTS).write_bytes(noise.astype(np.float32).tobytes())


def _light_model(model: bytes) -> tuple[bytes, int]:
    """An ONNX file without its large float weights, and the size of the largest of these (count of numbers)."""
    import onnx
    from onnx.external_data_helper import set_external_data

    loaded, most = onnx.load_model_from_string(model), 0
    for tensor in loaded.graph.initializer:
        numbers = int(np.prod(tensor.dims))
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1 and numbers > SMALL:
            set_external_data(tensor, WEIGHTS, offset=0, length=4 * numbers)
            tensor.ClearField('raw_data')
            most = max(most, numbers)
    return loaded.SerializeToString(), most


# ---- the way back -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Task:
    """What was measured, and how. The first fields come from the kit, the others from the device."""
    precision: str = choice('fp32', 'fp16', 'int8')
    batch_size: int = number(1, MAX_COUNT)
    seed: int = number(0)
    warm: bool
    graphs: str = text('[0-9a-f]{64}')
    runtime: str = choice(*PRECISIONS)
    runtime_version: str = text(r'[\w.+-]+')
    processor: str = text(r'[\w.+]+')  # 'cpu', or what the runtime had; on Android with the mask of its cores: 'cpu.f0'
    threads: int = number(1, 4096)
    wall: bool
    rounds: int | None = number(1, MAX_COUNT, default=None)  # on Android
    host: str = text(limit=MAX_LONG_TEXT)

    @property
    def android(self) -> bool:
        return self.runtime == 'litert'

    @property
    def script(self) -> str:
        """The script that wrote it."""
        return ANDROID_SCRIPT if self.android else SCRIPT


@dataclass(frozen=True, kw_only=True)
class SpaceTask(Task):
    """The task of the kit of a search space."""
    space: str
    num_classes: int = number(1, MAX_COUNT)
    resolutions: tuple[int, ...] = number(1, MAX_COUNT)
    check_nets: int = number(1, MAX_NETS)
    fitted_nets: int | None = number(MIN_NETWORKS, MAX_NETS, default=None)  # None: every row was measured


@dataclass(frozen=True, kw_only=True)
class Group:
    """The times of the graphs of one group."""
    low_ms: tuple[float, ...] = number(0, MAX_MS)
    p50_ms: tuple[float, ...] = number(0, MAX_MS)
    n: int = number(measuring.MIN_SWEEPS, MAX_COUNT)
    noise_pct: float = number(0, 1e9)
    reference_ms: tuple[float, float] = number(MIN_MS, MAX_MS)


@dataclass(frozen=True, kw_only=True)
class Results:
    """The file that the kit of one network writes."""
    format: int = choice(measuring.FORMAT)
    task: Task
    measured_on: str = text(r'\d{4}-\d\d-\d\d')
    groups: dict[str, Group]


@dataclass(frozen=True, kw_only=True)
class SpaceResults(Results):
    """The file that the kit of a search space writes."""
    task: SpaceTask


def _read_results(path: str | Path, kind: type) -> tuple[Any, str]:
    """The results as a `kind`, and the name that errors give them."""
    where = f'results {Path(path).name}'
    try:
        data: Any = json.loads(Path(path).read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        raise InputError(f'results {str(path)!r:.120} cannot be read; give the file that {SCRIPT} or {ANDROID_SCRIPT} '
                         'wrote') from None
    results = read(kind, data, where)
    task = results.task
    if task.precision not in PRECISIONS[task.runtime]:
        raise InputError(f'{where}: precision {task.precision!r:.60} is not one of {task.runtime}; choose from '
                         f'{listed(PRECISIONS[task.runtime])}')
    return results, where


def import_network_kit(path: str | Path, rows: Sequence[Row]) -> dict:
    """What `measure_network` gives, from the results of the kit of these rows. `InputError`: they are of other rows."""
    results, where = _read_results(path, Results)
    task, graphs = results.task, _network_graphs(rows, results.task.android)
    wanted = _network_task(rows, task.precision, task.batch_size, task.seed, task.warm)
    _refuse_other_task(
        task, _as_run(wanted, task.android), where, 'this network', 'give the folder of which the kit was made')
    if NETWORK not in results.groups:
        raise InputError(f'{where}: the network is not measured; run {task.script} again, it goes on')
    group = results.groups[NETWORK]
    _check_times(NETWORK, results, graphs, where)
    return {
        'latency_ms': group.low_ms[-1], 'p50_ms': group.p50_ms[-1], 'n': group.n,
        'statistic': statistic(asdict(task)), 'runtime': task.runtime, 'runtime_version': task.runtime_version,
        'provider': task.processor, 'precision': task.precision, 'threads': task.threads,
        'batch_size': task.batch_size, 'date': results.measured_on, 'host': task.host}


def _check_times(name: str, results: Results, graphs: Sequence, where: str) -> None:
    """Refuse times of a group that no kit writes."""
    task, group = results.task, results.groups[name]
    if not len(group.low_ms) == len(group.p50_ms) == len(graphs):
        raise InputError(f'{where}: group {name} has {len(group.low_ms)} times for {len(graphs)} graphs; '
                         f'give the file as {task.script} wrote it')
    if not min(group.low_ms) > 0:
        raise InputError(f'{where}: group {name}: graph {group.low_ms.index(0)} takes no time; measure again')
    if any(low > median for low, median in zip(group.low_ms, group.p50_ms)):
        raise InputError(f'{where}: group {name}: low_ms is above p50_ms; give the file as {task.script} wrote it')
    if not task.wall and (task.threads > 1 or task.processor != 'cpu'):
        raise InputError(f'{where}: threads {task.threads} on {task.processor} are not timed by CPU time; '
                         f'give the file as {task.script} wrote it')


def import_kit(path: str | Path, *, device: str, device_name: str | None = None,
               space: str | SearchSpace | None = None) -> DeviceProfile:
    """The profile of a device from the results of its kit; an `InputError` names what does not fit.

    Args:
        device: Slug of the device.
        space: The search space of the kit, if it is not one that ships with the package.
    """
    check_slug(device, 'device')
    results, where = _read_results(path, SpaceResults)
    task = results.task
    space = load_space(space) if space else shelf_space(task.space, where)  # never a path from a file
    plan = _plan(space, task.resolutions, task.num_classes, task.check_nets, task.fitted_nets, task.seed)
    _refuse_other_task(
        task, _as_run(plan.task(task.precision, task.batch_size), task.android), where, f'the kit for {space.name}',
        'give the space of the kit, and the version of timm_ofa that made it')
    missing = [name for name in plan.groups if name not in results.groups]
    if missing:
        what = f'group {NETWORKS}' if task.fitted_nets else f'resolution {listed(missing)}'
        raise InputError(f'{where}: {what} is not measured; run {task.script} again, it goes on')
    for name, graphs in plan.groups.items():
        _check_times(name, results, graphs, where)
    return make_profile(
        plan, asdict(results), device=device, device_name=device_name or device,
        source='measured with a kit of timm-ofa profile')


def _refuse_other_task(task: Task, wanted: Mapping, where: str, whose: str, cure: str) -> None:
    given = plain(task)
    for name, value in wanted.items():
        if given[name] != value:
            raise InputError(f'{where}: {name} {given[name]!r:.60} is not that of {whose}, {value!r:.60}; {cure}')
