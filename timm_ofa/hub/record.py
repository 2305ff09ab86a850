"""What is known about a finished network, as one checked value.

A `Record` is all that a card, a `config.json` block and a `perf.json` say. It comes back from files that anybody may
have written, so `from_dict` takes nothing on trust: fields, types, lengths, slugs, and the arch by its search space.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from ..errors import InputError
from ..fields import MAX_ITEMS, MAX_LONG_TEXT, SLUG, choice, number, plain, read, text
from ..spaces import Arch, SearchSpace, load_space, shelf_space, space_names

HUB_ID = r'[\w-][\w.-]*/[\w-][\w.-]*'
NAME = r'[a-z0-9]+([._-][a-z0-9]+)*'
DATASET_ID = r'[\w-][\w.-]*(/[\w-][\w.-]*)?'
_slug, _ms, _pct = partial(text, SLUG.pattern, 60), partial(number, 0, 1e7), partial(number, 0, 100)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One latency of this network: on a device, in a runtime, measured or predicted."""
    device: str = _slug()  # slug, vendor first
    device_name: str
    runtime: str = _slug()
    runtime_version: str
    precision: str = text(SLUG.pattern, 20)  # fp32, fp16, bf16, int8, ...
    threads: int | None = number(default=None)
    batch_size: int = number(default=1)
    resolution: int = number()  # px
    latency_ms: float = _ms()
    statistic: str  # what latency_ms is: 'median', 'minimum', 'sum of table entries', ...
    p50_ms: float | None = _ms(default=None)
    p90_ms: float | None = _ms(default=None)
    n: int | None = number(default=None)  # timed runs
    energy_mj: float | None = number(0, 1e9, default=None)  # of a run, millijoules
    peak_memory_mb: float | None = number(0, 1e9, default=None)  # of a run, 1e6 bytes
    source: str = choice('measured', 'predicted')
    date: str | None = text(r'\d{4}-\d\d-\d\d', default=None)
    tool_versions: dict[str, str] = field(default_factory=dict)

    @property
    def typical_ms(self) -> float:
        """The median where it is known, else the statistic that the profile uses."""
        return self.latency_ms if self.p50_ms is None else self.p50_ms


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How `Record.top1_pct` was found."""
    dataset: str
    split: str
    n: int = number()  # images
    protocol: str


@dataclass(frozen=True, kw_only=True)
class FrontPoint:
    """A network of the search's Pareto front, or a reference beside it when `label` is given ('largest subnet').
    `id` is the Hub repository where it is published, if it is."""
    arch: str = text(limit=MAX_LONG_TEXT)
    top1_pct: float = _pct()
    latency_ms: float = _ms()
    chosen: bool = False
    label: str = ''
    id: str | None = text(HUB_ID, default=None)


@dataclass(frozen=True, kw_only=True)
class Supernet:
    """Where the weights were taken from. `id` is a Hub repository or a name; `sha256` is of its named tensors."""
    id: str
    revision: str | None = None
    sha256: str | None = text('[0-9a-f]{64}', default=None)


@dataclass(frozen=True, kw_only=True)
class Search:
    """How the arch was found. Errors are mean absolute, held out."""
    limit: str  # e.g. 'latency <= 2 ms'
    algorithm: str = 'annealing'
    seed: int = number()
    predictor: str | None = None  # which one, and on which scale it predicts
    profile: str | None = None
    profile_error_pct: float | None = number(0, 1e4, default=None)  # percent of the latency
    predictor_error_pct: float | None = _pct(default=None)  # points of top-1


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The images that BatchNorm statistics were taken from."""
    images: int = number()
    batch_size: int = number()


@dataclass(frozen=True, kw_only=True)
class Training:
    """What the supernet took."""
    seconds: float = number(0, 1e10)  # from start to end, interruptions left out
    hardware: str
    processes: int = number(1, default=1)
    gpu_hours: float | None = number(0, 1e9, default=None)  # None: no GPU
    co2_g: float | None = number(0, 1e12, default=None)  # None: not measured
    co2_source: str | None = None  # what measured it
    images_seen: int | None = number(default=None)


