"""Search against the best known networks and the original's finder: published predictor, published note10 tables.

    python tests/bench/bench_search.py > tests/bench/results/bench_search.txt

Resolutions 160 to 224 px in steps of 16; then the released predictor of ResNet50D under MACs. With the package `ofa`
installed its own EvolutionFinder runs in the same process, on the same released weights and the same prices.
"""
from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import time
from pathlib import Path

import numpy as np

from timm_ofa.latency import load_profile
from timm_ofa.released import UpstreamPredictor, load_upstream_predictor
from timm_ofa.search import MaxMacs, search
from timm_ofa.space import CostTable, SearchSpace, load_space

SHARED = Path(__file__).resolve().parents[3] / 'shared'
RESOLUTIONS = [160, 176, 192, 208, 224]  # px
BEST_KNOWN_PCT = {15: 78.800, 20: 80.789, 25: 82.222, 30: 83.187}  # limit in ms -> predicted top-1
TOLERANCE = 0.02  # points
MAX_SECONDS = 2.0
RESNET_BUDGETS_M = (600, 900, 1200, 1800, 2400, 3000, 3700, 4100)  # million MACs
DRAWS = 100_000  # of the original's finder without any feasible network: it would go on for ever


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
            for c, (k, e) in enumerate(space.choices(stage), 1)}

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
    return 100 * accuracy, time.perf_counter() - start


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

    def __init__(self, space: SearchSpace, predictor: UpstreamPredictor):
        from ofa.nas.accuracy_predictor import ResNetArchEncoder

        self.space, self.predictor = space, predictor
        self.table = space.cost_table(lambda row: row.macs)
        self.arch_encoder = ResNetArchEncoder(image_size_list=list(predictor.resolutions(space)))
        self.draws = 0

    def predict_acc(self, archs: list[dict]) -> np.ndarray:
        return self.predictor.predict([self.space.from_upstream(arch) for arch in archs]) / 100

    def get_efficiency(self, arch: dict) -> float:
        self.draws += 1
        if self.draws > DRAWS:
            raise TimeoutError
        return self.table(self.space.encode([self.space.from_upstream(arch)]))[0]


def compare_resnet(path: Path, seeds: int) -> None:
    """Ours and the best of some runs of the original's finder, for each budget of MACs."""
    space = load_space('ofa_resnet50d')
    predictor = load_upstream_predictor(path, space)
    for budget in RESNET_BUDGETS_M:
        start = time.process_time()
        best = search(space, predictor, limits=[MaxMacs(1e6 * budget)]).best
        print(f'{budget} M MACs: ours {best.top1_pct:.3f} at {space.macs(best.arch) / 1e6:.1f} M, '
              f'{time.process_time() - start:.2f} s of processor', flush=True)
        if seeds:
            from ofa.nas.search_algorithm import EvolutionFinder
        for_all = []
        for seed in range(seeds):
            both = OriginalResnet(space, predictor)
            with contextlib.suppress(TimeoutError):
                for_all.append(run_original(lambda: EvolutionFinder(both, both), 1e6 * budget, seed)[0])  # noqa: B023
        if seeds:
            print(f'       original: {max(for_all):.3f} is the best of {len(for_all)}' if for_all else
                  f'       original: none in {DRAWS} draws, {seeds} times', flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, default=SHARED, help='folder with upstream/acc_predictor.pth')
    parser.add_argument('--seeds', type=int, default=10)
    parser.add_argument('--original-seeds', type=int, default=1)
    parser.add_argument('--resnet-seeds', type=int, default=0, help='runs of the original for ResNet50D, some minutes')
    args = parser.parse_args()
    space = load_space('ofa_mbv3_w12').restrict(resolutions=RESOLUTIONS)
    predictor = load_upstream_predictor(args.data / 'upstream' / 'acc_predictor.pth', space)
    profile = load_profile('note10')
    finder_of = original_finder(space, predictor, profile.cost_table(space))
    search(space, predictor, profile, max_latency_ms=20, rounds=1)  # warm up
    load = os.getloadavg()[0]
    print(f'{os.cpu_count()} cores, load {load:.1f}; bars: within {TOLERANCE} points, {MAX_SECONDS:g} s a search')
    for limit_ms, best_known in BEST_KNOWN_PCT.items():
        found, wall, cpu, front = [], [], [], 0
        for seed in range(args.seeds):
            start, start_cpu = time.perf_counter(), time.process_time()
            result = search(space, predictor, profile, max_latency_ms=limit_ms, seed=seed)
            wall.append(time.perf_counter() - start)
            cpu.append(time.process_time() - start_cpu)
            assert result.best.latency_ms <= limit_ms
            found.append(result.best)
            front = len(result.front)
        top1 = np.array([c.top1_pct for c in found])
        print(
            f'{limit_ms} ms: best known {best_known:.3f}, '
            f'ours {top1.min():.3f}..{top1.max():.3f} (mean {top1.mean():.3f}), '
            f'{(top1 >= best_known - TOLERANCE).sum()}/{len(top1)} within the bar, median {np.median(wall):.2f} s '
            f'({np.median(cpu):.2f} s of processor), front of {front}', flush=True)
        if finder_of:
            runs = [run_original(finder_of, limit_ms, seed) for seed in range(args.original_seeds)]
            theirs, seconds = np.mean(runs, 0)
            ratio = seconds / np.median(wall)
            print(f'       original {theirs:.3f} in {seconds:.1f} s: ours is {ratio:.1f} times as fast')
        best = found[int(top1.argmax())]
        if best.top1_pct > best_known + 0.001:
            print(f'       new best known: {best.top1_pct:.3f} % at {best.latency_ms:.3f} ms, {best.arch}')
    compare_resnet(args.data / 'upstream' / 'ofa_resnet50_acc_predictor.pth', args.resnet_seeds)


if __name__ == '__main__':
    main()
