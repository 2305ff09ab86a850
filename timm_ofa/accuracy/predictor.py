"""How accurate a network will be, learned from some dozens of evaluations: `AccuracyPredictor`.

A Gaussian process whose mean is linear in descriptive features (which block has which kernel and width, what a stage
adds up to, cost and resolution) plus a smooth part. Few samples are enough because the features say what matters; the
strengths are those of the highest marginal likelihood. Knows no torch.

Legend: N networks, D features, P positions, F frames.
"""
from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..devices import kendall_tau
from ..errors import InputError, listed
from ..files import replacing, write_text
from ..searching import fit_additive
from ..spaces import Arch, CostTable, SearchSpace

MIN_SAMPLES = 10
LENGTHS = (1.0, 2.0, 4.0)  # of the smooth part, in standardized features
SMOOTHS = (0.0, 0.3, 1.0, 3.0)  # weight of the smooth part against the linear one
RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)  # noise; much of it where few images judge
FOLDS = 5
FORMAT = 1


class Predictor:
    """What predictors share: archs to codes, and codes of a restricted space to those of the own one."""
    space: SearchSpace
    ceiling_pct: float | None = None  # the most that it can say, where that is below what networks reach
    _numbering: _Numbering | None = None  # of the space whose codes were asked for last
    held_out_pct: np.ndarray | None = None  # of fitting, (N,): what was said of each network without learning from it

    def predict(self, archs: Iterable[Arch]) -> np.ndarray:
        """Top-1 (N,) in percent."""
        return self.predict_codes(self.space.encode(archs), self.space)

    def own_codes(self, codes: np.ndarray, space: SearchSpace) -> np.ndarray:
        """Codes (N, 1 + P) of `space`, a restriction of the predictor's, in the predictor's own numbering."""
        numbering = self._numbering
        if numbering is None or numbering.space is not space:
            numbering = self._numbering = _Numbering.of(self.space, space)
        return numbering(codes)


class _Numbering(NamedTuple):
    """From the codes of a space to those of another one."""
    space: SearchSpace  # whose codes these are
    parts: list[tuple[str, np.ndarray]]  # of a frame: its choices, which of the other's (F,) each frame has; -1: none
    frames: np.ndarray  # (F,) the other's
    blocks: np.ndarray  # (P, C) likewise
    columns: np.ndarray  # (P,) of the other's codes; one past its end for positions that it lacks
    width: int  # of the other's codes
    same: bool  # both are one space

    @classmethod
    def of(cls, own: SearchSpace, space: SearchSpace) -> _Numbering:
        """Raises `InputError` where one space is no restriction of the other."""
        if space.name != own.name or len(space.stages) != len(own.stages):
            raise InputError(f'predictor of {own.name!r} cannot judge {space.name!r:.60}; fit one for it')
        choices = [
            ('resolutions', own.resolutions, space.resolutions), ('stem_widths', own.stem_widths, space.stem_widths),
            *(('widths', a.widths, b.widths) for a, b in zip(own.stages, space.stages))]
        parts = [(f'{name} {listed(b)}', _places(a, b)[part]) for (name, a, b), part in zip(choices, space.frames.T)]
        frames = np.ravel_multi_index([place.clip(0) for _, place in parts], own.frame_sizes)
        column = {position: p for p, position in enumerate(own.positions, 1)}
        most = max(len(space.choices(stage)) for stage in range(len(space.stages)))
        blocks = np.zeros((len(space.positions), 1 + most), dtype=np.int64)
        for p, (stage, j) in enumerate(space.positions):
            known = own.choices(stage) if (stage, j) in column else []
            blocks[p, 1:1 + len(space.choices(stage))] = _places([None, *known], space.choices(stage))
        columns = np.array([column.get(position, 1 + len(column)) for position in space.positions])
        return cls(space, parts, frames, blocks, columns, 1 + len(own.positions), own == space)

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        if self.same:
            return codes
        blocks = self.blocks[np.arange(len(self.columns)), codes[:, 1:]]
        for name, place in (*self.parts, ('blocks', None)):
            if ((blocks if place is None else place[codes[:, 0]]) < 0).any():
                raise InputError(f'{name}: some were not seen in fitting; restrict them')
        own = np.zeros((len(codes), self.width + 1), dtype=np.int64)
        own[:, 0], own[:, self.columns] = self.frames[codes[:, 0]], blocks
        return own[:, :-1]


def _places(own: Sequence[Hashable], theirs: Sequence[Hashable]) -> np.ndarray:
    """Where each of theirs is in `own`; -1: nowhere."""
    place = {choice: i for i, choice in enumerate(own)}
    return np.array([place.get(choice, -1) for choice in theirs])


