"""Few-shot profiles: counting work, prices that no latency contradicts, slow moments, real devices."""
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from timm_ofa.devices import fewshot
from timm_ofa.devices.fewshot import fit_prices
from timm_ofa.devices.profile import DeviceProfile, latency_error, load_profile
from timm_ofa.devices.work import UNITS, network_work, operators, work
from timm_ofa.errors import InputError
from timm_ofa.spaces.arch import Arch
from timm_ofa.spaces.shelf import load_space, space_names

LAUNCH = {'operator': 0.05, 'squeeze-excite': 0.2, 'shortcut': 0.03, 'GMAC pointwise': 0.1, 'GMAC depthwise': 1.0}
STREAM = {'GMAC pointwise': 20.0, 'GMAC dense': 15.0, 'GMAC depthwise': 300.0, 'G values read': 150.0,
          'G values written': 100.0, 'G weights': 200.0}


@pytest.fixture(scope='module')
def space():
    return load_space('ofa_mbv3_w10')


@pytest.fixture(scope='module')
def archs(space):
    return space.sample(np.random.default_rng(0), 120)


def latencies(space, archs, ms_per, noise=0.0, seed=0):
    """What a device with these prices takes, in ms."""
    prices = np.array([ms_per.get(unit, 0.0) for unit in UNITS])
    return network_work(space, archs) @ prices * np.exp(np.random.default_rng(seed).normal(0, noise, len(archs)))


def fitted(space, archs, latency_ms, **kwargs):
    return DeviceProfile.fit(space, archs, latency_ms, device='my-phone', runtime='tflite', **kwargs)


@pytest.mark.parametrize('name', space_names())
def test_work_counts_the_macs_and_weights_of_every_row(name):
    space = load_space(name)
    for row in space.all_rows(space.resolutions[0]):
        macs, weights = (sum(getattr(step, field) for step in operators(row)) for field in ('macs', 'weights'))
        assert row.macs - macs == (2 * row.mid_chs * row.se_chs if row.se_chs else 0), row.key
        assert 0 <= row.params - weights <= 12 * max(row.in_chs, row.out_chs, row.mid_chs), row.key  # BN, biases
        amounts = dict(zip(UNITS, work(row)))
        assert len(work(row)) == len(UNITS) and min(work(row)) >= 0
        assert amounts['G weights'] == pytest.approx(weights / 1e9)
        assert amounts['network'] == 0 < amounts['operator'] and amounts['shortcut'] == (row.skip or
                                                                                         row.kind == 'bottle')


@pytest.mark.parametrize('seed', range(20))
def test_exact_latencies_give_the_true_prices_back_where_nothing_else_is_expected(seed, monkeypatch):
    monkeypatch.setattr(fewshot, 'SHARE', 1e3)
    rng = np.random.default_rng(seed)
    amounts, prices = rng.uniform(size=(30, len(UNITS))), rng.uniform(size=len(UNITS)) * rng.integers(0, 2, len(UNITS))
    found = fit_prices(amounts, amounts @ prices + 1e-9)
    np.testing.assert_allclose(found.ms, prices, atol=1e-3)
    assert (found.ms >= 0).all()


def test_a_unit_is_expected_to_make_up_nothing_give_or_take_thirty_percent():
    """With work of one unit only, the fit is a few lines of arithmetic."""
    amounts, rng = np.zeros((12, len(UNITS))), np.random.default_rng(0)
    amounts[:, 1] = rng.uniform(1, 3, 12)
    latency_ms = amounts[:, 1] * rng.uniform(0.5, 1.5, 12)
    part = amounts[:, 1] / latency_ms
    scale, weight, variance = part.mean(), np.ones(12), 0.05**2
    for _ in range(fewshot.ROUNDS):
        share = weight @ part / scale / (weight @ (part / scale)**2 + variance / 0.3**2)
        error = part / scale * share - 1
        variance = weight @ error**2 / 11
        weight = 4 / (3 + error**2 / variance)
    found = fit_prices(amounts, latency_ms)
    assert found.ms[1] == pytest.approx(share / scale) and found.noise == pytest.approx(variance**0.5)
    assert not np.delete(found.ms, 1).any()


@pytest.mark.parametrize('ms_per', [LAUNCH, STREAM], ids=['launch-bound', 'throughput-bound'])
def test_twenty_networks_price_the_others(space, archs, ms_per):
    measured_ms = latencies(space, archs, ms_per, noise=0.01)
    profile = fitted(space, archs[:20], measured_ms[:20])
    error = latency_error(measured_ms[20:], profile.latency_ms(space, archs[20:]))
    assert error['within_10_pct'] == 100 and error['mape_pct'] < 2
    assert profile.check['n'] == 20 and profile.check['mape_pct'] < 4
    corners = [space.min_arch(128), space.max_arch(128), space.min_arch(224), space.max_arch(224)]
    truth_ms = latencies(space, corners, ms_per)
    np.testing.assert_allclose(profile.latency_ms(space, corners), truth_ms, rtol=0.1)


