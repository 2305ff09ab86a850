"""From a search result to a finished network: measure, specialize, evaluate, and say all that is known of it.

The limit is honored by measuring: the chosen network is timed whole on the device, and if it is over the limit the
next one of the front is taken.
"""
from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from ..accuracy import CALIBRATION_IMAGES, AccuracyPredictor, SubnetJudge, evaluate, supernet_digest
from ..devices import DeviceProfile, load_profile, measure_network, profile_names, this_device, times_warm
from ..errors import InputError
from ..fields import check_slug, slug
from ..files import write_text
from ..images import Augment, Data, EpochBatches, ImageSet
from ..networks import Supernet as TrainedSupernet
from ..searching import Candidate, SearchResult
from ..spaces import Arch, SearchSpace
from ..training import (
    RUN_FILES,
    TIMES,
    FinetuneConfig,
    finetune,
    load_teacher,
    run_events,
    supernet_config,
    supernet_folder,
)
from .configs import NamedSubnet
from .record import HUB_ID, Accuracy, Calibration, FrontPoint, Measurement, Record, Search, Supernet, Training

HASH = re.compile('[0-9a-f]{40}')  # of a commit
DATE = re.compile(r'\d{4}-\d\d-\d\d')

@dataclass(frozen=True)
class Attempt:
    """A candidate that was timed whole; `measured` is what `measure_network` gave."""
    candidate: Candidate
    measured: dict


def meet_limit(
        front: Sequence[Candidate],
        max_latency_ms: float,
        measure: Callable[[Arch], dict],
        max_attempts: int = 10,
) -> list[Attempt]:
    """Measure the best candidate under the limit; while one is over it, tighten and take the next.

    Returns all attempts, the last one within the limit. Raises `InputError` when none of them is.
    """
    attempts: list[Attempt] = []
    bound = max_latency_ms
    while len(attempts) < max_attempts:
        within = [c for c in front if c.latency_ms <= bound]
        if not within:
            break
        best = max(within, key=lambda c: c.top1_pct)
        attempts.append(Attempt(best, measure(best.arch)))
        measured_ms = attempts[-1].measured['latency_ms']
        if measured_ms <= max_latency_ms:
            return attempts
        bound = tighter_limit(best.latency_ms, measured_ms, max_latency_ms)
    tried = f'; the last of {len(attempts)} tried takes {measured_ms:.4g} ms' if attempts else ''
    raise InputError(f'no network of the front is measured within {max_latency_ms:g} ms{tried}; raise the limit')


def tighter_limit(predicted_ms: float, measured_ms: float, max_latency_ms: float) -> float:
    """What to search under next, in predicted ms, when a network was measured over the limit."""
    return predicted_ms * min(0.999, max_latency_ms / measured_ms)


def arch_timer(space: SearchSpace, profile: DeviceProfile, seconds: float = 2.0) -> Callable[[Arch], dict]:
    """A function that times an arch on this machine as `profile` was measured; `InputError` on another device."""
    processor = 'cuda' if profile.protocol.get('processor') == 'cuda' else 'cpu'
    here = 'cpu' if processor == 'cuda' and not torch.cuda.is_available() else this_device(processor)[0]
    if profile.device != here:
        raise InputError(
            f'profile {profile.name!r} is of {profile.device}, this machine is {here}; '
            'leave out measuring here (--no-measure)')
    warm = times_warm(space, profile.num_classes)
    return lambda arch: measure_network(
        space.rows(arch, profile.num_classes), profile.runtime, warm=warm, precision=profile.precision,
        threads=profile.threads, batch_size=profile.batch_size, processor=processor, seconds=seconds)


# ---- the front as a file ------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class FrontFile:
    """What a search found and under which conditions; `front.jsonl` and `front.jsonl.meta.json`."""
    space: str
    max_latency_ms: float
    seed: int
    device: str
    device_name: str
    profile: str  # path or name
    profile_error_pct: float | None
    predictor_error_pct: float | None
    front: tuple[Candidate, ...]


