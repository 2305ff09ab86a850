"""Latency tables measured row by row elsewhere, as CSV: the columns `row,ms` and, where known, `p50_ms` and `n`."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError, listed
from ..spaces import SearchSpace
from .conditions import UNKNOWN
from .netfiles import csv_entries
from .profile import DeviceProfile, RowCost

COLUMNS, OPTIONAL = ('row', 'ms'), ('p50_ms', 'n')


def import_csv(path: str | Path, space: SearchSpace, *, device: str, runtime: str, device_name: str | None = None,
               runtime_version: str = UNKNOWN, precision: str = UNKNOWN, threads: int | None = None,
               batch_size: int = 1, processor: str | None = None, measured_on: str = UNKNOWN,
               num_classes: int | None = None, resolutions: Sequence[int] | None = None, overhead_ms: float = 0.0,
               statistic: str = UNKNOWN, source: str = 'imported from CSV') -> DeviceProfile:
    """The profile of a CSV file; an `InputError` names the line that is wrong, or a row that is missing.

    Args:
        path: The CSV file. A row has its key in a profile, for example 56x56x24/ir_r1_k5_s2_e3_c40_se0.25_nre. A key
            that ends in '@<px>' holds only at that resolution.
        device: Slug of the device. This and the other fields of a profile say how the rows were measured.
        num_classes: Outputs of the head that was measured; None: the default of the space.
        resolutions: Those of the space at which every row must be there, in px; None: any one.
        overhead_ms: What every network costs besides its rows.
    """
    where, wanted = f'table {Path(path).name}', space.restrict(resolutions=resolutions).resolutions
    keys = {px: [row.key for row in space.all_rows(px, num_classes)]
            for px in (*space.resolutions, *space.extra_resolutions)}
    known = {key for px, rows in keys.items() for row in rows for key in (row, f'{row}@{px}')}
    table: dict[str, RowCost] = {}
    try:
        with open(path, encoding='utf-8-sig', newline='') as file:
            for number, entry in csv_entries(file, where, COLUMNS, OPTIONAL):
                key = entry['row']
                if key not in known:
                    raise InputError(f'{where} line {number}: {key!r:.90} is no row of {space.name}; remove it')
                if key in table:
                    raise InputError(f'{where} line {number}: {key!r:.90} is given twice; remove one')
                table[key] = _cost(entry, f'{where} line {number}')
    except (OSError, UnicodeDecodeError):
        raise InputError(f'{where} cannot be read; give a .csv with the columns {listed(COLUMNS)}') from None
    profile = DeviceProfile(
        name=device, space=space.name, device=device, device_name=device_name or device, runtime=runtime,
        runtime_version=runtime_version, precision=precision, threads=threads, batch_size=batch_size,
        measured_on=measured_on, num_classes=num_classes or space.num_classes, overhead_ms=overhead_ms, scale=1.0,
        table=table, protocol={'statistic': statistic, 'method': 'row by row, imported',
                               **({'processor': processor} if processor else {})},
        check=None, source=source)
    profile = profile.named(space, where=where)
    missing = {px: [row for row in keys[px] if not {row, f'{row}@{px}'} & set(table)] for px in wanted}
    incomplete = {px: rows for px, rows in missing.items() if rows}
    if len(incomplete) == len(wanted) or (resolutions and incomplete):
        px, rows = min(incomplete.items(), key=lambda item: len(item[1]))
        raise InputError(f'{where}: at {px} px {len(rows)} rows are missing, the first is {rows[0]}; add them')
    return profile


def _cost(entry: dict[str, str], where: str) -> RowCost:
    """The price in a line; `DeviceProfile.named` checks its bounds."""
    median, n = entry.get('p50_ms', ''), entry.get('n', '')
    try:
        return RowCost(float(entry['ms']), float(median) if median else None, int(n) if n else 1)
    except ValueError:
        raise InputError(f'{where}: {", ".join(entry.values())!r:.120} is not a row and numbers; mend it') from None
