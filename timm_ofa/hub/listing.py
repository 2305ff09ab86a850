"""Published networks and supernets are found: those of an organization on the Hub, or of the folders in a folder.

What is found may be from anybody. A record that is not valid is left out with a warning. Weights are neither fetched
nor read.
"""
from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HFValidationError, HTTPError, RemoteEntryNotFoundError, RepositoryNotFoundError

from ..errors import InputError
from ..fields import check_slug
from ..networks import CONFIG, hub_address, hub_errors
from ..searching import within
from ..training import supernet_folder
from .client import hub_api
from .folder import PERF, is_supernet, load_record
from .metadata import SUPERNET_TAG, evidence, may_be_within
from .record import Measurement, Record
from .supernets import read_supernet

T = TypeVar('T')
_logger = logging.getLogger(__name__)

READERS = 8  # records that are downloaded at the same time


@dataclass(frozen=True)
class Found:
    """A published network. `id` is 'ORG/NAME' on the Hub, or its folder."""
    id: str
    record: Record
    url: str | None = None  # of its page on the Hub

    @property
    def load_line(self) -> str:
        return _load_line('hf-hub' if self.url else 'local-dir', self.id)

    def latency(self, device: str) -> Measurement | None:
        """The latency of single images on a device: the fastest measurement, else the fastest prediction."""
        return next(iter(evidence(self.record, device)), None)

    def latencies_within(self, device: str | None, max_latency_ms: float | None) -> list[Measurement]:
        """One latency of each device (or of the given one) on which it is at most `max_latency_ms`."""
        devices = [device] if device else sorted({m.device for m in self.record.measurements})
        known = [m for m in map(self.latency, devices) if m]
        return [m for m in known if max_latency_ms is None or within(m.typical_ms, max_latency_ms)]


def find(source: str, device: str | None = None, max_latency_ms: float | None = None, *,
         on_hub: bool = False) -> list[Found]:
    """The networks of an organization on the Hub, or of the folders in a folder, by id.

    Args:
        device: A slug: only networks whose latency on this device is known.
        max_latency_ms: Only networks that take at most this long there, or on any device if none is given.
        on_hub: The source is on the Hub, also if there is a folder of that name here.
    """
    if device is not None:
        check_slug(device, 'device')
    if not on_hub and Path(source).is_dir():
        found = valid((str(path), partial(_found, str(path), None, path)) for path in _folders_with(source, PERF))
    else:
        found = valid((place[0], partial(_found, *place)) for place in _on_hub(source, device, max_latency_ms))
    if device is not None or max_latency_ms is not None:
        found = [f for f in found if f.latencies_within(device, max_latency_ms)]
    return sorted(found, key=lambda f: f.id)


def valid(places: Iterable[tuple[str, Callable[[], T]]]) -> list[T]:
    """The results of the readers of all places. A place that is not valid is left out with a warning."""
    found = []
    for name, read in places:
        try:
            found.append(read())
        except InputError as error:
            _logger.warning('left out: %.200r: %s', name, error)
    return found


def _found(name: str, url: str | None, folder: Path | None) -> Found:
    if not name.isprintable():
        raise InputError('the name holds characters that cannot be shown; rename it')
    if folder is None:
        raise InputError(f'there is no {CONFIG} or no {PERF} that may be read; publish it again')
    return Found(name, load_record(folder), url)


def model_rows(source: str, device: str | None = None, max_latency_ms: float | None = None) -> list[dict[str, Any]]:
    """One row for each network and each device on which it fits, by device and latency. The latencies are exact.

    Args:
        source, device, max_latency_ms: As in `find`.
    """
    rows = [_row(f, m) for f in find(source, device, max_latency_ms)
            for m in f.latencies_within(device, max_latency_ms)]
    if not rows:
        limit = '' if max_latency_ms is None else f' within {max_latency_ms:g} ms'
        cure = ('leave out --device and --max-latency-ms to list all' if device or max_latency_ms else
                'measure one with `timm-ofa measure DIR --save`')
        raise InputError(f'no network of {source!r:.120} has a latency on {device or "any device"}{limit}; {cure}')
    return sorted(rows, key=lambda r: (r['device'], r['latency_ms'], r['name']))


