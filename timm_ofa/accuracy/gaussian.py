"""A Gaussian process that predicts accuracy from some dozens of judged networks: `AccuracyPredictor`.

Its covariance is a linear part in descriptive features plus a smooth part. The features say what matters, so few
samples are enough. The strengths of both parts are those of the highest marginal likelihood.

Legend: N networks, P positions, D features, M networks it was fitted on.
"""
from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from ..spaces import Arch, SearchSpace
from .checking import checked_records, held_out, held_out_error
from .features import feature_groups
from .numbering import Predictor
from .predictor_files import read_predictor, reading, write_predictor

LENGTHS = (1.0, 2.0, 4.0)  # of the smooth part, in standardized features
SMOOTHS = (0.0, 0.3, 1.0, 3.0)  # weight of the smooth part against the linear part
RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)  # noise; high if few images judge


@dataclass(frozen=True)
class Strengths:
    """What marginal likelihood decides."""
    length: float  # of the smooth part
    smooth: float  # weight of the smooth part
    ridge: float  # variance of the noise


class AccuracyPredictor(Predictor):
    """Top-1 of any network of a space, in percent, and how unsure it is. `check` is the error on held-out folds."""

    def __init__(self, space: SearchSpace, codes: np.ndarray, alpha: np.ndarray, mean_pct: float,
                 strengths: Strengths, check: dict):
        """`fit` or `load` call this: training codes (M, 1 + P), dual weights (M,)."""
        self.space, self.codes, self.alpha, self.mean_pct = space, codes, alpha, mean_pct
        self.strengths, self.check = strengths, check
        self.seen = {space.resolutions[i] for i in np.unique(space.frames[codes[:, 0], 0])}
        groups = feature_groups(space, codes)
        self._center = [g.mean(0) for g in groups]
        self._scale = [np.where(g.std(0) > 1e-9, g.std(0), np.inf) * np.sqrt(g.shape[1]) for g in groups]
        self._known = self._features(codes)

    def _features(self, codes: np.ndarray) -> np.ndarray:
        """Standardized features (N, D), each group with the same weight."""
        groups = zip(feature_groups(self.space, codes), self._center, self._scale)
        return np.concatenate([(g - center) / scale for g, center, scale in groups], 1)

    @classmethod
    def fit(cls, space: SearchSpace, archs: Iterable[Arch], top1_pct: ArrayLike, *, seed: int = 0) -> AccuracyPredictor:
        """Learn from judged networks; raises `InputError` for records that cannot be meant.

        Args:
            archs: M networks; a few dozen are enough, 100 to 500 are good.
            top1_pct: (M,) percent.
            seed: Draws the folds of the check.
        """
        codes, top1 = checked_records(space, archs, top1_pct)
        predicted = held_out(cls._learn, space, codes, top1, seed)
        predictor = cls._learn(space, codes, top1)
        predictor.check, predictor.held_out_pct = held_out_error(predicted, top1), predicted
        return predictor

    @classmethod
    def _learn(cls, space: SearchSpace, codes: np.ndarray, top1: np.ndarray) -> AccuracyPredictor:
        """Find the strengths of the highest marginal likelihood and their dual weights.

        Each kernel needs one eigendecomposition. (Choosing by leave-one-out error is as good with many clean records;
        with a few noisy ones it takes noise for signal.)
        """
        mean = float(top1.mean())
        blank = cls(space, codes, np.zeros(len(codes)), mean, Strengths(1.0, 0.0, 1.0), {})
        best = min(_fits(blank._known, top1 - mean), key=lambda fit: fit.unlikely)
        return cls(space, codes, best.vectors @ best.scaled, mean, best.strengths, {})

    def predict_codes(self, codes: np.ndarray, space: SearchSpace) -> np.ndarray:
        x = self._features(self.own_codes(codes, space))
        predicted = self.mean_pct + _kernel(x, self._known, self.strengths) @ self.alpha
        return predicted.clip(0, 100)

    def spread_codes(self, codes: np.ndarray, space: SearchSpace) -> np.ndarray:
        """How unsure the predictor is of codes (N, 1 + P): a standard deviation (N,) in points, without the noise of an
        evaluation."""
        x = self._features(self.own_codes(codes, space))
        cross = _kernel(x, self._known, self.strengths)
        own = (x**2).sum(1) + self.strengths.smooth
        return self._scale_pct * np.sqrt((own - (cross @ self._inverse * cross).sum(1)).clip(0))

    def spread(self, archs: Iterable[Arch]) -> np.ndarray:
        """`spread_codes` of archs, (N,) points."""
        return self.spread_codes(self.space.encode(archs), self.space)

    @cached_property
    def noise_pct(self) -> float:
        """The noise of an evaluation: a standard deviation in points.

        It is a mean over all strengths, each with its likelihood, and with Jeffreys' prior for the share of the noise
        in the variance. The most likely strengths alone take nearly all noise of 20 or 30 networks for signal.
        """
        fits = _fits(self._known, self._covariance @ self.alpha)
        unlikely, noise, share = np.array([(f.unlikely, f.scale * f.strengths.ridge, f.share) for f in fits]).T
        weights = np.exp((unlikely.min() - unlikely) / 2) * np.sqrt(share * (1 - share))
        return math.sqrt(np.average(noise, weights=weights))

    @cached_property
    def _covariance(self) -> np.ndarray:
        """Covariance (M, M) of the evaluations with their noise, in units of the process."""
        return _kernel(self._known, self._known, self.strengths) + self.strengths.ridge * np.eye(len(self.codes))

    @cached_property
    def _inverse(self) -> np.ndarray:
        return np.linalg.inv(self._covariance)

    @cached_property
    def _scale_pct(self) -> float:
        """The most likely scale of the process, in points."""
        return math.sqrt(self.alpha @ self._covariance @ self.alpha / len(self.alpha))

    def save(self, path: str | Path) -> None:
        """Write `path` (.safetensors) and a readable .json beside it."""
        write_predictor(path, {'codes': self.codes, 'alpha': self.alpha}, {
            'kind': 'fitted', 'space': self.space.to_dict(), 'mean_pct': self.mean_pct, 'check': self.check,
            'strengths': vars(self.strengths)})

    @classmethod
    def load(cls, path: str | Path) -> AccuracyPredictor:
        """The inverse of `save`; raises `InputError` for a file that `save` would not have written."""
        return cls.from_file(*read_predictor(path), Path(path).name)

    @classmethod
    def from_file(cls, about: Mapping, arrays: Mapping[str, np.ndarray], name: str) -> AccuracyPredictor:
        """The predictor of a file with this name, if `save` would have written it."""
        with reading(name):
            space = SearchSpace.from_dict(about['space'], f'predictor {name}: space')
            codes, alpha, check = arrays['codes'], arrays['alpha'], dict(about['check'])
            strengths = Strengths(**{k: float(v) for k, v in about['strengths'].items()})
            mean_pct = float(about['mean_pct'])
            errors = [float(check.get(key, 0)) for key in ('kendall_tau', 'rmse_pct', 'n')]
            legal = len(codes) > 0 and np.array_equal(space.encode(space.decode(codes)), codes)
        if codes.dtype != np.int64 or not legal:
            raise InputError(f'predictor {name!r:.120} does not fit its space {space.name!r}; fit it again')
        numbers = [mean_pct, *vars(strengths).values(), *errors]
        if alpha.shape != (len(codes),) or not np.isfinite([*alpha, *numbers]).all() or min(
                strengths.length, strengths.ridge) <= 0 or strengths.smooth < 0:
            raise InputError(f'predictor {name!r:.120} holds values out of range; fit it again')
        return cls(space, codes, alpha.astype(float), mean_pct, strengths, check)


