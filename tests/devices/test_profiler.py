"""Measuring: the arithmetic with a fake runtime and clock, then one small real profile."""
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from timm_ofa.devices import measuring, profiler, rowprices
from timm_ofa.devices.measuring import Timing, measure
from timm_ofa.devices.plan import is_warm, make_plan, times_warm
from timm_ofa.devices.profile import load_profile
from timm_ofa.devices.profiler import measure_network, profile_by_networks, profile_into, profile_space, this_device
from timm_ofa.errors import InputError
from timm_ofa.fields import SLUG
from timm_ofa.hub.timing import arch_timer
from timm_ofa.spaces.shelf import load_space

SPACE = load_space('ofa_mbv3_tiny')
START_MS = 0.25


@pytest.fixture
def fake(monkeypatch):
    """A runtime on which every row costs its MACs and a bit for its map, on a clock that only runs advance."""
    now_s = [0.0]

    def row_ms(row):
        return row.size**2 * row.in_chs * 1e-6 if row.kind == 'mean' else row.macs * 1e-6 + 0.01

    def load(rows, **kwargs):
        def run():
            now_s[0] += (START_MS + sum(map(row_ms, rows))) / 1e3
        return run

    kit = SimpleNamespace(NAME='fake', version=lambda: '1', load=load)
    monkeypatch.setattr(profiler, 'load_runtime', lambda name, precision, processor: kit)
    monkeypatch.setattr(profiler, 'needs_wall_clock', lambda threads, processor: threads > 1 or processor != 'cpu')
    monkeypatch.setattr(
        measuring, 'time', SimpleNamespace(process_time=lambda: now_s[0], perf_counter=lambda: now_s[0]))
    return SimpleNamespace(kit=kit, network_ms=lambda rows: START_MS + sum(map(row_ms, rows)))


@pytest.mark.parametrize('name', ['ofa_mbv3_tiny', 'ofa_proxyless_w13', 'ofa_resnet_tiny', 'ofa_resnet50d'])
def test_on_an_additive_device_the_profile_is_exact(fake, name, rng):
    space = load_space(name)
    space = space.restrict(resolutions=space.resolutions[:3])
    profile = profile_space(name, 'fake', device='toy', resolutions=space.resolutions, sweeps=2, progress=False)
    archs = space.sample(rng, 30)
    latency_ms = profile.latency_ms(space, archs)
    np.testing.assert_allclose(latency_ms, [fake.network_ms(space.rows(arch)) for arch in archs], rtol=1e-3)
    np.testing.assert_allclose(profile.cost_table(space)(space.encode(archs)), latency_ms)
    assert profile.scale == pytest.approx(1, abs=1e-3) and profile.overhead_ms == pytest.approx(START_MS, abs=1e-4)
    assert profile.check['mape_pct'] < 0.1
    assert profile.check['n'] == sum(e['n'] for group, e in profile.errors(space).items() if group != 'fitted') >= 30
    assert profile.resolutions(load_space(name)) == space.resolutions


@pytest.mark.parametrize('choices', [1, 2])
def test_a_space_of_one_network_or_two_has_a_profile_and_claims_no_held_out_error(fake, choices):
    space = SPACE.restrict(depths=[1], kernel_sizes=[3], expand_ratios=[2, 4][:choices], resolutions=[24])
    space = replace(space, stages=(space.stages[0], *(replace(s, expand_ratios=(2,)) for s in space.stages[1:])))
    assert space.size() == choices
    profile = profile_space(space, 'fake', device='toy', sweeps=2, progress=False)
    archs = [space.min_arch(), space.max_arch()]
    assert profile.check is None and len([*profile.networks['fitted']]) == choices
    np.testing.assert_allclose(
        profile.latency_ms(space, archs), [fake.network_ms(space.rows(arch)) for arch in archs], rtol=1e-2)


