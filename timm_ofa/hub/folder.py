"""Finished networks as folders that timm loads.

`save_folder` writes one and proves that it loads bit for bit; `check_folder` trusts nothing in one that came from
elsewhere. Weights are safetensors only.
"""
from __future__ import annotations

import copy
import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import InputError, listed
from ..files import replacing, save_tensors, sha256_of, write_text
from ..networks import BLOCK, BUILD_ARGS, CONFIG, DIGEST, ENTRY_POINTS, WEIGHTS, check_shapes, data_cfg, model_args
from ..networks import read_json as _read_json
from ..runtimes import to_onnx
from .card import render_card
from .plots import plot_architecture, plot_front
from .record import FrontPoint, Measurement, Record

CARD, PERF, PLOT, DRAWING = 'README.md', 'perf.json', 'pareto.svg', 'architecture.svg'
ONNX = 'model.onnx'
FILES = (CONFIG, WEIGHTS, CARD, PERF, PLOT, DRAWING, ONNX, 'LICENSE')  # nothing else is published or fetched
REQUIRED = (CONFIG, WEIGHTS, PERF)
FORMAT = 1  # of that block and of perf.json
ELSEWHERE = {PERF: ('measurements', 'front'), CONFIG: ('num_classes', 'class_names')}  # fields kept outside the block
PICKLES = ('.bin', '.pth', '.pkl', '.pickle', '.pt', '.ckpt')
MAX_ONNX_ERROR = 1e-3  # of the largest logit: rounding only, any wrong weight is far above it


def save_folder(folder: str | Path, model: nn.Module, record: Record) -> Path:
    """Write a folder that `timm.create_model('local-dir:...', pretrained=True)` loads, and check that it does.

    Args:
        folder: Made, or replaced if it is such a folder already.
        model: A stock timm network of `record.arch`; its weights and BatchNorm statistics are what is saved.
    """
    folder, record = Path(folder), record.check()
    if folder.exists() and not (folder.is_dir() and (is_ours(folder / CONFIG) or not any(folder.iterdir()))):
        raise InputError(f'folder {str(folder)!r} holds something else; choose another, or remove it')
    model = _plain_copy(model)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f'.{folder.name}.') as around:
        partial = Path(around) / 'new'
        partial.mkdir()
        save_tensors(partial / WEIGHTS, model.state_dict())
        _write_config(partial / CONFIG, model, record)
        _write_figures(partial, record, {'format': FORMAT, 'name': record.name, DIGEST: sha256_of(partial / WEIGHTS)})
        plot_architecture(record, partial / DRAWING)
        check_folder(partial)
        _check_same_logits(partial, model, record.arch.resolution)
        if folder.exists():
            folder.rename(Path(around) / 'old')
        partial.rename(folder)
    return folder


def _write_figures(folder: Path, record: Record, perf: dict) -> None:
    """What changes with a latency or the front: `perf.json` (`perf` are its other fields), picture and card."""
    _write_json(folder / PERF, {**perf, **_subset(record.to_dict(), ELSEWHERE[PERF])})
    if record.front:
        plot_front(record, folder / PLOT)
    write_text(folder / CARD, render_card(record))


def update_folder(folder: str | Path, *, measurements: Sequence[Measurement] | None = None,
                  front: Sequence[FrontPoint] | None = None) -> Record:
    """Write other latencies, or another front, into a folder; the record as it is then. Weights and config stay."""
    folder = Path(folder)
    record = check_folder(folder)
    record = replace(
        record, measurements=record.measurements if measurements is None else tuple(measurements),
        front=record.front if front is None else tuple(front)).check()
    _write_figures(folder, record, _read_json(folder / PERF))
    return record


def stage_folder(folder: str | Path, stage: Path) -> Record:
    """Check a folder and copy its files, all but the card, to where they are published from; raises `InputError`."""
    folder = Path(folder)
    record = check_folder(folder)
    _check_card(folder, record)
    for name in FILES:
        if name != CARD and (folder / name).is_file():
            shutil.copyfile(folder / name, stage / name)
    return record


