"""Training recipes at equal cost: top-1 of the smallest, 20 random and the largest subnet; and of nets trained alone.

    python tests/bench/bench_recipes.py --data DIR [--seeds 0] [--recipes plain sandwich] [--length 1] [--out DIR]

All runs see the same images at one resolution and cost about the same: 24 passes (forward and backward) of each image
through a subnet, times --length; a teacher's forward pass counts as a third. Networks alone are trained for as many
epochs as the sandwich has. Every run is a folder that resumes; what is finished is not repeated, also by several of
these commands at a time with one --out. Nothing was tuned for any recipe.
"""
from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from timm_ofa.accuracy import SubnetJudge, evaluate, recalibrate_bn
from timm_ofa.data import Augment, load_data, stored_side
from timm_ofa.engine import EpochBatches, finetune, train_supernet
from timm_ofa.recipes import RECIPES
from timm_ofa.shrink import Phase, TrainConfig
from timm_ofa.space import Arch, SearchSpace, load_space
from timm_ofa.supernet import load_supernet, new_supernet
from timm_ofa.tables import table

LR, DECAY = 0.08, 5e-4  # at batches of 64; the rate rises with the root of the batch
RANDOM = 20  # subnets, the same for all recipes


def phases_of(recipe: str, space: SearchSpace, lr: float, length: float) -> tuple[Phase, ...]:
    """What a recipe does, `length` times 24 passes of each image; passes in the comments."""
    kernels, ratios = (sorted({c for s in space.stages for c in getattr(s, name)}) for name in (
        'kernel_sizes', 'expand_ratios'))
    one, two, wide = dict(deepest=1), dict(deepest=2), dict(expand_ratios=ratios[-1:])

    def phase(name: str, epochs: int, rate: float, **choices) -> Phase:
        return Phase(name, max(1, round(epochs * length)), rate, **choices)
    largest = phase('largest', 5, lr, warmup_epochs=1, kd_weight=0, **one, kernel_sizes=kernels[-1:], **wide)
    phases = {
        'progressive': (  # 6 + 4 + 3 * 2.3 + 7
            largest, phase('kernel', 3, lr / 2, **one, **wide),
            phase('depth-1', 1, lr / 2, **two, **wide, subnets_per_step=2),
            phase('depth-2', 1, lr / 2, **wide, subnets_per_step=2),
            phase('expand-1', 1, lr / 2, expand_ratios=ratios[-2:], subnets_per_step=2, sort_channels=True),
            phase('expand-2', 3, lr / 2, subnets_per_step=2, sort_channels=True)),
        'coupled': (largest, phase('coupled', 8, lr / 2, recipe='coupled', subnets_per_step=2)),  # 6 + 18.7
        'delayed': (phase('delayed', 11, lr, warmup_epochs=1, recipe='delayed', subnets_per_step=3),),  # 6 + 18
        **{name: (phase(name, 7, lr, warmup_epochs=1, recipe=name, subnets_per_step=3),)  # 24
           for name in ('plain', 'sandwich', 'alpha')},
    }
    return phases[recipe]


def run(recipe: str, seed: int, args: argparse.Namespace, data) -> dict:
    """Train with one recipe and judge on the test images."""
    folder = args.out / f'{recipe}-{seed}'
    config = TrainConfig(
        f'{recipe}-{seed}', args.space, args.data, phases_of(recipe, load_space(args.space), rate(args), args.length),
        resolutions=(args.resolution,), batch_size=args.batch_size, seed=seed, weight_decay=DECAY, limit=args.images,
        precision=args.precision, augment=Augment(crop='shift', flip=True))
    began = time.perf_counter()
    if not (folder / 'model.safetensors').exists():
        train_supernet(config, data, folder, resume=(folder / 'train.yaml').exists())
    supernet = load_supernet(str(folder))
    judge = SubnetJudge(supernet, data.train, data.test, augment=config.augment, calibration_images=1000)
    top1 = [round(judge.top1_pct(arch), 2) for arch in archs(supernet.space)]
    return dict(what=recipe, seed=seed, top1_pct=top1, seconds=round(time.perf_counter() - began))


