"""Images that the readers of timm give at any index: a folder, a tar file, hfds/NAME, torch/NAME."""
from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from PIL import ExifTags, Image

from ..errors import InputError
from .decoding import Look, T, broken_image, reason
from .folders import refuse_unknown_classes
from .huggingface import TEST_SPLITS
from .splits import UNLABELED, Opened, Part, is_labeled, refuse_same_split, unlabeled_test


class _Reader:
    """A reader of timm. A broken image is an error; timm's own data set would skip it."""

    def __init__(self, reader: Any, title: str):
        self.reader, self.title = reader, title

    def see(self, i: int, look: Look[T]) -> T:
        try:
            with self._open(i) as file, Image.open(file) as image:
                return look(_unturned(image))
        except Exception as error:
            raise broken_image(f'image {i} of {self.title}', self.reader.filename(i), error) from None

    def _open(self, i: int) -> BinaryIO:
        if not hasattr(self.reader, 'tar_state'):
            return self.reader[i][0]
        member, _, tar_within = self.reader.samples[i]  # timm shares one open file, which several threads cannot use
        with open(self.reader.root, 'rb') as file:
            file.seek(member.offset_data + (tar_within.offset_data if tar_within else 0))
            return io.BytesIO(file.read(member.size))


class _Torchvision:
    """A data set of torchvision."""

    def __init__(self, dataset: Any, title: str):
        self.dataset, self.title = dataset, title
        if hasattr(dataset, 'loader'):
            dataset.loader = Image.open  # its own one cuts off what has more than 8 bits

    def see(self, i: int, look: Look[T]) -> T:
        try:
            with self.dataset[i][0] as image:
                return look(_unturned(image))
        except Exception as error:
            raise broken_image(f'image {i} of {self.title}', None, error) from None


def _unturned(image: Image.Image) -> Image.Image:
    """The image, which is not turned as its camera says: timm and torchvision do not turn it."""
    image.getexif().pop(ExifTags.Base.Orientation, None)
    return image


def open_timm(source: str, place: str, options: Mapping[str, str]) -> Opened:
    """What `timm.data.create_dataset` opens and gives at any index."""
    kind = place.partition('/')[0].lower()
    if kind in ('wds', 'tfds', 'hfids'):
        raise InputError(
            f"data {source!r:.120}: timm's {kind} reader gives no image by its index; take 'stream:' with a Hub id or "
            'a folder, or timm: with a folder, a tar file, hfds/NAME or torch/NAME')
    named = kind in ('hfds', 'torch')
    name, root = (place, options.get('root')) if named else ('', place)
    if not named and 'root' in options:
        raise InputError(f'data {source!r:.120}: root is for hfds/NAME and torch/NAME; leave it out')
    if not named and not (root and Path(root).exists()):
        raise InputError(f'data {source!r:.120}: {root!r:.120} does not exist; give a folder or a tar file')
    wanted = options.get('test')
    train, class_names, train_place = _split(source, name, root, options.get('train', 'train'), 'train' in options)
    for split in [wanted] if wanted else TEST_SPLITS:
        try:
            test, test_names, test_place = _split(source, name, root, split, True)
        except InputError:
            if wanted:
                raise
            continue
        refuse_same_split(source, train.split, wanted, test_place == train_place)
        if test_place != train_place and is_labeled(test):
            return Opened(Path(place).name, class_names, train, _renumbered(source, test, test_names, class_names))
    if wanted:
        raise unlabeled_test(source, wanted)
    return Opened(Path(place).name, class_names, train, None)


def _renumbered(source: str, test: Part, names: tuple[str, ...], class_names: tuple[str, ...]) -> Part:
    """The test part with the numbers that the classes have in training; timm numbers those that it finds there."""
    refuse_unknown_classes(source, test.split, names, class_names)
    return replace(test, labels=[class_names.index(names[label]) for label in test.labels])


def _split(source: str, name: str, root: str | None, split: str, strict: bool,
           ) -> tuple[Part, tuple[str, ...], tuple[object, ...]]:
    """A split, its class names, and by what it is told from other splits, which may be called by several names.

    `strict`: an error if timm takes the whole folder because the split is missing.
    """
    from timm.data import create_dataset

    title = f'{source} {split}'
    try:
        found: Any = create_dataset(name, root=root, split=split)
        if name.startswith('torch/'):
            labels, names = [int(label) for label in found.targets], found.classes
            place = getattr(found, 'train', None), getattr(found, 'split', None)
            return Part(_Torchvision(found, title), labels, split), tuple(map(str, names)), place
        reader = found.reader
        if strict and not name and reader.root == root:
            raise ValueError('there is no such folder')
        if hasattr(reader, 'iter_targets'):
            labels = list(reader.iter_targets())
        else:
            labels = reader.targets.tolist() if hasattr(reader, 'targets') else [label for _, label in reader.samples]
        indices = reader.class_to_idx if hasattr(reader, 'class_to_idx') else reader.class_name_to_idx
    except Exception as error:  # the user gets one line, whatever the reader raises
        raise InputError(f'data {source!r:.120}: timm opens no {split!r:.60} ({reason(error)}); '
                         'give a folder, a tar file, hfds/NAME, or torch/NAME with ?root=FOLDER') from None
    part = Part(_Reader(reader, title), [UNLABELED if label is None else label for label in labels], split)
    return part, tuple(sorted(indices, key=indices.get)), (split,) if name else (reader.root,)
