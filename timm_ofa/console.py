"""What people and programs see: tables on stdout, remarks on stderr."""
from __future__ import annotations

import sys
from collections.abc import Sequence


def say(text: str) -> None:
    """A remark on stderr, so that stdout holds data alone."""
    print(text, file=sys.stderr, flush=True)


def table(header: Sequence[str], rows: Sequence[Sequence], gap: int = 2) -> str:
    """Columns aligned: text to the left, numbers to the right; None is '-'."""
    def show(value) -> str:
        return '-' if value is None else f'{value:.4g}' if isinstance(value, float) else str(value)

    texts = [[show(v) for v in row] for row in rows]
    numeric = [all(isinstance(row[i], (int, float, type(None))) for row in rows) for i in range(len(header))]
    widths = [max(len(line[i]) for line in [list(header), *texts]) for i in range(len(header))]
    lines = [
        (' ' * gap).join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric)).rstrip()
        for line in [list(header), *texts]]
    return '\n'.join([lines[0], '-' * max(map(len, lines)), *lines[1:]])
