"""Device profiles: prices, refusals, files, and the published note10 tables."""
import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.stats import kendalltau

from timm_ofa.devices.note10 import _upstream_keys, import_note10_tables
from timm_ofa.devices.profile import DeviceProfile, RowCost, kendall_tau, latency_error, load_profile, profile_names
from timm_ofa.errors import InputError
from timm_ofa.spaces.shelf import load_space, space_names

HUB_CONFIGS = Path(__file__).resolve().parents[2] / 'hub_configs'


@pytest.fixture(scope='module')
def space():
    return load_space('ofa_mbv3_tiny')


def toy_profile(space, resolutions):
    """Prices every row by its MACs."""
    rows = [row for resolution in resolutions for row in space.all_rows(resolution)]
    return DeviceProfile(
        name='toy', space=space.name, device='toy-phone', device_name='Toy Phone', runtime='none', runtime_version='1',
        precision='fp32', threads=1, batch_size=1, measured_on='2024-05-31', num_classes=space.num_classes,
        overhead_ms=0.5, scale=2.0, table={row.key: RowCost(row.macs / 1e6, None, 3) for row in rows},
        protocol={'statistic': 'none', 'sweeps': 3},
        check=dict(mape_pct=1.0, within_5_pct=100.0, within_10_pct=100.0, kendall_tau=0.9, n=12), source='a test')


@pytest.fixture(scope='module')
def profile(space):
    return toy_profile(space, (20, 32))


def test_a_network_costs_overhead_plus_scaled_rows(space, profile, rng):
    archs = [replace(arch, resolution=32) for arch in space.sample(rng, 20)]
    expected = [0.5 + 2 * space.macs(arch) / 1e6 for arch in archs]
    np.testing.assert_allclose(profile.latency_ms(space, archs), expected)
    assert profile.latency_ms(space, []).shape == (0,)


@pytest.mark.parametrize('name', space_names())
def test_every_space_is_priced_row_by_row_and_by_table_alike(name, rng):
    space = load_space(name)
    profile = toy_profile(space, space.resolutions[1:3])
    small = space.restrict(resolutions=profile.resolutions(space))
    archs = small.sample(rng, 50)
    latency_ms = profile.latency_ms(space, archs)
    np.testing.assert_allclose(latency_ms, [0.5 + 2 * space.macs(arch) / 1e6 for arch in archs])
    np.testing.assert_allclose(profile.cost_table(small)(small.encode(archs)), latency_ms)


def test_resolutions_are_those_fully_priced(space, profile):
    assert profile.resolutions(space) == (20, 32)
    key = space.all_rows(32)[5].key
    assert replace(profile, table={k: v for k, v in profile.table.items() if k != key}).resolutions(space) == (20,)


def test_what_was_never_measured_is_refused_by_name(space, profile):
    arch = space.max_arch(24)
    with pytest.raises(InputError, match=r'arch r24:.*row 24x24x3/cn_r1_k3_s1_c16_nhs was not measured on toy'):
        profile.latency_ms(space, [arch])
    with pytest.raises(InputError, match='row 24x24x3/cn'):
        profile.cost_table(space)
    with pytest.raises(InputError, match='prices ofa_mbv3_tiny, not ofa_mbv3_w10'):
        profile.latency_ms(load_space('ofa_mbv3_w10'), [])
    with pytest.raises(InputError, match='pass a list'):
        profile.latency_ms(space, space.max_arch(32))


def test_an_entry_for_one_resolution_goes_before_the_plain_one(space, profile):
    row = space.all_rows(32)[0]
    own = replace(profile, table={**profile.table, f'{row.key}@32': RowCost(7.0, None, 1)})
    arch = space.max_arch(32)
    change_ms = own.latency_ms(space, [arch]) - profile.latency_ms(space, [arch])
    assert change_ms == pytest.approx(2 * (7 - row.macs / 1e6))


def test_save_and_load_are_inverse_and_a_row_is_a_line(profile, tmp_path):
    path = tmp_path / 'new' / 'toy.json'
    profile.save(path)
    assert load_profile(path) == profile and load_profile(str(path)) == profile and load_profile(profile) is profile
    lines = path.read_text().splitlines()
    assert sum('/' in line and line.startswith('    "') for line in lines) == len(profile.table)
    assert [p.name for p in path.parent.iterdir()] == ['toy.json']
    data = json.loads(path.read_text())
    assert (data['unit'], data['format']) == ('ms', 1)


KEY = '32x32x3/cn_r1_k3_s1_c16_nhs'


