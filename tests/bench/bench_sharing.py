"""What lifts the subnets in the middle: short trainings of a small supernet that differ in one thing each.

    python tests/bench/bench_sharing.py --data DIR --out out/sharing.jsonl --set NAME [KEY=VALUE ...]

`DIR` is CIFAR-10, seen at 16 px. `ofa_mbv3_tiny` takes 2,800 steps of 64 images, about four epochs; in each step learn
the largest subnet, the smallest and two random ones, from labels and from the moving average of the largest subnet
half and half. A run takes 15 to 25 minutes of one core. KEY is one of the settings of `Run`, for example:

    --set divided divided=1         each subnet of a step learns from a batch of its own
    --set labels labels=1           labels alone
    --set alone alone=two_thirds lr=0.08    that network alone, for as many steps

The networks are chosen as in `bench_alone.py`, among archs of all resolutions of the space; here all see 16 px. Top-1
on all test images, weights averaged, each network with BatchNorm statistics of its own; `middle` is the mean of the 5th
to the 18th of the 22 networks by MACs.
"""
from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from bench_alone import read_results, some_archs, subnet_archs
from torch import nn

from timm_ofa import recalibrate_bn
from timm_ofa.console import progress_bar, table
from timm_ofa.images import ImageSet, load_data
from timm_ofa.networks import new_supernet
from timm_ofa.spaces import Arch, load_space

SIDE, REACH, SMOOTHING, WEIGHT_DECAY, WARMUP = 16, 2, 0.1, 5e-4, 0.05
MIDDLE, CALIBRATION_BATCHES = slice(4, 18), 31


@dataclass(frozen=True)
class Run:
    """Settings of one run."""
    name: str
    steps: int = 2800
    batch_size: int = 64
    lr: float = 0.05
    seed: int = 0
    randoms: int = 2  # random subnets in a step
    smallest: int = 1  # whether the smallest subnet learns in each step
    labels: float = 0.5  # share of the labels in what smaller subnets learn; the rest are soft targets of the average
    decay: float = 0.999  # of the moving average
    divided: int = 0  # whether each subnet of a step learns from images of its own
    alone: str = ''  # a network that is trained without its supernet


