"""What a device charges for a unit of work, learned from 10 to 50 networks that were measured whole.

A network costs an overhead plus its work: operators to start, multiply-accumulates of each kind, values to move,
weights to fetch. With one price a unit, none below 0, any row of any space has a price. The same few numbers say that
a GPU is busy with starting operators at batch 1 and with moving values at batch 64: the batch is in the prices.

Errors count relative to the latency and are taken to be of Student's t: a slow moment of the device pulls little.
Knows no device profile.

Legend: N networks, U units.
"""
from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from ..errors import InputError, listed
from ..spaces import Arch, Row, SearchSpace

MIN_NETWORKS = 10
MIN_MS, MAX_MS = 1e-6, 1e7  # borders against nonsense
FOLDS = 10
GIGA = 1e9
UNITS = (  # what there is a price of, per image; 'values' are entries of feature maps
    'network', 'operator', 'squeeze-excite', 'shortcut', 'GMAC pointwise', 'GMAC dense', 'GMAC depthwise',
    'G values read', 'G values written', 'G values depthwise', 'G values depthwise, kernel above 3',
    'G values hard-swish', 'G weights')
SHARE = 0.3  # prior: each unit makes up 0 +- 30 % of an average latency
TAIL = 3.0  # degrees of freedom of Student's t
LEAST_NOISE = 1e-3  # of a latency
ROUNDS = 40
COLUMNS = ('arch', 'latency_ms')

# ---- work ---------------------------------------------------------------------------------------------------------


class Operator(NamedTuple):
    """One step of a row, for one image."""
    kind: str  # 'pointwise', 'dense', 'depthwise', 'pool', 'squeeze-excite', 'shortcut'
    read: int  # values
    written: int  # values
    weights: int
    macs: int


def operators(row: Row) -> list[Operator]:
    """The steps of a row; BatchNorm and activation belong to their convolution."""
    size, out_size, mid = row.size, row.out_size, row.mid_chs

    def conv(kind: str, side: int, in_chs: int, out_side: int, out_chs: int, weights: int) -> Operator:
        return Operator(kind, in_chs * side**2, out_chs * out_side**2, weights, weights * out_side**2)

    def pointwise(side: int, in_chs: int, out_chs: int) -> Operator:
        return conv('pointwise', side, in_chs, side, out_chs, in_chs * out_chs)

    area = row.kernel_size**2
    shortcut = [Operator('shortcut', 2 * row.out_chs * out_size**2, row.out_chs * out_size**2, 0, 0)]
    if row.kind == 'pool':
        return [conv('pool', size, row.in_chs, out_size, row.out_chs, 0)]
    if row.kind in ('conv', 'res'):
        kind, weights = 'dense' if area > 1 else 'pointwise', row.in_chs * row.out_chs * area
        return [conv(kind, size, row.in_chs, out_size, row.out_chs, weights), *(shortcut if row.skip else [])]
    if row.kind == 'head':
        layers = [(row.in_chs, mid), (mid, row.out_chs)] if mid else [(row.in_chs, row.out_chs)]
        return [conv('pool', size, row.in_chs, 1, row.in_chs, 0), *(pointwise(1, *layer) for layer in layers)]
    if row.kind == 'bottle':
        first, middle = pointwise(size, row.in_chs, mid), conv('dense', size, mid, out_size, mid, area * mid**2)
        aside = [] if row.skip else [pointwise(out_size, row.in_chs, row.out_chs)]
        return [first, middle, pointwise(out_size, mid, row.out_chs), *aside, *shortcut]
    found = [pointwise(size, row.in_chs, mid)] if row.kind == 'ir' else []
    found.append(conv('depthwise', size, mid, out_size, mid, area * mid))
    if row.se_chs:
        values = mid * out_size**2
        found.append(Operator('squeeze-excite', 2 * values, values, 2 * mid * row.se_chs, 0))
    return [*found, pointwise(out_size, mid, row.out_chs), *(shortcut if row.skip else [])]


