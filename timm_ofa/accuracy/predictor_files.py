"""A predictor as files: arrays as safetensors, and a readable JSON of the same name beside them."""
from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import replacing_both

FORMAT = 1


def write_predictor(path: str | Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Write `path` (.safetensors), and the readable .json beside it."""
    from safetensors.numpy import save

    arrays_path, about_path = _paths(path)
    with replacing_both(arrays_path, about_path) as (new_arrays, new_about):
        new_arrays.write_bytes(save(dict(arrays)))
        new_about.write_text(json.dumps({'format': FORMAT, **about}, indent=1), encoding='utf-8')


def read_predictor(path: str | Path) -> tuple[Mapping[str, Any], dict[str, np.ndarray]]:
    """The inverse of `write_predictor`; raises `InputError`."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    arrays_path, about_path = _paths(path)
    try:
        about, arrays = json.loads(about_path.read_text(encoding='utf-8')), load_file(arrays_path)
    except (OSError, SafetensorError, ValueError, RecursionError):
        raise _unreadable(path) from None
    if not isinstance(about, Mapping) or about.get('format') != FORMAT:
        raise _unreadable(path)
    return about, arrays


def _paths(path: str | Path) -> tuple[Path, Path]:
    """The two files of a predictor. Other suffixes belong to its name: 'acc_v1.5' and 'acc_v1.7' are two predictors."""
    name = str(path).removesuffix('.safetensors')
    return Path(f'{name}.safetensors'), Path(f'{name}.json')


def _unreadable(path: str | Path) -> InputError:
    return InputError(
        f'predictor {str(path)!r:.120} cannot be read; give what `timm-ofa fit` or `timm-ofa import-upstream` wrote')


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Values of the wrong kind in the file of this name become one `InputError`."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
        raise _unreadable(name) from None