def test_a_resolution_that_was_measured_too_slow_is_corrected_by_networks(fake):
    def slower_rows(rows, **kwargs):
        extra = 0.03 * sum(row.macs for row in rows[1:2]) if rows[0].size in sizes and len(rows) == 3 else 0.0
        run, wait = load(rows, **kwargs), load([SimpleNamespace(kind='wait', macs=extra - 1e4 - 1e6 * START_MS)])
        return (lambda: (run(), wait())) if extra else run

    load, fake.kit.load = fake.kit.load, slower_rows
    sizes = {row.size for row in SPACE.all_rows(28, 10)} - {row.size for row in SPACE.all_rows(24, 10)}
    profile = profile_space(SPACE, 'fake', sweeps=2, progress=False)
    corrected = dict(zip(SPACE.resolutions, map(float, profile.protocol['corrected_pct'].split())))
    assert min(corrected, key=corrected.get) == 28 and corrected[28] < -0.8


def test_what_weights_cost_in_a_network_and_not_in_a_probe_is_learned_from_networks(fake, monkeypatch):
    def slow_weights_in_networks(rows, **kwargs):
        run, is_network = load(rows, **kwargs), rows[-1].kind == 'head' and len(rows) > 2
        macs = 0.6 * sum(row.params for row in rows) - 1e4 - 1e6 * START_MS
        wait = load([SimpleNamespace(kind='wait', macs=macs)])
        return (lambda: (run(), wait())) if is_network else run

    load, fake.kit.load = fake.kit.load, slow_weights_in_networks
    found = profile_space(SPACE, 'fake', sweeps=2, progress=False)
    monkeypatch.setattr(rowprices, 'WEIGHT_SHARE', 1e-9)
    scaled = profile_space(SPACE, 'fake', sweeps=2, progress=False)
    assert found.protocol['share_by_weights'] > 0.01 and scaled.protocol['share_by_weights'] == 0
    assert found.check['mape_pct'] < scaled.check['mape_pct'] / 1.5


def test_twenty_whole_networks_make_a_profile_that_prices_others(fake):
    space = load_space('ofa_mbv3_w10')
    profile = profile_by_networks(
        space, 20, 'fake', device='toy', resolutions=[160, 192], batch_size=8, sweeps=2, random_nets=30, progress=False)
    assert profile.name == 'toy-fake-ofa-mbv3-w10-b8' and profile.resolutions(space) == (160, 192)
    assert {name: len(group) for name, group in profile.networks.items()} == {
        'fitted': 20, 'random': 30, 'corners': 12, 'skewed': 12}
    assert profile.check['n'] == 54 and profile.check['mape_pct'] < 0.5 and profile.check['kendall_tau'] > 0.98
    assert profile.protocol['sweeps'] == 2 and 'ms per operator' in profile.protocol
    with pytest.raises(InputError, match='fitted_nets 9 is too small; give 10 or more'):
        profile_by_networks(space, 9, 'fake')
    small = SPACE.restrict(depths=[1], kernel_sizes=[3], expand_ratios=[2], resolutions=[24])
    with pytest.raises(InputError, match='has too few networks to fit prices on 10 of them; measure every row'):
        profile_by_networks(small, 20, 'fake')


class Stopped(Exception):
    pass


def test_an_interrupted_profile_goes_on_where_it_stopped(fake, tmp_path):
    def profile(load, **kwargs):
        fake.kit.load = load
        return profile_into(tmp_path / 'p.json', SPACE, runtime='fake', sweeps=3, progress=False, **kwargs)

    def load_until_the_second_resolution(rows, **kwargs):
        if rows[0].size == SPACE.resolutions[1] and len(rows) == 2:
            raise Stopped
        return load(rows, **kwargs)

    def load_and_count(rows, **kwargs):
        loaded.append(rows)
        return load(rows, **kwargs)

    load, loaded = fake.kit.load, []
    with pytest.raises(Stopped):
        profile(load_until_the_second_resolution)
    assert list(json.loads((tmp_path / 'p.json.partial').read_text())['groups']) == [str(SPACE.resolutions[0])]
    with pytest.raises(InputError, match=r'another task \(threads differs\); remove it'):
        profile(load, threads=2)
    found = profile(load_and_count)
    assert [path.name for path in tmp_path.iterdir()] == ['p.json'] and load_profile(tmp_path / 'p.json') == found
    groups = make_plan(SPACE).groups
    assert len(loaded) == sum(map(len, groups.values())) - len(groups[str(SPACE.resolutions[0])])
    assert found.table == profile_space(SPACE, 'fake', sweeps=3, progress=False).table


