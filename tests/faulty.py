"""Verbs in forks in which something breaks at a chosen place. What only takes time is replaced by something quick.

`prepare` runs once, in the process that all others are forks of; `run` in each fork.
"""
from __future__ import annotations

import errno
import io
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import timm
import torch
import yaml

from timm_ofa import networks
from timm_ofa.files import replacing_folder
from timm_ofa.training import save_supernet

if TYPE_CHECKING:
    from timm_ofa import Arch
    from timm_ofa.hub.record import Record
    from timm_ofa.images import Data
    from timm_ofa.networks import Supernet
    from timm_ofa.training import TrainConfig

WATCHED = ('open', 'os.mkdir', 'os.rename', 'os.remove', 'os.rmdir', 'os.truncate')  # what changes files
REFUSED = ('quickstart', 'run', 'train', 'collect', 'profile')  # of which a second one is refused meanwhile
TURN_S = 0.2  # that the first of two processes of other verbs gives the second one, which may wait for it


# ---- before all forks ------------------------------------------------------------------------------------------------


def prepare(folder: Path, verbs: dict[str, str]) -> None:
    """Write what the verbs read, replace what takes time, and run each verb once, so that all is imported.

    `folder` / 'ready' holds what they read. `folder` / 'whole' / NAME / 'here' holds what each verb writes where
    nothing breaks, and the file 'counted' beside it tells how often it changed its files.
    """
    ready = folder / 'ready'
    ready.mkdir()
    _replace_slow_parts(folder / 'kept')
    _write_inputs(ready)
    for name, words in verbs.items():
        work = folder / 'whole' / name
        (work / 'here').mkdir(parents=True)
        if ' net ' in words:
            shutil.copytree(ready / 'net', work / 'here' / 'net')
        os.chdir(work / 'here')
        seen = _break_at(str(work / 'here'), -1, lambda: None)
        if status := _quietly(words.replace('READY', str(ready)).split()):
            raise RuntimeError(f'{name} ended with {status}')
        (work / 'counted').write_text(str(seen[0]))


def _quietly(arguments: list[str]) -> int:
    """Run a verb; its status."""
    from timm_ofa.cli import main

    with redirect_stdout(io.StringIO()), redirect_stderr(sys.stderr):
        return main(arguments)


def _write_inputs(ready: Path) -> None:
    from command_line import CONFIG
    from hub_makers import make_model, make_record, save_made_front, toy_profile
    from named_models import upstream_checkpoint
    from timm.models._hub import save_for_hf

    from timm_ofa import DeviceProfile, load_space
    from timm_ofa.accuracy import AccuracyPredictor
    from timm_ofa.hub import save_folder
    from timm_ofa.networks import new_supernet, space_of

    space = load_space('ofa_mbv3_tiny').restrict(resolutions=[20])
    archs = space.sample(np.random.default_rng(0), 24)
    top1_pct = [_top1_pct(None, arch) for arch in archs]
    (ready / 'space.json').write_text(json.dumps(space.to_dict()))
    (ready / 'records.jsonl').write_text(''.join(
        json.dumps({**arch.to_dict(), 'top1_pct': top1}) + '\n' for arch, top1 in zip(archs, top1_pct)))
    AccuracyPredictor.fit(space, archs, top1_pct, seed=0).save(ready / 'predictor.safetensors')
    toy_profile(space, 'toy-phone').save(ready / 'toy.json')
    save_made_front(ready / 'front.jsonl')
    torch.manual_seed(0)
    save_supernet(new_supernet(space, num_classes=10), ready / 'supernet', {})
    (ready / 'config.yaml').write_text(yaml.safe_dump({
        **CONFIG, 'batch_size': 20, 'phases': [{'name': 'one', 'recipe': 'largest', 'epochs': 2, 'lr': 0.05}]}))
    torch.save(upstream_checkpoint('ofa_mbv3_tiny_supernet', 0), ready / 'checkpoint.pth')
    record = make_record()
    save_folder(ready / 'net', make_model(record), record)
    save_for_hf(timm.create_model('mobilenetv3_small_050', num_classes=10), ready / 'own', model_config={})
    own = space_of('mobilenetv3_small_050', resolutions=(32,))
    archs = own.sample(np.random.default_rng(0), 20)
    DeviceProfile.fit(own, archs, [own.macs(arch) / 1e7 for arch in archs], device='toy', runtime='toy').save(
        ready / 'own.json')


