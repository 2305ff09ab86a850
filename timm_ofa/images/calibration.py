"""Images to calibrate on where no training set is at hand: of a folder, or some of a data set of the Hub."""
from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..console import counted
from ..errors import InputError
from .data import load_data
from .decoding import reason
from .huggingface import BUILT_IN
from .image_sets import ImageSet, encoded_set
from .sources import open_source
from .splits import Stream

CALIBRATION_DATA = 'TIMM_OFA_CALIBRATION_DATA'  # environment variable: the source, as `load_data` takes it


@dataclass(frozen=True)
class CalibrationImages:
    """Images that are known by name and can be opened. Their labels do not matter."""
    name: str
    fetch: Callable[[], tuple[ImageSet, float]]  # gives them, and the MB (1e6 bytes) that came from the Hub for them
    size: int | None = None  # how many there are to choose from, if that is known before they are fetched


def calibration_source(default: str) -> str:
    """The source of the images to calibrate on: what `TIMM_OFA_CALIBRATION_DATA` says, else the default."""
    return os.environ.get(CALIBRATION_DATA) or default


def is_streamed(source: str) -> bool:
    """Whether `open_calibration` reads the source from the Hub, image by image."""
    place = source.partition('?')[0]
    local = place in ('digits', BUILT_IN) or place.startswith('timm:') or place.count('/') != 1 or Path(place).exists()
    return place.startswith('stream:') or not local


def open_calibration(source: str, side: int, n: int, *, holdout: float = 0.1, seed: int = 0,
                     skip_broken: bool = False) -> CalibrationImages:
    """Open a source of images for calibration; raises `InputError` for what cannot be read.

    Of a data set of the Hub, only the `n` images are read. All others give their training images, as `load_data` with
    the same arguments does, or, where a folder has no classes, all of its images.

    Args:
        source: As `load_data` takes it. A data set of the Hub is read as a stream, also without 'stream:'.
        side: Side of the stored squares, px.
        skip_broken: Leave out images that cannot be decoded. All that are read are decoded to find them.
    """
    if not is_streamed(source):
        try:
            data = load_data(source, side, holdout=holdout, seed=seed, skip_broken=skip_broken)
        except InputError:
            train = _photos(source, side)
            if train is None:
                raise
            name, train = train.title, train.without_broken() if skip_broken else train
        else:
            assert isinstance(data.train, ImageSet)
            name, train = data.name, data.train
        return CalibrationImages(name, lambda: (train, 0.0), len(train))
    opened = open_source(source if source.startswith('stream:') else f'stream:{source}')
    assert isinstance(opened.train, Stream)
    stream = opened.train
    return CalibrationImages(opened.name, cache(lambda: _first_images(stream, side, n, skip_broken)), stream.length)


def _photos(source: str, side: int) -> ImageSet | None:
    """All images of a folder without classes, in it or in one folder of it; None for what is no such folder."""
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    root = Path(source)
    folders = [root, *(path for path in root.glob('*/') if not path.name.startswith('.'))] if root.is_dir() else []
    paths = [path for folder in folders for path in sorted(folder.iterdir())
             if path.suffix.lower() in ImageFolder.EXTENSIONS]
    if len(folders) > 2 or len(paths) < 2:
        return None
    return encoded_set([(dict(bytes=None, path=str(path)), 0) for path in paths], side, root.resolve().name)


def _first_images(stream: Stream, side: int, n: int, skip_broken: bool) -> tuple[ImageSet, float]:
    try:
        items = list(counted(itertools.islice(stream.spread(), n), n, f'fetch {stream.title}', 'img'))
    except InputError:
        raise
    except Exception as error:  # the readers and the network raise nearly anything
        raise InputError(f'images of {stream.title!r:.120} cannot be fetched ({reason(error)}); try again') from None
    images = encoded_set(items, side, stream.title)
    if skip_broken:
        images = images.without_broken()
    if len(images) < 2:
        raise InputError(f'{stream.title!r:.120} has {len(images)} images; give a source of two or more')
    return images, sum(len(image['bytes'] or b'') for image, _ in items) / 1e6


def files_stamp(source: str) -> str:
    """What changes where a file, or one in a folder, changes: a hash of all names, sizes and times. '' if neither."""
    root = re.sub('^(stream|timm):', '', source.partition('?')[0])
    if not os.path.exists(root):
        return ''
    places = [root] if os.path.isfile(root) else (
        os.path.join(folder, name) for folder, _, names in os.walk(root, followlinks=True) for name in names)
    found = []
    for place in places:
        with suppress(FileNotFoundError):  # a link to nothing
            status = os.stat(place)
            found.append(f'{place[len(root):].lstrip(os.sep)} {status.st_size} {status.st_mtime_ns}')
    return hashlib.sha256('\n'.join(sorted(found)).encode()).hexdigest()
