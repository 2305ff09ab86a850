"""Files that anybody may have written: networks with their measured latencies, and lines of CSV."""
from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from ..errors import InputError, listed
from ..spaces import Arch, SearchSpace
from .fewshot import MAX_MS, MIN_MS

COLUMNS = ('arch', 'latency_ms')


def read_networks(path: str | Path, space: SearchSpace) -> tuple[list[Arch], list[float]]:
    """The archs of a file and their latencies in ms, checked; raises `InputError` naming the line.

    The file is CSV with the columns `arch` (text in quotes) and `latency_ms`, or JSON lines with these fields. In JSON
    lines the fields of the arch itself may stand in place of `arch`.
    """
    where = f'networks {Path(path).name}'
    try:
        with open(path, encoding='utf-8-sig', newline='') as file:
            is_csv = Path(path).suffix.lower() == '.csv'
            entries = csv_entries(file, where, COLUMNS) if is_csv else _json_entries(file, where)
            found = [_network(entry, f'{where} line {number}', space) for number, entry in entries]
    except (OSError, UnicodeDecodeError):
        raise InputError(
            f'networks {str(path)!r:.120} cannot be read; give a .csv with the columns {listed(COLUMNS)}') from None
    return [arch for arch, _ in found], [ms for _, ms in found]


def csv_entries(file: TextIO, where: str, needed: Sequence[str], optional: Sequence[str] = ()) -> Iterator[tuple]:
    """(number, fields) of each line of CSV with a header; raises `InputError` naming the line."""
    reader = csv.DictReader(file, strict=True)
    try:
        columns = list(reader.fieldnames or ())
        if not set(needed) <= set(columns) <= {*needed, *optional} or len(set(columns)) < len(columns):
            raise InputError(
                f'{where} line 1: {listed(columns)!r:.80} are not the columns; write {",".join([*needed, *optional])}')
        for entry in reader:
            if None in entry or None in entry.values():
                raise InputError(
                    f'{where} line {reader.line_num} does not have {len(columns)} values; '
                    'put those with commas in quotes')
            yield reader.line_num, entry
    except csv.Error as error:
        raise InputError(f'{where} line {reader.line_num + 1} is not CSV ({error}); mend it') from None


def _json_entries(file: TextIO, where: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(file, 1):
        try:
            if line.strip():
                yield number, json.loads(line)
        except (ValueError, RecursionError):
            raise InputError(f'{where} line {number} is not JSON; write an object a line') from None


def _network(entry: Any, where: str, space: SearchSpace) -> tuple[Arch, float]:
    if not isinstance(entry, Mapping) or 'latency_ms' not in entry:
        raise InputError(f'{where}: {entry!r:.60} has no latency_ms; add it')
    arch, value = {k: v for k, v in entry.items() if k != 'latency_ms'}, entry['latency_ms']
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise InputError(f'{where}: latency_ms {value!r:.40} is not a number; give milliseconds')
    try:
        ms = float(value)
    except (ValueError, OverflowError):
        raise InputError(f'{where}: latency_ms {value!r:.40} is not a number; give milliseconds') from None
    if not MIN_MS <= ms <= MAX_MS:
        raise InputError(
            f'{where}: latency_ms {value!r:.40} is not within {MIN_MS:g} to {MAX_MS:g}; remove the line')
    try:
        if set(arch) == {'arch'} and isinstance(arch['arch'], str):
            return space.parse(arch['arch']), ms
        return space.check(Arch.from_dict(arch['arch'] if set(arch) == {'arch'} else arch)), ms
    except InputError as error:
        raise InputError(f'{where}: {error}') from None
