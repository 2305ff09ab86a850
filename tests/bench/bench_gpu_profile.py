"""Device profiles of this machine's GPU, each checked on networks that it never saw, and what a GPU tells besides.

    python tests/bench/bench_gpu_profile.py --out DIR [--budget 60] [--steps fp16x64 besides fp16x1 ...]

Steps: 'machine'; 'levers': what CUDA graphs, layout and cuDNN's benchmark are worth; PRECISIONxBATCH: a profile, fitted
on whole networks at three resolutions; 'besides': energy and peak memory. One after the other, each as large as the
seconds allow; one that fails is written down with its traceback, and the next one begins. DIR gets report.txt, written
line by line, and a profile each. With --processor cpu it is a rehearsal.
"""
from __future__ import annotations

import argparse
import os
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
from bench_profile import judge

from timm_ofa.devices.energy import cuda_counter, energy_mj
from timm_ofa.devices.heldout import skewed
from timm_ofa.devices.measuring import measure
from timm_ofa.devices.memory import peak_memory_mb
from timm_ofa.devices.profile import kendall_tau
from timm_ofa.devices.profiler import host, profile_by_networks
from timm_ofa.runtimes import pytorch
from timm_ofa.runtimes.registry import load_runtime
from timm_ofa.spaces.arch import Arch
from timm_ofa.spaces.shelf import load_space

RESOLUTIONS = [160, 192, 224]
SPACE = load_space('ofa_mbv3_w10').restrict(resolutions=RESOLUTIONS)
NETS = {'smallest': SPACE.min_arch(160), 'largest': SPACE.max_arch(224)}
STEPS = ['machine', 'fp16x64', 'besides', 'fp16x1']
SIZES = ((50, 12, 30), (40, 12, 24), (30, 12, 16), (24, 8, 12), (16, 6, 8))  # networks to fit, of each kind, random
PROBED = 9  # networks that tell how long loading takes
RUNS_S = 0.08  # about how long a network runs in all its sweeps
BESIDES_S = 13.0  # kept for energy and memory
BYTES = {'fp32': 4, 'bf16': 2, 'fp16': 2}
Say = Callable[[str], None]


def machine(say: Say, processor: str, left_s: float) -> None:
    say(f'{host(processor)}; torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, timm '
        f'{timm.__version__}, energy counter: {"yes" if cuda_counter() else "no"}')


def levers(say: Say, processor: str, left_s: float) -> None:
    """What a graph, the layout and cuDNN's own benchmark are worth; events beside the wall clock."""
    for batch_size in (1, 64):
        for name, arch in NETS.items():
            rows = SPACE.rows(arch)
            found = {}
            try:
                for pytorch.CUDA_LAYOUT in (torch.channels_last, torch.contiguous_format):
                    for tuned in (False, True):
                        with torch.backends.cudnn.flags(enabled=True, benchmark=tuned):
                            label = str(pytorch.CUDA_LAYOUT).split('.')[1] + (', cuDNN benchmark' if tuned else '')
                            found[label] = pytorch.load(
                                rows, precision='fp16', processor=processor, batch_size=batch_size)
            finally:
                pytorch.CUDA_LAYOUT = torch.channels_last
            graph = next(iter(found.values()))
            found['operator by operator'] = lambda graph=graph: eager(graph)
            timing = measure([*found.values()], warm=False, wall=True, sweeps=30)
            events_ms = sorted(by_events(graph) for _ in range(30))[1]
            levers_ms = {**dict(zip(found, timing.low_ms())), 'graph by events': events_ms}
            say(f'{name}, batch {batch_size}, fp16, ms: ' + '; '.join(f'{k} {v:.3f}' for k, v in levers_ms.items()))


@torch.inference_mode()
def eager(graph) -> None:
    graph._module(graph._x)
    torch.cuda.synchronize()


