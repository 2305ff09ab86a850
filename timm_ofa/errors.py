"""The one error for wrong values that a user gave: one line that names the value and the cure."""

from collections.abc import Iterable


class InputError(ValueError):
    """A wrong value in a text, a file or an option. The message is one line: the value, then what to do."""


def listed(values: Iterable[object], limit: int = 12) -> str:
    """Values for an error line. A list of many values is shortened in the middle: '1, 2, 3, ..., 9'."""
    texts = [str(v) for v in values]
    if len(texts) > limit:
        texts = texts[:3] + ['...'] + texts[-1:]
    return ', '.join(texts)


def one_line(error: BaseException) -> str:
    """The text of an error as one line. Its class is named first, unless it is an `InputError`."""
    text = ' '.join(str(error).split())
    return text if isinstance(error, InputError) else f'{type(error).__name__}: {text:.120}'
