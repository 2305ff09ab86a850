"""What the Hub indexes of a network, a supernet or a device profile: tags for its search, the front matter of a card.

Everything in a record or a profile is text that somebody else may have written, so the classes of the Hub's client for
card data alone build the front matter.
"""
from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import yaml
from huggingface_hub import DatasetCardData, EvalResult, ModelCardData

from ..devices import UNKNOWN, DeviceProfile
from ..fields import is_hub_id, slug
from ..searching import within
from .record import Measurement, Record, SupernetRecord

RUNGS_MS = (1, 2, 5, 10, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200, 500, 1000)
NEAR_RUNGS = 3
SUPERNET_TAG = 'supernet'  # of a supernet; a subnet has 'supernet:NAME'
PROFILE_TAG = 'timm_ofa-profile'  # of a device profile, which is a data set of the Hub


def evidence(record: Record, device: str) -> list[Measurement]:
    """The latencies of single images on a device, fastest first: measurements if there are any, else the others."""
    known = [m for m in record.measurements if m.device == device and m.batch_size == 1]
    measured = [m for m in known if m.source == 'measured']
    return sorted(measured or known, key=lambda m: m.typical_ms)


def tags(record: Record | SupernetRecord) -> list[str]:
    """The tags of the repository.

    The tag `latency:<device>:le-<N>ms` is set for the NEAR_RUNGS least rungs N that the latency is within: who has more
    time than that looks for larger networks.
    """
    if isinstance(record, SupernetRecord):
        return ['timm', 'timm_ofa', 'once-for-all', SUPERNET_TAG, f'search-space:{slug(record.space.name)}']
    devices = sorted({m.device for m in record.measurements} | ({record.device} if record.device else set()))
    found = ['timm', 'timm_ofa', 'once-for-all']
    found += [f'device:{device}' for device in devices]
    found += sorted({f'runtime:{m.runtime}' for m in record.measurements if m.runtime != UNKNOWN})
    found += sorted({f'precision:{m.precision}' for m in record.measurements if m.precision != UNKNOWN})
    found += [f'resolution:{record.arch.resolution}']
    for device in devices:
        fastest = min((m.typical_ms for m in evidence(record, device)), default=float('inf'))
        found += [latency_tag(device, rung) for rung in RUNGS_MS if within(fastest, rung)][:NEAR_RUNGS]
    found += sorted({f'latency-source:{m.source}' for m in record.measurements})
    found += [f'supernet:{slug(record.supernet.id.rsplit("/")[-1])}'] if record.supernet else []
    return [*found, f'search-space:{slug(record.space.name)}']


def latency_tag(device: str, rung_ms: int) -> str:
    """The tag of a network that takes at most so long on a device."""
    return f'latency:{device}:le-{rung_ms}ms'


def may_be_within(found: Iterable[str], device: str, max_latency_ms: float) -> bool:
    """Whether a network with these tags may take at most so long on a device."""
    known = set(found)
    rungs = [rung for rung in RUNGS_MS if latency_tag(device, rung) in known]
    least = next((rung for rung in RUNGS_MS if within(max_latency_ms, rung)), None)
    return least is None or bool(rungs and rungs[0] <= least)


def hub_dataset(record: Record | SupernetRecord) -> str | None:
    """The data set of a record, if it is one of the Hub."""
    known = record.dataset_id
    return known if known and is_hub_id(known) else None


def card_data(record: Record | SupernetRecord) -> ModelCardData:
    """The front matter of the card."""
    supernet = getattr(record, 'supernet', None)
    base = supernet.id if supernet and is_hub_id(supernet.id) else None
    tuned = bool(base and getattr(record, 'finetune_epochs', None))  # a part that keeps its weights has no relation
    more: dict[str, Any] = {'base_model_relation': 'finetune'} if tuned else {}
    if record.training and record.training.co2_g is not None:
        more['co2_eq_emissions'] = {
            'emissions': record.training.co2_g, 'source': record.training.co2_source, 'training_type': 'pre-training',
            'hardware_used': record.training.hardware}
    dataset = hub_dataset(record)
    results = [] if dataset is None else (
        _judged_results(record, dataset) if isinstance(record, SupernetRecord) else _results(record, dataset))
    return ModelCardData(
        library_name='timm', pipeline_tag='image-classification', license=record.license, tags=tags(record),
        datasets=[dataset] if dataset else None, base_model=base,
        model_name=record.name if results else None,  # it is of the results
        eval_results=results or None, ignore_metadata_errors=False, **more)


