"""The networks that a search has judged: the front, the networks near it, and what was judged before.

Legend: N networks, P positions, C codes of a position.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ..spaces import CostTable, SearchSpace
from .additive import fit_additive
from .limits import within
from .problem import Problem, leading

KEPT = 2000  # networks nearest to the front
PRICED = 0.85  # the price of cost at a cap is the slope of the front from this share of the cap up to the cap
RIDGE = 0.3  # penalty of the additive model, in networks
SLOTS = 20  # bits of a hash that give a slot; a slot remembers the last network only
GROWN = 1.3  # the additive model is fitted again after so many times as many networks were judged


class Predictor(Protocol):
    """What a search needs of a predictor; see `strategy` for what it may have besides."""

    def predict_codes(self, codes: np.ndarray, space: SearchSpace) -> np.ndarray:
        """Accuracies (N,) in percent of networks (N, 1 + P)."""

    def resolutions(self, space: SearchSpace) -> Sequence[int]:
        """The resolutions of a space (px) that it can judge."""


class Pool:
    """Networks within the limits, with their accuracies. It asks the predictor, and remembers the answers."""

    def __init__(self, problem: Problem, predictor: Predictor) -> None:
        self.problem, self.predictor = problem, predictor
        width = 1 + len(problem.index)
        self.hash = np.random.default_rng(0).integers(1, 2**63, width, dtype=np.uint64) | np.uint64(1)
        self.seen_key = np.zeros(1 << SLOTS, dtype=np.uint64)  # for each slot: the hash of its last network
        self.seen_top1 = np.zeros(1 << SLOTS)  # for each slot: the percent of its last network
        self.judged = 0  # networks
        self.codes = np.zeros((0, width), dtype=np.int64)
        self.top1, self.cost = np.zeros((2, 0))  # in percent; on the axis
        self.history: list[tuple[int, float]] = []  # (networks judged, best percent)
        self.fresh: list[tuple[np.ndarray, np.ndarray]] = []  # codes and percent of what was judged since `record`
        self.fitted = 0  # networks judged when `additive` was fitted, which serves a predictor without slopes

    def keys(self, codes: np.ndarray) -> np.ndarray:
        """Hashes (N,) of codes (N, 1 + P)."""
        return ((codes.astype(np.uint64) + np.uint64(1)) * self.hash).sum(1)

    def judge(self, codes: np.ndarray) -> np.ndarray:
        """Accuracies (N,) of networks in percent. `record` keeps the networks that are within the limits.

        The predictor is asked for a network only once, unless another network has taken its slot since.
        """
        keys, first, place = np.unique(self.keys(codes), return_index=True, return_inverse=True)
        slot = keys >> np.uint64(64 - SLOTS)
        new = np.flatnonzero(self.seen_key[slot] != keys)
        top1 = self.seen_top1[slot]
        if new.size:
            asked = codes[first[new]]
            top1[new] = self.predictor.predict_codes(asked, self.problem.space)
            self.seen_key[slot[new]], self.seen_top1[slot[new]] = keys[new], top1[new]
            self.judged += new.size
            self.fresh.append((asked, top1[new]))
        return top1[place]

    def slopes(self, codes: np.ndarray) -> np.ndarray:
        """What each choice of each block adds to networks like these (N, P, C), in points of accuracy.

        The predictor tells, or, if it cannot, an additive model of its answers.
        """
        if hasattr(self.predictor, 'block_slopes'):
            return self.predictor.block_slopes(codes, self.problem.space)
        if self.judged > GROWN * self.fitted:
            self.additive: CostTable = fit_additive(self.problem.space, self.codes, self.top1, RIDGE)
            self.fitted = self.judged
        return self.additive.table[codes[:, 0]]

    def price(self, caps: np.ndarray) -> np.ndarray:
        """How many points of accuracy a unit of cost is worth (N,): the slope of the front just below caps (N,)."""
        high = np.minimum(caps, self.front_cost[-1])
        low = np.maximum(PRICED * high, self.front_cost[0])
        rise = self._front_at(high) - self._front_at(low)
        return np.divide(rise, high - low, out=np.zeros_like(high), where=high > low)

    def _front_at(self, cost: np.ndarray) -> np.ndarray:
        return self.front_top1[np.searchsorted(self.front_cost, cost, side='right') - 1]

    def record(self) -> None:
        """Keep the newly judged networks that are within the limits and near the front; add a point to the history."""
        codes, top1 = map(np.concatenate, zip((self.codes, self.top1), *self.fresh))
        fits = self.problem.excess(codes) <= 0
        codes, top1, self.fresh = codes[fits], top1[fits], []
        cost = self.problem.axis(codes)
        order = np.lexsort((-top1, cost))
        self.front_cost, self.front_top1 = cost[order], np.maximum.accumulate(top1[order])
        gap = self._front_at(cost) - top1
        kept = np.sort(np.argsort(gap, kind='stable')[:max(KEPT, (gap <= 0).sum())])  # a front is never cut
        self.codes, self.top1, self.cost = codes[kept], top1[kept], cost[kept]
        if kept.size:
            self.history.append((self.judged, float(self.top1.max())))

    def front(self) -> np.ndarray:
        """Indices of the networks that no other network beats, the cheapest first."""
        found = leading(self.cost, self.top1)
        cost = self.cost[found]
        return found[np.append(~within(cost[1:], cost[:-1]), True)[:len(found)]]  # of equal costs, the best network
