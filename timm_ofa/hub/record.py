"""What is known about a finished network, as one checked value.

Everything in a card, a `perf.json` and a block of `config.json` comes from a `Record`. Anybody may have written the
files that it is read from, so `from_dict` checks all of it: fields, types, lengths, slugs, and the arch by its space.
"""
from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import ClassVar

from ..devices import Conditions
from ..errors import InputError, listed
from ..fields import HUB_ID, MAX_ITEMS, MAX_LONG_TEXT, MAX_NUMBER, SLUG, choice, number, plain, read, slug, text
from ..spaces import Arch, SearchSpace, load_space, shelf_space, space_data

NAME = r'[a-z0-9]+([._-][a-z0-9]+)*'
MAX_NAME = 90  # characters
DATASET_ID = r'[\w-][\w.-]*(/[\w-][\w.-]*)?'
_slug, _ms, _pct = partial(text, SLUG.pattern, 60), partial(number, 0, 1e7), partial(number, 0, 100)


def is_name(words: str) -> bool:
    """Whether these words are a name as records have it."""
    return bool(re.fullmatch(NAME, words)) and len(words) <= MAX_NAME


def to_name(words: str, end: str = '') -> str:
    """Words as a name: small letters and digits, joined by '_'. One that is too long is cut before its `end`, and the
    first digits of its hash tell it from others."""
    name = re.sub('[-.]', '_', slug(words))
    if len(name) <= MAX_NAME:
        return name
    end = f'_{hashlib.sha256(name.encode()).hexdigest()[:8]}_{end}'.rstrip('_')
    return name[:MAX_NAME - len(end)].rstrip('_') + end


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One latency of a network on one device in one runtime: measured, predicted, or published by its authors."""
    device: str = _slug()  # slug that begins with the vendor
    device_name: str
    runtime: str = _slug()
    runtime_version: str
    provider: str | None = text(default=None)  # as in `Conditions`; None: not recorded
    precision: str = text(SLUG.pattern, 20)  # fp32, fp16, bf16, int8, ...
    threads: int | None = number(default=None)
    batch_size: int = number(1, default=1)
    num_classes: int | None = number(1, default=None)  # None: the classes of the network
    resolution: int = number()  # px
    latency_ms: float = _ms()
    statistic: str  # what latency_ms is: 'median', 'minimum', 'sum of table entries', ...
    p50_ms: float | None = _ms(default=None)
    p90_ms: float | None = _ms(default=None)
    n: int | None = number(default=None)  # timed runs
    energy_mj: float | None = number(0, 1e9, default=None)  # of a run, millijoules
    peak_memory_mb: float | None = number(0, 1e9, default=None)  # of a run, 1e6 bytes
    source: str = choice('measured', 'predicted', 'published')  # published: by the network's authors
    date: str | None = text(r'\d{4}-\d\d-\d\d', default=None)
    tool_versions: dict[str, str] = field(default_factory=dict)

    @property
    def conditions(self) -> Conditions:
        return Conditions(**{f.name: getattr(self, f.name) for f in fields(Conditions)})

    @property
    def typical_ms(self) -> float:
        """The median if it is known, else the statistic that the profile uses."""
        return self.latency_ms if self.p50_ms is None else self.p50_ms


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How `Record.top1_pct` was found."""
    dataset: str
    split: str
    n: int = number()  # images
    protocol: str = text('.*', MAX_LONG_TEXT)


@dataclass(frozen=True, kw_only=True)
class ClassAccuracy:
    """What the test images of one class were taken for."""
    name: str
    n: int = number()  # images
    top1_pct: float | None = _pct(default=None)  # None: there are no images
    taken_for: dict[str, int] = field(default_factory=dict, metadata=dict(low=1, high=MAX_NUMBER))  # wrongly; images

    @classmethod
    def of(cls, name: str, answers: Mapping[str, int]) -> ClassAccuracy:
        """From the number of images that were taken for each class, this one included."""
        n = sum(answers.values())
        return cls(name=name, n=n, top1_pct=round(100 * answers.get(name, 0) / n, 3) if n else None,
                   taken_for={other: count for other, count in answers.items() if other != name})

    @property
    def hits(self) -> int:
        return self.n - sum(self.taken_for.values())


