"""Networks trained alone: those that a user would pick from timm instead, and subnets of a space without its supernet.

    python tests/bench/bench_alone.py --data DIR --out out/alone [--epochs 42] [--networks mobilenetv3_large_100 ...]

timm's are its architectures without their weights. Of their five strides the first and the fourth are taken away, so
that maps have the sizes of those of `ofa_mbv3_32px`. All see the same images, augmentation and optimizer, at one
resolution. Accuracies go to `results.jsonl`, what is there is not repeated; latency needs no weights.
"""
from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import timm
import torch
from accelerate import Accelerator
from torch import nn

from timm_ofa.accuracy.judge import evaluate
from timm_ofa.images import Augment, Data, load_data, stored_side
from timm_ofa.images.batches import EpochBatches
from timm_ofa.networks.supernet import new_supernet
from timm_ofa.spaces.arch import Arch
from timm_ofa.spaces.shelf import load_space
from timm_ofa.spaces.space import SearchSpace
from timm_ofa.training.config import Phase
from timm_ofa.training.specialization import finetune

PEERS = ['mobilenetv3_small_100', 'mobilenetv3_large_100', 'mobilenetv2_100', 'tf_efficientnet_lite0',
         'efficientnet_b0']
SUBNETS = ['smallest', 'one third', 'two thirds', 'largest']  # by MACs, among those of `some_archs`
TAKEN_AWAY = (0, 3)  # strides of timm's networks, by place
WEIGHT_DECAY, AUGMENT = 5e-4, Augment(crop='shift', flip=True)


def some_archs(space: SearchSpace, n: int = 20) -> list[Arch]:
    """The smallest, `n` random and the largest networks, by MACs; the same for all benchmarks."""
    some = [space.min_arch(), *space.sample(np.random.default_rng(7), n), space.max_arch()]
    return sorted(some, key=space.macs)


def subnet_archs(space: SearchSpace) -> dict[str, Arch]:
    """The four of them that are trained alone."""
    order = some_archs(space)
    places = (0, len(order) // 3, 2 * len(order) // 3, len(order) - 1)
    return {name: order[place] for name, place in zip(SUBNETS, places)}


def build(name: str, space: SearchSpace, num_classes: int) -> nn.Module:
    """A network with random weights; the padding of timm's `tf_` ones is symmetric here."""
    if name in SUBNETS:
        return new_supernet(space, num_classes=num_classes).extract(subnet_archs(space)[name])
    model = timm.create_model(name.removeprefix('tf_'), num_classes=num_classes)
    strided = [m for m in model.modules() if isinstance(m, nn.Conv2d) and max(m.stride) > 1]
    assert len(strided) == 5
    for i in TAKEN_AWAY:
        strided[i].stride = (1, 1)
    return model


def train(
        model: nn.Module, space: SearchSpace, data: Data, *, epochs: int, lr: float, batch_size: int, seed: int,
        precision: str, augment: Augment = AUGMENT, weight_decay: float = WEIGHT_DECAY,
        teacher: nn.Module | None = None) -> float:
    """Train a network, `epochs` and one more to warm up, at the space's only resolution; its top-1 in percent."""
    resolution, = space.resolutions
    batches = EpochBatches(data.train, batch_size, seed, 0, Accelerator(mixed_precision=precision), augment)
    phase = Phase('alone', epochs, lr, warmup_epochs=1, kd_weight=float(teacher is not None))
    model = finetune(
        model, batches, steps_per_epoch=len(batches), phase=phase, teacher=teacher, weight_decay=weight_decay,
        label_smoothing=0.1, seed=seed, precision=precision,
        prepare=lambda pixels, rng, _, part: batches.augment(pixels, space, resolution, rng, part))
    return evaluate(model.eval(), data.test, space, resolution)


def train_alone(name: str, space: SearchSpace, data: Data, *, epochs: int, seed: int, **settings) -> dict:
    """Train one network by its name as `train` does, and say what came of it."""
    began = time.perf_counter()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build(name, space, data.num_classes)
    top1_pct = train(model, space, data, epochs=epochs, seed=seed, **settings)
    return dict(
        network=name, seed=seed, epochs=epochs + 1, resolution=space.resolutions[0], top1_pct=round(top1_pct, 2),
        params_m=round(sum(p.numel() for p in model.parameters()) / 1e6, 3),
        seconds=round(time.perf_counter() - began, 1))


def load_images(source: str, space: SearchSpace, limit: int | None, test_images: int | None = None) -> Data:
    """Images as all these benchmarks take them; the first `test_images` of the test images."""
    data = load_data(source, stored_side(space), limit=limit)
    return replace(data, test=data.test.subset(range(min(test_images or len(data.test), len(data.test))),
                                               data.test.title))


def read_results(file: Path) -> list[dict]:
    """What is finished so far."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', required=True)
    parser.add_argument('--space', default='ofa_mbv3_32px')
    parser.add_argument('--out', type=Path, default=Path('out/alone'))
    parser.add_argument('--networks', nargs='+', choices=[*PEERS, *SUBNETS], default=[*PEERS, *SUBNETS])
    parser.add_argument('--epochs', type=int, default=42)
    parser.add_argument('--batch-size', type=int, default=512)
    parser.add_argument('--lr', type=float, default=0.23)
    parser.add_argument('--resolution', type=int, default=32, help='px')
    parser.add_argument('--precision', choices=['no', 'bf16'], default='no')
    parser.add_argument('--limit', type=int, help='at most so many training images')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    space = load_space(args.space).restrict(resolutions=[args.resolution])
    data, file = load_images(args.data, space, args.limit), args.out / 'results.jsonl'
    for seed in args.seeds:
        for name in args.networks:
            if (name, seed) in {(r['network'], r['seed']) for r in read_results(file)}:
                continue
            result = train_alone(
                name, space, data, epochs=args.epochs - 1, lr=args.lr, batch_size=args.batch_size, seed=seed,
                precision=args.precision)
            with file.open('a') as opened:
                opened.write(json.dumps(result) + '\n')
            print(result, flush=True)


if __name__ == '__main__':
    main()
