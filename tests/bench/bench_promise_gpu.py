"""Inherited weights beside the same networks trained alone, for many seeds and recipes at once on one GPU.

    python tests/bench/bench_promise_gpu.py --data DIR --out out/promise [--jobs base,paper,alone] [--minutes 9]

`DIR` is CIFAR-10. Each job is a stack of runs with the same number of steps (see `stacked.py`). Networks alone have the
steps of the supernet of `base`; `paper` has 2.7 times as many. Accuracies go to `results.jsonl`, one line a run, and
weights of the supernets to `NAME.safetensors`. A job that cannot end in time is stopped and judged where it stands;
`steps` says so.

Legend: S runs, N images of a batch, C channels, K classes, T steps.
"""
from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from bench_alone import subnet_archs
from safetensors.torch import save_file
from stacked import Stacked, StackedSupernet, Statistics
from stacked_images import REACH, Images, draws

from timm_ofa.images import Data, load_data
from timm_ofa.networks import new_supernet
from timm_ofa.networks.ofa import ENTRY_POINTS
from timm_ofa.networks.stock import model_args
from timm_ofa.spaces import Arch, SearchSpace, load_space

MOMENTUM, WEIGHT_DECAY, SMOOTHING = 0.9, 5e-4, 0.1


@dataclass(frozen=True)
class Run:
    """Settings of one run of a stack."""
    name: str
    seed: int = 0
    lr: float = 0.05
    labels: float = 0.5  # share of the labels in what smaller subnets learn; the rest are soft targets
    largest_labels: float = 1.0  # the same of the largest subnet
    averaged: bool = True  # the moving average teaches; else the step's largest subnet
    decay: float = 0.999  # of the moving average
    alone: float = 0.0  # share of the training in which the largest subnet is alone
    randoms: int = 2  # random subnets in a step
    weak: bool = False  # smaller subnets see images that are not shifted


class Training:
    """A stack of runs: parameters, momentum and moving average (S, D), and what each step needs as tables."""

    def __init__(self, runs: Sequence[Run], flat: torch.Tensor, decayed: torch.Tensor, images: Images, *, steps: int,
                 batch: int, resolutions: Sequence[int], dtype: torch.dtype):
        device = flat.device
        self.runs, self.images, self.steps, self.dtype = list(runs), images, steps, dtype
        self.flat, self.average = flat.clone().requires_grad_(), flat.clone()
        self.velocity, self.decayed = torch.zeros_like(flat), decayed * WEIGHT_DECAY
        self.decays = self.setting(lambda r: r.decay)[:, :, 0]
        self.draws = torch.from_numpy(np.stack(
            [draws(len(images.labels), steps, batch, r.seed) for r in runs], 1)).to(device)
        self.per_epoch = len(images.labels) // batch
        self.rates = torch.tensor([r.lr for r in runs], device=device)[None] * self._schedule(device)[:, None]
        self.resolutions = np.random.default_rng([runs[0].seed, 6]).choice(resolutions, steps)
        self.place = torch.zeros(1, dtype=torch.long, device=device)
        self.losses = torch.zeros(64, len(runs), device=device)
        self.done, self.stop, self.graphs = 0, False, {}
        self.stream = torch.cuda.Stream() if device.type == 'cuda' else None

    def _schedule(self, device: torch.device) -> torch.Tensor:
        """The rate (T,) relative to its highest: an epoch from a tenth upwards, then a cosine to 0."""
        t = torch.arange(self.steps, device=device, dtype=torch.float32)
        w = self.per_epoch
        return torch.where(t < w, 0.1 + 0.9 * t / w, 0.5 * (1 + torch.cos(np.pi * (t - w) / (self.steps - w))))

    def setting(self, read: Callable[[Run], float]) -> torch.Tensor:
        """One value a run, shaped to go with logits (S, K, N)."""
        return torch.tensor([float(read(r)) for r in self.runs], device=self.flat.device)[:, None, None]

    def loss(self, packed: torch.Tensor, resolution: int) -> torch.Tensor:
        """The loss (S,) of a step."""
        raise NotImplementedError

    def truth(self, packed: torch.Tensor) -> torch.Tensor:
        """Smoothed labels (S, K, N)."""
        labels = self.images.labels[packed >> 9]
        return (F.one_hot(labels, self.classes) * (1 - SMOOTHING) + SMOOTHING / self.classes).transpose(1, 2)

    def step(self, resolution: int) -> None:
        """One step of all runs. It reads nothing from the host."""
        packed = self.draws[self.place][0]
        loss = self.loss(packed, resolution)
        gradient, = torch.autograd.grad(loss.sum(), self.flat)
        with torch.no_grad():
            gradient += self.decayed * self.flat
            self.velocity.mul_(MOMENTUM).add_(gradient)
            rate = self.rates[self.place][0][:, None]
            self.flat.sub_(rate * (gradient + MOMENTUM * self.velocity))
            step = self.place + 1.0
            keep = torch.minimum(self.decays, step / (step + 10))
            self.average.lerp_(self.flat, 1 - keep)
            slot = self.place * len(self.losses) // self.steps
            self.losses.index_add_(0, slot, loss.detach()[None])
            self.place += 1

    def capture(self) -> None:
        """Record the step at each resolution. The steps that warm it up are undone."""
        if self.stream is None:
            return
        state = [self.flat, self.average, self.velocity, self.place, self.losses]
        before = [t.detach().clone() for t in state]
        for resolution in sorted(set(self.resolutions.tolist())):
            with torch.cuda.stream(self.stream):
                for _ in range(2):
                    self.step(resolution)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self.stream):
                self.step(resolution)
            self.graphs[resolution] = graph
        with torch.no_grad():
            for t, old in zip(state, before):
                t.copy_(old)
        torch.cuda.synchronize()

    def train(self) -> None:
        """All steps, or as many as there are until `stop`."""
        while self.done < self.steps and not self.stop:
            resolution = int(self.resolutions[self.done])
            if self.stream is None:
                self.step(resolution)
            else:
                with torch.cuda.stream(self.stream):
                    self.graphs[resolution].replay()
                if self.done % 50 == 0:
                    self.stream.synchronize()
            self.done += 1
        if self.stream is not None:
            self.stream.synchronize()


