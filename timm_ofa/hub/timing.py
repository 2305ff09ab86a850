"""A limit is kept by measuring: the chosen network is timed whole; if it is over the limit, the next one is tried."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..devices import PROCESSORS, DeviceProfile, measure_network, this_device, times_warm
from ..errors import InputError
from ..searching import Candidate, within
from ..spaces import Arch, SearchSpace
from .fronts import predicted_ms


@dataclass(frozen=True)
class Attempt:
    """A candidate that was timed whole, and what `measure_network` gave for it."""
    candidate: Candidate
    measured: dict  # empty: it was not timed

    @property
    def measurements(self) -> list[dict]:
        """What was measured, as a record takes it."""
        return [self.measured] if self.measured else []


class NotWithin(InputError):
    """No network of a front was measured within the limit; `attempts` are those that were tried."""

    def __init__(self, max_latency_ms: float, attempts: Sequence[Attempt]) -> None:
        tried = (f'; the last of {len(attempts)} tried takes {attempts[-1].measured["latency_ms"]:.4g} ms'
                 if attempts else '')
        super().__init__(
            f'no network of the front is measured within {max_latency_ms:g} ms{tried}; raise the limit')
        self.attempts = attempts


def meet_limit(front: Sequence[Candidate], max_latency_ms: float, measure: Callable[[Arch], dict],
               max_attempts: int = 10) -> list[Attempt]:
    """Measure the best candidate under the limit. While it is over the limit, tighten this and take the next best.

    The last that is tried is the fastest one. Returns all attempts; the last one is within the limit. Raises
    `NotWithin` if none of them is.
    """
    attempts: list[Attempt] = []
    bound, left = max_latency_ms, [c for c in front if within(predicted_ms(c), max_latency_ms)]
    while left and len(attempts) < max_attempts:
        fitting = [c for c in left if within(predicted_ms(c), bound)]
        best = max(fitting, key=lambda c: c.top1_pct) if fitting else min(left, key=predicted_ms)
        attempts.append(Attempt(best, measure(best.arch)))
        measured_ms = attempts[-1].measured['latency_ms']
        if within(measured_ms, max_latency_ms):
            return attempts
        bound = tighter_limit(predicted_ms(best), measured_ms, max_latency_ms)
        left = [c for c in left if predicted_ms(c) < predicted_ms(best)]
    raise NotWithin(max_latency_ms, attempts)


def tighter_limit(expected_ms: float, measured_ms: float, max_latency_ms: float) -> float:
    """The limit on predictions to search under next, after a network of `expected_ms` was measured over the limit."""
    return expected_ms * min(0.999, max_latency_ms / measured_ms)


def arch_timer(space: SearchSpace, profile: DeviceProfile, num_classes: int | None = None,
               seconds: float = 2.0) -> Callable[[Arch], dict]:
    """A function that times an arch on this machine under the conditions of `profile`.

    `num_classes` are those of the network, by default those of the profile. Raises `InputError` if the profile is of
    another device, or does not tell its conditions.
    """
    under = profile.conditions
    provider = under.provider or 'cpu'
    here = 'cpu' if provider == 'cuda' and not torch.cuda.is_available() else this_device(provider)[0]
    cure = 'leave out measuring here (--no-measure)'
    if under.device != here:
        raise InputError(f'profile {profile.name!r} is of {under.device}, this machine is {here}; {cure}')
    if unknown := under.unknown_fields(('runtime_version', 'provider')):
        raise InputError(f'profile {profile.name!r} does not tell its {", ".join(unknown)}; make it again with what is '
                         f'missing, or {cure}')
    if provider not in PROCESSORS:
        raise InputError(f'profile {profile.name!r} is of {provider}, which is not measured here; {cure}')
    num_classes = num_classes or profile.num_classes
    warm = times_warm(space, num_classes)
    return lambda arch: measure_network(
        space.rows(arch, num_classes), profile.runtime, warm=warm, precision=profile.precision,
        threads=profile.threads or 1, batch_size=profile.batch_size, processor=provider, seconds=seconds)
