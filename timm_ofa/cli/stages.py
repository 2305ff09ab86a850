"""The stages between images and finished networks, which `run` and `quickstart` share.

Each stage leaves files in the folder of all results. When it runs again, it takes what is there.
"""
from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch

from ..accuracy import AccuracyPredictor, Active, collect, read_records
from ..console import say, table
from ..devices import DeviceProfile, load_profile, profile_into, this_device
from ..errors import InputError
from ..files import write_text
from ..hub import Attempt, FrontFile, NotWithin, Source, Training, finish, predicted_ms, save_folder, training_cost
from ..images import Data, check_data
from ..networks import CONFIG, Supernet, load_supernet, read_json
from ..searching import Candidate, rounded_up
from ..spaces import Arch, SearchSpace
from ..training import FinetuneConfig, TrainConfig, train_supernet
from .shared import best_within

Timer = Callable[[Arch], dict[str, Any]]  # what `measure_network` gives for an arch
SUMMARY = 'summary.json'
LIMIT_SHARE = 0.6  # of the latency of the largest network, where no limit is given


def check_settings(file: Path, settings: dict[str, Any]) -> None:
    """Raise `InputError` if the finished steps in the folder of a file were done with other settings."""
    before = read_json(file) if file.exists() else settings
    for name, value in settings.items():
        if before.get(name) != value:
            raise InputError(
                f'--{name.replace("_", "-")} is {value!r:.80}, the steps in {str(file.parent)!r:.120} were done with '
                f'{before.get(name)!r:.80}; give that, or another --out')


def trained(config: TrainConfig, data: Data, folder: Path) -> tuple[Supernet, Training | None]:
    """The trained supernet. Training that was stopped continues; training that is done is not repeated.

    It is always that of the folder, so that whoever loads it there gets the same numbers.
    """
    if not (folder / CONFIG).exists():  # written last
        train_supernet(config, data, folder, resume=(folder / 'train.yaml').exists())
    supernet = load_supernet(str(folder))
    cost = training_cost(folder)
    if cost and cost.hardware == 'cpu':
        cost = replace(cost, hardware=this_device()[1])
    return supernet.eval(), cost


def profiled(path: Path, space: SearchSpace, num_classes: int, seconds: float, seed: int, **conditions: Any,
             ) -> DeviceProfile:
    """The profile of this machine, measured unless it is there; `conditions` as for `profile_space`."""
    if not path.exists():
        profile_into(path, space, num_classes=num_classes, seconds=seconds, seed=seed, **conditions)
    profile = load_profile(path)
    error = f'; {profile.check["mape_pct"]:.1f} % mean error on networks it has not seen' if profile.check else ''
    say(f'    {len(profile.table)} blocks{error}')
    return profile


def usual_limit_ms(space: SearchSpace, profile: DeviceProfile) -> float:
    """The limit where none is given: 60 % of the latency of the largest network, or, where the smallest one takes more,
    halfway between them."""
    whole_ms, least_ms = profile.latency_ms(space, [space.max_arch(), space.min_arch()]).tolist()
    usual_ms = (least_ms + whole_ms) / 2 if least_ms > LIMIT_SHARE * whole_ms else LIMIT_SHARE * whole_ms
    limit_ms = float(f'{usual_ms:.2g}')
    return limit_ms if limit_ms >= least_ms else float(rounded_up(usual_ms))


def predicted(out: Path, source: Source, profile: DeviceProfile, num: int, seed: int) -> AccuracyPredictor:
    """The accuracy predictor, fitted to `num` subnets that are judged on held-out images.

    Most of them are chosen because they may enlarge the front on the device. Of networks judged at random alone, a
    search takes those whose prediction errs upwards.
    """
    judge, space = source.judge(source.data.holdout, quick=True), source.supernet.space
    propose = Active(space, profile, seed)
    collect(judge, source.data, num, out / 'records.jsonl', seed=seed, propose=propose, proposer=propose.name)
    records = read_records(out / 'records.jsonl', space)
    predictor = AccuracyPredictor.fit(space, [arch for arch, _ in records], [top1 for _, top1 in records], seed=seed)
    predictor.save(out / 'predictor.safetensors')
    check = predictor.check or {}
    say(f'    predictor: Kendall tau {check["kendall_tau"]:.2f}, error {check["rmse_pct"]:.2f} points')
    return predictor


def references(space: SearchSpace, predictor: AccuracyPredictor, profile: DeviceProfile,
               archs: Mapping[str, Arch]) -> dict[str, Candidate]:
    """Networks to compare with, as the predictor and the profile see them."""
    return {
        label: Candidate(arch, float(predictor.predict([arch])[0]), float(ms))
        for (label, arch), ms in zip(archs.items(), profile.latency_ms(space, list(archs.values())))}


