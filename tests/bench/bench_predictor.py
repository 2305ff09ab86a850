"""Accuracy predictor on real ImageNet accuracies: random splits of a published archive, held-out error beside the bars.

    python tests/bench/bench_predictor.py > tests/bench/results/bench_predictor.txt
"""
from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from timm_ofa.accuracy import AccuracyPredictor
from timm_ofa.devices.profile import kendall_tau
from timm_ofa.spaces.arch import Arch
from timm_ofa.spaces.shelf import load_space

ARCHIVE = Path(__file__).resolve().parents[3] / 'shared' / 'archives' / 'ofa_mbv3_w1.0_imagenet_top1.jsonl'
BARS = {  # samples -> tau, RMSE in points
    50: (0.805, 0.435), 100: (0.852, 0.303), 250: (0.899, 0.205), 500: (0.913, 0.182), 1000: (0.919, 0.173)}
FEW_SPLITS = 2  # where there are so many samples that one takes half a minute


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, default=ARCHIVE, help='records: the fields of an arch and top1_pct a line')
    parser.add_argument('--splits', type=int, default=10)
    args = parser.parse_args()
    space = load_space('ofa_mbv3_w10')
    records = [json.loads(line) for line in args.data.read_text().splitlines()]
    archs = [Arch.from_dict({k: r[k] for k in ('resolution', 'kernel_size', 'expand_ratio')}) for r in records]
    top1 = np.array([r['top1_pct'] for r in records])
    print(f'{len(archs)} networks, {args.splits} random splits, judged on the rest; bars: one-hot ridge regression')
    for n, (tau_bar, rmse_bar) in BARS.items():
        rows = []
        for split in range(args.splits if n < max(BARS) else FEW_SPLITS):
            order = np.random.default_rng(split).permutation(len(archs))
            train, rest = order[:n], order[n:]
            start = time.perf_counter()
            predictor = AccuracyPredictor.fit(space, [archs[i] for i in train], top1[train], seed=split)
            seconds = time.perf_counter() - start
            predicted = predictor.predict([archs[i] for i in rest])
            rmse = float(np.sqrt(np.mean((predicted - top1[rest]) ** 2)))
            spread = np.hypot(predictor.spread([archs[i] for i in rest]), predictor.noise_pct)
            within = (np.abs(predicted - top1[rest]) < 2 * spread).mean()
            rows.append((kendall_tau(predicted, top1[rest]), rmse, seconds, predictor.check['rmse_pct'], 100 * within,
                         predictor.noise_pct))
        tau, rmse, seconds, own, within, noise = np.array(rows).T
        print(
            f'{n} samples: tau {tau.mean():.3f} +- {tau.std():.3f} (bar {tau_bar}), '
            f'RMSE {rmse.mean():.3f} +- {rmse.std():.3f} (bar {rmse_bar}; '
            f'its own check says {own.mean():.3f}), {within.mean():.0f} % within two of its standard deviations, '
            f'noise {noise.mean():.3f}, {np.median(seconds):.2f} s a fit', flush=True)
    truth, rng, noise = predicted, np.random.default_rng(0), predictor.noise_pct
    taus = [kendall_tau(truth, truth + rng.normal(0, noise, len(truth))) for _ in range(10)]
    print(f'ceiling: by marginal likelihood an evaluation has a noise of {noise:.3f} points; a perfect predictor would '
          f'have that as RMSE, and a tau of {np.mean(taus):.3f}')


if __name__ == '__main__':
    main()
