"""The input side at the size of ImageNet: images per second beside timm's loader, memory, and the time to resume.

    python tests/bench/bench_input.py --images DIR --out out/standin [--n 100000] > tests/bench/results/input.txt

`--images` is a data set of real images. They are scaled to 500x375 px and written as JPEG files of about the size of
ImageNet's, then repeated under new names and labels: as a folder by class (the files of one image are one file on
disk), or as parquet or tar files (`--kind`). What was made once is used again.

Both loaders read the same files with the same number of workers and crop at random. «Workers alone» is what arrives
in the main process, «in all» is flipped and normalized there too, which a GPU would do. They take turns; the figures
are medians.
"""
from __future__ import annotations

import argparse
import io
import itertools
import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from PIL import Image

from timm_ofa import SearchSpace, load_space
from timm_ofa.console import table
from timm_ofa.images import Augment, EpochBatches, ImageSet, load_data, stored_side

CLASSES, SIZE, QUALITY, GRAIN = 1000, (500, 375), 93, 6.0  # about 110 KB a file
SHARD = 2000  # images of a parquet file
RESOLUTIONS = (224, 128, 64)
AUGMENT = Augment(crop='area', scale=(0.08, 1.0), flip=True)


def make(source: str, kind: str, n: int, out: Path) -> str:
    """Write the stand-in unless it is there; what `--data` would be for it."""
    place = out / f'{kind}_{n}'
    if not place.exists():
        shutil.rmtree(unfinished := Path(f'{place}.tmp'), ignore_errors=True)
        unfinished.mkdir(parents=True)
        {'folder': _write_folder, 'parquet': _write_parquet, 'tar': _write_tar}[kind](
            _photos(source, n), n, unfinished)
        unfinished.rename(place)
    return f'timm:{place / "train.tar"}' if kind == 'tar' else str(place)


def _photos(source: str, n: int) -> list[bytes]:
    """Up to n JPEG files."""
    data, rng, files = load_data(source, 375), np.random.default_rng(0), []
    for images in (data.train, data.holdout, data.test):
        for pixels in images.fetch(range(min(len(images), n - len(files)))):
            image = Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize(SIZE, Image.Resampling.BICUBIC)
            grainy = np.asarray(image) + GRAIN * rng.standard_normal((*SIZE[::-1], 3))
            file = io.BytesIO()
            Image.fromarray(grainy.clip(0, 255).astype(np.uint8)).save(file, 'JPEG', quality=QUALITY)
            files.append(file.getvalue())
    return files


def _write_folder(files: list[bytes], n: int, place: Path) -> None:
    for label in range(min(CLASSES, n)):
        (place / f'train/class_{label:04}').mkdir(parents=True)
    for i in range(n):
        path = place / f'train/class_{i % CLASSES:04}/{i:07}.jpg'
        if i < len(files):
            path.write_bytes(files[i])
        else:
            first = i % len(files)
            os.link(place / f'train/class_{first % CLASSES:04}/{first:07}.jpg', path)


def _write_parquet(files: list[bytes], n: int, place: Path) -> None:
    import datasets

    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=[f'{i:04}' for i in range(CLASSES)]))
    for shard, start in enumerate(range(0, n, SHARD)):
        places = range(start, min(n, start + SHARD))
        rows = dict(image=[dict(path=f'{i:07}.jpg', bytes=files[i % len(files)]) for i in places],
                    label=[i % CLASSES for i in places])
        datasets.Dataset.from_dict(rows, features=features).to_parquet(place / f'train-{shard:05}.parquet')


def _write_tar(files: list[bytes], n: int, place: Path) -> None:
    with tarfile.open(place / 'train.tar', 'w') as archive:
        for i in range(n):
            info = tarfile.TarInfo(f'class_{i % CLASSES:04}/{i:07}.jpg')
            info.size = len(files[i % len(files)])
            archive.addfile(info, io.BytesIO(files[i % len(files)]))


def ours(images: ImageSet, space: SearchSpace, batch_size: int, workers: int, alone: bool) -> Iterator[torch.Tensor]:
    resolution, = space.resolutions
    batches = EpochBatches(images, batch_size, 0, workers, Accelerator(cpu=True), AUGMENT, largest=resolution)
    for step, (pixels, _) in enumerate(batches(0, 0)):
        yield pixels if alone else batches.augment(pixels, space, resolution, np.random.default_rng(step))