@lru_cache(maxsize=100_000)
def work(row: Row) -> tuple[float, ...]:
    """How much of each unit (U,) a row holds; of networks none."""
    steps, mid = operators(row), row.mid_chs
    macs = {kind: sum(s.macs for s in steps if s.kind == kind) for kind in ('pointwise', 'dense', 'depthwise')}
    depthwise = sum(s.read + s.written for s in steps if s.kind == 'depthwise')
    inner = mid * (row.out_size**2 + (row.size**2 if row.kind in ('ir', 'bottle') else 0))
    activated = (inner or row.out_chs * row.out_size**2) if row.act == 'hs' else 0
    special = [sum(s.kind == kind for s in steps) for kind in ('squeeze-excite', 'shortcut')]
    values = (*macs.values(), sum(s.read for s in steps), sum(s.written for s in steps), depthwise,
              depthwise * max(0, row.kernel_size - 3) / 2, activated, sum(s.weights for s in steps))
    return (0.0, len(steps) - sum(special), *special, *(value / GIGA for value in values))


def network_work(space: SearchSpace, archs: Iterable[Arch], num_classes: int | None = None) -> np.ndarray:
    """Archs -> (N, U)."""
    found = [np.sum([work(row) for row in space.rows(space.check(arch), num_classes)], axis=0) for arch in archs]
    found = np.array(found, dtype=float).reshape(-1, len(UNITS))
    found[:, 0] = 1
    return found


# ---- prices -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UnitPrices:
    """What each unit costs: `ms` (U,), none below 0. `noise` is the usual relative error of a measured network."""
    ms: np.ndarray
    noise: float

    @property
    def overhead_ms(self) -> float:
        return float(self.ms[0])

    def row_ms(self, row: Row) -> float:
        return float(np.dot(work(row), self.ms))


def fit_prices(amounts: np.ndarray, latency_ms: np.ndarray) -> UnitPrices:
    """Most likely prices of amounts (N, U) of work that took `latency_ms` (N,).

    Expectation-maximization of Student's t: least squares with weights, prior and bounds; then noise and weights anew.
    """
    parts = amounts / latency_ms[:, None]
    scale = np.where(parts.any(0), parts.mean(0), 1.0)
    parts, weights, variance = parts / scale, np.ones(len(parts)), 0.05**2
    for _ in range(ROUNDS):
        ridge = np.eye(len(UNITS)) * variance / SHARE**2
        shares = _nonnegative(parts.T @ (weights[:, None] * parts) + ridge, parts.T @ weights)
        errors = parts @ shares - 1
        freedom = max(len(parts) - np.count_nonzero(shares), len(parts) / 2)
        variance = max(float(weights @ errors**2) / freedom, LEAST_NOISE**2)
        weights = (TAIL + 1) / (TAIL + errors**2 / variance)
    return UnitPrices(shares / scale, math.sqrt(variance))


