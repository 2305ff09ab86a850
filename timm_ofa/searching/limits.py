"""What networks cost and what fits: limits, and the networks that they leave.

Latency, MACs and parameters add up over rows; of the memory the weights do, and the largest activations count. Whether
a limit can be met at all is known exactly before any search.

Legend: N networks, P positions, S stages, C codes a position, F frames, R resolutions, G parts of a frame that vary.
Costs are in the unit of their limit.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import ClassVar

import numpy as np

from ..devices import MemoryTable
from ..errors import InputError
from ..spaces import CostTable, SearchSpace
from .knapsack import cheapest, least_memory

REPAIRS = 200  # random cheapening steps; what is not allowed by then is dropped


class InfeasibleError(InputError):
    """No network meets the limits; the message names the binding one and the smallest value that can be reached."""


@dataclass(frozen=True)
class Limit:
    """At most `max_ms` on the device of `profile`."""
    profile: object
    max_ms: float

    def tabulate(self, space: SearchSpace) -> CostTable:
        return self.profile.cost_table(space)

    @property
    def maximum(self) -> float:
        return self.max_ms

    def text(self, cost: float) -> str:
        return f'{cost:.4g} ms on {self.profile.name}'


@dataclass(frozen=True)
class _MaxSum:
    """At most `maximum` of what rows add up to."""
    maximum: float
    quantity: ClassVar[str]  # a field of Row
    unit: ClassVar[str]  # millions of it

    def tabulate(self, space: SearchSpace) -> CostTable:
        return space.cost_table(attrgetter(self.quantity))

    def text(self, cost: float) -> str:
        return f'{cost / 1e6:.4g} {self.unit}'


class MaxMacs(_MaxSum):
    """At most `maximum` multiply-accumulates, e.g. 600e6."""
    quantity, unit = 'macs', 'M MACs'


class MaxParams(_MaxSum):
    """At most `maximum` parameters, e.g. 8e6."""
    quantity, unit = 'params', 'M parameters'


@dataclass(frozen=True)
class MaxMemory:
    """At most `max_mb` MB (1e6 bytes) of peak memory in float32, as `memory.peak_memory_mb` computes it."""
    max_mb: float
    batch_size: int = 1

    def tabulate(self, space: SearchSpace):
        return MemoryTable.of(space, self.batch_size)

    @property
    def maximum(self) -> float:
        return self.max_mb

    def text(self, cost: float) -> str:
        return f'{cost:.4g} MB of memory'


class Problem:
    """A space with its prices: what a network costs, and which are allowed.

    Genes (N, G + S + P) are the resolution's index and those of the widths that vary, one depth index a stage, one
    choice a position (from 0; those past the depth lie idle). Every combination of genes is a network, which codes
    (N, 1 + P) do not offer.

    The `axis` is the cost that spans the front: latency on the profile, else MACs. `top` limits it, the other limits
    are `others`, (table, maximum) each.
    """

    def __init__(self, space: SearchSpace, predictor, profile, limits: Sequence) -> None:
        self.space, self.predictor, self.limits = space, predictor, limits
        self.spans_latency = profile is not None
        spanning = Limit(profile, math.inf) if profile else MaxMacs(math.inf)
        self.axis, self.top, self.others = spanning.tabulate(space), math.inf, []
        self.cheapest = []  # for each limit: the least cost of each frame (F,), the codes (F, 1 + P) that reach it
        for limit in limits:
            if type(limit) is type(spanning) and getattr(limit, 'profile', None) is profile:
                table, self.top = self.axis, min(self.top, float(limit.maximum))
            else:
                table = limit.tabulate(space)
                self.others.append((table, float(limit.maximum)))
            self.cheapest.append((least_memory if isinstance(limit, MaxMemory) else cheapest)(space, table))
        self.parts = varying_parts(space)
        self.strides = np.array([math.prod(space.frame_sizes[part + 1:]) for part in range(len(space.frame_sizes))])
        self.stage = np.array([stage for stage, _ in space.positions])
        self.index = np.array([index for _, index in space.positions])
        most = max(len(s.depths) for s in space.stages)
        self.depths = np.array([[*s.depths, *[s.depths[-1]] * (most - len(s.depths))] for s in space.stages])
        self.sizes = np.array([  # choices of each gene
            *(space.frame_sizes[part] for part in self.parts), *(len(s.depths) for s in space.stages),
            *(len(space.choices(stage)) for stage, _ in space.positions)])
        self.allowed = self._allowed_choices()
        self.resolutions = self._feasible_resolutions()

    def _allowed_choices(self) -> np.ndarray:
        """Which choices (P, depths, C) a position has while its stage has a depth and the other blocks stay."""
        deepest = max(s.depths[-1] for s in self.space.stages)
        allowed = np.zeros((len(self.stage), 1 + deepest, self.axis.table.shape[2]), dtype=bool)
        for p, (s, j) in enumerate(self.space.positions):
            depths, choices = self.space.stages[s].depths, slice(1, 1 + len(self.space.choices(s)))
            for depth in depths:
                allowed[p, depth, choices] = j < depth or (j == depth and j + 1 in depths)
                allowed[p, depth, 0] = j >= depth or (j == depth - 1 and j in depths)
        return allowed

    def _feasible_resolutions(self) -> np.ndarray:
        """Indices of the resolutions at which each limit can be met; raises `InfeasibleError` if there are none."""
        for limit, (costs, codes) in zip(self.limits, self.cheapest):
            if costs.min() > limit.maximum:
                arch = self.space.decode(codes[costs.argmin()][None])[0]
                raise InfeasibleError(
                    f'no network of {self.space.name} is within {limit.text(limit.maximum)}; '
                    f'the least is {limit.text(costs.min())} ({arch}); raise the limit')
        met = [costs <= limit.maximum for limit, (costs, _) in zip(self.limits, self.cheapest)]
        frames = np.flatnonzero(np.all(met, 0)) if met else np.arange(len(self.space.frames))
        if not frames.size:
            raise self.clash()
        return np.unique(self.space.frames[frames, 0])

    def starts(self) -> np.ndarray:
        """Codes (N, 1 + P) that keep one limit most easily, for each resolution and limit."""
        codes = [codes[_least_of_resolutions(self.space, costs)] for costs, codes in self.cheapest]
        return np.concatenate([*codes, np.zeros((0, 1 + len(self.index)), dtype=np.int64)])

    def clash(self) -> InfeasibleError:
        """Each limit can be met, but not all at once."""
        texts = ' and '.join(limit.text(limit.maximum) for limit in self.limits)
        return InfeasibleError(f'no network of {self.space.name} was found within {texts} at once; raise one of them')

    def codes(self, genes: np.ndarray) -> np.ndarray:
        parts, stages = len(self.parts), len(self.depths)
        frame = (genes[:, :parts] * self.strides[self.parts]).sum(1, keepdims=True)
        depth = self.depths[np.arange(stages), genes[:, parts:parts + stages]]
        active = self.index < depth[:, self.stage]
        return np.concatenate([frame, (genes[:, parts + stages:] + 1) * active], 1)

    def depth(self, codes: np.ndarray) -> np.ndarray:
        """Active blocks of each stage, (N, S)."""
        return np.add.reduceat(codes[:, 1:] > 0, np.flatnonzero(self.index == 0), axis=1, dtype=np.int64)

    def moved_frames(self, codes: np.ndarray, part: int) -> np.ndarray:
        """The frames (N, K) of codes whose part takes each of its K choices."""
        choices = np.arange(self.space.frame_sizes[part])
        now = self.space.frames[codes[:, 0], part]
        return codes[:, :1] + (choices - now[:, None]) * self.strides[part]

    def random_genes(self, n: int, rng: np.random.Generator) -> np.ndarray:
        genes = rng.integers(0, self.sizes, (n, len(self.sizes)))
        genes[:, 0] = rng.choice(self.resolutions, n)
        return genes

    def excess(self, codes: np.ndarray, caps: np.ndarray | None = None) -> np.ndarray:
        """How far above its limits a network is, relative and added up (N,); 0: allowed.

        Caps (N,) on the axis are in place of `top`.
        """
        over = np.zeros(len(codes))
        for table, maximum in ((self.axis, self.top if caps is None else caps), *self.others):
            over += np.maximum(table(codes) - maximum, 0) / maximum
        return over

    def repair(self, genes: np.ndarray, rng: np.random.Generator, caps: np.ndarray) -> np.ndarray:
        """Codes (N, 1 + P) within caps (N,) and limits: random genes are changed for cheaper ones until these hold."""
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


def varying_parts(space: SearchSpace) -> list[int]:
    """The parts of a frame (columns of `space.frames`) that vary; the resolution is among them in any case."""
    return [part for part, size in enumerate(space.frame_sizes) if part == 0 or size > 1]


def _least_of_resolutions(space: SearchSpace, costs: np.ndarray) -> np.ndarray:
    """The frame of the least cost (F,) at each resolution, (R,)."""
    costs = costs.reshape(len(space.resolutions), -1)  # the resolution varies slowest
    return costs.argmin(1) + costs.shape[1] * np.arange(len(costs))
