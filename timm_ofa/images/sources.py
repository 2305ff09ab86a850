"""From the text that a user gives as data to splits with class names."""
from __future__ import annotations

import atexit
import gc
from dataclasses import replace
from functools import lru_cache
from urllib.parse import parse_qsl

import numpy as np
from PIL import Image

from ..errors import InputError, listed
from .folders import refuse_unknown_classes
from .huggingface import open_hugging_face
from .splits import UNLABELED, InMemory, Opened, Part, Stream, is_labeled, unlabeled_test
from .timm_readers import open_timm


def open_source(source: str) -> Opened:
    """The splits of a source, as `load_data` describes it; raises `InputError`."""
    opened = _opened(source)
    if isinstance(opened.train, Part):
        _check_labels(source, np.asarray(opened.train.labels), opened.class_names)
        if isinstance(opened.test, Part):
            refuse_unknown_classes(
                source, opened.test.split, classes_of(opened, opened.test), classes_of(opened, opened.train))
    return opened


def open_test(source: str) -> Opened:
    """A source that is for the test alone: its test split, or else its only one, is `test`; raises `InputError`."""
    opened = _opened(source, alone=True)
    if opened.test is None:
        only = opened.train
        opened = replace(opened, test=replace(only, split='all' if only.split == 'train' else only.split))
    if isinstance(opened.test, Part) and not is_labeled(opened.test):
        raise unlabeled_test(source, opened.test.split)
    return opened


def _opened(source: str, alone: bool = False) -> Opened:
    """The splits of a source; `alone`: its only split may have any name."""
    if source == 'digits':
        return _digits()
    place, mark, query = source.partition('?')
    kind, _, rest = place.partition(':')
    known = 'train', 'test', 'root' if kind == 'timm' else 'label'
    given = parse_qsl(query, keep_blank_values=True)
    options = {name: value for name, value in given if name in known and value}
    if bool(mark) != bool(options) or len(options) < len(given):
        raise InputError(f'data {source!r:.120}: {query!r:.60} is not understood; write ?train=NAME&test=NAME, '
                         f'with {listed(known)}, each once')
    if kind == 'stream':
        atexit.register(gc.collect)  # Python hangs or crashes at its end if Arrow is still reading then
    if kind == 'timm':
        return open_timm(source, rest, options)
    return open_hugging_face(source, rest if kind == 'stream' else place, options, kind == 'stream', alone)


def classes_of(opened: Opened, part: Part | Stream) -> set[str]:
    """The classes of which a split has images; of a stream, all that it may have."""
    if isinstance(part, Stream):
        return set(opened.class_names)
    return {opened.class_names[label] for label in set(part.labels) if label > UNLABELED}


def _check_labels(source: str, labels: np.ndarray, class_names: tuple[str, ...]) -> None:
    if len(labels) and labels.min() < 0:
        raise InputError(f'data {source!r:.120} has training images without a label; choose another split')
    if len(set(labels.tolist())) == 1:
        raise InputError(
            f'data {source!r:.120} has images of one class alone, {class_names[labels[0]]!r:.60}; give two or '
            'more classes')


@lru_cache(maxsize=1)
def _digits() -> Opened:
    """The 8x8 digits of scikit-learn: 1,437 images for training and 360 for the test; they serve for tests.

    They are read once; nobody changes them.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError("data 'digits' needs scikit-learn; pip install 'timm_ofa[digits]'") from None
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    images = [Image.fromarray((digits.images[i] * 255 / 16).astype(np.uint8)).convert('RGB') for i in order]
    labels = digits.target[order].tolist()
    return Opened('digits', tuple('0123456789'), Part(InMemory(images[360:]), labels[360:], 'train'),
                  Part(InMemory(images[:360]), labels[:360], 'test'))
