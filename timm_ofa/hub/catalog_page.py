"""The catalog: one page on which networks are browsed by device and latency.

The page is one file and makes no request. Its data are text of strangers. They travel as JSON in a block that they
cannot end, and the script beside it, the only one that may run, turns them into text nodes.
"""
from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ..devices import UNKNOWN
from ..errors import InputError
from ..files import write_text
from .card import TEMPLATES
from .listing import Found, data_words, find
from .record import Measurement, Record

PAGE, STYLE, SCRIPT = (TEMPLATES / f'catalog.{end}' for end in ('html.j2', 'css', 'js'))


def catalog(source: str, out: str | Path) -> Path:
    """Write the page of all networks of an organization on the Hub, or of all published folders in a folder."""
    name = Path(source).resolve().name if Path(source).is_dir() else source
    return write_catalog(name, find(source), out)


def write_catalog(name: str, found: list[Found], out: str | Path) -> Path:
    """Write the page of these networks; `name` says whose they are."""
    write_text(out, render_catalog(f'{name}: networks by device and latency', found))
    return Path(out)


def render_catalog(title: str, found: list[Found]) -> str:
    """The page, as HTML. Networks without a known latency are not on it."""
    entries = [entry for entry in map(_entry, found) if entry['latency']]
    if not entries:
        raise InputError(f'{title!r:.120}: none with a latency was found; publish one, or give another source')
    names = {m.device: m.device_name for f in reversed(found) for m in f.record.measurements}
    data = json.dumps({'devices': names, 'models': entries}, allow_nan=False, separators=(',', ':'))
    style, script = (path.read_text(encoding='utf-8') for path in (STYLE, SCRIPT))
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=True, keep_trailing_newline=True)
    return environment.from_string(PAGE.read_text(encoding='utf-8')).render(
        title=title, style=Markup(style), script=Markup(script), style_hash=_hash(style), script_hash=_hash(script),
        data=Markup(data.replace('<', r'\u003c').replace('>', r'\u003e').replace('&', r'\u0026')))


def _entry(found: Found) -> dict[str, Any]:
    """The data of one network for the page. `top1` is in percent."""
    record = found.record
    return dict(
        id=found.id, name=Path(found.id).name or record.name, url=found.url, load=found.load_line,
        top1=record.predicted_top1_pct if record.top1_pct is None else record.top1_pct,
        predicted=record.top1_pct is None, data=data_words(record), macs_m=record.macs / 1e6,
        params_m=record.params / 1e6, resolution=record.arch.resolution, space=record.space.name, arch=str(record.arch),
        latency=_latencies(record))


def _latencies(record: Record) -> list[dict]:
    """One latency for each device and setting: the fastest measurement, else the fastest prediction."""
    found: dict[tuple[str, str], Measurement] = {}
    for m in sorted(record.measurements, key=lambda m: (m.source != 'measured', m.typical_ms)):
        found.setdefault((m.device, _setting(m)), m)
    return [dict(
        device=device, setting=setting, ms=m.typical_ms, p90_ms=m.p90_ms, n=m.n, source=m.source, date=m.date,
        version='' if m.runtime == UNKNOWN else f'{m.runtime} {m.runtime_version}')
        for (device, setting), m in found.items()]


def _setting(m: Measurement) -> str:
    """The conditions that two latencies must share to be compared, in words."""
    return ', '.join(part for part in replace(m.conditions, runtime_version=UNKNOWN).setting() if part != 'batch 1')


def _hash(text: str) -> str:
    """The hash of an inline block, as a content security policy writes it."""
    return f'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'
