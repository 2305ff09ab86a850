"""Timing that other work on the machine hardly disturbs, and files of results. Every kit carries a copy of this file.

It needs numpy only to time: where the networks run on a phone, the computer beside it may lack numpy.

The graphs of a group are visited in random order, again and again. A low percentile of the times of each graph counts,
because longer times include other work. On one thread the clock is the CPU time of this process. With more threads, and
on other processors, it is the wall clock, and the machine must be quiet. The last graph of each group is the reference:
the same network in every group. Its times show how far the machine drifts.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

FORMAT = 1  # of a file of results
MIN_SWEEPS = 20
LOW_PERCENT = 5
COARSE_MS = 0.5  # a clock of CPU time with larger steps is not read
LOADING = 0.5  # share of a group in the progress; the rest is measuring


@dataclass(frozen=True)
class Timing:
    """The times of M runners in S visits: `samples_ms` is (M, S)."""
    samples_ms: np.ndarray

    def low_ms(self) -> np.ndarray:
        """(M,): the statistic of profiles. Other work, and the number of visits, hardly change it.

        On virtual machines the clock of CPU time also errs downwards, by half, about once in thousands of runs.
        """
        return self.percentile_ms(LOW_PERCENT)

    def percentile_ms(self, percent: float) -> np.ndarray:
        """(M,): a percentile of the times of each runner."""
        import numpy as np

        return np.percentile(self.samples_ms, percent, axis=1)

    def halves_ms(self) -> np.ndarray:
        """(2, M): the statistic of the first half of the visits, and of the second half."""
        import numpy as np

        visits = self.samples_ms.shape[1]
        parts = self.samples_ms[:, :(visits + 1) // 2], self.samples_ms[:, visits // 2:]
        return np.stack([Timing(part).low_ms() for part in parts])


class Progress:
    """A line on a terminal's stderr, as a kit has no tqdm: the share that is done, and the time left."""

    def __init__(self, shown: bool = True) -> None:
        self._shown = shown and sys.stderr.isatty() and os.environ.get('TIMM_OFA_PROGRESS') != '0'
        self._started = self._last = time.perf_counter()
        self._first: float | None = None

    def __call__(self, label: str, share: float) -> None:
        """Say that `share` (0..1) of all work is done. The share of the first call was done before, in no time."""
        elapsed = time.perf_counter()
        if self._first is None:
            self._first = share
        if not self._shown or (elapsed - self._last < 0.2 and share < 1) or share <= self._first:
            return
        self._last = elapsed
        left = (elapsed - self._started) * (1 - share) / (share - self._first)
        end = '\n' if share >= 1 else ''
        sys.stderr.write(f'\r{label}: {100 * share:3.0f} %, {left // 60:.0f}:{left % 60:02.0f} left   {end}')
        sys.stderr.flush()


def measure(runners: Sequence[Callable[[], None]], *, warm: bool = True, wall: bool = False, sweeps: int | None = None,
            seconds: float = 10.0, seed: int = 0, report: Callable[[float], None] | None = None) -> Timing:
    """Visit all M runners in S sweeps, each in another random order.

    Args:
        warm: A visit is three runs: the first does not count, the better one of the others does. Otherwise it is one.
        wall: Read the wall clock instead of the CPU time of this process.
        sweeps: Visits of each runner; None: as many as fit into about `seconds`, but at least 20.
        report: Called after each sweep with the share that is done.
    """
    import numpy as np

    clock = time.perf_counter if wall else time.process_time
    rng = np.random.default_rng(seed)

    def visit(run: Callable[[], None]) -> float:
        times_ms = []
        for _ in range(3 if warm else 1):
            start = clock()
            run()
            times_ms.append(1e3 * (clock() - start))
        return min(times_ms[1:] or times_ms)

    for run in runners:  # the very first run allocates memory
        run()
    started = time.perf_counter()
    for run in runners:
        visit(run)
    if sweeps is None:
        sweeps = max(MIN_SWEEPS, int(seconds / max(time.perf_counter() - started, 1e-6)))
    samples_ms = np.empty((len(runners), sweeps))
    for sweep in range(sweeps):
        for i in rng.permutation(len(runners)):
            samples_ms[i, sweep] = visit(runners[i])
        if report:
            report((sweep + 1) / sweeps)
    return Timing(samples_ms)


def measure_groups(groups: Mapping[str, Sequence], load: Callable[..., Callable[[], None]], task: dict,
                   path: str | os.PathLike | None = None, *, sweeps: int | None = None, seconds: float = 10.0,
                   progress: bool = True) -> dict:
    """Measure groups of graphs; the graphs of one group run in the same sweeps.

    Args:
        groups: Name -> graphs, in a form that `load` takes. The last one is the reference and is loaded first; the
            others follow in order. Give large graphs first, while memory is not fragmented: they run 3 % faster.
        load: Graph -> a function that runs it once.
        task: What is measured and how, JSON-ready, with 'warm', 'wall' and 'seed'. The results repeat it.
        path: JSON file of the results, saved after each group. Groups that it holds are not measured again.
        seconds: About how long to measure in all, without loading.

    Raises:
        ValueError: The file holds results of another task.
    """
    show = Progress(progress)

    def measure_group(number: int, name: str, graphs: Sequence) -> dict:
        def report(share: float) -> None:
            show(f'measuring {name}', (number + share) / len(groups))

        report(0)
        runners: list = []
        for graph in (graphs[-1], *graphs[:-1]):
            runners.append(load(graph))
            report(LOADING * len(runners) / len(graphs))
        runners.append(runners.pop(0))
        return summary(measure(
            runners, warm=task['warm'], wall=task['wall'], sweeps=sweeps, seconds=seconds / len(groups),
            seed=task['seed'] + number, report=lambda share: report(LOADING + (1 - LOADING) * share)))

    return fill_results(groups, measure_group, task, path)


