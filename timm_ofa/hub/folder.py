"""The published folder of a network: its files, and the check that comes before anything in it is used.

A folder may be from anybody, so nothing in it is trusted. Weights are safetensors only.
"""
from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import timm

from ..errors import InputError, listed
from ..files import sha256_of
from ..networks import (
    BLOCK,
    BUILD_ARGS,
    CONFIG,
    DIGEST,
    ENTRY_POINTS,
    WEIGHTS,
    check_shapes,
    model_args,
    our_block,
    read_json,
    without_weights,
)
from .record import Record

CARD, PERF, PLOT, DRAWING = 'README.md', 'perf.json', 'pareto.svg', 'architecture.svg'
CONFUSION = 'confusion.svg'
ONNX, PT2 = 'model.onnx', 'model.pt2'
PROGRAMS = {ONNX: 'onnx_sha256', PT2: 'pt2_sha256'}  # files that run without this package -> their hash in PERF
RESULTS = '.eval_results/top1.yaml'
FILES = (  # only these are published and fetched
    CONFIG, WEIGHTS, CARD, PERF, PLOT, DRAWING, CONFUSION, *PROGRAMS, RESULTS, 'LICENSE')
REQUIRED = (CONFIG, WEIGHTS, PERF)
FORMAT = 1  # version of our block in config.json, and of perf.json
ELSEWHERE = {  # fields outside of the block
    PERF: ('measurements', 'front', 'per_class'), CONFIG: ('num_classes', 'class_names')}
PICKLES = ('.bin', '.pth', '.pkl', '.pickle', '.pt', '.ckpt')


def load_record(folder: str | Path) -> Record:
    """The record of a folder, read from `config.json` and `perf.json`; raises `InputError` if anything is not valid."""
    config, perf = (read_json(Path(folder) / name) for name in (CONFIG, PERF))
    block = config.get(BLOCK)
    if not isinstance(block, dict):
        raise InputError(f'{CONFIG} in {str(folder)!r} has no {BLOCK!r} block; give a folder that timm_ofa wrote')
    if block.get('format') != FORMAT or perf.get('format') != FORMAT:
        raise InputError(f'format {block.get("format")!r:.40} of {str(folder)!r} is not {FORMAT}; upgrade timm_ofa')
    names = config.get('label_names', [])
    record = Record.from_dict({
        **{k: v for k, v in block.items() if k not in ('format', DIGEST)}, **subset(perf, ELSEWHERE[PERF]),
        'num_classes': config.get('num_classes'), 'class_names': names})
    if perf.get('name') != record.name:
        raise InputError(f'{PERF} is of {perf.get("name")!r:.80}, {CONFIG} of {record.name!r}; save the folder again')
    return record


def check_folder(folder: str | Path) -> Record:
    """Check a folder and give its record; raises `InputError`.

    It must hold known files and a valid record. The architecture and the weights must be those of the record's arch,
    and a program of PROGRAMS, if there is one, must have been written from these weights.
    """
    folder = Path(folder)
    record = check_network(folder)
    for name in programs_of(folder):
        if read_json(folder / PERF).get(PROGRAMS[name]) != sha256_of(folder / name):
            raise InputError(f'{name} in {str(folder)!r} is not that which {PERF} was written for; remove it, or write '
                             f'it anew (--{name.rpartition(".")[2]})')
    return record


def programs_of(folder: str | Path) -> tuple[str, ...]:
    """The files of PROGRAMS that a folder has."""
    return tuple(name for name in PROGRAMS if (Path(folder) / name).is_file())


def check_network(folder: Path) -> Record:
    """As `check_folder`, but the programs are not looked at."""
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    if PERF not in names and is_supernet(folder):
        raise InputError(f'folder {str(folder)!r} holds a supernet, not a network; make one of its networks with '
                         '`timm-ofa specialize`')
    for name in REQUIRED:
        if name not in names:
            raise InputError(f'folder {str(folder)!r} has no {name}; save it again')
    refuse_pickles(names, folder)
    record = load_record(folder)
    config = read_json(folder / CONFIG)
    _check_config(config, record)
    _check_weights(folder, record)
    digest = sha256_of(folder / WEIGHTS)
    for name, found in ((PERF, read_json(folder / PERF)), (CONFIG, config[BLOCK])):
        if found.get(DIGEST) != digest:
            raise InputError(f'{WEIGHTS} in {str(folder)!r} is not that which {name} was written for; save it again')
    return record


def entry_point(record: Record) -> str:
    """The name under which timm builds the network."""
    return ENTRY_POINTS[record.space.family]


def _check_config(config: dict, record: Record) -> None:
    """timm builds from `config.json` the network that the record describes."""
    expected = json.loads(json.dumps(model_args(record.space, record.arch)))
    given = config.get('model_args')
    name = config.get('architecture')
    if name != entry_point(record) or not isinstance(given, dict):
        raise InputError(f'architecture {name!r:.60} of {CONFIG} is not {entry_point(record)!r}; save it again')
    for key in sorted({*expected, *given} - {*BUILD_ARGS, 'drop_rate'}):
        if key not in expected or given.get(key) != expected[key]:
            raise InputError(f'model_args {key!r:.40} of {CONFIG} is not that of the arch {record.arch}; save it again')
    if given.get('num_classes', record.num_classes) != record.num_classes or given.get('in_chans', 3) != 3:
        raise InputError(
            f'model_args of {CONFIG} are not for 3 channels and {record.num_classes} classes; save the folder again')


def _check_weights(folder: Path, record: Record) -> None:
    with without_weights():
        network = timm.create_model(
            entry_point(record), num_classes=record.num_classes, **model_args(record.space, record.arch))
    check_shapes(folder / WEIGHTS, network, str(folder))


def kind_of(folder: Path) -> str | None:
    """What a folder of timm_ofa holds, 'subnet' or 'supernet'; None if it is no such folder."""
    block = our_block(folder)
    return None if block is None else str(block.get('kind', 'subnet'))


def is_supernet(folder: str | Path) -> bool:
    """Whether the folder's `config.json` says that it holds a supernet."""
    return kind_of(Path(folder)) == 'supernet'


def refuse_pickles(names: Iterable[str], where: Any) -> None:
    """Raise if any of these files is a pickle: timm looks for weights in pickles too, and they can run code."""
    found = [name for name in names if name.lower().endswith(PICKLES)]
    if found:
        raise InputError(f'{str(where)!r} holds {listed(found)}, and pickles can run code; keep {WEIGHTS} only')


def subset(data: Mapping[str, Any], keys: Iterable[str]) -> dict:
    """The entries of `data` that have these keys."""
    return {k: data[k] for k in keys if k in data}
