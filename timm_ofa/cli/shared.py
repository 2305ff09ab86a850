"""What several verbs share: their common options, the supernet with its images, and checks before the work begins."""
from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console import say
from ..errors import InputError, listed
from ..files import check_room, check_writable, existing
from ..runtimes import runtime_names
from .verbs import Option, one_of, positive, profile_limit, whole

if TYPE_CHECKING:
    from torch import nn

    from ..accuracy import SubnetJudge
    from ..hub import Attempt, FrontFile, NamedSubnet, Source, Training
    from ..images import Augment, CalibrationImages
    from ..networks import Supernet
    from ..spaces import Arch, SearchSpace
    from ..training import TrainConfig

MUCH_MB = 1000  # of memory, from which on it is said
COMMON = dict(
    seed=Option('seed of all random choices', 'N', whole(0)),
    space=Option('search space: a name from `timm-ofa spaces`, or a JSON file of one', 'SPACE'),
    supernet=Option('supernet: a folder that `timm-ofa train` wrote, hf-hub:ORG/NAME, or the name of a released '
                    'supernet from `timm-ofa models`', 'SUPERNET'),
    data=Option("images: a data set id of the Hub, a folder of images by class, a folder of parquet files, 'digits', "
                "or 'fashion-mnist-12k'", 'DATA'),
    test=Option('test images from another source, like those of --data; the names of their classes must be the same',
                'DATA'),
    skip_broken=Option('leave out images that cannot be decoded, instead of refusing the data'),
    num_calibration=Option(
        'number of training images from which BatchNorm statistics are computed, or weights repaired where the largest '
        'subnet alone was trained; by default 2000, but for repair 768 (256 in collect)', 'N', whole(2)),
    runtime=Option(f'runtime: {listed(runtime_names())}', 'RUNTIME'),
    precision=Option('precision: fp32, fp16, bf16 or int8, where the runtime has it', 'PRECISION',
                     one_of('fp32', 'fp16', 'bf16', 'int8')),
    threads=Option('number of CPU threads', 'N', whole(1)),
    batch_size=Option('number of images in one run', 'N', whole(1)),
    processor=Option('processor: cpu or cuda', 'PROCESSOR', one_of('cpu', 'cuda')),
    resolutions=Option('resolutions in px; by default all that are known', 'PX', whole(1), many=True),
    max_latency_ms=Option('largest latency in ms', 'MS', positive),
    also=Option('largest latency in ms on one more device, for example gpu.json=4.5', 'PROFILE=MS', profile_limit,
                many=True),
    seconds=Option('about how long to measure, in seconds', 'S', positive),
    export_kit=Option('measure another device: write a folder of files and a script for it', 'DIR'),
    android=Option('make the kit for an Android device without Python; its script runs on a computer with adb'),
    import_kit=Option('read the results.json that the script of a kit wrote', 'FILE.json'))
GO_ON = 'stopped; run the same command again to go on'  # what Ctrl-C says where finished steps are kept
KIT_HINT = 'on the device, with numpy and onnxruntime: python run_kit.py; then bring back results.json'
ANDROID_HINT = ('on a computer with adb and the device: python run_android.py --benchmark FILE (-h says which); then '
                'bring back results.json')


def options(common: str, **own: Option) -> dict[str, Option]:
    """Options of a verb: common ones by their names, and its own."""
    return {**{name: COMMON[name] for name in common.split()}, **own}


# ---- checks before the work begins -----------------------------------------------------------------------------------


def check_files(**paths: str | None) -> None:
    """Say before the work, not after it, that a file of an option cannot be written."""
    for name, path in paths.items():
        if path is None:
            continue
        check_folder_place(path, f'--{name}')
        if Path(path).is_dir():
            raise InputError(f'--{name} {path!r:.120} is a folder; give a file')


def check_room_for(copies: int, folder: str | Path, space: SearchSpace) -> None:
    """Say before the work that the disk has no room for so many copies of the largest network's weights."""
    check_room(folder, 4e-6 * copies * space.params(space.max_arch()))


def check_folder_place(path: str, flag: str = '--out') -> None:
    """Say before the work that the folder around a result cannot be written to. One that is missing is made with it."""
    place = existing(Path(path).parent)
    if not place.is_dir():
        raise InputError(f'{flag} {path!r:.120}: {str(place)!r:.120} is a file; give a folder')
    check_writable(place)


def config_path(text: str, kind: str) -> Path:
    """A configuration of that kind: a file, or one of the shelf by its name; raises `InputError`."""
    from ..hub import find_config

    return Path(text) if os.path.isfile(text) else find_config(text, kind).path


def say_memory(judge: SubnetJudge) -> None:
    """Say before subnets are judged how much memory that takes, where it is much."""
    from ..accuracy import launched

    if judge.memory_mb > MUCH_MB and launched().is_main_process:
        say(f'judging subnets takes up to about {judge.memory_mb / 1e3:.1f} GB besides the images, in each process')


