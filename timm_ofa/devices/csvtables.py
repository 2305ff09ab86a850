"""Latency tables measured row by row elsewhere, as CSV: the columns `row,ms` and, where known, `p50_ms` and `n`."""
from __future__ import annotations

from pathlib import Path

from ..errors import InputError, listed
from ..fields import slug
from ..spaces import SearchSpace
from .netfiles import csv_entries
from .profile import UNKNOWN, DeviceProfile

COLUMNS, OPTIONAL = ('row', 'ms'), ('p50_ms', 'n')


def import_csv(path: str | Path, space: SearchSpace, *, device: str, runtime: str, device_name: str | None = None,
               runtime_version: str = UNKNOWN, precision: str = UNKNOWN, threads: int | None = None,
               batch_size: int = 1, measured_on: str = UNKNOWN, num_classes: int | None = None,
               overhead_ms: float = 0.0, statistic: str = UNKNOWN, source: str = 'imported from CSV') -> DeviceProfile:
    """The profile of a CSV file; an `InputError` names the line that is wrong, or a row that is missing.

    Args:
        path: The CSV file. A row has its key in a profile, for example 56x56x24/ir_r1_k5_s2_e3_c40_se0.25_nre. A key
            that ends in '@<px>' holds only at that resolution. The file must have every row of at least one resolution.
        device: Slug of the device. This and the other fields of a profile say how the rows were measured.
        num_classes: Outputs of the head that was measured; None: the default of the space.
        overhead_ms: What every network costs besides its rows.
    """
    where = f'table {Path(path).name}'
    resolutions = (*space.resolutions, *space.extra_resolutions)
    known = {row.key for resolution in resolutions for row in space.all_rows(resolution, num_classes)}
    table: dict[str, tuple] = {}
    try:
        with open(path, encoding='utf-8-sig', newline='') as file:
            for number, entry in csv_entries(file, where, COLUMNS, OPTIONAL):
                key = entry['row']
                if key.partition('@')[0] not in known:
                    raise InputError(f'{where} line {number}: {key!r:.90} is no row of {space.name}; remove it')
                if key in table:
                    raise InputError(f'{where} line {number}: {key!r:.90} is given twice; remove one')
                table[key] = _cost(entry, f'{where} line {number}')
    except (OSError, UnicodeDecodeError):
        raise InputError(f'{where} cannot be read; give a .csv with the columns {listed(COLUMNS)}') from None
    profile = DeviceProfile.from_dict({
        'format': 1, 'unit': 'ms', 'name': slug(f'{device}-{runtime}-{space.name}'), 'space': space.name,
        'device': device, 'device_name': device_name or device, 'runtime': runtime, 'runtime_version': runtime_version,
        'precision': precision, 'threads': threads, 'batch_size': batch_size, 'measured_on': measured_on,
        'num_classes': num_classes or space.num_classes, 'overhead_ms': overhead_ms, 'scale': 1.0, 'table': table,
        'protocol': {'statistic': statistic, 'method': 'row by row, imported'}, 'check': None, 'source': source}, where)
    if not profile.resolutions(space):
        missing = {
            resolution: [row.key for row in space.all_rows(resolution, num_classes)
                         if not {row.key, f'{row.key}@{resolution}'} & set(table)] for resolution in space.resolutions}
        resolution, keys = min(missing.items(), key=lambda item: len(item[1]))
        raise InputError(f'{where}: at {resolution} px {len(keys)} rows are missing, the first is {keys[0]}; add them')
    return profile


def _cost(entry: dict[str, str], where: str) -> tuple[float, float | None, int]:
    """(ms, p50_ms, n) of a line; `DeviceProfile.from_dict` checks their bounds."""
    median, n = entry.get('p50_ms', ''), entry.get('n', '')
    try:
        return float(entry['ms']), float(median) if median else None, int(n) if n else 1
    except ValueError:
        raise InputError(f'{where}: {", ".join(entry.values())!r:.120} is not a row and numbers; mend it') from None
