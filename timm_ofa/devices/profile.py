"""Device profiles: what each row of a network costs on one device, and therefore what every network of a space costs.

A profile is a readable JSON file. It prices an `Arch` in milliseconds by adding up its rows, and refuses an `Arch` with
a row that was never measured. Anybody may have written it, here or on the Hub. This module runs nothing.
"""
from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from ..errors import InputError, listed, one_line
from ..fields import MAX_LONG_TEXT, check_slug, choice, number, read, read_value, slug, text
from ..files import write_text
from ..spaces import Arch, CostTable, Row, SearchSpace
from .conditions import PRECISIONS, UNKNOWN, Conditions
from .fewshot import MAX_MS, MIN_MS, checked_latencies, fit_prices, outliers, predict_held_out
from .work import UNITS, network_work

_logger = logging.getLogger(__name__)

PROFILES_DIR = Path(__file__).parent / 'profiles'
ON_HUB, PROFILE_FILE = 'hf-hub:', 'profile.json'  # how a profile of the Hub is named, and its file there
HEAD = {'format': 1, 'unit': 'ms'}  # the first fields of a profile file
ROW_KEY = re.compile(r'\d+x\d+x\d+/[a-z0-9_.]+(@\d+)?')
MAX_COUNT = 2**31
CHECK_FIELDS = {  # kind, least, most
    'mape_pct': (float, 0, 1e6), 'within_5_pct': (float, 0, 100), 'within_10_pct': (float, 0, 100),
    'kendall_tau': (float, -1, 1), 'n': (int, 1, MAX_COUNT)}


class RowCost(NamedTuple):
    """The price of one row, and how sure it is."""
    ms: float  # the statistic that `protocol` names
    p50_ms: float | None  # median; None: not published
    n: int  # how many measurements it comes from


def _refuse(where: str, value: Any, cure: str) -> NoReturn:
    raise InputError(f'{where}: {value!r:.60} {cure}')


def _date(value: Any, where: str) -> str:
    try:
        return value if value == UNKNOWN else date.fromisoformat(value).isoformat()
    except (TypeError, ValueError):
        _refuse(where, value, f"is not a date like 2024-05-31, nor '{UNKNOWN}'")


def _table(value: Any, where: str) -> dict[str, RowCost]:
    if not isinstance(value, Mapping) or not value:
        _refuse(where, value, 'is not an object of rows; give one entry a row')
    return {key: _row_cost(key, cost, where) for key, cost in value.items()}


def _row_cost(key: str, cost: Any, where: str) -> RowCost:
    here = f'{where}: row {key!r:.90}'
    if not ROW_KEY.fullmatch(key):
        raise InputError(f"{here} is no row key; write it like '56x56x24/ir_r1_k5_s2_e3_c40_se0.25_nre'")
    if not isinstance(cost, (list, tuple)) or len(cost) != 3:
        _refuse(here, cost, 'is not [ms, p50_ms, n]')
    return RowCost(
        read_value(float, cost[0], f'{here}: ms', low=0, high=MAX_MS),
        read_value(float | None, cost[1], f'{here}: p50_ms', low=0, high=MAX_MS),
        read_value(int, cost[2], f'{here}: n', low=1, high=MAX_COUNT))


def _protocol(value: Any, where: str) -> dict:
    if not isinstance(value, Mapping):
        _refuse(where, value, 'is not an object; name at least the statistic')
    for key, entry in value.items():
        here = f'{where}: {key!r:.60}'
        finite = not isinstance(entry, float) or math.isfinite(entry)
        if not isinstance(entry, (str, int, float, type(None))) or not finite:
            _refuse(here, entry, 'is not text or a finite number; write one')
        read_value(str, key, where)
        if isinstance(entry, str):
            read_value(str, entry, here, limit=MAX_LONG_TEXT)
    return dict(value)


def _check(value: Any, where: str) -> dict:
    if not isinstance(value, Mapping) or set(value) != set(CHECK_FIELDS):
        _refuse(where, value, f'must be null or have exactly the fields {listed(CHECK_FIELDS)}')
    return {
        name: read_value(kind, value[name], f'{where}: {name}', low=low, high=high)
        for name, (kind, low, high) in CHECK_FIELDS.items()}