class _Fit(NamedTuple):
    """What the records say of some strengths."""
    strengths: Strengths
    unlikely: float  # -2 log of the marginal likelihood, but for a constant
    scale: float  # of the process, a variance; in closed form
    share: float  # of the noise in the variance of an evaluation
    vectors: np.ndarray  # (M, M) of the kernel
    scaled: np.ndarray  # (M,) dual weights along these


def _fits(x: np.ndarray, y: np.ndarray) -> Iterator[_Fit]:
    """Of features (M, D) and deviations from the mean (M,): the fit of all strengths."""
    for length, smooth in itertools.product(LENGTHS, SMOOTHS):
        if not smooth and length != LENGTHS[0]:
            continue  # without a smooth part its length means nothing
        kernel = _kernel(x, x, Strengths(length, smooth, 0.0))
        values, vectors = np.linalg.eigh(kernel)
        projected = vectors.T @ y
        for ridge in RIDGES:
            variances = values.clip(0) + ridge
            scale = float(np.mean(projected**2 / variances)) + 1e-12
            unlikely = len(y) * math.log(scale) + float(np.log(variances).sum())
            share = ridge / (ridge + float(np.diag(kernel).mean()))
            yield _Fit(Strengths(length, smooth, ridge), unlikely, scale, share, vectors, projected / variances)


def _kernel(a: np.ndarray, b: np.ndarray, strengths: Strengths) -> np.ndarray:
    """Linear plus smooth covariance (N, M) of features (N, D) and (M, D)."""
    linear = a @ b.T
    if not strengths.smooth:
        return linear
    distance = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * linear
    return linear + strengths.smooth * np.exp(-distance / (2 * strengths.length**2))
