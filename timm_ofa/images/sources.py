"""Where images come from: a name, a folder or a reader -> splits with class names.

A split is a `Part`, whose images are there at any index, or a `Stream`, which is read from its start again each time.
"""
from __future__ import annotations

import atexit
import gc
import hashlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qsl

import numpy as np
from PIL import Image

from ..errors import InputError, listed

IMAGES_DIR = Path(__file__).parent  # what ships with the package, one folder a data set
BUILT_IN = 'fashion-mnist-12k'
TEST_SPLITS = ('test', 'validation', 'valid', 'val', 'dev')
MAX_SHARDS = 256  # more of them are read in so many groups
SHUFFLE_BUFFER = 2048  # images that a stream keeps, encoded, to mix them
OPTIONS = ('train', 'test', 'label', 'root')


@dataclass(frozen=True)
class Part:
    """A split at whose i-th place is the PIL image `rows[i]` of the class `labels[i]`."""
    rows: Any
    labels: Sequence[int]
    split: str


@dataclass(frozen=True)
class Stream:
    """A split that is read in order; `length` (images) where it is known."""
    dataset: Any  # datasets.IterableDataset, images not decoded
    columns: tuple[str, str]  # of image and label
    split: str
    title: str
    length: int | None

    def items(self, seed: int) -> Iterator[tuple[dict, int]]:
        """Each (image, label) once, in an order drawn by `seed`: of shards, and of images within a buffer.

        `image`: see `decode_image`.
        """
        rng, buffer = np.random.default_rng(seed), []
        shards = min(self.dataset.num_shards, MAX_SHARDS)
        for shard in rng.permutation(shards):
            for row in self.dataset.shard(shards, int(shard), contiguous=False):
                item = self._item(row)
                if len(buffer) < SHUFFLE_BUFFER:
                    buffer.append(item)
                else:
                    place = rng.integers(SHUFFLE_BUFFER)
                    yield buffer[place]
                    buffer[place] = item
        yield from (buffer[i] for i in rng.permutation(len(buffer)))

    def _item(self, row: Mapping) -> tuple[dict, int]:
        image, label = (row[column] for column in self.columns)
        if label is None or label < 0:
            raise InputError(f'{self.title} holds an image without a label; choose another split')
        return image, label


@dataclass(frozen=True)
class Opened:
    """What a source holds."""
    name: str
    class_names: tuple[str, ...]
    train: Part | Stream
    test: Part | Stream | None


def open_source(source: str) -> Opened:
    """The splits of a source, see `load_data`; raises `InputError`."""
    if source == 'digits':
        return _digits()
    place, mark, query = source.partition('?')
    options = dict(parse_qsl(query))
    if bool(mark) != bool(options) or not set(options) <= set(OPTIONS):
        raise InputError(f'data {source!r:.120}: {query!r:.60} is not understood; write ?train=NAME&test=NAME, '
                         f'with {listed(OPTIONS)}')
    kind, _, rest = place.partition(':')
    if kind == 'stream':
        atexit.register(gc.collect)  # what Arrow still reads when Python ends makes it hang or crash
    if kind == 'timm':
        opened = _timm(source, rest, options)
    else:
        opened = _hugging_face(source, rest if kind == 'stream' else place, options, streaming=kind == 'stream')
    if isinstance(opened.train, Part):
        _check_labels(source, opened)
    return opened


def _check_labels(source: str, opened: Opened) -> None:
    labels = np.asarray(opened.train.labels)
    if len(labels) and labels.min() < 0:
        raise InputError(f'data {source!r:.120} has training images without a label; choose another split')
    if len(set(labels.tolist())) == 1:
        raise InputError(
            f'data {source!r:.120} has images of one class alone, {opened.class_names[labels[0]]!r:.60}; give two or '
            'more classes')


def decode_image(image: Mapping, where: str) -> Image.Image:
    """A PIL image from {'bytes': of the file or None, 'path': or None}; `InputError` opening with `where`."""
    import datasets

    try:
        return datasets.Image().decode_example(dict(image))
    except Exception as error:  # a broken file raises almost anything
        raise _broken(where, image.get('path'), error) from None


def image_digest(image: Mapping) -> bytes:
    """8 bytes that stand for an image that is not decoded."""
    return hashlib.blake2b(image['bytes'] or image['path'].encode(), digest_size=8).digest()


