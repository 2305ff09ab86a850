"""The best network under limits, and the whole Pareto front, for a predictor and a device profile.

Where there are few networks all are judged, and where accuracy is additive dynamic programming gives the front: both
prove it. Else random networks are repaired until they keep the limits, and annealed: a few of each resolution, then
most of the resolutions that came far, some under lower caps on latency, until several came to the same best one or the
steps are over; at last where they ended, and the front, uphill only.

This room knows no network, no torch and no runtime: it needs `predictor.predict_codes(codes, space)`,
`predictor.resolutions(space)`, and of a profile `cost_table(space)`, `resolutions(space)` and `name`. A
predictor with `block_slopes(codes, space)` is searched best; without it the slopes are those of an additive model. With
`accuracy_table(space)`, a `CostTable` in percent, accuracy is taken to be additive.

Legend: N networks, P positions. Costs are in the unit of their limit, accuracies in percent.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError, listed
from ..spaces import Arch, SearchSpace
from .anneal import COLD, anneal
from .exact import FEW, best_sums, count, every_network
from .limits import InfeasibleError as InfeasibleError
from .limits import Limit, Problem
from .limits import MaxMacs as MaxMacs
from .limits import MaxMemory as MaxMemory
from .limits import MaxParams as MaxParams
from .pool import Pool

INITIAL = 1000  # random networks to begin with
STEPS = 150  # of annealing
PILOTS, PILOT_SHARE = 10, 0.2  # networks of each resolution that are annealed first, in a share of the steps
SPREAD = 0.07  # points of accuracy below the best of them, for a resolution to get 1 / e as many networks
ANNEALED = 160  # networks under the limit itself
CAPPED = 16  # networks under lower caps
AGREED = 4  # networks that end annealing when they come to the best one independently
CLIMBING_STEPS = 20  # at last, of those annealed, and of those of the front, each under the cost of the next one
CLIMBING_JUDGED = 12  # in each of them
FRONT_CLIMBED = 256  # at most so many of the front


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
    history: tuple[tuple[int, float], ...]  # (networks judged so far, best top-1 in percent)
    evaluated: int  # networks judged by the predictor
    proven: bool = False  # no network beats the front, for this predictor and this profile


def search(space: SearchSpace, predictor, profile=None, *, max_latency_ms: float | None = None,
           limits: Sequence[Limit | MaxMacs | MaxParams | MaxMemory] = (), resolutions: Sequence[int] | None = None,
           seed: int = 0, steps: int = STEPS) -> SearchResult:
    """The most accurate network within all limits, and the Pareto front below it.

    Args:
        space: What may be chosen.
        predictor: Judges the networks, see the head of this file.
        profile: The device whose latency is limited and spans the front; without one the front is over MACs.
        max_latency_ms: Limit on `profile`.
        limits: More limits, all of which hold at once.
        resolutions: Input sides in px to choose from; default: all that predictor and profiles can judge.
        seed: Same seed, same result.
        steps: How long to search.

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
    problem = Problem(space, predictor, profile, tuple(limits))
    pool, proven = Pool(problem), True
    exact = best_sums(problem, predictor.accuracy_table(space)) if hasattr(predictor, 'accuracy_table') else None
    if exact:
        pool.judge(exact[0])
    elif count(space) <= FEW:
        pool.judge(every_network(space))
    else:
        proven = False
        _explore(pool, np.random.default_rng(seed), steps)
    pool.record()
    if not pool.top1.size:
        raise problem.clash()
    return _result(pool, proven)


def refuse_infeasible(space: SearchSpace, profile, limits: Sequence[Limit | MaxMacs | MaxParams | MaxMemory]) -> None:
    """Raise `InfeasibleError` where no network meets one of the limits, without a search."""
    Problem(space, None, profile, tuple(limits))


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


def _explore(pool: Pool, rng: np.random.Generator, steps: int) -> None:
    """Fill the pool: random networks, half of them under lower caps, annealing, then the front again."""
    problem = pool.problem
    genes = problem.random_genes(INITIAL, rng)
    first = np.concatenate([
        problem.repair(genes[:INITIAL // 2], rng, np.full(INITIAL // 2, problem.top)), problem.starts()])
    first = first[problem.excess(first) <= 0]
    if not len(first):
        return
    first = first[np.argsort(-pool.judge(first), kind='stable')]
    pool.record()
    caps = np.linspace(pool.cost.min(), min(problem.top, pool.cost.max()), CAPPED + 1)[1:-1]
    lower = problem.repair(genes[INITIAL // 2:], rng, rng.choice(caps, INITIAL - INITIAL // 2))
    if len(lower):
        pool.judge(lower)
        pool.record()
    starts = _starts(pool, first, int(PILOT_SHARE * steps), rng)
    best = np.argsort(-pool.top1, kind='stable')
    capped = np.concatenate([best[pool.cost[best] <= cap][:1] for cap in caps])
    caps = np.concatenate([np.full(len(starts), problem.top), caps])
    ends, _ = anneal(pool, np.concatenate([starts, pool.codes[capped]]), caps, steps, rng, agreed=AGREED)
    pool.record()
    ends, first = np.unique(ends, axis=0, return_index=True)
    front = pool.front()
    below = np.append(np.nextafter(pool.cost[front][1:], 0), problem.top)  # the cost of the next one
    chosen = rng.permutation(len(front))[:FRONT_CLIMBED]
    anneal(pool, np.concatenate([ends, pool.codes[front[chosen]]]), np.concatenate([caps[first], below[chosen]]),
           CLIMBING_STEPS, rng, hot=COLD, lenient=0, judged=CLIMBING_JUDGED)


def _starts(pool: Pool, first: np.ndarray, steps: int, rng: np.random.Generator) -> np.ndarray:
    """Networks to anneal, of those judged (N, 1 + P), the best first: the more of a resolution the further its pilots
    come in some steps."""
    resolution = pool.problem.space.frames[first[:, 0], 0]
    groups = [first[resolution == r] for r in np.unique(resolution)]
    pilots = [group[:PILOTS] for group in groups]
    caps = np.full(sum(map(len, pilots)), pool.problem.top)
    _, reached = anneal(pool, np.concatenate(pilots), caps, steps, rng, apart=1)
    pool.record()
    best = np.maximum.reduceat(reached, np.cumsum([0, *map(len, pilots[:-1])]))
    share = np.exp((best - best.max()) / SPREAD)
    counts = np.rint(ANNEALED * share / share.sum()).astype(int)
    return np.concatenate([np.resize(group, (n, first.shape[1])) for group, n in zip(groups, counts)])


def _result(pool: Pool, proven: bool) -> SearchResult:
    problem, leading = pool.problem, pool.front()
    front = tuple(
        Candidate(arch, float(top1), float(cost) if problem.spans_latency else None)
        for arch, top1, cost in zip(problem.space.decode(pool.codes[leading]), pool.top1[leading], pool.cost[leading]))
    return SearchResult(front[-1], front, tuple(pool.history), pool.judged, proven)