_line = partial(text, r'.*\S.*')  # one line that is not empty


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """What the rows of one search space cost on one device with one runtime.

    A network costs `overhead_ms + scale * (the sum of its rows)`. The keys of the table are those of `Row.key`. A key
    that ends in '@<px>' holds only for networks of that resolution, and there it replaces the plain key.
    """
    name: str = field(metadata={'reader': check_slug})
    space: str = _line()  # name of the search space
    device: str = field(metadata={'reader': check_slug})  # e.g. 'samsung-note10'
    device_name: str = _line()  # for people
    runtime: str = _line()
    runtime_version: str = _line()
    precision: str = choice(*PRECISIONS)
    threads: int | None = number(1, 4096)  # None: unknown
    batch_size: int = number(1, MAX_COUNT)
    measured_on: str = field(metadata={'reader': _date})  # ISO date, or 'unknown'
    num_classes: int = number(1, MAX_COUNT)  # outputs of the head that was measured
    overhead_ms: float = number(0, MAX_MS)  # added once for each network
    scale: float = number(1e-3, 1e3)  # factor on all rows, fitted on whole networks; 1 where there were none
    table: dict[str, RowCost] = field(metadata={'reader': _table})
    protocol: dict = field(metadata={'reader': _protocol})  # statistic, sweeps, method, host, ...
    check: dict | None = field(metadata={'reader': _check})  # the error on networks that nothing here was fitted on
    source: str = _line(limit=MAX_LONG_TEXT)
    # group -> arch as text -> ms of whole networks, measured with the rows; nothing was fitted on them, but on 'fitted'
    networks: dict[str, dict[str, float]] = field(default_factory=dict, metadata=dict(low=MIN_MS, high=MAX_MS))

    @property
    def conditions(self) -> Conditions:
        """The conditions of its prices. The provider stands in the protocol as 'processor'."""
        provider = self.protocol.get('processor')
        return Conditions(
            device=self.device, runtime=slug(self.runtime), runtime_version=self.runtime_version,
            provider=None if provider is None else str(provider), precision=self.precision, threads=self.threads,
            batch_size=self.batch_size, num_classes=self.num_classes)

    @classmethod
    def fit(cls, space: SearchSpace, archs: Iterable[Arch], latency_ms: Sequence[float], *, device: str, runtime: str,
            device_name: str | None = None, runtime_version: str = UNKNOWN, precision: str = UNKNOWN,
            threads: int | None = None, batch_size: int = 1, processor: str | None = None, measured_on: str = UNKNOWN,
            num_classes: int | None = None, resolutions: Sequence[int] | None = None, statistic: str = UNKNOWN,
            source: str = 'fitted on measured networks', seed: int = 0) -> DeviceProfile:
        """Fit a profile of the whole space on 10 to 50 networks that were measured whole, on any device (`fewshot`).

        Args:
            archs: N networks of the space, for example random ones of all resolutions.
            latency_ms: (N,) latencies in ms, each of a whole batch.
            device: Slug. It and the other fields of a profile say how the latencies were measured.
            num_classes: Outputs of the heads that were measured; None: the default of the space.
            resolutions: Those of the space to price, in px; None: all.
            statistic: What each latency is: 'median', 'mean', ...
            seed: Of the random parts of the check; each part is priced by a fit on the others.

        A latency that is far from what the other networks say is left out, with a warning that names it. Raises
        `InputError` for too few networks, or for a latency that cannot be.
        """
        archs = list(archs)
        measured_ms = checked_latencies(archs, latency_ms)
        amounts = network_work(space, archs, num_classes)
        left_out = outliers(amounts, measured_ms)
        for n in np.flatnonzero(left_out):
            _logger.warning('latency_ms %g of arch %s is far from what the other networks say, and is left out; '
                            'measure it again', measured_ms[n], archs[n])
        amounts, measured_ms = amounts[~left_out], measured_ms[~left_out]
        checked_latencies([arch for arch, far in zip(archs, left_out) if not far], measured_ms)  # they are still enough
        prices = fit_prices(amounts, measured_ms)
        priced = space.restrict(resolutions=resolutions)
        rows = [
            row for resolution in (*priced.resolutions, *(() if resolutions else space.extra_resolutions))
            for row in space.all_rows(resolution, num_classes)]
        profile = cls(
            name=device, space=space.name, device=device, device_name=device_name or device, runtime=runtime,
            runtime_version=runtime_version, precision=precision, threads=threads, batch_size=batch_size,
            measured_on=measured_on, num_classes=num_classes or space.num_classes,
            overhead_ms=_rounded(prices.overhead_ms), scale=1.0,
            table={row.key: RowCost(_rounded(prices.row_ms(row)), None, len(amounts)) for row in dict.fromkeys(rows)},
            protocol={
                'statistic': statistic, 'method': 'prices of units of work, fitted on whole networks',
                'networks': len(amounts), **({'left_out': int(left_out.sum())} if left_out.any() else {}),
                'noise_pct': round(100 * prices.noise, 2), **({'processor': processor} if processor else {}),
                **{f'ms per {unit}': _rounded(ms) for unit, ms in zip(UNITS, prices.ms.tolist())}},
            check=latency_error(measured_ms, predict_held_out(amounts, measured_ms, seed)), source=source)
        return profile.named(space, 'fitted')

    def named(self, space: SearchSpace, *ends: str, where: str = 'profile') -> DeviceProfile:
        """The same under the name that its conditions give it, checked as `from_dict` does."""
        named = replace(self, name=self.conditions.profile_name(space, *ends))
        return self.from_dict(named.to_dict(), where)

    def latency_ms(self, space: SearchSpace, archs: Iterable[Arch]) -> np.ndarray:
        """Archs -> latencies (N,) in ms. Raises `InputError` naming the arch and the row that was never measured."""
        if isinstance(archs, Arch):
            raise InputError(f'archs is one arch, {archs}; pass a list of them')
        self.check_space(space)
        return np.array([self._arch_ms(space, arch) for arch in archs], dtype=float)

    def errors(self, space: SearchSpace) -> dict[str, dict]:
        """Group of `networks` -> how well they are priced (`latency_error`)."""
        return {
            name: latency_error(np.array([*group.values()]), self.latency_ms(space, map(space.parse, group)))
            for name, group in self.networks.items() if group}

    def cost_table(self, space: SearchSpace) -> CostTable:
        """The prices (ms) of every network of the space. Each resolution of the space must have been measured."""
        self.check_space(space)
        tables = [
            space.restrict(resolutions=(resolution,)).cost_table(self._pricer(resolution), self.num_classes)
            for resolution in space.resolutions]
        return CostTable(
            self.overhead_ms + self.scale * np.concatenate([t.const for t in tables]),
            self.scale * np.concatenate([t.table for t in tables]))

    def resolutions(self, space: SearchSpace) -> tuple[int, ...]:
        """The resolutions (px) of the space at which every row is priced."""
        self.check_space(space)
        return tuple(
            resolution for resolution in space.resolutions
            if all(self._find(row, resolution) for row in space.all_rows(resolution, self.num_classes)))

    def _arch_ms(self, space: SearchSpace, arch: Arch) -> float:
        rows = space.rows(space.check(arch), self.num_classes)
        try:
            return self.overhead_ms + self.scale * sum(map(self._pricer(arch.resolution), rows))
        except InputError as error:
            raise InputError(f'arch {arch}: {error}') from None

    def _pricer(self, resolution: int) -> Callable[[Row], float]:
        def price(row: Row) -> float:
            cost = self._find(row, resolution)
            if cost is None:
                raise InputError(
                    f'row {row.key} was not measured on {self.name} (resolution {resolution}); '
                    'choose one of the resolutions that the profile holds, or measure this one')
            return cost.ms
        return price

    def _find(self, row: Row, resolution: int) -> RowCost | None:
        return self.table.get(f'{row.key}@{resolution}') or self.table.get(row.key)

    def check_space(self, space: SearchSpace) -> None:
        """Raise `InputError` if the profile prices another space."""
        if space.name != self.space:
            raise InputError(
                f'profile {self.name} prices {self.space}, not {space.name}; give a profile of {space.name}')

    # ---- files ----------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict:
        """The profile as JSON data, the inverse of `from_dict`."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**HEAD, **own, 'table': {key: list(cost) for key, cost in self.table.items()}}

    @classmethod
    def from_dict(cls, data: Mapping, where: str = 'profile') -> DeviceProfile:
        """Make a profile of JSON data. Every field and row is checked; the `InputError` names the wrong one."""
        if not isinstance(data, Mapping):
            _refuse(where, data, 'is not an object; give what DeviceProfile.save writes')
        for name, wanted in HEAD.items():
            value = data.get(name)
            if type(value) is not type(wanted) or value != wanted:
                _refuse(f'{where}: {name}', value, f'must be {wanted!r}')
        return read(cls, {k: v for k, v in data.items() if k not in HEAD}, where)

    def to_text(self) -> str:
        """The profile as JSON text with one line for each row."""
        data = self.to_dict()
        rows = ',\n'.join(f'    {json.dumps(key)}: {json.dumps(cost)}' for key, cost in data.pop('table').items())
        head = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False).removesuffix('\n}')
        return f'{head},\n  "table": {{\n{rows}\n  }}\n}}\n'

    def save(self, path: str | Path) -> None:
        """Write `to_text`. The file appears whole or not at all."""
        write_text(path, self.to_text())


def _rounded(ms: float) -> float:
    return float(f'{ms:.6g}')


def profile_names() -> list[str]:
    """The names of the profiles that ship with the package."""
    return sorted(path.stem for path in PROFILES_DIR.glob('*.json'))


def load_profile(name: str | Path | DeviceProfile) -> DeviceProfile:
    """Load a device profile: by its name where it ships with the package, from 'hf-hub:ORG/NAME', where somebody
    published it, else by the path of its JSON file. Raises `InputError`.
    """
    if isinstance(name, DeviceProfile):
        return name
    path = _profile_path(name)
    where = f'device profile {str(name)!r:.120}' if str(name).startswith(ON_HUB) else f'device profile {path.name}'
    try:
        data = json.loads(path.read_text(encoding='utf-8'), object_pairs_hook=_no_twins)
    except InputError as error:
        raise InputError(f'{where}: {error}') from None
    except (ValueError, RecursionError) as error:
        raise InputError(f'device profile {str(name)!r:.120} is not JSON ({one_line(error)}); mend the file') from None
    return DeviceProfile.from_dict(data, where)


def _profile_path(name: str | Path) -> Path:
    if str(name).startswith(ON_HUB):
        from ..networks import hub_file

        return hub_file(str(name).removeprefix(ON_HUB), PROFILE_FILE)
    path = PROFILES_DIR / f'{name}.json' if str(name) in profile_names() else Path(name)
    if path.suffix != '.json' or not path.is_file():
        raise InputError(
            f'device profile {str(name)!r:.120} is not known; '
            f'choose from {listed(profile_names())}, or give a .json file or hf-hub:ORG/NAME')
    return path


def _no_twins(pairs: list[tuple]) -> dict:
    data: dict = {}
    for key, value in pairs:
        if key in data:
            raise InputError(f'{key!r:.90} is given twice; remove one')
        data[key] = value
    return data


def latency_error(measured_ms: np.ndarray, predicted_ms: np.ndarray) -> dict:
    """How well predictions (N,) agree with measurements (N,): the fields of `DeviceProfile.check`."""
    measured, predicted = np.asarray(measured_ms, float), np.asarray(predicted_ms, float)
    error_pct = 100 * np.abs(predicted - measured) / measured
    return {
        'mape_pct': round(float(error_pct.mean()), 2),
        'within_5_pct': round(float(100 * (error_pct <= 5).mean()), 1),
        'within_10_pct': round(float(100 * (error_pct <= 10).mean()), 1),
        'kendall_tau': round(kendall_tau(measured, predicted), 3),
        'n': len(measured),
    }


def kendall_tau(a: np.ndarray, b: np.ndarray) -> float:
    """Kendall's tau-b of two lists (N,); 0 where one of them is constant."""
    i, j = np.triu_indices(len(a), 1)
    first, second = np.sign(a[i] - a[j]), np.sign(b[i] - b[j])
    pairs = math.sqrt(np.abs(first).sum() * np.abs(second).sum())
    return float((first * second).sum() / pairs) if pairs else 0.0
