"""The latency tables that the authors of Once-for-All published for the Samsung Note10, as a device profile.

The original has one YAML file for each resolution. Its keys spell out every shape, and the head is three entries. Each
resolution was measured separately, so a row that several resolutions share keeps one entry for each of them.
"""
from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError
from ..files import read_yaml
from ..spaces import Row, SearchSpace, load_space
from .conditions import UNKNOWN
from .profile import DeviceProfile, RowCost

SPACE, SUFFIX = 'ofa_mbv3_w12', '_lookup_table.yaml'  # of the tables
SOURCE = (
    'Latency tables published with Once-for-All (H. Cai, C. Gan, T. Wang, Z. Zhang, S. Han: Once for All: Train One '
    'Network and Specialize it for Efficient Deployment, ICLR 2020, arXiv:1908.09791), github.com/han-cai/files '
    'ofa/note10; the resolutions between them as kept in github.com/gatech-sysml/CompOFA')


def import_note10_tables(folder: str | Path) -> DeviceProfile:
    """A profile from the `<px>_lookup_table.yaml` files of a folder. Raises `InputError` if a file lacks a row."""
    space = load_space(SPACE)
    paths = sorted(Path(folder).glob(f'*{SUFFIX}'))
    if not paths:
        raise InputError(f'folder {str(folder)!r:.120} holds no *{SUFFIX}; give the folder of the note10 tables')
    costs = [(resolution, row, cost) for path in paths for resolution, row, cost in _read(path, space)]
    times_measured = Counter(row.key for _, row, _ in costs)
    profile = DeviceProfile(
        name='note10', space=space.name, device='samsung-note10', device_name='Samsung Galaxy Note10',
        runtime='tflite', runtime_version=UNKNOWN, precision=UNKNOWN, threads=None, batch_size=1, measured_on=UNKNOWN,
        num_classes=space.num_classes, overhead_ms=0.0, scale=1.0,
        table={
            row.key if times_measured[row.key] == 1 else f'{row.key}@{resolution}': cost
            for resolution, row, cost in costs},
        protocol={'statistic': 'mean', 'method': 'per-block table as published; the head is pool + conv + classifier'},
        check=None, source=SOURCE)
    return DeviceProfile.from_dict(profile.to_dict(), f'tables {Path(folder).name}')


def _read(path: Path, space: SearchSpace) -> list[tuple[int, Row, RowCost]]:
    try:
        resolution = int(path.name.removesuffix(SUFFIX))
        entries = read_yaml(path.read_text(encoding='utf-8'))
    except (ValueError, OSError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f'table {path.name} cannot be read ({str(error)!r:.60}); give a published one') from None
    if resolution not in (*space.resolutions, *space.extra_resolutions):
        raise InputError(f'table {path.name}: resolution {resolution} is not in {space.name}; remove the file')
    return [(resolution, row, _cost(row, entries, path.name)) for row in space.all_rows(resolution)]


def _cost(row: Row, entries: Any, where: str) -> RowCost:
    """The sum of the entries of one row; `n` is the smallest of their counts."""
    parts = []
    for key in _upstream_keys(row):
        try:
            parts.append((float(entries[key]['mean']), int(entries[key]['count'])))
        except (KeyError, TypeError, ValueError, OverflowError):
            raise InputError(f'table {where}: entry {key} is missing or has no mean and count; give the published table'
                             ) from None
    return RowCost(round(sum(mean for mean, _ in parts), 6), None, min(count for _, count in parts))


def _upstream_keys(row: Row) -> list[str]:
    """The names of a row in the published tables."""
    def shape(size: int, chs: int) -> str:
        return f'{size}x{size}x{chs}'

    before, after = shape(row.size, row.in_chs), shape(row.out_size, row.out_chs)
    if row.kind == 'conv':
        return [f'{"Conv" if row.in_chs == 3 else "Conv_1"}-input:{before}-output:{after}']
    if row.kind == 'head':
        pooled, features = shape(1, row.in_chs), shape(1, row.mid_chs)
        return [
            f'AvgPool2D-input:{before}-output:{pooled}', f'Conv_2-input:{pooled}-output:{features}',
            f'Logits-input:{features}-output:{row.out_chs}']
    flags = f'idskip:{row.skip:d}-se:{row.se_chs > 0:d}-hs:{row.act == "hs":d}'
    return [
        f'expanded_conv-input:{before}-output:{after}-expand:{row.mid_chs}-kernel:{row.kernel_size}'
        f'-stride:{row.stride}-{flags}']