@pytest.mark.parametrize('kwargs, name', [
    ({}, 'toy-fake-ofa-mbv3-tiny'),
    (dict(precision='int8', threads=2, batch_size=8), 'toy-fake-ofa-mbv3-tiny-int8-2t-b8')])
def test_precision_threads_and_batch_size_make_another_profile(fake, kwargs, name):
    asked = []

    def load(rows, **kwargs):
        asked.append(kwargs)
        return fake_load(rows, **kwargs)

    fake_load, fake.kit.load = fake.kit.load, load
    profile = profile_space(SPACE, 'fake', device='toy', resolutions=[32], sweeps=2, progress=False, **kwargs)
    wanted = {**dict(precision='fp32', threads=1, batch_size=1), **kwargs}
    assert profile.name == name
    assert {field: getattr(profile, field) for field in wanted} == wanted
    assert all(wanted.items() <= given.items() for given in asked)
    assert ('wall' in profile.protocol['statistic']) == (profile.threads > 1)


def test_a_machine_that_slows_down_between_resolutions_is_brought_to_one_pace(fake):
    def slower_at_the_last(rows, **kwargs):
        slow[0] = slow[0] or (rows[0].size == SPACE.resolutions[-1] and len(rows) == 2)
        run = load(rows, **kwargs)
        return lambda: [run() for _ in range(2 if slow[0] else 1)]

    load, slow, fake.kit.load = fake.kit.load, [False], slower_at_the_last
    profile = profile_space(SPACE, 'fake', sweeps=2, progress=False)
    archs = [SPACE.min_arch(max(SPACE.resolutions)), SPACE.max_arch()]
    found_ms, true_ms = profile.latency_ms(SPACE, archs), [fake.network_ms(SPACE.rows(arch)) for arch in archs]
    np.testing.assert_allclose(found_ms, true_ms, rtol=0.01)
    assert profile.check['mape_pct'] < 1 and profile.protocol['drift_pct'] > 50


def test_a_drifting_machine_is_told_from_a_steady_one(fake):
    def slower_after_a_while(rows, **kwargs):
        def run_twice():
            runs.append(1)
            run()
            if len(runs) > 2000:
                run()

        run = load(rows, **kwargs)
        return run_twice

    load, runs = fake.kit.load, []
    steady = profile_space(SPACE, 'fake', sweeps=4, progress=False).protocol
    assert steady['drift_pct'] == pytest.approx(0, abs=1e-3) and steady['noise_pct'] == pytest.approx(0, abs=1e-3)
    fake.kit.load = slower_after_a_while
    assert profile_space(SPACE, 'fake', sweeps=4, progress=False).protocol['drift_pct'] == pytest.approx(100, rel=0.01)


def test_time_left_is_shown_to_a_terminal_alone(monkeypatch, capsys):
    monkeypatch.delenv('TIMM_OFA_PROGRESS', raising=False)
    monkeypatch.setattr(measuring, 'time', SimpleNamespace(perf_counter=iter([0.0, 0.0, 30.0]).__next__))
    monkeypatch.setattr(measuring.sys.stderr, 'isatty', lambda: True, raising=False)
    show = measuring.Progress()
    show('160', 0.5)  # done before, by an earlier run
    show('192', 0.75)
    assert capsys.readouterr().err.strip() == '192:  75 %, 0:30 left'


def test_resolutions_and_classes_are_those_asked_for(fake):
    profile = profile_space(SPACE, 'fake', resolutions=[24], num_classes=7, sweeps=2, check_nets=2, progress=False)
    assert profile.resolutions(SPACE) == (24,) and profile.num_classes == 7
    assert '3x3x240/head_c320_nhs_7' in profile.table


