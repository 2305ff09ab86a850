"""The verb `specialize`: the folder of a finished network, from a search result, an architecture or a name."""
from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console import say
from ..errors import InputError
from .shared import (
    COMMON,
    OpenSupernet,
    best_within,
    check_folder_place,
    check_room_for,
    config_path,
    open_supernet,
    options,
)
from .verbs import Answer, Option, Verb, positive, rows_answer, whole

if TYPE_CHECKING:
    from torch import nn

    from ..devices import DeviceProfile
    from ..hub import FrontFile, NamedSubnet, Record, Source
    from ..searching import Candidate
    from ..spaces import Arch
    from ..training import FinetuneConfig

SPECIALIZE = Verb(
    'specialize', 'Make the publishable folder of a finished network.',
    '--supernet out/supernet --front front.jsonl --data fashion-mnist-12k --out out/net',
    options(
        'data test seed num_calibration skip_broken',
        arch=Option('make this network, written as text', 'TEXT'),
        front=Option('make the best network that is measured within its limit, from the file that `timm-ofa search '
                     '--out` wrote', 'FILE.jsonl'),
        limits_ms=Option('make one network for each of these limits in ms, in folders of their own in DIR', 'MS',
                         positive, many=True),
        config=Option('make a named network: its name from `timm-ofa models`, or its hub_configs/NAME.yaml; without '
                      '--data its accuracy is not measured, and it is calibrated on images that the environment '
                      'variable TIMM_OFA_CALIBRATION_DATA names, or on some of the Hub', 'NAME'),
        supernet=Option(f'{COMMON["supernet"].help}; by default the one that --config names', 'SUPERNET'),
        publish=Option('afterwards publish the networks on the Hub; their cards link each other', 'ORG'),
        profile=Option('device profile; by default the one that the front names', 'PROFILE'),
        no_measure=Option('do not measure, but trust the prediction, because the network is for another device'),
        finetune_epochs=Option('number of epochs to fine-tune, with labels alone', 'N', whole(0)),
        finetune=Option('how to fine-tune: a YAML file, or a name like finetune_imagenet_25', 'YAML'),
        name=Option('name of the network; by default from device and limit, with --config that of the config', 'NAME'),
        out=Option('folder of the network; with --config by default out/NAME', 'DIR')))


@dataclass(frozen=True)
class _Job:
    """What all modes share: the supernet, and how a network of it is finished. Made before any image is read."""
    opened: OpenSupernet
    data: str
    test: str | None
    seed: int
    num_calibration: int | None
    skip_broken: bool
    training: FinetuneConfig | None
    teacher: nn.Module | None  # that the training names

    @classmethod
    def open(cls, supernet: str | None, data: str, test: str | None, seed: int, num_calibration: int | None,
             skip_broken: bool, finetune: str | None, finetune_epochs: int, *, out: str, name: str | None = None,
             subnet: NamedSubnet | None = None) -> _Job:
        """Check what the options say; raises `InputError` for what would fail after the work."""
        from ..training import load_teacher

        if name:
            _check_name(name)
        training = _finetuning(finetune, finetune_epochs)
        opened = open_supernet(supernet, subnet)
        check_room_for(3, out, opened.space)
        named = training.teacher if training and training.teacher != 'largest' else None
        return cls(opened, data, test, seed, num_calibration, skip_broken, training,
                   load_teacher(named, opened.supernet) if named else None)

    @cached_property
    def source(self) -> Source:
        """The supernet with its images, which are read when they are first needed."""
        return self.opened.with_images(
            self.data, test=self.test, seed=self.seed, num_calibration=self.num_calibration,
            skip_broken=self.skip_broken, teacher=self.teacher)

    def save(self, candidate: Candidate, out: str | Path, *, measured: Sequence[dict[str, Any]] = (),
             **about: Any) -> dict[str, Any]:
        """Finish a candidate and write its folder; its row for the table. `about` goes to `finish`."""
        from ..hub import finish, save_folder

        model, record = finish(self.source, candidate, measured=measured, training=self.training, **about)
        folder = save_folder(out, model, record)
        return dict(
            folder=str(folder), top1_pct=record.top1_pct, limit_ms=record.limit_ms, predicted_ms=record.predicted_ms,
            measured_ms=measured[-1]['latency_ms'] if measured else None, arch=str(record.arch))


