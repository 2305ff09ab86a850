"""Processes that train together: forks of one that has imported this package, itself a fork as those in `fresh`."""
from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from fresh import PROCESSES


class Ranks:
    """The process that all others are forks of."""

    def __init__(self, prelude: str = '', arguments: Sequence[str] = (), env: Mapping[str, str] = {}) -> None:
        """`prelude`: code that runs once, before all forks, with these `arguments` and variables."""
        self._pipe, there = PROCESSES.Pipe()
        self._parent = PROCESSES.Process(target=_serve, args=(there, prelude, list(arguments), dict(env)))
        self._parent.start()
        there.close()

    def __call__(self, folder: Path, code: str, arguments: Sequence[str] = (), processes: int = 2,
                 ) -> tuple[list[int], list[str]]:
        """Run code in `folder`; exit statuses of the processes, and what each wrote to stderr."""
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = free.getsockname()[1]
        env = {'WORLD_SIZE': str(processes), 'LOCAL_WORLD_SIZE': str(processes), 'MASTER_ADDR': '127.0.0.1',
               'MASTER_PORT': str(port), **({'ACCELERATE_USE_CPU': 'true'} if torch.accelerator.is_available() else {})}
        self._pipe.send((folder, code, list(arguments), [
            {**env, 'RANK': str(rank), 'LOCAL_RANK': str(rank)} for rank in range(processes)]))
        codes = self._pipe.recv()
        return codes, [(folder / f'stderr{rank}').read_text() for rank in range(processes)]

    def close(self) -> None:
        self._pipe.close()
        self._parent.join(timeout=30)


def _serve(pipe: Connection, prelude: str, arguments: list[str], env: dict[str, str]) -> None:
    """Run each code that comes in as many forks as there are environments; send back how they ended."""
    os.environ.update(env)
    multiprocessing.set_start_method(None, force=True)  # loader workers start as by default, not as this process did
    import accelerate  # noqa: F401
    import timm  # noqa: F401

    import timm_ofa.accuracy
    import timm_ofa.training  # noqa: F401

    sys.argv[1:] = arguments
    exec(prelude, {'__name__': '__main__'})
    while True:
        try:
            folder, code, arguments, variables = pipe.recv()
        except EOFError:
            return
        children = []
        for env in variables:
            children.append(os.fork())
            if not children[-1]:
                _work(folder, code, arguments, env)
        pipe.send([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])


def _work(folder: Path, code: str, arguments: list[str], env: dict[str, str]) -> None:
    """Run code and end this process."""
    try:
        os.chdir(folder)
        os.dup2(os.open(f'stderr{env["RANK"]}', os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        sys.argv[1:] = arguments
        os.environ.update(env)
        exec(code, {'__name__': '__main__'})
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