def test_a_measured_network_costs_what_the_fake_says(fake):
    rows = SPACE.rows(SPACE.max_arch(32))
    result = measure_network(rows, 'fake', sweeps=3)
    assert result['latency_ms'] == pytest.approx(fake.network_ms(rows), rel=1e-4)
    assert result['p90_ms'] == pytest.approx(result['p50_ms']) and result['n'] == 9


def test_random_sweeps_visit_every_runner_once_and_repeat_with_the_seed():
    def order(seed):
        seen = []
        measure([lambda i=i: seen.append(i) for i in range(5)], warm=False, sweeps=4, seed=seed)
        return np.reshape(seen[10:], (4, 5))

    sweeps = order(1)
    assert (np.sort(sweeps) == np.arange(5)).all()
    assert (sweeps == order(1)).all() and (sweeps != order(2)).any()


def test_small_networks_are_timed_warm_and_large_ones_cold():
    large = load_space('ofa_mbv3_w10')
    assert is_warm(SPACE.rows(SPACE.max_arch())) and not is_warm(large.rows(large.min_arch()))


def test_all_networks_of_a_space_are_timed_in_one_way(monkeypatch):
    """A small one of a space with large ones is predicted cold, so it is measured cold."""
    space = load_space('ofa_mbv3_32px')
    small, asked = space.min_arch(), []
    assert is_warm(space.rows(small)) and not times_warm(space)
    monkeypatch.setattr(profiler, 'measure', lambda runners, *, warm, **_: asked.append(warm) or Timing(
        np.ones((len(runners), 3))))
    profile = load_profile('amd-epyc-onnxruntime-ofa-mbv3-32px')
    monkeypatch.setattr('timm_ofa.hub.timing.this_device', lambda processor: (profile.device, ''))
    assert arch_timer(space, profile)(small)['latency_ms'] == 1
    measure_network(space.rows(small))
    assert asked == [False, True]


@pytest.mark.parametrize('kwargs, message', [
    (dict(resolutions=[33]), 'resolutions 33 is not in ofa_mbv3_tiny; the nearest is 32, choose from 20'),
    (dict(threads=0), 'threads 0 is too small'),
    (dict(batch_size=0), 'batch_size 0 is too small'),
    (dict(precision='fp64'), "precision 'fp64' is not one of onnxruntime; choose from fp32, int8"),
    (dict(processor='npu'), "processor 'npu' is not one of onnxruntime; choose from cpu, cuda"),
    (dict(check_nets=0), 'check_nets 0 is too small'),
    (dict(device='My Phone'), "device: 'My Phone' is not a slug"),
    (dict(runtime='tensorrt'), "runtime 'tensorrt' is not known"),
])
def test_a_wrong_input_is_refused_before_anything_is_measured(monkeypatch, kwargs, message):
    monkeypatch.setattr(profiler, 'measure_groups', lambda *args, **kwargs: pytest.fail('measured'))
    with pytest.raises(InputError, match=message):
        profile_space(SPACE, **kwargs)


def test_this_device_is_a_slug_and_a_name():
    slug, name = this_device()
    assert SLUG.fullmatch(slug) and name


@pytest.mark.parametrize('name, resolution', [('ofa_mbv3_tiny', 32), ('ofa_resnet_tiny', 20)])
def test_a_real_profile_is_saved_loaded_and_orders_networks(name, resolution, tmp_path):
    space = load_space(name)
    profile = profile_space(space, resolutions=[resolution], sweeps=20, check_nets=6, progress=False)
    profile.save(tmp_path / 'mine.json')
    assert load_profile(tmp_path / 'mine.json') == profile
    assert profile.check['kendall_tau'] > 0.3  # wide: other work may share the machine
    small, large = space.min_arch(resolution), space.max_arch(resolution)
    small_ms, large_ms = profile.latency_ms(space, [small, large])
    assert 0 < 1.3 * small_ms < large_ms
    measured = measure_network(space.rows(large), sweeps=20)
    assert large_ms / 2 < measured['latency_ms'] < 2 * large_ms