@dataclass(frozen=True)
class _FrontJob:
    """A front whose networks are for the device of a profile, which may be this machine."""
    job: _Job
    found: FrontFile
    profile: DeviceProfile
    timer: Callable[[Arch], dict[str, Any]] | None  # None: nothing is measured

    @classmethod
    def open(cls, job: _Job, front: str, profile: str | None, no_measure: bool) -> _FrontJob:
        from ..hub import arch_timer, load_front

        space = job.opened.space
        found = load_front(front, space)
        device = found.load_profile(space, profile)
        timer = None if no_measure else arch_timer(space, device, job.opened.supernet.num_classes)
        return cls(job, found, device, timer)

    def save_best(self, found: FrontFile, out: str | Path, name: str | None,
                  skip: Container[str] = ()) -> dict[str, Any] | None:
        """The best network that is measured within the limit of a front; None where its arch is one to skip."""
        chosen = best_within(found, self.timer)
        if str(chosen.candidate.arch) in skip:
            return None
        return self.job.save(
            chosen.candidate, out, name=name, found=found, measured=chosen.measurements, profile=self.profile)


@SPECIALIZE.mode('arch')
def specialize_arch(*, supernet: str, data: str, arch: str, out: str, seed: int = 0, test: str | None = None,
                    finetune_epochs: int = 0, finetune: str | None = None, num_calibration: int | None = None,
                    skip_broken: bool = False, name: str | None = None) -> Answer:
    """One network whose architecture is known."""
    from ..searching import Candidate

    _check_out(out)
    job = _Job.open(
        supernet, data, test, seed, num_calibration, skip_broken, finetune, finetune_epochs, out=out, name=name)
    chosen = job.opened.space.parse(arch)
    job = replace(job, opened=job.opened.for_arch(chosen))
    return _loaded(job.save(Candidate(chosen, 0.0, 0.0), out, name=name))


@SPECIALIZE.mode('front')
def specialize_front(*, supernet: str, data: str, front: str, out: str, seed: int = 0, test: str | None = None,
                     profile: str | None = None, no_measure: bool = False, finetune_epochs: int = 0,
                     finetune: str | None = None, num_calibration: int | None = None, skip_broken: bool = False,
                     name: str | None = None) -> Answer:
    """The best network of a front."""
    _check_out(out)
    job = _Job.open(
        supernet, data, test, seed, num_calibration, skip_broken, finetune, finetune_epochs, out=out, name=name)
    best = _FrontJob.open(job, front, profile, no_measure)
    row = best.save_best(best.found, out, name)
    assert row is not None  # nothing was to be skipped
    return _loaded(row)


@SPECIALIZE.mode('front', 'limits_ms')
def specialize_family(*, supernet: str, data: str, front: str, limits_ms: Sequence[float], out: str, seed: int = 0,
                      test: str | None = None, publish: str | None = None, profile: str | None = None,
                      no_measure: bool = False, finetune_epochs: int = 0, finetune: str | None = None,
                      num_calibration: int | None = None, skip_broken: bool = False) -> Answer:
    """A network of the front for each limit; limits that one network meets best share it."""
    from ..hub import arch_name, check_target, check_token, publish_family

    check_folder_place(out)
    job = _Job.open(supernet, data, test, seed, num_calibration, skip_broken, finetune, finetune_epochs, out=out)
    best = _FrontJob.open(job, front, profile, no_measure)
    fronts = {arch_name(job.opened.space, best.found.under, limit_ms): best.found.within(limit_ms)
              for limit_ms in sorted(set(limits_ms))}
    for name in fronts:
        check_target(Path(out) / name)
    if publish:
        check_token(publish, fronts)
    rows: dict[str, dict[str, Any]] = {}  # by arch
    for name, found in fronts.items():
        row = best.save_best(found, Path(out) / name, name, skip=rows)
        if row is None:
            say(f'{found.bound_ms:g} ms: the same network as within less; left out')
        else:
            rows[row['arch']] = row
    if publish:
        for done in publish_family([row['folder'] for row in rows.values()], publish):
            say(f'published: {done["url"]} ({done["version"]})')
    return rows_answer(list(next(iter(rows.values()))), list(rows.values()))


