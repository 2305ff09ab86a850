"""Headless Chromium, driven through two pipes by its own protocol: pages, keys, screenshots. It needs no package."""
from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome')
FLAGS = ('--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
         '--disable-background-networking', '--host-resolver-rules=MAP * ~NOTFOUND', '--remote-debugging-pipe')
LAUNCH = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])"""
KEYS = {'Tab': 9, 'Enter': 13, 'Escape': 27, 'End': 35, 'Home': 36, 'ArrowLeft': 37, 'ArrowRight': 39}


def executable() -> str | None:
    """The path of an installed browser."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """`with Browser(folder) as browser: browser.open('file:///...'); browser.run('document.title')`."""

    def __init__(self, home: Path) -> None:
        """`home` is the folder to which the browser writes."""
        reads, self._out = (_high(fd) for fd in os.pipe())
        self._in, writes = (_high(fd) for fd in os.pipe())
        self._process = subprocess.Popen(
            [sys.executable, '-c', LAUNCH, str(reads), str(writes), executable(), *FLAGS, f'--user-data-dir={home}'],
            pass_fds=(reads, writes), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(reads)
        os.close(writes)
        self._buffer, self._number, self._session = b'', 0, None
        self.events: list[dict] = []  # errors and requests of the page
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        self._session = self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Network', 'Log'):
            self.call(f'{domain}.enable')

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *exc) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, **params) -> dict:
        """The answer to one command of the protocol."""
        self._number += 1
        message = {'id': self._number, 'method': method, 'params': params}
        if self._session:
            message['sessionId'] = self._session
        os.write(self._out, json.dumps(message).encode() + b'\0')
        while (found := self._read()).get('id') != self._number:
            self.events.append(found)
        if 'error' in found:
            raise RuntimeError(f'{method}: {found["error"]}')
        return found['result']

    def _read(self) -> dict:
        while b'\0' not in self._buffer:
            data = os.read(self._in, 2**16)
            if not data:
                raise RuntimeError('the browser has ended')
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b'\0')
        return json.loads(message)

    def open(self, url: str) -> None:
        """Load another page. A blank page comes first, so that a change of the hash alone also loads the page."""
        for address in ('about:blank', url):
            self.call('Page.navigate', url=address)
            self.wait(f'document.readyState == "complete" && location.href == new URL({json.dumps(address)}).href')

    def run(self, code: str):
        """The value of an expression in the page."""
        found = self.call(
            'Runtime.evaluate', expression=code, returnByValue=True, awaitPromise=True, userGesture=True)
        if 'exceptionDetails' in found:
            raise RuntimeError(json.dumps(found['exceptionDetails'])[:600])
        return found['result'].get('value')

    def wait(self, condition: str, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not self.run(condition):
            if time.monotonic() > end:
                raise TimeoutError(condition)
            time.sleep(0.02)

    def press(self, key: str, times: int = 1) -> None:
        code = {'key': key, 'code': key, 'windowsVirtualKeyCode': KEYS[key]}
        text = {'text': '\r'} if key == 'Enter' else {}
        for _ in range(times):
            self.call('Input.dispatchKeyEvent', type='keyDown', **code, **text)
            self.call('Input.dispatchKeyEvent', type='keyUp', **code)

    def click(self, x: float, y: float) -> None:
        for kind in ('mousePressed', 'mouseReleased'):
            self.call('Input.dispatchMouseEvent', type=kind, x=x, y=y, button='left', clickCount=1)

    def look(self, width: int, height: int, dark: bool = False) -> None:
        """Set the size of the window (px) and the color scheme that the reader prefers."""
        self.call(
            'Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        scheme = [{'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}]
        self.call('Emulation.setEmulatedMedia', features=scheme)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call('Page.captureScreenshot', format='png')['data']))


def _high(fd: int) -> int:
    """The same open file under a number that the launcher does not overwrite."""
    found = fcntl.fcntl(fd, fcntl.F_DUPFD, 10)
    os.close(fd)
    return found