def _row(found: Found, m: Measurement) -> dict[str, Any]:
    record = found.record
    return dict(
        name=found.id, device=m.device, latency_ms=m.typical_ms, p90_ms=m.p90_ms, latency_source=m.source,
        runtime=m.runtime, precision=m.precision, threads=m.threads, top1_pct=record.top1_pct,
        predicted_top1_pct=record.predicted_top1_pct, data=data_words(record), resolution=record.arch.resolution,
        macs_m=round(record.macs / 1e6, 1), params_m=round(record.params / 1e6, 2), space=record.space.name,
        arch=str(record.arch), load=found.load_line)


def data_words(record: Record) -> str:
    """The images that the accuracy is of, in words."""
    if record.accuracy is None:
        return record.dataset_id or 'images that are not named'
    return f'{record.accuracy.dataset}, {record.accuracy.split}'


def find_supernets(source: str) -> list[dict[str, Any]]:
    """The supernets of an organization on the Hub, or of the folders in a folder, one row each, by name."""
    if Path(source).is_dir():
        places = [('local-dir', str(path), str(path)) for path in _folders_with(source, CONFIG) if is_supernet(path)]
    else:
        infos = repositories(source, ['timm_ofa', SUPERNET_TAG])
        places = [('hf-hub', info.id, f'hf-hub:{info.id}@{info.sha}') for info in infos]
    rows = valid((place[1], partial(_supernet_row, *place)) for place in places)
    if not rows:
        raise InputError(f'{source!r:.120} holds no supernet; publish one, or give another source')
    return sorted(rows, key=lambda row: row['name'])


def _supernet_row(kind: str, name: str, place: str) -> dict[str, Any]:
    record, *_ = read_supernet(supernet_folder(place))
    space = record.space
    return dict(
        name=name, space=space.name, networks=float(min(space.size(), sys.float_info.max)), data=record.data,
        resolutions=f'{min(space.resolutions)}..{max(space.resolutions)}',
        largest_top1_pct=record.largest.top1_pct if record.largest else None,
        load=_load_line(kind, name))


def _load_line(kind: str, name: str) -> str:
    return f'import timm, timm_ofa; timm.create_model({f"{kind}:{name}"!r}, pretrained=True)'


def _folders_with(folder: str | Path, name: str) -> Iterator[Path]:
    """Folders that hold a file of this name, down to two levels. Hidden ones are still being written."""
    for pattern in (name, f'*/{name}', f'*/*/{name}'):
        for path in sorted(Path(folder).glob(pattern)):
            if not any(part.startswith('.') for part in path.relative_to(folder).parts):
                yield path.parent


def repositories(org: str, wanted: list[str], kind: str = 'model') -> list[Any]:
    """The repositories of an organization that have all of these tags: models, or with 'dataset' data sets."""
    if not re.fullmatch(r'[\w-][\w.-]*', org, re.ASCII):
        raise InputError(f'source {org!r:.120} is neither a folder nor a name on the Hub; give one of these')
    with hub_errors(org):
        api = hub_api()
        return list((api.list_datasets if kind == 'dataset' else api.list_models)(
            author=org, filter=wanted, expand=['sha', 'tags']))


def _on_hub(org: str, device: str | None, max_latency_ms: float | None) -> Iterator[tuple[str, str, Path | None]]:
    """The repositories of an organization that have the right tags: id, address, and the folder of the record, if it
    has one."""
    wanted = ['timm_ofa']
    if device:
        wanted.append(f'device:{device}')
    infos = [info for info in repositories(org, wanted) if SUPERNET_TAG not in (info.tags or [])]
    if device and max_latency_ms is not None:
        infos = [info for info in infos if may_be_within(info.tags or [], device, max_latency_ms)]
    with ThreadPoolExecutor(READERS) as pool:
        for info, path in zip(infos, pool.map(lambda info: fetch_record(info.id, info.sha), infos)):
            yield info.id, f'{hub_address()}/{info.id}', path


def fetch_record(repo_id: str, revision: str) -> Path | None:
    """The folder of the two files that make a record; None if the repository does not give them."""
    with hub_errors(repo_id):
        try:
            paths = [Path(hf_hub_download(repo_id, name, revision=revision)) for name in (CONFIG, PERF)]
        except (HFValidationError, RemoteEntryNotFoundError, RepositoryNotFoundError):
            return None
        except (HTTPError, OSError) as error:
            answer = getattr(error.__cause__ or error, 'response', None)
            if answer is not None and answer.status_code == 403:  # disabled by the Hub, or not open to this token
                return None
            raise
    return paths[0].parent