def _nonnegative(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """The x >= 0 with the least x'Mx/2 - v'x, M positive definite: active sets, Lawson and Hanson 1974."""
    x, free = np.zeros(len(vector)), np.zeros(len(vector), dtype=bool)
    for _ in range(10 * len(vector)):
        slope = np.where(free, -np.inf, vector - matrix @ x)
        if slope.max() <= 1e-9 * np.abs(vector).max():
            break
        free[slope.argmax()] = True
        while free.any():
            wanted = np.zeros_like(x)
            wanted[free] = np.linalg.solve(matrix[np.ix_(free, free)], vector[free])
            low = free & (wanted <= 0)
            if not low.any():
                x = wanted
                break
            step = np.min(x[low] / (x[low] - wanted[low]))
            x = x + step * (wanted - x)
            free &= x > 1e-12
            x[~free] = 0
    return x


def predict_held_out(amounts: np.ndarray, latency_ms: np.ndarray, seed: int = 0) -> np.ndarray:
    """(N,) ms, each network priced by a fit on others: on nine tenths of those there are, repeats left out with it."""
    networks = np.unique(amounts, axis=0, return_inverse=True)[1].ravel()
    predicted_ms = np.empty(len(amounts))
    for part in np.array_split(np.random.default_rng(seed).permutation(networks.max() + 1), FOLDS):
        out = np.isin(networks, part)
        predicted_ms[out] = amounts[out] @ fit_prices(amounts[~out], latency_ms[~out]).ms
    return predicted_ms


def checked_latencies(archs: Sequence[Arch], latency_ms: Sequence[float]) -> np.ndarray:
    """Measured latencies (N,) of so many archs; raises `InputError` for values that none can have."""
    try:
        found = np.asarray(latency_ms, dtype=float)
    except (TypeError, ValueError):
        raise InputError(f'latency_ms {latency_ms!r:.60} is not a list of numbers; give one an arch') from None
    if found.shape != (len(archs),):
        raise InputError(f'latency_ms has the shape {found.shape}, archs are {len(archs)}; give one value an arch')
    distinct = len(set(archs))
    if distinct < MIN_NETWORKS:
        raise InputError(f'{distinct} measured networks are too few; measure at least {MIN_NETWORKS}, better 20')
    for arch, ms in zip(archs, found.tolist()):
        if not MIN_MS <= ms <= MAX_MS:
            raise InputError(f'latency_ms {ms} of arch {arch} is not within {MIN_MS:g} to {MAX_MS:g}; measure it again')
    return found


# ---- files --------------------------------------------------------------------------------------------------------


def read_networks(path: str | Path, space: SearchSpace) -> tuple[list[Arch], list[float]]:
    """Measured networks of a file, checked: archs and ms; raises `InputError` naming the line.

    CSV with the columns `arch` (as text, in quotes) and `latency_ms`, or JSON lines with these fields, where the fields
    of an arch may stand in place of `arch`.
    """
    where = f'networks {Path(path).name}'
    try:
        with open(path, encoding='utf-8-sig', newline='') as file:
            is_csv = Path(path).suffix == '.csv'
            entries = csv_entries(file, where, COLUMNS) if is_csv else _json_entries(file, where)
            found = [_network(entry, f'{where} line {number}', space) for number, entry in entries]
    except (OSError, UnicodeDecodeError):
        raise InputError(
            f'networks {str(path)!r:.120} cannot be read; give a .csv with the columns {listed(COLUMNS)}') from None
    return [arch for arch, _ in found], [ms for _, ms in found]


def csv_entries(file: TextIO, where: str, needed: Sequence[str], optional: Sequence[str] = ()) -> Iterator[tuple]:
    """(number, fields) of each line of CSV with a header; raises `InputError` naming the line."""
    reader = csv.DictReader(file, strict=True)
    try:
        columns = list(reader.fieldnames or ())
        if not set(needed) <= set(columns) <= {*needed, *optional} or len(set(columns)) < len(columns):
            raise InputError(
                f'{where} line 1: {listed(columns)!r:.80} are not the columns; write {",".join([*needed, *optional])}')
        for entry in reader:
            if None in entry or None in entry.values():
                raise InputError(
                    f'{where} line {reader.line_num} has not {len(columns)} values; put those with commas in quotes')
            yield reader.line_num, entry
    except csv.Error as error:
        raise InputError(f'{where} line {reader.line_num + 1} is not CSV ({error}); mend it') from None


def _json_entries(file: TextIO, where: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(file, 1):
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError):
            raise InputError(f'{where} line {number} is not JSON; write an object a line') from None


def _network(entry: Any, where: str, space: SearchSpace) -> tuple[Arch, float]:
    if not isinstance(entry, Mapping) or 'latency_ms' not in entry:
        raise InputError(f'{where}: {entry!r:.60} has no latency_ms; add it')
    arch, value = {k: v for k, v in entry.items() if k != 'latency_ms'}, entry['latency_ms']
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise InputError(f'{where}: latency_ms {value!r:.40} is not a number; give milliseconds')
    try:
        ms = float(value)
    except (ValueError, OverflowError):
        raise InputError(f'{where}: latency_ms {value!r:.40} is not a number; give milliseconds') from None
    if not MIN_MS <= ms <= MAX_MS:
        raise InputError(
            f'{where}: latency_ms {value!r:.40} is not within {MIN_MS:g} to {MAX_MS:g}; remove the line')
    try:
        if set(arch) == {'arch'} and isinstance(arch['arch'], str):
            return space.parse(arch['arch']), ms
        return space.check(Arch.from_dict(arch['arch'] if set(arch) == {'arch'} else arch)), ms
    except InputError as error:
        raise InputError(f'{where}: {error}') from None
