"""A measured profile against whole networks that it never saw: random ones, corners, and those of equal MACs.

    python tests/bench/bench_profile.py [--runtime onnxruntime] [--precision fp32] [--threads 1] [--resolutions PX ...]
        [--processor cpu] [--batch-size 1] [--out profile.json | --shelf]

The profiles of this machine on the shelf, and tests/bench/results/profiles/, all anew (about 15 minutes, each its own):

    three="--resolutions 160 192 224"; for options in "" "--space ofa_mbv3_32px" "--space ofa_mbv3_tiny" \
        "--runtime openvino --seconds 60" "--precision int8 $three" "--runtime litert $three --seconds 15" \
        "--runtime ncnn $three --seconds 15"; do python tests/bench/bench_profile.py --shelf $options; done

Random networks flatter every method, so judge by the others. All run in the same sweeps as the rows. Beside the profile
stand MACs alone, as a straight line fitted on the networks that gave the profile its constant. 'Measured again' is in
sweeps of their own, minutes later; then times one factor, how fast the machine is by then, from the fitted networks;
then against the first measurement: no profile can be expected to agree better. 'Told' is the tau of those pairs that
both measurements order alike.
"""
from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from timm_ofa.devices.heldout import FITTED, RANDOM
from timm_ofa.devices.measuring import measure
from timm_ofa.devices.plan import NET_LOADS, times_warm
from timm_ofa.devices.profile import PROFILES_DIR, DeviceProfile, latency_error
from timm_ofa.devices.profiler import profile_space
from timm_ofa.errors import listed
from timm_ofa.files import write_text
from timm_ofa.runtimes.registry import load_runtime
from timm_ofa.spaces.arch import Arch
from timm_ofa.spaces.shelf import load_space
from timm_ofa.spaces.space import SearchSpace

RESULTS = Path(__file__).resolve().parent / 'results' / 'profiles'
STEP_16 = [*range(128, 225, 16)]  # px
RANDOM_NETS = 50
MAX_SECONDS = {('onnxruntime', 'fp32'): 60, ('openvino', 'fp32'): 180}  # to measure the whole space
MAX_MAPE_PCT = {('onnxruntime', 'fp32', 1): 2}
OTHER_MAX_MAPE_PCT = 3
MIN_TAU = 0.9


def judge(space: SearchSpace, profile: DeviceProfile, *, processor: str = 'cpu', seconds: float = 20.0,
          again: bool = True) -> list[str]:
    """A table of errors by group, as lines; `again`: all networks are measured a second time."""
    archs = {name: [space.parse(text) for text in group] for name, group in profile.networks.items()}
    fitted, fitted_ms = archs[FITTED], [*profile.networks[FITTED].values()]
    line = np.polyfit([space.macs(arch) for arch in fitted], fitted_ms, 1)
    again_ms = measure_again(space, profile, archs, processor, seconds) if again else {}
    pace = float(np.median([again_ms[arch] for arch in fitted] / profile.latency_ms(space, fitted))) if again else 1.0
    max_mape_pct = MAX_MAPE_PCT.get((profile.runtime, profile.precision, profile.threads), OTHER_MAX_MAPE_PCT)
    head = f'{"n":>3} {"ms":>15} {"MAPE %":>7} {"within 5 %":>11} {"within 10 %":>12} {"tau":>6} {"told":>6}'
    lines = [f'{"networks":9} {"":24} {head}']
    for name, group in archs.items():
        truth_ms, priced_ms = np.array([*profile.networks[name].values()]), profile.latency_ms(space, group)
        methods = [('profile', truth_ms, priced_ms),
                   ('MACs alone', truth_ms, np.polyval(line, [space.macs(arch) for arch in group]))]
        if again:
            later_ms = np.array([again_ms[arch] for arch in group])
            methods += [
                ('measured again', later_ms, priced_ms), (f'the same, times {pace:.3f}', later_ms, pace * priced_ms),
                ('again against first', later_ms, truth_ms)]
        first, second = (order(again_ms[arch] for arch in group), order(truth_ms)) if again else (order(truth_ms),) * 2
        told = first == second
        for method, found_ms, predicted_ms in methods:
            error = latency_error(found_ms, predicted_ms)
            told_tau = float(np.mean((order(predicted_ms) * order(found_ms))[told]))
            kept = error['mape_pct'] <= max_mape_pct and error['kendall_tau'] >= MIN_TAU
            verdict = f'  bars {max_mape_pct} %, {MIN_TAU}: {"kept" if kept else "MISSED"}' if (
                method == 'profile' and name != FITTED) else ''
            lines.append(
                f'{name:9} {method:24} {error["n"]:3} {found_ms.min():7.3f} {found_ms.max():7.3f} '
                f'{error["mape_pct"]:7.2f} {error["within_5_pct"]:11.0f} {error["within_10_pct"]:12.0f} '
                f'{error["kendall_tau"]:6.3f} {told_tau:6.3f}{verdict}')
    return lines


