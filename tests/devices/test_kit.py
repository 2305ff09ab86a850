"""The kit: made here, run where there is neither torch nor timm, and brought back."""
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from timm_ofa.cli.command import main
from timm_ofa.devices import measuring
from timm_ofa.devices.kit import export_kit, export_network_kit, import_kit, import_network_kit
from timm_ofa.devices.plan import make_plan
from timm_ofa.devices.profile import load_profile
from timm_ofa.devices.profiler import measure_network
from timm_ofa.errors import InputError
from timm_ofa.spaces.shelf import load_space

SPACE = load_space('ofa_mbv3_tiny')
OPTIONS = dict(resolutions=[20, 32], check_nets=3, num_classes=7, seed=4)
BLOCKED = ('torch', 'timm', 'timm_ofa', 'onnx', 'tqdm')
BARE = f"""
import sys, runpy
for name in {BLOCKED}:
    sys.modules[name] = None  # importing it fails
sys.argv, sys.path[0] = sys.argv[1:], sys.argv[1].rpartition('/')[0]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def run_kit(folder, *options, without=''):
    """The script of a kit, in an interpreter that lacks what a device lacks, and one package more."""
    env = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    return subprocess.run(
        [sys.executable, '-W', 'error', '-c', f'import sys; sys.modules[{without!r}] = None\n{BARE}',
         str(folder / 'run_kit.py'), '--seconds', '0.5', *options],
        env=env, cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return export_kit(tmp_path_factory.mktemp('kit') / 'new', SPACE, **OPTIONS)


@pytest.fixture(scope='module')
def results(folder):
    done = run_kit(folder)
    assert done.returncode == 0, done.stderr
    return folder / 'results.json'


@pytest.fixture
def changed(results, tmp_path):
    """A function that writes the results with one change, and gives the path."""
    def write(change):
        data = json.loads(results.read_text())
        change(data)
        (tmp_path / 'changed.json').write_text(json.dumps(data))
        return tmp_path / 'changed.json'
    return write


def test_the_results_come_back_as_a_profile_that_orders_networks(results, tmp_path):
    profile = import_kit(results, device='my-phone', device_name='My Phone')
    assert (profile.device, profile.device_name, profile.runtime) == ('my-phone', 'My Phone', 'onnxruntime')
    assert profile.resolutions(SPACE) == (20, 32) and profile.num_classes == 7 and profile.check['n'] == 9
    small_ms, large_ms = profile.latency_ms(SPACE, [SPACE.min_arch(32), SPACE.max_arch(32)])
    assert 0 < 1.3 * small_ms < large_ms
    profile.save(tmp_path / 'phone.json')
    assert load_profile(tmp_path / 'phone.json') == profile


def test_a_kit_is_light_and_its_networks_stay_in_the_range_of_numbers(folder):
    import onnxruntime

    weights = (folder / 'networks' / 'weights.bin').stat().st_size
    assert sum(path.stat().st_size for path in (folder / 'networks').iterdir()) < 2e6 + weights
    listing = json.loads((folder / 'list.json').read_text())
    groups = make_plan(SPACE, [20, 32], 7, 3, seed=4).groups
    assert {name: len(files) for name, files in listing['groups'].items()} == {k: len(v) for k, v in groups.items()}
    for file in listing['groups']['32']:
        session = onnxruntime.InferenceSession(folder / file)
        shape = session.get_inputs()[0].shape
        y, = session.run(None, {'x': np.random.default_rng(0).standard_normal(shape, np.float32)})
        assert np.isfinite(y).all() and 1e-4 < np.abs(y).max() < 1e4


def test_an_interrupted_run_goes_on_and_an_incomplete_file_is_refused(folder, results, changed):
    before = json.loads(results.read_text())
    path = changed(lambda data: data['groups'].pop('32'))
    with pytest.raises(InputError, match=r'resolution 32 is not measured; run run_kit.py again'):
        import_kit(path, device='my-phone')
    done = run_kit(folder, '--out', str(path))
    after = json.loads(path.read_text())
    assert done.returncode == 0 and list(after['groups']) == ['20', '32']
    assert after['groups']['20'] == before['groups']['20'] and after['groups']['32'] != before['groups']['32']


@pytest.mark.parametrize('options, message', [
    (['--threads', '2'], 'another task (threads differs)'), (['--threads', '0'], '--threads 0 is too small'),
    (['--provider', 'Abacus'], "provider 'Abacus' is not in this onnxruntime"),
    (['--provider', 'AzureExecutionProvider'], "provider 'AzureExecutionProvider' runs no node of the network"),
    (['--out', 'missing/results.json'], "--out 'missing/results.json' cannot be written"),
    (['--seconds', 'nan'], '--seconds nan is not a number above 0'), (['--seconds', 'inf'], '--seconds inf is not'),
    (['--seconds', '0'], '--seconds 0.0 is not a number above 0'),
    (['--out', 'networks'], "--out 'networks' cannot be written"),
    (['--runtime', 'openvino'], "runtime 'openvino' is not installed; run: pip install openvino")])
def test_the_script_says_in_one_line_what_is_wrong(folder, results, options, message):
    import onnxruntime

    if options[-1].startswith('Azure') and options[-1] not in onnxruntime.get_available_providers():
        pytest.skip('this onnxruntime has no provider that leaves all nodes to the CPU')
    before = results.stat().st_mtime_ns
    done = run_kit(folder, *options, without='openvino')
    assert done.returncode == 1 and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert results.stat().st_mtime_ns == before and not (folder / 'missing').exists()


@pytest.mark.parametrize('found, recorded', [
    ({'Xnnpack'}, 'Xnnpack'), ({'CPU', 'Xnnpack'}, 'Xnnpack+CPU'), ({'CPU'}, None)])
def test_the_providers_of_the_nodes_are_recorded(monkeypatch, found, recorded):
    monkeypatch.syspath_prepend(Path(measuring.__file__).parent)
    own_providers = importlib.import_module('run_kit').own_providers
    events = [{'cat': 'Session', 'args': {}}, *({'cat': 'Node', 'args': {'provider': name}} for name in found)]
    if recorded:
        assert own_providers(events, 'Xnnpack') == recorded
    else:
        with pytest.raises(SystemExit, match="'Xnnpack' runs no node of the network, CPU does; leave --provider out"):
            own_providers(events, 'Xnnpack')


def test_figures_of_two_providers_keep_apart(results, changed):
    usual = import_kit(results, device='my-phone')
    other = import_kit(changed(lambda data: data['task'].update(processor='XnnpackExecutionProvider', wall=True)),
                       device='my-phone')
    assert usual.conditions.differences(other.conditions) == ['provider cpu, not XnnpackExecutionProvider']
    assert other.name == usual.name.replace('-tiny', '-tiny-xnnpackexecutionprovider') != usual.name


def test_the_date_is_that_of_the_measurement(network, results, changed, tmp_path):
    assert import_kit(changed(lambda d: d.update(measured_on='2024-05-31')), device='x').measured_on == '2024-05-31'
    rows, file = network
    data = {**json.loads(file.read_text()), 'measured_on': '2024-05-30'}
    (tmp_path / 'network.json').write_text(json.dumps(data))
    assert import_network_kit(tmp_path / 'network.json', rows)['date'] == '2024-05-30'


def test_openvino_measures_a_kit_too(tmp_path):
    pytest.importorskip('openvino')
    rows = SPACE.rows(SPACE.min_arch(20))
    folder = export_network_kit(tmp_path / 'kit', rows)
    done = run_kit(folder, '--runtime', 'openvino', '--provider', 'Abacus')
    assert done.returncode == 1 and "'Abacus' is not in this openvino; choose from CPU" in done.stderr
    assert run_kit(folder, '--runtime', 'openvino').returncode == 0
    found = import_network_kit(folder / 'results.json', rows)
    assert (found['runtime'], found['provider']) == ('openvino', 'cpu') and found['runtime_version'][:2] == '20'


def test_an_int8_kit_measures_another_profile(tmp_path):
    folder = export_kit(tmp_path / 'kit', SPACE, resolutions=[20], check_nets=1, precision='int8', batch_size=2)
    assert run_kit(folder).returncode == 0
    profile = import_kit(folder / 'results.json', device='my-phone')
    assert profile.name == 'my-phone-onnxruntime-ofa-mbv3-tiny-int8-b2'


@pytest.mark.parametrize('change, message', [
    (lambda d: d['groups']['20']['low_ms'].pop(), r'group 20 has \d+ times for \d+ graphs'),
    (lambda d: d['groups']['20']['low_ms'].__setitem__(3, -1.0), 'low_ms: -1.0 is not a number'),
    (lambda d: d['groups']['32']['p50_ms'].__setitem__(0, float('nan')), 'p50_ms: nan is not a number'),
    (lambda d: d['groups']['32'].update(low_ms=[0.0] * len(d['groups']['32']['low_ms'])), 'takes no time'),
    (lambda d: d['groups']['32']['low_ms'].__setitem__(0, 0.0), 'group 32: graph 0 takes no time'),
    (lambda d: d['groups']['32'].update(p50_ms=[1e-9] * len(d['groups']['32']['p50_ms'])), 'low_ms is above p50_ms'),
    (lambda d: d['groups']['32'].update(reference_ms=[1.0]), 'needs 2 entries'),
    (lambda d: d['groups']['32'].update(n=1), 'n: 1 is not a whole number from 20'),
    (lambda d: d['task'].update(threads=8), 'threads 8 on cpu are not timed by CPU time'),
    (lambda d: d['task'].update(processor='XnnpackExecutionProvider'), 'on XnnpackExecutionProvider are not timed'),
    (lambda d: d['task'].update(processor='</table>'), 'processor: .* does not match'),
    (lambda d: d['task'].update(precision='</table>'), 'precision: .* choose from fp32, fp16, int8'),
    (lambda d: d['task'].update(precision='fp16'), "precision 'fp16' is not one of onnxruntime; choose from fp32"),
    (lambda d: d['task'].update(runtime='<b>'), 'runtime: .* choose from onnxruntime, openvino'),
    (lambda d: d['task'].update(space='ofa_resnet_tiny'), 'resolution 20|graphs|is not that of the kit'),
    (lambda d: d['task'].update(space='ofa_mbv3_none'), 'ofa_mbv3_none'),
    (lambda d: d['task'].update(seed=5), 'graphs .* is not that of the kit'),
    (lambda d: d['task'].update(check_nets=10**9), 'check_nets'),
    (lambda d: d['task'].update(resolutions=[21]), '21'),
    (lambda d: d['task'].update(warm=False), 'warm False is not that of the kit'),
    (lambda d: d['task'].pop('threads'), "'threads' is missing"),
    (lambda d: d.update(format=2), 'format: 2'),
    (lambda d: d.update(measured_on='yesterday'), 'measured_on'),
    (lambda d: d.update(more=1), "'more' is unknown"),
])
def test_results_that_were_tampered_with_are_refused(changed, change, message):
    with pytest.raises(InputError, match=message):
        import_kit(changed(change), device='my-phone')


@pytest.fixture(scope='module')
def network(tmp_path_factory):
    """(rows, results) of a kit of one network."""
    rows = SPACE.rows(SPACE.max_arch(), 7)
    folder = export_network_kit(tmp_path_factory.mktemp('network') / 'kit', rows, seed=3)
    assert run_kit(folder).returncode == 0
    return rows, folder / 'results.json'


def test_the_kit_of_a_network_gives_what_measuring_it_here_gives(network):
    rows, results = network
    found, here = import_network_kit(results, rows), measure_network(rows, sweeps=20)
    assert found.keys() == here.keys() - {'p90_ms', 'energy_mj'} | {'date'}
    same = ('statistic', 'runtime', 'provider', 'precision', 'threads', 'batch_size', 'host')
    assert {k: found[k] for k in same} == {k: here[k] for k in same}
    assert 0.5 < found['latency_ms'] / here['latency_ms'] < 2


@pytest.mark.parametrize('change, message', [
    (lambda d: d['task'].update(graphs='0' * 64), 'graphs .* is not that of this network'),
    (lambda d: d['groups'].clear(), 'the network is not measured'),
    (lambda d: d['groups']['network']['low_ms'].pop(), r'has \d+ times for \d+ graphs'),
    (lambda d: d['groups']['network']['low_ms'].__setitem__(-1, 0.0), 'takes no time'),
    (lambda d: d['task'].update(space='ofa_mbv3_tiny'), "'space' is unknown")])
def test_results_of_a_network_that_do_not_fit_are_refused(network, tmp_path, change, message):
    rows, results = network
    data = json.loads(results.read_text())
    change(data)
    (tmp_path / 'changed.json').write_text(json.dumps(data))
    with pytest.raises(InputError, match=message):
        import_network_kit(tmp_path / 'changed.json', rows)


def test_the_files_of_a_network_compute_what_it_computes(tmp_path):
    import onnxruntime
    import torch

    from timm_ofa.runtimes.torch_export import to_torch

    rows = SPACE.rows(SPACE.min_arch())
    folder = export_network_kit(tmp_path / 'kit', rows, seed=3)
    file = json.loads((folder / 'list.json').read_text())['groups']['network'][-1]
    x = np.random.default_rng(0).standard_normal((1, 3, rows[0].size, rows[0].size), np.float32)
    y, = onnxruntime.InferenceSession(folder / file).run(None, {'x': x})
    np.testing.assert_allclose(y, to_torch(rows, seed=3)(torch.from_numpy(x)).numpy(), atol=1e-5)


def test_what_is_no_results_file_is_refused(tmp_path):
    (tmp_path / 'torn.json').write_text('{')
    for name in ('torn.json', 'none.json'):
        with pytest.raises(InputError, match='cannot be read; give the file that run_kit'):
            import_kit(tmp_path / name, device='my-phone')


def test_a_kit_is_not_written_over_anything(tmp_path):
    (tmp_path / 'mine.txt').write_text('')
    with pytest.raises(InputError, match='is not an empty folder; give a new one'):
        export_kit(tmp_path, SPACE)
    with pytest.raises(InputError, match='batch_size 0'):
        export_kit(tmp_path / 'new', SPACE, batch_size=0)
    for name in ('check_nets', 'fitted_nets'):  # its results would be refused
        with pytest.raises(InputError, match=f'{name} 1001 is more than a kit runs; give 1000 or less'):
            export_kit(tmp_path / 'new', SPACE, **{name: 1001})
    with pytest.raises(InputError, match="precision 'bf16' is not one of onnxruntime"):
        export_kit(tmp_path / 'new', SPACE, precision='bf16')
    assert not (tmp_path / 'new').exists()


def command(capsys, *options):
    """(exit status, stdout, last line of stderr) of `timm-ofa profile`."""
    status = main(['profile', *map(str, options)])
    out, err = capsys.readouterr()
    return status, out, err.strip().splitlines()[-1] if err.strip() else ''


def test_the_command_makes_a_kit_and_takes_its_results(capsys, tmp_path):
    folder, out = tmp_path / 'kit', tmp_path / 'phone.json'
    status, _, remark = command(
        capsys, '--space', 'ofa_mbv3_tiny', '--resolutions', 20, '--num-classes', 7, '--export-kit', folder)
    assert status == 0 and 'python run_kit.py' in remark
    assert run_kit(folder).returncode == 0
    status, table, _ = command(
        capsys, '--import-kit', folder / 'results.json', '--device', 'my-phone', '--out', out, '--format', 'json')
    row, = json.loads(table)
    assert status == 0 and row['device'] == 'my-phone' and row['rows'] == len(load_profile(out).table)


def test_the_command_measures_in_another_precision_and_batch_size(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, 'MIN_SWEEPS', 2)
    space, out = tmp_path / 'space.json', tmp_path / 'cpu.json'
    space.write_text(json.dumps(SPACE.restrict(depths=[1], kernel_sizes=[3]).to_dict()))
    status, _, _ = command(
        capsys, '--space', space, '--resolutions', 20, '--runtime', 'pytorch', '--precision', 'bf16',
        '--batch-size', 2, '--seconds', 1, '--out', out)
    profile = load_profile(out)
    assert status == 0 and (profile.precision, profile.batch_size) == ('bf16', 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['cpu.json', 'space.json']


@pytest.mark.parametrize('options, message', [
    (['--space', 'ofa_mbv3_tiny'], '--out is missing'),
    (['--out', 'OUT'], '--space is missing'),
    (['--export-kit', 'OUT'], '--space is missing'),
    (['--import-kit', 'none.json', '--out', 'OUT'], '--device is missing'),
    (['--import-kit', 'none.json', '--device', 'my-phone', '--out', 'OUT'], "'none.json' cannot be read"),
    (['--export-kit', 'OUT', '--import-kit', 'none.json'], '--import-kit is not read with --export-kit'),
    (['--space', 'ofa_mbv3_tiny', '--export-kit', 'OUT', '--runtime', 'pytorch'], "'pytorch' does not fit the kit"),
    (['--space', 'ofa_mbv3_tiny', '--precision', 'fp64', '--out', 'OUT'], "--precision: 'fp64' is unknown"),
])
def test_the_command_refuses_in_one_line_what_does_not_fit(capsys, tmp_path, options, message):
    status, out, error = command(capsys, *(tmp_path / 'new.json' if o == 'OUT' else o for o in options))
    assert status == 2 and message in error and not out and not list(tmp_path.iterdir())