def save_front(path: str | Path, result: SearchResult, space: SearchSpace, predictor: AccuracyPredictor,
               profile: DeviceProfile, profile_source: str, max_latency_ms: float, seed: int) -> FrontFile:
    """Write the front, a network a line, and beside it how it was found."""
    file = FrontFile(
        space.name, max_latency_ms, seed, profile.device, profile.device_name, str(profile_source),
        (profile.check or {}).get('mape_pct'), (predictor.check or {}).get('rmse_pct'), tuple(result.front))
    meta = {k: v for k, v in asdict(file).items() if k != 'front'}
    write_text(f'{path}.meta.json', json.dumps(meta, indent=1))
    write_text(path, ''.join(json.dumps(candidate_dict(c)) + '\n' for c in result.front))
    return file


def candidate_dict(candidate: Candidate) -> dict:
    """JSON-ready: the fields of the arch, `top1_pct`, and `latency_ms` where there is a device."""
    latency = {} if candidate.latency_ms is None else {'latency_ms': round(candidate.latency_ms, 6)}
    return {**candidate.arch.to_dict(), 'top1_pct': round(candidate.top1_pct, 4), **latency}


def load_front(path: str | Path, space: SearchSpace) -> FrontFile:
    """The inverse of `save_front`; raises `InputError` naming the line."""
    try:
        meta = json.loads(Path(f'{path}.meta.json').read_text())
        candidates = []
        for line in Path(path).read_text().splitlines():
            fields = json.loads(line)
            top1_pct, latency_ms = float(fields.pop('top1_pct')), float(fields.pop('latency_ms'))
            candidates.append(Candidate(space.check(Arch.from_dict(fields)), top1_pct, latency_ms))
        file = FrontFile(**{**meta, 'max_latency_ms': float(meta['max_latency_ms'])}, front=tuple(candidates))
    except InputError as error:
        raise InputError(f'front {Path(path).name} line {len(candidates) + 1}: {error}') from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise InputError(f'front {str(path)!r:.120} cannot be read; give what `timm-ofa search --out` wrote') from None
    if file.space != space.name:
        raise InputError(
            f'front {Path(path).name} is of {file.space!r:.60}, the supernet of {space.name}; search again')
    if not any(c.latency_ms <= file.max_latency_ms for c in file.front):
        raise InputError(
            f'front {Path(path).name} has no network within its limit, {file.max_latency_ms:g} ms; search again')
    return file


# ---- the finished network -----------------------------------------------------------------------------------------

def arch_name(space: SearchSpace, device: str, limit_ms: float | None) -> str:
    """A timm-style name, e.g. 'ofa_mbv3_amd_epyc_lat2ms'; a point in the limit becomes 'p'."""
    family = '_'.join(space.name.split('_')[:2])
    limit = f'lat{limit_ms:g}ms'.replace('.', 'p') if limit_ms else 'subnet'
    return f'{family}_{device.replace("-", "_").replace(".", "_")}_{limit}'


@dataclass(frozen=True)
class Source:
    """The supernet that a network is cut out of, and the images it is judged on."""
    supernet: TrainedSupernet
    supernet_id: str
    data: Data
    augment: Augment
    training: Training | None = None
    seed: int = 0
    calibration_images: int = CALIBRATION_IMAGES

    def judge(self, images: ImageSet) -> SubnetJudge:
        """Calibration on the training images, evaluation on the given ones."""
        return SubnetJudge(
            self.supernet, self.data.train, images, augment=self.augment, seed=self.seed,
            calibration_images=self.calibration_images)