def _check_card(folder: Path, record: Record) -> None:
    """The card of a folder is that which its record gives, for whatever repository; none will do as well."""
    if not (folder / CARD).is_file():
        return
    text = (folder / CARD).read_text(encoding='utf-8', errors='replace')
    named = re.search(r"hf-hub:([\w.-]+/[\w.-]+)'", text, re.ASCII)
    lines = render_card(record, named and named[1]).splitlines()
    for number, (found, expected) in enumerate(zip_longest(text.splitlines(), lines), 1):
        if found != expected:
            raise InputError(f'{CARD} in {str(folder)!r:.200} is not the card of its record from line {number} on '
                             f'({found or "nothing"!r:.60}): edited by hand, or of another version; delete it, and '
                             'publishing writes it anew')


def add_onnx(folder: str | Path) -> Path:
    """Write `model.onnx` beside the weights of a folder: input 'x' (N, 3, R, R) at the network's resolution, output 'y'
    (N, classes), any N.

    Its logits in ONNX Runtime, where that is installed, must be those of the torch network. `perf.json` keeps its hash,
    by which `check_folder` knows that it belongs to the weights.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    record = _check_network(folder)
    rows = record.space.rows(record.arch, record.num_classes)
    model = to_onnx(rows, weights=load_file(folder / WEIGHTS), bn_eps=record.space.bn_eps, batch_size=None)
    if find_spec('onnxruntime'):
        _check_onnx_logits(model, folder, record.arch.resolution)
    with replacing(folder / ONNX) as temporary:
        temporary.write_bytes(model)
    _write_json(folder / PERF, {**_read_json(folder / PERF), 'onnx_sha256': sha256_of(folder / ONNX)})
    return folder / ONNX


def _plain_copy(model: nn.Module) -> nn.Module:
    """A copy on the CPU with its tensors in the order in which files hold them, so that both compute the same bits."""
    model = copy.deepcopy(model).cpu().eval()
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return model


def load_record(folder: str | Path) -> Record:
    """The record of a folder, from `config.json` and `perf.json`, strictly checked; raises `InputError`."""
    config, perf = (_read_json(Path(folder) / name) for name in (CONFIG, PERF))
    block = config.get(BLOCK)
    if not isinstance(block, dict):
        raise InputError(f'{CONFIG} in {str(folder)!r} has no {BLOCK!r} block; give a folder that timm_ofa wrote')
    if block.get('format') != FORMAT or perf.get('format') != FORMAT:
        raise InputError(f'format {block.get("format")!r:.40} of {str(folder)!r} is not {FORMAT}; upgrade timm_ofa')
    names = config.get('label_names', [])
    record = Record.from_dict({
        **{k: v for k, v in block.items() if k not in ('format', DIGEST)}, **_subset(perf, ELSEWHERE[PERF]),
        'num_classes': config.get('num_classes'), 'class_names': names})
    if perf.get('name') != record.name:
        raise InputError(f'{PERF} is of {perf.get("name")!r:.80}, {CONFIG} of {record.name!r}; save the folder again')
    return record


def check_folder(folder: str | Path) -> Record:
    """Check a folder before anything in it is used: known files, a valid record, an architecture and weights that are
    those of the record's arch, and an ONNX file, if any, of these weights. Raises `InputError`; gives the record."""
    folder = Path(folder)
    record = _check_network(folder)
    if (folder / ONNX).is_file() and _read_json(folder / PERF).get('onnx_sha256') != sha256_of(folder / ONNX):
        raise InputError(
            f'{ONNX} in {str(folder)!r} is not that which {PERF} was written for; remove it, or write it anew (--onnx)')
    return record


def _check_network(folder: Path) -> Record:
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    for name in REQUIRED:
        if name not in names:
            raise InputError(f'folder {str(folder)!r} has no {name}; save it again')
    refuse_pickles(names, folder)
    record = load_record(folder)
    _check_config(_read_json(folder / CONFIG), record)
    _check_weights(folder, record)
    digest = sha256_of(folder / WEIGHTS)
    for name, found in ((PERF, _read_json(folder / PERF)), (CONFIG, _read_json(folder / CONFIG)[BLOCK])):
        if found.get(DIGEST) != digest:
            raise InputError(f'{WEIGHTS} in {str(folder)!r} is not that which {name} was written for; save it again')
    return record


