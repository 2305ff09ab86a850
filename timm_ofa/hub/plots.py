"""Pictures of a network (its front, its blocks), a search, a predictor's error and a training.

The same data gives the same bytes.
"""
from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import InputError
from ..files import replacing
from ..spaces import Row
from .record import ClassAccuracy, Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHADES = ('#c3d8ef', '#8ab4e2', '#4a87c9', '#2a5f9e', '#1d4373')  # of kernel sizes 1, 3, 5, 7, and from 9 on
BLUE, ORANGE, GRAY = '#2f6db5', '#d9541e', '#6b7280'
MAX_CONFUSED, MAX_NUMBERED = 100, 25  # classes of a confusion matrix; with numbers in its cells
SUFFIXES = ('.svg', '.png')


def plot_front(record: Record, path: str | Path) -> Path:
    """Write the Pareto front of the record's search: latency (ms) to the right, top-1 (%) up, the network marked."""
    with picture(path, 6.4, 4.0) as figure:
        _draw(figure.subplots(), record)
    return Path(path)


def plot_architecture(record: Record, path: str | Path) -> Path:
    """Write the blocks of the record's network in order. The height of a bar is the number of channels in the middle of
    the block, and a larger kernel is darker. Lines part the stages; their resolution (px) and channels stand below."""
    rows = record.space.rows(record.arch, record.num_classes)
    with picture(path, max(6.4, 0.42 * len(rows) + 1.2), 3.0) as figure:
        _draw_blocks(figure.subplots(), rows)
    return Path(path)


def shows_confusion(record: Record) -> bool:
    """Whether the accuracies of the classes of a record are few enough for a picture."""
    return 2 <= len(record.per_class) <= MAX_CONFUSED


def plot_confusion(record: Record, path: str | Path) -> Path:
    """Write the confusion matrix of the test images, classes sorted by name: a row for each true class, with its top-1,
    and the darker a cell, the more of its images are taken for the class below. Numbers are images."""
    order = sorted(range(len(record.per_class)), key=lambda i: _in_order(record.per_class[i].name))
    rows = [record.per_class[i] for i in order]
    few = len(rows) <= MAX_NUMBERED
    side = max(4.5, (0.42 if few else 0.17) * len(rows) + 2)
    with picture(path, side + 0.6, side) as figure:
        _draw_confusion(figure.subplots(), rows, few, 9 if few else 7)
    return Path(path)


def plot_search(front: Sequence[tuple[float, float]], history: Sequence[tuple[int, float]], path: str | Path, *,
                cost: str, limit: float | None = None,
                baselines: Mapping[str, Sequence[tuple[float, float]]] | None = None) -> Path:
    """Write a picture of a search: its front with the best network marked, and its progress.

    Args:
        front: (cost, top-1 in percent) of each network, ascending; the last one is the best.
        history: (networks judged so far, best top-1 in percent so far).
        cost: The name and unit of the costs in `front` and `limit`, e.g. 'latency on note10 (ms)'.
        baselines: Name of each other method -> its networks, as in `front`.
    """
    with picture(path, 9.6, 4.0) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        left.plot(*zip(*front), color=BLUE, marker='o', markersize=3, linewidth=1.2, label='Pareto front of the search')
        for marker, (name, points) in zip(cycle('v^sD'), (baselines or {}).items()):
            left.plot(*zip(*points), marker, color=GRAY, markersize=6, label=_ascii(name))
        left.plot(*zip(front[-1]), '*', color=ORANGE, markersize=16, label=f'best, {front[-1][1]:.2f} %')
        if limit is not None:
            left.axvline(limit, color=ORANGE, linestyle='--', linewidth=1, label=f'limit, {limit:g}')
        _dress(left, _ascii(cost), 'predicted top-1 (%)', legend='upper left')
        right.step(*zip(*history), where='post', color=BLUE, linewidth=1.4, label='this search')
        _dress(right, 'networks judged', 'best so far, predicted top-1 (%)')
    return Path(path)


