"""Where search spaces come from: the shelf of JSON files in this folder, or a file of the user's own."""
from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

from ..errors import InputError, listed
from .space import SearchSpace

SPACES_DIR = Path(__file__).parent


@cache
def space_names() -> tuple[str, ...]:
    """The names of the spaces on the shelf."""
    return tuple(sorted(path.stem for path in SPACES_DIR.glob('*.json')))


def load_space(name: str | Path | SearchSpace) -> SearchSpace:
    """Load a search space from the shelf by its name, or from a JSON file by its path; raises `InputError`."""
    if isinstance(name, SearchSpace):
        return name
    if str(name) in space_names():
        return _of_the_shelf(str(name))
    path = Path(str(name))
    if path.suffix != '.json' or not os.path.isfile(path):  # false for a text that can be no path, too
        raise InputError(
            f'search space {str(name)!r:.120} is not known; choose from {listed(space_names())}, or give a .json file')
    return _read_space(path)


def shelf_space(value: object, where: str) -> SearchSpace:
    """A search space from unchecked data: a name on the shelf, or all fields of a space; raises `InputError`."""
    if not isinstance(value, str):
        return SearchSpace.from_dict(value, where)
    if value not in space_names():  # `load_space` would open a path
        raise InputError(f'{where}: {value!r:.60} is not known; give a whole space, or one of {listed(space_names())}')
    return load_space(value)


def space_data(space: SearchSpace) -> str | dict:
    """The inverse of `shelf_space`: the name of a space on the shelf, or all fields of another one, ready for JSON."""
    on_shelf = space.name in space_names() and space == load_space(space.name)
    return space.name if on_shelf else space.to_dict()


@cache
def _of_the_shelf(name: str) -> SearchSpace:
    return _read_space(SPACES_DIR / f'{name}.json')


def _read_space(path: Path) -> SearchSpace:
    try:
        data = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f'search space {str(path)!r:.120} is not JSON ({error}); mend the file') from None
    return SearchSpace.from_dict(data, f'search space {path.name}')
