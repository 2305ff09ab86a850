"""Networks of a trained supernet beside those that a user would pick from timm: accuracy and latency on this machine.

    python tests/bench/bench_front.py --data DIR --alone tests/bench/results/cifar10_alone.jsonl --out out/front
        [--supernet ofa_mbv3_cifar10_supernet] [--seconds 60]

Accuracy of timm's networks, and of subnets without their supernet, is what `bench_alone.py` found; the named networks
of the supernet, fine-tuned, have theirs in `hub_configs/`; with inherited weights all subnets are judged here, on all
test images. All are exported alike (`torch.onnx`) and timed in the same sweeps, one image on one thread of ONNX
Runtime, in random order. Writes OUT.txt, OUT.jsonl and OUT.svg.
"""
from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import timm
import torch
from bench_alone import AUGMENT, PEERS, SUBNETS, build, load_images, read_results, subnet_archs
from torch import nn

import timm_ofa  # noqa: F401 - registers the named networks
from timm_ofa.accuracy.judge import SubnetJudge
from timm_ofa.console import table
from timm_ofa.devices.measuring import Progress, measure
from timm_ofa.devices.profiler import host
from timm_ofa.hub.configs import hub_configs, named_subnets
from timm_ofa.hub.plots import BLUE, GRAY, ORANGE, picture
from timm_ofa.runtimes.onnxruntime import Session, version
from timm_ofa.spaces.shelf import load_space

LOADS = 3  # of each network: where it lies in memory moves its latency by a percent


