"""Which networks to judge next: those that may enlarge the front of accuracy and cost most (`collect --active`).

A network is worth the area that it would add to what the front dominates, if its accuracy were at the optimistic end of
what the predictor holds possible. Each choice counts as true for the next choices, so that a batch spreads along the
front.

Legend: N candidates, E judged networks.
"""
from __future__ import annotations

from collections.abc import Set
from itertools import islice

import numpy as np

from ..devices import DeviceProfile
from ..errors import InputError
from ..searching import MaxMacs, leading, search
from ..spaces import Arch, CostTable, SearchSpace
from .gaussian import AccuracyPredictor
from .records import Records, subnets_to_judge

FIRST = 20  # networks before the first choice: largest, smallest, random ones
BATCH = 10  # networks that are chosen together
STEPS = 25  # of the searches for candidates
RANDOM = 500  # random candidates besides those that the searches find
OPTIMISM = 1.0  # standard deviations above the prediction


def hypervolume(cost: np.ndarray, top1: np.ndarray, worst_cost: float, worst_top1: float) -> float:
    """The area that networks (E,) dominate, up to a cost and down to an accuracy: cost unit times points."""
    front_cost, front_top1 = _front(cost, top1, worst_cost, worst_top1)
    return float((np.diff(np.r_[front_cost, worst_cost]) * (front_top1 - worst_top1)).sum())


def _front(cost: np.ndarray, top1: np.ndarray, worst_cost: float, worst_top1: float) -> tuple[np.ndarray, np.ndarray]:
    """Costs and accuracies of the networks that no other one beats; both ascend."""
    inside = (cost < worst_cost) & (top1 > worst_top1)
    cost, top1 = cost[inside], top1[inside]
    front = leading(cost, top1)
    return cost[front], top1[front]


def added_area(cost: np.ndarray, top1: np.ndarray, front: tuple[np.ndarray, np.ndarray], worst_cost: float,
               worst_top1: float) -> np.ndarray:
    """How much each of N networks adds (N,) to the area that a front dominates."""
    front_cost, front_top1 = front
    edges = np.r_[-np.inf, front_cost, worst_cost]  # step i of the front lies between edges i and i + 1
    levels = np.r_[worst_top1, front_top1]
    width = (edges[1:] - np.maximum(edges[:-1], cost[:, None])).clip(0)
    return (width * (top1[:, None] - levels).clip(0)).sum(1)


def choose(cost: np.ndarray, mean_pct: np.ndarray, spread_pct: np.ndarray, known_cost: np.ndarray,
           known_top1: np.ndarray, n: int) -> np.ndarray:
    """Indices of up to n candidates to judge.

    Args:
        cost: (N,) of the candidates, in the unit of the front.
        mean_pct, spread_pct: (N,) what the predictor says of them, and its standard deviation.
        known_cost, known_top1: (E,) of the judged networks.
        n: How many; fewer if no other candidate can enlarge the front.
    """
    optimistic = mean_pct + OPTIMISM * spread_pct
    worst = 1.05 * max(cost.max(), known_cost.max()), min(known_top1.min(), optimistic.min()) - 1
    front, chosen = _front(known_cost, known_top1, *worst), list[int]()
    for _ in range(n):
        area = added_area(cost, optimistic, front, *worst)
        area[chosen] = 0
        best = int(area.argmax())
        if area[best] <= 0:
            break
        chosen.append(best)
        front = _front(np.r_[front[0], cost[best]], np.r_[front[1], optimistic[best]], *worst)
    return np.array(chosen, dtype=np.int64)


class Active:
    """Proposes what `collect` judges next. It depends on the records and the seed alone, so an interrupted collection
    goes on as it would have."""

    def __init__(self, space: SearchSpace, profile: DeviceProfile | None = None, seed: int = 0) -> None:
        """`profile`: the device whose latency is the cost of the front, at the resolutions that it prices; without one
        the cost is MACs."""
        if profile:
            priced = profile.resolutions(space)
            if not priced:
                raise InputError(
                    f'profile {profile.name} prices {space.name} whole at no resolution; give another one')
            space = space.restrict(resolutions=priced)
        self.space, self.profile, self.seed = space, profile, seed
        self.name = f'active, over {profile.name if profile else "MACs"}'
        self._batch: tuple[int, list[Arch]] = (0, [])  # (records when it was chosen, networks)

    def __call__(self, records: Records, n: int) -> list[Arch]:
        """Up to n networks to judge after these records, whose order matters."""
        known = {arch for arch, _ in records}
        n = min(n, self._unseen(known))
        if n < 1:
            return []
        if len(records) < FIRST:
            batch = (arch for arch in subnets_to_judge(self.space, self.seed) if arch not in known)
            return [next(batch) for _ in range(min(n, FIRST - len(records)))]
        start = len(records) - (len(records) - FIRST) % BATCH
        if self._batch[0] != start:
            self._batch = start, self._choose(records[:start])
        return [arch for arch in self._batch[1] if arch not in known][:n]

    def _choose(self, records: Records) -> list[Arch]:
        archs, top1 = [arch for arch, _ in records], np.array([top1_pct for _, top1_pct in records])
        predictor = AccuracyPredictor.fit(self.space, archs, top1, seed=self.seed)
        seed = self.seed + len(records)
        found = self.space.sample(np.random.default_rng(seed), RANDOM)
        for optimism in (0, OPTIMISM):
            front = search(self.space, _Hopeful(predictor, optimism), self.profile, seed=seed, steps=STEPS).front
            found += [candidate.arch for candidate in front]
        known = set(archs)
        candidates = [arch for arch in dict.fromkeys(found) if arch not in known]
        unseen = self._unseen(known)
        if len(candidates) < min(BATCH, unseen):  # near the end of a small space
            known.update(candidates)
            further = (arch for arch in subnets_to_judge(self.space, seed) if arch not in known)
            candidates += islice(further, min(BATCH, unseen) - len(candidates))
        codes, cost = self.space.encode(candidates), self._cost()
        chosen = choose(
            cost(codes), predictor.predict_codes(codes, self.space), predictor.spread_codes(codes, self.space),
            cost(self.space.encode(archs)), top1, BATCH).tolist()
        others = [i for i in range(len(candidates)) if i not in chosen]
        return [candidates[i] for i in [*chosen, *others][:BATCH]]

    def _unseen(self, known: Set[Arch]) -> int:
        """How many networks of the space are left."""
        return self.space.count() - len(known)

    def _cost(self) -> CostTable:
        return self.profile.cost_table(self.space) if self.profile else MaxMacs(1).tabulate(self.space)


class _Hopeful:
    """A predictor that says what is possible at best, also at resolutions where nothing was judged yet."""

    def __init__(self, predictor: AccuracyPredictor, optimism: float) -> None:
        self.predictor, self.optimism = predictor, optimism

    def resolutions(self, space: SearchSpace) -> tuple[int, ...]:
        return space.resolutions

    def predict_codes(self, codes: np.ndarray, space: SearchSpace) -> np.ndarray:
        mean = self.predictor.predict_codes(codes, space)
        return mean + self.optimism * self.predictor.spread_codes(codes, space) if self.optimism else mean