def _broken(where: str, path: str | None, error: Exception) -> InputError:
    place = f' ({path!s:.160})' if path else ''
    return InputError(f'{where}{place} cannot be decoded ({_reason(error)}); replace or remove it')


def _reason(error: Exception) -> str:
    return f'{(str(error).strip() or type(error).__name__).splitlines()[0]:.200}'


def _digits() -> Opened:
    """scikit-learn's 8x8 digits: 1,437 + 360 images, for tests."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError("data 'digits' needs scikit-learn; pip install 'timm_ofa[digits]'") from None
    digits = load_digits()
    images = [Image.fromarray((image * 255 / 16).astype(np.uint8)) for image in digits.images]
    order = np.random.default_rng(0).permutation(len(images))
    labels = digits.target[order].tolist()
    images = [images[i] for i in order]
    return Opened('digits', tuple('0123456789'), Part(images[360:], labels[360:], 'train'),
                  Part(images[:360], labels[:360], 'test'))


# ---- the datasets library ------------------------------------------------------------------------------------------


class _Column:
    """The image column of a Hugging Face dataset, one PIL image at a time."""

    def __init__(self, dataset, column: str, title: str):
        self.dataset, self.column, self.title = dataset, column, title

    def __getitem__(self, i: int) -> Image.Image:
        return decode_image(self.dataset[i][self.column], f'image {i} of {self.title}')


def _hugging_face(source: str, place: str, options: Mapping[str, str], streaming: bool) -> Opened:
    """A folder of images by class, a folder of parquet files, or a data set of the Hub."""
    folder = IMAGES_DIR / place if place == BUILT_IN else Path(place)
    _check_folder(source, place, folder)
    loaded, features = _load_dataset(source, str(folder) if folder.is_dir() else place, streaming)
    train, wanted = options.get('train', 'train'), options.get('test')
    for name in filter(None, (train, wanted)):
        if name not in loaded:
            raise InputError(
                f"data {source!r:.120} has the splits {listed(loaded)}; one must be called 'train', or be named: "
                '?train=NAME&test=NAME')
    import datasets

    image = next((name for name, f in features.items() if isinstance(f, datasets.Image)), None)
    labels = [name for name, f in features.items() if isinstance(f, datasets.ClassLabel)]
    label = options.get('label', next(iter(labels), None))
    if image is None or label not in labels:
        raise InputError(
            f'data {source!r:.120} has the columns {listed(features)}; an image and a class-label are needed, '
            'two classes or more')
    name = place if not folder.is_dir() else folder.resolve().name

    def split(split_name: str) -> Part | Stream:
        dataset, title = loaded[split_name].select_columns([image, label]), f'{name} {split_name}'
        encoded = dataset.cast_column(image, datasets.Image(decode=False))
        if streaming:
            known = (dataset.info.splits or {}).get(split_name)
            return Stream(encoded, (image, label), split_name, title, known and known.num_examples)
        return Part(_Column(encoded.select_columns([image]), image, title), dataset[label][:], split_name)

    tests = (split(test) for test in ([wanted] if wanted else TEST_SPLITS) if test in loaded and test != train)
    told = (test for test in tests if isinstance(test, Stream) or min(test.labels, default=-1) >= 0)  # -1: kept secret
    return Opened(name, tuple(features[label].names), split(train), next(told, None))


def _check_folder(source: str, place: str, folder: Path) -> None:
    if not place or not folder.is_dir():
        if place.count('/') > 1 or place.startswith(('.', '/', '~')) or not place:
            raise InputError(
                f'data {source!r:.120} is not a folder; give a folder of images by class or of parquet files')
        return
    empty, some = [], False
    for path, folders, files in os.walk(folder):
        folders[:], files = ([name for name in names if not name.startswith('.')] for names in (folders, files))
        some |= bool(files)
        if not files and not folders:
            empty.append(os.path.relpath(path, folder))
    if not some:
        raise InputError(f'data folder {source!r:.120} holds no files; put images by class or parquet files there')
    if empty:
        raise InputError(f'data {source!r:.120} has empty folders: {listed(sorted(empty))}; fill or remove them')


def _load_dataset(source: str, place: str, streaming: bool) -> tuple[Mapping, Mapping]:
    """The splits by name, and the columns that they share."""
    import datasets

    disable = datasets.utils.logging.is_progress_bar_enabled() and not os.isatty(2)
    if disable:
        datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(place, streaming=streaming)
        first = next(iter(loaded.values()))
        return loaded, first.features or first._resolve_features().features
    except Exception as error:  # whatever the reader or the network raises is one line to the user
        raise InputError(
            f'data {source!r:.120} cannot be loaded ({_reason(error)}); give a Hub data set id, a folder of images by '
            f"class, a folder of parquet files, or '{BUILT_IN}'") from None
    finally:
        if disable:
            datasets.enable_progress_bars()


# ---- timm's readers ------------------------------------------------------------------------------------------------


class _Reader:
    """A reader of timm, one PIL image at a time; unlike timm's data set it never skips a broken one."""

    def __init__(self, reader, title: str):
        self.reader, self.title = reader, title

    def __getitem__(self, i: int) -> Image.Image:
        try:
            with self._open(i) as file:
                return Image.open(file).convert('RGB')
        except Exception as error:
            raise _broken(f'image {i} of {self.title}', self.reader.filename(i), error) from None

    def _open(self, i: int) -> BinaryIO:
        if not hasattr(self.reader, 'tar_state'):
            return self.reader[i][0]
        member, _, tar_within = self.reader.samples[i]  # timm shares one open file, which is not for several threads
        with open(self.reader.root, 'rb') as file:
            file.seek(member.offset_data + (tar_within.offset_data if tar_within else 0))
            return io.BytesIO(file.read(member.size))


