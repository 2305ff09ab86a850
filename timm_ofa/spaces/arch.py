"""One network of a search space, as a value.

Equal archs are the same network. `SearchSpace.check` tells whether a space holds an arch.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..errors import InputError, listed
from ..fields import plain

MAX_RESOLUTION = 1024  # px; larger values in a file are taken for mistakes
MAX_WIDTH = 8192  # channels; larger values in a file are taken for mistakes


@dataclass(frozen=True)
class Arch:
    """One network: the side of the input, and for each stage one tuple with an entry for each *active* block.

    The depth of a stage is the length of its tuple. If the widths are elastic too (ResNet), the arch also has the
    channels of each stage and of the stem's convolutions. A stem of three convolutions has the residual one.
    """
    resolution: int  # px
    kernel_size: tuple[tuple[int, ...], ...]
    expand_ratio: tuple[tuple[float, ...], ...]
    width: tuple[int, ...] = ()  # output channels of each stage; (): not elastic
    stem_width: tuple[int, ...] = ()  # channels of each convolution of the stem; (): not elastic

    @property
    def depth(self) -> tuple[int, ...]:
        """The number of active blocks of each stage."""
        return tuple(len(stage) for stage in self.kernel_size)

    def __str__(self) -> str:
        def join(stages: tuple[tuple[float, ...], ...]) -> str:
            return '/'.join(','.join(f'{v:g}' for v in stage) for stage in stages)
        widths = f":s{join((self.stem_width,))}:w{join((self.width,))}" if self.width else ''
        return f'r{self.resolution}{widths}:k{join(self.kernel_size)}:e{join(self.expand_ratio)}'

    @classmethod
    def parse(cls, text: str, example: str) -> Arch:
        """The inverse of `str(arch)`; raises `InputError`, which shows the example."""
        try:
            names, values = zip(*((part[0], part[1:]) for part in str(text).strip().split(':')))
            stages = [[stage.split(',') for stage in value.split('/')] for value in values]
            found = dict(zip(names, stages))
            if names not in (('r', 'k', 'e'), ('r', 's', 'w', 'k', 'e')):
                raise ValueError
            (resolution,), = found['r']
            (stem,), (width,) = found.get('s', [()]), found.get('w', [()])
            return cls(
                int(resolution), tuple(tuple(int(v) for v in stage) for stage in found['k']),
                tuple(tuple(_ratio(float(v), 'expand_ratio') for v in stage) for stage in found['e']),
                tuple(map(int, width)), tuple(map(int, stem)))
        except InputError:
            raise
        except (ValueError, IndexError):
            raise InputError(f'arch {text!r:.120} cannot be read; write it like {example}') from None

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON, with one list for each stage; width and stem_width only if they are elastic."""
        return {name: value for name, value in plain(self).items() if value != []}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Arch:
        """The inverse of `to_dict`; raises `InputError`, which names the field. The choices are not checked."""
        names = [f.name for f in fields(cls)]
        needed = names[:3]
        if not isinstance(data, Mapping):
            raise InputError(f'arch {data!r:.80} is not an object; give the fields {listed(needed)}')
        for name in data:
            if name not in names:
                raise InputError(f'arch field {name!r:.80} is unknown; give {listed(needed)}, and for a ResNet '
                                 f'{listed(names[3:])}')
        for name in needed:
            if name not in data:
                raise InputError(f'arch field {name!r} is missing; give {listed(needed)}')
        return cls(
            integer(data['resolution'], 'resolution'),
            _stages(data['kernel_size'], 'kernel_size', integer),
            _stages(data['expand_ratio'], 'expand_ratio', _ratio),
            _widths(data.get('width', ()), 'width'),
            _widths(data.get('stem_width', ()), 'stem_width'),
        )


def is_whole(value: object) -> bool:
    """Whether a value is an integer. A bool is none."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def integer(value: Any, name: str, limit: int = MAX_RESOLUTION) -> int:
    """A whole number from 1 to `limit`; raises `InputError`, which names the field."""
    if not is_whole(value):
        raise InputError(f'{name} {value!r:.80} is not a whole number; write it like 3')
    if not 0 < value <= limit:
        raise InputError(f'{name} {value!r:.80} is out of range; give 1 to {limit}')
    return int(value)


def _ratio(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise InputError(f'{name} {value!r:.80} is not a number; write it like 4')
    if not 0 < value <= 64:
        raise InputError(f'{name} {value!r:.80} is out of range; give a ratio above 0 and up to 64')
    return int(value) if value == int(value) else float(value)


def _stages(value: Any, name: str, convert: Callable[[Any, str], Any]) -> tuple[tuple[Any, ...], ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(stage, (list, tuple)) for stage in value):
        raise InputError(f'{name} {value!r:.80} is not a list of lists; give one list a stage, an entry a block')
    return tuple(tuple(convert(v, f'{name} in stage {i + 1}') for v in stage) for i, stage in enumerate(value))


def _widths(value: Any, name: str) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)):
        raise InputError(f'{name} {value!r:.80} is not a list; give channels like [256, 512]')
    return tuple(integer(v, name, MAX_WIDTH) for v in value)
