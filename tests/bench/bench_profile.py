"""A measured profile against whole networks that it never saw: random ones, corners, and stage-skewed at equal MACs.

    python tests/bench/bench_profile.py [--runtime onnxruntime] [--precision fp32] [--threads 1] [--resolutions PX ...]
        [--processor cpu] [--batch-size 1] [--out profile.json]

Random networks flatter every method, so judge by the others. Beside the profile stand MACs alone, as a straight line
fitted on the networks that gave the profile its constant. All networks run in sweeps of their own, after those of the
profile; 'paced' is the profile times one factor, how fast the machine is by then, from the calibration networks.
"""
from __future__ import annotations

import argparse
import itertools
import os
import time

import numpy as np

from timm_ofa.latency import DeviceProfile, latency_error
from timm_ofa.measuring import measure
from timm_ofa.profiler import is_warm, make_plan, profile_space
from timm_ofa.runtimes import load_runtime
from timm_ofa.space import Arch, SearchSpace, load_space

POOL = 2000  # random networks, of which the skewed ones are chosen
MAX_SECONDS = {'onnxruntime': 60, 'openvino': 180}  # to measure the whole space
MAX_MAPE_PCT = {('onnxruntime', 'fp32', 1): 2}
OTHER_MAX_MAPE_PCT = 3
MIN_TAU = 0.9


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


def groups_of(space: SearchSpace, resolutions: list[int], seed: int) -> dict[str, list[Arch]]:
    """Networks that the profile was fitted on, and those that it never saw."""
    rng = np.random.default_rng(seed + 1)
    middle = resolutions[len(resolutions) // 2]
    return {
        'calibration': list(make_plan(space, resolutions, seed=seed).nets[:12]),
        'random': space.restrict(resolutions=resolutions).sample(rng, 50),
        'corners': corners(space, middle), 'skewed': skewed(space, middle, 12, rng)}


def judge(space: SearchSpace, profile: DeviceProfile, resolutions: list[int], *, processor: str = 'cpu',
          seconds: float = 20.0, seed: int = 0) -> list[str]:
    """A table of errors by group, as lines; `seed` is that of the profile."""
    kit = load_runtime(profile.runtime, profile.precision, processor)
    groups = groups_of(space, resolutions, seed)
    nets = [net for group in groups.values() for net in group]
    runners = [
        kit.load(space.rows(net), precision=profile.precision, processor=processor, threads=profile.threads,
                 batch_size=profile.batch_size) for net in nets]
    timing = measure(
        runners, warm=is_warm(space.rows(space.max_arch())), wall=profile.threads > 1 or processor != 'cpu',
        seconds=seconds)
    measured_ms = dict(zip(nets, timing.low_ms()))
    calibration = groups['calibration']
    line = np.polyfit([space.macs(net) for net in calibration], [measured_ms[net] for net in calibration], 1)
    pace = np.median([measured_ms[net] for net in calibration] / profile.latency_ms(space, calibration))
    max_mape_pct = MAX_MAPE_PCT.get((profile.runtime, profile.precision, profile.threads), OTHER_MAX_MAPE_PCT)
    low_ms, halves_ms = timing.low_ms(), timing.halves_ms()
    noise_pct = 100 * np.median(np.abs(halves_ms[0] - halves_ms[1]) / low_ms)
    lines = [
        f'pace {pace:.3f}, {timing.samples_ms.shape[1]} visits of each network, {low_ms.min():.3f} to '
        f'{low_ms.max():.3f} ms, two halves of the visits {noise_pct:.2f} % apart; load {os.getloadavg()[0]:.1f}',
        f'{"networks":11} {"":8} {"MAPE %":>7} {"within 5 %":>11} {"within 10 %":>12} {"Kendall":>8}']
    for name, group in groups.items():
        truth = np.array([measured_ms[net] for net in group])
        profile_ms = profile.latency_ms(space, group)
        predictions = {
            'profile': profile_ms, 'paced': pace * profile_ms,
            'MACs': np.polyval(line, [space.macs(net) for net in group])}
        for method, predicted_ms in predictions.items():
            error = latency_error(truth, predicted_ms)
            kept = error['mape_pct'] <= max_mape_pct and error['kendall_tau'] >= MIN_TAU
            verdict = f'  bar {max_mape_pct}, {MIN_TAU}: {"kept" if kept else "MISSED"}' if (
                method == 'profile' and name != 'calibration') else ''
            lines.append(
                f'{name:11} {method:8} {error["mape_pct"]:7.2f} {error["within_5_pct"]:11.0f} '
                f'{error["within_10_pct"]:12.0f} {error["kendall_tau"]:8.3f}{verdict}')
    return lines


def build_and_judge(space: SearchSpace, runtime: str, resolutions: list[int], *, precision: str, threads: int = 1,
                    batch_size: int = 1, processor: str = 'cpu', seconds: float = 20.0, seed: int = 0,
                    ) -> tuple[DeviceProfile, list[str]]:
    """A profile of these resolutions, and what there is to say about it, as lines."""
    started = time.perf_counter()
    profile = profile_space(
        space, runtime, precision=precision, threads=threads, batch_size=batch_size, processor=processor,
        resolutions=resolutions, seconds=seconds, seed=seed)
    took, protocol = time.perf_counter() - started, profile.protocol
    bar = MAX_SECONDS.get(runtime)
    verdict = '' if bar is None else f' (bar {bar}: {"kept" if took <= bar else "MISSED"})'
    return profile, [
        f'{space.name}, {runtime} {profile.runtime_version}, {precision}, {threads} threads, batch {batch_size}, '
        f'{resolutions} px; {protocol["host"]}',
        f'{len(profile.table)} rows in {took:.0f} s{verdict}; overhead {profile.overhead_ms} ms, constant '
        f'{profile.scale}, its own check {profile.check}, noise {protocol["noise_pct"]} %, '
        f'drift {protocol["drift_pct"]} %, {protocol["sweeps"]} sweeps',
        *judge(space, profile, resolutions, processor=processor, seconds=seconds, seed=seed)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--space', default='ofa_mbv3_w10')
    parser.add_argument('--runtime', default='onnxruntime')
    parser.add_argument('--precision', default='fp32')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--batch-size', type=int, default=1)
    parser.add_argument('--processor', default='cpu')
    parser.add_argument('--resolutions', type=int, nargs='+', default=[*range(128, 225, 16)])
    parser.add_argument('--seconds', type=float, default=20.0)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', help='keep the profile')
    args = parser.parse_args()
    profile, lines = build_and_judge(
        load_space(args.space), args.runtime, args.resolutions, precision=args.precision, threads=args.threads,
        batch_size=args.batch_size, processor=args.processor, seconds=args.seconds, seed=args.seed)
    print('\n'.join(lines))
    if args.out:
        profile.save(args.out)


if __name__ == '__main__':
    main()