@SPECIALIZE.mode('config')
def specialize_unjudged(*, config: str, supernet: str | None = None, out: str | None = None, seed: int = 0,
                        num_calibration: int | None = None, skip_broken: bool = False,
                        name: str | None = None) -> Answer:
    """The weights of a named network, as `pretrained=True` makes them; nothing is judged, so no label is needed."""
    from ..accuracy import CALIBRATION_IMAGES
    from ..hub import finish_unjudged, images_for

    subnet, name, folder = _named(config, name, out)
    opened = open_supernet(supernet, subnet)
    check_room_for(3, folder, opened.space)
    source, num_images = images_for(subnet), num_calibration or CALIBRATION_IMAGES
    images = opened.calibration_images(source, num_images, skip_broken=skip_broken)
    say(f'BatchNorm statistics come from up to {num_images} images of {source}; name others with --data, or in '
        'TIMM_OFA_CALIBRATION_DATA')
    made = finish_unjudged(
        opened.supernet, opened.id, images, opened.augment, name, subnet, seed=seed, num_images=num_images)
    return _saved_named(folder, *made, subnet)


@SPECIALIZE.mode('config', 'data')
def specialize_named(*, config: str, data: str, supernet: str | None = None, out: str | None = None, seed: int = 0,
                     test: str | None = None, finetune_epochs: int = 0, finetune: str | None = None,
                     num_calibration: int | None = None, skip_broken: bool = False,
                     name: str | None = None) -> Answer:
    """The weights of a named network, from the released supernet of its space unless another one is given."""
    from ..hub import finish_named

    subnet, name, folder = _named(config, name, out)
    job = _Job.open(supernet, data, test, seed, num_calibration, skip_broken, finetune, finetune_epochs, out=folder,
                    name=name, subnet=subnet)
    return _saved_named(folder, *finish_named(job.source, name, subnet, training=job.training), subnet)


def _named(config: str, name: str | None, out: str | None) -> tuple[NamedSubnet, str, str]:
    """A named network, the name that its weights get, and their folder, which can be written."""
    from ..hub import find_config

    found = find_config(config, 'subnet')
    if found.subnet is None:
        raise InputError(f"config {found.path.name!r:.120} is not of 'kind: subnet'; to train it: timm-ofa train "
                         f'--config {config}')
    name = name or found.name
    _check_name(name)
    folder = out or f'out/{name}'
    _check_out(folder)
    return found.subnet, name, folder


def _saved_named(folder: str, model: nn.Module, record: Record, subnet: NamedSubnet) -> Answer:
    from ..hub import save_folder

    save_folder(folder, model, record)
    return rows_answer(['folder', 'top1_pct', 'predicted_top1_pct', 'limit', 'arch'], [dict(
        folder=folder, top1_pct=record.top1_pct, predicted_top1_pct=record.predicted_top1_pct,
        limit=subnet.limit, arch=str(record.arch))],
        hint=f'publish it: timm-ofa publish {folder} --repo {subnet.hub_id}')


def _check_name(name: str) -> None:
    from ..hub import is_name

    if not is_name(name):
        raise InputError(f'--name {name!r:.120} is not small letters and digits, joined by single _ - or .; '
                         'write a name like ofa_mbv3_my_phone_lat5ms')


def _check_out(out: str) -> None:
    """Refuse a folder that cannot be written after the work."""
    from ..hub import check_target

    check_folder_place(out)
    check_target(out)


def _loaded(row: dict[str, Any]) -> Answer:
    return rows_answer(list(row), [row], hint=(
        f"load it: import timm, timm_ofa; timm.create_model('local-dir:{row['folder']}', pretrained=True)"))


def _finetuning(finetune: str | None, epochs: int) -> FinetuneConfig | None:
    """How the network is trained on, if at all."""
    from ..training import FinetuneConfig, load_finetune

    if finetune and epochs:
        raise InputError(f'--finetune-epochs {epochs} is not read with --finetune, whose file has epochs of its own; '
                         'leave one of them out')
    if finetune:
        return load_finetune(config_path(finetune, 'finetune'))
    return FinetuneConfig(epochs) if epochs else None
