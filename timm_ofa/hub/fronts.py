"""The front of a search as two files: the networks, and the conditions under which they were found."""
from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol

from ..devices import UNKNOWN, Conditions, DeviceProfile, load_profile
from ..errors import InputError
from ..fields import MAX_LONG_TEXT, read, read_value, text
from ..files import replacing_both
from ..searching import Candidate, SearchResult, rounded_up, within
from ..spaces import Arch, SearchSpace


@dataclass(frozen=True, kw_only=True)
class FrontFile:
    """What `front.jsonl` and `front.jsonl.meta.json` hold: the networks that a search found, and how it found them."""
    space: str
    max_latency_ms: float | None  # None: the latency had no limit
    seed: int
    device: str
    device_name: str
    profile: str = text(limit=MAX_LONG_TEXT)  # its path or name
    profile_error_pct: float | None
    predictor_error_pct: float | None
    front: tuple[Candidate, ...] = field(metadata={'reader': lambda value, _: value})
    limits: tuple[str, ...] = ()  # all other limits, in words
    conditions: Conditions | None = None  # of all latencies here; None in older files

    @property
    def under(self) -> Conditions:
        """The conditions of all latencies here. An older file told the device alone."""
        return self.conditions or Conditions(device=self.device, runtime=UNKNOWN)

    @property
    def limit_words(self) -> str:
        """All limits of the search."""
        latency = [] if self.max_latency_ms is None else [f'latency <= {self.max_latency_ms:g} ms']
        return ', '.join([*latency, *self.limits]) or 'none'

    @property
    def bound_ms(self) -> float:
        """The limit, infinite if there is none."""
        return math.inf if self.max_latency_ms is None else self.max_latency_ms

    def best(self) -> Candidate:
        """The most accurate candidate that is predicted within the limit; raises `InputError` if there is none."""
        fitting = [c for c in self.front if within(predicted_ms(c), self.bound_ms)]
        if not fitting:
            least_ms = rounded_up(min(map(predicted_ms, self.front)))
            raise InputError(f'no network of the front is within {self.bound_ms:.10g} ms; the least is {least_ms} ms')
        return max(fitting, key=lambda c: c.top1_pct)

    def within(self, limit_ms: float) -> FrontFile:
        """The same front with a limit below that of its search, above which nothing was searched."""
        if not within(limit_ms, self.bound_ms):
            raise InputError(f'{limit_ms:g} ms is above the limit of the search, {self.bound_ms:g} ms; '
                             f'search again with --max-latency-ms {limit_ms:g}')
        found = replace(self, max_latency_ms=limit_ms)
        found.best()
        return found

    def load_profile(self, space: SearchSpace, name: str | None = None) -> DeviceProfile:
        """The profile of the search, or `name`; raises `InputError` if its conditions are not those of the front."""
        profile = load_profile(name or self.profile)
        profile.check_space(space)
        here = self.conditions or replace(profile.conditions, device=self.device)
        apart = profile.conditions.differences(here)
        if apart:
            raise InputError(f'profile {profile.name} is not that of the front: {"; ".join(apart)}; '
                             f'give the profile of the search, or search again with this one')
        return profile


class Checked(Protocol):
    """A predictor that may know its error on held-out networks."""
    @property
    def check(self) -> dict | None: ...


def save_front(path: str | Path, result: SearchResult, space: SearchSpace, predictor: Checked,
               profile: DeviceProfile, profile_source: str, max_latency_ms: float | None, seed: int,
               limits: Sequence[str] = ()) -> FrontFile:
    """Write a front: one network on each line, and how they were found in a second file beside it."""
    file = FrontFile(
        space=space.name, max_latency_ms=max_latency_ms, seed=seed, device=profile.device,
        device_name=profile.device_name, profile=str(profile_source),
        profile_error_pct=(profile.check or {}).get('mape_pct'),
        predictor_error_pct=(predictor.check or {}).get('rmse_pct'), front=tuple(result.front), limits=tuple(limits),
        conditions=profile.conditions)
    meta = {k: v for k, v in asdict(file).items() if k != 'front'}
    with replacing_both(path, f'{path}.meta.json') as (new, new_meta):
        new.write_text(''.join(json.dumps(candidate_dict(c)) + '\n' for c in result.front), encoding='utf-8')
        new_meta.write_text(json.dumps(meta, indent=1), encoding='utf-8')
    return file


def candidate_dict(candidate: Candidate) -> dict:
    """A candidate as JSON data: the fields of its arch, `top1_pct`, and `latency_ms` if there is a device.

    The latency is exact, so that a network at its limit stays within it.
    """
    latency = {} if candidate.latency_ms is None else {'latency_ms': float(candidate.latency_ms)}
    return {**candidate.arch.to_dict(), 'top1_pct': round(candidate.top1_pct, 4), **latency}


def load_front(path: str | Path, space: SearchSpace) -> FrontFile:
    """Read what `save_front` wrote. Raises `InputError` naming the line that is wrong."""
    candidates: list[Candidate] = []
    try:
        meta = json.loads(Path(f'{path}.meta.json').read_text())
        for line in Path(path).read_text().splitlines():
            fields = json.loads(line)
            top1_pct, latency_ms = (read_value(float, fields.pop(key), key) for key in ('top1_pct', 'latency_ms'))
            candidates.append(Candidate(space.check(Arch.from_dict(fields)), top1_pct, latency_ms))
        meta = {**meta, 'front': tuple(candidates)}
    except InputError as error:
        raise InputError(f'front {Path(path).name} line {len(candidates) + 1}: {error}') from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise InputError(f'front {str(path)!r:.120} cannot be read; give what `timm-ofa search --out` wrote') from None
    file = read(FrontFile, meta, f'front {Path(path).name}')
    if file.space != space.name:
        raise InputError(
            f'front {Path(path).name} is of {file.space!r:.60}, the supernet of {space.name}; search again')
    if not any(within(predicted_ms(c), file.bound_ms) for c in file.front):
        raise InputError(
            f'front {Path(path).name} has no network within its limit, {file.bound_ms:g} ms; search again')
    return file


def predicted_ms(candidate: Candidate) -> float:
    """The latency of a candidate that was searched on a device, as the candidates of every front file were."""
    assert candidate.latency_ms is not None
    return candidate.latency_ms
