"""What may leave this computer with a published folder or profile: the one list of files, keys and columns.

All else stays: keys that somebody added, places on the disk, and codecarbon's coordinates and machine.
"""
from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..devices import UNITS, DeviceProfile
from ..errors import InputError
from ..fields import HUB_ID
from ..files import write_text
from ..networks import BLOCK, DIGEST
from ..training import TrainConfig
from .folder import ELSEWHERE, PERF, PROGRAMS, RESULTS, subset
from .metadata import eval_results
from .record import Record, SupernetRecord

CONFIG_KEYS = (  # of config.json; those that timm reads, and our block
    'architecture', 'num_classes', 'num_features', 'global_pool', 'label_names', 'label_descriptions', 'model_args',
    'pretrained_cfg', BLOCK)
PRETRAINED_KEYS = (  # of its pretrained_cfg: what the network is and how images go in, but not where it was read from
    'tag', 'license', 'origin_url', 'paper_name', 'paper_ids', 'notes', 'num_classes', 'input_size', 'test_input_size',
    'min_input_size', 'fixed_input_size', 'interpolation', 'crop_pct', 'test_crop_pct', 'crop_mode', 'mean', 'std',
    'pool_size', 'test_pool_size', 'first_conv', 'classifier', 'custom_load')
SUPERNET_KEYS = (  # of its block
    'kind', DIGEST, 'space', 'data', 'class_names', 'training', 'source', 'license', 'imported', 'skipped_images')
PERF_KEYS = ('format', 'name', DIGEST, *PROGRAMS.values(), 'pt2_torch', *ELSEWHERE[PERF])
EVENT_KEYS = (  # of log.jsonl and times.jsonl
    'event', 'processes', 'data', 'images', 'steps', 'versions', 'phase', 'epoch', 'step', 'at_step', 'loss',
    'lr', 'seconds', 'session_s', 'date', 'device', 'device_name', 'changed', 'largest_top1_pct', 'smallest_top1_pct',
    'subnet', 'top1_pct', 'macs_m', 'params_k', 'arch')
PROTOCOL_KEYS = (  # of a device profile; its other fields are checked ones, and all of them leave
    'statistic', 'method', 'sweeps', 'order', 'paced', 'calibration_nets', 'processor', 'host', 'noise_pct',
    'drift_pct', 'share_by_weights', 'corrected_pct', 'networks', 'left_out', *(f'ms per {unit}' for unit in UNITS))
EMISSION_COLUMNS = (
    'timestamp', 'run_id', 'duration', 'emissions', 'energy_consumed', 'cpu_energy', 'gpu_energy', 'ram_energy')


def public_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What leaves of a `config.json`. Our block is checked by its own reader."""
    found = subset(config, CONFIG_KEYS)
    if isinstance(found.get('pretrained_cfg'), Mapping):
        found['pretrained_cfg'] = subset(found['pretrained_cfg'], PRETRAINED_KEYS)
    return found


def public_event(event: Mapping[str, Any], training: TrainConfig | None) -> dict[str, Any]:
    """What leaves of an event of a log; its configuration is `training`, which holds no paths."""
    config = {'config': training.to_dict()} if training and 'config' in event else {}
    return {**{key: event[key] for key in event if key in EVENT_KEYS}, **config}


def public_training(training: TrainConfig, data: str | None) -> TrainConfig:
    """The configuration of a training with names in place of paths. `data` is the name of its images."""
    data = data or public_name(training.data) or 'unknown'
    is_named = re.fullmatch(rf'(stream:)?{re.escape(data)}(\?[^/\\]*)?', training.data)
    return replace(
        training, data=training.data if is_named else data, test=public_name(training.test),
        teacher=public_name(training.teacher),
        initial_checkpoint=public_name(training.initial_checkpoint))


def public_name(source: str | None) -> str | None:
    """A name of timm's, of ours or of the Hub as it is; of a path, the last part alone; of an address, no query, which
    may hold a token."""
    if source is None or re.fullmatch(rf'hf[-_]hub:{HUB_ID}(@[\w.-]+)?|[\w.-]+|https?://[^\s@]+', source, re.ASCII):
        return source and source.partition('?')[0]
    return re.split(r'[/\\]', source.partition('?')[0].rstrip('/\\'))[-1].rpartition(':')[2] or 'unknown'


def public_profile(profile: DeviceProfile) -> DeviceProfile:
    """What leaves of a device profile."""
    return replace(profile, protocol=subset(profile.protocol, PROTOCOL_KEYS))


def public_emissions(text: str) -> str:
    """What leaves of codecarbon's table: times and energy, neither place nor machine."""
    rows = list(csv.DictReader(io.StringIO(text, newline='')))
    columns = [name for name in EMISSION_COLUMNS if rows and name in rows[0]]
    out = io.StringIO(newline='')
    writer = csv.DictWriter(out, columns, extrasaction='ignore', lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def write_results(folder: Path, record: Record | SupernetRecord) -> None:
    """Write the Hub's file of results, if it takes the data set."""
    if text := eval_results(record):
        write_text(folder / RESULTS, text)


def refuse_links(folder: Path, names: Iterable[str]) -> None:
    """Raise if one of these files is a link to a file elsewhere. In the Hub client's cache, links lead to its blobs."""
    cache = folder.resolve().parent.parent / 'blobs'
    homes = (folder.resolve(), cache) if folder.resolve().parent.name == 'snapshots' else (folder.resolve(),)
    for name in names:
        path = folder / name
        if path.is_symlink() and path.resolve().parent not in homes:
            raise InputError(f'{name} in {str(folder)!r:.200} is a link to a file elsewhere, which would be published; '
                             'put a copy in its place, or remove it')


def copy_files(folder: Path, stage: Path, names: Iterable[str]) -> None:
    """Copy those of these files that there are."""
    for name in names:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, stage / name)
