"""Conditions: what a latency depends on besides the network. Latencies, limits and names compare only through them."""
from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, fields

from ..fields import SLUG, number, slug, text
from ..runtimes import DEFAULT
from ..spaces import SearchSpace

UNKNOWN = 'unknown'  # in place of a runtime, a version or a precision that nobody told
PRECISIONS = ('fp32', 'fp16', 'bf16', 'int8', UNKNOWN)
PROCESSORS = ('cpu', 'cuda')  # the usual providers: the device tells which of them it is
VERSION = ('runtime_version',)  # not part of a limit, which holds for the version that is installed


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """The conditions of a latency. None and 'unknown' stand for what nobody told."""
    device: str = text(SLUG.pattern, 60)
    runtime: str = text(SLUG.pattern, 60)
    runtime_version: str = text(default=UNKNOWN)
    provider: str | None = text(default=None)  # 'cpu', 'cuda', or the runtime's name of another one
    precision: str = text(SLUG.pattern, 20, default=UNKNOWN)
    threads: int | None = number(1, default=None)
    batch_size: int = number(1, default=1)  # images that take the latency together
    num_classes: int | None = number(1, default=None)

    def differences(self, other: Conditions, but: Collection[str] = VERSION) -> list[str]:
        """The fields, except `but`, that are not the same in `other`, in words."""
        return [f'{f.name} {_told(self, f.name)}, not {_told(other, f.name)}' for f in fields(self)
                if f.name not in but and getattr(self, f.name) != getattr(other, f.name)]

    def unknown_fields(self, but: Collection[str] = VERSION) -> list[str]:
        """The fields, except `but`, that are not known."""
        return [f.name for f in fields(self) if f.name not in but and getattr(self, f.name) in (None, UNKNOWN)]

    def setting(self, num_classes: int | None = None) -> list[str]:
        """Runtime, provider, precision, threads, batch and classes in words.

        What nobody told is left out. So are a usual provider, and the classes if they are `num_classes`.
        """
        version = [] if self.runtime_version == UNKNOWN else [self.runtime_version]
        runtime = 'unknown runtime' if self.runtime == UNKNOWN else self.runtime
        precision = [] if self.precision == UNKNOWN else [self.precision]
        threads = [f'{self.threads} thread{"s" * (self.threads > 1)}'] if self.threads else []
        classes = [] if self.num_classes in (None, num_classes) else [f'{self.num_classes} classes']
        return [' '.join([runtime, *version]), *self._provider(), *precision, *threads,
                f'batch {self.batch_size}', *classes]

    def variant(self, num_classes: int | None = None) -> list[str]:
        """The parts of a name that tell these conditions from usual ones: fp32, 1 thread, batch 1, `num_classes`."""
        precision = [] if self.precision in ('fp32', UNKNOWN) else [self.precision]
        threads = [] if self.threads in (1, None) else [f'{self.threads}t']
        batch = [] if self.batch_size == 1 else [f'b{self.batch_size}']
        classes = [] if self.num_classes in (None, num_classes) else [f'c{self.num_classes}']
        return [*map(slug, self._provider()), *precision, *threads, *batch, *classes]

    def _provider(self) -> list[str]:
        return [] if self.provider is None or self.provider in PROCESSORS else [self.provider]

    def profile_name(self, space: SearchSpace, *ends: str) -> str:
        """The name of a profile: device, runtime, space, and what is not usual."""
        return slug(' '.join([self.device, self.runtime, space.name, *self.variant(space.num_classes), *ends]))

    def network_name(self, family: str, limit: str) -> str:
        """A name in timm's style, e.g. 'ofa_mbv3_amd_epyc_int8_lat2ms'; the classes are those of the network."""
        runtime = [] if self.runtime in (DEFAULT, UNKNOWN) else [self.runtime]
        parts = [family, self.device, *runtime, *self.variant(self.num_classes), limit]
        return '_'.join(re.sub('[-.]', '_', part) for part in parts)


def _told(conditions: Conditions, name: str) -> str:
    value = getattr(conditions, name)
    return UNKNOWN if value is None else str(value)