def best_within(found: FrontFile, timer: Callable[[Arch], dict[str, Any]] | None, before: str = '') -> Attempt:
    """The best network of a front within its limit: as it is measured, or, without a timer, as it is predicted.

    Says which ones were over the limit, with `before` in front.
    """
    from ..hub import Attempt, meet_limit

    if timer is None:
        return Attempt(found.best(), {})
    attempts = meet_limit(found.front, found.bound_ms, timer)
    for attempt in attempts[:-1]:
        say(f'{before}measured {attempt.measured["latency_ms"]:.4g} ms is over the limit; next')
    return attempts[-1]


# ---- a supernet and its images ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OpenSupernet:
    """A supernet that a verb works with, before any image was read."""
    id: str
    supernet: Supernet
    is_released: bool
    config: TrainConfig | None  # of its training, where that is known
    cost: Training | None  # likewise
    side: int  # at which its images are stored, px

    @property
    def space(self) -> SearchSpace:
        return self.supernet.space

    def for_arch(self, arch: Arch) -> OpenSupernet:
        """The same, with images large enough for a network, whose resolution may be above those of the space."""
        from ..images import stored_side

        return replace(self, side=max(self.side, stored_side(self.space, arch.resolution)))

    @property
    def augment(self) -> Augment:
        """What its training did to images at random."""
        from ..images import Augment

        return self.config.augment if self.config else Augment()

    @property
    def _parts(self) -> dict[str, Any]:
        """What decided which images were held out of its training."""
        return dict(holdout=self.config.holdout, seed=self.config.seed) if self.config else {}

    def calibration_images(self, source: str, n: int, *, skip_broken: bool = False) -> CalibrationImages:
        """Images whose labels do not matter: those that `with_images` would calibrate on, of any classes."""
        from ..images import open_calibration

        return open_calibration(source, self.side, n, skip_broken=skip_broken, **self._parts)

    def with_images(self, data: str, *, seed: int, test: str | None = None, num_calibration: int | None = None,
                    skip_broken: bool = False, teacher: nn.Module | None = None) -> Source:
        """The supernet with the images that its networks are judged on; raises `InputError` for other classes.

        They are parted as in its training, so `test` is by default that of the training. `teacher`: see `Source`.
        """
        from ..hub import Source
        from ..images import load_data

        config = self.config
        images = load_data(
            data, self.side, **self._parts, limit=config.limit if config else None,
            decode=config.decode if config else 'auto',
            images_per_epoch=config.images_per_epoch if config and data.startswith('stream:') else None,
            skip_broken=skip_broken or bool(config and config.skip_broken and not data.startswith('stream:')),
            test=test or (config.test if config else None))
        if self.supernet.num_classes != images.num_classes:
            cure = 'give images of the same classes' if self.is_released else 'train a supernet on this data'
            raise InputError(
                f'supernet {self.id!r:.100} has {self.supernet.num_classes} classes, data {images.name!r:.60} has '
                f'{images.num_classes}; {cure}')
        return Source(self.supernet, self.id, images, self.augment, self.cost, seed=seed,
                      calibration_images=num_calibration, repairs=bool(config and not config.trains_subnets),
                      teacher=teacher)


def open_supernet(supernet: str | None, subnet: NamedSubnet | None = None) -> OpenSupernet:
    """A supernet from a folder or the Hub, or a released one, whose weights ship with the package or are downloaded.

    A named network has a supernet of its own if none is given.
    """
    from ..hub import hub_configs, training_cost
    from ..images import stored_side
    from ..networks import load_supernet
    from ..training import load_config, supernet_config, supernet_folder

    own = (subnet.supernet or f'{subnet.space.name}_supernet') if subnet else ''
    supernet_id = supernet or own
    released = [name for name in (supernet_id, own) if name in hub_configs() and hub_configs()[name].weights]
    loaded = load_supernet(supernet_id)
    side = stored_side(loaded.space)
    if subnet:
        _check_supernet_of(subnet, supernet_id, loaded.space)
        side = stored_side(loaded.space, subnet.arch.resolution)
    folder = None if supernet_id in released else supernet_folder(supernet_id)
    config = supernet_config(folder) if folder else None
    if config is None and released:
        config = load_config(hub_configs()[released[0]].path)
    return OpenSupernet(supernet_id, loaded, supernet_id in released, config,
                        training_cost(folder) if folder else None, side)


def _check_supernet_of(subnet: NamedSubnet, supernet_id: str, space: SearchSpace) -> None:
    if space.name != subnet.space.name:
        raise InputError(f'supernet {supernet_id!r:.100} is of {space.name}, {subnet.name} is of {subnet.space.name}; '
                         f'give one of that space, or leave out --supernet')
    space.check(subnet.arch)