@pytest.mark.parametrize('field, value, message', [
    ('unit', 'us', "unit: 'us' must be 'ms'"),
    ('format', 2, 'format: 2 must be 1'),
    ('format', True, 'format: True must be 1'),
    ('device', 'My Phone', "device: 'My Phone' is not a slug"),
    ('device', '-phone', 'is not a slug'),
    ('device_name', 'two\nlines', 'is not one line of text'),
    ('overhead_ms', -1, 'overhead_ms: -1 is not a number from 0'),
    ('overhead_ms', 10**400, 'overhead_ms: 1000'),
    ('scale', math.nan, 'scale: nan is not a number'),
    ('scale', 0, 'scale: 0 is not a number'),
    ('threads', 1.5, 'threads: 1.5 is not a whole number'),
    ('threads', True, 'threads: True is not a whole number'),
    ('measured_on', '31.5.2024', "is not a date like 2024-05-31, nor 'unknown'"),
    ('measured_on', 5, 'is not a date'),
    ('protocol', {'statistic': math.inf}, "protocol: 'statistic': inf"),
    ('protocol', [], r'protocol: \[\] is not an object'),
    ('check', {'mape_pct': 1}, 'check: .* exactly the fields mape_pct'),
    ('networks', {'random': [1]}, r"networks: random: \[1\] is not an object"),
    ('networks', {'random': {'r32': -1}}, "networks: random: r32: -1 is not a number"),
    ('table', {}, r'table: \{\} is not an object of rows'),
    ('table', {KEY: [-1, None, 1]}, f"row '{KEY}': ms: -1 is not a number"),
    ('table', {KEY: [math.nan, None, 1]}, f"row '{KEY}': ms: nan"),
    ('table', {KEY: [True, None, 1]}, f"row '{KEY}': ms: True"),
    ('table', {KEY: [1.0, 'x', 1]}, f"row '{KEY}': p50_ms: 'x'"),
    ('table', {KEY: [1.0, None, 0]}, f"row '{KEY}': n: 0"),
    ('table', {KEY: [1.0, None]}, f"row '{KEY}': \\[1.0, None\\] is not"),
    ('table', {'stem': [1.0, None, 1]}, "row 'stem' is no row key"),
])
def test_a_bad_field_is_refused_by_name(profile, field, value, message):
    data = copy.deepcopy(profile.to_dict()) | {field: value}
    with pytest.raises(InputError, match=message) as error:
        DeviceProfile.from_dict(data)
    assert '\n' not in str(error.value)


def test_whole_networks_tell_the_error_by_group(space, profile):
    archs, truth_ms = [space.min_arch(32), space.max_arch(32)], profile.latency_ms(
        space, [space.min_arch(32), space.max_arch(32)])
    told = replace(profile, networks={
        'random': dict(zip(map(str, archs), 1.25 * truth_ms)), 'corners': dict(zip(map(str, archs), truth_ms))})
    errors = DeviceProfile.from_dict(json.loads(json.dumps(told.to_dict()))).errors(space)
    assert {name: (e['mape_pct'], e['n']) for name, e in errors.items()} == {'random': (20.0, 2), 'corners': (0.0, 2)}
    with pytest.raises(InputError, match="arch 'r33' cannot be read"):
        replace(profile, networks={'random': {'r33': 1.0}}).errors(space)


@pytest.mark.parametrize('name', profile_names())
def test_the_error_that_a_profile_states_is_the_one_on_its_networks(name):
    profile = load_profile(name)
    if not profile.networks:
        pytest.skip(f'{name} was published without')
    space, held_out = load_space(profile.space), {}
    for group, networks in profile.networks.items():
        held_out.update({} if group == 'fitted' else networks)
    archs = [space.parse(text) for text in held_out]
    assert latency_error([*held_out.values()], profile.latency_ms(space, archs)) == profile.check


def test_unknown_and_missing_fields_are_refused_by_name(profile):
    data = profile.to_dict()
    with pytest.raises(InputError, match="'colour' is unknown"):
        DeviceProfile.from_dict(data | {'colour': 1})
    del data['scale']
    with pytest.raises(InputError, match="'scale' is missing"):
        DeviceProfile.from_dict(data)
    with pytest.raises(InputError, match='is not an object'):
        DeviceProfile.from_dict([])


@pytest.mark.parametrize('text, message', [
    ('{', 'is not JSON'), ('[' * 10**5, 'is not JSON'), ('{"a": 1, "a": 2}', "'a' is given twice"),
    ('{' + ''.join(f'"{i}": 0, ' for i in range(10**5)) + '"9": 1}', "'9' is given twice"),  # in one pass
    ('[]', 'is not an object')], ids=['cut', 'deep', 'twin', 'twin of many', 'list'])
