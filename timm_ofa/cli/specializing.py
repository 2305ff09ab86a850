"""The verb `specialize`: the folder of a finished network, from a search result, an architecture or a name."""
from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console import say
from ..errors import InputError
from .shared import CALIBRATION_IMAGES, COMMON, open_source, options
from .verbs import Answer, Option, Verb, positive, rows_answer, whole

if TYPE_CHECKING:
    from ..hub import FrontFile, Source
    from ..searching import Candidate
    from ..training import FinetuneConfig

SPECIALIZE = Verb(
    'specialize', 'Make the publishable folder of a finished network.',
    '--supernet out/supernet --front front.jsonl --data fashion-mnist-12k --out out/net',
    options(
        'data seed num_calibration',
        arch=Option('make this network, written as text', 'TEXT'),
        front=Option('make the best network that is measured within its limit, from the file that `timm-ofa search '
                     '--out` wrote', 'FILE.jsonl'),
        limits_ms=Option('make one network for each of these limits in ms, in folders of their own in DIR', 'MS',
                         positive, many=True),
        config=Option('make a named network: its name from `timm-ofa models`, or its hub_configs/NAME.yaml', 'NAME'),
        supernet=Option(f'{COMMON["supernet"].help}; by default the one that --config names', 'SUPERNET'),
        publish=Option('afterwards publish the networks on the Hub; their cards link each other', 'ORG'),
        profile=Option('device profile; by default the one that the front names', 'PROFILE'),
        no_measure=Option('do not measure, but trust the prediction, because the network is for another device'),
        finetune_epochs=Option('number of epochs to fine-tune, with labels alone', 'N', whole(0)),
        finetune=Option('how to fine-tune: a YAML file, or a name like finetune_imagenet_25', 'YAML'),
        name=Option('name of the network; by default from device and limit, with --config that of the config', 'NAME'),
        out=Option('folder of the network; with --config by default out/NAME', 'DIR')))


@SPECIALIZE.mode('arch')
def specialize_arch(*, supernet: str, data: str, arch: str, out: str, seed: int = 0, finetune_epochs: int = 0,
                    finetune: str | None = None, num_calibration: int = CALIBRATION_IMAGES,
                    name: str | None = None) -> Answer:
    """One network whose architecture is known."""
    from ..searching import Candidate

    source = open_source(supernet, data, out=out, seed=seed, num_calibration=num_calibration)
    candidate = Candidate(source.supernet.space.parse(arch), 0.0, 0.0)
    return _loaded(_save(source, candidate, out, name=name, training=_finetuning(finetune, finetune_epochs)))


@SPECIALIZE.mode('front')
def specialize_front(*, supernet: str, data: str, front: str, out: str, seed: int = 0, profile: str | None = None,
                     no_measure: bool = False, finetune_epochs: int = 0, finetune: str | None = None,
                     num_calibration: int = CALIBRATION_IMAGES, name: str | None = None) -> Answer:
    """The best network of a front."""
    from ..hub import load_front

    source = open_source(supernet, data, out=out, seed=seed, num_calibration=num_calibration)
    row = _save_best(source, load_front(front, source.supernet.space), out, profile, no_measure,
                     _finetuning(finetune, finetune_epochs), name)
    assert row is not None
    return _loaded(row)


@SPECIALIZE.mode('front', 'limits_ms')
def specialize_family(*, supernet: str, data: str, front: str, limits_ms: Sequence[float], out: str, seed: int = 0,
                      publish: str | None = None, profile: str | None = None, no_measure: bool = False,
                      finetune_epochs: int = 0, finetune: str | None = None,
                      num_calibration: int = CALIBRATION_IMAGES) -> Answer:
    """A network of the front for each limit; limits that one network meets best share it."""
    from ..hub import arch_name, load_front, publish_family

    source = open_source(supernet, data, out=out, seed=seed, num_calibration=num_calibration)
    found = load_front(front, source.supernet.space)
    training = _finetuning(finetune, finetune_epochs)
    rows: dict[str, dict[str, Any]] = {}  # by arch
    for limit_ms in sorted(set(limits_ms)):
        name = arch_name(source.supernet.space, found.device, limit_ms)
        row = _save_best(source, replace(found, max_latency_ms=limit_ms), Path(out) / name, profile, no_measure,
                         training, name, skip=rows)
        if row is None:
            say(f'{limit_ms:g} ms: the same network as within less; left out')
        else:
            rows[row['arch']] = row
    if publish:
        for done in publish_family([row['folder'] for row in rows.values()], publish):
            say(f'published: {done["url"]} ({done["version"]})')
    return rows_answer(list(next(iter(rows.values()))), list(rows.values()))