def test_slow_moments_pull_little(space, archs):
    truth_ms = latencies(space, archs, LAUNCH)
    slowed_ms = truth_ms * np.where(np.arange(len(archs)) % 6 == 0, 1.3, 1.0)
    profile = fitted(space, archs[:24], slowed_ms[:24])
    error = latency_error(truth_ms[24:], profile.latency_ms(space, archs[24:]))
    assert error['mape_pct'] < 1.5
    assert profile.check['mape_pct'] > 3  # what was measured is said as it was


@pytest.mark.parametrize('factor', [1e-3, 0.01, 0.2, 5.0, 1e3])
@pytest.mark.parametrize('ms_per', [LAUNCH, STREAM], ids=['launch-bound', 'throughput-bound'])
def test_a_latency_in_another_unit_is_named_and_does_no_harm(space, archs, ms_per, factor, caplog):
    truth_ms, measured_ms = latencies(space, archs, ms_per), latencies(space, archs, ms_per, noise=0.02)
    measured_ms[7] *= factor
    profile = fitted(space, archs[:30], measured_ms[:30])
    error = latency_error(truth_ms[30:], profile.latency_ms(space, archs[30:]))
    assert error['mape_pct'] < 2 and profile.check['n'] == 29 and profile.check['mape_pct'] < 4
    assert profile.protocol['left_out'] == 1 and f'of arch {archs[7]} is far from' in caplog.text
    caplog.clear()
    assert 'left_out' not in fitted(space, archs[:30], truth_ms[:30]).protocol and not caplog.text
    with pytest.raises(InputError, match='9 measured networks are too few; measure at least 10'):
        fitted(space, archs[:10], measured_ms[:10])


def test_the_check_tells_a_device_that_cannot_be_priced(space, archs):
    noise_ms = np.random.default_rng(3).uniform(1, 10, 40)
    assert fitted(space, archs[:40], noise_ms).check['mape_pct'] > 30


def test_a_network_measured_twice_is_held_out_twice(space, archs):
    """What one of its measurements says does not reach the fit that prices the other."""
    amounts, measured_ms = network_work(space, archs[:12] * 2), np.random.default_rng(3).uniform(1, 10, 24)
    predicted_ms = fewshot.predict_held_out(amounts, measured_ms)
    np.testing.assert_array_equal(predicted_ms[:12], predicted_ms[12:])
    assert len(set(predicted_ms)) == 12
    assert fitted(space, archs[:12] * 2, measured_ms).check['n'] == 24


@pytest.mark.parametrize('name', space_names())
def test_a_fitted_profile_prices_the_whole_space_by_table_and_by_row_alike(name, tmp_path):
    space = load_space(name)
    rng = np.random.default_rng(1)
    known, others = space.sample(rng, 15), space.sample(rng, 40)
    profile = fitted(space, known, latencies(space, known, {**LAUNCH, **STREAM}, noise=0.03))
    assert profile.resolutions(space) == space.resolutions
    latency_ms = profile.latency_ms(space, others)
    np.testing.assert_allclose(profile.cost_table(space)(space.encode(others)), latency_ms)
    assert all(cost.ms >= 0 and cost.n == 15 for cost in profile.table.values())
    smallest_ms, largest_ms = profile.latency_ms(space, [space.min_arch(), space.max_arch()])
    assert 0 < smallest_ms <= latency_ms.min() <= latency_ms.max() <= largest_ms
    for px in space.extra_resolutions:
        assert profile.latency_ms(space, [space.max_arch(px)]) > 0
    profile.save(tmp_path / 'fitted.json')
    assert load_profile(tmp_path / 'fitted.json') == profile


@pytest.mark.parametrize('seed', range(6))
def test_whatever_was_measured_rows_cost_at_least_nothing_and_networks_something(space, archs, seed):
    rng = np.random.default_rng(seed)
    known = [archs[i] for i in rng.permutation(len(archs))[:12]]
    profile = fitted(space, known, np.exp(rng.normal(0, 2, 12)))
    assert min(cost.ms for cost in profile.table.values()) >= 0
    assert profile.latency_ms(space, [space.min_arch(), *archs]).min() > 0


def test_one_more_block_a_larger_kernel_and_more_channels_never_cost_less(space, archs):
    profile = fitted(space, archs[:20], latencies(space, archs[:20], STREAM, noise=0.05))
    for arch in archs[20:40]:
        larger = replace(
            arch, kernel_size=((7,) * 4, *arch.kernel_size[1:]), expand_ratio=((6,) * 4, *arch.expand_ratio[1:]))
        smaller_ms, larger_ms = profile.latency_ms(space, [arch, larger])
        assert larger_ms >= smaller_ms


def test_the_same_measurements_give_the_same_profile_in_any_order(space, archs):
    known, measured_ms = archs[:20], latencies(space, archs[:20], STREAM, noise=0.02)
    profile = fitted(space, known, measured_ms)
    assert profile == fitted(space, iter(known), measured_ms.tolist())
    turned = fitted(space, known[::-1], measured_ms[::-1])
    np.testing.assert_allclose(turned.latency_ms(space, archs), profile.latency_ms(space, archs), rtol=1e-4)


