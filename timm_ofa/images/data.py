"""A data set as training needs it: images to learn from, images to compare subnets on, images for the last test."""
from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..errors import InputError
from ..spaces import SearchSpace
from .folders import refuse_unknown_classes
from .image_sets import MEMORY_LIMIT, ImageSet, StreamSet, encoded_set
from .sources import classes_of, open_source, open_test
from .splits import UNLABELED, Opened, Part, Stream, image_digest

STREAM_IMAGES = 10_000  # at most so many images of a stream are held out, and so many are for the test


@dataclass(frozen=True)
class Data:
    """A data set in three parts that share no image."""
    name: str
    class_names: tuple[str, ...]
    train: ImageSet | StreamSet  # to learn from
    holdout: ImageSet  # taken out of training, to compare subnets on
    test: ImageSet  # for the accuracy that is reported at the end
    split: str = 'test'  # what the data set calls the test images
    test_name: str = ''  # of the data set that they are from, if it is another one
    skipped: int = 0  # broken images that were left out

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def at(self, side: int) -> Data:
        """The same images, of another side (px); not of a stream."""
        parts = {name: getattr(self, name).at(side) for name in ('train', 'holdout', 'test')}
        return replace(self, **parts)


def stored_side(space: SearchSpace, resolution: int = 0) -> int:
    """The side (px) at which images are stored for a space: enough for its largest resolution, and for `resolution`."""
    return int(np.ceil(max(*space.resolutions, resolution) / space.crop_pct))


def load_data(source: str, side: int, *, holdout: float = 0.1, limit: int | None = None, seed: int = 0,
              decode: str = 'auto', images_per_epoch: int | None = None, skip_broken: bool = False,
              test: str | None = None) -> Data:
    """Images by name or place; raises `InputError` for what cannot be read.

    Args:
        source: A Hub data set id, a folder of images by class, a folder of parquet files, 'digits', or the built-in
            'fashion-mnist-12k'. 'stream:' before an id or a folder reads it in order, without a copy on disk.
            'timm:' before a folder, a tar file, 'hfds/NAME' or 'torch/NAME' uses timm's readers. '?train=NAME&
            test=NAME&label=COLUMN' behind it chooses splits and column; '&root=FOLDER' behind 'timm:hfds/NAME' or
            'timm:torch/NAME' says where the files are.
        side: Side of the stored squares, px.
        holdout: Share of the training images that is held out; of a stream at most STREAM_IMAGES images.
        limit: At most so many training images: random ones, each class with its share.
        seed: Draws these, and the held-out images.
        decode: When images are decoded, one of DECODE; not for streams.
        images_per_epoch: Length of an epoch of a stream; default: the length that the data set says it has. An epoch
            goes on where the one before it ended.
        skip_broken: Leave out images that cannot be decoded. All are decoded to find them; not for streams.
        test: Another source of test images, whose classes are known by their names: its test split, or its only one.
            None of the training images of `source` is then for the test.
    """
    opened = open_source(source)
    judged = _test_of(opened, source, test, side, seed, decode)
    if isinstance(opened.train, Stream):
        if limit is not None:
            raise InputError(f'limit {limit} does not go with the stream {source!r:.120}; set images_per_epoch')
        if skip_broken:
            raise InputError(f'the stream {source!r:.120} is not searched for broken images; leave out skip_broken')
        return _stream_data(opened, opened.train, judged, side, holdout, seed, images_per_epoch)
    if images_per_epoch is not None:
        raise InputError(f'images_per_epoch {images_per_epoch} is for streams, {source!r:.120} is none; leave it out')
    data = _indexed_data(opened, opened.train, judged, source, side, holdout, limit, seed, decode)
    return _without_broken(data) if skip_broken else data


def load_test(source: str, side: int, *, seed: int = 0) -> Data:
    """The test images of a source alone: those of its test split, or of its only one. The other parts are empty.

    Args:
        source, side: As in `load_data`. No image of another split is fetched.
        seed: Draws the images of a stream.
    """
    found = open_test(source)
    judged = _judged(found, side, seed, 'auto')
    none = judged.images.subset([], f'{found.name} train')
    return Data(found.name, found.class_names, none, none, judged.images, judged.split)


@dataclass(frozen=True)
class _Judged:
    """Test images, what their data set calls them, and the name of that if it is not the one of training."""
    images: ImageSet
    split: str
    name: str = ''


