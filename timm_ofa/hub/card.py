"""The model cards: what people read, and the tags by which the Hub finds a network for a device and a latency.

Everything in a record is somebody's text, so the front matter is built by `ModelCardData` alone and every value in
the Markdown is escaped, except in code blocks, which it cannot leave.
"""
from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from ..fields import slug
from ..spaces import Arch, space_names
from ..training import Phase
from .record import HUB_ID, FrontPoint, Measurement, Record, SupernetRecord, Training

RUNGS_MS = (1, 2, 5, 10, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200, 500, 1000)
UNKNOWN = 'unknown'  # what a profile that somebody else published does not say
OWNER = 'OWNER'  # stands for the namespace in a card that is not published yet
HUB = 'https://huggingface.co'
SUPERNET_TAG = 'supernet'  # of a supernet; what was taken out of one has 'supernet:NAME'
TEMPLATES = Path(__file__).parent / 'templates'
TEMPLATE_OF = {'subnet': 'card.md.j2', 'supernet': 'supernet.md.j2'}


def evidence(record: Record, device: str) -> list[Measurement]:
    """What is known of single images on a device, fastest first: measurements where there are any, else predictions."""
    known = [m for m in record.measurements if m.device == device and m.batch_size == 1]
    measured = [m for m in known if m.source == 'measured']
    return sorted(measured or known, key=lambda m: m.typical_ms)


def headline(record: Record) -> Measurement | None:
    """The latency that the card opens with: on the device of the search, else on any."""
    devices = [record.device, *(m.device for m in record.measurements)]
    return next((found[0] for device in devices if (found := evidence(record, device))), None)


def tags(record: Record | SupernetRecord) -> list[str]:
    """Tags of what is published. `latency:<device>:le-<N>ms` is set for every rung N that its latency is below."""
    if isinstance(record, SupernetRecord):
        return ['timm', 'timm_ofa', 'once-for-all', SUPERNET_TAG, f'search-space:{slug(record.space.name)}']
    devices = sorted({m.device for m in record.measurements} | ({record.device} - {None}))
    found = ['timm', 'timm_ofa', 'once-for-all']
    found += [f'device:{device}' for device in devices]
    found += sorted({f'runtime:{m.runtime}' for m in record.measurements})
    found += sorted({f'precision:{m.precision}' for m in record.measurements if m.precision != UNKNOWN})
    found += [f'resolution:{record.arch.resolution}']
    for device in devices:
        fastest = min((m.typical_ms for m in evidence(record, device)), default=float('inf'))
        found += [f'latency:{device}:le-{rung}ms' for rung in RUNGS_MS if fastest <= rung]
    found += sorted({f'latency-source:{m.source}' for m in record.measurements})
    found += [f'supernet:{slug(record.supernet.id.rsplit("/")[-1])}'] if record.supernet else []
    return [*found, f'search-space:{slug(record.space.name)}']


