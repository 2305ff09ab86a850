"""The best network under limits, and the whole Pareto front, for a predictor and a device profile.

Two cases are exact, and their result is proven: if there are few networks, all are judged; if accuracy is additive,
dynamic programming finds the front. In all other cases
1. random networks are changed until they are within the limits;
2. a few networks of each resolution are annealed, to see how far each resolution comes;
3. many networks are annealed, more of the better resolutions, and some under lower caps on the cost, until several
   networks come to the same best one, or the steps are over;
4. their results and the front are improved further, uphill only.

A search needs no torch. Of the predictor it needs `predict_codes` and `resolutions` (`pool.Predictor`), of a profile
those of `limits.Profile`. A predictor may have two more methods. With `block_slopes(codes, space)`, the search is
better; without it, an additive model gives the slopes. `accuracy_table(space)`, a `CostTable` in percent, says that
accuracy is additive.

Legend: N networks, P positions. Costs are in the unit of their limit, accuracies in percent.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError, listed
from ..spaces import Arch, SearchSpace
from .additive import UNKNOWN_PCT
from .anneal import COLD, anneal
from .exact import FEW, best_sums, every_network
from .limits import TOLERANCE, AnyLimit, Limit, Profile
from .pool import Pool, Predictor
from .problem import Problem

INITIAL = 1000  # random networks at the beginning
STEPS = 150  # of annealing
PILOTS, PILOT_SHARE = 10, 0.2  # networks of each resolution that are annealed first; for this share of the steps
SPREAD = 0.07  # points of accuracy: a resolution so far below the best one gets 1 / e as many networks
ANNEALED = 160  # networks that are annealed under the limit itself
CAPPED = 16  # networks that are annealed under lower caps
AGREED = 4  # annealing ends when so many networks have come to the best one independently
CLIMBING_STEPS = 20  # at the end; networks of the front climb below the cost of the next one
CLIMBING_JUDGED = 12  # changes that are judged for each network and step
FRONT_CLIMBED = 256  # networks of the front that climb, at most


@dataclass(frozen=True)
class Candidate:
    """One network of a result."""
    arch: Arch
    top1_pct: float  # predicted
    latency_ms: float | None  # predicted; None: the search had no device


@dataclass(frozen=True)
class SearchResult:
    """The front, from fast to accurate, and its last entry `best`: the most accurate network within all limits."""
    best: Candidate
    front: tuple[Candidate, ...]
    history: tuple[tuple[int, float], ...]  # (networks judged up to then, best top-1 in percent)
    evaluated: int  # networks judged by the predictor
    proven: bool = False  # for this predictor and this profile, no network beats the front


def search(space: SearchSpace, predictor: Predictor, profile: Profile | None = None, *,
           max_latency_ms: float | None = None, limits: Sequence[AnyLimit] = (),
           resolutions: Sequence[int] | None = None, seed: int = 0, steps: int = STEPS) -> SearchResult:
    """Find the most accurate network within all limits, and the Pareto front below it.

    Args:
        space: The networks to choose from.
        predictor: Tells the accuracy of networks; see the head of this file.
        profile: The device whose latency is the cost along the front. Without a profile, the cost is MACs.
        max_latency_ms: A limit on the latency on `profile`.
        limits: More limits. All limits hold at once.
        resolutions: Sides of the input in px to choose from; default: all that the predictor and the profiles know.
        seed: The same seed gives the same result.
        steps: The number of annealing steps.

    Raises:
        InfeasibleError: No network is within the limits. Whether each limit can be met is known before any search.
        InputError: A limit is no number above 0, or no resolution is known to the predictor and all profiles.
    """
    if max_latency_ms is not None:
        if profile is None:
            raise InputError(f'max_latency_ms {max_latency_ms} needs a profile; give one, or use limits=')
        limits = (Limit(profile, max_latency_ms), *limits)
    for limit in limits:
        if not isinstance(limit.maximum, (int, float, np.number)) or not limit.maximum > 0:
            raise InputError(f'limit {limit.maximum!r:.40} is not a number above 0; give one')
    space = _judged(space, predictor, profile, limits, resolutions)
    problem = Problem(space, profile, tuple(limits))
    pool, proven = Pool(problem, predictor), True
    exact = best_sums(problem, predictor.accuracy_table(space)) if hasattr(predictor, 'accuracy_table') else None
    if exact:
        pool.judge(exact[0])
    elif space.count() <= FEW:
        pool.judge(every_network(space))
    else:
        proven = False
        _explore(pool, np.random.default_rng(seed), steps)
    pool.record()
    if not pool.top1.size:
        raise problem.clash()
    return _result(pool, proven)


def refuse_infeasible(space: SearchSpace, profile: Profile | None, limits: Sequence[AnyLimit]) -> None:
    """Raise `InfeasibleError` if no network is within one of the limits, without a search."""
    Problem(space, profile, tuple(limits))


def _judged(space: SearchSpace, predictor: Predictor, profile: Profile | None, limits: Sequence[AnyLimit],
            resolutions: Sequence[int] | None) -> SearchSpace:
    """The space at the resolutions that are wanted, and that the predictor and the profiles know."""
    if resolutions is not None:
        space = space.restrict(resolutions=resolutions)
    profiles = [profile, *(limit.profile for limit in limits if isinstance(limit, Limit))]
    known = [predictor.resolutions(space), *(each.resolutions(space) for each in profiles if each is not None)]
    common = [r for r in space.resolutions if all(r in some for some in known)]
    if not common:
        texts = ' and '.join(f'[{listed(some)}]' for some in known)
        raise InputError(
            f'resolutions {listed(space.resolutions)} of {space.name}: predictor and profiles know {texts} px, none in '
            'common; fit and measure at one resolution of both')
    return space.restrict(resolutions=common)


def _explore(pool: Pool, rng: np.random.Generator, steps: int) -> None:
    """Fill the pool: random networks, half of them under lower caps; then annealing; then climbing."""
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
    below = np.append(pool.cost[front][1:] * (1 - 4 * TOLERANCE), problem.top)  # less than the next one costs
    chosen = rng.permutation(len(front))[:FRONT_CLIMBED]
    anneal(pool, np.concatenate([ends, pool.codes[front[chosen]]]), np.concatenate([caps[first], below[chosen]]),
           CLIMBING_STEPS, rng, hot=COLD, lenient=0, judged=CLIMBING_JUDGED)


def _starts(pool: Pool, first: np.ndarray, steps: int, rng: np.random.Generator) -> np.ndarray:
    """The networks to anneal, from judged ones (N, 1 + P), the best of which come first.

    The further the pilots of a resolution come in some steps, the more networks it gets.
    """
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
    """The front of the pool as archs."""
    problem, leading = pool.problem, pool.front()
    leading = leading[pool.top1[leading] > UNKNOWN_PCT / 2]
    if not leading.size:
        raise InputError('the predictor knows no network within the limits: each has a choice that no record has; '
                         'collect more records, and fit it again')
    front = tuple(
        Candidate(arch, float(top1), float(cost) if problem.spans_latency else None)
        for arch, top1, cost in zip(problem.space.decode(pool.codes[leading]), pool.top1[leading], pool.cost[leading]))
    return SearchResult(front[-1], front, tuple(pool.history), pool.judged, proven)
