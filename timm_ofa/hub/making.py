"""Weights that nobody has published are made: those of a network that was found in a released supernet.

The supernet is fetched, the network is taken out of it, and some images give it BatchNorm statistics of its own. No
label is read, but the images should be like those that the supernet learned from (tests/bench/bench_calibration.py).
What was made is kept in timm's cache, and a file beside it says of what: the hashes of the supernet and of the images,
the arch.
"""
from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from ..accuracy import CALIBRATION_IMAGES, SubnetJudge, recalibrate_bn, supernet_digest
from ..console import counted
from ..errors import InputError, one_line
from ..files import check_room, locked, remove_parts, save_tensors, sha256_of, write_text
from ..images import (
    CALIBRATION_BATCH,
    Augment,
    CalibrationImages,
    calibration_source,
    files_stamp,
    is_streamed,
    open_calibration,
    stored_side,
)
from ..networks import DIGEST, Supernet, read_json
from ..spaces import Arch
from ..training import load_config
from .configs import IMAGENET, HubConfig, NamedSubnet, hub_configs
from .record import Calibration

OPEN_IMAGES = 'timm/mini-imagenet'  # 100 classes of ImageNet on the Hub, for everybody
IMAGE_MB = 0.13  # of one of them
MACS_PER_S = 1e10  # that a network computes on one core, about
IMAGES_PER_S = 100  # that are fetched and decoded, about
FORMAT = 1  # version of how weights are made

_logger = logging.getLogger(__name__)


def calibrated(supernet: Supernet, arch: Arch, images: CalibrationImages, *, augment: Augment, seed: int = 0,
               num_images: int = CALIBRATION_IMAGES) -> tuple[nn.Module, Calibration, float]:
    """A network of a supernet with BatchNorm statistics from images, in evaluation mode.

    Also gives what is to be said of the images, and the MB that were fetched for them.
    """
    found, fetched_mb = images.fetch()
    judge = SubnetJudge(supernet, found, found, augment=augment, calibration_images=num_images, seed=seed)
    n = min(num_images, len(found))
    batches = counted(judge.batches(arch.resolution), math.ceil(n / CALIBRATION_BATCH), 'recalibrate', 'batch')
    model = recalibrate_bn(supernet.extract(arch), batches).eval()
    return model, Calibration(
        images=n, batch_size=CALIBRATION_BATCH, data=images.name, sha256=judge.calibration_digest(),
        seed=seed), fetched_mb