def _write_config(path: Path, model: nn.Module, record: Record) -> None:
    from timm.models._hub import save_config_for_hf

    data = data_cfg(record.space, record.arch.resolution)
    inside = {k: v for k, v in record.to_dict().items() if k not in (*ELSEWHERE[PERF], *ELSEWHERE[CONFIG])}
    save_config_for_hf(
        model, path,
        model_config={
            'pretrained_cfg': {
                'architecture': _entry_point(record), 'tag': '', 'license': record.license, 'origin_url': '',
                'notes': [f'{record.space.name} {record.arch}'], **data},
            **({'label_names': list(record.class_names)} if record.class_names else {}),
            BLOCK: {'format': FORMAT, DIGEST: sha256_of(path.with_name(WEIGHTS)), **inside},
        },
        model_args=model_args(record.space, record.arch),
        data_config={k: data[k] for k in ('input_size', 'crop_pct', 'interpolation', 'mean', 'std')})


def _entry_point(record: Record) -> str:
    return ENTRY_POINTS[record.space.family]


def _check_config(config: dict, record: Record) -> None:
    """What timm would build is what the record says."""
    expected = json.loads(json.dumps(model_args(record.space, record.arch)))
    given = config.get('model_args')
    name = config.get('architecture')
    if name != _entry_point(record) or not isinstance(given, dict):
        raise InputError(f'architecture {name!r:.60} of {CONFIG} is not {_entry_point(record)!r}; save it again')
    for key in {*expected, *given} - BUILD_ARGS:
        if key not in expected or given.get(key) != expected[key]:
            raise InputError(f'model_args {key!r:.40} of {CONFIG} is not that of the arch {record.arch}; save it again')
    if given.get('num_classes', record.num_classes) != record.num_classes or given.get('in_chans', 3) != 3:
        raise InputError(
            f'model_args of {CONFIG} are not for 3 channels and {record.num_classes} classes; save the folder again')


def _check_weights(folder: Path, record: Record) -> None:
    import timm

    with torch.device('meta'):
        network = timm.create_model(
            _entry_point(record), num_classes=record.num_classes, **model_args(record.space, record.arch))
    check_shapes(folder / WEIGHTS, network, str(folder))


def _loaded_logits(folder: Path, resolution: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two random images (2, 3, R, R), and what the network of a folder makes of them (2, classes)."""
    import timm

    x = torch.randn(2, 3, resolution, resolution, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return x, timm.create_model(f'local-dir:{folder}', pretrained=True).eval()(x)


def _check_same_logits(folder: Path, model: nn.Module, resolution: int) -> None:
    x, logits = _loaded_logits(folder, resolution)
    with torch.inference_mode():
        difference = (logits - model(x)).abs().max().item()
    if difference != 0:
        raise InputError(
            f'the reloaded network differs by {difference:g} in its logits; save a model of the plain timm class')


def _check_onnx_logits(model: bytes, folder: Path, resolution: int) -> None:
    from ..runtimes import Session

    x, logits = _loaded_logits(folder, resolution)
    error = np.abs(Session(model, x=x.numpy()).predict(x.numpy()) - logits.numpy()).max() / logits.abs().max().item()
    if not error <= MAX_ONNX_ERROR:
        raise InputError(f'{ONNX} of {str(folder)!r} would differ by {error:.2g} of its logits; save the folder again')


def _write_json(path: Path, data: dict) -> None:
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + '\n')


def is_ours(config: Path) -> bool:
    """Whether timm_ofa wrote this `config.json`."""
    try:
        return isinstance(_read_json(config).get(BLOCK), dict)
    except InputError:
        return False


def _subset(data: dict, keys: tuple[str, ...]) -> dict:
    return {k: data[k] for k in keys if k in data}


def refuse_pickles(names: list[str], where: Any) -> None:
    """Raise where any of these files is a pickle, the other format in which timm looks for weights."""
    found = [name for name in names if name.lower().endswith(PICKLES)]
    if found:
        raise InputError(f'{str(where)!r} holds {listed(found)}, and pickles can run code; keep {WEIGHTS} only')
