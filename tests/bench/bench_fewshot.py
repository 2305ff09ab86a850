"""Profiles fitted on a few whole networks: random splits of published GPU latencies, and of a phone's published table.

    python tests/bench/bench_fewshot.py > tests/bench/results/fewshot.txt
"""
from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import numpy as np

from timm_ofa.devices.fewshot import fit_prices, predict_held_out
from timm_ofa.devices.profile import latency_error, load_profile
from timm_ofa.devices.work import network_work
from timm_ofa.spaces.arch import Arch
from timm_ofa.spaces.shelf import load_space
from timm_ofa.spaces.space import SearchSpace

ARCHIVE = Path(__file__).resolve().parents[3] / 'shared' / 'archives' / 'ofa_mbv3_w1.0_latency.jsonl'
BARS = {'titan_rtx_64': 98.5, 'v100_64': 98.5, 'titan_rtx_1': 87.5, 'v100_1': 85.0}  # % within +-10 %, of 20 networks
COUNTS = (10, 20, 50)


def from_macs(macs: np.ndarray, latency_ms: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Latencies (M,) by the line over MACs (N,) of the least relative squares."""
    line = np.linalg.lstsq(np.stack([1 / latency_ms, macs / latency_ms], 1), np.ones(len(macs)), rcond=None)[0]
    return line[0] + line[1] * others


def judge(label: str, amounts: np.ndarray, macs: np.ndarray, latency_ms: np.ndarray, n: int, splits: int,
          groups: dict[str, np.ndarray], bar: str = '') -> None:
    """Fit on n of the networks of the first group, `splits` times; print the mean error on the rest of each group."""
    drawn = next(iter(groups.values()))
    found: dict[str, list] = {name: [] for name in groups}
    own = []
    for split in range(splits):
        known = np.random.default_rng(split).permutation(drawn)[:n]
        prices = fit_prices(amounts[known], latency_ms[known])
        own.append(latency_error(latency_ms[known], predict_held_out(amounts[known], latency_ms[known]))['mape_pct'])
        for name, group in groups.items():
            rest = np.setdiff1d(group, known)
            found[name].append([list(latency_error(latency_ms[rest], predicted).values())[:4] for predicted in (
                amounts[rest] @ prices.ms, from_macs(macs[known], latency_ms[known], macs[rest]))])
    for name, errors in found.items():
        (mape, five, ten, tau), plain = np.mean(errors, 0)
        worst = np.min(errors, 0)[0, 2]
        print(
            f'{label:13} {n:3} {name:7}  within 10 % {ten:5.1f} (worst split {worst:5.1f}{bar}), '
            f'within 5 % {five:5.1f}, MAPE {mape:5.2f} (own check {np.mean(own):5.2f}), tau {tau:.3f}'
            f' | MACs alone {plain[2]:5.1f}, {plain[0]:5.2f}, {plain[3]:.3f}', flush=True)


def corners(space: SearchSpace) -> list[Arch]:
    """Networks that take the least or the most of each: 16 at the least and the largest resolution."""
    return [
        Arch(px, tuple((kernel(s.kernel_sizes),) * depth(s.depths) for s in space.stages),
             tuple((ratio(s.expand_ratios),) * depth(s.depths) for s in space.stages))
        for px in (space.resolutions[0], space.resolutions[-1])
        for kernel, ratio, depth in itertools.product((min, max), repeat=3)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, default=ARCHIVE,
                        help='networks of ofa_mbv3_w10: the fields of an arch, and latency_ms by device, a line')
    parser.add_argument('--splits', type=int, default=30)
    args = parser.parse_args()
    space = load_space('ofa_mbv3_w10')
    records = [json.loads(line) for line in args.data.read_text().splitlines()]
    by_device = [record.pop('latency_ms') for record in records]
    archs = [Arch.from_dict(record) for record in records]
    amounts, macs = network_work(space, archs), np.array([space.macs(arch) for arch in archs], dtype=float)
    print(f'means of {args.splits} random splits; {len(archs)} networks of {args.data.name}')
    for device, n in itertools.product(by_device[0], COUNTS):
        latency_ms = np.array([latencies[device] for latencies in by_device])
        bar = f', bar {BARS[device]}' if n == 20 and device in BARS else ''
        judge(device, amounts, macs, latency_ms, n, args.splits, {'random': np.arange(len(archs))}, bar)

    published, phone = load_profile('note10'), load_space('ofa_mbv3_w12')
    phone = phone.restrict(resolutions=published.resolutions(phone))
    archs = [*phone.sample(np.random.default_rng(0), 400), *corners(phone)]
    amounts, macs = network_work(phone, archs), np.array([phone.macs(arch) for arch in archs], dtype=float)
    groups = {'random': np.arange(400), 'corners': np.arange(400, len(archs))}
    print('sums of the published table of the Samsung Note10, 160 to 224 px')
    for n in COUNTS:
        judge('note10', amounts, macs, published.latency_ms(phone, archs), n, args.splits, groups)


if __name__ == '__main__':
    main()
