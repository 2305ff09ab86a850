"""Latencies of a network as its record tells them: measured, or priced by a profile."""
from __future__ import annotations

import re
from datetime import date

from ..devices import DeviceProfile
from ..fields import check_slug, slug
from ..searching import Candidate
from ..spaces import Arch
from .fronts import predicted_ms
from .record import Measurement, Record

DATE = re.compile(r'\d{4}-\d\d-\d\d')


def prediction(candidate: Candidate, profile: DeviceProfile) -> Measurement:
    """The price of a candidate by a profile, as a latency of a record."""
    return Measurement(
        device=profile.device, device_name=profile.device_name, runtime=slug(profile.runtime),
        runtime_version=profile.runtime_version, precision=slug(profile.precision), threads=profile.threads,
        batch_size=profile.batch_size, resolution=candidate.arch.resolution,
        latency_ms=round(predicted_ms(candidate), 6), statistic='price by the device profile', source='predicted',
        date=profile.measured_on if DATE.fullmatch(profile.measured_on) else None)


def with_measured(record: Record, measured: dict, device: str, device_name: str) -> list[Measurement]:
    """The latencies of a record with a new one, which replaces the last one measured in the same setting.

    `measured` is what `measure_network` or a kit gave.
    """
    check_slug(device, 'device')
    new = measurement(measured, device, device_name, record.arch)

    def setting(m: Measurement) -> tuple:
        return m.device, m.runtime, m.precision, m.threads, m.batch_size, m.source

    return [*(m for m in record.measurements if setting(m) != setting(new)), new]


def measurement(measured: dict, device: str, device_name: str, arch: Arch) -> Measurement:
    """What `measure_network` or a kit gave, as a latency of a record."""
    known = {k: v for k, v in measured.items() if k != 'host'}
    return Measurement(
        device=device, device_name=device_name, resolution=arch.resolution, source='measured',
        date=date.today().isoformat(), **known)
