"""Limits on what a network costs: latency on a device, MACs, parameters, memory. Costs are in the unit of their limit.

A new kind of limit is a class here, with `maximum`, `tabulate` and `text`.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import ClassVar, Protocol, TypeAlias

from ..devices import MemoryTable
from ..errors import InputError
from ..spaces import CostTable, SearchSpace


class InfeasibleError(InputError):
    """No network is within the limits. The message names the limit, and the least value that a network reaches."""


class Profile(Protocol):
    """What a search needs of a device profile."""
    @property
    def name(self) -> str: ...

    def cost_table(self, space: SearchSpace) -> CostTable:
        """The latencies of a space, in ms."""

    def resolutions(self, space: SearchSpace) -> Sequence[int]:
        """The resolutions of a space (px) whose latencies are known."""


@dataclass(frozen=True)
class Limit:
    """At most `max_ms` on the device of `profile`."""
    profile: Profile
    max_ms: float

    def tabulate(self, space: SearchSpace) -> CostTable:
        """The costs of a space."""
        return self.profile.cost_table(space)

    @property
    def maximum(self) -> float:
        return self.max_ms

    def text(self, cost: float) -> str:
        """A cost with its unit, for messages."""
        return f'{cost:.4g} ms on {self.profile.name}'


@dataclass(frozen=True)
class _MaxSum:
    """At most `maximum` of a quantity that adds up over the rows of a network."""
    maximum: float
    quantity: ClassVar[str]  # a field of Row
    unit: ClassVar[str]  # millions of the quantity

    def tabulate(self, space: SearchSpace) -> CostTable:
        return space.cost_table(attrgetter(self.quantity))

    def text(self, cost: float) -> str:
        return f'{cost / 1e6:.4g} {self.unit}'


class MaxMacs(_MaxSum):
    """At most `maximum` multiply-accumulates, e.g. 600e6."""
    quantity, unit = 'macs', 'M MACs'


class MaxParams(_MaxSum):
    """At most `maximum` parameters, e.g. 8e6."""
    quantity, unit = 'params', 'M parameters'


@dataclass(frozen=True)
class MaxMemory:
    """At most `max_mb` MB (1e6 bytes) of peak memory in float32, as `peak_memory_mb` computes it."""
    max_mb: float
    batch_size: int = 1

    def tabulate(self, space: SearchSpace) -> MemoryTable:
        return MemoryTable.of(space, self.batch_size)

    @property
    def maximum(self) -> float:
        return self.max_mb

    def text(self, cost: float) -> str:
        return f'{cost:.4g} MB of memory'


AnyLimit: TypeAlias = Limit | MaxMacs | MaxParams | MaxMemory
