"""Networks that a user would pick instead, from timm, trained on the same images as our supernets.

    python tests/bench/bench_peers.py --data DIR --out out/peers [--epochs 40] [--peers mobilenetv3_large_100 ...]

Each is timm's architecture without its weights. Of its five strides the first and the fourth are taken away, so that
maps have the sizes of those of `ofa_mbv3_32px`; the same images, augmentation and optimizer as ours.
Accuracies go to `results.jsonl`; latency needs no weights.
"""
from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import timm
import torch
from accelerate import Accelerator
from torch import nn

from timm_ofa.accuracy import evaluate
from timm_ofa.batches import EpochBatches
from timm_ofa.data import Augment, load_data, stored_side
from timm_ofa.engine import finetune
from timm_ofa.shrink import Phase
from timm_ofa.space import load_space

PEERS = ['mobilenetv3_small_100', 'mobilenetv3_large_100', 'mobilenetv2_100', 'tf_efficientnet_lite0',
         'efficientnet_b0']
TAKEN_AWAY = (0, 3)  # strides, by place


def peer(name: str, num_classes: int) -> nn.Module:
    """timm's network for small images; the padding of `tf_` names is symmetric here."""
    model = timm.create_model(name.removeprefix('tf_'), num_classes=num_classes)
    strided = [m for m in model.modules() if isinstance(m, nn.Conv2d) and max(m.stride) > 1]
    assert len(strided) == 5
    for i in TAKEN_AWAY:
        strided[i].stride = (1, 1)
    return model


def train(name: str, args: argparse.Namespace, data) -> dict:
    space, augment = load_space('ofa_mbv3_32px'), Augment(crop='shift', flip=True)
    began = time.perf_counter()
    with torch.random.fork_rng():
        torch.manual_seed(args.seed)
        model = peer(name, data.num_classes)
    batches = EpochBatches(data.train, args.batch_size, args.seed, 0, Accelerator(mixed_precision=args.precision))
    model = finetune(
        model, batches, steps_per_epoch=len(batches),
        phase=Phase('alone', args.epochs - 1, args.lr, warmup_epochs=1, kd_weight=0), weight_decay=args.weight_decay,
        label_smoothing=0.1, seed=args.seed, precision=args.precision,
        prepare=lambda pixels, rng, _, part: augment(pixels, space, args.resolution, rng, part))
    top1_pct = evaluate(model.eval(), data.test, space, args.resolution)
    return dict(
        peer=name, seed=args.seed, epochs=args.epochs, resolution=args.resolution, top1_pct=round(top1_pct, 2),
        params_m=round(sum(p.numel() for p in model.parameters()) / 1e6, 3),
        seconds=round(time.perf_counter() - began, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', required=True)
    parser.add_argument('--out', type=Path, default=Path('out/peers'))
    parser.add_argument('--peers', nargs='+', default=PEERS)
    parser.add_argument('--epochs', type=int, default=40)
    parser.add_argument('--batch-size', type=int, default=256)
    parser.add_argument('--lr', type=float, default=0.2)
    parser.add_argument('--weight-decay', type=float, default=5e-4)
    parser.add_argument('--resolution', type=int, default=32, help='px')
    parser.add_argument('--precision', choices=['no', 'bf16'], default='no')
    parser.add_argument('--limit', type=int, help='at most so many training images')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    data = load_data(args.data, stored_side(load_space('ofa_mbv3_32px')), holdout=0.1, limit=args.limit)
    for name in args.peers:
        result = train(name, args, data)
        with (args.out / 'results.jsonl').open('a') as file:
            file.write(json.dumps(result) + '\n')
        print(result, flush=True)


if __name__ == '__main__':
    main()
