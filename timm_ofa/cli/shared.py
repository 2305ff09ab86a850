"""What several verbs share: their common options, the supernet with its images, and checks before the work begins."""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, listed
from ..runtimes import runtime_names
from .verbs import Option, positive, whole

if TYPE_CHECKING:
    from ..hub import NamedSubnet, Source
    from ..spaces import SearchSpace

CALIBRATION_IMAGES = 2000
COMMON = dict(
    seed=Option('seed of all random choices', 'N', whole(0)),
    space=Option('search space: a name from `timm-ofa spaces`, or a JSON file of one', 'SPACE'),
    supernet=Option('supernet: a folder that `timm-ofa train` wrote, hf-hub:ORG/NAME, or the name of a released '
                    'supernet from `timm-ofa models`', 'SUPERNET'),
    data=Option("images: a data set id of the Hub, a folder of images by class, a folder of parquet files, 'digits', "
                "or 'fashion-mnist-12k'", 'DATA'),
    num_calibration=Option('number of training images from which BatchNorm statistics are computed', 'N', whole(2)),
    runtime=Option(f'runtime: {listed(runtime_names())}', 'RUNTIME'),
    precision=Option('precision: fp32, fp16, bf16 or int8, where the runtime has it', 'PRECISION'),
    threads=Option('number of CPU threads', 'N', whole(1)),
    batch_size=Option('number of images in one run', 'N', whole(1)),
    processor=Option('processor: cpu or cuda', 'PROCESSOR'),
    resolutions=Option('resolutions in px; by default all that are known', 'PX', whole(1), many=True),
    max_latency_ms=Option('largest latency in ms', 'MS', positive),
    seconds=Option('about how long to measure, in seconds', 'S', positive),
    export_kit=Option('measure another device: write a folder of files and a script for it', 'DIR'),
    import_kit=Option('read the results.json that the script of a kit wrote', 'FILE.json'))
KIT_HINT = 'on the device, with numpy and onnxruntime: python run_kit.py; then bring back results.json'


def options(common: str, **own: Option) -> dict[str, Option]:
    """Options of a verb: common ones by their names, and its own."""
    return {**{name: COMMON[name] for name in common.split()}, **own}


def refuse_missing_folder(out: str | Path) -> None:
    """Say that a result cannot be written before the work, not after it."""
    parent = Path(out).absolute().parent
    if not parent.is_dir():
        raise InputError(f'--out {str(out)!r:.120}: the folder {str(parent)!r:.120} does not exist; make it first')


def open_source(supernet: str | None, data: str, *, out: str | None, seed: int, num_calibration: int,
                subnet: NamedSubnet | None = None) -> Source:
    """The supernet and the images that a verb asks for; a named network has a supernet of its own if none is given.

    `supernet` may be the name of a released supernet, whose weights ship with the package or are then downloaded.
    """
    from ..hub import Source, hub_configs, training_cost
    from ..images import Augment, load_data, stored_side
    from ..networks import load_supernet
    from ..training import load_config, supernet_config, supernet_folder

    if out is not None:
        refuse_missing_folder(out)
    own = (subnet.supernet or f'{subnet.space.name}_supernet') if subnet else ''
    supernet_id = supernet or own
    released = [name for name in (supernet_id, own) if name in hub_configs() and hub_configs()[name].weights]
    is_released = supernet_id in released
    loaded = load_supernet(supernet_id)
    if subnet:
        _check_supernet_of(subnet, supernet_id, loaded.space)
    folder = None if is_released else supernet_folder(supernet_id)
    config = folder and supernet_config(folder)
    if config is None and released:
        config = load_config(hub_configs()[released[0]].path)
    side = stored_side(loaded.space)
    if subnet:
        side = max(side, stored_side(subnet.space.restrict(resolutions=[subnet.arch.resolution])))
    images = load_data(
        data, side, holdout=config.holdout if config else 0.1, limit=config.limit if config else None,
        seed=config.seed if config else 0, decode=config.decode if config else 'auto',
        images_per_epoch=config.images_per_epoch if config and data.startswith('stream:') else None)
    if loaded.num_classes != images.num_classes:
        cure = 'give images of the same classes' if is_released else 'train a supernet on this data'
        raise InputError(
            f'supernet {supernet_id!r:.100} has {loaded.num_classes} classes, data {images.name!r:.60} has '
            f'{images.num_classes}; {cure}')
    return Source(
        loaded, supernet_id, images, config.augment if config else Augment(),
        training_cost(folder) if folder else None,
        seed=seed, calibration_images=num_calibration)


def _check_supernet_of(subnet: NamedSubnet, supernet_id: str, space: SearchSpace) -> None:
    if space.name != subnet.space.name:
        raise InputError(f'supernet {supernet_id!r:.100} is of {space.name}, {subnet.name} is of {subnet.space.name}; '
                         f'give one of that space, or leave out --supernet')
    space.check(subnet.arch)
