"""What all predictors share, and how they read the networks of a restricted space.

Legend: N networks, P positions, F frames, C choices of a block.
"""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Iterable
from typing import NamedTuple

import numpy as np

from ..errors import InputError, listed
from ..spaces import Arch, SearchSpace


class Predictor(ABC):
    """Top-1 of any network of a space, in percent."""
    space: SearchSpace
    seen: Collection[int]  # resolutions (px) that it was fitted on
    check: dict | None = None  # error on held-out networks
    held_out_pct: np.ndarray | None = None  # (N,) after `fit`: predicted for each network without learning from it
    _numbering: _Numbering | None = None  # of the space whose codes were asked for last

    def predict(self, archs: Iterable[Arch]) -> np.ndarray:
        """Top-1 (N,) in percent."""
        return self.predict_codes(self.space.encode(archs), self.space)

    @abstractmethod
    def predict_codes(self, codes: np.ndarray, space: SearchSpace) -> np.ndarray:
        """Top-1 (N,) in percent of codes (N, 1 + P) of `space`, the predictor's own space or a restriction of it."""

    def resolutions(self, space: SearchSpace) -> tuple[int, ...]:
        """The resolutions (px) of the space that the predictor knows."""
        return tuple(r for r in space.resolutions if r in self.seen)

    def spread(self, archs: Iterable[Arch]) -> np.ndarray | None:
        """How unsure it is, as a standard deviation (N,) in points; None: it does not know."""
        return None

    def own_codes(self, codes: np.ndarray, space: SearchSpace) -> np.ndarray:
        """Codes (N, 1 + P) of `space`, a restriction of the own space, as codes of the own space."""
        numbering = self._numbering
        if numbering is None or numbering.space is not space:
            numbering = self._numbering = _Numbering.of(self.space, space)
        return numbering(codes)


class _Numbering(NamedTuple):
    """From the codes of a restricted space to those of the predictor's own space."""
    space: SearchSpace  # the restricted one; F and P are its frames and positions
    parts: list[tuple[str, np.ndarray]]  # what a frame is made of: name, and which own choice (F,) it is; -1: none
    frames: np.ndarray  # (F,) the own frame
    blocks: np.ndarray  # (P, C) the own choice; -1: none
    columns: np.ndarray  # (P,) the own column; one past the end: the own space has no such position
    width: int  # of the own codes
    same: bool  # both spaces are the same

    @classmethod
    def of(cls, own: SearchSpace, space: SearchSpace) -> _Numbering:
        """Raises `InputError` if `space` is not a restriction of the own space."""
        if space.name != own.name or len(space.stages) != len(own.stages):
            raise InputError(f'predictor of {own.name!r} cannot judge {space.name!r:.60}; fit one for it')
        choices = [
            ('resolutions', own.resolutions, space.resolutions), ('stem_widths', own.stem_widths, space.stem_widths),
            *(('widths', a.widths, b.widths) for a, b in zip(own.stages, space.stages))]
        parts = [(f'{name} {listed(b)}', _places(a, b)[part]) for (name, a, b), part in zip(choices, space.frames.T)]
        frames = np.ravel_multi_index([place.clip(0) for _, place in parts], own.frame_sizes)
        column = {position: p for p, position in enumerate(own.positions, 1)}
        blocks = np.zeros((len(space.positions), 1 + space.choice_counts.max()), dtype=np.int64)
        for p, position in enumerate(space.positions):
            known = own.choices(column[position] - 1) if position in column else []
            blocks[p, 1:1 + len(space.choices(p))] = _places([None, *known], space.choices(p))
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


def _places(own: Iterable[Hashable], theirs: Iterable[Hashable]) -> np.ndarray:
    """At which place each of `theirs` is in `own`; -1: it is not there."""
    place = {choice: i for i, choice in enumerate(own)}
    return np.array([place.get(choice, -1) for choice in theirs])
