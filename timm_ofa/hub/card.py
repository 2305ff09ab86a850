"""Cards: the README.md that people read on the Hub, of a network, a supernet or a device profile.

Everything in a record or a profile is text that somebody else may have written. Every value in the Markdown is escaped,
except in code blocks, which no value can end.
"""
from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from ..devices import UNKNOWN, DeviceProfile
from ..runtimes import runtime_names
from ..spaces import Arch, load_space, space_names
from ..training import Phase
from .client import OWNER
from .metadata import card_data, evidence, profile_data, runtime, setting
from .plots import shows_confusion
from .record import ClassAccuracy, FrontPoint, Measurement, Record, SessionCost, SupernetRecord, Training

HUB = 'https://huggingface.co'
TEMPLATES = Path(__file__).parent / 'templates'
WORST = 5  # classes that a card names
TEMPLATE_OF = {'subnet': 'card.md.j2', 'supernet': 'supernet.md.j2'}
PROFILE_TEMPLATE = 'profile.md.j2'


class _Verbatim(str):
    """Text that is not escaped: it is Markdown already, or goes into a code block."""


def _escape(value: Any) -> Any:
    """Any text as one line of Markdown that shows exactly this text: no formula, no link, not even of an address."""
    if isinstance(value, _Verbatim) or not isinstance(value, str):
        return value
    text = ' '.join(value.split()).replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')
    text = re.sub(r'([\\`*_\[\]|~#!$])', r'\\\1', text)
    return re.sub(r'(?<=:)(?=//)|(?<=www)(?=\.)|(?<=\S)(?=@)', '<!-- -->', text, flags=re.IGNORECASE)


def render_card(record: Record | SupernetRecord, repo_id: str | None = None, phases: Sequence[Phase] = (),
                curves: bool = False, programs: Sequence[str] = ()) -> str:
    """The whole README.md.

    Args:
        repo_id: The repository that the card is for; a placeholder stands in its place if it is not given.
        phases: The phases of a supernet's training.
        curves: Whether `training.svg` lies beside the card.
        programs: The files that run without this package and lie beside the card.
    """
    known = (_supernet_words(record, phases, curves) if isinstance(record, SupernetRecord) else
             {**_subnet_words(record), 'programs': programs})
    body = _environment().get_template(TEMPLATE_OF[record.kind]).render(
        record=record, repo_id=repo_id or f'{OWNER}/{record.name}', **known)
    return f'---\n{card_data(record).to_yaml()}\n---\n\n{body}'


def render_profile(profile: DeviceProfile, repo_id: str) -> str:
    """The whole README.md of a device profile, whose space may be one that this package does not know."""
    space = load_space(profile.space) if profile.space in space_names() else None
    errors = {'all': profile.check} if profile.check else {}
    limit_ms = '25'
    if space:
        errors |= profile.errors(space)
    if space and (priced := profile.resolutions(space)):
        limit_ms = _digits(float(profile.latency_ms(space, [space.max_arch(min(priced))])[0]), 2)
    body = _environment().get_template(PROFILE_TEMPLATE).render(
        profile=profile, repo_id=repo_id, errors=errors, limit_ms=limit_ms,
        setting=', '.join(profile.conditions.setting(space.num_classes if space else None)))
    return f'---\n{profile_data(profile).to_yaml()}\n---\n\n{body}'


