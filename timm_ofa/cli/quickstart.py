"""The whole job on images that come with the package: train, measure this machine, search, specialize, save, load.

Every step leaves files in the output folder. When it runs again, it continues where it was stopped.
"""
from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch

from ..accuracy import AccuracyPredictor, collect, read_records
from ..console import say, table
from ..devices import DeviceProfile, load_profile, profile_space, this_device
from ..errors import InputError
from ..files import write_text
from ..hub import (
    Attempt,
    FrontFile,
    FrontPoint,
    Source,
    Training,
    arch_name,
    arch_timer,
    finish,
    hub_configs_dir,
    meet_limit,
    save_folder,
    save_front,
    training_cost,
)
from ..images import Data, check_data, load_data, stored_side
from ..networks import Supernet, load_supernet, read_json
from ..runtimes import load_runtime
from ..searching import Candidate, Limit, refuse_infeasible, search
from ..spaces import Arch, SearchSpace
from ..training import TrainConfig, load_config, scaled, train_supernet
from .shared import check_room

CONFIG = 'ofa_mbv3_fashion_supernet.yaml'
SUBNETS = 60  # judged for the predictor
LIMIT_SHARE = 0.6  # of the largest subnet's latency, where no limit is given
PROFILE_SECONDS = 10.0
SETTINGS = 'quickstart.json'  # in the folder of all results


def quickstart(out: str | Path, *, data_source: str | None = None, max_latency_ms: float | None = None,
               budget: float = 1.0, seed: int = 0, runtime: str = 'onnxruntime', skip_broken: bool = False,
               ) -> list[dict[str, Any]]:
    """Run all steps; returns the rows of the final table, of which the first one is the chosen network.

    Args:
        out: Folder of all results; given again, finished steps are not repeated.
        data_source: Other images than those of the package (see `load_data`).
        max_latency_ms: The limit; by default 60 % of the latency of the largest subnet.
        budget: Factor on the number of training epochs and of judged subnets.
        skip_broken: Leave out images that cannot be decoded.
    """
    out = Path(out)
    began = time.perf_counter()
    config = scaled(load_config(
        hub_configs_dir() / CONFIG, data=data_source, seed=seed, skip_broken=skip_broken or None), budget)
    space = config.load_space()
    settings = dict(data=config.data, budget=budget, seed=seed, runtime=runtime)
    load_runtime(runtime)
    _check_settings(out, settings)
    check_room(out, 4e-6 * 9 * space.params(space.max_arch()))  # of the supernet and of the chosen network

    say(f'1/6 images: {config.data}')
    data = load_data(
        config.data, stored_side(space), holdout=config.holdout, seed=seed, skip_broken=config.skip_broken)
    say(''.join(f'    {remark}\n' for remark in check_data(data)).rstrip('\n'))
    write_text(out / SETTINGS, json.dumps(settings, indent=1))
    say(f'2/6 latency of this machine ({runtime}, 1 thread)')
    profile = _profile(out / 'profile.json', space, data, runtime, seed)
    error_pct = (profile.check or {})['mape_pct']
    say(f'    {len(profile.table)} blocks; {error_pct:.1f} % mean error on networks it has not seen')
    limit_ms = max_latency_ms or float(f'{LIMIT_SHARE * profile.latency_ms(space, [space.max_arch()])[0]:.2g}')
    refuse_infeasible(space, profile, [Limit(profile, limit_ms)])
    say(f'3/6 supernet: {space.size():,} networks in one, {len(config.phases)} phases')
    supernet, training = _train(config, data, out / 'supernet')
    source = Source(supernet, config.name, data, config.augment, training, seed)
    say('4/6 accuracy of sampled subnets')
    predictor = _predictor(out, source, max(24, round(SUBNETS * budget)), seed)
    check = predictor.check or {}
    say(f'    predictor: Kendall tau {check["kendall_tau"]:.2f}, error {check["rmse_pct"]:.2f} points')

    say(f'5/6 search: most accurate under {limit_ms:g} ms')
    result = search(space, predictor, profile, max_latency_ms=limit_ms, seed=seed)
    found = save_front(
        out / 'front.jsonl', result, space, predictor, profile, str(out / 'profile.json'), limit_ms, seed)
    timer = arch_timer(space, profile)
    attempts = meet_limit(found.front, limit_ms, timer)
    for attempt in attempts[:-1]:
        say(f'    measured {attempt.measured["latency_ms"]:.4g} ms is over the limit; next')

    say('6/6 specialize, save, load again in a new process')
    rows = _finish(source, attempts[-1], found, _references(space, predictor, profile), timer, out)
    _write_summary(out, rows, limit_ms, time.perf_counter() - began)
    return rows


def _check_settings(out: Path, settings: dict[str, Any]) -> None:
    """Raise `InputError` if the finished steps in a folder were done with other settings."""
    before = read_json(out / SETTINGS) if (out / SETTINGS).exists() else settings
    for name, value in settings.items():
        if before.get(name) != value:
            raise InputError(f'--{name} is {value!r:.80}, the steps in {str(out)!r:.120} were done with '
                             f'{before.get(name)!r:.80}; give that, or another --out')


