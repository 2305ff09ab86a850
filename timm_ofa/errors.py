"""The one error for wrong values that a user gave: one line that names the value and the cure."""
from __future__ import annotations

import re
from collections.abc import Iterable


class InputError(ValueError):
    """A wrong value in a text, a file or an option. The message is one line: the value, then what to do."""


def listed(values: Iterable[object], limit: int = 12) -> str:
    """Values for an error line. A list of many values is shortened in the middle: '1, 2, 3, ..., 9'."""
    texts = [str(v) for v in values]
    if len(texts) > limit:
        texts = texts[:3] + ['...'] + texts[-1:]
    return ', '.join(texts)


def without_password(text: str) -> str:
    """The text, without the user and password that an address in it may hold."""
    return re.sub(r'(?<=://)[^/@\s]+@', '', text)


def one_line(error: BaseException) -> str:
    """The text of an error as one line. Its class is named first, unless it is an `InputError`."""
    text = without_password(' '.join(str(error).split()))
    return text if isinstance(error, InputError) else f'{type(error).__name__}: {text:.120}'