def feature_groups(space: SearchSpace, codes: np.ndarray) -> list[np.ndarray]:
    """Features of codes (N, 1 + P), four groups (N, D_i): the choices of every position, their numbers, sums of every
    stage, and cost and resolution of the whole."""
    active = codes[:, 1:] > 0
    numbers = np.zeros((2, *active.shape))  # kernel size, expand ratio
    for p, (stage, _) in enumerate(space.positions):
        numbers[:, :, p] = np.array([(0, 0), *space.choices(stage)], dtype=float)[codes[:, 1 + p]].T
    kernels, ratios = numbers
    options = [sorted({v for s in space.stages for v in getattr(s, n)}) for n in ('kernel_sizes', 'expand_ratios')]
    choices = [active, *(kernels == k for k in options[0]), *(ratios == e for e in options[1])]
    widths = _widths(space, codes)
    choices += [width[:, None] == options for width, options in widths]
    sums = []
    for stage in range(len(space.stages)):
        inside = [p for p, (s, _) in enumerate(space.positions) if s == stage]
        depth, kernel, ratio = (x[:, inside].sum(1) for x in (active, kernels, ratios))
        sums += [depth, np.log(depth), kernel, ratio, np.sqrt(ratio), np.log(ratio)]
    macs, params = (np.log(table(codes)) for table in _cost_tables(space))
    resolutions = np.log(np.array(space.resolutions, dtype=float))
    resolution = resolutions[space.frames[codes[:, 0], 0]]
    whole = [macs, macs**2, params, resolution]
    if widths:  # a third of the error less for ResNet50D
        whole.append((resolution - resolutions.mean()) ** 2)
    return [
        np.concatenate(choices, 1).astype(float),
        np.concatenate([active, kernels, ratios, *(np.log(width)[:, None] for width, _ in widths)], 1),
        np.stack(sums, 1), np.stack(whole, 1)]


