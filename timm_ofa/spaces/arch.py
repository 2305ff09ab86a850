"""One network of a search space, as a value.

Equal archs are the same network. `SearchSpace.check` tells whether a space holds an arch.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from ..fields import number, plain, read

MAX_RESOLUTION = 1024  # px; larger values in a file are taken for mistakes
MAX_WIDTH = 8192  # channels; larger values in a file are taken for mistakes


@dataclass(frozen=True)
class Arch:
    """One network: the side of the input, and for each stage one tuple with an entry for each *active* block.

    The depth of a stage is the length of its tuple. If the widths are elastic too (ResNet), the arch also has the
    channels of each stage and of the stem's convolutions. A stem of three convolutions has the residual one.
    """
    resolution: int = number(1, MAX_RESOLUTION)  # px
    kernel_size: tuple[tuple[int, ...], ...] = number(1, MAX_RESOLUTION)
    expand_ratio: tuple[tuple[int | float, ...], ...] = number(1e-6, 64)
    width: tuple[int, ...] = number(1, MAX_WIDTH, default=())  # output channels of each stage; (): not elastic
    stem_width: tuple[int, ...] = number(1, MAX_WIDTH, default=())  # of each convolution of the stem; (): not elastic

    @property
    def depth(self) -> tuple[int, ...]:
        """The number of active blocks of each stage."""
        return tuple(len(stage) for stage in self.kernel_size)

    def __str__(self) -> str:
        def join(stages: tuple[tuple[float, ...], ...]) -> str:
            return '/'.join(','.join(repr(float(v)).removesuffix('.0') for v in stage) for stage in stages)
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
            return cls.from_dict({
                'resolution': int(resolution), 'kernel_size': [[int(v) for v in stage] for stage in found['k']],
                'expand_ratio': [[float(v) for v in stage] for stage in found['e']],
                'width': [int(v) for v in width], 'stem_width': [int(v) for v in stem]})
        except InputError:
            raise
        except (ValueError, IndexError):
            raise InputError(f'arch {text!r:.120} cannot be read; write it like {example}') from None

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON, with one list for each stage; width and stem_width only if they are elastic."""
        return {name: value for name, value in plain(self).items() if value != []}

    @classmethod
    def from_dict(cls, data: object) -> Arch:
        """The inverse of `to_dict`; raises `InputError`, which names the field. The choices are not checked."""
        return read(cls, data, 'arch')


def is_number(value: object) -> bool:
    """Whether a value is an integer or a float. A bool is none."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def is_whole(value: object) -> bool:
    """Whether a value is an integer. A bool is none."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def integer(value: Any, name: str, limit: int) -> int:
    """A whole number from 1 to `limit`; raises `InputError`, which names the field."""
    if not is_whole(value):
        raise InputError(f'{name} {value!r:.80} is not a whole number; write it like 3')
    if not 0 < value <= limit:
        raise InputError(f'{name} {value!r:.80} is out of range; give 1 to {limit}')
    return int(value)