def card_data(record: Record | SupernetRecord) -> Any:
    """The front matter, as `huggingface_hub.ModelCardData`."""
    from huggingface_hub import ModelCardData

    supernet = getattr(record, 'supernet', None)
    base = supernet.id if supernet and re.fullmatch(HUB_ID, supernet.id, re.ASCII) else None
    more = {'base_model_relation': 'finetune'} if base else {}
    co2_g = record.training and record.training.co2_g
    if co2_g is not None:
        more['co2_eq_emissions'] = {
            'emissions': co2_g, 'source': record.training.co2_source, 'training_type': 'pre-training',
            'hardware_used': record.training.hardware}
    return ModelCardData(
        library_name='timm',
        pipeline_tag='image-classification',
        license=record.license,
        tags=tags(record),
        datasets=[record.dataset_id] if record.dataset_id else None,
        base_model=base,
        model_name=record.name,
        eval_results=(_judged_results if isinstance(record, SupernetRecord) else _results)(record) or None,
        ignore_metadata_errors=False,
        **more,
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


def _judged_results(record: SupernetRecord) -> list[Any]:
    from huggingface_hub import EvalResult

    return [EvalResult(
        task_type='image-classification', dataset_type=record.dataset_id or slug(record.data or judged.images),
        dataset_name=judged.images, metric_type='accuracy', metric_name=f'Top-1 of the {judged.subnet} subnet (%)',
        metric_value=judged.top1_pct) for judged in record.judged if judged.subnet in ('largest', 'smallest')]


def _setting(m: Measurement) -> str:
    threads = [f'{m.threads} thread{"s" * (m.threads > 1)}'] if m.threads else []
    size = f'{m.resolution}x{m.resolution}'
    known = [_runtime(m), *([m.precision] if m.precision != UNKNOWN else [])]
    return ', '.join([*known, *threads, size, f'batch {m.batch_size}'])


def _runtime(m: Measurement) -> str:
    return m.runtime if m.runtime_version == UNKNOWN else f'{m.runtime} {m.runtime_version}'


class _Verbatim(str):
    """Text that goes into a code block, and is therefore not escaped."""


def _escape(value: Any) -> Any:
    """Text as Markdown that shows it, on one line, whatever it holds."""
    if isinstance(value, _Verbatim) or not isinstance(value, str):
        return value
    text = ' '.join(value.split()).replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')
    return re.sub(r'([\\`*_\[\]|~#!])', r'\\\1', text)


def render_card(record: Record | SupernetRecord, repo_id: str | None = None, phases: Sequence[Phase] = (),
                curves: bool = False) -> str:
    """The whole README.md.

    Args:
        repo_id: Where it will be; a placeholder if not given.
        phases: Of a supernet's training.
        curves: Whether there is a picture of it.
    """
    known = (_supernet_words(record, phases, curves) if isinstance(record, SupernetRecord)
             else _subnet_words(record))
    body = _environment().get_template(TEMPLATE_OF[record.kind]).render(
        record=record, repo_id=repo_id or f'{OWNER}/{record.name}', **known)
    return f'---\n{card_data(record).to_yaml()}\n---\n\n{body}'


@cache
def _environment() -> Any:
    """Of the templates, which are compiled once."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, finalize=_escape,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters['code'] = lambda text: _Verbatim(str(text).replace('```', "'''"))
    environment.filters['ms'] = _ms
    environment.filters['cost'] = _cost
    environment.filters['list'] = lambda values: ', '.join(f'{v:g}' for v in values)
    return environment


def _subnet_words(record: Record) -> dict[str, Any]:
    return dict(
        headline=headline(record), setting=_setting, runtime=_runtime, unknown=UNKNOWN, neighbors=_neighbors(record),
        measured_how=_how(record),
        has_peak=any(m.peak_memory_mb is not None for m in record.measurements),
        arch_json=',\n '.join(f'"{k}": {json.dumps(v)}' for k, v in record.arch.to_dict().items()))


def _supernet_words(record: SupernetRecord, phases: Sequence[Phase], curves: bool) -> dict[str, Any]:
    space, low, high = record.space, record.space.min_arch(), record.space.max_arch()

    def millions(count: Callable[[Arch, int], int]) -> str:
        return ' to '.join(f'{count(arch, record.num_classes) / 1e6:.2f}' for arch in (low, high))

    return dict(
        networks=_count(space.size()), mmacs=millions(space.macs), mparams=millions(space.params),
        best=next((j for j in record.judged if j.subnet == 'largest'), None), phases=phases, curves=curves,
        phase_choices=_choices, space_argument=space.name if space.name in space_names() else 'space.json')


def _count(number: int) -> str:
    if number < 1e9:
        return f'{number:,}'
    mantissa, exponent = f'{number:.1e}'.split('e+')
    return _Verbatim(f'{mantissa}·10<sup>{int(exponent)}</sup>')


def _choices(phase: Phase) -> str:
    """What a phase draws from, where that is not the whole space."""
    told = [f'{name.replace("_", " ")} {", ".join(f"{v:g}" for v in getattr(phase, name))}'
            for name in ('depths', 'kernel_sizes', 'expand_ratios') if getattr(phase, name) is not None]
    return '; '.join(told) or 'all'


def _how(record: Record) -> list[str]:
    """A sentence for each setting that was measured."""
    told = []
    for m in record.measurements:
        if m.source == 'measured':
            versions = ', '.join(f'{name} {version}' for name, version in sorted(m.tool_versions.items()))
            runs = f' of {m.n} timed runs' if m.n else ''
            threads = f' on {m.threads} thread{"s" * (m.threads > 1)}' if m.threads else ''
            told.append(
                f'On {m.device_name}: {m.statistic}{runs} of {m.batch_size} image{"s" * (m.batch_size > 1)}{threads}, '
                f'{_runtime(m)}{f" ({versions})" if versions else ""}; median and 90th percentile '
                'beside it.')
    return list(dict.fromkeys(told))


def _cost(training: Training) -> str:
    """What a training took, in words."""
    hours = training.seconds / 3600
    told = [f'{hours:.2g} hours' if hours >= 1 else f'{training.seconds:.0f} seconds']
    told[0] += f' on {training.hardware}' + (f', {training.processes} processes' if training.processes > 1 else '')
    if training.gpu_hours is not None:
        told.append(f'{training.gpu_hours:.3g} GPU-hours')
    if training.co2_g is not None:
        told.append(f'{training.co2_g / 1000:.3g} kg CO2 eq. ({training.co2_source or "measured"})')
    if training.images_seen is not None:
        told.append(f'{training.images_seen:,} images seen')
    return ', '.join(told)


def _ms(value: float | None) -> str:
    if value is None:
        return '–'
    return f'{value:.{3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0}f}'


def _neighbors(record: Record) -> list[tuple[str, Any, FrontPoint]]:
    """Around the chosen network of the front the next faster and the next more accurate one, and all that are
    published: what it is, a link or nothing, the point; by latency."""
    front = sorted((p for p in record.front if not p.label), key=lambda p: p.latency_ms)
    at = next((i for i, p in enumerate(front) if p.chosen), None)
    if at is None:
        return []
    words = {at - 1: 'next faster', at: _Verbatim('**this one**'), at + 1: 'next more accurate'}
    shown = [i for i, p in enumerate(front) if i in words or p.id]
    return [(words.get(i, 'faster' if i < at else 'more accurate'), '' if i == at else _link(front[i].id), front[i])
            for i in shown]


def _link(repo_id: str | None) -> Any:
    return _Verbatim(f'[{_escape(repo_id.split("/")[1])}]({HUB}/{repo_id})') if repo_id else ''