def _top1_pct(_: object, arch: Arch) -> float:
    return 40 + sum(map(sum, arch.kernel_size)) / 4 + sum(map(sum, arch.expand_ratio)) / 4


def _images(source: str, side: int, **_: object) -> Data:
    """Forty images of one color each, of ten classes."""
    from PIL import Image

    from timm_ofa.images import Data, ImageSet
    from timm_ofa.images.splits import InMemory

    parts = [ImageSet(InMemory([Image.new('RGB', (32, 32), (25 * i % 256, shade, 9)) for i in range(40)]),
                      [i % 10 for i in range(40)], side, f'{source} {title}')
             for title, shade in (('train', 0), ('holdout', 90), ('test', 180))]
    return Data(source, tuple('0123456789'), *parts)


def _replace_slow_parts(kept: Path) -> None:
    """Replace training, judging, measuring and drawing by what writes the same files."""
    from matplotlib.figure import Figure
    from timm.models import mobilenetv3

    from timm_ofa import devices, hub, images, searching
    from timm_ofa.accuracy import AccuracyPredictor, SubnetJudge
    from timm_ofa.devices import measuring, profiler

    images.load_data = _images  # before the verbs import these
    hub.finish = _once(hub.finish, lambda source, candidate, **about: (str(candidate.arch), about.get('name')))
    searching.search = _once(searching.search, lambda space, *_, **__: space)
    AccuracyPredictor.fit = _once(AccuracyPredictor.fit, lambda space, archs, *_, **__: (space, str(archs)))
    from timm_ofa.cli import pipeline, planning, quickstart, stages

    mobilenetv3.efficientnet_init_weights = lambda model: None
    Figure.savefig = lambda self, path, **_: Path(path).write_text('<svg></svg>\n')
    SubnetJudge.top1_pct = _top1_pct
    now_s = [0.0]

    def load(rows, **_) -> Callable[[], None]:
        def work() -> None:
            now_s[0] += 1e-3 + 1e-9 * sum(row.macs for row in rows)
        return work

    profiler.load_runtime = lambda *_: SimpleNamespace(NAME='fake', version=lambda: '1', load=load)
    profiler.needs_wall_clock = lambda *_: False
    measuring.time = SimpleNamespace(process_time=lambda: now_s[0], perf_counter=lambda: now_s[0])
    measured = {
        'latency_ms': 0.01, 'p50_ms': 0.01, 'p90_ms': 0.02, 'n': 9, 'statistic': 'median', 'runtime': 'onnxruntime',
        'runtime_version': '1', 'provider': 'cpu', 'precision': 'fp32', 'threads': 1, 'batch_size': 1, 'host': 'a test'}
    devices.measure_network = lambda *_, **__: dict(measured)
    quickstart.arch_timer = lambda *_: lambda arch: dict(measured)
    stages.train_supernet, stages._load_in_new_process = _train, lambda folder: None
    stages.save_folder = partial(_save_folder, kept)
    pipeline.make_plan = lambda *_: planning.Plan(0, 12, 0, 0.0, 1.0, 0.0)
    pipeline.REPAIR_IMAGES = pipeline.QUICK_REPAIR_IMAGES = 16
    own_space = networks.space_of('mobilenetv3_small_050', resolutions=(32,))
    pipeline.space_of = lambda model, resolutions=None: own_space
    pipeline.supernet_of = lambda model, resolutions: _own_supernet()


def _save_folder(place: Path, folder: Path, model: torch.nn.Module, record: Record) -> Path:
    """The folder as it was saved the first time, which is kept in a place."""
    from timm_ofa.hub import save_folder

    kept = place / folder.name
    if not kept.exists():
        save_folder(kept, model, record)
    with replacing_folder(folder) as new:
        shutil.copytree(kept, new, dirs_exist_ok=True)
    return folder