def of_timm(folder: str, resolution: int, batch_size: int, workers: int, alone: bool) -> Iterator[torch.Tensor]:
    from timm.data import create_dataset, create_loader

    loader = create_loader(
        create_dataset('', root=f'{folder}/train'), (3, resolution, resolution), batch_size, is_training=True,
        scale=AUGMENT.scale, hflip=0.5, color_jitter=None, interpolation='bilinear', num_workers=workers,
        device=torch.device('cpu'))
    return (images for images, _ in (loader.loader if alone else loader))


def rate(batches: Iterator[torch.Tensor], count: int) -> float:
    """Images per second of some batches; those that the workers have made ahead are not counted."""
    for _ in range(8):
        next(batches)
    began, seen = time.perf_counter(), 0
    for _ in range(count):
        seen += len(next(batches))
    return seen / (time.perf_counter() - began)


def memory_mb() -> float:
    """What this process and its workers hold, MB; pages that they share are counted once."""
    own = psutil.Process()
    return sum(p.memory_full_info().pss for p in (own, *own.children(recursive=True))) / 1e6


def compare(folder: str, batch_size: int, workers: int, rounds: int, count: int) -> str:
    lines = []
    for resolution, alone in itertools.product(RESOLUTIONS, (True, False)):
        space = replace(load_space('ofa_mbv3_w10'), resolutions=(resolution,))
        images = load_data(folder, stored_side(space), decode='always').train
        pairs = [(rate(ours(images, space, batch_size, workers, alone), count),
                  rate(of_timm(folder, resolution, batch_size, workers, alone), count)) for _ in range(rounds)]
        own, theirs = (median(rates) for rates in zip(*pairs))
        lines.append([f'{resolution} px', 'workers alone' if alone else 'in all', f'{own:.0f}', f'{theirs:.0f}',
                      f'{own / theirs:.2f}', ', '.join(f'{a / b:.2f}' for a, b in pairs)])
    return table(['resolution', '', 'ours, img/s', "timm's, img/s", 'ratio', 'of each round'], lines)


def read_through(data: str, batch_size: int, workers: int) -> str:
    """Of one epoch: time to the first batch, memory over time, and the time to go on near its end."""
    space = replace(load_space('ofa_mbv3_w10'), resolutions=(64,))
    began = time.perf_counter()
    images = load_data(data, stored_side(space), decode='always').train
    opened = time.perf_counter()
    epochs = partial(EpochBatches, images, batch_size, 0, workers, Accelerator(cpu=True), AUGMENT, largest=64)
    batches = epochs()
    held = []
    for step, _ in enumerate(batches(0, 0)):
        if step == 0:
            first = time.perf_counter()
        if step % max(1, len(batches) // 8) == 0:
            held.append(memory_mb())
    held.append(memory_mb())
    ended = time.perf_counter()
    again = epochs()
    next(iter(again(3, round(0.9 * len(again)))))
    return (f'{data}: {len(images):,} training images, opened in {opened - began:.1f} s, first batch '
            f'{first - opened:.1f} s later, {len(images) / (ended - first):.0f} img/s over the epoch\n'
            f'  going on at 90 % of epoch 3: first batch after {time.perf_counter() - ended:.1f} s\n'
            f'  memory of all processes over the epoch, MB: {", ".join(f"{mb:.0f}" for mb in held)}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', required=True)
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--n', type=int, default=100_000, help='images of the stand-in')
    parser.add_argument('--kind', nargs='+', choices=['folder', 'parquet', 'tar'], default=['folder'])
    parser.add_argument('--batch-size', type=int, default=128)
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--batches', type=int, default=24, help='that are timed in each round')
    args = parser.parse_args()
    torch.set_num_threads(1)
    for kind in args.kind:
        data = make(args.images, kind, args.n, args.out)
        if kind == 'folder':
            print(compare(data, args.batch_size, args.workers, args.rounds, args.batches) + '\n', flush=True)
        print(read_through(data, args.batch_size, args.workers), flush=True)


if __name__ == '__main__':
    main()
