"""Device profiles of this machine's GPU, each checked on networks that it never saw, and what a GPU tells besides.

    python tests/bench/bench_gpu_profile.py --out DIR [--seconds 10] [--resolutions 160 192 224]

One step after the other; a step that fails is written down with its traceback, and the next one begins. DIR gets
report.txt, written line by line, and a profile a step. PyTorch runs as CUDA graphs; batch 64 in bfloat16, float16 and
float32, and single images.
"""
from __future__ import annotations

import argparse
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from bench_profile import build_and_judge

from timm_ofa.energy import cuda_counter
from timm_ofa.export import to_torch
from timm_ofa.layers import random_input
from timm_ofa.measuring import measure
from timm_ofa.profiler import host, measure_network
from timm_ofa.runtimes import load_runtime, pytorch
from timm_ofa.space import load_space

SPACE = load_space('ofa_mbv3_w10')
STEPS = (('bf16', 64), ('fp16', 1), ('fp16', 64), ('fp32', 1), ('fp32', 64), ('bf16', 1))  # precision, batch size
NETS = {'smallest': SPACE.min_arch(160), 'largest': SPACE.max_arch(224)}
Say = Callable[[str], None]


def machine(say: Say) -> None:
    say(f'{host("cuda")}; torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, timm {timm.__version__}, '
        f'energy counter: {"yes" if cuda_counter() else "no"}')


def agreement(say: Say) -> None:
    """Relative to the largest output of torch in float32 on the CPU."""
    kit = load_runtime('pytorch', 'fp32', 'cuda')
    rows = SPACE.rows(NETS['smallest'])
    x = random_input(rows, 2, seed=5)
    wanted = to_torch(rows)(torch.from_numpy(x)).numpy()
    for precision in kit.PRECISIONS:
        runner = kit.load(rows, precision=precision, processor='cuda', batch_size=2)
        runner()
        runner()
        error = np.abs(runner.predict(x) - wanted).max() / np.abs(wanted).max()
        say(f'{precision}: largest difference from the CPU {error:.1e} of the largest output')


def levers(say: Say) -> None:
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
                                rows, precision='fp16', processor='cuda', batch_size=batch_size)
            finally:
                pytorch.CUDA_LAYOUT = torch.channels_last
            graph = next(iter(found.values()))
            found['operator by operator'] = lambda graph=graph: eager(graph)
            timing = measure([*found.values()], warm=False, wall=True, sweeps=30)
            events_ms = sorted(by_events(graph) for _ in range(30))[1]
            levers_ms = {**dict(zip(found, timing.low_ms())), 'graph by events': events_ms}
            say(f'{name}, batch {batch_size}, fp16, ms: ' + '; '.join(f'{k} {v:.3f}' for k, v in levers_ms.items()))


def without_graphs(say: Say) -> None:
    """The last resort where a capture fails."""
    pytorch._CudaGraph._capture, pytorch._CudaGraph.__call__ = (lambda graph: None), eager
    say('captures fail here: operators are started one by one from now on')
    agreement(say)


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


def whole_networks(say: Say) -> None:
    """As `timm-ofa measure` has them, with energy and memory."""
    for precision, batch_size in (('fp16', 64), ('fp16', 1), ('fp32', 64)):
        for name, arch in NETS.items():
            found = measure_network(
                SPACE.rows(arch), 'pytorch', precision=precision, batch_size=batch_size, processor='cuda', seconds=2)
            say(f'{name}, {precision}, batch {batch_size}: ' + ', '.join(
                f'{key} {found[key]}' for key in ('latency_ms', 'p50_ms', 'p90_ms', 'energy_mj', 'peak_memory_mb')
                if key in found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', required=True, metavar='DIR')
    parser.add_argument('--seconds', type=float, default=10.0, help='of measuring, each profile and each check')
    parser.add_argument('--resolutions', type=int, nargs='+', default=[160, 192, 224])
    parser.add_argument('--budget', type=float, default=330.0, help='seconds; no step begins after them')
    args = parser.parse_args()
    folder, started = Path(args.out), time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)

    def say(line: str) -> None:
        print(line, flush=True)
        with open(folder / 'report.txt', 'a', encoding='utf-8') as file:
            file.write(f'{line}\n')

    def profile(precision: str, batch_size: int, say: Say) -> None:
        found, lines = build_and_judge(
            SPACE, 'pytorch', args.resolutions, precision=precision, batch_size=batch_size, processor='cuda',
            seconds=args.seconds)
        found.save(folder / f'{found.name}.json')
        for line in lines:
            say(line)

    steps: list[tuple[str, Callable[[Say], None]]] = [
        ('machine', machine), ('agreement', agreement), ('levers', levers),
        *((f'profile {precision}, batch {batch_size}',
           lambda say, step=(precision, batch_size): profile(*step, say)) for precision, batch_size in STEPS[:2]),
        ('whole networks', whole_networks),
        *((f'profile {precision}, batch {batch_size}',
           lambda say, step=(precision, batch_size): profile(*step, say)) for precision, batch_size in STEPS[2:])]
    for number, (name, step) in enumerate(steps):
        if time.perf_counter() - started > args.budget:
            say(f'== {name}: no time left')
            continue
        say(f'== {name}')
        began = time.perf_counter()
        try:
            step(say)
        except Exception:
            say(traceback.format_exc())
            if name == 'agreement':
                steps.insert(number + 1, ('without graphs', without_graphs))
        say(f'({time.perf_counter() - began:.0f} s)')


if __name__ == '__main__':
    main()
