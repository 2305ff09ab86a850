"""A search space under limits: what networks cost, and which of them are allowed.

Latency, MACs and parameters add up over rows. The memory is that of the weights, which add up, and of the largest
activations. Whether a limit can be met is known exactly before any search.

Legend: N networks, P positions, S stages, C codes of a position, F frames, R resolutions, G parts of a frame that vary.
"""
from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..devices import MemoryTable
from ..spaces import CostTable, SearchSpace
from .knapsack import cheapest, least_memory
from .limits import AnyLimit, InfeasibleError, Limit, MaxMacs, Profile, searched_with, within

REPAIRS = 200  # random steps to a cheaper network; a network that is above a limit after them is dropped


class Problem:
    """A space with its costs and limits: what each network costs, and which networks are within the limits.

    Genes (N, G + S + P) describe networks for random changes: the index of the resolution and of each width that
    varies, one depth index for each stage, and one choice for each position (from 0; it is not used at positions beyond
    the depth). Every combination of genes is a network; of codes (N, 1 + P), only some combinations are.

    The `axis` is the cost along the front: latency on the profile, or MACs without one. `top` is its limit. `others`
    holds the other limits, each as (table, maximum).
    """

    def __init__(self, space: SearchSpace, profile: Profile | None, limits: Sequence[AnyLimit]) -> None:
        self.space, self.limits = space, limits
        self.spans_latency = profile is not None
        made_for = searched_with(profile, limits)
        spanning = Limit(profile, math.inf) if profile else MaxMacs(math.inf, made_for[0])
        self.axis, self.top = spanning.tabulate(space), math.inf
        self.others: list[tuple[CostTable | MemoryTable, float]] = []
        self.cheapest = []  # for each limit: the least cost of each frame (F,), the codes (F, 1 + P) that reach it
        for limit in limits:
            table: CostTable | MemoryTable
            if _same_cost(limit, spanning):
                table, self.top = self.axis, min(self.top, float(limit.maximum))
            else:
                table = limit.tabulate(space, *made_for)
                self.others.append((table, float(limit.maximum)))
            self.cheapest.append(
                least_memory(space, table) if isinstance(table, MemoryTable) else cheapest(space, table))
        self.parts = varying_parts(space)
        self.strides = np.array([math.prod(space.frame_sizes[part + 1:]) for part in range(len(space.frame_sizes))])
        self.stage = np.array([stage for stage, _ in space.positions])
        self.index = np.array([index for _, index in space.positions])
        most = max(len(s.depths) for s in space.stages)
        self.depths = np.array([[*s.depths, *[s.depths[-1]] * (most - len(s.depths))] for s in space.stages])
        self.sizes = np.array([  # choices of each gene
            *(space.frame_sizes[part] for part in self.parts), *(len(s.depths) for s in space.stages),
            *space.choice_counts])
        self.gaps = [i for i, s in enumerate(space.stages) if s.depths != tuple(range(s.depths[0], s.depths[-1] + 1))]
        self.allowed = self._allowed_choices()
        self.resolutions = self._feasible_resolutions()

    def _allowed_choices(self) -> np.ndarray:
        """Whether a position may get each choice (P, depth, C), if its stage has a depth and no other block changes."""
        deepest = max(s.depths[-1] for s in self.space.stages)
        allowed = np.zeros((len(self.stage), 1 + deepest, self.axis.table.shape[2]), dtype=bool)
        for p, (s, j) in enumerate(self.space.positions):
            depths, choices = self.space.stages[s].depths, slice(1, 1 + self.space.choice_counts[p])
            for depth in depths:
                allowed[p, depth, choices] = j < depth or (j == depth and j + 1 in depths)
                allowed[p, depth, 0] = j >= depth or (j == depth - 1 and j in depths)
        return allowed

    def _feasible_resolutions(self) -> np.ndarray:
        """Indices of the resolutions at which every limit can be met; raises `InfeasibleError` if there are none."""
        for limit, (costs, codes) in zip(self.limits, self.cheapest):
            if not within(costs.min(), limit.maximum):
                arch = self.space.decode(codes[costs.argmin()][None])[0]
                raise InfeasibleError(
                    f'no network of {self.space.name} is within {limit.text()}; '
                    f'the least is {limit.text(costs.min())} ({arch}); raise the limit')
        met = [within(costs, limit.maximum) for limit, (costs, _) in zip(self.limits, self.cheapest)]
        frames = np.flatnonzero(np.all(met, 0)) if met else np.arange(len(self.space.frames))
        if not frames.size:
            raise self.clash()
        return np.unique(self.space.frames[frames, 0])

    def starts(self) -> np.ndarray:
        """For each limit and resolution: the network that costs least, as codes (N, 1 + P)."""
        codes = [codes[_least_of_resolutions(self.space, costs)] for costs, codes in self.cheapest]
        return np.concatenate([*codes, np.zeros((0, 1 + len(self.index)), dtype=np.int64)])

    def clash(self) -> InfeasibleError:
        """The error if each limit can be met, but not all of them at once."""
        texts = ' and '.join(limit.text() for limit in self.limits)
        return InfeasibleError(f'no network of {self.space.name} was found within {texts} at once; raise one of them')

    def codes(self, genes: np.ndarray) -> np.ndarray:
        """Genes (N, G + S + P) -> codes (N, 1 + P)."""
        parts, stages = len(self.parts), len(self.depths)
        frame = (genes[:, :parts] * self.strides[self.parts]).sum(1, keepdims=True)
        depth = self.depths[np.arange(stages), genes[:, parts:parts + stages]]
        active = self.index < depth[:, self.stage]
        return np.concatenate([frame, (genes[:, parts + stages:] + 1) * active], 1)

    def depth(self, codes: np.ndarray) -> np.ndarray:
        """The number of active blocks of each stage (N, S)."""
        return np.add.reduceat(codes[:, 1:] > 0, np.flatnonzero(self.index == 0), axis=1, dtype=np.int64)

    def random_genes(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Genes of random networks, at resolutions where every limit can be met."""
        genes = rng.integers(0, self.sizes, (n, len(self.sizes)))
        genes[:, 0] = rng.choice(self.resolutions, n)
        return genes

    def excess(self, codes: np.ndarray, caps: np.ndarray | None = None) -> np.ndarray:
        """How far networks are above the limits (N,): the sum of the relative excesses; 0 means within all limits.

        If `caps` (N,) are given, they take the place of `top`.
        """
        over = np.zeros(len(codes))
        for table, maximum in ((self.axis, self.top if caps is None else caps), *self.others):
            cost = table(codes)
            over += np.where(within(cost, maximum), 0, cost / maximum - 1)
        return over

    def repair(self, genes: np.ndarray, rng: np.random.Generator, caps: np.ndarray) -> np.ndarray:
        """Change random genes to cheaper ones until networks are within caps (N,) and limits; returns their codes."""
        codes = self.codes(genes)
        excess = self.excess(codes, caps)
        for _ in range(REPAIRS):
            bad = np.flatnonzero(excess > 0)
            if not bad.size:
                return codes
            changed = genes[bad]
            gene = rng.integers(1, len(self.sizes), bad.size)
            changed[np.arange(bad.size), gene] = rng.integers(0, self.sizes[gene])
            changed_codes = self.codes(changed)
            changed_excess = self.excess(changed_codes, caps[bad])
            better = changed_excess < excess[bad]
            kept = bad[better]
            genes[kept], codes[kept], excess[kept] = changed[better], changed_codes[better], changed_excess[better]
        return codes[excess <= 0]


def _same_cost(limit: AnyLimit, axis: Limit | MaxMacs) -> bool:
    """Whether a limit is on the cost along the front."""
    if isinstance(axis, Limit):
        return isinstance(limit, Limit) and limit.profile == axis.profile
    return isinstance(limit, MaxMacs) and limit.num_classes in (None, axis.num_classes)


def leading(cost: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Indices of the front, the cheapest first: entries that have a higher value than all others that cost no more."""
    order = np.lexsort((-value, cost))
    best = np.maximum.accumulate(value[order])
    return order[value[order] > np.r_[-math.inf, best[:-1]]]


def varying_parts(space: SearchSpace) -> list[int]:
    """The parts of a frame (columns of `space.frames`) that vary. The resolution always counts as one of them."""
    return [part for part, size in enumerate(space.frame_sizes) if part == 0 or size > 1]


def _least_of_resolutions(space: SearchSpace, costs: np.ndarray) -> np.ndarray:
    """For each resolution, the index of the frame with the least cost (R,), from costs (F,)."""
    costs = costs.reshape(len(space.resolutions), -1)  # the resolution varies slowest
    return costs.argmin(1) + costs.shape[1] * np.arange(len(costs))