@SPECIALIZE.mode('config')
def specialize_named(*, config: str, data: str, supernet: str | None = None, out: str | None = None, seed: int = 0,
                     finetune_epochs: int = 0, finetune: str | None = None,
                     num_calibration: int = CALIBRATION_IMAGES, name: str | None = None) -> Answer:
    """The weights of a named network, from the released supernet of its space unless another one is given."""
    from ..hub import find_config, finish_named, save_folder

    found = find_config(config)
    if found.subnet is None:
        raise InputError(f"config {found.path.name!r:.120} is not of 'kind: subnet'; to train it: timm-ofa train")
    source = open_source(
        supernet, data, out=out, seed=seed, num_calibration=num_calibration, subnet=found.subnet)
    name = name or found.name
    model, record = finish_named(source, name, found.subnet, training=_finetuning(finetune, finetune_epochs))
    folder = save_folder(out or f'out/{name}', model, record)
    return rows_answer(['folder', 'top1_pct', 'predicted_top1_pct', 'limit', 'arch'], [dict(
        folder=str(folder), top1_pct=record.top1_pct, predicted_top1_pct=record.predicted_top1_pct,
        limit=found.subnet.limit, arch=str(record.arch))],
        hint=f'publish it: timm-ofa publish {folder} --repo {found.subnet.hub_id}')


def _save_best(source: Source, found: FrontFile, out: str | Path, profile: str | None, no_measure: bool,
               training: FinetuneConfig | None, name: str | None, skip: Container[str] = ()) -> dict[str, Any] | None:
    """The best network of a front that is measured within its limit; None where its arch is one to skip."""
    from ..devices import load_profile
    from ..hub import arch_timer, meet_limit

    device = load_profile(profile or found.profile)
    if no_measure:
        within = [c for c in found.front if (c.latency_ms or 0.0) <= found.max_latency_ms]
        if not within:
            raise InputError(f'no network of the front is within {found.max_latency_ms:g} ms; raise the limit')
        candidate, measured = max(within, key=lambda c: c.top1_pct), []
    else:
        timer = arch_timer(source.supernet.space, device)
        attempts = meet_limit(found.front, found.max_latency_ms, timer)
        for attempt in attempts[:-1]:
            say(f'measured {attempt.measured["latency_ms"]:.4g} ms is over the limit; next')
        candidate, measured = attempts[-1].candidate, [attempts[-1].measured]
    if str(candidate.arch) in skip:
        return None
    return _save(source, candidate, out, name=name, training=training, found=found, measured=measured, profile=device)


def _save(source: Source, candidate: Candidate, out: str | Path, *, measured: Sequence[dict[str, Any]] = (),
          **about: Any) -> dict[str, Any]:
    """Finish a candidate and write its folder; its row for the table. `about` goes to `finish`."""
    from ..hub import finish, save_folder

    model, record = finish(source, candidate, measured=measured, **about)
    folder = save_folder(out, model, record)
    return dict(
        folder=str(folder), top1_pct=record.top1_pct, limit_ms=record.limit_ms, predicted_ms=record.predicted_ms,
        measured_ms=measured[-1]['latency_ms'] if measured else None, arch=str(record.arch))


def _loaded(row: dict[str, Any]) -> Answer:
    return rows_answer(list(row), [row], hint=(
        f"load it: import timm, timm_ofa; timm.create_model('local-dir:{row['folder']}', pretrained=True)"))


def _finetuning(finetune: str | None, epochs: int) -> FinetuneConfig | None:
    """How the network is trained on, if at all."""
    from ..hub import find_config
    from ..training import FinetuneConfig, load_finetune

    if finetune:
        return load_finetune(find_config(finetune).path)
    return FinetuneConfig(epochs) if epochs else None
