"""The networks that a search has judged: the front, what is near it, and what was seen before."""
from __future__ import annotations

import numpy as np

from .additive import fit_additive
from .limits import Problem

KEPT = 2000  # networks, the nearest to the front
PRICED = 0.85  # share of a cost from which on the rise of the front gives the price of cost
RIDGE = 0.3  # of the additive model, in networks
SLOTS = 20  # bits of a hash; of two networks with the same ones the later is remembered
GROWN = 1.3  # times as many networks judged, until it is fitted again


class Pool:
    """Networks within the limits, with their accuracies; it asks the predictor, and remembers."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        width = 1 + len(problem.index)
        self.hash = np.random.default_rng(0).integers(1, 2**63, width, dtype=np.uint64) | np.uint64(1)
        self.seen_key = np.zeros(1 << SLOTS, dtype=np.uint64)  # hash of the last network judged of each slot
        self.seen_top1 = np.zeros(1 << SLOTS)  # its percent
        self.judged = 0  # networks
        self.codes = np.zeros((0, width), dtype=np.int64)
        self.top1, self.cost = np.zeros((2, 0))  # percent, on the axis
        self.history: list[tuple[int, float]] = []  # (judged, best percent)
        self.fresh: list[tuple[np.ndarray, np.ndarray]] = []  # codes and percent, judged since `record`
        self.additive, self.fitted = None, 0  # where the predictor has no slopes: a model, of how many networks

    def keys(self, codes: np.ndarray) -> np.ndarray:
        """Hashes (N,) of codes (N, 1 + P)."""
        return ((codes.astype(np.uint64) + np.uint64(1)) * self.hash).sum(1)

    def judge(self, codes: np.ndarray) -> np.ndarray:
        """Accuracies (N,) of networks in percent; `record` keeps those within the limits.

        None is asked for twice, unless another one has taken its slot since.
        """
        keys, first, place = np.unique(self.keys(codes), return_index=True, return_inverse=True)
        slot = keys >> np.uint64(64 - SLOTS)
        new = np.flatnonzero(self.seen_key[slot] != keys)
        top1 = self.seen_top1[slot]
        if new.size:
            asked = codes[first[new]]
            top1[new] = self.problem.predictor.predict_codes(asked, self.problem.space)
            self.seen_key[slot[new]], self.seen_top1[slot[new]] = keys[new], top1[new]
            self.judged += new.size
            self.fresh.append((asked, top1[new]))
        return top1[place]

    def slopes(self, codes: np.ndarray) -> np.ndarray:
        """What each choice of each block adds (N, P, C) to networks like these, in points: as the predictor says, or
        an additive model of what it said."""
        if hasattr(self.problem.predictor, 'block_slopes'):
            return self.problem.predictor.block_slopes(codes, self.problem.space)
        if self.judged > GROWN * self.fitted:
            self.additive, self.fitted = fit_additive(self.problem.space, self.codes, self.top1, RIDGE), self.judged
        return self.additive.table[codes[:, 0]]

    def price(self, caps: np.ndarray) -> np.ndarray:
        """Points of accuracy that a unit of cost is worth at the front, (N,), just below caps (N,)."""
        high = np.minimum(caps, self.front_cost[-1])
        low = np.maximum(PRICED * high, self.front_cost[0])
        rise = self._front_at(high) - self._front_at(low)
        return np.divide(rise, high - low, out=np.zeros_like(high), where=high > low)

    def _front_at(self, cost: np.ndarray) -> np.ndarray:
        return self.front_top1[np.searchsorted(self.front_cost, cost, side='right') - 1]

    def record(self) -> None:
        """Those judged since are kept if they are within the limits and near the front; a point of the history."""
        codes, top1 = map(np.concatenate, zip((self.codes, self.top1), *self.fresh))
        fits = self.problem.excess(codes) <= 0
        codes, top1, self.fresh = codes[fits], top1[fits], []
        cost = self.problem.axis(codes)
        order = np.lexsort((-top1, cost))
        self.front_cost, self.front_top1 = cost[order], np.maximum.accumulate(top1[order])
        kept = np.sort(np.argsort(self._front_at(cost) - top1, kind='stable')[:KEPT])
        self.codes, self.top1, self.cost = codes[kept], top1[kept], cost[kept]
        if kept.size:
            self.history.append((self.judged, float(self.top1.max())))

    def front(self) -> np.ndarray:
        """Indices of the networks that no other one beats, from the cheapest on."""
        order = np.lexsort((-self.top1, self.cost))
        return order[self.top1[order] > np.r_[-np.inf, np.maximum.accumulate(self.top1[order])[:-1]]]
