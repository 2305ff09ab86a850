"""Finished networks are written as folders that timm loads.

`save_folder` writes one and proves that timm loads it bit for bit; `update_folder`, `add_onnx`, `add_pt2` and
`stage_folder` change or copy one that was checked first.
"""
from __future__ import annotations

import copy
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from ..errors import InputError
from ..files import locked, refuse_in_use, replacing, replacing_folder, save_tensors, sha256_of, write_text
from ..networks import BLOCK, CONFIG, DIGEST, WEIGHTS, data_cfg, model_args, read_json, write_config
from ..runtimes import Session, to_onnx
from .card import render_card
from .folder import (
    CARD,
    CONFUSION,
    DRAWING,
    ELSEWHERE,
    FILES,
    FORMAT,
    ONNX,
    PERF,
    PLOT,
    PROGRAMS,
    PT2,
    RESULTS,
    check_folder,
    check_network,
    entry_point,
    kind_of,
    load_record,
    programs_of,
    subset,
)
from .outgoing import PERF_KEYS, copy_files, public_config, refuse_links, write_results
from .plots import plot_architecture, plot_confusion, plot_front, shows_confusion
from .record import Record

MAX_ONNX_ERROR = 1e-3  # of the largest logit: rounding stays below it, and any wrong weight is far above it


def save_folder(folder: str | Path, model: nn.Module, record: Record) -> Path:
    """Write a folder that `timm.create_model('local-dir:...', pretrained=True)` loads, and check that it loads.

    Args:
        folder: It is made; if it is such a folder already, it is replaced as a whole.
        model: A stock timm network of `record.arch`. Its weights and BatchNorm statistics are saved.

    Returns:
        The folder. Raises `InputError` if the folder holds something else, or the network is not that of the record.
    """
    folder, record = check_target(folder), record.check()
    model = _plain_copy(model)
    with replacing_folder(folder) as partial:
        save_tensors(partial / WEIGHTS, model.state_dict())
        _write_config(partial / CONFIG, model, record)
        _write_figures(partial, record, {'format': FORMAT, 'name': record.name, DIGEST: sha256_of(partial / WEIGHTS)})
        plot_architecture(record, partial / DRAWING)
        check_folder(partial)
        _check_same_logits(partial, model, record.arch.resolution)
    return folder


def check_target(folder: str | Path, kind: str = 'subnet') -> Path:
    """The folder that `save_folder` is to write, or that of a supernet; raises `InputError` if it cannot be made, or
    holds something of another kind."""
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and (kind_of(folder) == kind or not any(folder.iterdir()))):
        raise InputError(f'folder {str(folder)!r} holds something else; choose another, or remove it')
    refuse_in_use(folder)
    return folder


def _write_figures(folder: Path, record: Record, perf: dict, before: Record | None = None) -> None:
    """Write the files that change with a latency or the front: `perf.json`, pictures and card.

    Args:
        perf: The fields of `perf.json` that do not change.
        before: The record that the folder holds now. No picture shows measurements, so if nothing else is new, the
            pictures that are there stay.
    """
    _write_json(folder / PERF, {**perf, **subset(record.to_dict(), ELSEWHERE[PERF])})
    stay = before is not None and replace(before, measurements=record.measurements) == record
    for name, shown, plot in ((PLOT, record.front, plot_front), (CONFUSION, shows_confusion(record), plot_confusion)):
        if shown and not (stay and (folder / name).exists()):
            plot(record, folder / name)
    write_results(folder, record)
    write_text(folder / CARD, render_card(record, programs=programs_of(folder)))


def update_folder(folder: str | Path, change: Callable[[Record], Record]) -> Record:
    """Write other latencies or another front into a folder, and give its new record. Weights and config stay.

    Args:
        change: Gives the new record from the one that the folder holds now. Other updates of the folder wait meanwhile.
    """
    folder = Path(folder)
    with locked(folder):
        before = check_folder(folder)
        record = change(before).check()
        _write_figures(folder, record, read_json(folder / PERF), before)
    return record


def stage_folder(folder: str | Path, stage: Path) -> Record:
    """Check a folder and copy its files, except the card, to the folder `stage`, which is then published; raises
    `InputError`."""
    folder = Path(folder)
    refuse_links(folder, FILES)
    record = check_folder(folder)
    _check_card(folder, record)
    copy_files(folder, stage, (name for name in FILES if name not in (CARD, RESULTS)))
    write_results(stage, record)
    for name, kept in ((CONFIG, public_config(read_json(folder / CONFIG))),
                       (PERF, subset(read_json(folder / PERF), PERF_KEYS))):
        if kept != read_json(folder / name):
            _write_json(stage / name, kept)
    return record


def _check_card(folder: Path, record: Record) -> None:
    """Raise if the card of a folder is not the one that its record gives. There may be no card. The repository
    and the programs that the card names do not matter."""
    if not (folder / CARD).is_file():
        return
    text = (folder / CARD).read_text(encoding='utf-8', errors='replace')
    named = re.search(r"hf-hub:([\w.-]+/[\w.-]+)'", text, re.ASCII)
    programs = [name for name in PROGRAMS if f"'{name}'" in text]
    lines = render_card(record, named and named[1], programs=programs).splitlines()
    for number, (found, expected) in enumerate(zip_longest(text.splitlines(), lines), 1):
        if found != expected:
            raise InputError(f'{CARD} in {str(folder)!r:.200} is not the card of its record from line {number} on '
                             f'({found or "nothing"!r:.60}): edited by hand, or of another version; delete it, and '
                             'publishing writes it anew')


