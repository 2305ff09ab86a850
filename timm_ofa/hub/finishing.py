"""From a search result to a finished network: its weights, its accuracy, and all that is known of it in one record."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import nn

from ..accuracy import CALIBRATION_IMAGES, REPAIR_IMAGES, SubnetJudge, answers, supernet_digest
from ..devices import Conditions, DeviceProfile, load_profile, profile_names
from ..fields import is_hub_id
from ..images import CALIBRATION_BATCH, Augment, CalibrationImages, Data, EpochBatches, ImageSet
from ..networks import Supernet as TrainedSupernet
from ..searching import Candidate
from ..spaces import Arch, SearchSpace
from ..training import FinetuneConfig, finetune, load_teacher
from .configs import NamedSubnet
from .fronts import FrontFile, predicted_ms
from .making import calibrated
from .measurements import measurement, prediction, published
from .outgoing import public_name
from .record import Accuracy, Calibration, ClassAccuracy, FrontPoint, Record, Search, Supernet, Training, to_name
from .supernets import supernet_origin


def arch_name(space: SearchSpace, under: Conditions | None, limit_ms: float | None) -> str:
    """A name in timm's style, e.g. 'ofa_mbv3_amd_epyc_lat0p5ms'; the point of the limit becomes 'p'.

    It says the conditions `under` which the limit holds, as far as they are not the usual ones.
    """
    family = f'ofa_{space.name}' if space.network else '_'.join(space.name.split('_')[:2])
    limit = f'lat{limit_ms:g}ms'.replace('.', 'p').replace('-', '_') if limit_ms else 'subnet'
    return to_name(under.network_name(family, limit) if under else f'{family}_any_{limit}', limit)


@dataclass(frozen=True)
class Source:
    """The supernet that networks are taken from, and the images that they are judged on."""
    supernet: TrainedSupernet
    supernet_id: str
    data: Data
    augment: Augment
    training: Training | None = None
    seed: int = 0
    calibration_images: int | None = None  # None: as many as are enough
    repairs: bool = False  # only the largest subnet was trained
    teacher: nn.Module | None = None  # that fine-tuning names, if it is loaded already

    def judge(self, images: ImageSet, *, quick: bool = False) -> SubnetJudge:
        """A judge that calibrates on the training images and evaluates on the given ones.

        `quick`: it repairs with fewer images, which is enough to compare subnets.
        """
        enough = REPAIR_IMAGES if self.repairs and not quick else None
        return SubnetJudge(
            self.supernet, self.data.train, images, augment=self.augment, seed=self.seed,
            calibration_images=self.calibration_images or enough, repairs=self.repairs)


def finish(source: Source, candidate: Candidate, *, name: str | None = None, found: FrontFile | None = None,
           measured: Sequence[dict] = (), training: FinetuneConfig | None = None,
           compared: Mapping[str, Candidate] | None = None, profile: DeviceProfile | None = None,
           ) -> tuple[nn.Module, Record]:
    """Make the weights of a candidate, evaluate them on the test images, and put all that is known into a record.

    Args:
        name: Of the network; None: `arch_name` of the device and the limit.
        found: The front that the candidate was chosen from, if there is one.
        measured: What `measure_network` gave on the device of the search.
        training: How the network is trained on; None: it keeps the weights of the supernet.
        compared: Further networks for the picture of the front, by their labels.
        profile: Of the search. If nothing was measured, its price becomes a predicted latency.
    """
    from .. import __version__

    space, arch, data = source.supernet.space, candidate.arch, source.data
    judge = source.judge(data.test)
    supernet_id, revision, license = supernet_origin(source.supernet_id)
    record = Record(
        name=name or arch_name(space, found.under if found else None, found.max_latency_ms if found else None),
        space=space, arch=arch, num_classes=data.num_classes, class_names=data.class_names,
        device=found.device if found else None,
        device_name=found.device_name if found else None, limit_ms=found.max_latency_ms if found else None,
        limit_batch_size=found.under.batch_size if found else 1,
        limit_conditions=_limit_conditions(found, measured, data.num_classes),
        predicted_ms=round(predicted_ms(candidate), 6) if found else None,
        measurements=(
            *(measurement(m, found.device, found.device_name, arch) for m in measured if found),
            *([prediction(candidate, profile, data.num_classes)] if profile and found and not measured else [])),
        predicted_top1_pct=_predicted_pct(candidate.top1_pct) if found else None,
        front=(*(_front_point(c, c == candidate) for c in (found.front if found else ())),
               *(_front_point(c, label=label) for label, c in (compared or {}).items())),
        supernet=Supernet(id=supernet_id, revision=revision, sha256=supernet_digest(source.supernet)), license=license,
        dataset_id=_hub_id(data),
        search=None if found is None else Search(
            limit=found.limit_words, seed=found.seed, profile=public_name(found.profile),
            profile_error_pct=found.profile_error_pct, predictor_error_pct=found.predictor_error_pct),
        calibration=Calibration(
            images=min(judge.calibration_images, len(data.train)), batch_size=CALIBRATION_BATCH,
            repaired=source.repairs, seed=source.seed),
        finetune_epochs=training.epochs if training else 0, training=source.training, code_version=__version__)
    record.check()  # before the work
    model = judge.subnet(arch)
    if training:
        model = _finetune(source, judge, arch, model, training)
    tuned = f'fine-tuned for {training.epochs} epoch{"s" * (training.epochs != 1)}' if training else 'not fine-tuned'
    weights = f'weights of the supernet, {"repaired in closed form, " if source.repairs else ""}{tuned}'
    return model, with_accuracy(model, record, data, weights)


def with_accuracy(model: nn.Module, record: Record, data: Data, weights: str) -> Record:
    """The record with the accuracy on the test images of `data`, and how that was measured; `weights` says of which."""
    space, resolution = record.space, record.arch.resolution
    by_class = per_class(data, answers(model, data.test, space, resolution)[:, 0])
    apart = f'; training images: {data.name}' if data.test_name else ''
    skipped = f'; {data.skipped:,} broken images of the data set were left out' if data.skipped else ''
    protocol = f'top-1, {resolution} px, center {100 * space.crop_pct:g} %, bilinear, fp32; {weights}{apart}{skipped}'
    return replace(
        record, top1_pct=round(100 * sum(c.hits for c in by_class) / len(data.test), 3), per_class=by_class,
        accuracy=Accuracy(dataset=data.test_name or data.name, split=data.split, n=len(data.test), protocol=protocol))


def per_class(data: Data, answers: torch.Tensor) -> tuple[ClassAccuracy, ...]:
    """The accuracy of each class, from the answers (N,) to the test images: numbers of classes."""
    names, n = data.class_names, data.num_classes
    counts = torch.bincount(data.test.labels * n + answers, minlength=n * n).view(n, n)
    return tuple(
        ClassAccuracy.of(name, {other: int(count) for other, count in zip(names, row.tolist()) if count})
        for name, row in zip(names, counts))


def _hub_id(data: Data) -> str | None:
    tested = data.test_name or data.name
    return tested if is_hub_id(tested) else None


def _limit_conditions(found: FrontFile | None, measured: Sequence[dict], num_classes: int) -> Conditions | None:
    """Those of the search; where the network was measured within the limit, with its own classes."""
    if found is None or found.conditions is None or not measured:
        return found.conditions if found else None
    return replace(found.conditions, num_classes=num_classes)


def _finetune(source: Source, judge: SubnetJudge, arch: Arch, model: nn.Module, config: FinetuneConfig) -> nn.Module:
    """Train the network on; returns it in evaluation mode."""
    space = source.supernet.space
    teacher = None
    if config.teacher == 'largest':
        teacher = judge.subnet(space.max_arch(arch.resolution)).requires_grad_(False)
    elif config.teacher:
        teacher = source.teacher or load_teacher(config.teacher, source.supernet)
    batches = EpochBatches(
        source.data.train, config.batch_size, source.seed, config.workers, Accelerator(), source.augment,
        largest=arch.resolution)
    augment = batches.augment  # without the crop, where the workers do that
    assert augment is not None
    return finetune(
        model, batches, steps_per_epoch=len(batches), phase=config.phase, teacher=teacher, momentum=config.momentum,
        weight_decay=config.weight_decay, label_smoothing=config.label_smoothing, seed=source.seed,
        prepare=lambda pixels, rng, _, part: augment(pixels, space, arch.resolution, rng, part)).eval()


def finish_named(source: Source, name: str, subnet: NamedSubnet, *, training: FinetuneConfig | None = None,
                 ) -> tuple[nn.Module, Record]:
    """Make the weights of a named network from a supernet of its space. The record also says how it was found."""
    candidate = Candidate(subnet.arch, subnet.predicted_top1_pct or 0.0, subnet.predicted_ms or 0.0)
    model, record = finish(source, candidate, name=name, training=training)
    return model, replace(as_named(record, subnet), dataset_id=record.dataset_id)  # that it was judged on


def finish_unjudged(supernet: TrainedSupernet, supernet_id: str, images: CalibrationImages, augment: Augment, name: str,
                    subnet: NamedSubnet, *, seed: int = 0, num_images: int = CALIBRATION_IMAGES,
                    ) -> tuple[nn.Module, Record]:
    """Make the weights of a named network from a supernet of its space and from images whose labels do not matter.

    Its accuracy is not measured.
    """
    from .. import __version__

    model, calibration, _ = calibrated(
        supernet, subnet.arch, images, augment=augment, seed=seed, num_images=num_images)
    origin, revision, _ = supernet_origin(supernet_id)
    return model, as_named(Record(
        name=name, space=supernet.space, arch=subnet.arch, num_classes=supernet.num_classes,
        supernet=Supernet(id=origin, revision=revision, sha256=supernet_digest(supernet)), calibration=calibration,
        finetune_epochs=0, code_version=__version__), subnet)


def as_named(record: Record, subnet: NamedSubnet) -> Record:
    """The record with all that its configuration says: how the network was found, and its latency, as it was published
    or as the profile of the search has it."""
    measurements, profile = published(subnet), subnet.search.profile if subnet.search else None
    if profile in profile_names() and subnet.predicted_ms is not None:
        candidate = Candidate(subnet.arch, 0.0, subnet.predicted_ms)
        measurements = (prediction(candidate, load_profile(profile), record.num_classes),)
    return replace(record, measurements=measurements, **subnet.known())


def _predicted_pct(top1_pct: float) -> float:
    """A prediction as a record has it: those of some predictors go beyond 100 %."""
    return round(min(max(top1_pct, 0.0), 100.0), 3)


def _front_point(candidate: Candidate, chosen: bool = False, label: str = '') -> FrontPoint:
    return FrontPoint(
        arch=str(candidate.arch), top1_pct=_predicted_pct(candidate.top1_pct),
        latency_ms=round(predicted_ms(candidate), 6), chosen=chosen, label=label)
