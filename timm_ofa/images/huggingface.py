"""Images that the datasets library reads: a folder by class, a folder of parquet files, a data set of the Hub."""
from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

from ..errors import InputError, listed
from ..networks import refuse_unreachable
from .decoding import Look, T, decode_image, reason
from .folders import class_names, folder_name, image_folders, refuse_unknown_classes
from .splits import UNLABELED, Opened, Part, Stream, is_labeled, refuse_same_split, unlabeled_test

IMAGES_DIR = Path(__file__).parent  # holds the images that ship with the package, one folder a data set
BUILT_IN = 'fashion-mnist-12k'
TEST_SPLITS = ('test', 'validation', 'valid', 'val', 'dev')  # the first of them that a source has


class _Column:
    """The image column of a data set."""

    def __init__(self, dataset: Any, column: str, title: str):
        self.dataset, self.column, self.title = dataset, column, title

    def see(self, i: int, look: Look[T]) -> T:
        return decode_image(self.dataset[i][self.column], f'image {i} of {self.title}', look)


def open_hugging_face(source: str, place: str, options: Mapping[str, str], streaming: bool, alone: bool) -> Opened:
    """A data set of the Hub or a folder; `streaming`: splits are streams.

    `alone`: only a test is wanted. Of what is no stream, the split for it alone is fetched, and taken as train. Of a
    stream, the only split is taken as train.
    """
    folder = IMAGES_DIR / place if place == BUILT_IN else Path(place)
    folders = None
    if place and folder.is_dir():
        folders = image_folders(source, folder)
    elif place.count('/') > 1 or place.startswith(('.', '/', '~')) or not place:
        raise InputError(f'data {source!r:.120} is not a folder; give a folder of images by class or of parquet files')
    files = str(folder) if folder.is_dir() else place
    only = _test_split(source, files, folders, options) if alone and not streaming else None
    loaded, features = _load_dataset(source, files, folders, streaming, only)
    is_named = bool(only and options.get('test'))
    if only:
        options = {**options, 'train': only, 'test': ''}
    usual = next(iter(loaded)) if alone and len(loaded) == 1 else 'train'
    train, wanted = options.get('train', usual), options.get('test')
    refuse_same_split(source, train, wanted, train == wanted)
    _refuse_missing(source, loaded, train, wanted)
    image, label = _columns(source, features, options.get('label'))
    name = place if not folder.is_dir() else folder_name(folder)

    def split(split_name: str) -> Part | Stream:
        return _split(loaded[split_name], split_name, (image, label), f'{name} {split_name}', streaming)

    tests = (split(test) for test in ([wanted] if wanted else TEST_SPLITS) if test in loaded and test != train)
    labeled = next((test for test in tests if isinstance(test, Stream) or is_labeled(test)), None)
    if wanted and labeled is None:
        raise unlabeled_test(source, wanted)
    if folders and labeled:
        refuse_unknown_classes(source, labeled.split, *(class_names(folders[s]) for s in (labeled.split, train)))
    first = split(train)
    return Opened(name, tuple(features[label].names), first, first if is_named else labeled)


def _refuse_missing(source: str, splits: Iterable[str], *wanted: str | None) -> None:
    for name in filter(None, wanted):
        if name not in splits:
            raise InputError(
                f"data {source!r:.120} has the splits {listed(splits)}; one must be called 'train', or be named: "
                '?train=NAME&test=NAME')


def _test_split(source: str, place: str, folders: Mapping[str, Path] | None, options: Mapping[str, str]) -> str | None:
    """The split for a test: that which is named, the first of TEST_SPLITS with labels, or else the training split.

    Of other splits no image is fetched. None: what there is shows only when it is loaded.
    """
    if folders:
        splits = list(folders)
    else:
        with _one_line(source):
            splits = list(_builder(place).config.data_files or ())
    if not splits:
        return None
    train, wanted = options.get('train', splits[0] if len(splits) == 1 else 'train'), options.get('test')
    refuse_same_split(source, train, wanted, train == wanted)
    tests = (name for name in TEST_SPLITS if name in splits and name != train)
    chosen = wanted or next(
        (name for name in tests if folders or _begins_labeled(source, place, name, options.get('label'))), train)
    _refuse_missing(source, splits, chosen)
    return chosen


