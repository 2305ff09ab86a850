"""Accuracy that the five networks that ship lose in int8, on all test images of CIFAR-10.

    python tests/bench/bench_int8.py --data DIR > tests/bench/results/int8.txt

Each network is exported, calibrated on 200 training images, and run in ONNX Runtime in float32 and in int8.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module

import numpy as np
import timm
import torch

from timm_ofa.console import table
from timm_ofa.hub import hub_configs
from timm_ofa.images import ImageSet, eval_batch, load_data
from timm_ofa.runtimes import Session, to_onnx
from timm_ofa.spaces import load_space

SPACE, PART, CALIBRATION_IMAGES = 'ofa_mbv3_32px', 500, 200
int8 = import_module('timm_ofa.runtimes.int8')


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', required=True, metavar='DIR', help='CIFAR-10, as in train.py')
    args = parser.parse_args(argv)
    space = load_space(SPACE)
    data = load_data(args.data, max(space.resolutions))
    known, images = batch(data.train, range(CALIBRATION_IMAGES)), batch(data.test, range(len(data.test)))
    labels = data.test.labels.numpy()
    rows = []
    for name, config in sorted(hub_configs().items()):
        if not config.subnet or config.subnet.space.name != SPACE:
            continue
        weights = timm.create_model(name, pretrained=True).state_dict()
        file = to_onnx(space.rows(config.subnet.arch, 10), weights=weights, bn_eps=space.bn_eps, batch_size=None)
        fp32_pct, int8_pct = (
            100 * (predicted(f, images) == labels).mean() for f in (file, int8.quantize(file, np.split(known, 4))))
        rows.append([name, fp32_pct, int8_pct, int8_pct - fp32_pct])
    print(table(['network', 'float32, top-1 %', 'int8', 'difference'], rows))


def batch(images: ImageSet, numbers: range) -> np.ndarray:
    """Images as networks get them, (N, 3, side, side)."""
    return eval_batch(images.fetch(torch.tensor(numbers)), load_space(SPACE), load_space(SPACE).resolutions[-1]).numpy()


def predicted(file: bytes, images: np.ndarray) -> np.ndarray:
    """The class of each image."""
    session = Session(file, images[:PART])
    return np.concatenate([session.predict(part).argmax(1) for part in np.split(images, len(images) // PART)])


if __name__ == '__main__':
    main()