class Images:
    """Images (N, 3, SIDE, SIDE) and labels, in random batches that are shifted and flipped."""

    def __init__(self, images: ImageSet) -> None:
        stored = images.fetch(torch.arange(len(images))).float()
        self.pixels, self.labels = (F.adaptive_avg_pool2d(stored, SIDE) / 127.5 - 1) * 2, images.labels.long()

    def batches(self, size: int, rng: np.random.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            order = rng.permutation(len(self.pixels))
            for start in range(0, len(order) - size + 1, size):
                some = torch.from_numpy(order[start:start + size])
                padded = F.pad(self.pixels[some], [REACH] * 4)
                tops, lefts = rng.integers(0, 2 * REACH + 1, (2, size))
                crops = [image[:, top:top + SIDE, left:left + SIDE] for image, top, left in zip(padded, tops, lefts)]
                flips = rng.integers(0, 2, size)
                x = torch.stack([crop.flip(-1) if flip else crop for crop, flip in zip(crops, flips)])
                yield x.contiguous(memory_format=torch.channels_last), self.labels[some]

    def top1_pct(self, model: nn.Module) -> float:
        with torch.inference_mode():
            hits = [(model(x).argmax(1) == y).sum() for x, y in zip(self.pixels.split(500), self.labels.split(500))]
        return round(100 * float(sum(hits)) / len(self.labels), 2)


class Training:
    """One run: a supernet, or a network alone."""

    def __init__(self, run: Run, train: Images) -> None:
        self.run, self.rng = run, np.random.default_rng(run.seed + 100)
        self.space = load_space('ofa_mbv3_tiny')
        with torch.random.fork_rng():
            torch.manual_seed(run.seed)
            supernet = new_supernet(self.space, num_classes=10)
        alone = run.alone and supernet.extract(subnet_archs(self.space)[run.alone.replace('_', ' ')])
        self.model: nn.Module = (alone or supernet).to(memory_format=torch.channels_last).train()
        self.average, self.batches = copy.deepcopy(self.model), train.batches(run.batch_size, self.rng)
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.SGD([
            dict(params=[p for p in self.parameters if p.ndim > 1], weight_decay=WEIGHT_DECAY),
            dict(params=[p for p in self.parameters if p.ndim <= 1])], lr=run.lr, momentum=0.9, nesterov=True)

    def train(self) -> float:
        """All steps; processor seconds."""
        began = time.process_time()
        with progress_bar(self.run.steps, self.run.name, 'step') as bar:
            for step in range(self.run.steps):
                self._step(step)
                bar.update()
        return time.process_time() - began

    def _step(self, step: int) -> None:
        run, done = self.run, step / self.run.steps
        rate = (done + 1e-3) / WARMUP if done < WARMUP else (
            0.5 + 0.5 * math.cos(math.pi * (done - WARMUP) / (1 - WARMUP)))
        for group in self.optimizer.param_groups:
            group['lr'] = run.lr * rate
        x, y = next(self.batches)
        self.optimizer.zero_grad(set_to_none=False)
        largest = () if run.alone else (self.space.max_arch(),)
        F.cross_entropy(self.model(x, *largest), y, label_smoothing=SMOOTHING).backward()
        if not run.alone:
            self._smaller_subnets(x, y, self.space.max_arch())
        self.optimizer.step()
        decay = min(run.decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for old, new in zip(self.average.parameters(), self.parameters):
                old.lerp_(new, 1 - decay)

    def _smaller_subnets(self, x: torch.Tensor, y: torch.Tensor, largest: Arch) -> None:
        run, soft_targets = self.run, None
        archs = self.space.sample(self.rng, run.randoms) + [self.space.min_arch()] * run.smallest
        for arch in archs:
            if run.divided:
                x, y = next(self.batches)
            if run.labels < 1 and (run.divided or soft_targets is None):
                with torch.no_grad():
                    soft_targets = self.average(x, largest).softmax(1)
            logits = self.model(x, arch)
            loss = run.labels * F.cross_entropy(logits, y, label_smoothing=SMOOTHING)
            if soft_targets is not None:
                loss = loss + (1 - run.labels) * F.cross_entropy(logits, soft_targets)
            loss.backward()

    def judged(self, test: Images) -> dict[str, float]:
        """Top-1 by network, percent."""
        calibration = [next(self.batches)[0] for _ in range(CALIBRATION_BATCHES)]

        def top1_pct(network: nn.Module) -> float:
            return test.top1_pct(recalibrate_bn(network, calibration).eval())
        if self.run.alone:
            return {self.run.alone.replace('_', ' '): top1_pct(copy.deepcopy(self.average))}
        found = {name: top1_pct(self.average.extract(arch)) for name, arch in subnet_archs(self.space).items()}
        middle = [top1_pct(self.average.extract(arch)) for arch in some_archs(self.space)[MIDDLE]]
        return {**found, 'middle': round(float(np.mean(middle)), 2)}


def read_run(name: str, settings: list[str]) -> Run:
    """A run from `KEY=VALUE` texts."""
    kinds = {f.name: {'int': int, 'float': float, 'str': str}[str(f.type)] for f in fields(Run)}
    return Run(name, **{key: kinds[key](value) for key, value in (text.split('=') for text in settings)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data')
    parser.add_argument('--out', type=Path, default=Path('out/sharing.jsonl'))
    parser.add_argument('--set', nargs='+', action='append', default=[], metavar='NAME KEY=VALUE')
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data(args.data, 32) if args.data else None
    for name, *settings in args.set:
        run = read_run(name, settings)
        training = Training(run, Images(data.train))
        seconds = training.train()
        row = dict(asdict(run), top1_pct=training.judged(Images(data.test)), processor_s=round(seconds))
        with args.out.open('a') as opened:
            opened.write(json.dumps(row) + '\n')
    names = ['smallest', 'one third', 'two thirds', 'largest', 'middle']
    lines = []
    for row in read_results(args.out):
        top1 = [f'{row["top1_pct"][name]:.2f}' if name in row['top1_pct'] else '' for name in names]
        lines.append([row['name'], row['seed'], *top1, row['processor_s']])
    print(table(['run', 'seed', *(f'{name} %' for name in names), 'processor s'], lines))


if __name__ == '__main__':
    main()
