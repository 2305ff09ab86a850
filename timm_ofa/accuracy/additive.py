"""Accuracy as a sum over resolution, widths and blocks: `AdditivePredictor`. A search with it can prove its result.

Legend: N networks, P positions, F frames, C choices of a block.
"""
from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from ..searching import UNKNOWN_PCT, fit_additive
from ..spaces import Arch, CostTable, SearchSpace
from .checking import checked_records, held_out, held_out_error
from .gaussian import RIDGES
from .numbering import Predictor
from .predictor_files import reading, write_predictor


class AdditivePredictor(Predictor):
    """Top-1 as a sum over resolution, widths and blocks. It is less exact than `AccuracyPredictor`.

    It does not know choices that no record has: no search takes such a network, and `predict` refuses it.
    """

    def __init__(self, space: SearchSpace, frames: np.ndarray, blocks: np.ndarray, seen: Collection[int], check: dict):
        """`fit` or `from_file` call this: percent of each frame (F,), points of each choice (P, C), resolutions."""
        self.space, self.frames, self.blocks, self.seen, self.check = space, frames, blocks, tuple(seen), check

    @classmethod
    def fit(cls, space: SearchSpace, archs: Iterable[Arch], top1_pct: ArrayLike, *, seed: int = 0) -> AdditivePredictor:
        """Ridge regression on the choices; arguments as for `AccuracyPredictor.fit`."""
        codes, top1 = checked_records(space, archs, top1_pct)
        tried = {ridge: held_out(partial(cls._learn, ridge=ridge), space, codes, top1, seed) for ridge in RIDGES}
        ridge = min(tried, key=lambda ridge: np.mean((tried[ridge] - top1) ** 2))
        best = cls._learn(space, codes, top1, ridge, UNKNOWN_PCT)
        predictor = cls(space, best.frames, best.blocks, best.seen, held_out_error(tried[ridge], top1))
        predictor.held_out_pct = tried[ridge]
        return predictor

    @classmethod
    def _learn(cls, space: SearchSpace, codes: np.ndarray, top1: np.ndarray, ridge: float, unknown_pct: float = 0.0,
               ) -> AdditivePredictor:
        table = fit_additive(space, codes, top1, ridge, unknown_pct)
        seen = [space.resolutions[i] for i in np.unique(space.frames[codes[:, 0], 0])]
        return cls(space, table.const, table.table[0].copy(), seen, {})

    def accuracy_table(self, space: SearchSpace) -> CostTable:
        """The sum as a table in percent, for the predictor's own space or a restriction of it."""
        positions, counts = len(space.positions), space.choice_counts
        frames = np.zeros((len(space.frames), 1 + positions), dtype=np.int64)
        frames[:, 0] = np.arange(len(frames))
        table = np.zeros((positions, 1 + counts.max()))
        for p in range(positions):
            codes = np.zeros((counts[p], 1 + positions), dtype=np.int64)
            codes[:, 1 + p] = np.arange(1, 1 + len(codes))
            table[p, 1:1 + len(codes)] = self._sum_blocks(self.own_codes(codes, space))
        const = self.frames[self.own_codes(frames, space)[:, 0]]
        return CostTable(const, np.broadcast_to(table, (len(const), *table.shape)))

    def block_slopes(self, codes: np.ndarray, space: SearchSpace) -> np.ndarray:
        """What each choice of each block adds (N, P, C), the same for all networks."""
        return np.repeat(self.accuracy_table(space).table[:1], len(codes), 0)

    def predict(self, archs: Iterable[Arch]) -> np.ndarray:
        """Top-1 (N,) in percent; raises `InputError` for a network with a choice that no record has."""
        archs = list(archs)
        top1 = super().predict(archs)
        if len(top1) and top1.min() <= UNKNOWN_PCT / 2:
            raise InputError(f'arch {archs[int(top1.argmin())]} has choices that no record of the predictor has; '
                             'collect more records, and fit it again')
        return top1

    def _sum_blocks(self, codes: np.ndarray) -> np.ndarray:
        return self.blocks[np.arange(len(self.blocks)), codes[:, 1:]].sum(1)

    def predict_codes(self, codes: np.ndarray, space: SearchSpace) -> np.ndarray:
        own = self.own_codes(codes, space)
        return self.frames[own[:, 0]] + self._sum_blocks(own)

    def save(self, path: str | Path) -> None:
        """Write `path` (.safetensors) and a readable .json beside it."""
        write_predictor(path, {'frames': self.frames, 'blocks': self.blocks}, {
            'kind': 'additive', 'space': self.space.to_dict(), 'seen': list(self.seen), 'check': self.check})

    @classmethod
    def from_file(cls, about: Mapping, arrays: Mapping[str, np.ndarray], name: str) -> AdditivePredictor:
        """The predictor of a file with this name, if `save` would have written it."""
        with reading(name):
            space = SearchSpace.from_dict(about['space'], f'predictor {name}: space')
            frames, blocks, seen = arrays['frames'], arrays['blocks'], tuple(about['seen'])
            kinds = {'kendall_tau': float, 'rmse_pct': float, 'n': int, 'folds': int}
            check = {key: kind(about['check'][key]) for key, kind in kinds.items()}
            shape = len(space.positions), 1 + space.choice_counts.max()
            legal = frames.shape == (len(space.frames),) and blocks.shape == shape and set(seen) <= set(
                space.resolutions) and np.isfinite([*frames, *blocks.ravel(), *check.values()]).all()
        if not legal:
            raise InputError(f'predictor {name!r:.120} does not fit its space {space.name!r}; fit it again')
        return cls(space, frames.astype(float), blocks.astype(float), seen, check)
