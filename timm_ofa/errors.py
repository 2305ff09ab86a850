"""The one error for wrong values that a user gave: one line that names the value and the cure. Being stopped."""
from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """A wrong value in a text, a file or an option. The message is one line: the value, then what to do."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or another signal to end, whose number is `number`. The message says how to go on."""

    def __init__(self, words: str = '', number: int = signal.SIGINT):
        super().__init__(words)
        self.number = number


def ending_signals() -> list[int]:
    """The signals that ask this process to end: Ctrl-C, SIGTERM, and SIGHUP where the system has it; none that is
    ignored, as SIGHUP is behind `nohup`."""
    known = (signal.SIGINT, signal.SIGTERM, getattr(signal, 'SIGHUP', signal.SIGINT))
    return [number for number in dict.fromkeys(known) if signal.getsignal(number) != signal.SIG_IGN]


@contextmanager
def stopped(words: str) -> Iterator[None]:
    """What is said where this block is stopped; the signal stays known."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise Interrupted(words, getattr(stop, 'number', signal.SIGINT)) from None


def listed(values: Iterable[object], limit: int = 12) -> str:
    """Values for an error line. A list of many values is shortened in the middle: '1, 2, 3, ..., 9'."""
    texts = [str(v) for v in values]
    if len(texts) > limit:
        texts = texts[:3] + ['...'] + texts[-1:]
    return ', '.join(texts)


def without_password(text: str) -> str:
    """The text, without the user and password that an address in it may hold."""
    return re.sub(r'(?<=://)[^/\s]+@', '', text)


def one_line(error: BaseException) -> str:
    """The text of an error as one line. Its class is named first, unless it is an `InputError`."""
    text = without_password(' '.join(str(error).split()))
    return text if isinstance(error, InputError) else f'{type(error).__name__}: {text:.120}'
