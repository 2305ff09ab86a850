"""The model card: what people read, and the tags by which the Hub finds a network for a device and a latency.

Everything in a record is somebody's text, so the front matter is built by `ModelCardData` alone and every value in
the Markdown is escaped, except in code blocks, which it cannot leave.
"""
from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

from .fields import slug
from .record import Measurement, Record

RUNGS_MS = (1, 2, 5, 10, 15, 20, 30, 40, 50, 75, 100, 150, 200, 500, 1000)
OWNER = 'OWNER'  # stands for the namespace in a card that is not published yet
HUB_ID = r'[\w-][\w.-]*/[\w-][\w.-]*'
TEMPLATE = Path(__file__).parent / 'templates' / 'card.md.j2'


def evidence(record: Record, device: str) -> list[Measurement]:
    """What is known of single images on a device, fastest first: measurements where there are any, else predictions."""
    known = [m for m in record.measurements if m.device == device and m.batch_size == 1]
    measured = [m for m in known if m.source == 'measured']
    return sorted(measured or known, key=lambda m: m.typical_ms)


def headline(record: Record) -> Measurement | None:
    """The latency that the card opens with: on the device of the search, else on any."""
    devices = [record.device, *(m.device for m in record.measurements)]
    return next((found[0] for device in devices if (found := evidence(record, device))), None)


def tags(record: Record) -> list[str]:
    """Tags of a published network. `latency:<device>:le-<N>ms` is set for every rung N that its latency is below."""
    devices = sorted({m.device for m in record.measurements} | ({record.device} - {None}))
    found = ['timm', 'timm_ofa', 'once-for-all']
    found += [f'device:{device}' for device in devices]
    found += sorted({f'runtime:{m.runtime}' for m in record.measurements})
    found += sorted({f'precision:{m.precision}' for m in record.measurements})
    found += [f'resolution:{record.arch.resolution}']
    for device in devices:
        fastest = min((m.typical_ms for m in evidence(record, device)), default=float('inf'))
        found += [f'latency:{device}:le-{rung}ms' for rung in RUNGS_MS if fastest <= rung]
    found += sorted({f'latency-source:{m.source}' for m in record.measurements})
    found += [f'supernet:{slug(record.supernet.id.rsplit("/")[-1])}'] if record.supernet else []
    return [*found, f'search-space:{slug(record.space.name)}']


def card_data(record: Record) -> Any:
    """The front matter, as `huggingface_hub.ModelCardData`."""
    from huggingface_hub import ModelCardData

    supernet = record.supernet.id if record.supernet else ''
    return ModelCardData(
        library_name='timm',
        pipeline_tag='image-classification',
        license=record.license,
        tags=tags(record),
        datasets=[record.dataset_id] if record.dataset_id else None,
        base_model=supernet if re.fullmatch(HUB_ID, supernet, re.ASCII) else None,
        model_name=record.name,
        eval_results=_results(record) or None,
        ignore_metadata_errors=False,
    )


def _results(record: Record) -> list[Any]:
    """Accuracy and latencies for the model index. Two latencies differ by their names, which hold the whole setting."""
    from huggingface_hub import EvalResult

    dataset = record.accuracy.dataset if record.accuracy else record.space.name
    result = partial(
        EvalResult, task_type='image-classification', dataset_type=record.dataset_id or slug(dataset),
        dataset_name=dataset, dataset_split=record.accuracy.split if record.accuracy else None)
    results = []
    if record.top1_pct is not None:
        results.append(result(
            metric_type='accuracy', metric_name='Top-1 (%)', metric_value=record.top1_pct))
    for m in record.measurements:
        statistic = m.statistic if m.p50_ms is None else 'p50'
        name = f'Latency on {m.device}, {_setting(m)} ({statistic}, {m.source}, ms)'
        if name not in {r.metric_name for r in results}:
            results.append(result(metric_type='latency', metric_name=name, metric_value=m.typical_ms))
    return results


def _setting(m: Measurement) -> str:
    threads = [f'{m.threads} thread{"s" * (m.threads > 1)}'] if m.threads else []
    size = f'{m.resolution}x{m.resolution}'
    return ', '.join([f'{m.runtime} {m.runtime_version}', m.precision, *threads, size, f'batch {m.batch_size}'])


class _Verbatim(str):
    """Text that goes into a code block, and is therefore not escaped."""


def _escape(value: Any) -> Any:
    """Text as Markdown that shows it, on one line, whatever it holds."""
    if isinstance(value, _Verbatim) or not isinstance(value, str):
        return value
    text = ' '.join(value.split()).replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')
    return re.sub(r'([\\`*_\[\]|~#!])', r'\\\1', text)


def render_card(record: Record, repo_id: str | None = None) -> str:
    """The whole README.md."""
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, finalize=_escape, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True)
    environment.filters['code'] = lambda text: _Verbatim(str(text).replace('```', "'''"))
    environment.filters['ms'] = _ms
    environment.filters['list'] = lambda values: ', '.join(f'{v:g}' for v in values)
    body = environment.from_string(TEMPLATE.read_text(encoding='utf-8')).render(
        record=record, repo_id=repo_id or f'{OWNER}/{record.name}', headline=headline(record), setting=_setting,
        arch_json=',\n '.join(f'"{k}": {json.dumps(v)}' for k, v in record.arch.to_dict().items()),
        faster_better=_neighbors(record))
    return f'---\n{card_data(record).to_yaml()}\n---\n\n{body}'


def _ms(value: float | None) -> str:
    if value is None:
        return '–'
    return f'{value:.{3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0}f}'


def _neighbors(record: Record) -> list[tuple[str, Any]]:
    """The next faster and the next more accurate network of the front, around the chosen one."""
    front = sorted((p for p in record.front if not p.label), key=lambda p: p.latency_ms)
    at = next((i for i, p in enumerate(front) if p.chosen), None)
    if at is None:
        return []
    picked = [('faster', at - 1), ('**this one**', at), ('more accurate', at + 1)]
    return [(_Verbatim(what), front[i]) for what, i in picked if 0 <= i < len(front)]