def add_onnx(folder: str | Path) -> Path:
    """Write `model.onnx` beside the weights of a folder: input 'x' (N, 3, R, R) at the network's resolution, output 'y'
    (N, classes), for any N.

    If ONNX Runtime is installed, its logits must be those of the torch network. `perf.json` keeps the hash of the file,
    by which `check_folder` knows that it belongs to the weights.
    """
    folder = Path(folder)
    record = check_network(folder)
    rows = record.space.rows(record.arch, record.num_classes)
    model = to_onnx(rows, weights=load_file(folder / WEIGHTS), bn_eps=record.space.bn_eps, batch_size=None)
    if find_spec('onnxruntime'):
        _check_onnx_logits(model, folder, record.arch.resolution)
    return _add_program(folder, ONNX, model)


def add_pt2(folder: str | Path) -> Path:
    """Write `model.pt2` beside the weights of a folder: a program of `torch.export` that runs with torch alone. It
    takes x (N, 3, R, R) at the network's resolution to logits (N, classes), for any N.

    It must give the logits of the network bit for bit. `perf.json` keeps its hash, and the version of torch.
    """
    folder = Path(folder)
    record = check_network(folder)
    model, x, logits = _loaded(folder, record.arch.resolution)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim('n')},))
    for node in program.graph.nodes:
        node.meta.pop('stack_trace', None)  # places on this disk
    file = io.BytesIO()
    torch.export.save(program, file)
    _check_pt2_logits(file.getvalue(), folder, x, logits)
    return _add_program(folder, PT2, file.getvalue(), pt2_torch=torch.__version__.partition('+')[0])


def _add_program(folder: Path, name: str, data: bytes, **about: str) -> Path:
    """Write a file of PROGRAMS, its hash, and the card, which says how to load it."""
    with locked(folder):
        record = load_record(folder)  # somebody may have written latencies while the program was made
        _check_card(folder, record)
        with replacing(folder / name) as temporary:
            temporary.write_bytes(data)
        _write_json(folder / PERF, {**read_json(folder / PERF), PROGRAMS[name]: sha256_of(folder / name), **about})
        write_text(folder / CARD, render_card(record, programs=programs_of(folder)))
    return folder / name


def _plain_copy(model: nn.Module) -> nn.Module:
    """A copy on the CPU whose tensors are contiguous, as they are in files, so that both compute the same bits."""
    model = copy.deepcopy(model).cpu().eval()
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return model


def _write_config(path: Path, model: nn.Module, record: Record) -> None:
    data = data_cfg(record.space, record.arch.resolution)
    inside = {k: v for k, v in record.to_dict().items() if k not in (*ELSEWHERE[PERF], *ELSEWHERE[CONFIG])}
    write_config(
        path, model,
        model_config={
            'pretrained_cfg': {
                'architecture': entry_point(record), 'tag': '', 'license': record.license, 'origin_url': '',
                'notes': [f'{record.space.name} {record.arch}'], **data},
            **({'label_names': list(record.class_names)} if record.class_names else {}),
            BLOCK: {'format': FORMAT, DIGEST: sha256_of(path.with_name(WEIGHTS)), **inside},
        },
        model_args=model_args(record.space, record.arch),
        data_config={k: data[k] for k in ('input_size', 'crop_pct', 'interpolation', 'mean', 'std')})


def _loaded(folder: Path, resolution: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The network of a folder, two random images (2, 3, R, R), and the logits (2, classes) that it gives for them."""
    model = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    x = torch.randn(2, 3, resolution, resolution, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return model, x, model(x)


def _check_same_logits(folder: Path, model: nn.Module, resolution: int) -> None:
    _, x, logits = _loaded(folder, resolution)
    with torch.inference_mode():
        difference = (logits - model(x)).abs().max().item()
    if difference != 0:
        raise InputError(
            f'the reloaded network differs by {difference:g} in its logits; save a model of the plain timm class')


def _check_onnx_logits(model: bytes, folder: Path, resolution: int) -> None:
    _, x, logits = _loaded(folder, resolution)
    error = np.abs(Session(model, x=x.numpy()).predict(x.numpy()) - logits.numpy()).max() / logits.abs().max().item()
    if not error <= MAX_ONNX_ERROR:
        raise InputError(f'{ONNX} of {str(folder)!r} would differ by {error:.2g} of its logits; save the folder again')


def _check_pt2_logits(program: bytes, folder: Path, x: torch.Tensor, logits: torch.Tensor) -> None:
    model = torch.export.load(io.BytesIO(program)).module()
    with torch.inference_mode():
        equal = torch.equal(model(x), logits) and len(model(x[:1])) == 1
    if not equal:
        raise InputError(f'{PT2} of {str(folder)!r} would not give the logits of the network; save the folder again')


def _write_json(path: Path, data: dict) -> None:
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + '\n')
