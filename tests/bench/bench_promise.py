"""Whether subnets with inherited weights are as good as the same networks trained alone.

    accelerate launch train.py --config tests/bench/promise.yaml --set seed=0 --data DIR --output out/promise/seed0
    python tests/bench/bench_alone.py --space ofa_mbv3_tiny --epochs 20 --batch-size 64 --lr 0.08 --resolution 24 \\
        --networks smallest 'one third' 'two thirds' largest --seeds 0 --data DIR --out out/alone
    python tests/bench/bench_promise.py --data DIR --supernets out/promise/seed* --alone out/alone/results.jsonl

The supernet is judged on all test images, each subnet with BatchNorm statistics of its own. The networks trained alone
have seen the same images in as many steps.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from bench_alone import SUBNETS, read_results, subnet_archs

from timm_ofa.accuracy import SubnetJudge
from timm_ofa.console import table
from timm_ofa.images import load_data, stored_side
from timm_ofa.networks import load_supernet
from timm_ofa.training import load_config


def inherited(folder: Path, data_source: str) -> tuple[int, list[float]]:
    """The seed of a supernet, and the top-1 of its four subnets on the test images, percent."""
    config, supernet = load_config(folder / 'train.yaml'), load_supernet(str(folder)).eval()
    data = load_data(data_source, stored_side(supernet.space), holdout=config.holdout, seed=config.seed)
    judge = SubnetJudge(supernet, data.train, data.test, augment=config.augment, seed=config.seed)
    return config.seed, [judge.top1_pct(arch) for arch in subnet_archs(supernet.space).values()]


def differences(pairs: Sequence[tuple[list[float], list[float]]]) -> list[str]:
    """Inherited minus alone: the mean over the seeds, with its standard error where there are several."""
    found = np.array([np.subtract(*pair) for pair in pairs])
    found = np.column_stack([found, found.mean(1)])
    if len(found) == 1:
        return [f'{d:+.2f}' for d in found[0]]
    return [f'{d:+.2f} ± {e:.2f}' for d, e in zip(found.mean(0), found.std(0, ddof=1) / len(found)**0.5)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', required=True)
    parser.add_argument('--supernets', type=Path, nargs='+', required=True)
    parser.add_argument('--alone', type=Path, required=True, help='results.jsonl of bench_alone')
    args = parser.parse_args()
    torch.set_num_threads(1)
    alone = {(r['network'], r['seed']): r['top1_pct'] for r in read_results(args.alone)}
    lines, pairs = [], []
    for folder in args.supernets:
        seed, top1 = inherited(folder, args.data)
        lines.append([f'inherited, seed {seed}', *(f'{pct:.2f}' for pct in (*top1, np.mean(top1)))])
        if all((name, seed) in alone for name in SUBNETS):
            pairs.append((top1, [alone[name, seed] for name in SUBNETS]))
            lines.append([f'alone, seed {seed}', *(f'{pct:.2f}' for pct in (*pairs[-1][1], np.mean(pairs[-1][1])))])
    if pairs:
        lines.append(['inherited minus alone', *differences(pairs)])
    print(table(['top-1 %', *SUBNETS, 'mean'], lines))


if __name__ == '__main__':
    main()
