"""The `timm-ofa` command. Data goes to stdout, remarks and progress to stderr; a wrong input is one line, status 2."""
from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from types import FrameType

from ..console import PROGRESS_SWITCH, say
from ..errors import InputError, Interrupted, ending_signals, one_line
from ..files import FULL
from . import environment, learning, measuring, releasing, running, searching, sharing, shelves, specializing
from .verbs import Verb, parse

PIPE = 13  # the signal that ends other programs in this case
GROUPS = (  # in the order of `timm-ofa -h`
    running, learning, shelves, measuring, searching, specializing, sharing, releasing, environment)
VERBS = {verb.name: verb for group in GROUPS for verb in vars(group).values() if isinstance(verb, Verb)}


class _Remarks(logging.Handler):
    """Shows records of the library as plain lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record).removeprefix('[RANK 0] '))  # which accelerate puts before those of the main process


@contextmanager
def _remarks_shown() -> Iterator[None]:
    logger, handler = logging.getLogger('timm_ofa'), _Remarks()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM and SIGHUP end the command as Ctrl-C does, so that it can put away what is half-written."""
    owner = os.getpid()

    def handler(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            raise Interrupted(number=number)
        signal.signal(number, signal.SIG_DFL)  # a worker that inherited this
        os.kill(os.getpid(), number)

    is_main = threading.current_thread() is threading.main_thread()  # no other thread may set handlers
    numbers = [number for number in ending_signals() if number != signal.SIGINT] if is_main else []
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit status.

    It is 0, 1 if a part of the work failed, 2 for a wrong input or files that cannot be written, 130 after Ctrl-C, 143
    after SIGTERM, 129 after SIGHUP, and 141 where nobody reads the output any more, as behind `| head`.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name that this console cannot show is escaped, not an error
            stream.reconfigure(errors='backslashreplace')
    status = 0
    try:
        try:
            status = _run(argv)
        finally:  # also after -h
            for stream in filter(None, (sys.stdout, sys.stderr)):
                stream.flush()
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO, *FULL):
            raise
        for stream in filter(None, (sys.stdout, sys.stderr)):  # Python flushes them again at its end
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return status or (128 + PIPE if error.errno == errno.EPIPE else 2)
    return status


def _run(argv: Sequence[str] | None) -> int:
    """Run a verb, and say what it answers."""
    call = None
    try:
        with _remarks_shown(), _ended_in_order():
            call = parse(VERBS, argv)
            if call.no_progress:
                os.environ[PROGRESS_SWITCH] = '0'
            answer = call.run()
        if answer:
            print(answer.shown(call.format), flush=True)
            if answer.hint:
                say(answer.hint)
            return answer.status
    except InputError as error:
        say(f'timm-ofa: {error}')
        return 2
    except OSError as error:
        if error.errno in FULL:
            say(f'timm-ofa: the disk takes no more ({one_line(error)}); free space, then run the same command again'
                f'{", with --resume" if call and "resume" in call.verb.options else ""}')
        elif error.filename is not None:
            say(f'timm-ofa: {str(error.filename)!r:.160} cannot be used ({error.strerror}); choose another place, or '
                'change its rights')
        else:
            raise
        return 2
    except KeyboardInterrupt as stop:
        say(f'\ntimm-ofa: {str(stop) or "stopped; run the same command again"}')
        return 128 + getattr(stop, 'number', signal.SIGINT)
    return 0