def alone(place: int, seed: int, args: argparse.Namespace, data) -> dict:
    """Train one of the networks by itself, from the same kind of start."""
    space = load_space(args.space).restrict(resolutions=[args.resolution])
    arch, augment = archs(space)[place], Augment(crop='shift', flip=True)
    began = time.perf_counter()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = new_supernet(space, num_classes=data.num_classes).extract(arch)
    batches = EpochBatches(data.train, args.batch_size, seed, 0, Accelerator(mixed_precision=args.precision))
    model = finetune(
        model, batches, steps_per_epoch=len(batches),
        phase=Phase('alone', max(1, round(7 * args.length)), rate(args), warmup_epochs=1, kd_weight=0),
        weight_decay=DECAY,
        label_smoothing=0.1, seed=seed, precision=args.precision,
        prepare=lambda pixels, rng, _, part: augment(pixels, space, arch.resolution, rng, part))
    judge = SubnetJudge(new_supernet(space), data.train, data.test, augment=augment, calibration_images=1000)
    model = recalibrate_bn(model, judge.batches(arch.resolution)).eval()
    top1 = evaluate(model, data.test, space, arch.resolution)
    return dict(what='alone', place=place, seed=seed, top1_pct=[round(top1, 2)],
                seconds=round(time.perf_counter() - began))


def rate(args: argparse.Namespace) -> float:
    """The learning rate of a batch."""
    return LR * (args.batch_size / 64)**0.5


def archs(space: SearchSpace) -> list[Arch]:
    """The smallest, the random and the largest networks, by MACs."""
    some = [space.min_arch(), *space.sample(np.random.default_rng(7), RANDOM), space.max_arch()]
    return sorted(some, key=space.macs)


def show(results: list[dict], space) -> str:
    """The table for people."""
    order = archs(space)
    middle = [len(order) // 3, 2 * len(order) // 3]
    kept = [0, *middle, len(order) - 1]
    rows = []
    for result in results:
        if result['what'] != 'alone':
            top1 = result['top1_pct']
            rows.append([
                result['what'], str(result['seed']), *(f'{top1[i]:.2f}' for i in kept),
                f'{np.median(top1[1:-1]):.2f}', f'{result["seconds"] / 60:.0f}'])
    for seed in sorted({r['seed'] for r in results if r['what'] == 'alone'}):
        own = {r['place']: r for r in results if r['what'] == 'alone' and r['seed'] == seed}
        rows.append([
            'each alone', str(seed), *(f'{own[i]["top1_pct"][0]:.2f}' if i in own else '' for i in kept), '',
            f'{sum(r["seconds"] for r in own.values()) / 60:.0f}'])
    macs = [f'{space.macs(order[i]) / 1e6:.1f} M' for i in kept]
    header = ['recipe', 'seed', 'smallest', 'one third', 'two thirds', 'largest', f'median of {RANDOM}', 'minutes']
    return table(header, [['MACs', '', *macs, '', ''], *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', required=True)
    parser.add_argument('--space', default='ofa_mbv3_tiny')
    parser.add_argument('--length', type=float, default=1.0, help='times 24 passes of each image')
    parser.add_argument('--batch-size', type=int, default=64)
    parser.add_argument('--precision', choices=['no', 'bf16'], default='no')
    parser.add_argument('--recipes', nargs='+', choices=[*RECIPES, 'alone'], default=[*RECIPES, 'alone'])
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--images', type=int, default=16667, help='of the training set, a tenth of them held out')
    parser.add_argument('--test-images', type=int, default=4000)
    parser.add_argument('--resolution', type=int, default=24, help='px')
    parser.add_argument('--out', type=Path, default=Path('out/recipes'))
    args = parser.parse_args()
    space = load_space(args.space).restrict(resolutions=[args.resolution])
    data = load_data(args.data, stored_side(space), limit=args.images)
    data = replace(data, test=data.test.subset(range(min(args.test_images, len(data.test))), data.test.title))
    file = args.out / 'results.jsonl'
    args.out.mkdir(parents=True, exist_ok=True)
    results = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(r['what'], r.get('place'), r['seed']) for r in results}
    order = archs(space)
    for seed in args.seeds:
        for what in args.recipes:
            places = [0, len(order) // 3, 2 * len(order) // 3, len(order) - 1] if what == 'alone' else [None]
            for place in places:
                if (what, place, seed) in done:
                    continue
                result = run(what, seed, args, data) if place is None else alone(place, seed, args, data)
                results.append(result)
                with file.open('a') as opened:
                    opened.write(json.dumps(result) + '\n')
                print(show(results, space), file=sys.stderr, flush=True)
    print(show(results, space))


if __name__ == '__main__':
    main()