def _references(space: SearchSpace, predictor: AccuracyPredictor, profile: DeviceProfile) -> dict[str, Candidate]:
    """The largest and the smallest subnet as the predictor and the profile see them."""
    archs = {'largest subnet': space.max_arch(), 'smallest subnet': space.min_arch(max(space.resolutions))}
    return {
        label: Candidate(arch, float(predictor.predict([arch])[0]), float(ms))
        for (label, arch), ms in zip(archs.items(), profile.latency_ms(space, list(archs.values())))}


def _finish(source: Source, chosen: Attempt, found: FrontFile, references: Mapping[str, Candidate],
            timer: Callable[[Arch], dict[str, Any]], out: Path) -> list[dict[str, Any]]:
    """Save the chosen network; the rows of it, and of what it is compared with. All have the supernet's weights."""
    space = source.supernet.space
    points = tuple(
        FrontPoint(arch=str(c.arch), top1_pct=round(c.top1_pct, 3), latency_ms=round(_ms(c), 6), label=label)
        for label, c in references.items())
    name = arch_name(space, found.under, found.max_latency_ms)
    model, record = finish(
        source, chosen.candidate, name=name, found=found, measured=[chosen.measured], references=points)
    folder = save_folder(out / name, model, record)
    _load_in_new_process(folder)
    judge = source.judge(source.data.test)
    return [_row('chosen', chosen.candidate, record.top1_pct, chosen.measured, source, folder), *(
        _row(label, candidate, round(judge.top1_pct(candidate.arch), 3), timer(candidate.arch), source)
        for label, candidate in references.items())]


def _train(config: TrainConfig, data: Data, folder: Path) -> tuple[Supernet, Training | None]:
    """The trained supernet. Training that was stopped continues; training that is done is not repeated."""
    if (folder / 'config.json').exists():  # written last
        supernet = load_supernet(str(folder))
    else:
        supernet = train_supernet(config, data, folder, resume=(folder / 'train.yaml').exists())
    cost = training_cost(folder)
    if cost and cost.hardware == 'cpu':
        cost = replace(cost, hardware=this_device()[1])
    return supernet.eval(), cost


def _profile(path: Path, space: SearchSpace, data: Data, runtime: str, seed: int) -> DeviceProfile:
    if path.exists():
        return load_profile(path)
    profile = profile_space(
        space, runtime, num_classes=data.num_classes, seconds=PROFILE_SECONDS, seed=seed)
    profile.save(path)
    return profile


def _predictor(out: Path, source: Source, num: int, seed: int) -> AccuracyPredictor:
    judge, space = source.judge(source.data.holdout), source.supernet.space
    collect(judge, source.data, num, out / 'records.jsonl', seed=seed)
    records = read_records(out / 'records.jsonl', space)
    predictor = AccuracyPredictor.fit(space, [arch for arch, _ in records], [top1 for _, top1 in records], seed=seed)
    predictor.save(out / 'predictor.safetensors')
    return predictor


def _ms(candidate: Candidate) -> float:
    """The predicted latency; all candidates here have one."""
    assert candidate.latency_ms is not None
    return candidate.latency_ms


def _row(label: str, candidate: Candidate, top1_pct: float | None, measured: dict[str, Any], source: Source,
         folder: Path | None = None) -> dict[str, Any]:
    space, arch, num_classes = source.supernet.space, candidate.arch, source.data.num_classes
    return {
        'network': label, 'top1_pct': top1_pct, 'predicted_ms': round(_ms(candidate), 4),
        'measured_ms': round(measured['latency_ms'], 4), 'macs_m': round(space.macs(arch, num_classes) / 1e6, 2),
        'params_k': round(space.params(arch, num_classes) / 1e3, 1), 'arch': str(arch), 'folder': str(folder or '')}


def _load_in_new_process(folder: Path) -> None:
    """Do once what a user does next: import and create the model."""
    code = f'import timm, timm_ofa; timm.create_model({f"local-dir:{folder}"!r}, pretrained=True)'
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f'{folder} does not load in a new process: {done.stderr.strip().splitlines()[-1:]}')


def _write_summary(out: Path, rows: list[dict[str, Any]], limit_ms: float, seconds: float) -> None:
    write_text(out / 'summary.json', json.dumps(dict(
        limit_ms=limit_ms, seconds=round(seconds, 1), networks=rows, torch=torch.__version__,
        timm=timm.__version__), indent=1))


def closing_words(rows: list[dict[str, Any]]) -> str:
    """The table for people, the place of the picture, and the lines that load the chosen network."""
    chosen, largest = rows[:2]
    shown = table(
        ['network', 'top-1 %', 'predicted ms', 'measured ms', 'MMACs', 'k params'],
        [[r['network'], r['top1_pct'], r['predicted_ms'], r['measured_ms'], r['macs_m'], r['params_k']] for r in rows])
    return (
        f'{shown}\n\n{largest["measured_ms"] / chosen["measured_ms"]:.1f} times as fast as the largest subnet at '
        f'{chosen["top1_pct"] - largest["top1_pct"]:+.1f} points of top-1. Both have the weights of the supernet.\n'
        f'card, weights and front ({Path(chosen["folder"]) / "pareto.svg"}): {chosen["folder"]}\n\n'
        f'    import timm, timm_ofa\n'
        f"    model = timm.create_model('local-dir:{chosen['folder']}', pretrained=True)")

