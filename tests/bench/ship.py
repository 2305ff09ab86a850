"""Put a trained supernet, and then networks found in it, into the package: weights in half precision and hub configs.

    python tests/bench/ship.py supernet out/cifar10    # and what it prints goes into hub_configs/
    timm-ofa collect --supernet ofa_mbv3_cifar10_supernet --data DIR --num 250 --out out/records.jsonl   # and so on:
    timm-ofa fit ...; timm-ofa search ... --out out/front.jsonl
    timm-ofa specialize --supernet ofa_mbv3_cifar10_supernet --front out/front.jsonl --limits-ms 0.7 1 --out out/family
    python tests/bench/ship.py subnets out/family/* --data DIR --prefix ofa_mbv3_cifar10_epyc

The name of a network is PREFIX_latNms. Its accuracy is counted again with the weights as they are shipped.
"""
from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

import timm
import yaml
from bench_alone import load_images
from torch import nn

from timm_ofa import hub
from timm_ofa.accuracy.judge import evaluate
from timm_ofa.devices.profile import load_profile
from timm_ofa.files import save_tensors, sha256_of, write_text
from timm_ofa.hub.configs import hub_configs_dir
from timm_ofa.hub.folder import load_record
from timm_ofa.networks import load_supernet
from timm_ofa.training.runs import supernet_config

HUB = Path(hub.__file__).parent  # whose configurations name weights by their place in it
TAG = 'ofa_cifar10'


def save_half(model: nn.Module, name: str) -> dict:
    """Round the weights to half precision, in place, and write them; what a hub config says of the file."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    assert all(v.isfinite().all() for v in state.values() if v.is_floating_point())
    model.load_state_dict(state)
    path = HUB / 'weights' / f'{name}.safetensors'
    path.parent.mkdir(exist_ok=True)
    save_tensors(path, state)
    print(f'{path.name}: {path.stat().st_size / 1e6:.2f} MB')
    return dict(tag=TAG, hub_id=f'timm-ofa/{name}', file=f'weights/{path.name}', sha256=sha256_of(path),
                license='apache-2.0')


def write_config(name: str, about: str, fields: dict) -> None:
    comment = ''.join(f'# {line}\n' for line in textwrap.wrap(about, 118))
    write_text(hub_configs_dir() / f'{name}.yaml', comment + yaml.safe_dump(fields, sort_keys=False, width=118))


def ship_supernet(args: argparse.Namespace) -> None:
    config = supernet_config(args.folder)
    weights = save_half(load_supernet(str(args.folder)), config.name)
    print(yaml.safe_dump({'weights': weights}, sort_keys=False))


def ship_subnets(args: argparse.Namespace) -> None:
    for folder in args.folders:
        record = load_record(folder)
        name = f'{args.prefix}_lat{record.limit_ms:g}ms'.replace('.', 'p')
        model = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
        weights = save_half(model, name)
        data = load_images(args.data, record.space, None)
        top1_pct, top5_pct = (
            round(evaluate(model, data.test, record.space, record.arch.resolution, top=top), 2) for top in (1, 5))
        search = record.search
        write_config(name, f'CIFAR-10 (a JPEG re-encoding) within {record.limit_ms:g} ms on one thread of an '
                     f'{load_profile(search.profile).device_name} with ONNX Runtime: {record.accuracy.protocol}.', dict(
            name=name, kind='subnet', family=record.space.name.split('_')[1], space=record.space.name,
            arch=str(record.arch), device=record.device, latency_ms=record.limit_ms, data='uoft-cs/cifar10',
            split='test', images=len(data.test), top1_pct=top1_pct, top5_pct=top5_pct,
            predicted_top1_pct=round(record.predicted_top1_pct, 2), predicted_ms=round(record.predicted_ms, 4),
            macs_m=round(record.space.macs(record.arch, record.num_classes) / 1e6, 2),
            params_m=round(record.space.params(record.arch, record.num_classes) / 1e6, 3), drop_rate=0.0,
            search=dict(limit=search.limit, seed=search.seed, predictor=args.supernet, profile=search.profile),
            supernet=args.supernet, **weights))
        print(f'{name}: {top1_pct} %, {record.predicted_top1_pct:.2f} % predicted')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(required=True)
    supernet = kinds.add_parser('supernet')
    supernet.add_argument('folder', type=Path)
    supernet.set_defaults(ship=ship_supernet)
    subnets = kinds.add_parser('subnets')
    subnets.add_argument('folders', type=Path, nargs='+')
    subnets.add_argument('--data', required=True)
    subnets.add_argument('--prefix', required=True)
    subnets.add_argument('--supernet', default='ofa_mbv3_cifar10_supernet')
    subnets.set_defaults(ship=ship_subnets)
    args = parser.parse_args()
    args.ship(args)


if __name__ == '__main__':
    main()