def finish(
        source: Source,
        candidate: Candidate,
        *,
        name: str | None = None,
        found: FrontFile | None = None,
        measured: Sequence[dict] = (),
        training: FinetuneConfig | None = None,
        references: Sequence[FrontPoint] = (),
        profile: DeviceProfile | None = None,
) -> tuple[nn.Module, Record]:
    """Make the weights of a candidate, evaluate them on the test images, and say all that is known in a record.

    Args:
        measured: What `measure_network` gave, on the device of the search.
        profile: Of the search; its price is told as a prediction where nothing was measured.
    """
    from .. import __version__

    space, arch, data = source.supernet.space, candidate.arch, source.data
    judge = source.judge(data.test)
    model = judge.subnet(arch)
    if training:
        model = _finetune(source, judge, arch, model, training)
    top1_pct = evaluate(model, data.test, space, arch.resolution)
    device = found.device if found else None
    record = Record(
        name=name or arch_name(space, device or 'any', found.max_latency_ms if found else None),
        space=space, arch=arch, num_classes=data.num_classes, class_names=data.class_names, device=device,
        device_name=found.device_name if found else None, limit_ms=found.max_latency_ms if found else None,
        predicted_ms=candidate.latency_ms if found else None,
        measurements=(
            *(_measurement(m, found, arch) for m in measured if found),
            *([_prediction(candidate, profile)] if profile and found and not measured else [])),
        top1_pct=round(top1_pct, 3), predicted_top1_pct=round(candidate.top1_pct, 3) if found else None,
        accuracy=Accuracy(
            dataset=data.name, split=data.split, n=len(data.test),
            protocol=(
                f'top-1, {arch.resolution} px, center {100 * space.crop_pct:g} %, bilinear, fp32; weights of the '
                f'supernet, {f"fine-tuned for {training.epochs} epochs" if training else "not fine-tuned"}')),
        front=(*(_front_point(c, c == candidate) for c in (found.front if found else ())), *references),
        supernet=_origin(source), dataset_id=data.name if re.fullmatch(HUB_ID, data.name, re.ASCII) else None,
        search=found and Search(
            limit=f'latency <= {found.max_latency_ms:g} ms', seed=found.seed, profile=Path(found.profile).name,
            profile_error_pct=found.profile_error_pct, predictor_error_pct=found.predictor_error_pct),
        calibration=Calibration(images=min(judge.calibration_images, len(data.train)), batch_size=200),
        training=source.training, code_version=__version__)
    return model, record


def _origin(source: Source) -> Supernet:
    """The supernet by its name on the Hub, or by that of its training: never by its place on a disk."""
    repo_id, _, revision = source.supernet_id.removeprefix('hf-hub:').partition('@')
    if source.supernet_id.startswith('hf-hub:'):
        folder = supernet_folder(source.supernet_id)
        return Supernet(id=repo_id, revision=folder.name if HASH.fullmatch(folder.name) else revision or None,
                        sha256=supernet_digest(source.supernet))
    config = supernet_config(source.supernet_id)
    return Supernet(id=config.name if config else Path(repo_id).name, sha256=supernet_digest(source.supernet))


def training_cost(folder: str | Path) -> Training | None:
    """What the training of a supernet took, by the times that its folder notes; None where it notes none.

    Time between a stop and the resumption does not count. CO2 is what codecarbon measured, if it was run into there.
    """
    seconds, began, start, last = 0.0, None, {}, None
    try:
        for event in run_events(folder, TIMES):
            now = datetime.fromisoformat(event['date'])
            if event.get('event') in ('start', 'resume'):
                seconds += (last - began).total_seconds() if began else 0
                began, start = now, event
            last = now
        if began is None:
            return None
        seconds += (last - began).total_seconds()
        processes, device = int(start.get('processes', 1)), str(start.get('device', 'unknown'))
    except (KeyError, TypeError, ValueError):
        raise InputError(f'{TIMES} in {str(folder)!r:.120} is not what training wrote; remove it') from None
    hardware = device.split(':')[0]
    gpu_hours = round(seconds * processes / 3600, 4) if hardware == 'cuda' else None
    co2_g = _measured_co2_g(Path(folder) / RUN_FILES[-1])
    return Training(
        seconds=seconds, hardware=hardware, processes=processes, gpu_hours=gpu_hours, co2_g=co2_g,
        co2_source=None if co2_g is None else 'codecarbon')


