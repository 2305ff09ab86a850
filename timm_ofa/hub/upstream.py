"""Releases of the authors of Once-for-All are brought into our formats: checkpoints, predictors, latency tables.

A release is given as a file, a folder or an address. If none is given, it is fetched from its authors' address.
"""
from __future__ import annotations

import difflib
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import timm
from torch import nn

from ..accuracy import RELEASED, load_predictor, load_upstream_predictor
from ..devices import import_note10_tables, load_profile
from ..errors import InputError, listed, one_line
from ..files import fetch, replacing_folder
from ..networks import Supernet as ElasticNetwork
from ..spaces import space_names
from ..training import LOG, save_supernet
from .checkpoints import as_file, read_upstream, weights_cure
from .configs import IMAGENET, HubConfig, NamedSubnet, hub_configs
from .finishing import as_named
from .record import Accuracy, Record, Supernet
from .saving import check_target, save_folder
from .supernets import supernet_origin

PREDICTORS = {f'{space}_predictor': space for space in RELEASED}
TABLES = 'note10'
TABLE_URL = 'https://raw.githubusercontent.com/han-cai/files/master/ofa/note10/{}_lookup_table.yaml'
TABLE_RESOLUTIONS = (160, 176, 192, 208, 224)  # px, of the tables at that address


def import_upstream(name: str, source: str | Path | None, out: str | Path) -> Path:
    """Write a release of the authors in our format, and give the path of what was written.

    Args:
        name: What to import. A named network becomes a folder for `publish`, a supernet a folder for `load_supernet`, a
            name of `PREDICTORS` a file for `load_predictor`, and 'note10' a profile for `load_profile`.
        source: A file, a folder (of latency tables) or an http address; None for the authors' address.
        out: The file or the folder to write. A folder is made; if it is such a folder already, it is replaced.
    """
    supernets = [f'{space}_supernet' for space in space_names()]
    config = hub_configs().get(name)
    if name in PREDICTORS:
        return _import_predictor(PREDICTORS[name], source, out)
    if name == TABLES:
        return _import_tables(source, out)
    if name not in supernets and not (config and config.subnet):
        known = [*(n for n, c in hub_configs().items() if c.subnet), *supernets, *PREDICTORS, TABLES]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0)
        raise InputError(f'{name!r:.120} was not released; choose from `timm-ofa models`, for example {listed(near)}')
    return _import_weights(name, config, source, out)


def _import_weights(name: str, config: HubConfig | None, source: str | Path | None, out: str | Path) -> Path:
    if not source and config and config.weights:
        source = config.weights.url
    if not source:
        cure = weights_cure(config) if config and config.subnet else 'give a file with --from'
        raise InputError(f'weights of {name!r} were never released; {cure}')
    model = released_network(name, source)
    if config and config.subnet:
        return save_folder(out, model, subnet_record(name, config.subnet))
    about = dict(license=config.weights.license, imported=name) if config and config.weights else {}
    return save_released(out, model, {'source': str(source), **about})


def released_network(name: str, source: str | Path) -> nn.Module:
    """A named network or supernet with the weights of the authors, from a file or an address."""
    model = timm.create_model(name)
    try:
        model.load_state_dict(read_upstream(source, model))
    except RuntimeError as error:  # it has our tensor names, but is of another network
        raise InputError(f'{str(source)!r:.200} is not of {name!r} ({one_line(error)}); '
                         'give the checkpoint of this very architecture') from None
    return model


def save_released(out: str | Path, supernet: nn.Module, about: dict[str, Any]) -> Path:
    """Write the folder of a supernet as a whole. If there is such a folder already, it is replaced.

    `about` goes into its `config.json`.
    """
    out = check_target(out, 'supernet')
    if (out / LOG).exists():
        raise InputError(f'folder {str(out)!r:.200} holds the run of a training; choose another, or remove it')
    assert isinstance(supernet, ElasticNetwork)
    with replacing_folder(out) as new:
        save_supernet(supernet, new, about)
    return out


def _import_predictor(space: str, source: str | Path | None, out: str | Path) -> Path:
    written = Path(f'{str(out).removesuffix(".safetensors")}.safetensors')
    _refuse_foreign(written, load_predictor)
    with nullcontext() if source is None else as_file(source) as path:
        load_upstream_predictor(path, space).save(out)
    return written


def _import_tables(source: str | Path | None, out: str | Path) -> Path:
    out = Path(f'{str(out).removesuffix(".json")}.json')  # the suffix that `load_profile` asks for
    _refuse_foreign(out, load_profile)
    with tempfile.TemporaryDirectory() as folder:
        if source is None:
            for resolution in TABLE_RESOLUTIONS:
                url = TABLE_URL.format(resolution)
                fetch(url, Path(folder) / url.rpartition('/')[2])
        import_note10_tables(source or folder).save(out)
    return out


def _refuse_foreign(path: Path, load: Callable[[Path], object]) -> None:
    """Raise if there is a file that is not of the kind that `load` reads."""
    try:
        if path.exists():
            load(path)
    except InputError:
        raise InputError(f'file {str(path)!r:.200} holds something else; choose another, or remove it') from None


def subnet_record(name: str, subnet: NamedSubnet) -> Record:
    """The record of a named network with its published figures. Nothing is measured here."""
    from .. import __version__

    accuracy = None if subnet.top1_pct is None else Accuracy(
        dataset='ImageNet-1k' if subnet.data == IMAGENET else subnet.data, split=subnet.split, n=subnet.images,
        protocol=f'as published by {"the authors" if subnet.source else "this package"}, not repeated')
    supernet = Supernet(id=supernet_origin(subnet.supernet)[0]) if subnet.supernet else None
    return as_named(Record(
        name=name, space=subnet.space, arch=subnet.arch, num_classes=subnet.space.num_classes, supernet=supernet,
        top1_pct=subnet.top1_pct, accuracy=accuracy, code_version=__version__), subnet)
