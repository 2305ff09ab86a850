"""Why the networks that a search chooses are worse on test images than was predicted.

    python tests/bench/bench_prediction.py --data DIR [--random 10] [--judged 2000]

`--data` is CIFAR-10. The subnets of the CIFAR-10 supernet that ships, with the weights of the supernet, are judged in
several ways: those that a search chose and that ship, and random ones of the file of records that the predictor was
fitted to. The mean difference from one column to the next tells what costs how much:

- predicted: what the predictor that ships says
- quickly: on 2,000 held-out images, with BatchNorm statistics of 256 images
- all held out: on all held-out images
- 2000 calibrated: the same with BatchNorm statistics of 2,000 images, as `timm-ofa collect` and `specialize` take them
- test: the same network on the test images

Beside it stands the accuracy on images that the supernet was trained on.
"""
from __future__ import annotations

import argparse
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from timm_ofa import Arch, SearchSpace
from timm_ofa.accuracy import SubnetJudge, evaluate, load_predictor, read_records
from timm_ofa.console import table
from timm_ofa.hub import hub_configs, named_subnets
from timm_ofa.images import load_data, stored_side
from timm_ofa.networks import load_supernet
from timm_ofa.training import load_config

SUPERNET = 'ofa_mbv3_cifar10_supernet'
RECORDS = Path(__file__).parent / 'results' / 'cifar10_records.jsonl'
COLUMNS = ('predicted', 'quickly', 'all held out', '2000 calibrated', 'test')


def networks(space: SearchSpace, n: int) -> dict[str, Arch]:
    """The largest, the networks that ship by their names, and `n` random ones that were collected."""
    archs = {config.name: config.arch for config in named_subnets().values() if config.supernet == SUPERNET}
    at_32px = [arch for arch, _ in read_records(RECORDS, space) if arch.resolution == 32]
    places = np.random.default_rng(0).choice(len(at_32px), n, replace=False)
    return {'largest': space.max_arch(), **archs, **{f'random {i}': at_32px[place] for i, place in enumerate(places)}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', required=True)
    parser.add_argument('--random', type=int, default=10, help='random networks')
    parser.add_argument('--judged', type=int, default=2000, help='held-out images that are judged quickly')
    args = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    config, supernet = load_config(hub_configs()[SUPERNET].path), load_supernet(SUPERNET)
    space, predictor = supernet.space, load_predictor(SUPERNET)
    data = load_data(args.data, stored_side(space), holdout=config.holdout, seed=config.seed)
    quick, long = (SubnetJudge(supernet, data.train, data.holdout, augment=config.augment, calibration_images=n)
                   for n in (256, 2000))
    part, seen = data.holdout.part(args.judged, 0), data.train.part(args.judged, 0)
    rows = []
    for name, arch in networks(space, args.random).items():
        first, second = quick.subnet(arch), long.subnet(arch)
        rows.append([name, float(predictor.predict([arch])[0]), *(
            evaluate(network, images, space, arch.resolution) for network, images in (
                (first, part), (first, data.holdout), (second, data.holdout), (second, data.test), (second, seen)))])
        print(name, *(f'{value:.2f}' for value in rows[-1][1:]), flush=True)
    lines = []
    for kind, begins in (('largest', 'largest'), ('chosen', 'ofa_'), ('random', 'random')):
        some = [r[1:] for r in rows if r[0].startswith(begins)]
        steps = np.diff(np.array(some)[:, :-1], axis=1)
        error = steps.std(0, ddof=min(1, len(some) - 1)) / len(some)**0.5
        lines.append([f'{kind}, {len(some)}', *(f'{m:+.2f} ± {e:.2f}' for m, e in zip(steps.mean(0), error)),
                      f'{steps.sum(1).mean():+.2f}', f'{np.mean([row[-1] for row in some]):.2f}'])
    heads = [*(f'{a} to {b}' for a, b in pairwise(COLUMNS)), 'in all', 'on training images']
    print('\n' + table(['networks', *heads], lines))
    print(f'\n{time.process_time() - began:.0f} seconds of one core; ± standard error over the networks')


if __name__ == '__main__':
    main()
