"""From encoded images to 8 bits of red, green and blue; what cannot be read is refused by name."""
from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import InputError

BITS_16 = 65535  # the white of 16 bits
WHITES = {'F': (1, 255), 'I': (255, BITS_16, 2**31 - 1)}  # of modes that do not tell their white: the least that fits
IN_16_BITS = ('PNG', 'PPM')  # formats of which Pillow gives 16 bits as mode 'I'


def decode_image(image: Mapping, where: str) -> Image.Image:
    """An RGB image from {'bytes': of the file or None, 'path': or None}; an `InputError` begins with `where`."""
    import datasets

    image = dict(image)
    try:
        if image['bytes'] is None and os.path.isfile(image['path']):  # datasets leaves animated files open
            image['bytes'] = Path(image['path']).read_bytes()
        return to_rgb(datasets.Image().decode_example(image))
    except Exception as error:  # a broken file can raise almost any error
        raise broken_image(where, image.get('path'), error) from None


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in 8 bits of red, green and blue: numbers of more bits are scaled by the white of their range, so that
    none is cut off. Raises ValueError for values that no range holds."""
    if image.mode == 'F' or image.mode.startswith('I'):
        values = np.asarray(image).astype(np.float64)
        image = Image.fromarray(np.rint(values * (255 / _white(image, values))).astype(np.uint8))
    elif 'transparency' in image.info:
        image = image.convert('RGBA')
    return image.convert('RGB')


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
    """The error for an image that cannot be decoded."""
    place = f' ({path!s:.160})' if path else ''
    return InputError(f'{where}{place} cannot be decoded ({reason(error)}); replace or remove it, or leave it out with '
                      '--skip-broken')


def reason(error: Exception) -> str:
    """The first line of what an error says, without addresses of objects."""
    text = re.sub(r' ?<[^<>]* object at 0x\w+>', '', str(error)).strip() or type(error).__name__
    return f'{text.splitlines()[0]:.200}'
