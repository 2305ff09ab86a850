"""What a device charges for a unit of work, learned from 10 to 50 networks that were measured whole.

A network costs an overhead and its work (`work`). One price for each unit, none below 0, gives every row of every space
a price. The same few prices say that a GPU spends batch 1 on starting operators and batch 64 on moving values: the size
of the batch is in the prices.

Errors are relative to the latency and taken to follow Student's t, so that a slow moment of the device counts little.

Legend: N networks, U units.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..spaces import Arch, Row
from .work import UNITS, work

MIN_NETWORKS = 10
MIN_MS, MAX_MS = 1e-6, 1e7  # of a latency; what lies outside is nonsense
FOLDS = 10
SHARE = 0.3  # prior: each unit makes up 0 +- 30 % of an average latency
TAIL = 3.0  # degrees of freedom of Student's t
LEAST_NOISE = 1e-3  # of a latency
ROUNDS = 40
FAR = 3.0  # times slower or faster than the other networks say: no noise


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
    from scipy.optimize import nnls

    parts = amounts / latency_ms[:, None]
    scale = np.where(parts.any(0), parts.mean(0), 1.0)
    parts, weights, variance = parts / scale, np.ones(len(parts)), 0.05**2
    for _ in range(ROUNDS):
        root, ridge = np.sqrt(weights), np.eye(len(UNITS)) * math.sqrt(variance) / SHARE
        shares, _ = nnls(np.vstack([root[:, None] * parts, ridge]), np.append(root, np.zeros(len(UNITS))))
        errors = parts @ shares - 1
        freedom = max(len(parts) - np.count_nonzero(shares), len(parts) / 2)
        variance = max(float(weights @ errors**2) / freedom, LEAST_NOISE**2)
        weights = (TAIL + 1) / (TAIL + errors**2 / variance)
    return UnitPrices(shares / scale, math.sqrt(variance))


def outliers(amounts: np.ndarray, latency_ms: np.ndarray) -> np.ndarray:
    """Which latencies (N,) are too far from what the others say to be noise, for example in another unit.

    It begins with the unit of work that the latencies follow best, whatever single ones do, and goes on with prices.
    """
    parts = amounts[:, (amounts > 0).all(0)]
    log_prices = np.log(latency_ms[:, None] / parts)
    errors = log_prices - np.median(log_prices, 0)
    spread = np.median(np.abs(errors), 0)
    found = _far(errors[:, spread.argmin()])
    for _ in range(FOLDS):
        predicted_ms = amounts @ fit_prices(amounts[~found], latency_ms[~found]).ms
        before, found = found, _far(np.log(latency_ms / predicted_ms))
        if (found == before).all():
            break
    return found


def _far(errors: np.ndarray) -> np.ndarray:
    """Which logarithms of a ratio (N,) are neither noise of the usual size nor below the factor `FAR`."""
    usual = np.median(np.abs(errors)) / 0.6745  # the standard deviation of normal noise
    return np.abs(errors) > max(math.log(FAR), 6 * usual)


def predict_held_out(amounts: np.ndarray, latency_ms: np.ndarray, seed: int = 0) -> np.ndarray:
    """(N,) ms: each network is priced by a fit on nine tenths of the networks, none of which is the same one."""
    networks = np.unique(amounts, axis=0, return_inverse=True)[1].ravel()
    predicted_ms = np.empty(len(amounts))
    for part in np.array_split(np.random.default_rng(seed).permutation(networks.max() + 1), FOLDS):
        out = np.isin(networks, part)
        predicted_ms[out] = amounts[out] @ fit_prices(amounts[~out], latency_ms[~out]).ms
    return predicted_ms


def checked_latencies(archs: Sequence[Arch], latency_ms: Sequence[float]) -> np.ndarray:
    """The measured latencies (N,) of N archs; raises `InputError` for values that no latency can have."""
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
