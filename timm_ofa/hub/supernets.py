"""Folders of trained supernets are checked and made ready to publish, so that others can search them for their devices.

The folder that training wrote stays as it is. The published copy does not name places on the disk of its owner.
"""
from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import yaml

from ..errors import InputError, listed, one_line
from ..fields import is_hub_id
from ..files import sha256_of, write_text
from ..networks import BLOCK, CONFIG, DIGEST, WEIGHTS, Supernet, check_shapes, our_block, read_json, without_weights
from ..training import LOG, RUN_FILES, TIMES, TrainConfig, differing, run_events, supernet_config, supernet_folder
from .configs import hub_configs
from .cost import EMISSIONS, training_cost
from .folder import is_supernet, subset
from .outgoing import (
    SUPERNET_KEYS,
    copy_files,
    public_config,
    public_emissions,
    public_event,
    public_name,
    public_training,
    refuse_links,
    write_results,
)
from .plots import is_report, plot_training
from .record import SupernetRecord, is_name, to_name

COMMIT = re.compile('[0-9a-f]{40}')  # hash
SPACE, TRAINING, CURVES = 'space.json', 'train.yaml', 'training.svg'
FILES = (CONFIG, WEIGHTS, 'README.md', SPACE, TRAINING, CURVES, *RUN_FILES, 'LICENSE')  # that are published and fetched


def check_supernet(folder: str | Path) -> tuple[SupernetRecord, TrainConfig | None]:
    """Check a supernet's folder before anything in it is used: its space, its weights, how it was trained, its log.

    Gives its record and, if it is known, the configuration of its training. Raises `InputError`.
    """
    folder = Path(folder)
    record, training, network = read_supernet(folder)
    if not (folder / WEIGHTS).is_file():
        raise InputError(f'folder {str(folder)!r:.200} has no {WEIGHTS}; train it to the end')
    check_shapes(folder / WEIGHTS, network, str(folder))
    digest = sha256_of(folder / WEIGHTS)
    if read_json(folder / CONFIG)[BLOCK].get(DIGEST, digest) != digest:
        raise InputError(f'{WEIGHTS} in {str(folder)!r:.200} is not that which {CONFIG} was written for; get it anew')
    return record, training


def read_supernet(folder: Path) -> tuple[SupernetRecord, TrainConfig | None, Supernet]:
    """Read and check the files beside a supernet's weights. Gives the record, the configuration of the training, and
    the network without storage."""
    from .. import __version__

    if not is_supernet(folder):
        raise InputError(f'folder {str(folder)!r:.200} is not of a supernet; give one that training wrote')
    config = read_json(folder / CONFIG)
    block = config[BLOCK]
    network = _network(config)
    if block.get('space') != network.space.name:
        raise InputError(f'{CONFIG}: space {block.get("space")!r:.60} is not {network.space.name!r}; save it again')
    training = block.get('training')
    training = None if training is None else TrainConfig.from_dict(training, f'{CONFIG}: training')
    data = block.get('data')
    record = SupernetRecord.from_dict(dict(
        name=_name(training, network.space.name),
        space=network.space.to_dict(), num_classes=network.num_classes, class_names=block.get('class_names') or [],
        data=data, skipped_images=block.get('skipped_images'),
        dataset_id=data if is_hub_id(str(data)) and not (training and training.test) else None,
        judged=[{k: v for k, v in event.items() if k != 'event'} for event in run_events(folder, LOG)
                if event.get('event') == 'subnet'],
        source=public_name(source) if isinstance(source := block.get('source'), str) else source,
        license=_license(block, training), code_version=__version__))
    return replace(record, training=training_cost(folder)), training, network


def _name(training: TrainConfig | None, space: str) -> str:
    """The name of a training, if it is one of a repository; else one of the space."""
    known = training.name if training else ''
    return known if is_name(known) else to_name(f'{space}_supernet')