def _once(function: Callable, key: Callable) -> Callable:
    """The function, which gives its first answer again for the same key."""
    known: dict[object, object] = {}

    def found(*args, **kwargs):
        place = key(*args, **kwargs)
        if place not in known:
            known[place] = function(*args, **kwargs)
        return known[place]
    return found


@cache
def _own_supernet() -> Supernet:
    return networks.supernet_of(timm.create_model('mobilenetv3_small_050', num_classes=10), resolutions=(32,))


def _train(config: TrainConfig, data: Data, folder: Path, resume: bool) -> Supernet:
    torch.manual_seed(0)
    supernet = networks.new_supernet(config.load_space(), num_classes=data.num_classes)
    folder.mkdir(parents=True, exist_ok=True)
    save_supernet(supernet, folder, {})
    return supernet


# ---- in a fork -------------------------------------------------------------------------------------------------------


def run(arguments: list[str], fault: str, at: int) -> None:
    """Run a verb in the folder 'here', in which `fault` happens at change number `at` of its files; never returns.

    'counted' says afterwards how many changes there were. Of two processes, 'second' says how the other one ended.
    """
    from timm_ofa.cli import main

    for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE'):
        del os.environ[name]
    work, here = Path.cwd(), Path.cwd() / 'here'
    os.chdir(here)
    os.dup2(os.open(work / 'stdout', os.O_WRONLY | os.O_CREAT), 1)
    seen = _break_at(str(here), at, lambda: _happen(fault, arguments, work))
    if fault == 'closed stdout':
        read, write = os.pipe()
        os.close(read)
        os.dup2(write, 1)
    # a stream finds out only once whether it can seek
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, 'w', closefd=False)))
    if fault in ('full disk', 'cut'):
        sys.stderr = io.TextIOWrapper(io.BytesIO(), write_through=True)  # the limit is for files
        if fault == 'cut':
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (at, before[1]))
    status = main(arguments)
    if fault == 'full disk':
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        os.write(2, sys.stderr.buffer.getvalue())
    (work / 'counted').write_text(str(seen[0]))
    if (work / 'second.pid').exists():
        second = int((work / 'second.pid').read_text())
        with suppress(ChildProcessError):  # it was waited for already
            _note(work, os.waitpid(second, 0)[1])
    os._exit(status)


def _break_at(folder: str, at: int, happen: Callable[[], None]) -> list[int]:
    """Call `happen` at change number `at` (from 1; 0: each) of what is in a folder; gives the count, which grows."""
    seen = [0]

    def hook(event: str, args: tuple) -> None:
        if event not in WATCHED or (event == 'open' and not (isinstance(args[2], int) and args[2] & (
                os.O_WRONLY | os.O_RDWR | os.O_CREAT))):
            return
        path = args[1] if event == 'os.rename' else args[0]
        idle = {'os.mkdir': True, 'os.remove': False}  # where there is something already, and where there is nothing
        if isinstance(path, (str, Path)) and os.path.abspath(path).startswith(folder) and (
                os.path.lexists(path) != idle.get(event)):
            seen[0] += 1
            if at in (0, seen[0]):
                happen()

    sys.addaudithook(hook)
    return seen


def _happen(fault: str, arguments: list[str], work: Path) -> None:
    if fault == 'read-only folder':
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(work / 'here'))
    if fault == 'two at once':
        _second(arguments, work)
    elif fault.startswith('SIG'):
        os.kill(os.getpid(), getattr(signal, fault))


def _second(arguments: list[str], work: Path) -> None:
    """Run the same verb in another process, for a while or to its end."""
    from timm_ofa.cli import main

    child = os.fork()
    if not child:
        os.dup2(os.open(work / 'second.stderr', os.O_WRONLY | os.O_CREAT), 2)
        try:
            os._exit(main(arguments))
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
    (work / 'second.pid').write_text(str(child))
    end = time.monotonic() + (float('inf') if arguments[0] in REFUSED else TURN_S)
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return _note(work, status)
        time.sleep(0.005)


def _note(work: Path, status: int) -> None:
    (work / 'second').write_text(str(os.waitstatus_to_exitcode(status)))
