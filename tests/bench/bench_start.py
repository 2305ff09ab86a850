"""What starting costs: processor seconds of `import timm, timm_ofa` and of commands that need no network.

    python tests/bench/bench_start.py > tests/bench/results/start.txt

The processes run in turn, each one alone, and the figures are medians. A first round, which writes bytecode and warms
the disk's cache, does not count.
"""
import os
import resource
import subprocess
import sys
from statistics import median

from timm_ofa.console import table

ROUNDS = 9
COMMANDS = {
    'import timm': ['-c', 'import timm'],
    'import timm, timm_ofa': ['-c', 'import timm, timm_ofa'],
    **{f'timm-ofa {words}': ['-m', 'timm_ofa', *words.split()] for words in ('-h', 'spaces', 'devices', 'models')},
    'hf --help': ['-c', 'from huggingface_hub.cli.hf import main; main()', '--help'],
}


def seconds(words: list[str]) -> float:
    """Processor time of a new process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    subprocess.run([sys.executable, *words], check=True, capture_output=True, env=env)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    rounds = [{name: seconds(words) for name, words in COMMANDS.items()} for _ in range(ROUNDS + 1)][1:]
    print(table(
        ['command', 'processor seconds'], [[name, round(median(r[name] for r in rounds), 3)] for name in COMMANDS]))
    ratio = median(r['import timm, timm_ofa'] / r['import timm'] for r in rounds)
    print(f'\nimport timm, timm_ofa / import timm: {ratio:.3f}')


if __name__ == '__main__':
    main()
