"""Limits that are honored: searches at many limits on this machine, each network measured whole before it is taken.

    python tests/bench/bench_limit.py [--profile FILE_OR_NAME] [--searches 20] > tests/bench/results/limit.txt

A network that is measured over its limit is not taken: the limit is tightened, and the front searched again
(`finish.meet_limit`). In the end all that were taken are loaded and measured anew: how many are over their limit,
beside the noise, two standard deviations of a measurement, from the pairs. Accuracy is a formula here, as latency does
not depend on it: it rises with MACs, not the same at each place.
"""
from __future__ import annotations

import argparse
import os
import time

import numpy as np

from timm_ofa.accuracy import AccuracyPredictor
from timm_ofa.devices.profile import latency_error, load_profile
from timm_ofa.devices.profiler import host
from timm_ofa.hub.timing import arch_timer, meet_limit
from timm_ofa.searching.strategy import search
from timm_ofa.spaces.shelf import load_space
from timm_ofa.spaces.space import SearchSpace


def toy_predictor(space: SearchSpace, seed: int) -> AccuracyPredictor:
    rng = np.random.default_rng(seed)
    archs = space.sample(rng, 200)
    strength = rng.uniform(0.5, 1.5, 400)
    work = np.array([sum(strength[i] * row.macs**0.5 for i, row in enumerate(space.rows(arch))) for arch in archs])
    return AccuracyPredictor.fit(space, archs, 70 + 3 * np.log2(work / work.min()), seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--profile', default='amd-epyc-onnxruntime-ofa-mbv3-w10')
    parser.add_argument('--searches', type=int, default=20)
    parser.add_argument('--seconds', type=float, default=2.0, help='of measuring a network (default 2)')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    profile = load_profile(args.profile)
    space = load_space(profile.space)
    space = space.restrict(resolutions=profile.resolutions(space))
    predictor, timer = toy_predictor(space, args.seed), arch_timer(space, profile, args.seconds)
    low, high = profile.latency_ms(space, [space.min_arch(), space.max_arch()])
    began = time.perf_counter()
    print(f'{profile.name}, {profile.runtime} {profile.runtime_version}; {host()}, load {os.getloadavg()[0]:.1f}')
    print(f'{"limit ms":>9} {"predicted":>10} {"measured":>9} {"measured":>9}')
    taken = []
    for limit_ms in np.linspace(1.1 * low, 0.9 * high, args.searches):
        limit_ms = float(f'{limit_ms:.3g}')
        front = search(space, predictor, profile, max_latency_ms=limit_ms, seed=args.seed).front
        attempts = meet_limit(front, limit_ms, timer)
        taken.append((limit_ms, attempts[-1].candidate, attempts[-1].measured['latency_ms']))
        print(f'{limit_ms:9.3f} {attempts[-1].candidate.latency_ms:10.3f} {taken[-1][2]:9.3f}' + ''.join(
            f'   before it {a.candidate.latency_ms:.3f}, measured {a.measured["latency_ms"]:.3f}: tightened'
            for a in attempts[:-1]), flush=True)

    limits_ms, predicted_ms, measured_ms = (np.array(values) for values in zip(
        *((limit, candidate.latency_ms, ms) for limit, candidate, ms in taken)))
    again_ms = np.array([timer(candidate.arch)['latency_ms'] for _, candidate, _ in taken])
    noise_pct = float(200 * np.sqrt(np.mean((again_ms / measured_ms - 1) ** 2) / 2))
    over_pct = 100 * (again_ms / limits_ms - 1)
    print(f'{time.perf_counter() - began:.0f} s; noise {noise_pct:.1f} % (two standard deviations of a measurement)')
    print(f'predicted against measured: {latency_error(measured_ms, predicted_ms)}')
    print(f'measured over the limit when taken: {(measured_ms > limits_ms).sum()} of {len(taken)}')
    print(f'measured anew: {again_ms.round(3).tolist()}')
    far = (over_pct > noise_pct).sum()
    print(f'over the limit then: {(over_pct > 0).sum()} of {len(taken)}, by at most {max(0.0, over_pct.max()):.1f} %; '
          f'by more than the noise: {far} (bar 0: {"MISSED" if far else "kept"})')


if __name__ == '__main__':
    main()
