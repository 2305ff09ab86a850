"""From the text that a user gives as data to splits with class names."""
from __future__ import annotations

import atexit
import gc
from urllib.parse import parse_qsl

import numpy as np
from PIL import Image

from ..errors import InputError, listed
from .folders import refuse_unknown_classes
from .huggingface import open_hugging_face
from .splits import UNLABELED, Opened, Part
from .timm_readers import open_timm

OPTIONS = ('train', 'test', 'label', 'root')


def open_source(source: str) -> Opened:
    """The splits of a source, as `load_data` describes it; raises `InputError`."""
    if source == 'digits':
        return _digits()
    place, mark, query = source.partition('?')
    options = dict(parse_qsl(query))
    if bool(mark) != bool(options) or not set(options) <= set(OPTIONS):
        raise InputError(f'data {source!r:.120}: {query!r:.60} is not understood; write ?train=NAME&test=NAME, '
                         f'with {listed(OPTIONS)}')
    kind, _, rest = place.partition(':')
    if kind == 'stream':
        atexit.register(gc.collect)  # Python hangs or crashes at its end if Arrow is still reading then
    if kind == 'timm':
        opened = open_timm(source, rest, options)
    else:
        opened = open_hugging_face(source, rest if kind == 'stream' else place, options, streaming=kind == 'stream')
    if isinstance(opened.train, Part):
        _check_labels(source, np.asarray(opened.train.labels), opened.class_names)
        if isinstance(opened.test, Part):
            test, train = ({opened.class_names[label] for label in set(part.labels) if label > UNLABELED}
                           for part in (opened.test, opened.train))
            refuse_unknown_classes(source, opened.test.split, test, train)
    return opened


def _check_labels(source: str, labels: np.ndarray, class_names: tuple[str, ...]) -> None:
    if len(labels) and labels.min() < 0:
        raise InputError(f'data {source!r:.120} has training images without a label; choose another split')
    if len(set(labels.tolist())) == 1:
        raise InputError(
            f'data {source!r:.120} has images of one class alone, {class_names[labels[0]]!r:.60}; give two or '
            'more classes')


def _digits() -> Opened:
    """The 8x8 digits of scikit-learn: 1,437 images for training and 360 for the test; they serve for tests."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError("data 'digits' needs scikit-learn; pip install 'timm_ofa[digits]'") from None
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    images = [Image.fromarray((digits.images[i] * 255 / 16).astype(np.uint8)).convert('RGB') for i in order]
    labels = digits.target[order].tolist()
    return Opened('digits', tuple('0123456789'), Part(images[360:], labels[360:], 'train'),
                  Part(images[:360], labels[:360], 'test'))