def test_a_broken_file_is_one_line_that_names_it(tmp_path, text, message):
    path = tmp_path / 'broken.json'
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        load_profile(path)
    assert 'broken.json' in str(error.value)


def test_an_unknown_profile_lists_the_shelf():
    with pytest.raises(InputError, match=r'choose from .*note10'):
        load_profile('note11')


@pytest.mark.parametrize('name', profile_names())
def test_every_profile_on_the_shelf_prices_its_space(name):
    profile = load_profile(name)
    space = load_space(profile.space)
    assert profile.name == name
    resolution = profile.resolutions(space)[0]
    low_ms, high_ms = profile.latency_ms(space, [space.min_arch(resolution), space.max_arch(resolution)])
    assert 0 < low_ms < high_ms


def test_note10_gives_the_published_latencies(shared):
    profile, space = load_profile('note10'), load_space('ofa_mbv3_w12')
    reference = json.loads((shared / 'upstream' / 'parity' / 'ref_latency_note10.json').read_text())
    pairs = [
        (space.from_upstream({**vector['arch'], 'r': [int(px)]}), ms)
        for vector in reference['vectors'] for px, ms in vector['latency_ms'].items()]
    assert len(pairs) >= 100
    archs, published_ms = zip(*pairs)
    np.testing.assert_allclose(profile.latency_ms(space, archs), published_ms, atol=1e-4)
    assert profile.resolutions(space) == tuple(range(160, 225, 4))


@pytest.mark.parametrize('name, limit_ms', [
    ('ofa_mbv3_note10_lat30ms', 30), ('ofa_mbv3_note10_lat41ms', 41), ('ofa_mbv3_note10_lat50ms', 50)])
def test_note10_prices_the_released_networks_as_they_are_called(name, limit_ms):
    config = yaml.safe_load((HUB_CONFIGS / f'{name}.yaml').read_text())
    space = load_space(config['space'])
    latency_ms, = load_profile('note10').latency_ms(space, [space.parse(config['arch'])])
    assert latency_ms == pytest.approx(limit_ms, rel=0.05)


def test_the_shelf_holds_what_the_importer_makes(shared):
    assert import_note10_tables(shared / 'upstream' / 'note10') == load_profile('note10')


def test_importing_tables_refuses_what_is_not_there(tmp_path):
    with pytest.raises(InputError, match='holds no'):
        import_note10_tables(tmp_path)
    table = tmp_path / '160_lookup_table.yaml'
    for text in ('{}', '[]', 'a: {mean: x}'):
        table.write_text(text)
        with pytest.raises(InputError, match='Conv-input:160x160x3-output:80x80x24 is missing'):
            import_note10_tables(tmp_path)
    table.write_text('!!python/object/apply:os.system [x]')
    with pytest.raises(InputError, match='cannot be read'):
        import_note10_tables(tmp_path)
    table.rename(tmp_path / '161_lookup_table.yaml').write_text('{}')
    with pytest.raises(InputError, match='resolution 161'):
        import_note10_tables(tmp_path)


@pytest.mark.parametrize('cost, message', [
    (dict(mean=math.nan, count=3), 'ms: nan is not a number'), (dict(mean=-1.0, count=3), 'ms: -'),
    (dict(mean=1.0, count=0), 'n: 0 is not a whole number')])
def test_importing_tables_refuses_prices_that_no_profile_can_have(tmp_path, cost, message):
    space = load_space('ofa_mbv3_w12')
    entries = dict.fromkeys((key for row in space.all_rows(160) for key in _upstream_keys(row)), cost)
    (tmp_path / '160_lookup_table.yaml').write_text(yaml.safe_dump(entries))
    with pytest.raises(InputError, match=f'tables {tmp_path.name}: table: row .* {message}'):
        import_note10_tables(tmp_path)


def test_kendall_tau_agrees_with_scipy(rng):
    a, b = rng.integers(0, 6, (2, 40))
    assert kendall_tau(a, b) == pytest.approx(kendalltau(a, b).statistic)
    assert kendall_tau(a, a) == pytest.approx(1)
    assert kendall_tau(a, np.zeros(40)) == 0


def test_latency_error_counts_what_lies_within():
    error = latency_error([1] * 8, [1, 1.04, 0.955, 1.055, 1.09, 0.905, 1.105, 1.21])
    assert error == dict(mape_pct=8.0, within_5_pct=37.5, within_10_pct=75.0, kendall_tau=0.0, n=8)
