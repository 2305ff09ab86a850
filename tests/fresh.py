"""New processes that have imported torch and torchvision, which takes seconds each time, but not timm.

They are forks of one process, which starts with the first of them.
"""
from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

PROCESSES = multiprocessing.get_context('forkserver')
PROCESSES.set_forkserver_preload(['torchvision', 'sklearn.datasets'])


def python(code: str, arguments: Sequence[str] = (), *, env: Mapping[str, str] | None = None,
           folder: Path | None = None) -> str:
    """What code prints in a new process, with its arguments in `sys.argv[1:]`; the code must not fail."""
    with tempfile.TemporaryDirectory() as name:
        out, err = Path(name) / 'out', Path(name) / 'err'
        process = PROCESSES.Process(target=_run, args=(code, list(arguments), dict(env or {}), folder, out, err))
        process.start()
        process.join()
        assert process.exitcode == 0, err.read_text()
        return out.read_text()


def _run(code: str, arguments: list[str], env: dict[str, str], folder: Path | None, out: Path, err: Path) -> None:
    os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT), 1)
    os.dup2(os.open(err, os.O_WRONLY | os.O_CREAT), 2)
    os.environ.update(env)
    os.chdir(folder or Path.cwd())
    sys.argv[1:] = arguments
    exec(code, {'__name__': '__main__'})