class _Torchvision:
    """A data set of torchvision, one PIL image at a time."""

    def __init__(self, dataset, title: str):
        self.dataset, self.title = dataset, title

    def __getitem__(self, i: int) -> Image.Image:
        try:
            return self.dataset[i][0]
        except Exception as error:
            raise _broken(f'image {i} of {self.title}', None, error) from None


def _timm(source: str, place: str, options: Mapping[str, str]) -> Opened:
    """What `timm.data.create_dataset` opens and gives images at any index: a folder, a tar file, hfds/..., torch/..."""
    kind = place.partition('/')[0].lower()
    if kind in ('wds', 'tfds', 'hfids'):
        raise InputError(
            f"data {source!r:.120}: timm's {kind} reader gives no image by its index; take 'stream:' with a Hub id or "
            'a folder, or timm: with a folder, a tar file, hfds/NAME or torch/NAME')
    named = kind in ('hfds', 'torch')
    name, root = (place, options.get('root')) if named else ('', place)
    if not named and not (root and Path(root).exists()):
        raise InputError(f'data {source!r:.120}: {root!r:.120} does not exist; give a folder or a tar file')
    train, class_names = _timm_split(source, name, root, options.get('train', 'train'), 'train' in options)
    for split in [options['test']] if 'test' in options else TEST_SPLITS:
        try:
            test, _ = _timm_split(source, name, root, split, True)
        except InputError:
            if 'test' in options:
                raise
            continue
        if split != train.split and min(test.labels, default=-1) >= 0:
            return Opened(Path(place).name, class_names, train, test)
    return Opened(Path(place).name, class_names, train, None)


def _timm_split(source: str, name: str, root: str | None, split: str, strict: bool) -> tuple[Part, tuple[str, ...]]:
    """A split and its class names; `strict`: not the whole of a folder in its place."""
    from timm.data import create_dataset

    title = f'{source} {split}'
    try:
        found = create_dataset(name, root=root, split=split)
        if name.startswith('torch/'):
            labels, names = [int(label) for label in found.targets], found.classes
            return Part(_Torchvision(found, title), labels, split), tuple(map(str, names))
        reader = found.reader
        if strict and not name and reader.root == root:
            raise ValueError('there is no such folder')
        if hasattr(reader, 'iter_targets'):
            labels = list(reader.iter_targets())
        else:
            labels = reader.targets.tolist() if hasattr(reader, 'targets') else [label for _, label in reader.samples]
        indices = reader.class_to_idx if hasattr(reader, 'class_to_idx') else reader.class_name_to_idx
    except Exception as error:  # whatever the reader raises is one line to the user
        raise InputError(f'data {source!r:.120}: timm opens no {split!r:.60} ({_reason(error)}); '
                         'give a folder, a tar file, hfds/NAME, or torch/NAME with ?root=FOLDER') from None
    return Part(_Reader(reader, title), labels, split), tuple(sorted(indices, key=indices.get))
