"""How a refusal must look."""


def one_line(error) -> str:
    """The message of a caught error, which must be one short line."""
    assert '\n' not in str(error.value)
    assert len(str(error.value)) < 400
    return str(error.value)
