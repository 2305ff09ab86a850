"""Search against the best known networks, the original's finders and NSGA-II, on published predictor and tables.

    python tests/bench/bench_search.py > tests/bench/results/bench_search.txt

Resolutions 160 to 224 px in steps of 16; then the released predictor of ResNet50D under MACs. With the package `ofa`
installed its finders run in the same process: that of its tutorial as a user has it, with its own predictor and its own
latency table; and the one of `ofa.nas` on prices that are looked up in one array, where the original builds a text for
each. With `pymoo` installed NSGA-II gets as many answers of the predictor as ours.
"""
from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import random
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np

from timm_ofa.accuracy.released import UpstreamPredictor, load_upstream_predictor
from timm_ofa.devices.profile import load_profile
from timm_ofa.hub.plots import plot_search
from timm_ofa.searching.limits import Limit, MaxMacs
from timm_ofa.searching.problem import Problem
from timm_ofa.searching.strategy import search
from timm_ofa.spaces.pricing import CostTable
from timm_ofa.spaces.shelf import load_space
from timm_ofa.spaces.space import SearchSpace

SHARED = Path(__file__).resolve().parents[3] / 'shared'
RESOLUTIONS = [160, 176, 192, 208, 224]  # px
BEST_KNOWN_PCT = {15: 78.800, 20: 80.789, 25: 82.222, 30: 83.187}  # limit in ms -> predicted top-1
TOLERANCE = 0.02  # points
MAX_SECONDS = 2.0
FASTER, AIM = 10, 50  # than the original
FRESH = 100  # first of the seeds on which nothing was chosen
RESNET_BUDGETS_M = (600, 900, 1200, 1800, 2400, 3000, 3700, 4100)  # million MACs
DRAWS = 100_000  # of the original's finder without any feasible network: it would go on for ever


def tutorial_finder(folder: Path, limit_ms: float, seed: int) -> tuple[float, float]:
    """Predicted top-1 (%) and seconds of the original's tutorial, its files read from a folder."""
    import yaml

    sys.modules.setdefault('gdown', ModuleType('gdown'))  # for downloads of other files
    from ofa import tutorial
    from ofa.tutorial import accuracy_predictor, latency_table

    def local(url: str, *_: object, **__: object) -> str:
        return str(folder / ('note10/' if url.endswith('.yaml') else '') / url.split('/')[-1])

    accuracy_predictor.download_url = latency_table.download_url = local
    latency_table.yaml.load = functools.partial(yaml.load, Loader=yaml.CSafeLoader)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        table = tutorial.LatencyTable('note10', tuple(RESOLUTIONS))
        predictor = tutorial.AccuracyPredictor(device='cpu')
        random.seed(seed)
        np.random.seed(seed)  # the original draws from the global state
        finder = tutorial.EvolutionFinder('note10', limit_ms, table, predictor)
        start = time.perf_counter()
        _, (accuracy, *_) = finder.run_evolution_search()
    return 100 * float(accuracy), time.perf_counter() - start


def nsga2(space: SearchSpace, predictor: UpstreamPredictor, profile, limit_ms: float, evaluations: int, seed: int,
          ) -> tuple[float, float]:
    """Predicted top-1 (%) of the best network of pymoo's NSGA-II within the limit, and seconds.

    Whole numbers as genes, simulated binary crossover and polynomial mutation as the library's manual has them for
    these, duplicates dropped, a population of 200, random networks repaired to the limit to begin with.
    """
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem as PymooProblem
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.optimize import minimize

    problem = Problem(space, profile, (Limit(profile, limit_ms),))
    best = []

    class Networks(PymooProblem):
        def __init__(self) -> None:
            super().__init__(n_var=len(problem.sizes), n_obj=2, n_ieq_constr=1, xl=0, xu=problem.sizes - 1, vtype=int)

        def _evaluate(self, x, out, *_, **__) -> None:
            codes = problem.codes(x)
            top1, cost = predictor.predict_codes(codes, space), problem.axis(codes)
            best.append(top1[cost <= limit_ms].max(initial=0))
            out['F'], out['G'] = np.stack([-top1, cost], 1), (cost - limit_ms)[:, None]

    rng = np.random.default_rng(seed)
    start = time.perf_counter()
    repair = RoundingRepair()
    minimize(
        Networks(), NSGA2(
            pop_size=200, sampling=problem.random_genes(200, rng), eliminate_duplicates=True,
            crossover=SBX(prob=1.0, eta=3.0, vtype=float, repair=repair),
            mutation=PM(prob=1.0, eta=3.0, vtype=float, repair=repair)),
        ('n_eval', evaluations), seed=seed)
    return max(best), time.perf_counter() - start


