"""A process with the real client of the Hub, which talks to a `HubServer`."""
from __future__ import annotations

import contextlib
import io
import os
from multiprocessing.connection import Connection
from pathlib import Path

from fresh import PROCESSES
from hub_server import HubServer

NAMES = """
import json, os, sys
import timm, torch, timm_ofa
from timm_ofa import hub
from timm_ofa.hub.listing import find
"""


def constants(address: str, home: Path) -> dict[str, object]:
    """What the Hub's client reads once, at import: for a process that has imported it before."""
    return dict(
        ENDPOINT=address, HUGGINGFACE_CO_URL_TEMPLATE=f'{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}',
        HF_HUB_CACHE=str(home / 'hub'), HF_HUB_DISABLE_XET=True)


class Client:
    """A process that runs code. It has the Hub's address in its environment, which the client library reads once, at
    import."""

    def __init__(self, server: HubServer, home: Path, xet: bool = False) -> None:
        self._pipe, there = PROCESSES.Pipe()
        self.process = PROCESSES.Process(target=_serve, args=(there, server.env(home, xet=xet)))
        self.process.start()
        there.close()

    def __call__(self, code: str, token: str = 'hf_write') -> str:
        """Run code, and give what it printed, or its error."""
        self._pipe.send((code, token))
        return self._pipe.recv()

    def close(self) -> None:
        self._pipe.close()
        self.process.join(timeout=30)


def _serve(pipe: Connection, env: dict[str, str]) -> None:
    """Run each code that comes, all in the same names."""
    os.environ.update(env)
    names: dict = {}
    exec(NAMES, names)
    while True:
        try:
            code, os.environ['HF_TOKEN'] = pipe.recv()
        except EOFError:
            return
        out = io.StringIO()
        try:
            with contextlib.redirect_stdout(out):
                exec(code, names)
            pipe.send(out.getvalue().strip())
        except Exception as error:
            kind = 'InputError' if isinstance(error, names['timm_ofa'].InputError) else type(error).__name__
            pipe.send(f'{kind}: {error}')