def _test_of(opened: Opened, source: str, test: str | None, side: int, seed: int, decode: str) -> _Judged | None:
    """The test images of another source, if there is one, else those of the test split; None: there are none."""
    found = opened if test is None else open_test(test)
    if found.test is None:
        return None
    judged = _judged(found, side, seed, decode)
    if test is None:
        return judged
    if test == source and judged.split == 'all':
        raise InputError(f'test {test!r:.120} are the training images; give others, or leave it out')
    images = judged.images
    named = {found.class_names[label] for label in images.labels.unique().tolist()}
    refuse_unknown_classes(test, judged.split, named, classes_of(opened, opened.train))
    places = {name: place for place, name in enumerate(opened.class_names)}
    numbers = torch.tensor([places.get(name, UNLABELED) for name in found.class_names])
    images.labels = numbers[images.labels]
    return replace(judged, name=found.name)


def _judged(found: Opened, side: int, seed: int, decode: str) -> _Judged:
    """The images of the test split, which there is."""
    assert found.test is not None
    split, title = found.test.split, f'{found.name} {found.test.split}'
    if isinstance(found.test, Part):
        return _Judged(ImageSet(found.test.rows, found.test.labels, side, title, decode), split)
    images = encoded_set(list(itertools.islice(found.test.items(seed), _most(side))), side, title)
    if not len(images):
        raise InputError(f'{title!r:.120} has no images; give test images of another source')
    return _Judged(images, split)


def _most(side: int) -> int:
    """At most so many images of a stream are held out, and so many are for the test."""
    return min(STREAM_IMAGES, MEMORY_LIMIT // (3 * side**2))


def _without_broken(data: Data) -> Data:
    """The images that can be decoded. They are in the same parts as if none were broken."""
    before = {name: getattr(data, name) for name in ('train', 'holdout', 'test')}
    parts = {name: images.without_broken() for name, images in before.items()}
    if empty := next((images.title for images in parts.values() if not len(images)), None):
        raise InputError(f'no image of {empty} can be decoded; give other images')
    return replace(data, **parts, skipped=sum(len(before[name]) - len(parts[name]) for name in parts))


def _indexed_data(opened: Opened, train: Part, judged: _Judged | None, source: str, side: int, holdout: float,
                  limit: int | None, seed: int, decode: str) -> Data:
    name = opened.name
    everything = ImageSet(train.rows, train.labels, side, f'{name} train', decode)
    if limit is not None:
        everything = everything.part(limit, seed)
    n = len(everything)
    order = np.random.default_rng([seed, n]).permutation(n).tolist()
    if judged is None:  # a fifth of the training images takes the place of the test split
        cut = max(1, n // 5)
        judged, order = _Judged(everything.subset(order[:cut], f'{name} test'), 'test'), order[cut:]
    cut = max(1, round(len(order) * holdout))
    if len(order) <= cut:
        more = '' if limit is None else f', or raise limit {limit}'
        raise InputError(f'data {source!r:.120} has only {n} training images; give at least 10{more}')
    return Data(
        name, opened.class_names, everything.subset(sorted(order[cut:]), f'{name} train'),
        everything.subset(sorted(order[:cut]), f'{name} holdout'), judged.images, judged.split, judged.name)


def _stream_data(opened: Opened, stream: Stream, judged: _Judged | None, side: int, holdout: float, seed: int,
                 images_per_epoch: int | None) -> Data:
    """The first images of an order drawn by `seed` are held out; training recognizes them by their digests."""
    name = opened.name
    length = images_per_epoch or stream.length
    if length is None:
        raise InputError(f'the length of the stream {stream.title!r:.120} is not known; --set images_per_epoch=NUMBER')
    n = min(_most(side), max(1, round(length * holdout)))
    parts = 1 if judged else 2  # without a test split as many training images again are for the test
    held = list(itertools.islice(stream.items(seed), parts * n))
    per_epoch = images_per_epoch or length - len(held)
    if len(held) < parts * n or per_epoch < 1:
        cure = 'holdout' if images_per_epoch is None else 'images_per_epoch'
        raise InputError(f'the stream {stream.title!r:.120} has only {len(held)} images; lower {cure}')
    judged = judged or _Judged(encoded_set(held[n:], side, f'{name} test'), 'test')
    train = StreamSet(
        stream, per_epoch, side, frozenset(image_digest(image) for image, _ in held))
    return Data(name, opened.class_names, train, encoded_set(held[:n], side, f'{name} holdout'),
                judged.images, judged.split, judged.name)