def _begins_labeled(source: str, place: str, split: str, label: str | None) -> bool:
    """Whether the first image of a split has a label; no more of it is read."""
    streams, features = _load_dataset(source, place, None, True, split)
    column = _columns(source, features, label)[1]
    with _one_line(source):
        labels = [row[column] for row in streams[split].select_columns([column]).take(1)]
    return labels not in ([], [None], [UNLABELED])


def _columns(source: str, features: Mapping[str, Any], wanted: str | None) -> tuple[str, str]:
    """The names of the image column and of the label column."""
    import datasets

    image = next((name for name, f in features.items() if isinstance(f, datasets.Image)), None)
    labels = [name for name, f in features.items() if isinstance(f, datasets.ClassLabel)]
    label = wanted or next(iter(labels), None)
    if image is None or label is None or label not in labels:
        raise InputError(
            f'data {source!r:.120} has the columns {listed(features)}; an image and a class-label are needed, '
            'two classes or more')
    return image, label


def _split(dataset: Any, split_name: str, columns: tuple[str, str], title: str, streaming: bool) -> Part | Stream:
    import datasets

    image, label = columns
    encoded = dataset.select_columns([image, label]).cast_column(image, datasets.Image(decode=False))
    if streaming:
        known = (dataset.info.splits or {}).get(split_name)
        return Stream(encoded, columns, split_name, title, known and known.num_examples)
    labels = [UNLABELED if value is None else value for value in encoded[label][:]]
    return Part(_Column(encoded.select_columns([image]), image, title), labels, split_name)


def _is_cached(place: str) -> bool:
    """Whether a data set of the Hub lies in the cache, from where it is read if the Hub does not answer."""
    import datasets

    def letters(name: str) -> str:
        return re.sub('[^a-z0-9/]', '', name.replace('___', '/').lower())

    cache = Path(datasets.config.HF_DATASETS_CACHE)
    return cache.is_dir() and any(letters(path.name) == letters(place) for path in cache.iterdir())


def _builder(place: str) -> Any:
    """What the datasets library knows of a folder of tables or a data set of the Hub before it fetches an image."""
    import datasets

    _refuse_unreachable(place)
    return datasets.load_dataset_builder(place)


def _refuse_unreachable(place: str) -> None:
    """Raise at once where a Hub that does not answer is needed; its client asks again for 23 s."""
    if not Path(place).is_dir() and not _is_cached(place):
        refuse_unreachable()


@contextmanager
def _one_line(source: str) -> Iterator[None]:
    """Turn whatever the reader or the network raises into one line. Progress is shown in a terminal alone."""
    import datasets

    disable = datasets.utils.logging.is_progress_bar_enabled() and not os.isatty(2)
    if disable:
        datasets.disable_progress_bars()
    try:
        yield
    except Exception as error:
        raise InputError(
            f'data {source!r:.120} cannot be loaded ({reason(error)}); give a Hub data set id, a folder of images by '
            f"class, a folder of parquet files, or '{BUILT_IN}'") from None
    finally:
        if disable:
            datasets.enable_progress_bars()


def _load_dataset(source: str, place: str, folders: Mapping[str, Path] | None, streaming: bool,
                  only: str | None = None) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The splits by name, or `only` one of them, and the columns that they share. `folders`: of images by class, the
    folder of each split."""
    import datasets

    with _one_line(source):
        if folders:
            files = {split: f'{escape(str(path))}/**' for split, path in folders.items() if only in (None, split)}
            loaded = datasets.load_dataset('imagefolder', data_files=files, drop_labels=False, streaming=streaming)
        elif only:  # of the whole data set the library would fetch every split
            builder = _builder(place)
            loaded = datasets.load_dataset(
                builder.name, data_files={only: list(builder.config.data_files[only])},
                features=builder.info.features, streaming=streaming)
        else:
            _refuse_unreachable(place)
            loaded = datasets.load_dataset(place, streaming=streaming)
        first = next(iter(loaded.values()))
        return loaded, first.features or first._resolve_features().features
