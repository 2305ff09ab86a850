"""Time a training step against the original's elastic networks, and a supernet's step against its largest net alone.

    python tests/bench/bench_step.py > tests/bench/results/step.txt

Both take the same subnets, images and weights (converted), the same loss and SGD, in turns in one process: ours in
channels-last order, with a fused optimizer, as training does, and in the precision asked for; the original as it is,
choosing its active subnet included, in float32 unless --original-precision says otherwise. The ratio is of the sums
over the subnets of each one's median time, so above 1 ours is faster; beside it the same of the shortest times and, on
a CPU, of the processor's time, which other jobs disturb less. The C library keeps freed memory for both, as in our
training. Needs the package `ofa`; without it only the second part is there.
"""
from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from torch import nn

from timm_ofa.convert import convert_upstream
from timm_ofa.engine import keep_freed_memory, make_optimizer
from timm_ofa.space import Arch, SearchSpace, load_space
from timm_ofa.supernet import Supernet, new_supernet

sys.path.append(str(Path(__file__).resolve().parents[1]))
from test_convert import ORIGINALS, upstream_arch

BAR = {'cpu': 1.5, 'cuda': 2.0}
SAME_LOSS = 1e-9  # relative, in double precision
SUBNETS_PER_STEP = 4
BATCHES = {'cpu': ['8x128', '16x160'], 'cuda': ['64x224', '256x160']}
WARM_UP = {'cpu': 1, 'cuda': 2}  # rounds
DTYPES = {'no': None, 'bf16': torch.bfloat16}


class Trainer:
    """A network, its optimizer, and the time of steps."""

    def __init__(self, model: nn.Module, precision: str = 'no'):
        self.model, self.dtype = model.train(), DTYPES[precision]
        self.device = next(model.parameters()).device
        self.optimizer = make_optimizer(model, lr=1e-4, momentum=0.9, weight_decay=3e-5)

    def loss(self, x: torch.Tensor, labels: torch.Tensor, *arch: Arch) -> torch.Tensor:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None and x.dtype is torch.float32):
            logits = self.model(x, *arch)
        return F.cross_entropy(logits if x.dtype is torch.float64 else logits.float(), labels, label_smoothing=0.1)

    def now(self) -> float:
        if self.device.type == 'cuda':
            torch.cuda.synchronize()
        return time.perf_counter()

    def step(self, x: torch.Tensor, labels: torch.Tensor, archs: list[tuple], choose: Callable = lambda arch: None,
             ) -> tuple[float, float, float]:
        """Seconds of forward and backward, of the whole step, and the processor's of the whole step."""
        began, began_cpu = self.now(), time.process_time()
        for arch in archs:
            choose(arch)
            self.loss(x, labels, *arch).backward()
        middle = self.now()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return middle - began, self.now() - began, time.process_time() - began_cpu


class Original(Trainer):
    """The original's network, whose active subnet is state."""

    def __init__(self, model: nn.Module, space: SearchSpace, precision: str):
        super().__init__(model, precision)
        self.optimizer = create_optimizer_v2(model, opt='sgd', lr=1e-4, momentum=0.9, weight_decay=3e-5)  # as it has it
        self.space = space

    def step(self, x, labels, archs):
        settings = {arch: upstream_arch(self.space, arch) for (arch,) in archs}  # not what is timed
        chosen = iter(settings.values())
        return super().step(x, labels, [()] * len(archs), lambda _: self.model.set_active_subnet(**next(chosen)))

    def loss_of(self, x, labels, arch):
        self.model.set_active_subnet(**upstream_arch(self.space, arch))
        return self.loss(x, labels)


@torch.no_grad()
def difference_of_losses(ours: Trainer, theirs: Original, archs: list[Arch], images: tuple) -> float:
    """The largest relative one over the subnets, in double precision."""
    x, labels, differences = images[0].double(), images[1], []
    for trainer in (ours, theirs):
        trainer.model.double()
    for arch in archs:
        expected = theirs.loss_of(x, labels, arch).item()
        differences.append(abs(ours.loss(x, labels, arch).item() - expected) / expected)
    for trainer in (ours, theirs):
        trainer.model.float()
    return max(differences)


def supernet_of(space: SearchSpace, device: str) -> Supernet:
    return new_supernet(space).to(device, memory_format=torch.channels_last)


def batch(size: int, resolution: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, 3, resolution, resolution, generator=generator)
    return x.to(device), torch.randint(1000, (size,), generator=generator).to(device)