def order(latency_ms: Iterable[float]) -> np.ndarray:
    """(N,) -> for each pair -1 or 1: which one is faster."""
    ms = np.array([*latency_ms])
    i, j = np.triu_indices(len(ms), 1)
    return np.sign(ms[i] - ms[j])


def measure_again(space: SearchSpace, profile: DeviceProfile, archs: dict[str, list[Arch]], processor: str,
                  seconds: float) -> dict[Arch, float]:
    """All whole networks in sweeps of their own, loaded several times but for the random ones: arch -> ms."""
    kit = load_runtime(profile.runtime, profile.precision, processor)
    nets = [net for name, group in archs.items() for net in group for _ in range(1 if name == RANDOM else NET_LOADS)]
    nets.sort(key=space.params, reverse=True)
    runners = [
        kit.load(space.rows(net), precision=profile.precision, processor=processor, threads=profile.threads,
                 batch_size=profile.batch_size) for net in nets]
    timing = measure(
        runners, warm=times_warm(space), wall=profile.threads > 1 or processor != 'cpu',
        seconds=seconds)
    low_ms = timing.low_ms()
    return {net: float(np.mean([ms for other, ms in zip(nets, low_ms) if other == net])) for net in dict.fromkeys(nets)}


def build_and_judge(space: SearchSpace, runtime: str, resolutions: list[int] | None = None, *, precision: str = 'fp32',
                    threads: int = 1, batch_size: int = 1, processor: str = 'cpu', seconds: float = 20.0, seed: int = 0,
                    ) -> tuple[DeviceProfile, list[str]]:
    """A profile of these resolutions, and what there is to say about it, as lines."""
    started = time.perf_counter()
    profile = profile_space(
        space, runtime, precision=precision, threads=threads, batch_size=batch_size, processor=processor,
        resolutions=resolutions, seconds=seconds, random_nets=RANDOM_NETS, seed=seed)
    took, protocol = time.perf_counter() - started, profile.protocol
    bar = MAX_SECONDS.get((runtime, precision))
    verdict = '' if bar is None else f' (bar {bar}: {"kept" if took <= bar else "MISSED"})'
    return profile, [
        f'== {space.name}, {runtime} {profile.runtime_version}, {precision}, {threads} threads, batch {batch_size}, '
        f'{listed(profile.resolutions(space), 20)} px; {protocol["host"]}, load {os.getloadavg()[0]:.1f}',
        f'{len(profile.table)} rows in {took:.0f} s{verdict}, {protocol["sweeps"]} sweeps; overhead '
        f'{profile.overhead_ms} ms, constant {profile.scale}, noise {protocol["noise_pct"]} %, drift '
        f'{protocol["drift_pct"]} %', *judge(space, profile, processor=processor, seconds=seconds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--space', default='ofa_mbv3_w10')
    parser.add_argument('--runtime', default='onnxruntime')
    parser.add_argument('--precision', default='fp32')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--batch-size', type=int, default=1)
    parser.add_argument('--processor', default='cpu')
    parser.add_argument(
        '--resolutions', type=int, nargs='+', metavar='PX',
        help='default: of ofa_mbv3_w10 128 to 224 in steps of 16, else all')
    parser.add_argument('--seconds', type=float, default=20.0)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', metavar='F', help='keep the profile')
    parser.add_argument('--shelf', action='store_true', help='keep it among those of the package, and what is printed')
    args = parser.parse_args()
    space = load_space(args.space)
    resolutions = args.resolutions or (STEP_16 if set(STEP_16) <= set(space.resolutions) else None)
    profile, lines = build_and_judge(
        space, args.runtime, resolutions, precision=args.precision, threads=args.threads,
        batch_size=args.batch_size, processor=args.processor, seconds=args.seconds, seed=args.seed)
    print('\n'.join(lines))
    if args.out:
        profile.save(args.out)
    if args.shelf:
        profile.save(PROFILES_DIR / f'{profile.name}.json')
        write_text(RESULTS / f'{profile.name}.txt', '\n'.join([*lines, '']))


if __name__ == '__main__':
    main()
