"""Time a training step against the original's elastic networks, and a supernet's step against its largest net alone.

    python tests/bench/bench_step.py --out tests/bench/results/step.txt

All take the same subnets, images and weights (converted), the same loss and SGD, in turns in one process: ours in
channels-last order, with a fused optimizer, as training does, in each precision asked for; the original as it is,
choosing its active subnet included, in float32 unless --original-precision says otherwise (float32 as torch has it: on
a GPU convolutions may round to TF32, on both sides). The ratio is of the sums over the subnets of each one's median
time, so above 1 ours is faster; beside it the same of the shortest times and, on a CPU, of the processor's time, which
other jobs disturb less. The C library keeps freed memory for both, as in our training. Needs the package `ofa`; without
it only the comparison with the largest net is there. `--parts finetune` compares a stock network's step as torch has it
with the same in fine-tuning. Lines are written as they come; after --seconds none is begun.
"""
from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import numpy as np
import timm
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from torch import nn

from timm_ofa.networks import elastic
from timm_ofa.networks.convert import convert_upstream
from timm_ofa.networks.supernet import Supernet, new_supernet
from timm_ofa.spaces.arch import Arch
from timm_ofa.spaces.shelf import load_space
from timm_ofa.spaces.space import SearchSpace
from timm_ofa.training.loop import keep_freed_memory, make_optimizer

sys.path.append(str(Path(__file__).resolve().parents[1] / 'networks'))
from test_convert import ORIGINALS, upstream_arch

BAR = {'cpu': 1.5, 'cuda': 2.0}
SAME_LOSS = 1e-9  # relative, in double precision
BATCHES = {'cpu': ['8x128', '16x160'], 'cuda': ['64x224', '256x224']}
WARM_UP = 1  # rounds: on a GPU the first pass of a subnet chooses the kernels of all its shapes
DTYPES = {'no': None, 'bf16': torch.bfloat16}
DENSE_CONV, DEPTHWISE_CONV = elastic.dense_conv, elastic.depthwise_conv


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

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def wait(self) -> None:
        """Until all backward passes are through."""

    def step(self, x: torch.Tensor, labels: torch.Tensor, archs: list[tuple], choose: Callable = lambda arch: None,
             ) -> tuple[float, float, float]:
        """Seconds of forward and backward, of the whole step, and the processor's of the whole step."""
        began, began_cpu = self.now(), time.process_time()
        for arch in archs:
            choose(arch)
            self.backward(self.loss(x, labels, *arch))
        self.wait()
        middle = self.now()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return middle - began, self.now() - began, time.process_time() - began_cpu


class Overlapping(Trainer):
    """A trainer that launches a subnet's backward pass from another thread while it launches the next one's forward."""

    def __init__(self, *args):
        super().__init__(*args)
        self.thread, self.running = ThreadPoolExecutor(1), None

    def backward(self, loss: torch.Tensor) -> None:
        self.wait()
        self.running = self.thread.submit(loss.backward)

    def wait(self) -> None:
        if self.running:
            self.running.result()


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


def matrix_product(x: torch.Tensor, weight: torch.Tensor, stride=(1, 1), padding=(0, 0)) -> torch.Tensor:
    """A convolution, as a product of matrices if it is 1x1."""
    if weight.shape[-1] > 1 or max(stride) > 1:
        return DENSE_CONV(x, weight, stride, padding)
    return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1)).permute(0, 3, 1, 2)


def depthwise_by_channel(x: torch.Tensor, weight: torch.Tensor, stride) -> torch.Tensor:
    """A depthwise convolution in the order of channels, which torch's own kernels take instead of cuDNN's."""
    return DEPTHWISE_CONV(x.contiguous(), weight, stride).contiguous(memory_format=torch.channels_last)


WAYS = {
    'as it is': dict(dense_conv=DENSE_CONV), '1x1 as products of matrices': dict(dense_conv=matrix_product),
    'depthwise by channel': dict(depthwise_conv=depthwise_by_channel)}


def supernet_of(space: SearchSpace, device: str) -> Supernet:
    return new_supernet(space).to(device, memory_format=torch.channels_last)


def batch(size: int, resolution: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, 3, resolution, resolution, generator=generator)
    return x.to(device), torch.randint(1000, (size,), generator=generator).to(device)


