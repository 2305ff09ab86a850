"""Which clock times a run."""
import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from timm_ofa.devices import measuring
from timm_ofa.devices.measuring import Timing, measure, needs_wall_clock, summary


@pytest.mark.parametrize('step_s, threads, processor, wall', [
    (1e-6, 1, 'cpu', False), (1e-6, 2, 'cpu', True), (1e-6, 1, 'cuda', True), (1 / 64, 1, 'cpu', True)])
def test_cpu_time_is_read_where_it_says_something_and_its_clock_is_fine(monkeypatch, step_s, threads, processor, wall):
    ticks = itertools.count()
    monkeypatch.setattr(measuring.time, 'process_time', lambda: (next(ticks) // 3) * step_s)
    assert needs_wall_clock(threads, processor) is wall


@pytest.mark.parametrize('warm, expected_ms', [(True, 3.0), (False, 9.0)])
def test_a_warm_visit_is_the_better_one_of_two_runs_after_one_that_does_not_count(monkeypatch, warm, expected_ms):
    now_s, durations = [0.0], itertools.cycle([9e-3, 3e-3, 5e-3] if warm else [9e-3])
    monkeypatch.setattr(
        measuring, 'time', SimpleNamespace(process_time=lambda: now_s[0], perf_counter=lambda: now_s[0]))

    def run():
        if next(first, None) is None:  # the very first run only allocates
            now_s[0] += next(durations)
    first = iter([0])
    timing = measure([run], warm=warm, sweeps=4)
    assert timing.samples_ms == pytest.approx(np.full((1, 4), expected_ms))


def test_the_summary_has_the_percentiles_that_it_names():
    timing = Timing(np.arange(101.0)[None])
    assert summary(timing) == {
        'low_ms': [5.0], 'p50_ms': [50.0], 'n': 101, 'noise_pct': 1000.0, 'reference_ms': [2.5, 52.5]}