@cache
def _environment() -> jinja2.Environment:
    """The templates' environment. It is cached, so that each template is compiled once."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, finalize=_escape,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters |= {
        'code': lambda text: _Verbatim(str(text).replace('```', "'''")), 'ms': _ms, 'cost': _cost,
        'list': lambda values: ', '.join(f'{v:g}' for v in values)}
    return environment


def headline(record: Record) -> Measurement | None:
    """The latency that the card opens with: on the device of the search, else on any other one."""
    devices = [d for d in (record.device, *(m.device for m in record.measurements)) if d]
    return next((found[0] for device in devices if (found := evidence(record, device))), None)


def _repeat(m: Measurement | None) -> str:
    """The options of `timm-ofa measure` that repeat a latency; none for a runtime that this package does not have."""
    if m is None or m.runtime not in runtime_names():
        return ''
    precision = '' if m.precision == UNKNOWN else f' --precision {m.precision}'
    return f' --runtime {m.runtime}{precision} --threads {m.threads or 1}'


def _subnet_words(record: Record) -> dict[str, Any]:
    return dict(
        headline=headline(record), repeat=_repeat(headline(record)),
        setting=setting, runtime=runtime, neighbors=_neighbors(record),
        worst=_worst(record), shows_confusion=shows_confusion(record),
        how=lambda m: ', '.join(m.conditions.setting()[1:]),
        measured_how=_how(record),
        has_peak=any(m.peak_memory_mb is not None for m in record.measurements),
        arch_json=',\n '.join(f'"{k}": {json.dumps(v)}' for k, v in record.arch.to_dict().items()))


def _supernet_words(record: SupernetRecord, phases: Sequence[Phase], curves: bool) -> dict[str, Any]:
    space, low, high = record.space, record.space.min_arch(), record.space.max_arch()

    def millions(count: Callable[[Arch, int], int]) -> str:
        return ' to '.join(f'{count(arch, record.num_classes) / 1e6:.2f}' for arch in (low, high))

    return dict(
        networks=_count(space.size()), mmacs=millions(space.macs), mparams=millions(space.params),
        phases=phases, curves=curves, phase_choices=_choices,
        space_argument=space.name if space.name in space_names() else 'space.json')


def _count(number: int) -> str:
    if number < 1e9:
        return f'{number:,}'
    mantissa, exponent = f'{Decimal(number):.1e}'.split('e+')  # it may be above all floats
    return _Verbatim(f'{mantissa}·10<sup>{int(exponent)}</sup>')


def _choices(phase: Phase) -> str:
    """The choices that a phase draws from, if they are not the whole space."""
    told = [f'{name.replace("_", " ")} {", ".join(f"{v:g}" for v in getattr(phase, name))}'
            for name in ('depths', 'kernel_sizes', 'expand_ratios') if getattr(phase, name) is not None]
    told += [f'the largest {name}' if number == 1 else f'the {number} largest {name}s'
             for number, name in ((phase.deepest, 'depth'), (phase.widths, 'width')) if number]
    return '; '.join(told) or 'all'


def _how(record: Record) -> list[str]:
    """One sentence about each setting that was measured."""
    told = []
    for m in record.measurements:
        if m.source == 'measured':
            versions = ', '.join(f'{name} {version}' for name, version in sorted(m.tool_versions.items()))
            runs = f' of {m.n} timed runs' if m.n else ''
            threads = f' on {m.threads} thread{"s" * (m.threads > 1)}' if m.threads else ''
            told.append(
                f'On {m.device_name}: {m.statistic}{runs} of {m.batch_size} image{"s" * (m.batch_size > 1)}{threads}, '
                f'{runtime(m)}{f" ({versions})" if versions else ""}; median and 90th percentile '
                'beside it.')
    return list(dict.fromkeys(told))


def _cost(training: Training) -> str:
    """The cost of a training, in words."""
    told = [_session_cost(part) for part in training.sessions or (training,)]
    if training.gpu_hours is not None:
        told.append(f'{_digits(training.gpu_hours, 3)} GPU-hours')
    if training.co2_g is not None:
        told.append(f'{_digits(training.co2_g / 1000, 3)} kg CO2 eq. ({training.co2_source or "measured"})')
    if training.images_seen is not None:
        told.append(f'{training.images_seen:,} images seen')
    return ', '.join(told)


def _session_cost(part: Training | SessionCost) -> str:
    hours = part.seconds / 3600
    time = f'{_digits(hours, 2)} hours' if hours >= 1 else f'{part.seconds:.0f} seconds'
    return f'{time} on {part.hardware}' + (f', {part.processes} processes' if part.processes > 1 else '')


def _digits(value: float, least: int) -> str:
    """A number with so many digits, or with all that are before its point."""
    return f'{value:.0f}' if value >= 10**least - 0.5 else f'{value:.{least}g}'


def _ms(value: float | None) -> str:
    if value is None:
        return '–'
    return f'{value:.{3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0}f}'


def _neighbors(record: Record) -> list[tuple[str, Any, FrontPoint]]:
    """The chosen network of the front, its two neighbors, and all networks of the front that are published, by latency:
    (what it is, a link or nothing, the point)."""
    front = sorted((p for p in record.front if not p.label), key=lambda p: p.latency_ms)
    at = next((i for i, p in enumerate(front) if p.chosen), None)
    if at is None:
        return []
    words = {at - 1: 'next faster', at: _Verbatim('**this one**'), at + 1: 'next more accurate'}
    shown = [i for i, p in enumerate(front) if i in words or p.id]
    return [(words.get(i, 'faster' if i < at else 'more accurate'), '' if i == at else _link(front[i].id), front[i])
            for i in shown]


def _worst(record: Record) -> list[tuple[ClassAccuracy, str]]:
    """The classes that are recognized least often, and what each is most often taken for."""
    seen = [(c.top1_pct, c) for c in record.per_class if c.top1_pct is not None]
    return [(c, max(c.taken_for, key=lambda name: c.taken_for[name], default='–'))
            for _, c in sorted(seen, key=lambda pair: pair[0])[:WORST]]


def _link(repo_id: str | None) -> str:
    return _Verbatim(f'[{_escape(repo_id.split("/")[1])}]({HUB}/{repo_id})') if repo_id else ''
