"""What people and programs see: tables on stdout; remarks and progress bars on stderr."""
from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from tqdm import tqdm

T = TypeVar('T')
PROGRESS_SWITCH = 'TIMM_OFA_PROGRESS'  # environment variable: 0 turns all progress bars off


def say(text: str) -> None:
    """Print a remark on stderr, so that stdout holds only data."""
    if sys.stderr is None:  # closed
        return
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError as error:
        if error.errno != errno.EIO:  # the terminal is gone, but the work goes on
            raise


def progress_bar(total: int, desc: str, unit: str, *, shown: bool = True, **kwargs: Any) -> tqdm:
    """A bar on stderr that counts to `total` units, as `tqdm` draws it.

    It draws nothing where `shown` is false (all processes but the main one), or where the environment says
    `TIMM_OFA_PROGRESS=0`. `kwargs` go to `tqdm`.
    """
    from tqdm import tqdm

    hidden = not shown or sys.stderr is None or os.environ.get(PROGRESS_SWITCH) == '0'
    return tqdm(total=total, desc=desc, unit=unit, disable=hidden, **kwargs)


def counted(items: Iterable[T], total: int, desc: str, unit: str) -> Iterator[T]:
    """The items, one after the other, counted by a bar that shows itself only if they take longer than 5 seconds."""
    with progress_bar(total, desc, unit, leave=False, delay=5) as bar:
        for item in items:
            yield item
            bar.update()


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A text table: text is aligned to the left, numbers to the right, and None is shown as '-'."""
    def show(value: object) -> str:
        return '-' if value is None else f'{value:.4g}' if isinstance(value, float) else str(value)

    texts = [[show(v) for v in row] for row in rows]
    numeric = [all(isinstance(row[i], (int, float, type(None))) for row in rows) for i in range(len(header))]
    widths = [max(len(line[i]) for line in [list(header), *texts]) for i in range(len(header))]
    lines = [
        '  '.join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric)).rstrip()
        for line in [list(header), *texts]]
    return '\n'.join([lines[0], '-' * max(map(len, lines)), *lines[1:]])
