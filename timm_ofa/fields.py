"""One strict reader that makes dataclasses of JSON and YAML data, whoever wrote the data.

A dataclass declares what it takes: its annotations give the kinds, and `text`, `number` or `choice` in place of
`dataclasses.field` give the bounds. What does not fit raises an `InputError` that names the field and the value.
"""
from __future__ import annotations

import functools
import numbers
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, field, fields, is_dataclass
from typing import Any, TypeVar, overload

from .errors import InputError, listed

T = TypeVar('T')

SLUG = re.compile(r'[a-z0-9]+([.-][a-z0-9]+)*')
HUB_ID = r'[\w-][\w.-]*/[\w-][\w.-]*'  # a repository of the Hub; see `is_hub_id`
MAX_TEXT, MAX_LONG_TEXT = 200, 4000  # characters of one line; of a text that may have several lines
MAX_ITEMS = 30000  # entries of a list or an object
MAX_NUMBER = 2**53  # up to here every whole number is exact in JSON

# ---- bounds of the fields of a dataclass ---------------------------------------------------------------------------


@overload
def text(pattern: str = ..., limit: int = ..., *, default: T) -> T: ...
@overload
def text(pattern: str = ..., limit: int = ...) -> Any: ...
def text(pattern: str = '', limit: int = MAX_TEXT, *, default: Any = MISSING) -> Any:
    """A text of up to `limit` characters that matches `pattern` as a whole. A limit above MAX_TEXT allows lines."""
    return field(metadata=dict(pattern=pattern, limit=limit), default=default)


@overload
def number(low: float = ..., high: float = ..., *, default: T) -> T: ...
@overload
def number(low: float = ..., high: float = ...) -> Any: ...
def number(low: float = 0, high: float = MAX_NUMBER, *, default: Any = MISSING) -> Any:
    """A number from `low` to `high`. In a list, the bounds hold for each entry."""
    return field(metadata=dict(low=low, high=high), default=default)


@overload
def choice(*values: object, default: T) -> T: ...
@overload
def choice(*values: object) -> Any: ...
def choice(*values: object, default: Any = MISSING) -> Any:
    """One of a few values."""
    return field(metadata=dict(choices=values), default=default)


# ---- reading and writing --------------------------------------------------------------------------------------------


def read(cls: Callable[..., T], data: Any, where: str) -> T:
    """Make a dataclass of a mapping. Raises `InputError`, which begins with `where`.

    No field may be unknown, and no required field may be missing. Kinds: str, bool, int, float, `int | float` (whole
    numbers stay int), lists and objects of these as `tuple[...]` and `dict[str, ...]`, dataclasses, and `... | None`.
    A field without bounds takes any line of text or any number. If the metadata of a field has a 'reader', then
    `reader(value, where)` reads the field.
    """
    known = _known(cls)
    if not isinstance(data, Mapping):
        raise InputError(f'{where}: {shown(data)} is not an object; give the fields {listed(known)}')
    for name in data:
        if name not in known:
            raise InputError(f'{where}: field {shown(name)} is unknown; choose from {listed(known, 40)}')
    for name, (_, _, required) in known.items():
        if required and name not in data:
            raise InputError(f'{where}: field {name!r} is missing; add it')
    values = {}
    for name, value in data.items():
        kind, bounds, _ = known[name]
        values[name] = read_value(kind, value, f'{where}: {name}', **bounds)
    return cls(**values)


def read_value(kind: Any, value: Any, where: str, **bounds: Any) -> Any:
    """Read one value of an annotated kind, within its bounds."""
    kind, optional, parts = _resolve(kind)
    if optional and value is None:
        return None
    if 'reader' in bounds:
        return bounds['reader'](value, where)
    if kind is tuple:
        return _read_list(parts, value, where, bounds)
    if kind is dict:
        return _read_object(parts, value, where, bounds)
    if kind not in _SCALARS:
        return read(kind, value, where)
    choices = bounds.pop('choices', None)
    found = _SCALARS[kind](value, where, **bounds)
    if choices is not None and found not in choices:
        raise InputError(f'{where}: {shown(value)} is unknown; choose from {listed(choices)}')
    return found


def plain(value: Any) -> Any:
    """The inverse of `read`, ready for JSON: dataclasses become dicts, tuples become lists, dicts are sorted by key.

    Fields at their defaults are left out of a dataclass that is `brief`.
    """
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {k: plain(value[k]) for k in sorted(value)}
    if is_dataclass(value):
        brief = getattr(value, 'brief', False)
        shown = [f for f in fields(value) if not (brief and getattr(value, f.name) == f.default)]
        return {f.name: plain(getattr(value, f.name)) for f in shown}
    return value