def fill_results(groups: Mapping[str, Sequence], measure_group: Callable[[int, str, Sequence], dict], task: dict,
                 path: str | os.PathLike | None = None) -> dict:
    """The results of all groups. Those that the file at `path` holds are not measured again; it is saved after each.

    `measure_group` takes the number of a group, its name and its graphs, and gives what is kept of it (`summary`).
    Raises `ValueError` if the file holds results of another task.
    """
    results = read_results(path, task) or {'format': FORMAT, 'task': task, 'measured_on': '', 'groups': {}}
    for number, (name, graphs) in enumerate(groups.items()):
        if name not in results['groups']:
            results['groups'][name] = measure_group(number, name, graphs)
            results['measured_on'] = date.today().isoformat()
            save_results(path, results)
    return results


def needs_wall_clock(threads: int, processor: str) -> bool:
    """Whether runs are timed by the wall clock instead of CPU time, whose clock has steps of 16 ms on Windows."""
    return threads > 1 or processor != 'cpu' or min(_cpu_clock_step_ms() for _ in range(3)) > COARSE_MS


def _cpu_clock_step_ms() -> float:
    start = time.process_time()
    while (end := time.process_time()) == start:
        pass
    return 1e3 * (end - start)


def summary(timing: Timing) -> dict:
    """What is kept of a group of M graphs: lists (M,), and how far the two halves of the visits differ."""
    import numpy as np

    low_ms, halves_ms = timing.low_ms(), timing.halves_ms()
    return {
        'low_ms': low_ms.round(6).tolist(), 'p50_ms': timing.percentile_ms(50).round(6).tolist(),
        'n': timing.samples_ms.shape[1],
        'noise_pct': round(float(100 * np.median(np.abs(halves_ms[0] - halves_ms[1]) / np.maximum(low_ms, 1e-9))), 3),
        'reference_ms': halves_ms[:, -1].round(6).tolist()}


def read_results(path: str | os.PathLike | None, task: dict) -> dict | None:
    """The results of a task that was interrupted; None: there are none. `ValueError`: they are of another task."""
    if path is None or not os.path.exists(path):
        return None
    try:
        with open(path, encoding='utf-8') as file:
            results = json.load(file)
        found = results['task']
        if results['format'] == FORMAT and found == task and isinstance(results['groups'], dict):
            return results
        differs = next((k for k in task if found.get(k) != task[k]), 'format')
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        differs = 'format'
    raise ValueError(f'{str(path)!r:.120} holds results of another task ({differs} differs); remove it, or give '
                     'another file')


def save_results(path: str | os.PathLike | None, results: dict) -> None:
    """Write the results; the file appears whole or not at all."""
    if path is None:
        return
    temporary = f'{os.fspath(path)}.part'
    try:
        with open(temporary, 'w', encoding='utf-8') as file:
            json.dump(results, file, indent=1)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):  # the disk is full, or the like
            os.remove(temporary)


def kit_arguments(parser: argparse.ArgumentParser, folder: Path) -> tuple[argparse.Namespace, dict]:
    """What somebody typed after the script of the kit in this folder, and its list of networks; nonsense ends it."""
    parser.add_argument('--threads', type=int, default=1, help='CPU threads (default 1)')
    parser.add_argument('--out', default=str(folder / 'results.json'), help='default: results.json beside this file')
    args = parser.parse_args()
    if args.threads < 1:
        sys.exit(f'--threads {args.threads} is too small; give 1 or more')
    if os.path.isdir(args.out) or not os.access(Path(args.out).absolute().parent, os.W_OK):
        sys.exit(f'--out {args.out!r} cannot be written; give a file in a folder that exists and is yours')
    return args, json.loads((folder / 'list.json').read_text(encoding='utf-8'))


def finish_kit(work: Callable[[], object], out: str) -> None:
    """Do the work of the script of a kit, and say how it ended."""
    try:
        work()
    except ValueError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit('\nstopped; run the same command again to go on')
    print(f'done: bring back {out}')


def cpu_name() -> str:
    """The processor of this machine, for people."""
    return ' '.join(
        re.sub(r'\((R|TM)\)|\bCPU\b|@.*|\b\d+-Core\b|\bProcessor\b', ' ', _cpu_model()).split()) or 'CPU'


def cpu_host() -> str:
    """The processor and the system that a number was measured on, in a few words; never the name of the host."""
    return f'{cpu_name()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}'


def _cpu_model() -> str:
    try:
        with open('/proc/cpuinfo', encoding='utf-8') as file:
            models = re.findall(r'^(?:model name|Hardware|Model)\s*:\s*(.+)$', file.read(), re.MULTILINE)
        return models[0] if models else platform.machine()
    except OSError:
        pass
    try:
        return subprocess.run(
            ['sysctl', '-n', 'machdep.cpu.brand_string'], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return platform.processor() or platform.machine()
