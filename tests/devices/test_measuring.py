"""Which clock times a run."""
import itertools

import pytest

from timm_ofa.devices import measuring
from timm_ofa.devices.measuring import needs_wall_clock


@pytest.mark.parametrize('step_s, threads, processor, wall', [
    (1e-6, 1, 'cpu', False), (1e-6, 2, 'cpu', True), (1e-6, 1, 'cuda', True), (1 / 64, 1, 'cpu', True)])
def test_cpu_time_is_read_where_it_says_something_and_its_clock_is_fine(monkeypatch, step_s, threads, processor, wall):
    ticks = itertools.count()
    monkeypatch.setattr(measuring.time, 'process_time', lambda: (next(ticks) // 3) * step_s)
    assert needs_wall_clock(threads, processor) is wall
