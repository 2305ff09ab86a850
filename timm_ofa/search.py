"""The best network under limits, and the whole Pareto front, for a predictor and a device profile.

Everything is integers and tables: thousands of networks are repaired, priced and judged at once. First many networks
are annealed side by side: each moves along the slopes of the predictor, one block at the expense of another, and the
better ones take the places of the others. Then an additive model of the accuracy, learned on the way, screens the
children of an evolution; at last the networks on the front are changed gene by gene, and dynamic programming on what
that shows proposes the changes of several blocks that fit each budget.

This room knows no network, no torch and no runtime: it needs `predictor.predict_codes(codes, space)`,
`predictor.resolutions(space)`, and of a profile `cost_table(space)`, `resolutions(space)` and `name`. A predictor with
`block_slopes(codes, space)` is searched best; without it the slopes are those of the additive model.

Legend: N networks, P positions, S stages, C codes a position, G parts of a frame that vary (the resolution, and widths
where they are elastic), Q problems, B budget bins. Costs are in the unit of their limit, accuracies in percent.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .errors import InputError, listed
from .knapsack import best_by_budget, stage_positions
from .limits import InfeasibleError as InfeasibleError
from .limits import Limit, MaxMacs, MaxParams, Problem, extra_cost, varying_parts
from .space import Arch, SearchSpace

INITIAL = 1000  # random networks to begin with
ANNEALED = 128  # networks annealed side by side
STEPS = 50  # of annealing for each round of evolution
TEMPERATURES = (0.2, 0.04)  # points of accuracy, at the first and at the last step
TRIALS = 2  # changes of each network judged a step, the best of which may be taken
PAIRED = 0.5  # chance that a second block changes with the first
FRAMED = 0.1  # chance that a part of the frame moves by one with them, where widths vary
PRICED = 0.8  # share of the front's cost from which on its rise gives the price of cost
TINY = np.float32(1e-30)  # keeps logarithms finite
EXCHANGE = 5  # steps between the exchanges of bad networks for good ones
ROUNDS = 6  # of evolution
CHILDREN = 3000  # bred a round
JUDGED = 300  # of them judged by the predictor: those for which the additive model hopes most
ELITE = 120  # parents a round
MUTATION = 0.06  # chance of each gene
POOL = 4000  # networks kept, the nearest to the front
FORGET = 0.9  # weight of what the additive model knew before, each time it learns
RIDGE = 0.3  # its regularization, in networks
TWINS = 2  # networks with the same resolution and depths that may lead at once
LEADING = 32  # most accurate networks that are offered for local moves
POLISHED = 4  # of them changed after each generation
FINAL_POLISHES = 10  # rounds of local moves at the end, first for the best network, then for the front
FINAL_POLISHED = 16  # networks changed in one such round
BINS = 400  # budgets of the dynamic programming
CAUTION = (0.1, 0.3, 1.0)  # price of each changed block there, in standard errors of the additive model


@dataclass(frozen=True)
class Candidate:
    """One network of a result."""
    arch: Arch
    top1_pct: float  # predicted
    latency_ms: float | None  # predicted; None: searched without a device


@dataclass(frozen=True)
class SearchResult:
    """`front` ascends in latency and in accuracy; `best` is its last entry, the most accurate within all limits."""
    best: Candidate
    front: tuple[Candidate, ...]
    history: tuple[tuple[int, float], ...]  # (networks judged so far, best top-1 in percent), one entry a round
    evaluated: int  # networks judged by the predictor


def search(space: SearchSpace, predictor, profile=None, *, max_latency_ms: float | None = None,
           limits: Sequence[Limit | MaxMacs | MaxParams] = (), resolutions: Sequence[int] | None = None, seed: int = 0,
           rounds: int = ROUNDS) -> SearchResult:
    """The most accurate network within all limits, and the Pareto front below it.

    Args:
        space: What may be chosen.
        predictor: Judges the networks, see the head of this file.
        profile: The device whose latency is limited and spans the front; without one the front is over MACs.
        max_latency_ms: Limit on `profile`.
        limits: More limits, all of which hold at once.
        resolutions: Input sides in px to choose from; default: all that predictor and profiles can judge.
        seed: Same seed, same result.
        rounds: How long to search: of evolution, after `STEPS` steps of annealing for each.

    Raises:
        InfeasibleError: No network meets the limits; found before any search.
    """
    if max_latency_ms is not None:
        if profile is None:
            raise InputError(f'max_latency_ms {max_latency_ms} needs a profile; give one, or use limits=')
        limits = (Limit(profile, max_latency_ms), *limits)
    for limit in limits:
        if not isinstance(limit.maximum, (int, float, np.number)) or not limit.maximum > 0:
            raise InputError(f'limit {limit.maximum!r:.40} is not a number above 0; give one')
    space = _judged(space, predictor, profile, limits, resolutions)
    return _Run(Problem(space, predictor, profile, tuple(limits)), np.random.default_rng(seed)).finish(rounds)


def _judged(space: SearchSpace, predictor, profile, limits: Sequence, resolutions: Sequence[int] | None) -> SearchSpace:
    """The space at the resolutions that are wanted and that predictor and profiles can judge."""
    if resolutions is not None:
        space = space.restrict(resolutions=resolutions)
    judges = [predictor, profile, *(limit.profile for limit in limits if isinstance(limit, Limit))]
    known = [judge.resolutions(space) for judge in judges if judge is not None]
    common = [r for r in space.resolutions if all(r in some for some in known)]
    if not common:
        texts = ' and '.join(f'[{listed(some)}]' for some in known)
        raise InputError(
            f'resolutions {listed(space.resolutions)} of {space.name}: predictor and profiles know {texts} px, none in '
            'common; fit and measure at one resolution of both')
    return space.restrict(resolutions=common)


class _Additive:
    """Accuracy as a sum over parts of the frame and blocks: ridge regression on what was judged, mostly the recent."""

    def __init__(self, space: SearchSpace) -> None:
        parts = varying_parts(space)
        self.frames = space.frames[:, parts]
        self.codes = 1 + max(len(space.choices(s)) for s in range(len(space.stages)))
        sizes = [*(space.frame_sizes[part] for part in parts), *[self.codes] * len(space.positions)]
        self.offsets = np.cumsum([0, *sizes[:-1]])
        self.first_block, self.size = sum(sizes[:len(parts)]), sum(sizes)
        self.moments, self.products = np.zeros((self.size, self.size)), np.zeros(self.size)
        self.mean, self.error, self.weights = 0.0, 1.0, np.zeros(self.size)

    def active(self, codes: np.ndarray) -> np.ndarray:
        """Indices of the weights that add up, one a part and one a position: codes (N, 1 + P) -> (N, G + P)."""
        return np.concatenate([self.frames[codes[:, 0]], codes[:, 1:]], 1) + self.offsets

    def learn(self, codes: np.ndarray, top1: np.ndarray) -> None:
        features = np.zeros((len(codes), self.size), dtype=np.float32)
        features[np.arange(len(codes))[:, None], self.active(codes)] = 1
        self.mean = self.mean or float(top1.mean())
        self.moments = FORGET * self.moments + features.T @ features
        self.products = FORGET * self.products + features.T @ (top1 - self.mean).astype(np.float32)
        self.weights = np.linalg.solve(self.moments + RIDGE * np.eye(self.size), self.products)
        self.error = float(np.std(top1 - self.predict(codes)))

    def predict(self, codes: np.ndarray) -> np.ndarray:
        return self.mean + self.weights[self.active(codes)].sum(1)

    def blocks(self) -> np.ndarray:
        """The part of each block, (P, C)."""
        return self.weights[self.first_block:].reshape(-1, self.codes)


def _among(keys: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which keys (N,) are among the known ones, which ascend."""
    if not known.size:
        return np.zeros(len(keys), dtype=bool)
    return known[np.minimum(np.searchsorted(known, keys), len(known) - 1)] == keys