class SupernetTraining(Training):
    """Supernets: each step the largest subnet, the smallest and random ones."""

    def __init__(self, space: SearchSpace, runs: Sequence[Run], images: Images, classes: int, device: torch.device,
                 **kwargs):
        nets = []
        for run in runs:
            torch.manual_seed(run.seed)
            nets.append(new_supernet(space, num_classes=classes))
        self.net, self.space, self.classes = StackedSupernet(nets[0], device), space, classes
        flat = torch.stack([self.net.rows(net) for net in nets]).to(device)
        super().__init__(runs, flat, decayed(nets[0]).to(device), images, **kwargs)
        self.smallest = self.net.subnet(space.min_arch())
        self.most = max(r.randoms for r in runs)
        codes = [self.net.random_codes(self.steps * self.most, np.random.default_rng([r.seed, 7])) for r in runs]
        shape = self.steps, self.most, len(runs), -1
        self.limits = torch.stack([c[0].short() for c in codes], 1).view(shape).to(device)
        self.kernels = torch.stack([c[1].argmax(2).char() for c in codes], 1).view(shape).to(device)
        self.kinds = torch.arange(codes[0][1].shape[2], device=device)
        s = self.setting
        self.labels, self.largest_labels = s(lambda r: r.labels), s(lambda r: r.largest_labels)
        self.averaged, self.alone = s(lambda r: r.averaged).bool(), s(lambda r: r.alone)[:, 0, 0]
        self.shifted = ~s(lambda r: r.weak).bool()[:, 0]
        self.weights = (torch.arange(self.most, device=device)[:, None] < s(lambda r: r.randoms)[:, 0, 0]).float()

    def loss(self, packed: torch.Tensor, resolution: int) -> torch.Tensor:
        x, truth = self.images.batch(packed, resolution), self.truth(packed)
        z = self.net.logits(self.flat, x, dtype=self.dtype)
        with torch.no_grad():
            soft = self.net.logits(self.average, x, dtype=self.dtype).softmax(1)
            taught = torch.where(self.averaged, soft, z.softmax(1))
            target = self.labels * truth + (1 - self.labels) * taught
            if any(r.weak for r in self.runs):
                x = self.images.batch(packed, resolution, self.shifted)
        loss = cross_entropy(z, self.largest_labels * truth + (1 - self.largest_labels) * soft)
        shared = (self.place >= self.alone * self.steps).float()
        loss = loss + shared * cross_entropy(self.smallest.logits_of(self.flat, x, dtype=self.dtype), target)
        for i in range(self.most):
            limits = self.limits[self.place][0, i].int()
            one_hot = (self.kernels[self.place][0, i][..., None] == self.kinds).float()
            z = self.net.random_logits(self.flat, x, limits, one_hot, self.dtype)
            loss = loss + shared * self.weights[i] * cross_entropy(z, target)
        return loss

    def judge(self, archs: Sequence[Arch], calibration: torch.Tensor, test: Images,
              which: torch.Tensor) -> list[np.ndarray]:
        """Top-1 (S,) in percent of each arch, with statistics of its own."""
        results = []
        for arch in archs:
            net = self.net.subnet(arch)
            results.append(accuracy(
                lambda x, stats, net=net: net.logits_of(which, everywhere(x, which), statistics=stats),
                calibration, self.images, test, arch.resolution))
        return results


