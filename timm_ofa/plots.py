"""The accuracy-latency picture of a search. The same record gives the same bytes."""
from __future__ import annotations

from pathlib import Path

from .files import replacing
from .record import FrontPoint, Record

BLUE, ORANGE, GRAY = '#2f6db5', '#d9541e', '#6b7280'


def plot_front(record: Record, path: str | Path) -> Path:
    """Write the Pareto front of the record's search as SVG: latency (ms) across, top-1 (%) up, the network marked."""
    import matplotlib
    from matplotlib.figure import Figure

    path = Path(path)
    with matplotlib.rc_context({'svg.hashsalt': 'timm_ofa', 'text.parse_math': False, 'font.size': 10}):
        figure = Figure(figsize=(6.4, 4.0), layout='constrained')
        _draw(figure.subplots(), record)
        with replacing(path) as partial:
            figure.savefig(partial, format='svg', metadata={'Date': None, 'Creator': None})
    return path


def _draw(axes, record: Record) -> None:
    front = sorted((p for p in record.front if not p.label), key=lambda p: p.latency_ms)
    axes.plot(*_columns(front), color=BLUE, marker='o', markersize=4, linewidth=1.2, label='Pareto front of the search')
    for marker, point in zip('v^sD', (p for p in record.front if p.label)):
        axes.plot(*_columns([point]), marker, color=GRAY, markersize=7, label=_ascii(point.label))
    chosen = [p for p in record.front if p.chosen]
    if chosen:
        axes.plot(*_columns(chosen), '*', color=ORANGE, markersize=16, label='this network')
    if record.limit_ms is not None:
        axes.axvline(record.limit_ms, color=ORANGE, linestyle='--', linewidth=1, label=f'limit, {record.limit_ms:g} ms')
    axes.set_xlabel(f'predicted latency on {_ascii(record.device_name or record.device or "the device")} (ms)')
    axes.set_ylabel('predicted top-1 (%)')
    axes.grid(color='#e5e7eb', linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False, loc='lower right')


def _columns(points: list[FrontPoint]) -> tuple[list[float], list[float]]:
    return [p.latency_ms for p in points], [p.top1_pct for p in points]


def _ascii(text: str, limit: int = 60) -> str:
    """The font has no other glyphs for sure."""
    return text.encode('ascii', 'replace').decode()[:limit]