def test_twice_as_slow_is_twice_the_price(space, archs):
    measured_ms = latencies(space, archs[:20], STREAM, noise=0.02)
    one, two = (fitted(space, archs[:20], factor * measured_ms) for factor in (1, 2))
    np.testing.assert_allclose(two.latency_ms(space, archs), 2 * one.latency_ms(space, archs), rtol=1e-4)


def test_a_fitted_profile_says_how_it_came_about(space, archs):
    profile = fitted(
        space, archs[:20], latencies(space, archs[:20], STREAM), device_name='My Phone', runtime_version='2.3',
        precision='int8', threads=4, batch_size=8, measured_on='2026-11-22', num_classes=10, statistic='median',
        source='a friend')
    assert (profile.device, profile.device_name, profile.runtime) == ('my-phone', 'My Phone', 'tflite')
    assert (profile.precision, profile.threads, profile.batch_size, profile.num_classes) == ('int8', 4, 8, 10)
    assert profile.protocol['networks'] == 20 and profile.protocol['statistic'] == 'median'
    assert {f'ms per {unit}' for unit in UNITS} < set(profile.protocol)
    assert any(key.endswith('_10') for key in profile.table) and profile.source == 'a friend'
    assert profile.name == 'my-phone-tflite-ofa-mbv3-w10-int8-4t-b8-c10-fitted'
    small = fitted(space, archs[:20], latencies(space, archs[:20], STREAM), resolutions=[128], processor='NNAPI')
    assert small.resolutions(space) == (128,) and small.conditions.provider == 'NNAPI'
    with pytest.raises(InputError, match=r'resolutions 129 is not in .* nearest is 128'):
        fitted(space, archs[:10], [1.0] * 10, resolutions=[129])
    with pytest.raises(InputError, match="precision: 'banana' is unknown; choose from fp32"):
        fitted(space, archs[:10], [1.0] * 10, precision='banana')
    with pytest.raises(InputError, match="device: 'My Phone' is not a slug"):
        DeviceProfile.fit(space, archs[:10], [1.0] * 10, device='My Phone', runtime='tflite')


@pytest.mark.parametrize('latency_ms, message', [
    ([1.0] * 9, r'shape \(9,\), archs are 10'), ([[1.0]] * 10, r'shape \(10, 1\)'),
    (['fast'] * 10, 'is not a list of numbers'), ([1.0] * 9 + [-1], r'latency_ms -1.0 of arch r\d+:k.* is not within'),
    ([1.0] * 9 + [math.nan], 'latency_ms nan'), ([1.0] * 9 + [math.inf], 'latency_ms inf'),
    ([1.0] * 9 + [0], 'latency_ms 0.0 of arch')])
def test_latencies_that_cannot_be_are_refused(space, archs, latency_ms, message):
    with pytest.raises(InputError, match=message):
        fitted(space, archs[:10], latency_ms)


def test_too_few_networks_and_those_of_another_space_are_refused(space, archs):
    with pytest.raises(InputError, match='9 measured networks are too few; measure at least 10'):
        fitted(space, archs[:9], [1.0] * 9)
    with pytest.raises(InputError, match='9 measured networks are too few'):
        fitted(space, archs[:9] * 2, [1.0] * 18)
    with pytest.raises(InputError, match='is not in ofa_mbv3_tiny'):
        fitted(load_space('ofa_mbv3_tiny'), archs[:10], [1.0] * 10)


# ---- real devices -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('device, bar_pct', [
    ('titan_rtx_64', 98.5), ('v100_64', 98.5), ('titan_rtx_1', 87.5), ('v100_1', 85.0)])
def test_twenty_networks_price_a_gpu(shared, space, device, bar_pct):
    records = [json.loads(line) for line in
               (shared / 'archives' / 'ofa_mbv3_w1.0_latency.jsonl').read_text().splitlines()]
    measured_ms = np.array([r.pop('latency_ms')[device] for r in records])
    amounts = network_work(space, [Arch.from_dict(r) for r in records])
    shares = []
    for split in range(5):
        order = np.random.default_rng(split).permutation(len(records))
        predicted_ms = amounts[order[20:]] @ fit_prices(amounts[order[:20]], measured_ms[order[:20]]).ms
        shares.append(latency_error(measured_ms[order[20:]], predicted_ms)['within_10_pct'])
    assert np.mean(shares) >= bar_pct


def test_twenty_networks_nearly_give_back_the_published_table_of_a_phone():
    space, published = load_space('ofa_mbv3_w12'), load_profile('note10')
    phone = space.restrict(resolutions=published.resolutions(space))
    known, others = (phone.sample(np.random.default_rng(seed), n) for seed, n in ((0, 20), (1, 100)))
    profile = fitted(space, known, published.latency_ms(space, known))
    others += [space.min_arch(160), space.max_arch(160), space.min_arch(224), space.max_arch(224)]
    truth_ms, found_ms = (p.latency_ms(space, others) for p in (published, profile))
    error = latency_error(truth_ms, found_ms)
    assert error['within_10_pct'] == 100 and error['mape_pct'] < 2 and error['kendall_tau'] > 0.95