class _Run:
    """One search: the networks judged so far, and the ways to find more."""

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
        self.problem, self.rng = problem, rng
        self.hash = np.random.default_rng(0).integers(1, 2**63, 1 + len(problem.index), dtype=np.uint64) | np.uint64(1)
        self.model = _Additive(problem.space)
        self.seen = np.zeros(0, dtype=np.uint64)  # hashes of all networks judged
        self.changed = np.zeros(0, dtype=np.uint64)  # of those whose neighbors were judged
        self.codes = np.zeros((0, 1 + len(problem.index)), dtype=np.int64)  # those near the front
        self.top1, self.cost, self.gap = np.zeros((3, 0))
        self.history: list[tuple[int, float]] = []

    def keys(self, codes: np.ndarray) -> np.ndarray:
        return ((codes.astype(np.uint64) + np.uint64(1)) * self.hash).sum(1)

    def judge(self, codes: np.ndarray) -> np.ndarray:
        """Accuracies (N,) of networks; those that the limits allow join the pool."""
        top1 = self.predict(codes)
        self.keep(codes, top1)
        return top1

    def predict(self, codes: np.ndarray) -> np.ndarray:
        return np.asarray(self.problem.predictor.predict_codes(codes, self.problem.space), dtype=float)

    def keep(self, codes: np.ndarray, top1: np.ndarray) -> None:
        """Judged networks (N,) that the limits allow join the pool."""
        keys = self.keys(codes)
        _, first = np.unique(keys, return_index=True)
        first = first[~_among(keys[first], self.seen) & (self.problem.excess(codes[first]) <= 0)]
        self.seen = np.sort(np.concatenate([self.seen, keys[first]]))
        if first.size:
            self.codes = np.concatenate([self.codes, codes[first]])
            self.top1 = np.concatenate([self.top1, top1[first]])
            self.cost = np.concatenate([self.cost, self.problem.axis(codes[first])])
            self._trim()

    def _trim(self) -> None:
        """Keep the networks that are nearest to the front."""
        order = np.lexsort((-self.top1, self.cost))
        self.front_cost, self.front_top1 = self.cost[order], np.maximum.accumulate(self.top1[order])
        self.gap = self.below_front(self.cost, self.top1)
        kept = np.sort(np.argsort(self.gap, kind='stable')[:POOL])
        self.codes, self.top1, self.cost, self.gap = (a[kept] for a in (self.codes, self.top1, self.cost, self.gap))

    def below_front(self, cost: np.ndarray, top1: np.ndarray) -> np.ndarray:
        """Points of accuracy that networks (N,) miss to the best one that is no slower; negative: they would lead."""
        rank = np.searchsorted(self.front_cost, cost, side='right') - 1
        return np.where(rank < 0, -np.inf, self.front_top1[rank] - top1)

    def fresh(self, codes: np.ndarray) -> np.ndarray:
        """Indices of the allowed networks among these (N, 1 + P) that were not judged yet, each once."""
        keys = self.keys(codes)
        _, first = np.unique(keys, return_index=True)
        first = np.sort(first[~_among(keys[first], self.seen)])
        return first[self.problem.excess(codes[first]) <= 0]

    def best_of_shapes(self, n: int) -> np.ndarray:
        """Indices of the n most accurate networks, at most `TWINS` of them with the same resolution and depths."""
        order = np.argsort(-self.top1, kind='stable')
        shape = self.problem.shapes(self.codes[order])
        by_shape = np.argsort(shape, kind='stable')
        _, starts, counts = np.unique(shape[by_shape], return_index=True, return_counts=True)
        rank = np.empty_like(order)
        rank[by_shape] = np.arange(len(order)) - np.repeat(starts, counts)
        return order[rank < TWINS][:n]

    def judge_promising(self, codes: np.ndarray, hoped: np.ndarray) -> None:
        """Judge the networks with the highest hopes (N,) in percent: half for accuracy, half for the front."""
        fresh = self.fresh(codes)
        codes, hoped = codes[fresh], hoped[fresh]
        if len(codes) > JUDGED:
            gap = self.below_front(self.problem.axis(codes), hoped)
            codes = codes[np.unique(np.r_[np.argsort(-hoped)[:JUDGED // 2], np.argsort(gap)[:JUDGED // 2]])]
        if len(codes):
            self.model.learn(codes, self.judge(codes))

    # ---- annealing ------------------------------------------------------------------------------------------------

    def anneal(self, steps: int) -> None:
        """Many networks at a time take random steps, the warmer the bolder; all that is judged on the way is kept."""
        start = np.argsort(-self.top1, kind='stable')[:ANNEALED]
        codes, top1 = self.codes[start], self.top1[start]
        slopes, tried = self.slopes(codes), []
        warm, cold = TEMPERATURES
        temperatures = warm * (cold / warm) ** (np.arange(1 + steps) / max(steps, 1))
        for step, (temperature, colder) in enumerate(pairwise(temperatures)):
            origin, changed = self.changes(codes, slopes, temperature)
            if len(origin):
                found = self.predict(changed)
                tried.append((changed, found))
                best = np.lexsort((found, origin))[np.r_[np.diff(np.sort(origin)) > 0, True]]  # of each origin
                rise = found[best] - top1[origin[best]]
                best = best[self.rng.random(len(best)) < np.exp(np.minimum(rise / temperature, 0))]
                at = origin[best]
                codes[at], top1[at] = changed[best], found[best]
                if at.size:
                    slopes[at] = self.slopes(codes[at])
            if step % EXCHANGE == EXCHANGE - 1:
                weight = np.exp((top1 - top1.max()) * EXCHANGE * (1 / colder - 1 / temperature))
                places = (np.arange(len(top1)) + self.rng.random()) / len(top1)
                chosen = np.searchsorted(np.cumsum(weight / weight.sum()), places).clip(0, len(top1) - 1)
                codes, top1, slopes = codes[chosen], top1[chosen], slopes[chosen]
            if len(tried) == EXCHANGE or (step == steps - 1 and tried):
                self.keep(*(np.concatenate(parts) for parts in zip(*tried)))
                self.record()
                tried = []

    def slopes(self, codes: np.ndarray) -> np.ndarray:
        """What each choice of each block adds (N, P, C) to the accuracy of networks like these, in points."""
        if hasattr(self.problem.predictor, 'block_slopes'):
            return self.problem.predictor.block_slopes(codes, self.problem.space)
        return np.repeat(self.model.blocks()[None].astype(np.float32), len(codes), 0)

    def changes(self, codes: np.ndarray, slopes: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
        """Allowed networks (M, 1 + P) with one or two blocks changed, mostly where the slopes (N, P, C) are steep; and
        the indices (M,) of the codes (N, 1 + P) that they come from."""
        origin = np.tile(np.arange(len(codes)), TRIALS)
        changed = self.problem.shaken(codes[origin], FRAMED, self.rng)
        chance = slopes[origin]
        chance -= np.take_along_axis(chance, changed[:, 1:, None], 2)
        chance -= (self.price() * extra_cost(self.problem.axis, changed)).astype(np.float32)
        chance /= np.float32(temperature)
        chance -= np.log(self.rng.standard_exponential(chance.shape, np.float32) + TINY)  # drawn by argmax (Gumbel)
        chance[~self.problem.single_changes(changed[:, 1:])] = -np.inf
        first = self.change(changed, chance)
        chance[np.arange(len(chance)), first] = -np.inf
        chance[~self.problem.affordable(changed)] = -np.inf
        again = (self.problem.excess(changed) > 0) | (self.rng.random(len(changed)) < PAIRED)
        again &= np.isfinite(chance).any((1, 2))
        twice = changed[again]
        self.change(twice, chance[again])
        changed[again] = twice
        fine = self.problem.connected(changed) & (self.problem.excess(changed) <= 0)
        fine &= (changed != codes[origin]).any(1)
        return origin[fine], changed[fine]

    def price(self) -> float:
        """Points of accuracy that a unit of cost is worth at the end of the front."""
        near = np.searchsorted(self.front_cost, PRICED * self.front_cost[-1])
        rise, run = (a[-1] - a[near] for a in (self.front_top1, self.front_cost))
        return rise / run if run > 0 else 0.0

    @staticmethod
    def change(codes: np.ndarray, chance: np.ndarray) -> np.ndarray:
        """Make the change of the highest chance (N, P, C) in each of the codes; the positions (N,) that changed."""
        position, choice = np.divmod(chance.reshape(len(codes), math.prod(chance.shape[1:])).argmax(1), chance.shape[2])
        codes[np.arange(len(codes)), 1 + position] = choice
        return position

    # ---- evolution ------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        genes = self.problem.random_genes(INITIAL, self.rng)
        codes = np.concatenate([self.problem.repair(genes, self.rng), self.problem.starts()])
        codes = codes[self.fresh(codes)]
        if not len(codes):
            raise self.problem.clash()
        self.model.learn(codes, self.judge(codes))

    def breed(self) -> None:
        """One generation: many children, of which the additive model picks those to judge."""
        near = self.rng.permutation(np.argsort(self.gap)[:2 * ELITE])[:ELITE // 2]
        elite = np.union1d(self.best_of_shapes(ELITE // 2), near)
        parents = self.problem.genes(self.codes[self.rng.choice(elite, 2 * CHILDREN)], self.rng)
        children, others = parents[:CHILDREN], parents[CHILDREN:]
        crossed = (self.rng.random(children.shape) < 0.5) & (self.rng.random((CHILDREN, 1)) < 0.5)
        np.copyto(children, others, where=crossed)
        mutated = self.rng.random(children.shape) < MUTATION
        np.copyto(children, self.problem.random_genes(CHILDREN, self.rng), where=mutated)
        codes = self.problem.repair(children, self.rng)
        self.judge_promising(codes, self.model.predict(codes))

    # ---- local moves ----------------------------------------------------------------------------------------------

    def polish(self, leading: np.ndarray, n: int) -> bool:
        """Change the first n of the leading networks (indices) that were not changed yet; False if there are none."""
        chosen = leading[~_among(self.keys(self.codes[leading]), self.changed)][:n]
        if not chosen.size:
            return False
        bases, top1 = self.codes[chosen], self.top1[chosen]
        self.changed = np.sort(np.concatenate([self.changed, self.keys(bases)]))
        steps = self.problem.frame_steps(bases)
        self.judge_promising(steps, self.model.predict(steps))
        proposals = []
        for frame in np.unique(bases[:, 0]):
            same = bases[:, 0] == frame
            proposals.append(self.propose(bases[same], self.effects(bases[same], top1[same]), top1[same]))
        codes, hoped = (np.concatenate(parts) for parts in zip(*proposals))
        self.judge_promising(codes, hoped)
        return True

    def effects(self, bases: np.ndarray, top1: np.ndarray) -> np.ndarray:
        """What each one-block change of the bases (Q, 1 + P) does to accuracy (Q, P, C), in points.

        Every change that leads to a network is judged; the additive model says the rest.
        """
        blocks = bases[:, 1:]
        model = self.model.blocks()
        effects = model - model[np.arange(len(model)), blocks][..., None]
        moves, changed = self._moves(blocks)
        judged = self.judge(np.concatenate([bases[moves[:, 0], :1], changed], 1)) - top1[moves[:, 0]]
        measured = np.full(effects.shape, np.nan)
        measured[tuple(moves.T)] = judged
        np.copyto(effects[..., 1:], measured[..., 1:], where=~np.isnan(measured[..., 1:]))
        effects[np.arange(len(bases))[:, None], np.arange(len(model)), blocks] = 0
        for positions in stage_positions(self.problem.space):  # judged: the loss of a block and of all after it
            after = np.zeros(len(bases))
            for p in reversed(positions):
                lost = np.where(np.isnan(measured[:, p, 0]), after + effects[:, p, 0], measured[:, p, 0])
                active = blocks[:, p] > 0
                effects[:, p, 0] = np.where(active, lost - after, 0)
                after = np.where(active, lost, after)
        return effects

    def _moves(self, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All one-block changes of block codes (Q, P): (M, 3) of base, position, code; and the block codes (M, P).

        A block gets another choice, an inactive one after the last gets any, or a stage ends before the block.
        """
        moves, changed = [], []
        for s, positions in enumerate(stage_positions(self.problem.space)):
            depths, depth = self.problem.space.stages[s].depths, (blocks[:, positions] > 0).sum(1)
            for j, p in enumerate(positions):
                for c in range(1 + len(self.problem.space.choices(s))):
                    grows = (depth == j) & (j + 1 in depths)
                    fits = ((j < depth) | grows) & (blocks[:, p] != c) if c else (j < depth) & (j in depths)
                    bases = np.flatnonzero(fits)
                    new = blocks[bases].copy()
                    new[:, p if c else positions[j:]] = c
                    moves.append(np.stack([bases, np.full_like(bases, p), np.full_like(bases, c)], 1))
                    changed.append(new)
        return np.concatenate(moves), np.concatenate(changed)

    def propose(self, bases: np.ndarray, effects: np.ndarray, top1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Changes of several blocks at once, the best for every budget if effects (Q, P, C) add up.

        Returns codes (N, 1 + P) and the hoped accuracies (N,) in percent. The bases share one frame.
        """
        frame, unchanged = bases[0, 0], np.arange(effects.shape[2]) == bases[:, 1:, None]
        step = (self.problem.budget[frame] - self.problem.axis.const[frame]) / (BINS - 1)
        step = max(step, 1e-12)
        weight = np.maximum(np.rint(self.problem.axis.table[frame] / step), 0).astype(np.int64)
        value = np.concatenate([effects - caution * self.model.error * ~unchanged for caution in CAUTION])
        blocks, gain = best_by_budget(self.problem.space, value, weight, BINS)
        possible = np.isfinite(gain)
        hoped = (np.tile(top1, len(CAUTION))[:, None] + gain)[possible]
        codes = np.concatenate([np.full((possible.sum(), 1), frame), blocks[possible]], 1)
        return codes, hoped

    # ---- the whole ------------------------------------------------------------------------------------------------

    def finish(self, rounds: int) -> SearchResult:
        self.begin()
        self.anneal(STEPS * rounds)
        for _ in range(rounds):
            judged = len(self.seen)
            self.breed()
            self.polish(self.best_of_shapes(LEADING), POLISHED)
            self.record()
            if len(self.seen) == judged:  # a small space is exhausted
                break
        for leading in (lambda: self.best_of_shapes(LEADING), self.on_front):
            for _ in range(FINAL_POLISHES):
                if not self.polish(leading(), FINAL_POLISHED):
                    break
                self.record()
        return self.result()

    def on_front(self) -> np.ndarray:
        """Indices of the front, shuffled, so that a few rounds reach all of it."""
        return self.rng.permutation(np.flatnonzero(self.gap <= 0))

    def record(self) -> None:
        self.history.append((len(self.seen), float(self.top1.max())))

    def result(self) -> SearchResult:
        order = np.lexsort((-self.top1, self.cost))
        top1 = self.top1[order]
        leads = order[top1 > np.r_[-np.inf, np.maximum.accumulate(top1)[:-1]]]
        front = tuple(
            Candidate(arch, float(a), float(cost) if self.problem.spans_latency else None)
            for arch, a, cost in zip(self.problem.space.decode(self.codes[leads]), self.top1[leads], self.cost[leads]))
        return SearchResult(front[-1], front, tuple(self.history), len(self.seen))
