"""Latencies of a network as its record tells them: measured, priced by a profile, or published by its authors."""
from __future__ import annotations

from dataclasses import replace
from datetime import date

from ..devices import UNKNOWN, Conditions, DeviceProfile
from ..fields import check_slug
from ..searching import Candidate, within
from ..spaces import Arch
from .configs import NamedSubnet
from .fronts import predicted_ms
from .record import Measurement, Record
from .timing import tighter_limit


def measurement(measured: dict, device: str, device_name: str, arch: Arch) -> Measurement:
    """What `measure_network` or a kit gave, as a latency of a record; the date is today's if nothing tells it."""
    check_slug(device, 'device')
    known = {'date': date.today().isoformat(), **{k: v for k, v in measured.items() if k != 'host'}}
    return Measurement(
        device=device, device_name=device_name, resolution=arch.resolution, source='measured', **known)


def prediction(candidate: Candidate, profile: DeviceProfile, num_classes: int) -> Measurement:
    """The price of a candidate with `num_classes` by a profile, as a latency of a record."""
    under = profile.conditions
    if under.num_classes == num_classes:
        under = replace(under, num_classes=None)
    return Measurement(
        **vars(under), device_name=profile.device_name, resolution=candidate.arch.resolution,
        latency_ms=round(predicted_ms(candidate), 6), statistic='price by the device profile', source='predicted',
        date=None if profile.measured_on == UNKNOWN else profile.measured_on)


def published(subnet: NamedSubnet) -> tuple[Measurement, ...]:
    """The latency that the authors of a released network published, which its name says; under which conditions, they
    did not tell."""
    if subnet.device is None or subnet.latency_ms is None or subnet.search:
        return ()
    return (Measurement(
        device=subnet.device, device_name=subnet.device, runtime=UNKNOWN, runtime_version=UNKNOWN, precision=UNKNOWN,
        batch_size=subnet.latency_batch_size, resolution=subnet.arch.resolution, latency_ms=subnet.latency_ms,
        statistic='as published', source='published'),)


def with_measured(record: Record, new: Measurement) -> list[Measurement]:
    """The latencies of a record and a new one, which takes the place of those under the same conditions."""
    def place(m: Measurement) -> tuple[Conditions, str]:
        return record.conditions_of(m), m.source

    return [*(m for m in record.measurements if place(m) != place(new)), new]


def beside_limit(record: Record, new: Measurement) -> str:
    """What a new latency says of the record's limit; nothing if it is within, or if there is no limit.

    A latency is judged only under the conditions of the limit.
    """
    under, mine = record.searched_under, record.conditions_of(new)
    if record.limit_ms is None or record.predicted_ms is None:
        return ''
    apart = ['conditions are not told'] if under is None else [
        *(f'{name} is not told' for name in under.unknown_fields()), *mine.differences(under)]
    if under is None or apart:
        words = '' if under is None else f' for {under.device}, {", ".join(under.setting(record.num_classes))}'
        return f'not compared with the limit of {record.limit_ms:g} ms{words}: {"; ".join(apart)}'
    if within(new.latency_ms, record.limit_ms):
        return ''
    bound_ms = tighter_limit(record.predicted_ms, new.latency_ms, record.limit_ms)
    return f'over the limit of {record.limit_ms:g} ms; search again with --max-latency-ms {bound_ms:.4g}'