def profile_tags(profile: DeviceProfile) -> list[str]:
    """The tags of the data set that holds a device profile."""
    precision = [] if profile.precision == UNKNOWN else [f'precision:{profile.precision}']
    return ['timm_ofa', PROFILE_TAG, f'device:{profile.device}', f'runtime:{slug(profile.runtime)}', *precision,
            f'space:{slug(profile.space)}']


def profile_data(profile: DeviceProfile) -> DatasetCardData:
    """The front matter of the card of a device profile. The Hub shows no rows of it: it is one JSON object."""
    return DatasetCardData(
        pretty_name=f'{profile.device_name}, {profile.runtime}, {profile.space}', license='apache-2.0',
        tags=profile_tags(profile), viewer=False)


def eval_results(record: Record | SupernetRecord) -> str | None:
    """The Hub's own file of results (`.eval_results/*.yaml`), which shows them beside those of others. It wants a data
    set of the Hub, and takes no latencies; None where there is no result for it."""
    if isinstance(record, SupernetRecord):
        top1_pct = record.largest and record.largest.top1_pct
        notes = 'Top-1 (%) of the largest subnet, weights of the supernet'
    else:
        top1_pct = record.top1_pct
        notes = f'Top-1 (%), split {record.accuracy.split}, {record.accuracy.protocol}' if record.accuracy else ''
    dataset = hub_dataset(record)
    if top1_pct is None or dataset is None:
        return None
    return yaml.safe_dump(
        [{'dataset': {'id': dataset, 'task_id': 'default'}, 'value': top1_pct, 'notes': notes}],
        sort_keys=False)


def _results(record: Record, dataset: str) -> list[EvalResult]:
    """Accuracy and latencies for the model index, which wants a data set of the Hub.

    The name of a latency holds its whole setting, so that no two of them collide.
    """
    accuracy = record.accuracy
    result = partial(
        EvalResult, task_type='image-classification', dataset_type=dataset,
        dataset_name=accuracy.dataset if accuracy else dataset, dataset_split=accuracy.split if accuracy else None)
    results = []
    if record.top1_pct is not None:
        results.append(result(metric_type='accuracy', metric_name='Top-1 (%)', metric_value=record.top1_pct))
    for m in record.measurements:
        statistic = m.statistic if m.p50_ms is None else 'p50'
        name = f'Latency on {m.device}, {setting(m)} ({statistic}, {m.source}, ms)'
        if name not in {r.metric_name for r in results}:
            results.append(result(metric_type='latency', metric_name=name, metric_value=m.typical_ms))
    return results


def _judged_results(record: SupernetRecord, dataset: str) -> list[EvalResult]:
    return [EvalResult(
        task_type='image-classification', dataset_type=dataset,
        dataset_name=judged.images, metric_type='accuracy', metric_name=f'Top-1 of the {judged.subnet} subnet (%)',
        metric_value=judged.top1_pct) for judged in record.judged if judged.subnet in ('largest', 'smallest')]


def setting(m: Measurement) -> str:
    """The conditions and the image size of a latency in words, but not its device; what is unknown is left out."""
    parts = m.conditions.setting()
    parts.insert(parts.index(f'batch {m.batch_size}'), f'{m.resolution}x{m.resolution}')
    return ', '.join(parts)


def runtime(m: Measurement) -> str:
    """The runtime with its version, if that is known."""
    return m.runtime if m.runtime_version == UNKNOWN else f'{m.runtime} {m.runtime_version}'