@dataclass(frozen=True, kw_only=True)
class FrontPoint:
    """A network of the search's Pareto front, or a reference beside the front, which has a `label` ('largest subnet').

    `id` is the Hub repository of the network, if it is published.
    """
    arch: str = text(limit=MAX_LONG_TEXT)
    top1_pct: float = _pct()
    latency_ms: float = _ms()
    chosen: bool = False
    label: str = ''
    id: str | None = text(HUB_ID, default=None)


@dataclass(frozen=True, kw_only=True)
class Supernet:
    """The supernet that the weights come from: a Hub repository or a name, and the `sha256` of its named tensors."""
    id: str
    revision: str | None = None
    sha256: str | None = text('[0-9a-f]{64}', default=None)


@dataclass(frozen=True, kw_only=True)
class Search:
    """How the arch was found. The errors are those on networks that nothing was fitted on."""
    limit: str  # e.g. 'latency <= 2 ms'
    algorithm: str = 'annealing'
    seed: int = number()
    predictor: str | None = None  # its name, and the scale that it predicts on
    profile: str | None = None
    profile_error_pct: float | None = number(0, 1e4, default=None)  # percent of the latency
    predictor_error_pct: float | None = _pct(default=None)  # root of the mean squared error, points of top-1


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The images that the BatchNorm statistics come from, or the repair of the weights."""
    images: int = number()
    batch_size: int = number()
    data: str | None = None  # their name; None: they are training images
    sha256: str | None = text('[0-9a-f]{64}', default=None)  # of their pixels
    repaired: bool = False  # the weights were repaired in closed form
    seed: int | None = number(default=None)  # that drew images and changes of them; None: not recorded


@dataclass(frozen=True, kw_only=True)
class SessionCost:
    """The time of all sessions of a training on the same hardware."""
    seconds: float = number(0, 1e10)
    hardware: str
    processes: int = number(1, default=1)


@dataclass(frozen=True, kw_only=True)
class Training:
    """What the training of the supernet took."""
    seconds: float = number(0, 1e10)  # of work, without interruptions
    hardware: str  # of the most of it
    processes: int = number(1, default=1)
    sessions: tuple[SessionCost, ...] = ()  # where it ran on different hardware, or in different numbers of processes
    gpu_hours: float | None = number(0, 1e9, default=None)  # None: no GPU
    co2_g: float | None = number(0, 1e12, default=None)  # None: not measured
    co2_source: str | None = None  # what measured it
    images_seen: int | None = number(default=None)


@dataclass(frozen=True, kw_only=True)
class Record:
    """A finished network. `space` may also be a name."""
    kind: ClassVar = 'subnet'
    name: str = text(NAME, MAX_NAME)
    space: SearchSpace = field(metadata={'reader': shelf_space})
    arch: Arch = field(metadata={'reader': lambda value, _: Arch.from_dict(value)})
    num_classes: int = number(1, MAX_ITEMS)
    class_names: tuple[str, ...] = ()
    device: str | None = _slug(default=None)  # that it was searched for
    device_name: str | None = None
    limit_ms: float | None = _ms(default=None)
    limit_batch_size: int = number(1, default=1)  # images that the limit is for, together
    limit_conditions: Conditions | None = None  # of limit_ms and predicted_ms; None: only what the fields above say
    predicted_ms: float | None = _ms(default=None)
    measurements: tuple[Measurement, ...] = ()
    top1_pct: float | None = _pct(default=None)
    predicted_top1_pct: float | None = _pct(default=None)
    accuracy: Accuracy | None = None
    per_class: tuple[ClassAccuracy, ...] = ()  # in the order of the classes
    front: tuple[FrontPoint, ...] = ()
    supernet: Supernet | None = None
    search: Search | None = None
    calibration: Calibration | None = None
    finetune_epochs: int | None = number(default=None)  # after it was taken from the supernet; None: not known
    training: Training | None = None
    license: str = _slug(default='apache-2.0')
    dataset_id: str | None = text(DATASET_ID, default=None)  # on the Hub
    source: str | None = None
    citation: str | None = text(limit=MAX_LONG_TEXT, default=None)  # BibTeX, in addition to that of Once-for-All
    code_version: str

    def __post_init__(self) -> None:
        object.__setattr__(self, 'space', load_space(self.space))

    @property
    def macs(self) -> int:
        return self.space.macs(self.arch, self.num_classes)

    @property
    def params(self) -> int:
        return self.space.params(self.arch, self.num_classes)

    @property
    def searched_under(self) -> Conditions | None:
        """The conditions of the limit; a named network notes none, and has those of its only latency on the device."""
        if self.limit_conditions or not self.device:
            return self.limit_conditions
        known = {self.conditions_of(m) for m in self.measurements
                 if (m.device, m.batch_size) == (self.device, self.limit_batch_size)}
        return known.pop() if len(known) == 1 else None

    def conditions_of(self, m: Measurement) -> Conditions:
        """The conditions of one of its latencies, the classes among them."""
        return replace(m.conditions, num_classes=m.num_classes or self.num_classes)

    def to_dict(self) -> dict:
        """The record as JSON data. A space that ships with the package is its name, any other is written in full."""
        return {**plain(self), 'space': space_data(self.space)}

    @classmethod
    def from_dict(cls, data: Mapping) -> Record:
        """Read untrusted data. Raises `InputError` naming the field, the value and the cure."""
        record = read(cls, data, 'record')
        record.space.check(record.arch)
        for point in record.front:
            record.space.parse(point.arch)
        _check_class_names(record, 'record')
        _check_per_class(record)
        if record.top1_pct is not None and record.accuracy is None:
            raise InputError(f'record: top1_pct {record.top1_pct} has no accuracy block; say how it was found')
        return record

    def check(self) -> Record:
        """The same record, written and strictly read again."""
        return Record.from_dict(self.to_dict())


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The accuracy of a subnet with inherited weights, as the log of a training has it."""
    subnet: str  # 'largest', 'smallest', 'random 1', ...
    top1_pct: float = _pct()
    macs_m: float = number(0, 1e9)  # millions
    params_k: float = number(0, 1e9)  # thousands
    arch: str = text(limit=MAX_LONG_TEXT)
    images: str  # name of those that it was judged on


