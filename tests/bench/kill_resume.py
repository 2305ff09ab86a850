"""Kill a training run at random moments and resume it: weights and log must equal those of a run left alone.

    python tests/bench/kill_resume.py --kills 20 --workers 2 > tests/bench/results/kill_resume.txt

Every run is the command `timm-ofa train` in processes of its own, forked from this one, which only imports. A kill is
SIGKILL to one process, without warning; of two processes the other is killed as well unless it ends within a second.
Two kills of three come at a uniform moment of the run, the third within milliseconds of the start of a checkpoint.
"""
from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from timm_ofa.cli.command import main as command
from timm_ofa.images import Augment
from timm_ofa.training.config import Phase, TrainConfig

CONFIG = TrainConfig(  # some seconds, all that can go wrong: sorting, a teacher, dropout, erasing, partial epochs
    'kill', 'ofa_mbv3_tiny', 'digits', resolutions=(20, 24), batch_size=32, limit=240, drop_rate=0.1, clip_grad=10.0,
    checkpoint_minutes=0.2 / 60, augment=Augment(flip=False, erase=0.2), phases=(
        Phase('largest', 1, 0.05, warmup_epochs=1, kd_weight=0, depths=(3,), kernel_sizes=(5,), expand_ratios=(4,)),
        Phase('narrow', 1, 0.03, expand_ratios=(3, 4), sort_channels=True, subnets_per_step=2),
        Phase('all', 1, 0.03, sort_channels=True)))
POLL_S = 0.0005
PATIENCE_S = 240.0  # for a run of some seconds, on a busy machine
CHECKPOINT_S = 0.03  # about how long one takes to write


def train(config: Path, output: Path, rank: int, processes: int, port: int) -> None:
    """What one forked process does: the command, resuming where there is something to resume."""
    os.environ['ACCELERATE_USE_CPU'] = 'true'
    if processes > 1:
        os.environ |= dict(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes), LOCAL_WORLD_SIZE=str(processes),
            MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    with open(f'{output}.{rank}.txt', 'w') as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        resume = ['--resume'] if (output / 'train.yaml').exists() else []
        status = command(['train', '--config', str(config), '--output', str(output), *resume])
    sys.exit(status)


def start(config: Path, output: Path, processes: int) -> list[multiprocessing.Process]:
    """The processes of a run."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    fork = multiprocessing.get_context('fork')
    runs = [fork.Process(target=train, args=(config, output, rank, processes, port)) for rank in range(processes)]
    for run in runs:
        run.start()
    return runs


def finish(config: Path, output: Path, processes: int) -> float:
    """Run to the end; returns the seconds."""
    began = time.perf_counter()
    runs = start(config, output, processes)
    for run in runs:
        run.join(max(1.0, PATIENCE_S - (time.perf_counter() - began)))
    stuck = [run for run in runs if run.is_alive()]
    for run in stuck:
        run.kill()
    if stuck or any(run.exitcode for run in runs):
        raise SystemExit(f'the run in {output} did not end well:\n{Path(f"{output}.0.txt").read_text()[-2000:]}')
    return time.perf_counter() - began


def kill_once(config: Path, output: Path, processes: int, usual_s: float, at_checkpoint: bool,
              rng: np.random.Generator) -> str:
    """Start a run and kill it; says when that was and what was left. A run that ended before is told so."""
    runs, began = start(config, output, processes), time.perf_counter()
    moment_s, victim = rng.uniform(0, usual_s), runs[rng.integers(processes)]
    pause(lambda: time.perf_counter() - began >= moment_s, runs)
    if at_checkpoint:
        pause((output / 'checkpoints' / '.part').exists, runs)
        time.sleep(rng.uniform(0, CHECKPOINT_S))
    ended = not victim.is_alive()
    victim.kill()
    seconds = time.perf_counter() - began
    victim.join()
    for run in runs:
        run.join(1.0)
        run.kill()
        run.join()
    checkpoints = output / 'checkpoints'
    last = max((p.name for p in checkpoints.glob('step-*')), default='no checkpoint')
    torn = ', a torn one beside it' if (checkpoints / '.part').exists() else ''
    done = ' (it had ended)' if ended else ''
    who = f' process {runs.index(victim)}' if processes > 1 else ''
    return f'killed{who} after {seconds:5.2f} s{done}, left {last}{torn}'


def pause(until, runs: Sequence[multiprocessing.Process]) -> None:
    """Wait for a moment, or for the end of the run."""
    while not until() and any(run.is_alive() for run in runs):
        time.sleep(POLL_S)


def difference(output: Path, expected: Path) -> str:
    """Which files of two runs are not equal byte for byte."""
    names = ['model.safetensors', 'log.jsonl', 'teacher.safetensors', 'config.json']
    return ' '.join(name for name in names if (output / name).read_bytes() != (expected / name).read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kills', type=int, default=20)
    parser.add_argument('--workers', type=int, default=0, help='loader processes')
    parser.add_argument('--processes', type=int, default=1, help='that train together')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--keep', type=Path, help='folder of all runs; default: a temporary one')
    args = parser.parse_args()
    folder = args.keep or Path(tempfile.mkdtemp(prefix='kill_resume'))
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / 'kill.yaml'
    config.write_text(yaml.safe_dump({'kind': 'supernet', **CONFIG.to_dict(), 'workers': args.workers}))
    expected = folder / 'expected'
    usual_s = finish(config, expected, args.processes)
    steps = json.loads((expected / 'log.jsonl').read_text().splitlines()[0])['steps']
    print(f'{args.workers} loader workers, {args.processes} processes: {steps} steps, {usual_s:.1f} s undisturbed, '
          f'seed {args.seed}, load {os.getloadavg()[0]:.1f}', flush=True)
    equal = 0
    for i in range(args.kills):
        output = folder / f'run{i}'
        told = kill_once(
            config, output, args.processes, usual_s, i % 3 == 2, np.random.default_rng([args.seed, i]))
        finish(config, output, args.processes)
        wrong = difference(output, expected)
        equal += not wrong
        print(f'{i + 1:3} {told}: resumed, {f"NOT equal: {wrong}" if wrong else "equal"}', flush=True)
        if not wrong and not args.keep:
            shutil.rmtree(output)
    print(f'{equal} of {args.kills}', flush=True)
    if not args.keep and equal == args.kills:
        shutil.rmtree(folder)
    sys.exit(equal < args.kills)


if __name__ == '__main__':
    main()