@contextmanager
def usual_settings() -> Iterator[None]:
    """Compute on the CPU in float32, whatever the caller has set for models that are built in a block of theirs."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device('cpu'), torch.autocast('cpu', enabled=False):
            yield
    finally:
        torch.set_default_dtype(dtype)


def images_for(subnet: NamedSubnet) -> str:
    """The source of the images for a network whose user names none."""
    return calibration_source(OPEN_IMAGES if subnet.data == IMAGENET else subnet.data)


def weights_to_make(config: HubConfig, cache_dir: str | Path | None = None) -> WeightsToMake | None:
    """How the weights of a named model can be made; None if it is no network of a released supernet."""
    from timm.models._hub import get_cache_dir

    subnet = config.subnet
    released = hub_configs().get(subnet.supernet or '') if subnet and not (subnet.url or subnet.file) else None
    if subnet is None or released is None or released.weights is None:
        return None
    return WeightsToMake(
        config.name, subnet, released, images_for(subnet), Path(cache_dir or get_cache_dir()), cache_dir)


@dataclass(frozen=True)
class WeightsToMake:
    """Weights that are made once and kept in a folder, in a file whose name says of what they are made."""
    name: str
    subnet: NamedSubnet
    released: HubConfig  # of the supernet
    source: str  # of the images
    folder: Path
    cache_dir: str | Path | None = None  # of the supernet; None: that of the Hub's client and that of timm

    @cached_property
    def path(self) -> Path:
        """The file of the weights."""
        made_of = [FORMAT, self.released.name, self.subnet.space.to_dict(), str(self.subnet.arch), self.source,
                   files_stamp(self.source), CALIBRATION_IMAGES]
        digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
        return self.folder / f'{self.name}-{digest[:12]}.safetensors'

    @property
    def about(self) -> Path:
        """The file that says what the weights were made of."""
        return self.path.with_suffix('.json')

    def is_kept(self) -> bool:
        """Whether the weights are there, and are those that the file beside them was written for."""
        try:
            return self.path.is_file() and read_json(self.about).get(DIGEST) == sha256_of(self.path)
        except InputError:  # it was stopped before that file, or somebody changed it
            return False

    def make(self, why: str) -> Path:
        """Make the weights and give their file. Processes that want the same wait for the first. Raises `InputError`.

        `why`: what was said where they were looked for.
        """
        with locked(self.path, waiting=f'another process makes the weights of {self.name}'):
            if self.is_kept():
                return self.path
            remove_parts(self.path)
            began = time.perf_counter()
            _logger.warning(self._announcement())
            try:
                about = self._make()
                write_text(self.about, json.dumps(about, indent=1) + '\n')
            except (InputError, OSError) as error:
                raise InputError(f'weights of {self.name!r} are not published ({why}) and could not be made '
                                 f'({one_line(error)}); {self._cures()}') from None
            _logger.info('weights of %s were made in %.0f s, and %.0f MB of images were fetched', self.name,
                         time.perf_counter() - began, about['image_mb'])
        return self.path

    @property
    def _ships(self) -> bool:
        """Whether the supernet comes with the package."""
        return bool(self.released.weights and self.released.weights.file)

    def _announcement(self) -> str:
        space, n = self.subnet.space, CALIBRATION_IMAGES
        megabytes = is_streamed(self.source) * IMAGE_MB * n
        if not self._ships:
            megabytes += 4e-6 * space.params(space.max_arch())
        minutes = math.ceil(n * (space.macs(self.subnet.arch) / MACS_PER_S + 1 / IMAGES_PER_S) / 60)
        return (f'weights of {self.name} are not published, so they are made once, from {self.released.name} and '
                f'up to {n:,} images of {self.source}: up to {megabytes:.0f} MB are fetched, and on one core it takes '
                f'about {minutes} minute{"s" * (minutes > 1)}; they will be in {self.path}')

    def _make(self) -> dict[str, Any]:
        """Write the file of the weights. Returns what they were made of."""
        space, arch = self.subnet.space, self.subnet.arch
        config = load_config(self.released.path)
        check_room(self.folder, 4e-6 * (2 * space.params(space.max_arch()) + space.params(arch)))
        with torch.random.fork_rng(devices=[]), usual_settings():
            images = open_calibration(
                self.source, stored_side(space, arch.resolution), CALIBRATION_IMAGES, holdout=config.holdout,
                seed=config.seed)
            supernet = timm.create_model(self.released.name, pretrained=True, cache_dir=self.cache_dir)
            assert isinstance(supernet, Supernet)
            model, calibration, image_mb = calibrated(supernet, arch, images, augment=config.augment)
        save_tensors(self.path, model.state_dict())
        return dict(
            name=self.name, arch=str(arch), supernet=self.released.name, supernet_sha256=supernet_digest(supernet),
            images=calibration.images, data=calibration.data, images_sha256=calibration.sha256,
            image_mb=round(image_mb, 1), **{DIGEST: sha256_of(self.path)})

    def _cures(self) -> str:
        supernet = self.released.name
        by_hand = (
            f'or get the file of the supernet, `timm-ofa import-upstream --name {supernet} --from FILE --out '
            f'out/{supernet}` and `timm-ofa specialize --config {self.name} --supernet out/{supernet}`, ')
        return (
            'connect to the Hub, or name images like those of its training in TIMM_OFA_CALIBRATION_DATA (a folder, '
            f'parquet files or a Hub id), {"" if self._ships else by_hand}or free space, '
            'or set HF_HOME and TORCH_HOME to another disk, or use pretrained=False')
