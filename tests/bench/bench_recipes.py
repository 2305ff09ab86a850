"""Training recipes at equal cost: top-1 of the smallest, 20 random and the largest subnet; and of nets trained alone.

    python tests/bench/bench_recipes.py --data DIR [--seeds 0] [--recipes plain sandwich] [--out DIR]

All runs see the same images at one resolution and cost about the same: 24 passes (forward and backward) of each image
through a subnet; a teacher's forward pass counts as a third. Networks alone are trained for as many epochs as the
sandwich has. Every run is a folder that resumes; what is finished is not repeated. Nothing was tuned for any recipe.
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
from timm_ofa.supernet import load_supernet, new_supernet
from timm_ofa.tables import table

BATCH, LR, DECAY = 64, 0.08, 5e-4
RANDOM = 20  # subnets, the same for all recipes
ALONE_EPOCHS = 8  # as many as the sandwich sees
DEEP, WIDE = dict(depths=(3,)), dict(expand_ratios=(4,))
LARGEST = Phase('largest', 5, LR, warmup_epochs=1, kd_weight=0, **DEEP, kernel_sizes=(5,), **WIDE)
PHASES = {  # passes of each image in the comment
    'progressive': (  # 6 + 4 + 3 * 2.3 + 7
        LARGEST, Phase('kernel', 3, LR / 2, **DEEP, **WIDE),
        Phase('depth-1', 1, LR / 2, depths=(2, 3), **WIDE, subnets_per_step=2),
        Phase('depth-2', 1, LR / 2, **WIDE, subnets_per_step=2),
        Phase('expand-1', 1, LR / 2, expand_ratios=(3, 4), subnets_per_step=2, sort_channels=True),
        Phase('expand-2', 3, LR / 2, subnets_per_step=2, sort_channels=True)),
    'coupled': (LARGEST, Phase('coupled', 8, LR / 2, recipe='coupled', subnets_per_step=2)),  # 6 + 18.7
    'delayed': (Phase('delayed', 11, LR, warmup_epochs=1, recipe='delayed', subnets_per_step=3),),  # 6 + 18
    **{name: (Phase(name, 7, LR, warmup_epochs=1, recipe=name, subnets_per_step=3),)  # 24
       for name in ('plain', 'sandwich', 'alpha')},
}
assert set(PHASES) == set(RECIPES)


def run(recipe: str, seed: int, args: argparse.Namespace, data) -> dict:
    """Train with one recipe and judge on the test images."""
    folder = args.out / f'{recipe}-{seed}'
    config = TrainConfig(
        f'{recipe}-{seed}', 'ofa_mbv3_tiny', args.data, PHASES[recipe], resolutions=(args.resolution,),
        batch_size=BATCH, seed=seed, weight_decay=DECAY, limit=args.images, augment=Augment(crop='shift', flip=True))
    began = time.perf_counter()
    if not (folder / 'model.safetensors').exists():
        train_supernet(config, data, folder, resume=(folder / 'train.yaml').exists())
    supernet = load_supernet(str(folder))
    judge = SubnetJudge(supernet, data.train, data.test, augment=config.augment, calibration_images=1000)
    top1 = [round(judge.top1_pct(arch), 2) for arch in archs(supernet.space)]
    return dict(what=recipe, seed=seed, top1_pct=top1, seconds=round(time.perf_counter() - began))


def alone(place: int, seed: int, args: argparse.Namespace, data) -> dict:
    """Train one of the networks by itself, from the same kind of start."""
    space = TrainConfig('x', 'ofa_mbv3_tiny', args.data, PHASES['plain'], resolutions=(args.resolution,)).load_space()
    arch, augment = archs(space)[place], Augment(crop='shift', flip=True)
    began = time.perf_counter()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = new_supernet(space, num_classes=data.num_classes).extract(arch)
    batches = EpochBatches(data.train, BATCH, seed, 0, Accelerator())
    model = finetune(
        model, batches, steps_per_epoch=len(batches),
        phase=Phase('alone', ALONE_EPOCHS - 1, LR, warmup_epochs=1, kd_weight=0), weight_decay=DECAY,
        label_smoothing=0.1, seed=seed,
        prepare=lambda pixels, rng, _, part: augment(pixels, space, arch.resolution, rng, part))
    judge = SubnetJudge(new_supernet(space), data.train, data.test, augment=augment, calibration_images=1000)
    model = recalibrate_bn(model, judge.batches(arch.resolution)).eval()
    top1 = evaluate(model, data.test, space, arch.resolution)
    return dict(what='alone', place=place, seed=seed, top1_pct=[round(top1, 2)],
                seconds=round(time.perf_counter() - began))


def archs(space) -> list:
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
    parser.add_argument('--recipes', nargs='+', choices=[*RECIPES, 'alone'], default=[*RECIPES, 'alone'])
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--images', type=int, default=16667, help='of the training set, a tenth of them held out')
    parser.add_argument('--test-images', type=int, default=4000)
    parser.add_argument('--resolution', type=int, default=24, help='px')
    parser.add_argument('--out', type=Path, default=Path('out/recipes'))
    args = parser.parse_args()
    space = TrainConfig('x', 'ofa_mbv3_tiny', args.data, PHASES['plain'], resolutions=(args.resolution,)).load_space()
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
