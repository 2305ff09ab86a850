"""Processes that train together, without a new interpreter for each: all are forks of one that has imported torch."""
from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

FORKS = '''
import json, os, sys, traceback
import accelerate, timm, torch, timm_ofa.accuracy, timm_ofa.training

prelude = sys.argv.pop(1)
exec(prelude)

def work(job, rank):
    os.chdir(job['folder'])
    os.dup2(os.open(f'stderr{rank}', os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    sys.argv[1:] = job['arguments']
    os.environ.update(job['env'], RANK=str(rank), LOCAL_RANK=str(rank))
    exec(job['code'], {'__name__': '__main__'})

for line in sys.stdin:
    job, children = json.loads(line), []
    for rank in range(job['processes']):
        child = os.fork()
        if not child:
            try:
                work(job, rank)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)
'''


class Ranks:
    """The process that all others are forks of."""

    def __init__(self, prelude: str = '', arguments: Sequence[str] = (), env: Mapping[str, str] = {}) -> None:
        """`prelude`: code that runs once, before all forks, with these `arguments` and variables."""
        env = {**os.environ, 'PYTHONPATH': str(Path(__file__).resolve().parents[1]), 'OMP_NUM_THREADS': '1', **env}
        self._parent = subprocess.Popen(
            [sys.executable, '-c', FORKS, prelude, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env=env)

    def __call__(self, folder: Path, code: str, arguments: Sequence[str] = (), processes: int = 2,
                 ) -> tuple[list[int], list[str]]:
        """Run code in `folder`; exit statuses of the processes, and what each wrote to stderr."""
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = free.getsockname()[1]
        env = {'ACCELERATE_USE_CPU': 'true', 'WORLD_SIZE': str(processes), 'LOCAL_WORLD_SIZE': str(processes),
               'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port)}
        self._parent.stdin.write(json.dumps(dict(
            folder=str(folder), code=code, arguments=list(arguments), processes=processes, env=env)) + '\n')
        self._parent.stdin.flush()
        codes = json.loads(self._parent.stdout.readline())
        return codes, [(folder / f'stderr{rank}').read_text() for rank in range(processes)]

    def close(self) -> None:
        self._parent.stdin.close()
        self._parent.stdout.close()
        self._parent.wait(timeout=30)
