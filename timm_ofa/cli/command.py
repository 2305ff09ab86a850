"""The `timm-ofa` command. Data goes to stdout, remarks and progress to stderr; a wrong input is one line, status 2."""
from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper

from ..console import PROGRESS_SWITCH, say
from ..errors import InputError, one_line
from . import environment, learning, measuring, releasing, running, searching, sharing, shelves, specializing
from .verbs import Verb, parse

PIPE = 13  # the signal that ends other programs in this case
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what an error of a full disk, or of a limit on it, may be
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit status.

    It is 0, 1 if a part of the work failed, 2 for a wrong input or a full disk, 130 after Ctrl-C, and 141 where nobody
    reads the output any more, as behind `| head`.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name that this console cannot show is escaped, not an error
            stream.reconfigure(errors='backslashreplace')
    status = None
    try:
        try:
            status = _run(argv)
        finally:  # also after -h
            for stream in filter(None, (sys.stdout, sys.stderr)):
                stream.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError) and error.errno not in FULL:
            raise
        for stream in filter(None, (sys.stdout, sys.stderr)):  # Python flushes them again at its end
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 128 + PIPE if isinstance(error, BrokenPipeError) else 2
    return status


def _run(argv: Sequence[str] | None) -> int:
    """Run a verb, and say what it answers."""
    try:
        with _remarks_shown():
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
        if error.errno not in FULL:
            raise
        say(f'timm-ofa: the disk takes no more ({one_line(error)}); free space, then run the same command again, train '
            'with --resume')
        return 2
    except KeyboardInterrupt as stop:
        say(f'\ntimm-ofa: {str(stop) or "stopped; run the same command again"}')
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