def plot_fit(predicted: Sequence[float], measured: Sequence[float], path: str | Path, check: Mapping) -> Path:
    """Write held-out predictions (N,) over measured top-1 (N,), both in percent; `check` holds the error."""
    ends = [min(*predicted, *measured), max(*predicted, *measured)]
    with picture(path, 4.8, 4.4) as figure:
        axes = figure.subplots()
        axes.plot(ends, ends, color=GRAY, linewidth=1, label='predicted as measured')
        error = f'error {check["rmse_pct"]:.3g} points, tau {check["kendall_tau"]:.3g}'
        axes.plot(measured, predicted, 'o', color=BLUE, markersize=3.5, alpha=0.7,
                  label=f'{len(measured)} networks, held out:\n{error}')
        _dress(axes, 'measured top-1 (%)', 'predicted top-1 (%)')
    return Path(path)


def plot_training(events: Sequence[Mapping], path: str | Path) -> Path:
    """Write a picture of a training: the mean loss since the last report, and the learning rate, over the steps. Lines
    part the phases.

    Args:
        events: The events of a run's log. Only those of training are drawn; they have `phase`, `step`, `loss` and `lr`.
    """
    steps, losses, rates, phases = zip(*(
        (int(e['step']), float(e['loss']), float(e['lr']), str(e['phase'])) for e in events if is_report(e)))
    with picture(path, 7.2, 4.0) as figure:
        axes = figure.subplots()
        axes.plot(steps, losses, color=BLUE, linewidth=1.2, label='loss, mean over the subnets')
        rate = axes.twinx()
        rate.plot(steps, rates, color=GRAY, linestyle='--', linewidth=1, label='rate')
        rate.set_ylabel('learning rate')
        rate.set_ylim(0)
        rate.spines[['top']].set_visible(False)
        axes.plot([], [], color=GRAY, linestyle='--', linewidth=1, label='rate (right)')
        for i, phase in enumerate(phases):
            if i == 0 or phase != phases[i - 1]:
                axes.axvline(steps[i], color='#d1d5db', linewidth=1)
                axes.annotate(_ascii(phase, 20), (steps[i], 1), (3, -3), xycoords=('data', 'axes fraction'),
                              textcoords='offset points', rotation=90, va='top', fontsize=8, color=GRAY)
        _dress(axes, 'step', 'loss', legend='upper right')
    return Path(path)


def is_report(event: Mapping) -> bool:
    """Whether `plot_training` draws this event of a run's log."""
    numbers = (event.get(name) for name in ('step', 'loss', 'lr'))
    return 'phase' in event and all(isinstance(n, (int, float)) and math.isfinite(n) for n in numbers)


def check_picture(path: str | Path) -> Path:
    """The path of a picture. Its suffix says the format, SVG or PNG; raises `InputError` for another suffix."""
    if Path(path).suffix not in SUFFIXES:
        raise InputError(f'picture {str(path)!r:.120} must end in {" or ".join(SUFFIXES)}; rename it')
    return Path(path)


@contextmanager
def picture(path: str | Path, width: float, height: float) -> Iterator[Figure]:
    """A figure of this size (inches), which is written to `path` if the block ends well."""
    import matplotlib
    from matplotlib.figure import Figure

    form = check_picture(path).suffix[1:]
    with matplotlib.rc_context({'svg.hashsalt': 'timm_ofa', 'text.parse_math': False, 'font.size': 10}):
        figure = Figure(figsize=(width, height), layout='constrained', dpi=150)
        yield figure
        with replacing(path) as partial:
            figure.savefig(partial, format=form, metadata={'Date': None, 'Creator': None} if form == 'svg' else None)