def supernet_origin(source: str) -> tuple[str, str | None, str]:
    """Id, commit and license of a supernet. The id is its repository on the Hub, where it has one; else the name of its
    training, never its place on a disk.

    Args:
        source: As in `load_supernet`: the name of a released supernet, 'hf-hub:ORG/NAME', or a folder.
    """
    released = hub_configs().get(source)
    if released and released.weights:
        return released.weights.hub_id, None, released.weights.license
    folder = supernet_folder(source)
    training = supernet_config(folder)
    block = our_block(folder) or {}
    license = _license(block, training)
    repo_id, _, revision = source.removeprefix('hf-hub:').partition('@')
    if source.startswith('hf-hub:'):
        return repo_id, folder.name if COMMIT.fullmatch(folder.name) else revision or None, license
    imported = str(block.get('imported'))
    if imported in hub_configs():
        return supernet_origin(imported)
    return training.name if training else Path(repo_id).name, None, license


def _license(block: Mapping[str, Any], training: TrainConfig | None) -> str:
    """The license that a supernet's folder states, else that of the released weights that its training began with."""
    begun = hub_configs().get(training.initial_checkpoint or '') if training else None
    return block.get('license') or (begun.weights.license if begun and begun.weights else 'apache-2.0')


def stage_supernet(folder: str | Path, stage: Path) -> tuple[SupernetRecord, TrainConfig | None]:
    """Check a supernet's folder and write all its files, except the card, to the folder `stage`, which is then
    published."""
    folder = Path(folder)
    refuse_links(folder, FILES)
    record, training = check_supernet(folder)
    training = training and public_training(training, record.data)
    config = public_config(read_json(folder / CONFIG))
    config[BLOCK] = subset(config[BLOCK], SUPERNET_KEYS)
    if training:
        config[BLOCK]['training'] = training.to_dict()
        written = {'kind': 'supernet', **_written(training.to_dict(), differing(training))}
        write_text(stage / TRAINING, yaml.safe_dump(written, sort_keys=False))
    if record.source:
        config[BLOCK]['source'] = record.source
    write_text(stage / CONFIG, json.dumps(config, indent=2) + '\n')
    write_text(stage / SPACE, json.dumps(record.space.to_dict(), indent=2) + '\n')
    copy_files(folder, stage, (WEIGHTS, 'LICENSE'))
    write_results(stage, record)
    for name in (LOG, TIMES):
        events = [public_event(event, training) for event in run_events(folder, name)]
        if events:
            write_text(stage / name, ''.join(json.dumps(event) + '\n' for event in events))
        if any(map(is_report, events)):
            plot_training(events, stage / CURVES)
    if (folder / EMISSIONS).is_file():
        write_text(stage / EMISSIONS, public_emissions((folder / EMISSIONS).read_text(encoding='utf-8')))
    return record, training


def _written(data: Any, differs: Any) -> Any:
    """The part of JSON data that differs from its defaults: a training refuses keys that would do nothing."""
    if isinstance(data, dict) and isinstance(differs, dict):
        return {key: _written(value, differs[key]) for key, value in data.items() if key in differs}
    if isinstance(data, list) and data and isinstance(data[0], dict):
        return [_written(*pair) for pair in zip(data, differs)]
    return data


def _network(config: Mapping[str, Any]) -> Supernet:
    """The supernet that `config.json` describes, without storage for its weights."""
    name, args = config.get('architecture'), config.get('model_args') or {}
    if not isinstance(name, str) or not re.fullmatch(r'ofa_(\w+_)?supernet', name) or not timm.is_model(name):
        known = timm.list_models('ofa_*supernet')
        raise InputError(f'{CONFIG}: architecture {name!r:.60} is no supernet; choose from {listed(known)}')
    allowed = {'space', 'resolutions', 'num_classes', 'in_chans', 'global_pool', 'drop_rate', 'bn_eps', 'bn_momentum'}
    try:
        unknown = sorted(set(args) - allowed)
        with without_weights():
            network = None if unknown else timm.create_model(
                name, **{'num_classes': config.get('num_classes'), **args})
    except InputError:
        raise
    except Exception as error:  # timm may raise anything for arguments of strangers
        raise InputError(f'{CONFIG}: model_args cannot be built ({one_line(error)}); save it again') from None
    if unknown:
        raise InputError(f'{CONFIG}: model_args hold {unknown[0]!r:.60}, which a supernet does not take; remove it')
    assert isinstance(network, Supernet)
    return network