def shown(value: object, limit: int = 60) -> str:
    """A value as an error shows it, cut after `limit` characters."""
    try:
        return f'{value!r:.{limit}}'
    except (ValueError, RecursionError):  # a number of thousands of digits, a list in a list in a list ...
        return f'a {type(value).__name__} that is too large to be shown'


# ---- kinds --------------------------------------------------------------------------------------------------------


@functools.cache
def _known(cls: type) -> dict[str, tuple[Any, Mapping[str, Any], bool]]:
    """By the name of each field: its kind, its bounds, and whether it is required."""
    kinds = typing.get_type_hints(cls)
    return {
        f.name: (kinds[f.name], f.metadata, f.default is MISSING and f.default_factory is MISSING)
        for f in fields(cls)}


@functools.cache
def _resolve(kind: Any) -> tuple[Any, bool, tuple]:
    """The kind without None, whether None was in it, and the kinds of the entries of a `tuple` or a `dict`."""
    optional = type(None) in typing.get_args(kind)
    kind = typing.get_args(kind)[0] if optional else kind
    origin = typing.get_origin(kind)
    return (origin, optional, typing.get_args(kind)) if origin in (tuple, dict) else (kind, optional, ())


def _read_list(kinds: tuple, value: Any, where: str, bounds: Mapping) -> tuple:
    if not isinstance(value, (list, tuple)) or len(value) > MAX_ITEMS:
        raise InputError(f'{where}: {shown(value)} is not a list of up to {MAX_ITEMS} entries; write [..]')
    if kinds[-1] is not Ellipsis and len(value) != len(kinds):
        raise InputError(f'{where}: {shown(value)} needs {len(kinds)} entries, not {len(value)}')
    numbered = is_dataclass(kinds[0]) or typing.get_origin(kinds[0]) is tuple
    wheres = [f'{where}[{i}]' if numbered else where for i in range(len(value))]
    return tuple(read_value(kinds[0], v, here, **bounds) for v, here in zip(value, wheres))


def _read_object(kinds: tuple, value: Any, where: str, bounds: Mapping) -> dict:
    if not isinstance(value, Mapping) or len(value) > MAX_ITEMS:
        raise InputError(f'{where}: {shown(value)} is not an object of up to {MAX_ITEMS} entries; write {{..}}')
    return {_read_text(k, where): read_value(kinds[1], v, f'{where}: {k}', **bounds) for k, v in value.items()}


def _read_text(value: Any, where: str, pattern: str = '', limit: int = MAX_TEXT) -> str:
    if not isinstance(value, str) or len(value) > limit:
        raise InputError(f'{where}: {shown(value)} is not a text of up to {limit} characters; change it')
    if not (value.replace('\n', '') if limit > MAX_TEXT else value).isprintable():
        raise InputError(
            f'{where}: {shown(value)} is not one line of text, or holds characters that cannot be shown; remove them')
    if pattern and not re.fullmatch(pattern, value, re.ASCII):
        raise InputError(f'{where}: {shown(value)} does not match {pattern}; change it')
    return value


def _read_bool(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise InputError(f'{where}: {shown(value)} is not true or false; change it')
    return value


def _read_number(kind: Any, value: Any, where: str, low: float = -MAX_NUMBER, high: float = MAX_NUMBER) -> float:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    in_range = is_number and low <= value <= high
    whole = in_range and value == int(value)
    if not in_range or (kind is int and not whole):
        what = f'{"whole " if kind is int else ""}number from {low:g} to {high:g}'
        hint = ': out of range' if is_number and not in_range else ''
        raise InputError(f'{where}: {shown(value, 40)} is not a {what}{hint}; change it')
    return int(value) if whole and kind is not float else float(value)


_SCALARS: dict[Any, Callable] = {
    str: _read_text, bool: _read_bool,
    **{kind: functools.partial(_read_number, kind) for kind in (int, float, int | float)}}


# ---- slugs, which may stand in tags and file names ----------------------------------------------------------------


def slug(words: str, otherwise: str = 'unknown') -> str:
    """Lower-case letters and digits, joined by '-' or '.'; `otherwise` where none are left."""
    return '-'.join(re.findall(r'[a-z0-9]+(?:\.[a-z0-9]+)*', words.lower())) or otherwise


def check_slug(value: Any, where: str) -> str:
    """Return the value if it is a slug; else raise `InputError`."""
    if not isinstance(value, str) or len(value) > MAX_TEXT or not SLUG.fullmatch(value):
        raise InputError(f"{where}: {shown(value)} is not a slug; use lower case letters, digits, '-' and '.', "
                         "like 'samsung-note10'")
    return value


def is_hub_id(value: str) -> bool:
    """Whether a text is the name of a repository of the Hub, ORG/NAME. Letters of other alphabets are refused there."""
    return re.fullmatch(HUB_ID, value, re.ASCII) is not None