def against_original(space: SearchSpace, size: int, resolution: int, args: argparse.Namespace) -> str:
    """One line: the ratio of the times of forward and backward, and of the whole step."""
    from ofa.imagenet_classification.elastic_nn import networks

    kind, kwargs = ORIGINALS[space.name]
    torch.manual_seed(0)
    theirs = getattr(networks, kind)(**kwargs, dropout_rate=0).to(args.device)
    ours = supernet_of(space, args.device)
    ours.load_state_dict(convert_upstream(theirs.state_dict(), ours))
    pair = Trainer(ours, args.precision), Original(theirs, space, args.original_precision)
    x, labels = batch(size, resolution, args.device)
    inputs = x.contiguous(memory_format=torch.channels_last), x
    archs = space.sample(np.random.default_rng(args.seed), args.subnets)
    different = difference_of_losses(*pair, archs, batch(4, 64, args.device))
    if different > SAME_LOSS:
        raise SystemExit(f'{space.name}: losses differ by {different:.1e}: not the same networks')
    seconds = np.empty((2, len(archs), args.rounds, 3))  # network, subnet, round, what `step` gives
    for r in range(-WARM_UP[args.device], args.rounds):
        for a, arch in enumerate(archs):
            for who in ((0, 1) if r % 2 else (1, 0)):
                seconds[who, a, max(r, 0)] = pair[who].step(inputs[who], labels, [(arch,)])
    median, least = np.median(seconds, 2), seconds.min(2)
    ratio, ratio_least = (times[1].sum(0) / times[0].sum(0) for times in (median, least))
    worst = (median[1] / median[0]).min(0)
    return (
        f'{space.name:<18} batch {size:3} at {resolution} px: forward+backward {ratio[0]:.2f}, step {ratio[1]:.2f} '
        f'(shortest {ratio_least[1]:.2f}, processor {ratio[2]:.2f}), worst subnet {worst[1]:.2f}; ours '
        f'{1e3 * median[0, :, 1].mean():.0f} ms, original {1e3 * median[1, :, 1].mean():.0f} ms; losses within '
        f'{different:.0e}')


def against_largest_alone(space: SearchSpace, size: int, resolution: int, args: argparse.Namespace) -> str:
    """One line: images per second of a step of some subnets, and of the largest net as a stock timm model."""
    torch.manual_seed(0)
    supernet = supernet_of(space, args.device)
    largest = supernet.extract(space.max_arch()).to(memory_format=torch.channels_last)
    pair = Trainer(supernet, args.precision), Trainer(largest, args.precision)
    x, labels = batch(size, resolution, args.device)
    x = x.contiguous(memory_format=torch.channels_last)
    seconds = np.empty((2, args.rounds))
    for r in range(-WARM_UP[args.device], args.rounds):
        archs = space.sample(np.random.default_rng([args.seed, max(r, 0)]), SUBNETS_PER_STEP)
        for who, runs in ((0, [(arch,) for arch in archs]), (1, [()])):
            seconds[who, max(r, 0)] = pair[who].step(x, labels, runs)[1]
    step_s, alone_s = np.median(seconds, 1)
    passes = SUBNETS_PER_STEP * size
    return (
        f'{space.name:<18} batch {size:3} at {resolution} px: supernet, {SUBNETS_PER_STEP} random subnets a step: '
        f'{size / step_s:.1f} images/s ({passes / step_s:.1f} passes/s), largest net alone {size / alone_s:.1f} '
        f'images/s: {passes / step_s / (size / alone_s):.2f} times its passes')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--spaces', nargs='+', default=['ofa_mbv3_w10', 'ofa_proxyless_w13', 'ofa_resnet50d'])
    parser.add_argument('--batches', nargs='+', metavar='NxPX')
    parser.add_argument('--threads', nargs='+', type=int, default=[1, 2])
    parser.add_argument('--subnets', type=int, default=5, help='random ones')
    parser.add_argument('--rounds', type=int, default=5, help='times that each is timed')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--device', choices=list(BAR), default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--precision', choices=list(DTYPES), default='no', help='of ours')
    parser.add_argument('--original-precision', choices=list(DTYPES), default='no')
    args = parser.parse_args()
    args.batches = args.batches or BATCHES[args.device]
    keep_freed_memory()
    name = torch.cuda.get_device_name() if args.device == 'cuda' else f'{os.cpu_count()} cores'
    print(f'{name}, torch {torch.__version__}, timm {timm.__version__}, seed {args.seed}, '
          f'{args.subnets} subnets x {args.rounds} rounds; bar: {BAR[args.device]:g} times as fast as the original')
    parts = [against_original, against_largest_alone] if find_spec('ofa') else [against_largest_alone]
    for threads in args.threads:
        torch.set_num_threads(threads)
        for part in parts:
            print(f'-- {threads} threads, precision {args.precision}, original {args.original_precision}, '
                  f'load {os.getloadavg()[0]:.1f}', flush=True)
            for space in map(load_space, args.spaces):
                for size, resolution in (map(int, b.split('x')) for b in args.batches):
                    print(part(space, size, resolution, args), flush=True)


if __name__ == '__main__':
    main()