def sessions(model: nn.Module, resolution: int) -> list[Session]:
    """A network in ONNX Runtime."""
    x = torch.randn(1, 3, resolution, resolution, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'model.onnx'
        torch.onnx.export(model.eval(), (x,), str(file), dynamo=True, external_data=False, verbose=False)
        return [Session(file.read_bytes(), x.numpy()) for _ in range(LOADS)]


def latencies_ms(networks: Sequence[tuple[nn.Module, int]], seconds: float) -> list[float]:
    """Latencies of networks at their resolutions (px), all in the same sweeps for about so many seconds."""
    runners = [sessions(model, resolution) for model, resolution in networks]
    timing = measure([run for loads in runners for run in loads], seconds=seconds,
                     report=lambda share, show=Progress(): show('measuring', share))  # noqa: B008 - one line for all
    return timing.low_ms().reshape(len(runners), LOADS).mean(1).tolist()


def speedups(rows: list[dict]) -> list[list]:
    """Of each of timm's networks: the fastest of ours that is at least as accurate, and the best as fast."""
    ours = [r for r in rows if r['kind'] == 'named']
    lines = []
    for peer in (r for r in rows if r['kind'] == 'timm'):
        as_good = [r for r in ours if r['top1_pct'] >= peer['top1_pct']]
        as_fast = [r for r in ours if r['latency_ms'] <= peer['latency_ms']]
        fastest = min(as_good, key=lambda r: r['latency_ms'], default=None)
        best = max(as_fast, key=lambda r: r['top1_pct'], default=None)
        lines.append([
            peer['network'], fastest['network'] if fastest else 'none',
            f'{peer["latency_ms"] / fastest["latency_ms"]:.2f} times as fast' if fastest else '',
            best['network'] if best else 'none', f'{best["top1_pct"] - peer["top1_pct"]:+.2f} points' if best else ''])
    return lines


def draw(rows: list[dict], path: Path, device: str) -> None:
    with picture(path, 7.2, 4.4) as figure:
        axes = figure.subplots()
        for kind, style, label in (
                ('named', dict(color=BLUE, marker='o', linewidth=1.4), 'found in one supernet, fine-tuned'),
                ('timm', dict(color=ORANGE, marker='^', linewidth=0), 'from timm, trained alone'),
                ('alone', dict(color=GRAY, marker='x', linewidth=0), 'subnets trained alone')):
            points = sorted((r['latency_ms'], r['top1_pct'], r['network']) for r in rows if r['kind'] == kind)
            axes.plot([p[0] for p in points], [p[1] for p in points], markersize=6, label=label, **style)
            for ms, top1_pct, name in points if kind == 'timm' else ():
                axes.annotate(name, (ms, top1_pct), (5, -10), textcoords='offset points', fontsize=7, color=GRAY)
        axes.set_xlabel(f'latency, one image, one thread of {device} (ms)')
        axes.set_ylabel('top-1 on CIFAR-10 (%)')
        axes.grid(color='#e5e7eb', linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[['top', 'right']].set_visible(False)
        axes.legend(frameon=False, loc='lower right')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', required=True)
    parser.add_argument('--alone', type=Path, required=True)
    parser.add_argument('--supernet', default='ofa_mbv3_cifar10_supernet')
    parser.add_argument('--seconds', type=float, default=60.0)
    parser.add_argument('--out', type=Path, default=Path('out/front'))
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    space = load_space(hub_configs()[args.supernet].data['space'])
    space = space.restrict(resolutions=[max(space.resolutions)])
    data = load_images(args.data, space, None)
    alone = defaultdict(list)
    for result in read_results(args.alone):
        alone[result['network']].append(result['top1_pct'])

    judge = SubnetJudge(timm.create_model(args.supernet, pretrained=True), data.train, data.test, augment=AUGMENT)
    networks: list[tuple[dict, nn.Module, int]] = []
    for name, subnet in named_subnets().items():
        if subnet.supernet == args.supernet:
            row = dict(network=name, kind='named', top1_pct=subnet.top1_pct, inherited_pct=judge.top1_pct(subnet.arch),
                       predicted_pct=subnet.predicted_top1_pct, predicted_ms=subnet.predicted_ms)
            networks.append((row, timm.create_model(name, pretrained=True), subnet.arch.resolution))
    for name in [*PEERS, *SUBNETS]:
        row = dict(network=name, kind='alone' if name in SUBNETS else 'timm', top1_pct=float(np.mean(alone[name])))
        if name in SUBNETS:
            row['inherited_pct'] = judge.top1_pct(subnet_archs(space)[name])
        networks.append((row, build(name, space, data.num_classes), space.resolutions[0]))

    rows = []
    low_ms = latencies_ms([(model, resolution) for _, model, resolution in networks], args.seconds)
    for (row, model, resolution), latency_ms in zip(networks, low_ms):
        params_m = sum(p.numel() for p in model.parameters()) / 1e6
        rows.append({**row, 'latency_ms': round(latency_ms, 4), 'params_m': round(params_m, 3),
                     'resolution': resolution})
    rows.sort(key=lambda r: r['latency_ms'])

    def cell(row: dict, name: str, digits: int = 2) -> str:
        return f'{row[name]:.{digits}f}' if row.get(name) is not None else ''
    text = f'ONNX Runtime {version()}, fp32, one image, one thread; {host()}\n\n' + table(
        ['network', 'made', 'top-1 %', 'inherited %', 'predicted %', 'latency ms', 'predicted ms', 'M params', 'px'],
        [[r['network'], dict(named='found', timm='alone', alone='alone')[r['kind']], cell(r, 'top1_pct'),
          cell(r, 'inherited_pct'), cell(r, 'predicted_pct'), cell(r, 'latency_ms', 3), cell(r, 'predicted_ms', 3),
          cell(r, 'params_m'), str(r['resolution'])] for r in rows]) + '\n\n' + table(
        ["timm's network", 'fastest of ours as accurate', '', 'best of ours as fast', ''], speedups(rows)) + '\n'
    args.out.with_suffix('.txt').write_text(text)
    args.out.with_suffix('.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in rows))
    draw(rows, args.out.with_suffix('.svg'), host().split(',')[0])
    print(text)


if __name__ == '__main__':
    main()
