"""Limits on what a network costs: latency on a device, MACs, parameters, memory. Costs are in the unit of their limit.

A new kind of limit is a class here, with `maximum`, `tabulate` and `text`.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context
from operator import attrgetter
from typing import ClassVar, Protocol, TypeAlias, overload

import numpy as np

from ..devices import MemoryTable
from ..errors import InputError
from ..spaces import CostTable, SearchSpace

TOLERANCE = 1e-12  # relative; sums of the same costs in different orders differ by less
DIGITS = 4  # of the least value that a message suggests


@overload
def within(cost: float, maximum: float) -> bool: ...
@overload
def within(cost: np.ndarray, maximum: float | np.ndarray) -> np.ndarray: ...
def within(cost: float | np.ndarray, maximum: float | np.ndarray) -> bool | np.ndarray:
    """Whether costs are within a limit; the one place that decides it. Only rounding apart, costs are equal."""
    return cost <= bound(maximum)


def bound(maximum: float | np.ndarray) -> float | np.ndarray:
    """The largest cost that counts as within a limit."""
    return maximum * (1 + TOLERANCE)


def rounded_up(value: float, digits: int = DIGITS) -> str:
    """A value with few digits that is never below the value, so that it works as a limit."""
    return f'{float(Context(digits, ROUND_CEILING).create_decimal_from_float(value * (1 - TOLERANCE))):.{digits}g}'


class InfeasibleError(InputError):
    """No network is within the limits. The message names the limit, and the least value that a network reaches."""


class Profile(Protocol):
    """What a search needs of a device profile."""
    @property
    def name(self) -> str: ...
    @property
    def num_classes(self) -> int | None: ...  # of the head whose latency it has; None: of the space
    @property
    def batch_size(self) -> int: ...

    def cost_table(self, space: SearchSpace) -> CostTable:
        """The latencies of a space, in ms."""

    def resolutions(self, space: SearchSpace) -> Sequence[int]:
        """The resolutions of a space (px) whose latencies are known."""


@dataclass(frozen=True)
class Limit:
    """At most `max_ms` on the device of `profile`."""
    profile: Profile
    max_ms: float

    def tabulate(self, space: SearchSpace, num_classes: int | None = None, batch_size: int = 1) -> CostTable:
        """The costs of a space. The profile knows its own classes and batch size."""
        return self.profile.cost_table(space)

    @property
    def maximum(self) -> float:
        return self.max_ms

    def text(self, cost: float | None = None) -> str:
        """The limit, or a cost rounded up, with its unit."""
        return f'{_shown(self.max_ms, cost)} ms on {self.profile.name}'


@dataclass(frozen=True)
class _MaxSum:
    """At most `maximum` of a quantity that adds up over the rows of a network.

    `num_classes` are those of the head; None: of the profile that is searched with, or else of the space.
    """
    maximum: float
    num_classes: int | None = None
    quantity: ClassVar[str]  # a field of Row
    unit: ClassVar[str]  # millions of the quantity

    def tabulate(self, space: SearchSpace, num_classes: int | None = None, batch_size: int = 1) -> CostTable:
        return space.cost_table(attrgetter(self.quantity), self.num_classes or num_classes)

    def text(self, cost: float | None = None) -> str:
        return f'{_shown(self.maximum / 1e6, None if cost is None else cost / 1e6)} {self.unit}'


class MaxMacs(_MaxSum):
    """At most `maximum` multiply-accumulates, e.g. 600e6."""
    quantity, unit = 'macs', 'M MACs'


class MaxParams(_MaxSum):
    """At most `maximum` parameters, e.g. 8e6."""
    quantity, unit = 'params', 'M parameters'


@dataclass(frozen=True)
class MaxMemory:
    """At most `max_mb` MB (1e6 bytes) of peak memory in float32, as `peak_memory_mb` computes it.

    `batch_size` and `num_classes` are those of the profile that is searched with, unless they are given here. Without a
    profile, the batch is one image, and the classes are those of the space.
    """
    max_mb: float
    batch_size: int | None = None
    num_classes: int | None = None

    def tabulate(self, space: SearchSpace, num_classes: int | None = None, batch_size: int = 1) -> MemoryTable:
        return MemoryTable.of(space, self.batch_size or batch_size, self.num_classes or num_classes)

    @property
    def maximum(self) -> float:
        return self.max_mb

    def text(self, cost: float | None = None) -> str:
        return f'{_shown(self.max_mb, cost)} MB of memory'


AnyLimit: TypeAlias = Limit | MaxMacs | MaxParams | MaxMemory


def _shown(maximum: float, cost: float | None) -> str:
    return f'{maximum:.10g}' if cost is None else rounded_up(cost)


def searched_with(profile: Profile | None, limits: Sequence[AnyLimit]) -> tuple[int | None, int]:
    """The classes and the batch size of what is searched: those of the profile, or else of the first limit with one."""
    for known in (profile, *(limit.profile for limit in limits if isinstance(limit, Limit))):
        if known is not None:
            return known.num_classes, known.batch_size
    return None, 1
