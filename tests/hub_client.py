"""A process with the real client of the Hub, which talks to a `HubServer`."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from hub_server import HubServer


def constants(address: str, home: Path) -> dict[str, object]:
    """What the Hub's client reads once, at import: for a process that has imported it before."""
    return dict(
        ENDPOINT=address, HUGGINGFACE_CO_URL_TEMPLATE=f'{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}',
        HF_HUB_CACHE=str(home / 'hub'), HF_HUB_DISABLE_XET=True)


class Client:
    """A process that runs code. It has the Hub's address in its environment, which the client library reads once, at
    import."""
    LOOP = '''
import contextlib, io, json, os, sys
import timm, torch, timm_ofa
from timm_ofa import hub
from timm_ofa.hub.listing import find
for line in sys.stdin:
    request, out = json.loads(line), io.StringIO()
    os.environ['HF_TOKEN'] = request['token']
    try:
        with contextlib.redirect_stdout(out):
            exec(request['code'])
        print(json.dumps(out.getvalue().strip()), flush=True)
    except Exception as error:
        print(json.dumps(f'{type(error).__name__}: {error}'), flush=True)
'''

    def __init__(self, server: HubServer, home: Path, xet: bool = False) -> None:
        path = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get('PYTHONPATH', '')])
        self.process = subprocess.Popen(
            [sys.executable, '-c', self.LOOP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **server.env(home, xet=xet), 'PYTHONPATH': path})

    def __call__(self, code: str, token: str = 'hf_write') -> str:
        """Run code, and give what it printed, or its error."""
        self.process.stdin.write(json.dumps({'code': code, 'token': token}) + '\n')
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=30)
