"""The front of a search as two files: the networks, and the conditions under which they were found."""
from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from ..devices import DeviceProfile
from ..errors import InputError
from ..files import write_text
from ..searching import Candidate, SearchResult
from ..spaces import Arch, SearchSpace


@dataclass(frozen=True)
class FrontFile:
    """What `front.jsonl` and `front.jsonl.meta.json` hold: the networks that a search found, and how it found them."""
    space: str
    max_latency_ms: float
    seed: int
    device: str
    device_name: str
    profile: str  # its path or name
    profile_error_pct: float | None
    predictor_error_pct: float | None
    front: tuple[Candidate, ...]


class Checked(Protocol):
    """A predictor that may know its error on held-out networks."""
    @property
    def check(self) -> dict | None: ...


def save_front(path: str | Path, result: SearchResult, space: SearchSpace, predictor: Checked,
               profile: DeviceProfile, profile_source: str, max_latency_ms: float, seed: int) -> FrontFile:
    """Write a front: one network on each line, and how they were found in a second file beside it."""
    file = FrontFile(
        space.name, max_latency_ms, seed, profile.device, profile.device_name, str(profile_source),
        (profile.check or {}).get('mape_pct'), (predictor.check or {}).get('rmse_pct'), tuple(result.front))
    meta = {k: v for k, v in asdict(file).items() if k != 'front'}
    write_text(f'{path}.meta.json', json.dumps(meta, indent=1))
    write_text(path, ''.join(json.dumps(candidate_dict(c)) + '\n' for c in result.front))
    return file


def candidate_dict(candidate: Candidate) -> dict:
    """A candidate as JSON data: the fields of its arch, `top1_pct`, and `latency_ms` if there is a device."""
    latency = {} if candidate.latency_ms is None else {'latency_ms': round(candidate.latency_ms, 6)}
    return {**candidate.arch.to_dict(), 'top1_pct': round(candidate.top1_pct, 4), **latency}


def load_front(path: str | Path, space: SearchSpace) -> FrontFile:
    """Read what `save_front` wrote. Raises `InputError` naming the line that is wrong."""
    try:
        meta = json.loads(Path(f'{path}.meta.json').read_text())
        candidates = []
        for line in Path(path).read_text().splitlines():
            fields = json.loads(line)
            top1_pct, latency_ms = float(fields.pop('top1_pct')), float(fields.pop('latency_ms'))
            candidates.append(Candidate(space.check(Arch.from_dict(fields)), top1_pct, latency_ms))
        file = FrontFile(**{**meta, 'max_latency_ms': float(meta['max_latency_ms'])}, front=tuple(candidates))
    except InputError as error:
        raise InputError(f'front {Path(path).name} line {len(candidates) + 1}: {error}') from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise InputError(f'front {str(path)!r:.120} cannot be read; give what `timm-ofa search --out` wrote') from None
    if file.space != space.name:
        raise InputError(
            f'front {Path(path).name} is of {file.space!r:.60}, the supernet of {space.name}; search again')
    if not any(predicted_ms(c) <= file.max_latency_ms for c in file.front):
        raise InputError(
            f'front {Path(path).name} has no network within its limit, {file.max_latency_ms:g} ms; search again')
    return file


def predicted_ms(candidate: Candidate) -> float:
    """The latency of a candidate that was searched on a device, as the candidates of every front file were."""
    assert candidate.latency_ms is not None
    return candidate.latency_ms
