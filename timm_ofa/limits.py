"""What networks cost and what fits: limits, and the networks that they leave.

All costs are additive over rows, so each is a `CostTable`; whether a limit can be met at all is known exactly before
any search.

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

from .errors import InputError
from .knapsack import cheapest
from .space import CostTable, SearchSpace

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


class Problem:
    """A space with its prices: what a network costs, and which are allowed.

    Genes (N, G + S + P) are the resolution's index and those of the widths that vary, one depth index a stage, one
    choice a position (from 0; those past the depth lie idle). Every combination of genes is a network, which codes
    (N, 1 + P) do not offer.
    """

    def __init__(self, space: SearchSpace, predictor, profile, limits: Sequence) -> None:
        self.space, self.predictor, self.limits = space, predictor, limits
        self.tables = [limit.tabulate(space) for limit in limits]
        self.maxima = np.array([float(limit.maximum) for limit in limits])
        self.spans_latency = profile is not None
        self.axis = profile.cost_table(space) if profile else MaxMacs(math.inf).tabulate(space)  # of the front
        self.budget = -cheapest(space, CostTable(-self.axis.const, -self.axis.table))[0]  # (F,) most of the axis
        for limit in limits:
            if getattr(limit, 'profile', None) is profile and not isinstance(limit, MaxParams):
                self.budget = np.minimum(self.budget, limit.maximum)
        self.parts = varying_parts(space)
        self.strides = np.array([math.prod(space.frame_sizes[part + 1:]) for part in range(len(space.frame_sizes))])
        self.stage = np.array([stage for stage, _ in space.positions])
        self.index = np.array([index for _, index in space.positions])
        most = max(len(s.depths) for s in space.stages)
        self.depths = np.array([[*s.depths, *[s.depths[-1]] * (most - len(s.depths))] for s in space.stages])
        self.sizes = np.array([  # choices of each gene
            *(space.frame_sizes[part] for part in self.parts), *(len(s.depths) for s in space.stages),
            *(len(space.choices(stage)) for stage, _ in space.positions)])
        self.cheapest = [cheapest(space, table) for table in self.tables]
        self.resolutions = self._feasible_resolutions()

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

    def genes(self, codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The inverse of `codes`; idle genes are drawn."""
        genes = self.random_genes(len(codes), rng)
        parts, stages = len(self.parts), len(self.depths)
        genes[:, :parts] = self.space.frames[codes[:, :1], self.parts]
        for s in range(stages):
            depth = (codes[:, 1:][:, self.stage == s] > 0).sum(1)
            genes[:, parts + s] = np.searchsorted(self.space.stages[s].depths, depth)
        np.copyto(genes[:, parts + stages:], codes[:, 1:] - 1, where=codes[:, 1:] > 0)
        return genes

    def shapes(self, codes: np.ndarray) -> np.ndarray:
        """A number (N,) for each combination of resolution and depths."""
        shape = self.space.frames[codes[:, 0], 0]
        for s, stage in enumerate(self.space.stages):
            shape = shape * (1 + stage.depths[-1]) + (codes[:, 1:][:, self.stage == s] > 0).sum(1)
        return shape

    def frame_steps(self, codes: np.ndarray) -> np.ndarray:
        """The networks (M, 1 + P) with one part of their frame moved by one; none where only the resolution varies:
        evolution does that as well."""
        steps = [codes[:0]]
        for part in self.parts if len(self.parts) > 1 else ():
            for step in (-1, 1):
                place = self.space.frames[codes[:, 0], part] + step
                inside = (place >= 0) & (place < self.space.frame_sizes[part])
                moved = codes[inside].copy()
                moved[:, 0] += step * self.strides[part]
                steps.append(moved)
        return np.concatenate(steps)

    def shaken(self, codes: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
        """A copy of codes (N, 1 + P); if several parts of the frame vary, in this share one is moved by one."""
        codes = codes.copy()
        if len(self.parts) > 1:
            chosen = np.flatnonzero(rng.random(len(codes)) < share)
            part = rng.choice(self.parts, len(chosen))
            step = rng.choice((-1, 1), len(chosen))
            place = self.space.frames[codes[chosen, 0], part] + step
            inside = (place >= 0) & (place < np.array(self.space.frame_sizes)[part])
            codes[chosen[inside], 0] += (step * self.strides[part])[inside]
        return codes

    def single_changes(self, blocks: np.ndarray) -> np.ndarray:
        """Which choices (N, P, C) change one block of block codes (N, P) and give a network: another choice for an
        active one, any for the one behind the last, none for the last."""
        changes = np.zeros((*blocks.shape, self.axis.table.shape[2]), dtype=bool)
        for s, stage in enumerate(self.space.stages):
            inside = np.flatnonzero(self.stage == s)
            depth = (blocks[:, inside] > 0).sum(1)
            for j, p in enumerate(inside):
                changes[:, p, 0] = (depth == j + 1) & (j in stage.depths)
                grows = (depth == j) & (j + 1 in stage.depths)
                changes[:, p, 1:1 + len(self.space.choices(s))] = ((j < depth) | grows)[:, None]
        np.put_along_axis(changes, blocks[..., None], False, 2)
        return changes

    def affordable(self, codes: np.ndarray) -> np.ndarray:
        """Which choices (N, P, C) of one block keep the limits in networks (N, 1 + P), which may break them."""
        fits = np.ones((*codes[:, 1:].shape, self.axis.table.shape[2]), dtype=bool)
        for table, maximum in zip(self.tables, self.maxima):
            fits &= extra_cost(table, codes) <= (maximum - table(codes))[:, None, None]
        return fits

    def connected(self, codes: np.ndarray) -> np.ndarray:
        """Whether no block (N,) of these codes follows an inactive one of its stage."""
        active = codes[:, 1:] > 0
        return ~(active[:, 1:] & ~active[:, :-1] & (self.index[1:] > 0)).any(1)

    def random_genes(self, n: int, rng: np.random.Generator) -> np.ndarray:
        genes = rng.integers(0, self.sizes, (n, len(self.sizes)))
        genes[:, 0] = rng.choice(self.resolutions, n)
        return genes

    def excess(self, codes: np.ndarray) -> np.ndarray:
        """How far above its limits a network is, relative and added up (N,); 0: allowed."""
        over = np.zeros(len(codes))
        for table, maximum in zip(self.tables, self.maxima):
            over += np.maximum(table(codes) - maximum, 0) / maximum
        return over

    def repair(self, genes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Codes (N, 1 + P) of allowed networks: random genes are changed for cheaper ones until the limits hold."""
        codes = self.codes(genes)
        excess = self.excess(codes)
        for _ in range(REPAIRS):
            bad = np.flatnonzero(excess > 0)
            if not bad.size:
                return codes
            changed = genes[bad]
            gene = rng.integers(1, len(self.sizes), bad.size)
            changed[np.arange(bad.size), gene] = rng.integers(0, self.sizes[gene])
            changed_codes = self.codes(changed)
            changed_excess = self.excess(changed_codes)
            better = changed_excess < excess[bad]
            kept = bad[better]
            genes[kept], codes[kept], excess[kept] = changed[better], changed_codes[better], changed_excess[better]
        return codes[excess <= 0]


def extra_cost(table: CostTable, codes: np.ndarray) -> np.ndarray:
    """What each choice of each block costs more (N, P, C) than that of the networks with these codes (N, 1 + P)."""
    costs = table.table[codes[:, 0]]
    return costs - np.take_along_axis(costs, codes[:, 1:, None], 2)


def varying_parts(space: SearchSpace) -> list[int]:
    """The parts of a frame (columns of `space.frames`) that vary; the resolution is among them in any case."""
    return [part for part, size in enumerate(space.frame_sizes) if part == 0 or size > 1]


def _least_of_resolutions(space: SearchSpace, costs: np.ndarray) -> np.ndarray:
    """The frame of the least cost (F,) at each resolution, (R,)."""
    costs = costs.reshape(len(space.resolutions), -1)  # the resolution varies slowest
    return costs.argmin(1) + costs.shape[1] * np.arange(len(costs))