@dataclass(frozen=True, kw_only=True)
class SupernetRecord:
    """A trained supernet."""
    kind: ClassVar = 'supernet'
    name: str = text(NAME, MAX_NAME)
    space: SearchSpace = field(metadata={'reader': shelf_space})
    num_classes: int = number(1, MAX_ITEMS)
    class_names: tuple[str, ...] = ()
    data: str | None = None  # name of the training images
    skipped_images: int | None = number(default=None)  # broken ones, which were left out
    dataset_id: str | None = text(DATASET_ID, default=None)  # on the Hub
    judged: tuple[Judged, ...] = ()
    training: Training | None = None
    source: str | None = None
    citation: str | None = text(limit=MAX_LONG_TEXT, default=None)
    license: str = _slug(default='apache-2.0')
    code_version: str

    @property
    def largest(self) -> Judged | None:
        """The accuracy of its largest subnet, if that was judged."""
        return next((judged for judged in self.judged if judged.subnet == 'largest'), None)

    @classmethod
    def from_dict(cls, data: Mapping) -> SupernetRecord:
        """Read untrusted data. Raises `InputError` naming the field, the value and the cure."""
        record = read(cls, data, 'supernet')
        for judged in record.judged:
            record.space.parse(judged.arch)
        _check_class_names(record, 'supernet')
        return record


def _check_per_class(record: Record) -> None:
    """Raise unless the accuracies of classes are of these classes, and add up."""
    names = record.class_names or tuple(map(str, range(record.num_classes)))
    known = set(names)
    if record.per_class and tuple(c.name for c in record.per_class) != names:
        raise InputError(f'record: per_class is of {listed(c.name for c in record.per_class)}, not of the '
                         f'{record.num_classes} classes of the network; leave it out')
    for c in record.per_class:
        answers = {**c.taken_for, c.name: c.hits}
        if c != ClassAccuracy.of(c.name, answers) or c.hits < 0 or not set(answers) <= known:
            raise InputError(f'record: per_class of {c.name!r:.80} does not add up: {c.n} images, {c.top1_pct} %, '
                             f'taken for {str(c.taken_for)!r:.80}; leave per_class out')


def _check_class_names(record: Record | SupernetRecord, where: str) -> None:
    if len(record.class_names) not in (0, record.num_classes):
        raise InputError(
            f'{where}: class_names has {len(record.class_names)} entries for {record.num_classes} classes; match it')