def _widths(space: SearchSpace, codes: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Where widths are elastic: channels (N,) and their choices, of the stem's first and last convolution and of each
    stage; also how many convolutions the stem has."""
    if not space.elastic_widths:
        return []
    _, stem, *widths = space.frames[codes[:, 0]].T
    tables = np.array([(s[0], s[-1], len(s)) for s in space.stem_widths], dtype=float).T
    found = [(table[stem], np.unique(table)) for table in tables]
    return [*found, *((np.array(s.widths)[width], np.array(s.widths)) for s, width in zip(space.stages, widths))]


@lru_cache(maxsize=16)
def _cost_tables(space: SearchSpace) -> tuple[CostTable, CostTable]:
    """MACs and parameters; a search asks hundreds of times."""
    return space.cost_table(lambda row: row.macs), space.cost_table(lambda row: row.params)


@dataclass(frozen=True)
class Strengths:
    """What marginal likelihood decides."""
    length: float  # of the smooth part
    smooth: float  # its weight
    ridge: float  # noise


class AccuracyPredictor(Predictor):
    """Top-1 of any network of a space, in percent. `check` holds the error on held-out folds."""

    def __init__(self, space: SearchSpace, codes: np.ndarray, alpha: np.ndarray, mean_pct: float,
                 strengths: Strengths, check: dict):
        """Made by `fit` or `load`: training codes (N, 1 + P), dual weights (N,)."""
        self.space, self.codes, self.alpha, self.mean_pct = space, codes, alpha, mean_pct
        self.strengths, self.check = strengths, check
        groups = feature_groups(space, codes)
        self._center = [g.mean(0) for g in groups]
        self._scale = [np.where(g.std(0) > 1e-9, g.std(0), np.inf) * np.sqrt(g.shape[1]) for g in groups]
        self._known = self._features(codes)

    def _features(self, codes: np.ndarray) -> np.ndarray:
        """Standardized features (N, D), each group with the same weight."""
        groups = zip(feature_groups(self.space, codes), self._center, self._scale)
        return np.concatenate([(g - center) / scale for g, center, scale in groups], 1)

    @classmethod
    def fit(cls, space: SearchSpace, archs: Iterable[Arch], top1_pct: Sequence[float], *, seed: int = 0,
            ) -> AccuracyPredictor:
        """Learn from evaluated networks.

        Args:
            archs: N networks; a few dozen do, 100 to 500 are good.
            top1_pct: (N,) percent.
            seed: Draws the folds of the check.
        """
        codes, top1 = checked_records(space, archs, top1_pct)
        predicted = held_out(cls._learn, space, codes, top1, seed)
        predictor = cls._solve(space, codes, top1, held_out_error(predicted, top1))
        predictor.held_out_pct = predicted
        return predictor

    @classmethod
    def _learn(cls, space: SearchSpace, codes: np.ndarray, top1: np.ndarray) -> AccuracyPredictor:
        return cls._solve(space, codes, top1, {})

    @classmethod
    def _solve(cls, space: SearchSpace, codes: np.ndarray, top1: np.ndarray, check: dict) -> AccuracyPredictor:
        """The strengths of the highest marginal likelihood, and their dual weights; one eigendecomposition a kernel.

        (Leave-one-out error is as good on many clean records, but on a few noisy ones it takes the noise for signal.)
        """
        mean = float(top1.mean())
        blank = cls(space, codes, np.zeros(len(codes)), mean, Strengths(1.0, 0.0, 1.0), check)
        x, best = blank._known, (np.inf, None, None)
        for length, smooth in itertools.product(LENGTHS, SMOOTHS):
            values, vectors = np.linalg.eigh(_kernel(x, x, Strengths(length, smooth, 0.0)))
            projected = vectors.T @ (top1 - mean)
            for ridge in RIDGES:
                variances = values.clip(0) + ridge
                fit = np.mean(projected**2 / variances) + 1e-12  # scale of the process, in closed form
                unlikely = len(top1) * np.log(fit) + np.log(variances).sum()
                if unlikely < best[0]:
                    best = unlikely, vectors @ (projected / variances), Strengths(length, smooth, ridge)
        return cls(space, codes, best[1], mean, best[2], check)

    def predict_codes(self, codes: np.ndarray, space: SearchSpace) -> np.ndarray:
        """Top-1 (N,) in percent of codes (N, 1 + P) of `space`, which is the predictor's or a restriction of it."""
        x = self._features(self.own_codes(codes, space))
        predicted = self.mean_pct + _kernel(x, self._known, self.strengths) @ self.alpha
        return predicted.clip(0, 100)

    def spread_codes(self, codes: np.ndarray, space: SearchSpace) -> np.ndarray:
        """How unsure the predictor is, a standard deviation (N,) in points: that of the process behind it, without the
        noise of an evaluation."""
        x = self._features(self.own_codes(codes, space))
        cross = _kernel(x, self._known, self.strengths)
        own = (x**2).sum(1) + self.strengths.smooth
        return self._scale_pct * np.sqrt((own - (cross @ self._inverse * cross).sum(1)).clip(0))

    def spread(self, archs: Iterable[Arch]) -> np.ndarray:
        """`spread_codes` of archs, (N,) points."""
        return self.spread_codes(self.space.encode(archs), self.space)

    @property
    def noise_pct(self) -> float:
        """The most likely noise of an evaluation, a standard deviation in points."""
        return self._scale_pct * math.sqrt(self.strengths.ridge)

    @cached_property
    def _covariance(self) -> np.ndarray:
        """Of the evaluations (M, M), noise included, in units of the process."""
        return _kernel(self._known, self._known, self.strengths) + self.strengths.ridge * np.eye(len(self.codes))

    @cached_property
    def _inverse(self) -> np.ndarray:
        return np.linalg.inv(self._covariance)

    @cached_property
    def _scale_pct(self) -> float:
        """The most likely scale of the process, in points."""
        return math.sqrt(self.alpha @ self._covariance @ self.alpha / len(self.alpha))

    def resolutions(self, space: SearchSpace) -> tuple[int, ...]:
        """Those of the space's resolutions (px) that were seen in fitting."""
        seen = {self.space.resolutions[i] for i in np.unique(self.space.frames[self.codes[:, 0], 0])}
        return tuple(r for r in space.resolutions if r in seen)

    def save(self, path: str | Path) -> None:
        """Write `path` (.safetensors) and a readable .json beside it."""
        write_predictor(path, {'codes': self.codes, 'alpha': self.alpha}, {
            'kind': 'fitted', 'space': self.space.to_dict(), 'mean_pct': self.mean_pct, 'check': self.check,
            'strengths': vars(self.strengths)})

    @classmethod
    def load(cls, path: str | Path) -> AccuracyPredictor:
        """The inverse of `save`; raises `InputError` for anything that `save` would not have written."""
        return cls.from_file(*read_predictor(path), Path(path).name)

    @classmethod
    def from_file(cls, about: Mapping, arrays: Mapping[str, np.ndarray], name: str) -> AccuracyPredictor:
        """The predictor of a file with this name, if `save` would have written it."""
        try:
            space = SearchSpace.from_dict(about['space'], f'predictor {name}: space')
            codes, alpha, check = arrays['codes'], arrays['alpha'], dict(about['check'])
            strengths = Strengths(**{k: float(v) for k, v in about['strengths'].items()})
            mean_pct = float(about['mean_pct'])
            errors = [float(check.get(name, 0)) for name in ('kendall_tau', 'rmse_pct', 'n')]
            legal = len(codes) > 0 and np.array_equal(space.encode(space.decode(codes)), codes)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            if isinstance(error, InputError):
                raise
            raise _unreadable(name) from None
        if codes.dtype != np.int64 or not legal:
            raise InputError(f'predictor {name!r:.120} does not fit its space {space.name!r}; fit it again')
        numbers = [mean_pct, *vars(strengths).values(), *errors]
        if alpha.shape != (len(codes),) or not np.isfinite([*alpha, *numbers]).all() or strengths.length <= 0:
            raise InputError(f'predictor {name!r:.120} holds values out of range; fit it again')
        return cls(space, codes, alpha.astype(float), mean_pct, strengths, check)


class AdditivePredictor(Predictor):
    """Top-1 as a sum over resolution, widths and blocks: less exact, but a search with it proves its result."""

    def __init__(self, space: SearchSpace, frames: np.ndarray, blocks: np.ndarray, seen: Sequence[int], check: dict):
        """Made by `fit` or `load`: percent of each frame (F,), points of each choice (P, C), resolutions seen (px)."""
        self.space, self.frames, self.blocks, self.seen, self.check = space, frames, blocks, tuple(seen), check

    @classmethod
    def fit(cls, space: SearchSpace, archs: Iterable[Arch], top1_pct: Sequence[float], *, seed: int = 0,
            ) -> AdditivePredictor:
        """Ridge regression on what was chosen; arguments as for `AccuracyPredictor.fit`."""
        codes, top1 = checked_records(space, archs, top1_pct)
        tried = {ridge: held_out(partial(cls._learn, ridge=ridge), space, codes, top1, seed) for ridge in RIDGES}
        ridge = min(tried, key=lambda ridge: np.mean((tried[ridge] - top1) ** 2))
        best = cls._learn(space, codes, top1, ridge)
        predictor = cls(space, best.frames, best.blocks, best.seen, held_out_error(tried[ridge], top1))
        predictor.held_out_pct = tried[ridge]
        return predictor

    @classmethod
    def _learn(cls, space: SearchSpace, codes: np.ndarray, top1: np.ndarray, ridge: float) -> AdditivePredictor:
        table = fit_additive(space, codes, top1, ridge)
        seen = [space.resolutions[i] for i in np.unique(space.frames[codes[:, 0], 0])]
        return cls(space, table.const, table.table[0].copy(), seen, {})

    def accuracy_table(self, space: SearchSpace) -> CostTable:
        """The sum as a table in percent, for the predictor's space or a restriction of it."""
        positions, most = len(space.positions), max(len(space.choices(s)) for s in range(len(space.stages)))
        frames = np.zeros((len(space.frames), 1 + positions), dtype=np.int64)
        frames[:, 0] = np.arange(len(frames))
        table = np.zeros((positions, 1 + most))
        for p, (stage, _) in enumerate(space.positions):
            codes = np.zeros((len(space.choices(stage)), 1 + positions), dtype=np.int64)
            codes[:, 1 + p] = np.arange(1, 1 + len(codes))
            table[p, 1:1 + len(codes)] = self._sum_blocks(self.own_codes(codes, space))
        const = self.frames[self.own_codes(frames, space)[:, 0]]
        return CostTable(const, np.broadcast_to(table, (len(const), *table.shape)))

    def _sum_blocks(self, codes: np.ndarray) -> np.ndarray:
        return self.blocks[np.arange(len(self.blocks)), codes[:, 1:]].sum(1)

    def predict_codes(self, codes: np.ndarray, space: SearchSpace) -> np.ndarray:
        """Top-1 (N,) in percent of codes (N, 1 + P) of `space`, which is the predictor's or a restriction of it."""
        own = self.own_codes(codes, space)
        return self.frames[own[:, 0]] + self._sum_blocks(own)

    def resolutions(self, space: SearchSpace) -> tuple[int, ...]:
        """Those of the space's resolutions (px) that were seen in fitting."""
        return tuple(r for r in space.resolutions if r in self.seen)

    def save(self, path: str | Path) -> None:
        """Write `path` (.safetensors) and a readable .json beside it."""
        write_predictor(path, {'frames': self.frames, 'blocks': self.blocks}, {
            'kind': 'additive', 'space': self.space.to_dict(), 'seen': list(self.seen), 'check': self.check})

    @classmethod
    def from_file(cls, about: Mapping, arrays: Mapping[str, np.ndarray], name: str) -> AdditivePredictor:
        """The predictor of a file with this name, if `save` would have written it."""
        try:
            space = SearchSpace.from_dict(about['space'], f'predictor {name}: space')
            frames, blocks, seen = arrays['frames'], arrays['blocks'], tuple(about['seen'])
            check = {key: float(about['check'][key]) for key in ('kendall_tau', 'rmse_pct', 'n', 'folds')}
            shape = len(space.positions), 1 + max(len(space.choices(s)) for s in range(len(space.stages)))
            legal = frames.shape == (len(space.frames),) and blocks.shape == shape and set(seen) <= set(
                space.resolutions) and np.isfinite([*frames, *blocks.ravel(), *check.values()]).all()
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            if isinstance(error, InputError):
                raise
            raise _unreadable(name) from None
        if not legal:
            raise InputError(f'predictor {name!r:.120} does not fit its space {space.name!r}; fit it again')
        return cls(space, frames.astype(float), blocks.astype(float), seen, check)


def checked_records(space: SearchSpace, archs: Iterable[Arch], top1_pct: Sequence[float],
                    ) -> tuple[np.ndarray, np.ndarray]:
    """Codes (N, 1 + P) and percent (N,) of evaluated networks; raises `InputError` for what no fit can take."""
    codes, top1 = space.encode(archs), np.asarray(top1_pct, dtype=float)
    if top1.shape != (len(codes),):
        raise InputError(f'top1_pct has the shape {top1.shape}, archs are {len(codes)}; give one value an arch')
    if len(codes) < MIN_SAMPLES:
        raise InputError(f'{len(codes)} evaluated networks are too few; collect at least {MIN_SAMPLES}')
    if not np.isfinite(top1).all() or top1.min() < 0 or top1.max() > 100:
        raise InputError(f'top1_pct from {top1.min()} to {top1.max()} is not percent; give 0 to 100')
    if top1.max() <= 1:
        raise InputError(f'top1_pct up to {top1.max()} looks like a fraction; give percent, e.g. 76.5')
    return codes, top1


def held_out(learn: Callable, space: SearchSpace, codes: np.ndarray, top1: np.ndarray, seed: int) -> np.ndarray:
    """What predictors say (N,) of networks that they did not learn from: `learn(space, codes, top1)` of each fold."""
    predicted = np.empty_like(top1)
    for test in np.array_split(np.random.default_rng(seed).permutation(len(top1)), FOLDS):
        train = np.setdiff1d(np.arange(len(top1)), test)
        predicted[test] = learn(space, codes[train], top1[train]).predict_codes(codes[test], space)
    return predicted


def held_out_error(predicted: np.ndarray, top1: np.ndarray) -> dict:
    """The `check` of a predictor: the error of held-out predictions (N,)."""
    return {
        'kendall_tau': round(kendall_tau(predicted, top1), 4),
        'rmse_pct': round(float(np.sqrt(np.mean((predicted - top1) ** 2))), 4), 'n': len(top1), 'folds': FOLDS}


def write_predictor(path: str | Path, arrays: Mapping[str, np.ndarray], about: Mapping) -> None:
    """A predictor's file (.safetensors), and the readable .json beside it."""
    from safetensors.numpy import save

    path = Path(path).with_suffix('.safetensors')
    with replacing(path) as temporary:
        temporary.write_bytes(save(dict(arrays)))
    write_text(path.with_suffix('.json'), json.dumps({'format': FORMAT, **about}, indent=1))


def read_predictor(path: str | Path) -> tuple[Mapping, dict[str, np.ndarray]]:
    """The inverse of `write_predictor`; raises `InputError`."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        path = Path(path).with_suffix('.safetensors')
        about, arrays = json.loads(path.with_suffix('.json').read_text(encoding='utf-8')), load_file(path)
    except (OSError, SafetensorError, ValueError, RecursionError):
        raise _unreadable(path) from None
    if not isinstance(about, Mapping) or about.get('format') != FORMAT:
        raise _unreadable(path)
    return about, arrays


def _unreadable(path: str | Path) -> InputError:
    return InputError(
        f'predictor {str(path)!r:.120} cannot be read; give what `timm-ofa fit` or `timm-ofa import-upstream` wrote')


def _kernel(a: np.ndarray, b: np.ndarray, strengths: Strengths) -> np.ndarray:
    """Linear plus smooth covariance (N, M) of features (N, D) and (M, D)."""
    linear = a @ b.T
    if not strengths.smooth:
        return linear
    distance = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * linear
    return linear + strengths.smooth * np.exp(-distance / (2 * strengths.length**2))