def _draw_blocks(axes: Axes, rows: Sequence[Row]) -> None:
    channels = [row.mid_chs or row.out_chs for row in rows]
    kernels = sorted({row.kernel_size for row in rows if row.kind != 'head'})
    shade = {kernel: SHADES[min(kernel // 2, len(SHADES) - 1)] for kernel in kernels}
    starts = [i for i, row in enumerate(rows) if row.kind == 'head' or row.stride > 1 or i == 0]
    for i, (row, height) in enumerate(zip(rows, channels)):
        color = '#d1d5db' if row.kind == 'head' else shade[row.kernel_size]
        axes.bar(i, height, width=0.82, color=color, in_layout=False)
        axes.annotate(str(height), (i, height), (0, 2), textcoords='offset points', ha='center', fontsize=7, color=GRAY,
                      in_layout=False)
    for start, end in zip(starts, [*starts[1:], len(rows)]):
        if start:
            axes.axvline(start - 0.5, color='#e5e7eb', linewidth=1, zorder=0)
        last = rows[end - 1]
        label = 'head' if last.kind == 'head' else f'{last.out_size} px\n{last.out_chs} ch'
        axes.annotate(label, ((start + end - 1) / 2, 0), (0, -4), textcoords='offset points', ha='center', va='top',
                      fontsize=8, annotation_clip=False)
    for kernel in kernels:
        axes.bar(0, 0, color=shade[kernel], label=f'{kernel}x{kernel}')
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.set_ylim(0, 1.25 * max(channels))
    axes.set_xticks([])
    axes.set_xlabel(' \n ')  # room for the stages
    axes.set_ylabel('channels in the middle')
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False, loc='upper left', ncols=len(kernels), title='kernel', fontsize=8, title_fontsize=8)


def _draw_confusion(axes: Axes, rows: Sequence[ClassAccuracy], numbered: bool, font_size: int) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    names = [row.name for row in rows]
    counts = [[row.taken_for.get(name, row.hits * (name == row.name)) for name in names] for row in rows]
    shades = [[count and 0.1 + 0.9 * count / row.n for count in line] for row, line in zip(rows, counts)]
    axes.imshow(shades, vmin=0, vmax=1, interpolation='none',
                cmap=LinearSegmentedColormap.from_list('shades', ['#ffffff', *SHADES]))
    places, shown = range(len(rows)), [_ascii(name, 24) for name in names]
    axes.set_yticks(places, [f'{name}  {"-" if row.top1_pct is None else f"{row.top1_pct:.0f} %"}'
                             for name, row in zip(shown, rows)], fontsize=font_size)
    axes.set_xticks(places, shown, fontsize=font_size, rotation=90)
    axes.set_ylabel('true class, and its top-1')
    axes.set_xlabel('taken for')
    axes.tick_params(length=0)
    axes.set_xticks([i - 0.5 for i in places], minor=True)
    axes.set_yticks([i - 0.5 for i in places], minor=True)
    axes.grid(which='minor', color='#e5e7eb', linewidth=0.6)
    axes.tick_params(which='minor', length=0)
    axes.spines[:].set_visible(False)
    for y, line in enumerate(counts):
        for x, count in enumerate(line):
            if numbered and count:
                axes.text(x, y, str(count), ha='center', va='center', fontsize=8, in_layout=False,  # it is in its cell
                          color='white' if shades[y][x] > 0.55 else 'black')


def _in_order(name: str) -> tuple[tuple[bool, int, str], ...]:
    """A key that sorts names as people do: 'class 9' before 'class 10'."""
    return tuple((not part.isdecimal(), int(part) if part.isdecimal() else 0, part.casefold())
                 for part in re.split(r'(\d+)', name))


def _draw(axes: Axes, record: Record) -> None:
    front = sorted((p for p in record.front if not p.label), key=lambda p: p.latency_ms)
    latencies_ms, top1_pct = [p.latency_ms for p in front], [p.top1_pct for p in front]
    axes.plot(latencies_ms, top1_pct, color=BLUE, marker='o', markersize=4, linewidth=1.2,
              label='Pareto front of the search')
    for marker, point in zip(cycle('v^sD'), (p for p in record.front if p.label)):
        axes.plot(point.latency_ms, point.top1_pct, marker, color=GRAY, markersize=7, label=_ascii(point.label))
    for point in (p for p in front if p.chosen):
        axes.plot(point.latency_ms, point.top1_pct, '*', color=ORANGE, markersize=16, label='this network')
    if record.limit_ms is not None:
        axes.axvline(record.limit_ms, color=ORANGE, linestyle='--', linewidth=1, label=f'limit, {record.limit_ms:g} ms')
    device = record.device_name or record.device or 'the device'
    _dress(axes, f'predicted latency on {_ascii(device)} (ms)', 'predicted top-1 (%)')


def _dress(axes: Axes, across: str, up: str,
           legend: Literal['lower right', 'upper left', 'upper right'] = 'lower right') -> None:
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(color='#e5e7eb', linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False, loc=legend)


def _ascii(text: str, limit: int = 60) -> str:
    """The text in ASCII, because the font may lack other glyphs; at most `limit` characters."""
    return text.encode('ascii', 'replace').decode()[:limit]
