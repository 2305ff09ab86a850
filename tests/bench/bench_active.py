"""How many evaluations the front needs: choosing actively, at random, and by NSGA-II, on real ImageNet accuracies.

    python tests/bench/bench_active.py > tests/bench/results/bench_active.txt

A published archive of 1,500 networks stands in for evaluations: what a method proposes is looked up, for NSGA-II the
nearest network that was not evaluated yet. The archive was itself made by searches and by drawing, so that even its
random networks are near the front: the bars, of searches free to propose any network, are easier here.
"""
from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from timm_ofa.accuracy import AccuracyPredictor
from timm_ofa.accuracy.active import BATCH, FIRST, choose, hypervolume
from timm_ofa.spaces.arch import Arch
from timm_ofa.spaces.shelf import load_space

ARCHIVE = Path(__file__).resolve().parents[3] / 'shared' / 'archives' / 'ofa_mbv3_w1.0_imagenet_top1.jsonl'
WORST = 600e6, 70.0  # MACs and percent, from which on hypervolume counts
BARS = {50: 0.835, 100: 0.889, 250: 0.948}  # of LINAS, published
POPULATION = 50  # of NSGA-II


class Archive:
    """Networks whose accuracies are known."""

    def __init__(self, path: Path) -> None:
        self.space = load_space('ofa_mbv3_w10').restrict(resolutions=[224])
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        self.archs = [Arch.from_dict({k: r[k] for k in ('resolution', 'kernel_size', 'expand_ratio')}) for r in rows]
        self.codes = self.space.encode(self.archs)
        self.top1, self.macs = (np.array([r[k] for r in rows], dtype=float) for k in ('top1_pct', 'macs'))

    def reached(self, done: np.ndarray) -> float:
        """Hypervolume of evaluated networks (indices) as a share of that of all."""
        return hypervolume(self.macs[done], self.top1[done], *WORST) / hypervolume(self.macs, self.top1, *WORST)


def at_random(archive: Archive, seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(len(archive.archs))[:n]


def actively(archive: Archive, seed: int, n: int) -> np.ndarray:
    """As `collect --active` chooses, among what the archive has."""
    order = np.random.default_rng(seed).permutation(len(archive.archs))
    done = order[:FIRST]
    while len(done) < n:
        predictor = AccuracyPredictor.fit(archive.space, [archive.archs[i] for i in done], archive.top1[done])
        rest = order[~np.isin(order, done)]
        codes = archive.codes[rest]
        chosen = choose(archive.macs[rest], predictor.predict_codes(codes, archive.space),
                        predictor.spread_codes(codes, archive.space), archive.macs[done], archive.top1[done], BATCH)
        others = np.setdiff1d(np.arange(len(rest)), chosen)
        done = np.r_[done, rest[np.r_[chosen, others][:BATCH]]]
    return done


def by_nsga2(archive: Archive, seed: int, n: int) -> np.ndarray:
    """pymoo's NSGA-II on depths and choices; each network that it proposes is replaced by the nearest new one."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling

    genes = archive.codes[:, 1:]  # 0: no block
    problem = Problem(n_var=genes.shape[1], n_obj=2, xl=0, xu=genes.max(0), vtype=int)
    repair = RoundingRepair()
    algorithm = NSGA2(
        pop_size=POPULATION, sampling=IntegerRandomSampling(),
        crossover=SBX(prob=1.0, eta=3.0, vtype=float, repair=repair),
        mutation=PM(prob=1.0, eta=3.0, vtype=float, repair=repair))
    algorithm.setup(problem, termination=('n_gen', 10**6), seed=seed, verbose=False)
    done: list[int] = []
    while len(done) < n:
        population = algorithm.ask()
        for individual in population:
            distance = (genes != individual.X).sum(1).astype(float)
            distance[done] = np.inf
            done.append(int(distance.argmin()))
            individual.X = genes[done[-1]]
            individual.F = np.array([-archive.top1[done[-1]], archive.macs[done[-1]] / 1e6])
        algorithm.tell(infills=population)
    return np.array(done[:n])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, default=ARCHIVE, help='records with top1_pct and macs a line')
    parser.add_argument('--seeds', type=int, default=10)
    args = parser.parse_args()
    archive = Archive(args.data)
    print(f'{len(archive.archs)} networks; top-1 and MACs: area behind {WORST[1]:g} % and {WORST[0] / 1e6:g} M as '
          f'a share of that of all; mean of {args.seeds} seeds, worst in brackets')
    for method in (actively, at_random, by_nsga2):
        start = time.process_time()
        curves = []
        for seed in range(args.seeds):
            done = method(archive, seed, max(BARS))
            assert len(set(done.tolist())) == max(BARS)
            curves.append([archive.reached(done[:n]) for n in BARS])
        means, worst = np.mean(curves, 0), np.min(curves, 0)
        seconds = (time.process_time() - start) / args.seeds
        print(f'{method.__name__}, {seconds:.1f} s each: ' + ', '.join(
            f'{mean:.4f} ({low:.4f}) after {n} (bar {bar})'
            for (n, bar), mean, low in zip(BARS.items(), means, worst)), flush=True)


if __name__ == '__main__':
    main()