class AloneTraining(Training):
    """One arch, with weights of its own."""

    def __init__(self, space: SearchSpace, arch: Arch, runs: Sequence[Run], images: Images, classes: int,
                 device: torch.device, **kwargs):
        nets = []
        for run in runs:
            torch.manual_seed(run.seed)
            nets.append(timm.create_model(ENTRY_POINTS[space.family], num_classes=classes, **model_args(space, arch)))
        self.net, self.arch, self.classes = Stacked(nets[0]), arch, classes
        rows = [torch.cat([p.detach().flatten() for p in net.parameters()]) for net in nets]
        super().__init__(runs, torch.stack(rows).to(device), decayed(nets[0]).to(device), images, **kwargs)

    def loss(self, packed: torch.Tensor, resolution: int) -> torch.Tensor:
        x = self.images.batch(packed, resolution)
        return cross_entropy(self.net.logits(self.flat, x, dtype=self.dtype), self.truth(packed))

    def judge(self, archs: Sequence[Arch], calibration: torch.Tensor, test: Images,
              which: torch.Tensor) -> list[np.ndarray]:
        return [accuracy(
            lambda x, stats: self.net.logits(which, everywhere(x, which), statistics=stats),
            calibration, self.images, test, self.arch.resolution)]


def decayed(model: torch.nn.Module) -> torch.Tensor:
    """1 for the parameters (D,) that decay: not those of BatchNorm, and no biases."""
    return torch.cat([torch.full((p.numel(),), float(p.ndim > 1)) for p in model.parameters()])


def everywhere(x: torch.Tensor, flat: torch.Tensor) -> torch.Tensor:
    """The same images (1, 3, N, H, W) for all runs."""
    return x.expand(len(flat), *x.shape[1:])


def cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean over the batch (S,) of logits and targets (S, K, N)."""
    return -(target * logits.log_softmax(1)).sum(1).mean(1)


@torch.no_grad()
def accuracy(logits: Callable[[torch.Tensor, Statistics], torch.Tensor], calibration: torch.Tensor, train: Images,
             test: Images, resolution: int, batch: int = 500) -> np.ndarray:
    """Top-1 (S,) in percent; `calibration`: packed draws (batches, N) of training images."""
    statistics, hits = Statistics(), 0
    for packed in calibration:
        x = train.batch(packed[None], resolution)
        logits(x, statistics)
    statistics.collect = False
    center = REACH * 32 + REACH * 2
    for start in range(0, len(test.labels), batch):
        index = torch.arange(start, min(start + batch, len(test.labels)), device=test.labels.device)
        z = logits(test.batch((index * 512 + center)[None], resolution), statistics)
        hits = hits + (z.argmax(1) == test.labels[index]).sum(1)
    return (100 * hits / len(test.labels)).cpu().numpy()


def variants() -> list[Run]:
    """The recipe and one change at a time."""
    base = Run('base')
    return [
        base, replace(base, seed=1), replace(base, seed=2),
        replace(base, name='the largest of the step teaches', averaged=False),
        replace(base, name='labels alone', labels=1.0), replace(base, name='soft targets alone', labels=0.0),
        replace(base, name='rate 0.08', lr=0.08), replace(base, name='rate 0.03', lr=0.03),
        replace(base, name='largest alone for a quarter', alone=0.25),
        replace(base, name='one random subnet', randoms=1),
        replace(base, name='smaller subnets see unshifted images', weak=True),
        replace(base, name='largest learns from its average as well', largest_labels=0.5)]


def four_archs(args: argparse.Namespace) -> dict[str, Arch]:
    """The networks that are trained alone, at the largest resolution."""
    return subnet_archs(load_space(args.space).restrict(resolutions=args.resolutions[-1:]))


def plan(
        args: argparse.Namespace, data: Data, images: Images,
        device: torch.device) -> dict[str, Callable[[], list[Training]]]:
    """The jobs by name; each one builds its trainings."""
    space = load_space(args.space).restrict(resolutions=args.resolutions)
    archs = four_archs(args)
    steps = args.epochs * (len(images.labels) // args.batch)
    shared = dict(batch=args.batch, dtype=torch.bfloat16 if args.precision == 'bf16' else torch.float32)
    seeds = range(args.seeds)

    def supernets(runs: Sequence[Run], ratio: float = 1.0) -> list[Training]:
        return [SupernetTraining(
            space, runs, images, data.num_classes, device, steps=round(ratio * steps), resolutions=args.resolutions,
            **shared)]

    def alone() -> list[Training]:
        runs = [Run('alone', seed, args.lr_alone) for seed in seeds]
        runs += [Run('alone', 0, f * args.lr_alone) for f in (0.6, 1.6)] if args.tune else []
        return [AloneTraining(
            space, arch, [replace(r, name=f'alone: {name}') for r in runs], images, data.num_classes, device,
            steps=steps, resolutions=args.resolutions[-1:], **shared) for name, arch in archs.items()]

    base = Run('base', lr=args.lr)
    return {
        'variants': lambda: supernets(variants()), 'base': lambda: supernets([replace(base, seed=s) for s in seeds]),
        'alone': alone,
        'paper': lambda: supernets([replace(base, name='paper', seed=s) for s in seeds], 2.7)}


def main() -> None:
    """Run the jobs together, then judge all of them."""
    args = arguments()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    began = time.time()
    data = load_data(args.data, 32, holdout=args.holdout, limit=args.limit)
    space = load_space(args.space)
    images, test = Images(data.train, space, device), Images(data.test, space, device)
    print(f'{len(images.labels)} training images, {len(test.labels)} test images', flush=True)
    jobs = plan(args, data, images, device)
    trainings = [(name, t) for name in args.jobs.split(',') for t in jobs[name]()]
    for name, training in trainings:
        training.capture()
        print(f'{time.time() - began:.0f} s: {name}, {len(training.runs)} runs, {training.steps} steps', flush=True)
    threads = [threading.Thread(target=t.train) for _, t in trainings]
    for thread in threads:
        thread.start()
    deadline = began + 60 * args.minutes
    while any(thread.is_alive() for thread in threads):
        time.sleep(min(15, max(1, deadline - time.time())))
        print(f'{time.time() - began:.0f} s: ' + ', '.join(f'{t.done}/{t.steps}' for _, t in trainings), flush=True)
        if time.time() >= deadline:
            for _, training in trainings:
                training.stop = True
    report(args, trainings, images, test, began)


@torch.no_grad()
def report(args: argparse.Namespace, trainings: Sequence[tuple[str, Training]], images: Images, test: Images,
           began: float) -> None:
    """Judge every run and write what came of it."""
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    n = len(images.labels)
    calibration = torch.from_numpy(draws(n, 8, min(250, n // 8), 99)).to(images.labels.device)
    archs = list(four_archs(args).values())
    with (out / 'results.jsonl').open('a') as file:
        for name, training in trainings:
            tables = {which: training.judge(archs, calibration, test, rows) for which, rows in (
                ('last', training.flat.detach()), ('average', training.average))}
            for s, run in enumerate(training.runs):
                line = dict(
                    job=name, **asdict(run), steps=training.done, of=training.steps, precision=args.precision,
                    losses=[round(v, 3) for v in (training.losses[:, s] * 64 / training.steps).tolist()[::8]],
                    **{which: [round(float(top1[s]), 2) for top1 in tops] for which, tops in tables.items()})
                file.write(json.dumps(line) + '\n')
                print(*(line[key] for key in ('name', 'seed', 'lr', 'steps', 'last', 'average')), flush=True)
                if isinstance(training, SupernetTraining) and run.name in ('base', 'paper'):
                    training.net.load(training.flat[s].cpu(), training.net.supernet)
                    save_file(
                        training.net.supernet.state_dict(), out / f'{args.space}_{run.name}{run.seed}.safetensors')
    print(f'{time.time() - began:.0f} s in all', flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', required=True)
    parser.add_argument('--out', required=True)
    parser.add_argument('--jobs', default='base,alone,paper', help='of base, variants, alone, paper')
    parser.add_argument('--space', default='ofa_mbv3_tiny')
    parser.add_argument('--resolutions', type=int, nargs='+', default=[24], help='px; networks alone: the last one')
    parser.add_argument('--epochs', type=int, default=40)
    parser.add_argument('--batch', type=int, default=64)
    parser.add_argument('--lr', type=float, default=0.05)
    parser.add_argument('--lr-alone', type=float, default=0.08)
    parser.add_argument('--tune', action='store_true', help='networks alone also at 0.6 and 1.6 times their rate')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--precision', choices=['fp32', 'bf16'], default='bf16')
    parser.add_argument('--limit', type=int, help='at most so many training images')
    parser.add_argument('--holdout', type=float, default=0.1)
    parser.add_argument('--minutes', type=float, default=9.0)
    return parser.parse_args()


if __name__ == '__main__':
    main()
