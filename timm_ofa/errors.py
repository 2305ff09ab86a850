"""The one error for what a user gave: a line that names the value and the cure."""


class InputError(ValueError):
    """A wrong value from outside (text, file, option). The message is one line: the value, then what to do."""


def listed(values, limit: int = 12) -> str:
    """Values for an error line, shortened in the middle when there are many: '1, 2, 3, ..., 9'."""
    texts = [str(v) for v in values]
    if len(texts) > limit:
        texts = texts[:3] + ['...'] + texts[-1:]
    return ', '.join(texts)


def one_line(error: BaseException) -> str:
    """What an error says, for an error line: its kind and text, of an `InputError` the text alone."""
    text = ' '.join(str(error).split())
    return text if isinstance(error, InputError) else f'{type(error).__name__}: {text:.120}'
