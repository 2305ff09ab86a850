"""What a device costs: one supernet for all of them, against a network trained for each.

    python tests/bench/bench_cost.py --data DIR [--supernet NAME] [--further CONFIG ...] [--times TIMES.jsonl]

Training is counted in multiply-adds of all passes, three for a forward and a backward one, which depends on no machine;
the subnets of each step are drawn as in the run. `--further` are configurations with which the supernet was trained
on. What each further device takes is timed here: a search with the shipped predictor and profile, and taking the
network out of the supernet with BatchNorm statistics of its own. If it is fine-tuned then, as the shipped ones are,
that is counted in multiply-adds again.
"""
from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import timm

import timm_ofa
from timm_ofa.accuracy import load_predictor
from timm_ofa.devices.profiler import host
from timm_ofa.hub.configs import hub_configs, hub_configs_dir, named_subnets
from timm_ofa.hub.finishing import Source
from timm_ofa.images import load_data, stored_side
from timm_ofa.training.config import TrainConfig, load_config, load_finetune
from timm_ofa.training.recipes import RECIPES

FORWARD_AND_BACKWARD = 3
DRAWS = 300  # steps of each phase


def macs_of_training(config: TrainConfig, images: int) -> float:
    """Multiply-adds of all passes of a run over so many training images."""
    space, total = config.load_space(), 0.0
    for phase in config.phases:
        subspace, recipe = phase.subspace(space), RECIPES[phase.recipe]
        steps = (phase.warmup_epochs + phase.epochs) * (images // config.batch_size)
        rng = np.random.default_rng(config.seed)
        drawn = [recipe.draw(subspace, phase.subnets_per_step, rng, (i + 0.5) / DRAWS) for i in range(DRAWS)]
        macs = float(np.mean([sum(map(space.macs, archs)) for archs in drawn]))
        total += steps * config.batch_size / phase.shares * macs
    return FORWARD_AND_BACKWARD * total


def seconds_of(run) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', required=True)
    parser.add_argument('--supernet', default='ofa_mbv3_cifar10_supernet')
    parser.add_argument('--further', nargs='+', default=[], metavar='CONFIG', help='hub configs')
    parser.add_argument('--finetune', default='finetune_cifar10_8', help='hub config')
    parser.add_argument('--times', type=Path, help='times.jsonl of the training')
    args = parser.parse_args()
    configs = [load_config(hub_configs()[name].path) for name in (args.supernet, *args.further)]
    config = configs[0]
    space = config.load_space()
    data = load_data(args.data, stored_side(space), holdout=config.holdout, seed=config.seed)
    images = len(data.train)
    epochs, *more = (sum(p.warmup_epochs + p.epochs for p in c.phases) for c in configs)
    once = sum(macs_of_training(c, images) for c in configs)
    nets = {name: s for name, s in named_subnets().items() if s.supernet == args.supernet}
    each = {name: FORWARD_AND_BACKWARD * epochs * images * space.macs(s.arch) for name, s in nets.items()}
    mean = float(np.mean(list(each.values())))
    print(f'{args.supernet}: {" and ".join(map(str, (epochs, *more)))} epochs of {images:,} images; {host()}')
    print(f'training the supernet once: {once / 1e15:.2f} P multiply-adds')
    print(f'training a network of the {len(nets)} found for {epochs} epochs: {min(each.values()) / 1e15:.2f} to '
          f'{max(each.values()) / 1e15:.2f}, mean {mean / 1e15:.2f} P')
    tuned = load_finetune(hub_configs_dir() / f'{args.finetune}.yaml').epochs / epochs * mean
    print(f'{args.finetune} of such a network: mean {tuned / 1e15:.3f} P')
    print(f'break-even: {once / mean:.1f} devices with inherited weights, {once / (mean - tuned):.1f} with fine-tuned '
          'ones')
    if args.times:
        events = [json.loads(line) for line in args.times.read_text().splitlines()]
        for event in events:
            print('   ', {k: event[k] for k in ('event', 'at_step', 'device', 'date', 'seconds') if k in event})
    predictor = load_predictor(args.supernet, space)
    limits = {s.latency_ms: s for s in nets.values()}
    profile = timm_ofa.load_profile(next(iter(nets.values())).search.profile)
    search_s = [seconds_of(lambda limit=limit: timm_ofa.search(space, predictor, profile, max_latency_ms=limit))
                for limit in limits]
    supernet = timm.create_model(args.supernet, pretrained=True)
    judge = Source(supernet, args.supernet, data, config.augment).judge(data.test)
    take_s = [seconds_of(lambda arch=s.arch: judge.subnet(arch)) for s in limits.values()]
    print(f'each further limit: search {np.median(search_s):.1f} s, network with its own statistics '
          f'{np.median(take_s):.1f} s')


if __name__ == '__main__':
    main()
