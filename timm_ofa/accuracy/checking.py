"""Whether records can be learned from, and how wrong predictions are on networks that were held out.

Legend: N networks, P positions.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import ArrayLike

from ..devices import kendall_tau
from ..errors import InputError
from ..spaces import Arch, SearchSpace
from .numbering import Predictor

MIN_SAMPLES = 10
FOLDS = 5
Learn = Callable[[SearchSpace, np.ndarray, np.ndarray], Predictor]  # (space, codes, top-1 in percent) -> predictor


def checked_records(space: SearchSpace, archs: Iterable[Arch], top1_pct: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Codes (N, 1 + P) and percent (N,) of judged networks; raises `InputError` if no fit can use them."""
    codes, top1 = space.encode(archs), np.asarray(top1_pct, dtype=float)
    if top1.shape != (len(codes),):
        raise InputError(f'top1_pct has the shape {top1.shape}, archs are {len(codes)}; give one value an arch')
    different = len(np.unique(codes, axis=0))
    if different < MIN_SAMPLES:
        raise InputError(f'{different} evaluated networks are too few; collect at least {MIN_SAMPLES}')
    if not np.isfinite(top1).all() or top1.min() < 0 or top1.max() > 100:
        raise InputError(f'top1_pct from {top1.min()} to {top1.max()} is not percent; give 0 to 100')
    if top1.max() <= 1:
        raise InputError(f'top1_pct up to {top1.max()} looks like a fraction; give percent, e.g. 76.5')
    return codes, top1


def held_out(learn: Learn, space: SearchSpace, codes: np.ndarray, top1: np.ndarray, seed: int) -> np.ndarray:
    """Predictions (N,) for the networks of each fold, by a predictor that learned from the other folds.

    All records of one network are in the same fold.
    """
    predicted = np.empty_like(top1)
    _, first, which = np.unique(codes, axis=0, return_index=True, return_inverse=True)
    network = np.argsort(np.argsort(first))[which.ravel()]  # (N,) numbered in the order in which they appear
    for fold in np.array_split(np.random.default_rng(seed).permutation(len(first)), FOLDS):
        test = np.isin(network, fold)
        predicted[test] = learn(space, codes[~test], top1[~test]).predict_codes(codes[test], space)
    return predicted


def held_out_error(predicted: np.ndarray, top1: np.ndarray) -> dict:
    """The error of held-out predictions (N,): the `check` of a predictor."""
    return {
        'kendall_tau': round(kendall_tau(predicted, top1), 4),
        'rmse_pct': round(float(np.sqrt(np.mean((predicted - top1) ** 2))), 4), 'n': len(top1), 'folds': FOLDS}
