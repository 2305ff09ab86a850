"""Predictors and a profile for tests of the search, and what a front must be."""
from dataclasses import dataclass, field

import numpy as np

from timm_ofa.searching.pool import Pool
from timm_ofa.searching.problem import Problem
from timm_ofa.spaces.pricing import CostTable


@dataclass
class ToyPredictor:
    """Every block adds something random, pairs of neighbors something more."""
    seed: int = 0
    known: tuple[int, ...] = (20, 24, 28, 32)
    judged: list = field(default_factory=list)

    def resolutions(self, space):
        return tuple(r for r in space.resolutions if r in self.known)

    def predict_codes(self, codes, space):
        self.judged.append(codes)
        rng = np.random.default_rng(self.seed)
        digits = np.concatenate([space.frames[codes[:, 0]][:, np.array(space.frame_sizes) > 1], codes[:, 1:]], 1)
        blocks, pairs = rng.random((digits.shape[1], 20)), rng.random((digits.shape[1], 20, 20))
        columns = np.arange(digits.shape[1])
        return 50 + blocks[columns, digits].sum(1) + pairs[columns[1:], digits[:, :-1], digits[:, 1:]].sum(1)


@dataclass(frozen=True)
class ToyProfile:
    """Latency goes with the MACs and a little with the kernel size."""
    name: str = 'toy'
    known: tuple[int, ...] = (20, 24, 28, 32)
    num_classes: int | None = None
    batch_size: int = 1

    def resolutions(self, space):
        return tuple(r for r in space.resolutions if r in self.known)

    def cost_table(self, space):
        return space.cost_table(lambda row: row.macs / 1e6 + 0.01 * row.kernel_size)


@dataclass
class AdditivePredictor(ToyPredictor):
    """Every block adds something random, as a table says."""

    def accuracy_table(self, space):
        rng = np.random.default_rng(self.seed)
        most = max(len(space.choices(p)) for p in range(len(space.positions)))
        shape = len(space.frames), len(space.positions), 1 + most
        table = rng.normal(size=shape)
        table[..., 0] = 0
        return CostTable(50 + rng.normal(size=len(space.frames)), table)

    def predict_codes(self, codes, space):
        self.judged.append(codes)
        return self.accuracy_table(space)(codes)


def pareto(cost, top1):
    order = np.lexsort((-top1, cost))
    leads = top1[order] > np.r_[-np.inf, np.maximum.accumulate(top1[order])[:-1]]
    return cost[order][leads], top1[order][leads]


def assert_front_is_best(result, cost, top1, limit):
    assert result.best.top1_pct == top1[cost <= limit].max()
    front_cost, front_top1 = pareto(cost[cost <= limit], top1[cost <= limit])
    np.testing.assert_array_equal([c.latency_ms for c in result.front], front_cost)
    np.testing.assert_array_equal([c.top1_pct for c in result.front], front_top1)


def pool_of(space, limits, predictor=None):
    return Pool(Problem(space, ToyProfile(), limits), predictor or ToyPredictor())
