"""From encoded images to 8 bits of red, green and blue; what cannot be read is refused by name."""
from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from ..errors import InputError

BITS_16 = 65535  # the white of 16 bits
WHITES = {'F': (1, 255), 'I': (255, BITS_16, 2**31 - 1)}  # of modes that do not tell their white: the least that fits
IN_16_BITS = ('PNG', 'PPM')  # formats of which Pillow gives 16 bits as mode 'I'
SIDEWAYS = range(5, 9)  # orientations of EXIF that exchange width and height
SPARE = 2  # an image that is decoded smaller has at least so many times the px that are needed
T = TypeVar('T')
Look: TypeAlias = Callable[[Image.Image], T]  # what is wanted of an image


def decode_image(image: Mapping, where: str, look: Look[T]) -> T:
    """What `look` makes of the image {'bytes': of the file or None, 'path': or None}, opened and not decoded yet.

    An `InputError` begins with `where`.
    """
    data, path = image['bytes'], image.get('path') or ''
    try:
        if data is None and os.path.isfile(path):
            data = Path(path).read_bytes()
        if data is None:  # it is elsewhere
            import datasets

            return look(datasets.Image().decode_example(dict(image)))
        with Image.open(io.BytesIO(data)) as opened:
            return look(opened)
    except Exception as error:  # a broken file can raise almost any error
        raise broken_image(where, path, error) from None


def turned_size(image: Image.Image) -> tuple[int, int]:
    """Width and height (px) of an image once it is turned as its camera says."""
    width, height = image.size
    return (height, width) if image.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS else (width, height)


def turned_rgb(image: Image.Image, least: tuple[float, float]) -> Image.Image:
    """An opened image, decoded, in RGB, and turned as its camera says.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its sides if it then has still SPARE times as many px on each side as
    `least`, the width and height that are needed. That takes a fraction of the time.
    """
    if isinstance(image, JpegImageFile):
        width, height = (math.ceil(SPARE * px) for px in least)
        image.draft(None, (width, height) if turned_size(image) == image.size else (height, width))
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation) is not None:
        image = ImageOps.exif_transpose(image)
    return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in 8 bits of red, green and blue: numbers of more bits are scaled by the white of their range, so that
    none is cut off. Raises ValueError for values that no range holds."""
    if image.mode == 'F' or image.mode.startswith('I'):
        values = np.asarray(image).astype(np.float64)
        image = Image.fromarray(np.rint(values * (255 / _white(image, values))).astype(np.uint8))
    elif 'transparency' in image.info:
        image = image.convert('RGBA')
    return image if image.mode == 'RGB' else image.convert('RGB')


def _white(image: Image.Image, values: np.ndarray) -> float:
    """The value of white in an image of numbers."""
    if image.mode.startswith('I;16') or image.format in IN_16_BITS:
        return BITS_16
    low, high = values.min(), values.max()
    for white in WHITES.get(image.mode, ()):
        if low >= 0 and high <= white:
            return white
    raise ValueError(f'its values of mode {image.mode!r} go from {low:g} to {high:g}, which no known range holds')


def broken_image(where: str, path: str | None, error: Exception) -> InputError:
    """The error for an image that cannot be decoded. Whoever raises it to people adds what to do."""
    place = f' ({path!s:.160})' if path else ''
    return InputError(f'{where}{place} cannot be decoded ({reason(error)})')


def reason(error: Exception) -> str:
    """The first line of what an error says, without addresses of objects."""
    text = re.sub(r' ?<[^<>]* object at 0x\w+>', '', str(error)).strip() or type(error).__name__
    return f'{text.splitlines()[0]:.200}'