def _measured_co2_g(path: Path) -> float | None:
    """The sum of codecarbon's runs, which are in kg."""
    if not path.is_file():
        return None
    try:
        with path.open(encoding='utf-8', newline='') as file:
            return round(1000 * sum(float(row['emissions']) for row in csv.DictReader(file)), 3)
    except (KeyError, TypeError, ValueError):
        raise InputError(f'{str(path)!r:.120} is not what codecarbon writes; remove it') from None


def _finetune(source: Source, judge: SubnetJudge, arch: Arch, model: nn.Module, config: FinetuneConfig) -> nn.Module:
    """The network trained on, in evaluation mode."""
    space = source.supernet.space
    teacher = None
    if config.teacher == 'largest':
        teacher = judge.subnet(space.max_arch(arch.resolution)).requires_grad_(False)
    elif config.teacher:
        teacher = load_teacher(config.teacher, source.supernet)
    batches = EpochBatches(
        source.data.train, config.batch_size, source.seed, config.workers, Accelerator(), source.augment)
    return finetune(
        model, batches, steps_per_epoch=len(batches), phase=config.phase, teacher=teacher, momentum=config.momentum,
        weight_decay=config.weight_decay, label_smoothing=config.label_smoothing, seed=source.seed,
        prepare=lambda pixels, rng, _, part: batches.augment(pixels, space, arch.resolution, rng, part)).eval()


def finish_named(source: Source, name: str, subnet: NamedSubnet, *, training: FinetuneConfig | None = None,
                 ) -> tuple[nn.Module, Record]:
    """The weights of a named network from a supernet of its space; the record says how it was found as well."""
    candidate = Candidate(subnet.arch, subnet.predicted_top1_pct or 0.0, subnet.predicted_ms or 0.0)
    model, record = finish(source, candidate, name=name, training=training)
    profile = subnet.search and subnet.search.profile
    priced = profile in profile_names() and subnet.predicted_ms is not None
    told = [_prediction(candidate, load_profile(profile))] if priced else []
    return model, replace(record, measurements=tuple(told), **subnet.known())


def _front_point(candidate: Candidate, chosen: bool) -> FrontPoint:
    return FrontPoint(
        arch=str(candidate.arch), top1_pct=round(candidate.top1_pct, 3), latency_ms=round(candidate.latency_ms, 6),
        chosen=chosen)


def _prediction(candidate: Candidate, profile: DeviceProfile) -> Measurement:
    """The price of a network by a profile."""
    return Measurement(
        device=profile.device, device_name=profile.device_name, runtime=slug(profile.runtime),
        runtime_version=profile.runtime_version, precision=slug(profile.precision), threads=profile.threads,
        batch_size=profile.batch_size, resolution=candidate.arch.resolution,
        latency_ms=round(candidate.latency_ms, 6), statistic='price by the device profile', source='predicted',
        date=profile.measured_on if DATE.fullmatch(profile.measured_on) else None)


def with_measured(record: Record, measured: dict, device: str, device_name: str) -> list[Measurement]:
    """The latencies of a record with what `measure_network` or a kit gave in place of the last in the same setting."""
    check_slug(device, 'device')
    new = Measurement(
        device=device, device_name=device_name, resolution=record.arch.resolution, source='measured',
        date=date.today().isoformat(), **{k: v for k, v in measured.items() if k != 'host'})

    def setting(m: Measurement) -> tuple:
        return m.device, m.runtime, m.precision, m.threads, m.batch_size, m.source

    return [*(m for m in record.measurements if setting(m) != setting(new)), new]


def _measurement(measured: dict, found: FrontFile, arch: Arch) -> Measurement:
    known = {k: v for k, v in measured.items() if k != 'host'}
    return Measurement(
        device=found.device, device_name=found.device_name, resolution=arch.resolution, source='measured',
        date=date.today().isoformat(), **known)
