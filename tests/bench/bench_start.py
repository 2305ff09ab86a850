"""What starting costs: processor seconds of `import timm, timm_ofa` and of commands that need no network.

    python tests/bench/bench_start.py > tests/bench/results/start.txt

The processes run in turn, each one alone, and the figures are medians. A first round, which writes bytecode and warms
the disk's cache, does not count. The two imports are timed within one process: between processes, `import timm` alone
differs by more than what is asked for.
"""
import os
import resource
import subprocess
import sys
from statistics import median

from timm_ofa.console import table

ROUNDS = 7
IMPORTS = """
import time
start = time.process_time()
import timm
middle = time.process_time()
import timm_ofa
print(middle - start, time.process_time() - middle)
"""
COMMANDS = {
    **{f'timm-ofa {words}': ['-m', 'timm_ofa', *words.split()] for words in ('-h', 'spaces', 'devices', 'models')},
    'hf --help': ['-c', 'from huggingface_hub.cli.hf import main; main()', '--help']}


def run(words: list[str]) -> tuple[float, str]:
    """Processor time of a new process, seconds, and what it prints."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONDONTWRITEBYTECODE': ''}
    done = subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True, env=env)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def one_round() -> dict[str, float]:
    """The seconds of each command."""
    timm, added = map(float, run(['-c', IMPORTS])[1].split())
    return {'import timm': timm, 'import timm_ofa after it': added,
            **{name: run(words)[0] for name, words in COMMANDS.items()}}


def main() -> None:
    one_round()
    rounds = [one_round() for _ in range(ROUNDS)]
    medians = {name: round(median(r[name] for r in rounds), 3) for name in rounds[0]}
    print(table(['command', 'processor seconds'], [[name, seconds] for name, seconds in medians.items()]))
    ratio = median(1 + r['import timm_ofa after it'] / r['import timm'] for r in rounds)
    print(f'\nimport timm, timm_ofa / import timm: {ratio:.3f}')


if __name__ == '__main__':
    main()