@dataclass(frozen=True, kw_only=True)
class Record:
    """A finished network. `space` may be given by its name."""
    name: str = text(NAME, 90)
    space: SearchSpace = field(metadata={'reader': shelf_space})
    arch: Arch = field(metadata={'reader': lambda value, _: Arch.from_dict(value)})
    num_classes: int = number(1, MAX_ITEMS)
    class_names: tuple[str, ...] = ()
    device: str | None = _slug(default=None)  # the one it was searched for
    device_name: str | None = None
    limit_ms: float | None = _ms(default=None)
    limit_batch_size: int = number(1, default=1)  # images that are to take that long together
    predicted_ms: float | None = _ms(default=None)
    measurements: tuple[Measurement, ...] = ()
    top1_pct: float | None = _pct(default=None)
    predicted_top1_pct: float | None = _pct(default=None)
    accuracy: Accuracy | None = None
    front: tuple[FrontPoint, ...] = ()
    supernet: Supernet | None = None
    search: Search | None = None
    calibration: Calibration | None = None
    training: Training | None = None
    license: str = _slug(default='apache-2.0')
    dataset_id: str | None = text(DATASET_ID, default=None)  # on the Hub
    source: str | None = None
    citation: str | None = text(limit=MAX_LONG_TEXT, default=None)  # BibTeX, beside that of Once-for-All
    code_version: str

    def __post_init__(self) -> None:
        object.__setattr__(self, 'space', load_space(self.space))

    @property
    def macs(self) -> int:
        return self.space.macs(self.arch, self.num_classes)

    @property
    def params(self) -> int:
        return self.space.params(self.arch, self.num_classes)

    def to_dict(self) -> dict:
        """JSON-ready; a space from the shelf goes by its name, any other in full."""
        data = plain(self)
        if self.space.name in space_names() and self.space == load_space(self.space.name):
            data['space'] = self.space.name
        return data

    @classmethod
    def from_dict(cls, data: Mapping) -> Record:
        """The inverse of `to_dict`, for untrusted data; raises `InputError` naming field, value and cure."""
        record = read(cls, data, 'record')
        record.space.check(record.arch)
        for point in record.front:
            record.space.parse(point.arch)
        if record.class_names and len(record.class_names) != record.num_classes:
            raise InputError(
                f'record: class_names has {len(record.class_names)} entries for {record.num_classes} classes; match it')
        if record.top1_pct is not None and record.accuracy is None:
            raise InputError(f'record: top1_pct {record.top1_pct} has no accuracy block; say how it was found')
        return record

    @property
    def kind(self) -> str:
        return 'subnet'

    def check(self) -> Record:
        """The record itself after a strict round trip."""
        return Record.from_dict(self.to_dict())


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A subnet of a supernet with inherited weights, as the log of a training says it."""
    subnet: str  # 'largest', 'smallest', 'random 1', ...
    top1_pct: float = _pct()
    macs_m: float = number(0, 1e9)  # millions
    params_k: float = number(0, 1e9)  # thousands
    arch: str = text(limit=MAX_LONG_TEXT)
    images: str  # that it was judged on


@dataclass(frozen=True, kw_only=True)
class SupernetRecord:
    """A trained supernet."""
    name: str = text(NAME, 90)
    space: SearchSpace = field(metadata={'reader': shelf_space})
    num_classes: int = number(1, MAX_ITEMS)
    class_names: tuple[str, ...] = ()
    data: str | None = None  # name of what it was trained on
    dataset_id: str | None = text(DATASET_ID, default=None)  # on the Hub
    judged: tuple[Judged, ...] = ()
    training: Training | None = None
    source: str | None = None
    citation: str | None = text(limit=MAX_LONG_TEXT, default=None)
    license: str = _slug(default='apache-2.0')
    code_version: str

    @property
    def kind(self) -> str:
        return 'supernet'

    @classmethod
    def from_dict(cls, data: Mapping) -> SupernetRecord:
        """For untrusted data; raises `InputError` naming field, value and cure."""
        record = read(cls, data, 'supernet')
        for judged in record.judged:
            record.space.parse(judged.arch)
        if record.class_names and len(record.class_names) != record.num_classes:
            raise InputError(f'supernet: class_names has {len(record.class_names)} entries for '
                             f'{record.num_classes} classes; match it')
        return record