class Contest:
    """The networks of a space: ours, the original's if it is there, and the largest net as a stock timm model."""

    def __init__(self, space: SearchSpace, args: argparse.Namespace):
        self.space, self.device, self.rounds = space, args.device, args.rounds
        self.archs = space.sample(np.random.default_rng(args.seed), args.subnets)
        torch.manual_seed(0)
        ours, self.original, self.checked = supernet_of(space, args.device), {}, ''
        if find_spec('ofa'):
            from ofa.imagenet_classification.elastic_nn import networks

            kind, kwargs = ORIGINALS[space.name]
            theirs = getattr(networks, kind)(**kwargs, dropout_rate=0).to(args.device)
            ours.load_state_dict(convert_upstream(theirs.state_dict(), ours))
            self.original = {p: Original(theirs, space, p) for p in args.original_precision}
        self.supernet, self.ours = ours, {p: Trainer(ours, p) for p in args.precision}
        self.overlapping = {p: Overlapping(ours, p) for p in args.precision}
        largest = ours.extract(space.max_arch()).to(memory_format=torch.channels_last)
        self.largest = {p: Trainer(largest, p) for p in args.precision}
        if self.original and args.device == 'cpu':
            pair = next(iter(self.ours.values())), next(iter(self.original.values()))
            different = difference_of_losses(*pair, self.archs, batch(4, 64, args.device))
            if different > SAME_LOSS:
                raise SystemExit(f'{space.name}: losses differ by {different:.1e}: not the same networks')
            self.checked = f'; losses within {different:.0e}'

    def against_original(self, size: int, resolution: int) -> list[str]:
        """The ratios of the times of forward and backward, and of the whole step; a line for a pair of precisions."""
        x, labels = batch(size, resolution, self.device)
        runs = [(trainer, x.contiguous(memory_format=torch.channels_last)) for trainer in self.ours.values()]
        runs += [(trainer, x) for trainer in self.original.values()]
        seconds = np.empty((len(runs), len(self.archs), self.rounds, 3))  # network, subnet, round, what `step` gives
        for r in range(-WARM_UP, self.rounds):
            for a, arch in enumerate(self.archs):
                for who in np.roll(range(len(runs)), r):
                    trainer, inputs = runs[who]
                    seconds[who, a, max(r, 0)] = trainer.step(inputs, labels, [(arch,)])
        medians, shortest, lines = np.median(seconds, 2), seconds.min(2), []
        for i, own in enumerate(self.ours):
            for j, other in enumerate(self.original, len(self.ours)):
                ratio, least = medians[j].sum(0) / medians[i].sum(0), shortest[j].sum(0) / shortest[i].sum(0)
                lines.append(
                    f'{self.space.name:<18} batch {size:3} at {resolution} px, {own} against {other}: '
                    f'forward+backward {ratio[0]:.2f}, step {ratio[1]:.2f} (shortest {least[1]:.2f}, '
                    f'processor {ratio[2]:.2f}), worst subnet {(medians[j] / medians[i]).min(0)[1]:.2f}; ours '
                    f'{1e3 * medians[i, :, 1].mean():.1f} ms, original {1e3 * medians[j, :, 1].mean():.1f} ms'
                    f'{self.checked}')
        return lines

    def against_largest_alone(self, size: int, resolution: int) -> list[str]:
        """Images per second of steps of all subnets, and of the largest net by itself; a line for each precision."""
        x, labels = batch(size, resolution, self.device)
        own, lines, runs = x.contiguous(memory_format=torch.channels_last), [], [(arch,) for arch in self.archs]
        for precision in self.ours:
            contestants = {
                'supernet': (self.ours[precision], own, runs),
                'largest net alone': (self.largest[precision], own, [()])}
            if self.device == 'cuda':  # where launching kernels may be what takes time
                contestants['overlapping'] = self.overlapping[precision], own, runs
                contestants |= {f'original {other}': (trainer, x, runs) for other, trainer in self.original.items()}
            seconds = np.empty((len(contestants), self.rounds))
            for r in range(-WARM_UP, self.rounds):
                for who, (trainer, inputs, archs) in enumerate(contestants.values()):
                    seconds[who, max(r, 0)] = trainer.step(inputs, labels, archs)[1]
            rates = dict(zip(contestants, size / np.median(seconds, 1)))
            times = len(runs) * rates['supernet'] / rates['largest net alone']
            lines.append(
                f'{self.space.name:<18} batch {size:3} at {resolution} px, {precision}, steps of {len(runs)} subnets, '
                f'images/s: {", ".join(f"{name} {rate:.1f}" for name, rate in rates.items())}; the supernet makes '
                f'{times:.2f} times the passes of the largest net alone')
        return lines

    def fine_tuning(self, size: int, resolution: int) -> list[str]:
        """A step of each subnet as a stock network: torch's own depthwise gradients against those of fine-tuning."""
        x, labels = batch(size, resolution, self.device)
        own, lines = x.contiguous(memory_format=torch.channels_last), []
        models = [self.supernet.extract(arch).to(memory_format=torch.channels_last) for arch in self.archs]
        for precision in self.ours:
            seconds = np.empty((2, len(models), self.rounds))
            for r in range(-WARM_UP, self.rounds):
                for m, model in enumerate(models):
                    trainer = Trainer(model, precision)
                    seconds[0, m, max(r, 0)] = trainer.step(own, labels, [()])[1]
                    with elastic.quick_depthwise(model):
                        seconds[1, m, max(r, 0)] = trainer.step(own, labels, [()])[1]
            stock, quick = np.median(seconds, 2).sum(1)
            lines.append(
                f'{self.space.name:<18} batch {size:3} at {resolution} px, {precision}, stock subnets: step '
                f'{stock / quick:.2f} times as fast with the depthwise gradients of fine-tuning; '
                f'{1e3 * quick / len(models):.1f} ms')
        return lines

    def on_the_gpu(self, size: int, resolution: int) -> list[str]:
        """How long the GPU itself works in a step of the first subnet, its kernels, and which take longest; and our
        steps with convolutions taken in other ways."""
        x, labels = batch(size, resolution, self.device)
        lines, own = [], x.contiguous(memory_format=torch.channels_last)
        for precision, trainer in self.ours.items():
            seconds = np.empty((len(WAYS), len(self.archs), self.rounds))
            for r in range(-WARM_UP, self.rounds):
                for a, arch in enumerate(self.archs):
                    for way, functions in enumerate(WAYS.values()):
                        with mock.patch.multiple(elastic, **functions):
                            seconds[way, a, max(r, 0)] = trainer.step(own, labels, [(arch,)])[1]
            times_ms = dict(zip(WAYS, 1e3 * np.median(seconds, 2).mean(1)))
            lines.append(
                f'{self.space.name:<18} batch {size:3} at {resolution} px, {precision}, ms a step: '
                f'{", ".join(f"{way} {ms:.1f}" for way, ms in times_ms.items())}')
        for name, trainers, inputs in (('ours', self.ours, own), ('original', self.original, x)):
            for precision, trainer in trainers.items():
                with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                    trainer.step(inputs, labels, [(self.archs[0],)])
                kernels = sorted(
                    (event for event in profile.key_averages() if event.self_device_time_total),
                    key=lambda event: -event.self_device_time_total)
                busy, launches = (sum(getattr(event, of) for event in kernels) for of in (
                    'self_device_time_total', 'count'))
                top = '; '.join(
                    f'{event.key[:60]} {event.self_device_time_total / 1e3:.2f} ms in {event.count}'
                    for event in kernels[:6])
                lines.append(
                    f'{self.space.name:<18} batch {size:3} at {resolution} px, {name} {precision}: the GPU works '
                    f'{busy / 1e3:.1f} ms in {launches} kernels and copies; {top}')
        return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--spaces', nargs='+', default=['ofa_mbv3_w10', 'ofa_proxyless_w13', 'ofa_resnet50d'])
    parser.add_argument('--batches', nargs='+', metavar='NxPX')
    parser.add_argument('--threads', nargs='+', type=int, default=[1, 2])
    parser.add_argument('--subnets', type=int, default=4, help='random ones')
    parser.add_argument('--rounds', type=int, default=4, help='times that each is timed')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--device', choices=list(BAR), default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--precision', nargs='+', choices=list(DTYPES), default=['no'], help='of ours')
    parser.add_argument('--original-precision', nargs='+', choices=list(DTYPES), default=['no'])
    parser.add_argument(
        '--parts', nargs='+', choices=['original', 'alone', 'finetune', 'gpu'], default=['original', 'alone'])
    parser.add_argument('--seconds', type=float, default=float('inf'), help='after which no measurement is begun')
    parser.add_argument('--out', type=Path, help='lines go there as well, at its end')
    args = parser.parse_args()
    began = time.perf_counter()

    def say(line: str) -> None:
        print(line, flush=True)
        if args.out:
            with args.out.open('a') as file:
                file.write(line + '\n')

    keep_freed_memory()
    name = torch.cuda.get_device_name() if args.device == 'cuda' else f'{os.cpu_count()} cores'
    say(f'{name}, torch {torch.__version__}, timm {timm.__version__}, seed {args.seed}, {args.subnets} subnets x '
        f'{args.rounds} rounds; bar: {BAR[args.device]:g} times as fast as the original')
    contest = cache(lambda space: Contest(load_space(space), args))
    for threads in args.threads:
        torch.set_num_threads(threads)
        for part in args.parts:
            for size, resolution in (map(int, b.split('x')) for b in args.batches or BATCHES[args.device]):
                say(f'-- {threads} threads, load {os.getloadavg()[0]:.1f}, {time.perf_counter() - began:.0f} s')
                for space in args.spaces:
                    if time.perf_counter() - began < args.seconds:
                        try:
                            networks = contest(space)
                            measure = dict(
                                original=networks.against_original, alone=networks.against_largest_alone,
                                finetune=networks.fine_tuning, gpu=networks.on_the_gpu)[part]
                            for line in measure(size, resolution):
                                say(line)
                        except Exception as error:  # the other measurements are still to be had
                            say(f'{space:<18} batch {size:3} at {resolution} px, {part}: {error!r:.300}')


if __name__ == '__main__':
    main()