def best_found(found: FrontFile, timer: Timer | None, limit_is_given: bool) -> tuple[FrontFile, Attempt]:
    """The best network of a front that is measured within its limit, and the front with that limit.

    Where none is, because the machine is slower than it was, a limit that nobody gave is raised. One that was given
    raises `NotWithin`.
    """
    try:
        return found, best_within(found, timer, '    ')
    except NotWithin as error:
        if limit_is_given or not error.attempts:
            raise
        last = error.attempts[-1]
        limit_ms = float(rounded_up(last.measured['latency_ms'], 2))
        say(f'    no network is measured within {found.bound_ms:g} ms now; the limit becomes {limit_ms:g} ms')
        return replace(found, max_latency_ms=limit_ms), last


def saved(source: Source, chosen: Attempt, found: FrontFile, profile: DeviceProfile, compared: Mapping[str, Candidate],
          folder: Path, training: FinetuneConfig | None = None) -> dict[str, Any]:
    """Finish a network, save its folder, load it in a new process; its row."""
    model, record = finish(
        source, chosen.candidate, name=folder.name, found=found, measured=chosen.measurements,
        training=training, compared=compared, profile=profile)
    save_folder(folder, model, record)
    _load_in_new_process(folder)
    return row('chosen', chosen.candidate, record.top1_pct, chosen.measured, source, folder)


class Finished:
    """Rows of finished networks in a JSON file, so that none is made twice while its folder is there."""

    def __init__(self, file: Path) -> None:
        self._file = file
        known = read_json(file) if file.exists() else {}
        self._known: dict[str, Any] = {
            key: kept for key, kept in known.items()
            if isinstance(kept, list) or (kept and Path(kept['folder']).is_dir())}

    def __call__(self, key: str, make: Callable[[], Any]) -> Any:
        """What is kept under a key; if there is nothing yet, what `make` gives, which is then kept."""
        if key not in self._known:
            self._known[key] = make()
            write_text(self._file, json.dumps(self._known, indent=1))
        return self._known[key]


def compared_rows(source: Source, compared: Mapping[str, Candidate], timer: Timer | None) -> list[dict[str, Any]]:
    """Rows of networks to compare with, judged on the test images."""
    judge = source.judge(source.data.test)
    return [row(label, c, round(judge.top1_pct(c.arch), 3), timer(c.arch) if timer else {}, source)
            for label, c in compared.items()]


def row(label: str, candidate: Candidate, top1_pct: float | None, measured: Mapping[str, Any], source: Source,
        folder: Path | None = None) -> dict[str, Any]:
    """What is known of a network, for tables and programs."""
    space, arch, num_classes = source.supernet.space, candidate.arch, source.data.num_classes
    return {
        'network': label, 'top1_pct': top1_pct, 'predicted_ms': round(predicted_ms(candidate), 4),
        'measured_ms': round(measured['latency_ms'], 4) if measured else None,
        'macs_m': round(space.macs(arch, num_classes) / 1e6, 2),
        'params_k': round(space.params(arch, num_classes) / 1e3, 1), 'arch': str(arch), 'folder': str(folder or '')}


def _load_in_new_process(folder: Path) -> None:
    """Do once what a user does next: import and create the model."""
    code = f'import timm, timm_ofa; timm.create_model({f"local-dir:{folder}"!r}, pretrained=True)'
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f'{folder} does not load in a new process: {done.stderr.strip().splitlines()[-1:]}')


def rows_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows for people."""
    names = ('network', 'top1_pct', 'predicted_ms', 'measured_ms', 'macs_m', 'params_k')
    further = list(rows[0].get('also_ms', ()))  # devices
    return table(['network', 'top-1 %', 'predicted ms', 'measured ms', 'MMACs', 'k params',
                  *(f'ms on {name}' for name in further)],
                 [[row[name] for name in names] + [row['also_ms'][name] for name in further] for row in rows])


def say_remarks(data: Data) -> None:
    """Look at all images and say what the data holds."""
    say('\n'.join(f'    {remark}' for remark in check_data(data)))


def write_summary(out: Path, rows: Sequence[dict[str, Any]], limits_ms: Sequence[float], seconds: float) -> None:
    """Write all rows into the folder of all results."""
    write_text(out / SUMMARY, json.dumps(dict(
        limits_ms=list(limits_ms), seconds=round(seconds, 1), networks=list(rows), torch=torch.__version__,
        timm=timm.__version__), indent=1))