def by_events(graph) -> float:
    """Of a second replay, queued while the first one runs."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    graph._graph.replay()
    start.record()
    graph._graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def profile(say: Say, processor: str, left_s: float, precision: str, batch_size: int, folder: Path) -> None:
    """As many networks as can be loaded in the time that is left."""
    started = time.perf_counter()
    kit = load_runtime('pytorch', precision, processor)
    load_s = []
    for net in SPACE.sample(np.random.default_rng(1), PROBED):
        began = time.perf_counter()
        runner = kit.load(SPACE.rows(net), precision=precision, processor=processor, batch_size=batch_size)
        runner()
        load_s.append(time.perf_counter() - began)
    say(f'seconds to load and run {PROBED} networks: {[round(s, 2) for s in load_s]}')
    each_s, left_s = float(np.median(load_s[PROBED // 2:])), left_s - (time.perf_counter() - started)
    fits = [sizes for sizes in SIZES if (sizes[0] + 2 * sizes[1] + sizes[2]) * (each_s + RUNS_S) < left_s]
    fitted_nets, check_nets, random_nets = (fits or SIZES[-1:])[0]
    began = time.perf_counter()
    found = profile_by_networks(
        SPACE, fitted_nets, 'pytorch', precision=precision, batch_size=batch_size, processor=processor,
        resolutions=RESOLUTIONS, seconds=left_s / 10, check_nets=check_nets, random_nets=random_nets, seed=0)
    found.save(folder / f'{found.name}.json')
    protocol = found.protocol
    say(f'{found.name}: {fitted_nets} networks fitted, {found.check["n"]} others, in '
        f'{time.perf_counter() - began:.0f} s; {protocol["sweeps"]} sweeps, overhead {found.overhead_ms} ms, noise '
        f'{protocol["noise_pct"]} %, drift {protocol["drift_pct"]} %')
    for line in judge(SPACE, found, again=False):
        say(line)


def besides(say: Say, processor: str, left_s: float) -> None:
    """Energy, and peak memory beside what is computed, of the smallest, the largest and networks of equal MACs."""
    archs: list[Arch] = [*NETS.values(), *skewed(SPACE, 3, np.random.default_rng(0))]
    kit, precision, ends = load_runtime('pytorch', 'fp16', processor), 'fp16', time.perf_counter() + left_s
    for batch_size in (64, 1):
        computed_mb, told_mb = [], []
        say(f'batch {batch_size}, {precision}: M MACs, M parameters, mJ an image, peak memory MB, computed MB, arch')
        for arch in archs:
            if time.perf_counter() > ends:
                say('no time left')
                break
            runner = kit.load(SPACE.rows(arch), precision=precision, processor=processor, batch_size=batch_size)
            energy = energy_mj(runner, processor, seconds=0.8)
            computed_mb.append(peak_memory_mb(SPACE, arch, batch_size) * BYTES[precision] / 4)
            told_mb.append(runner.peak_memory_mb() if hasattr(runner, 'peak_memory_mb') else float('nan'))
            image_mj = float('nan') if energy is None else energy / batch_size
            say(f'{SPACE.macs(arch) / 1e6:6.1f} {SPACE.params(arch) / 1e6:5.2f} {image_mj:8.3f} {told_mb[-1]:8.2f} '
                f'{computed_mb[-1]:8.2f} {arch}')
        if told_mb:
            ratio = np.array(told_mb) / computed_mb
            say(f'measured memory / computed: {ratio.min():.2f} to {ratio.max():.2f}, tau '
                f'{kendall_tau(np.array(told_mb), np.array(computed_mb)):.2f}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', required=True, metavar='DIR')
    parser.add_argument('--budget', type=float, default=60.0, help='about how many seconds in all (default 60)')
    parser.add_argument('--steps', nargs='+', default=STEPS)
    parser.add_argument('--processor', default='cuda')
    args = parser.parse_args()
    folder, started = Path(args.out), time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)

    def say(line: str) -> None:
        print(line, flush=True)
        with open(folder / 'report.txt', 'a', encoding='utf-8') as file:
            file.write(f'{line}\n')
            file.flush()
            os.fsync(file.fileno())

    named = {'machine': machine, 'levers': levers, 'besides': besides}
    for number, name in enumerate(args.steps):
        say(f'== {name}')
        began = time.perf_counter()
        left_s, later = args.budget - (began - started), args.steps[number:]
        share_s = BESIDES_S if name == 'besides' else (
            (left_s - BESIDES_S * ('besides' in later)) / max(1, sum(step not in named for step in later)))
        if name not in named:
            precision, batch_size = name.split('x')
            step = partial(profile, precision=precision, batch_size=int(batch_size), folder=folder)
        else:
            step = named[name]
        try:
            step(say, args.processor, share_s)
        except Exception:
            say(traceback.format_exc())
        say(f'({time.perf_counter() - began:.0f} s)')


if __name__ == '__main__':
    main()
