"""A measured profile against whole networks that it never saw: random ones, corners, and stage-skewed at equal MACs.

    python tests/bench/bench_profile.py [--runtime onnxruntime] [--precision fp32] [--threads 1] [--resolutions PX ...]

Random networks flatter every method, so judge by the others. Beside the profile stand MACs alone, as a straight line
fitted on the networks that gave the profile its constant. All networks run in sweeps of their own, after those of the
profile; 'paced' is the profile times one factor, how fast the machine is by then, from the calibration networks.
"""
from __future__ import annotations

import argparse
import itertools
import time

import numpy as np

from timm_ofa.latency import latency_error
from timm_ofa.measuring import measure
from timm_ofa.profiler import is_warm, make_plan, profile_space
from timm_ofa.runtimes import load_runtime
from timm_ofa.space import Arch, SearchSpace, load_space

POOL = 2000  # random networks, of which the skewed ones are chosen


def corners(space: SearchSpace, resolution: int) -> list[Arch]:
    """12 networks whose blocks are all alike: extreme depths and expansions, three kernel sizes."""
    found = []
    for depth, kernel, ratio in itertools.product((0, -1), (0, 1, -1), (0, -1)):
        stages = [(s.depths[depth], s.kernel_sizes[kernel], s.expand_ratios[ratio]) for s in space.stages]
        found.append(space.check(Arch(
            resolution, tuple((k,) * d for d, k, _ in stages), tuple((e,) * d for d, _, e in stages))))
    return found


def skewed(space: SearchSpace, resolution: int, n: int, rng: np.random.Generator) -> list[Arch]:
    """N networks within 1 % of the same MACs, whose MACs lie in the earliest, in turn in the latest stages."""
    pool = space.restrict(resolutions=[resolution]).sample(rng, POOL)
    macs = np.array([space.macs(arch) for arch in pool])
    near = [arch for arch, m in zip(pool, macs) if abs(m / np.median(macs) - 1) < 0.01]

    def center(arch: Arch) -> float:
        rows = space.rows(arch)
        weights = np.array([row.macs for row in rows])
        return float((weights * np.array([-row.size for row in rows])).sum() / weights.sum())

    near.sort(key=center)
    return [*near[:n // 2], *near[-(n - n // 2):]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--space', default='ofa_mbv3_w10')
    parser.add_argument('--runtime', default='onnxruntime')
    parser.add_argument('--precision', default='fp32')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--resolutions', type=int, nargs='+', default=[*range(128, 225, 16)])
    parser.add_argument('--seconds', type=float, default=20.0)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    space, kit = load_space(args.space), load_runtime(args.runtime, args.precision)
    started = time.perf_counter()
    profile = profile_space(
        space, args.runtime, precision=args.precision, threads=args.threads, resolutions=args.resolutions,
        seconds=args.seconds, seed=args.seed)
    print(f'{args.space}, {args.runtime} {kit.version()}, {args.precision}, {args.threads} threads, '
          f'{args.resolutions} px: {len(profile.table)} rows in {time.perf_counter() - started:.0f} s; '
          f'constant {profile.scale}, its own check {profile.check}, noise {profile.protocol["noise_pct"]} %, '
          f'drift {profile.protocol["drift_pct"]} %')

    rng = np.random.default_rng(args.seed + 1)
    middle = args.resolutions[len(args.resolutions) // 2]
    calibration = list(make_plan(space, args.resolutions, seed=args.seed).nets[:12])
    groups = {
        'calibration': calibration, 'random': space.restrict(resolutions=args.resolutions).sample(rng, 50),
        'corners': corners(space, middle), 'skewed': skewed(space, middle, 12, rng)}
    nets = [net for group in groups.values() for net in group]
    runners = [kit.load(space.rows(net), precision=args.precision, threads=args.threads) for net in nets]
    timing = measure(
        runners, warm=is_warm(space.rows(space.max_arch())), wall=args.threads > 1, seconds=args.seconds)
    measured_ms = dict(zip(nets, timing.low_ms()))
    line = np.polyfit([space.macs(net) for net in calibration], [measured_ms[net] for net in calibration], 1)
    pace = np.median([measured_ms[net] for net in calibration] / profile.latency_ms(space, calibration))
    print(f'pace {pace:.3f}, {timing.samples_ms.shape[1]} visits of each network')
    print(f'{"networks":11} {"":8} {"MAPE %":>7} {"within 5 %":>11} {"within 10 %":>12} {"Kendall":>8}')
    for name, group in groups.items():
        truth = np.array([measured_ms[net] for net in group])
        profile_ms = profile.latency_ms(space, group)
        predictions = {
            'profile': profile_ms, 'paced': pace * profile_ms,
            'MACs': np.polyval(line, [space.macs(net) for net in group])}
        for method, predicted_ms in predictions.items():
            error = latency_error(truth, predicted_ms)
            print(f'{name:11} {method:8} {error["mape_pct"]:7.2f} {error["within_5_pct"]:11.0f} '
                  f'{error["within_10_pct"]:12.0f} {error["kendall_tau"]:8.3f}', flush=True)


if __name__ == '__main__':
    main()