class OriginalAccuracy:
    """What the original's finder asks: architectures by name, a tensor of accuracies; its own encoder, torch layers."""

    def __init__(self, predictor: UpstreamPredictor):
        import torch
        from ofa.nas.accuracy_predictor import MobileNetArchEncoder

        self.torch = torch
        self.arch_encoder = MobileNetArchEncoder(image_size_list=RESOLUTIONS)
        # its encoder puts the resolutions first, the released weights have them last, from 112 px
        columns = [*(120 + (r - 112) // 16 for r in RESOLUTIONS), *range(120)]
        layers: list[torch.nn.Module] = []
        for i, (weight, bias) in enumerate(predictor.layers):
            linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
            linear.weight.data, linear.bias.data = torch.tensor(weight), torch.tensor(bias)
            if i == 0:
                linear.weight.data = linear.weight.data[:, columns]
            layers += [linear, torch.nn.ReLU()]
        self.net = torch.nn.Sequential(*layers[:-1])

    def predict_acc(self, archs: list[dict]):
        features = np.array([self.arch_encoder.arch2feature(arch) for arch in archs], dtype=np.float32)
        with self.torch.no_grad():
            return self.net(self.torch.from_numpy(features))[:, 0]


class OriginalLatency:
    """A table look-up per block; the original builds a text for each, which takes longer."""

    def __init__(self, space: SearchSpace, table: CostTable):
        self.const = dict(zip(space.resolutions, table.const.tolist()))
        self.blocks = {
            (r, p, k, e): float(table.table[i, p, c])
            for i, r in enumerate(space.resolutions) for p, (stage, _) in enumerate(space.positions)
            for c, (k, e) in enumerate(space.stages[stage].choices(0), 1)}

    def get_efficiency(self, arch: dict) -> float:
        r = arch['image_size']
        return self.const[r] + sum(
            self.blocks[r, p, arch['ks'][p], arch['e'][p]]
            for stage, depth in enumerate(arch['d']) for p in range(4 * stage, 4 * stage + depth))


def run_original(finder_of, limit_ms: float, seed: int) -> tuple[float, float]:
    """Predicted top-1 (%) and seconds of one run with the original's defaults."""
    random.seed(seed)
    np.random.seed(seed)  # the original draws from the global state
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        _, (accuracy, *_) = finder_of().run_evolution_search(limit_ms)
    return 100 * float(accuracy), time.perf_counter() - start


def original_finder(space: SearchSpace, predictor: UpstreamPredictor, table: CostTable):
    """Makes finders of the package `ofa`; None where it is not installed."""
    try:
        from ofa.nas.search_algorithm import EvolutionFinder
    except ImportError:
        return None
    latency, accuracy = OriginalLatency(space, table), OriginalAccuracy(predictor)
    check = accuracy.arch_encoder.random_sample_arch()
    arch = space.from_upstream({key: check[key] for key in ('ks', 'e', 'd', 'image_size')})
    assert abs(100 * float(accuracy.predict_acc([check])[0]) - predictor.predict([arch])[0]) < 1e-3
    assert abs(latency.get_efficiency(check) - table(space.encode([arch]))[0]) < 1e-9
    return lambda: EvolutionFinder(latency, accuracy)


class OriginalResnet:
    """Both questions of the original's finder for ResNet50D, answered by our predictor and our MACs."""

    def __init__(self, space: SearchSpace, predictor: UpstreamPredictor, table: CostTable):
        from ofa.nas.accuracy_predictor import ResNetArchEncoder

        self.space, self.predictor, self.table, self.draws = space, predictor, table, 0
        self.arch_encoder = ResNetArchEncoder(image_size_list=list(predictor.resolutions(space)))

    def codes(self, archs: list[dict]) -> np.ndarray:
        return self.space.encode([self.space.from_upstream(arch) for arch in archs])

    def predict_acc(self, archs: list[dict]) -> np.ndarray:
        return self.predictor.predict_codes(self.codes(archs), self.space) / 100

    def get_efficiency(self, arch: dict) -> float:
        self.draws += 1
        if self.draws > DRAWS:
            raise TimeoutError
        return self.table(self.codes([arch]))[0]


def compare_resnet(path: Path, seeds: int) -> None:
    """Ours and the best of some runs of the original's finder, for each budget of MACs."""
    space = load_space('ofa_resnet50d')
    predictor = load_upstream_predictor(path, space)
    table = space.cost_table(lambda row: row.macs)
    for budget in RESNET_BUDGETS_M:
        start = time.perf_counter()
        best = search(space, predictor, limits=[MaxMacs(1e6 * budget)]).best
        assert space.macs(best.arch) <= 1e6 * budget
        print(f'{budget} M MACs: ours {best.top1_pct:.3f} at {space.macs(best.arch) / 1e6:.1f} M, '
              f'{time.perf_counter() - start:.2f} s', flush=True)
        if predictor.ceiling_pct - best.top1_pct < 1e-4:
            print('       proven: the most that the predictor can say')
            continue
        if not seeds:
            continue
        from ofa.nas.search_algorithm import EvolutionFinder
        found = []
        for seed in range(seeds):
            both = OriginalResnet(space, predictor, table)
            with contextlib.suppress(TimeoutError):
                found.append(run_original(lambda: EvolutionFinder(both, both), 1e6 * budget, seed)[0])  # noqa: B023
            if not found:
                break  # what takes so many draws once does so again
        print(f'       original: {max(found):.3f} is the best of {len(found)} runs' if found else
              f'       original: no network in {DRAWS} draws', flush=True)


def compare_mobilenet(args: argparse.Namespace) -> None:
    """Ours, the original's finders and NSGA-II, for each limit of latency."""
    space = load_space('ofa_mbv3_w12').restrict(resolutions=RESOLUTIONS)
    predictor = load_upstream_predictor(args.data / 'upstream' / 'acc_predictor.pth', space)
    profile = load_profile('note10')
    finder_of = original_finder(space, predictor, profile.cost_table(space))
    originals = {
        'tutorial of the original': functools.partial(tutorial_finder, args.data / 'upstream'),
        'its finder with our prices': functools.partial(run_original, finder_of)} if finder_of else {}
    search(space, predictor, profile, max_latency_ms=20, steps=1)  # warm up
    for limit_ms, best_known in BEST_KNOWN_PCT.items():
        cpu, wall, kept = [], [], []
        for first in (0, FRESH):
            found = []
            for seed in range(first, first + args.seeds):
                start, start_cpu = time.perf_counter(), time.process_time()
                result = search(space, predictor, profile, max_latency_ms=limit_ms, seed=seed)
                wall.append(time.perf_counter() - start)
                cpu.append(time.process_time() - start_cpu)
                assert result.best.latency_ms <= limit_ms
                found.append(result)
            top1 = np.array([r.best.top1_pct for r in found])
            print(f'{limit_ms} ms, seeds {first}..{seed}: best known {best_known:.3f}, ours {top1.min():.3f}..'
                  f'{top1.max():.3f} (mean {top1.mean():.3f}), {(top1 >= best_known - TOLERANCE).sum()}/{len(top1)} '
                  'within the bar', flush=True)
            kept += found
            if first == 0:  # between ours, on the same machine in the same minute
                theirs = {name: run(limit_ms, 0) for name, run in originals.items()}
        judged, seconds = int(np.median([r.evaluated for r in kept])), np.median(wall)
        print(f'       {seconds:.2f} s (slowest {max(wall):.2f}; {np.median(cpu):.2f} of processor), {judged} networks '
              f'judged, front of {np.median([len(r.front) for r in kept]):.0f}', flush=True)
        for lower, known in BEST_KNOWN_PCT.items():
            if lower < limit_ms:
                at = [max(c.top1_pct for c in r.front if c.latency_ms <= lower) - known for r in kept]
                print(f'       its front at {lower} ms: {np.mean(at):+.3f} points, worst {min(at):+.3f}')
        best = max((r.best for r in kept), key=lambda c: c.top1_pct)
        if best.top1_pct > best_known + 0.001:
            print(f'       new best known: {best.top1_pct:.3f} % at {best.latency_ms:.3f} ms, {best.arch}')
        baselines = {}
        for name, (reached, took) in theirs.items():
            shares = [next((n for n, top1 in r.history if top1 >= reached), r.evaluated) / r.evaluated for r in kept]
            equal = np.median(shares) * seconds
            print(f'       {name}: {reached:.3f} in {took:.1f} s: ours is {took / seconds:.1f} times as fast, and '
                  f'about {took / equal:.0f} times to its accuracy (by the share of networks judged)', flush=True)
            baselines[name] = [(limit_ms, reached)]
        with contextlib.suppress(ImportError):
            runs = [nsga2(space, predictor, profile, limit_ms, judged, seed) for seed in range(3)]
            reached, took = np.mean(runs, 0)
            print(f'       NSGA-II (pymoo), as many networks: {reached:.3f} in {took:.1f} s', flush=True)
            baselines['NSGA-II'] = [(limit_ms, reached)]
    if args.plot:
        result = kept[0]
        plot_search([(c.latency_ms, c.top1_pct) for c in result.front], result.history, args.plot,
                    cost='predicted latency on a Note 10 (ms)', limit=limit_ms, baselines=baselines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, default=SHARED, help='folder with upstream/acc_predictor.pth')
    parser.add_argument('--seeds', type=int, default=10, help='from 0 on, and as many from 100 on; 0: only ResNet50D')
    parser.add_argument('--resnet-seeds', type=int, default=0, help='runs of the original for ResNet50D, some minutes')
    parser.add_argument('--plot', type=Path, help='picture of the last limit, with the baselines')
    args = parser.parse_args()
    print(f'{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; bars: within {TOLERANCE} points for all seeds, '
          f'{MAX_SECONDS:g} s, {FASTER} times as fast (aim {AIM})')
    if args.seeds:
        compare_mobilenet(args)
    compare_resnet(args.data / 'upstream' / 'ofa_resnet50_acc_predictor.pth', args.resnet_seeds)


if __name__ == '__main__':
    main()
