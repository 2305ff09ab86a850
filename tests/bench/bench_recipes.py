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
from pathlib import Path

import numpy as np
from bench_alone import AUGMENT, SUBNETS, WEIGHT_DECAY, load_images, read_results, some_archs, subnet_archs, train_alone

from timm_ofa.accuracy.judge import SubnetJudge
from timm_ofa.console import table
from timm_ofa.images import Data
from timm_ofa.networks import load_supernet
from timm_ofa.spaces.shelf import load_space
from timm_ofa.spaces.space import SearchSpace
from timm_ofa.training.config import Phase, TrainConfig
from timm_ofa.training.recipes import RECIPES
from timm_ofa.training.supernets import train_supernet

LR = 0.08  # at batches of 64; the rate rises with the root of the batch


def phases_of(space: SearchSpace, lr: float, length: float) -> dict[str, tuple[Phase, ...]]:
    """What each recipe does, `length` times 24 passes of each image; passes in the comments."""
    kernels, ratios = (sorted({c for s in space.stages for c in getattr(s, name)}) for name in (
        'kernel_sizes', 'expand_ratios'))
    one, two, wide = dict(deepest=1), dict(deepest=2), dict(expand_ratios=ratios[-1:])

    def phase(name: str, epochs: int, rate: float, **choices) -> Phase:
        return Phase(name, max(1, round(epochs * length)), rate, **choices)
    largest = phase('largest', 5, lr, warmup_epochs=1, kd_weight=0, **one, kernel_sizes=kernels[-1:], **wide)
    return {
        'progressive': (  # 6 + 4 + 3 * 2.3 + 7
            largest, phase('kernel', 3, lr / 2, **one, **wide),
            phase('depth-1', 1, lr / 2, **two, **wide, subnets_per_step=2),
            phase('depth-2', 1, lr / 2, **wide, subnets_per_step=2),
            phase('expand-1', 1, lr / 2, expand_ratios=ratios[-2:], subnets_per_step=2, sort_channels=True),
            phase('expand-2', 3, lr / 2, subnets_per_step=2, sort_channels=True)),
        'coupled': (largest, phase('coupled', 8, lr / 2, recipe='coupled', subnets_per_step=2)),  # 6 + 18.7
        'delayed': (phase('delayed', 11, lr, warmup_epochs=1, recipe='delayed', subnets_per_step=3),),  # 6 + 18
        **{name: (phase(name, 7, lr, warmup_epochs=1, recipe=name, subnets_per_step=3),)  # 24
           for name in ('plain', 'sandwich')},
        'divided': (phase('divided', 23, lr, warmup_epochs=1, recipe='divided', subnets_per_step=4),),  # 24
        'largest': (phase('largest', 23, lr, warmup_epochs=1, recipe='largest'),),  # 24
    }


def run(recipe: str, seed: int, args: argparse.Namespace, data: Data) -> dict:
    """Train with one recipe and judge on the test images."""
    folder = args.out / f'{recipe}-{seed}'
    config = TrainConfig(
        f'{recipe}-{seed}', args.space, args.data, resolutions=(args.resolution,), batch_size=args.batch_size,
        seed=seed, weight_decay=WEIGHT_DECAY, limit=args.images, precision=args.precision, augment=AUGMENT,
        phases=phases_of(load_space(args.space), rate(args), args.length)[recipe])
    began = time.perf_counter()
    if not (folder / 'model.safetensors').exists():
        train_supernet(config, data, folder, resume=(folder / 'train.yaml').exists())
    supernet = load_supernet(str(folder))
    judge = SubnetJudge(supernet, data.train, data.test, augment=config.augment, calibration_images=1000)
    top1 = [round(judge.top1_pct(arch), 2) for arch in some_archs(supernet.space)]
    return dict(what=recipe, seed=seed, top1_pct=top1, seconds=round(time.perf_counter() - began))


def rate(args: argparse.Namespace) -> float:
    """The learning rate of a batch."""
    return LR * (args.batch_size / 64)**0.5


def alone(name: str, seed: int, args: argparse.Namespace, data: Data) -> dict:
    """Train one of the networks by itself, as long as the sandwich."""
    space = load_space(args.space).restrict(resolutions=[args.resolution])
    result = train_alone(
        name, space, data, epochs=max(1, round(7 * args.length)), lr=rate(args), batch_size=args.batch_size, seed=seed,
        precision=args.precision)
    return dict(what=name, seed=seed, top1_pct=[result['top1_pct']], seconds=round(result['seconds']))


def show(results: list[dict], space: SearchSpace) -> str:
    """The table for people: means over the seeds, and their standard deviation."""
    order, archs = some_archs(space), subnet_archs(space)
    places = [order.index(arch) for arch in archs.values()]

    def cell(values: list[float]) -> str:
        spread = f' ± {np.std(values, ddof=1):.2f}' if len(values) > 1 else ''
        return f'{np.mean(values):.2f}{spread}' if values else ''
    rows = [['MACs', '', *(f'{space.macs(arch) / 1e6:.1f} M' for arch in archs.values()), '', '']]
    for recipe in RECIPES:
        own = [r for r in results if r['what'] == recipe]
        if own:
            rows.append([
                recipe, str(len(own)), *(cell([r['top1_pct'][i] for r in own]) for i in places),
                cell([float(np.median(r['top1_pct'][1:-1])) for r in own]),
                f'{np.mean([r["seconds"] for r in own]) / 60:.1f}'])
    own = [r for r in results if r['what'] in SUBNETS]
    if own:
        seeds = {r['seed'] for r in own}
        rows.append([
            'each alone', str(len(seeds)), *(cell([r['top1_pct'][0] for r in own if r['what'] == n]) for n in SUBNETS),
            '', f'{sum(r["seconds"] for r in own) / len(seeds) / 60:.1f}'])
    return table(['recipe', 'seeds', *SUBNETS, f'median of {len(order) - 2}', 'minutes'], rows)


def main() -> None:
    known = [*phases_of(load_space('ofa_mbv3_tiny'), LR, 1.0), *SUBNETS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', required=True)
    parser.add_argument('--space', default='ofa_mbv3_tiny')
    parser.add_argument('--length', type=float, default=1.0, help='times 24 passes of each image')
    parser.add_argument('--batch-size', type=int, default=64)
    parser.add_argument('--precision', choices=['no', 'bf16'], default='no')
    parser.add_argument('--recipes', nargs='+', choices=known, default=known)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--images', type=int, default=16667, help='of the training set, a tenth of them held out')
    parser.add_argument('--test-images', type=int, default=4000)
    parser.add_argument('--resolution', type=int, default=24, help='px')
    parser.add_argument('--out', type=Path, default=Path('out/recipes'))
    args = parser.parse_args()
    space = load_space(args.space).restrict(resolutions=[args.resolution])
    data, file = load_images(args.data, space, args.images, args.test_images), args.out / 'results.jsonl'
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        for what in args.recipes:
            if (what, seed) in {(r['what'], r['seed']) for r in read_results(file)}:
                continue
            result = (alone if what in SUBNETS else run)(what, seed, args, data)
            with file.open('a') as opened:
                opened.write(json.dumps(result) + '\n')
            print(show(read_results(file), space), file=sys.stderr, flush=True)
    print(show(read_results(file), space))


if __name__ == '__main__':
    main()
