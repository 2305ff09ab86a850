"""The kit for Android: made here, run by its script beside a fake adb, and brought back."""
import importlib.util
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import fake_adb
import numpy as np
import pytest

from timm_ofa.cli.command import main
from timm_ofa.devices.kit import export_kit, export_network_kit, import_kit, import_network_kit
from timm_ofa.devices.profile import load_profile
from timm_ofa.errors import InputError
from timm_ofa.spaces.shelf import load_space

SPACE = load_space('ofa_mbv3_tiny')
ROWS = SPACE.rows(SPACE.min_arch(20), 7)
TIMES = """
. "$FAKE_ADB/setup.sh"
echo "$@" >> "$FAKE_ADB/calls"
printf '%s' "$says"
test -z "$fails" || exit 1
size=$(wc -c < "${1#--graph=}")
runs=$(wc -l < "$FAKE_ADB/calls")
low=$((size / 100))
test $runs -lt ${hot_from:-9999} || test $runs -gt ${hot_until:-9999} || low=$((low * 3 / 2))
low=${time_us:-$low}
"""  # a benchmark_model that answers at once, with a time that follows the size of the file
LITERT = f"""
echo "$@" >> "$FAKE_ADB/calls"
low=$({sys.executable} -c '
import sys, time
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(model_path=sys.argv[1].split("=")[1])
interpreter.allocate_tensors()
start = time.perf_counter()
interpreter.invoke()
print(int(1e6 * (time.perf_counter() - start)))
' "$1")
"""  # one that runs the file
ANSWER = """
test -n "$old" || percentiles="p5=$low median=$((low + low / 10)) p95=9999999"
echo "INFO: count=9 first=9 curr=9 min=1 max=9 avg=9.5e+06 std=1 p5=1 median=2 p95=9"
echo "INFO: count=30 first=9 curr=9 min=1 max=9 avg=9.5e+06 std=1 $percentiles"
echo "INFO: Inference timings in us: Init: 9, First inference: 9, Warmup (avg): 9.5e+06, Inference (avg): 9.5e+06"
"""
PROPERTIES = {
    'ro.product.manufacturer': 'Acme', 'ro.product.model': 'Phone <8>', 'ro.board.platform': 'zuma',
    'ro.build.version.release': '16', 'ro.product.cpu.abilist': 'arm64-v8a,armeabi-v7a'}


def program(machine=0xb7):
    """The beginning of a program for a machine."""
    return b'\x7fELF' + bytes(14) + machine.to_bytes(2, 'little') + bytes(40)


class Phone:
    """A fake adb with its device, and a computer that runs the scripts of kits beside it."""

    def __init__(self, home, monkeypatch):
        self.home, self.adb, self.program = home, home / 'bin' / 'adb', home / 'computer' / 'benchmark_model'
        for name in ('bin', 'device', 'computer'):
            (home / name).mkdir()
        self.install(
            adb=f'exec "{sys.executable}" -I "{fake_adb.__file__}" "$@"', benchmark_model=f'{TIMES}{ANSWER}',
            getprop=f'grep "^$1=" "{home}/properties" | cut -d= -f2-',
            taskset='test $1 != ff0 || { echo "taskset: Invalid argument"; exit 1; }; shift; exec "$@"')
        (home / 'properties').write_text('\n'.join(f'{key}={value}' for key, value in PROPERTIES.items()))
        self.program.write_bytes(program())
        monkeypatch.setenv('FAKE_ADB', str(home))
        monkeypatch.setenv('HOME', str(home / 'computer'))
        self.set()

    def install(self, **programs):
        for name, lines in programs.items():
            (self.home / 'bin' / name).write_text(f'#!/bin/sh\n{lines}\n')
            (self.home / 'bin' / name).chmod(0o755)

    def set(self, **setup):
        """What the device is like from now on; it forgets its runs."""
        setup = {'devices': 'A1\tdevice', **setup}
        (self.home / 'setup.json').write_text(json.dumps(setup))
        lines = [f'{name}={shlex.quote(str(value))}' for name, value in setup.items()]
        (self.home / 'setup.sh').write_text('\n'.join(lines))
        (self.home / 'calls').write_text('')

    def runs(self):
        """The flags of each run of benchmark_model, as text."""
        return (self.home / 'calls').read_text().splitlines()

    def graphs(self):
        """The file of each run, but the first, which shows what runs the networks."""
        return [run.split()[0].removeprefix('--graph=') for run in self.runs()[1:]]

    def answer(self, command, timeout, **kwargs):
        """The fake adb in this process, in place of `subprocess.run`, which would take longer."""
        if '--graph' in command[-1] and 'hangs' in json.loads((self.home / 'setup.json').read_text()):
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, *fake_adb.answer(command[1:], self.home))

    def run(self, kit, *options, **constants):
        """What the script of a kit says at its end if it fails; None: it does not. `constants` replace those in it."""
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(kit))
            patch.delitem(sys.modules, 'measuring', raising=False)
            patch.setattr(sys, 'argv', [
                'run_android.py', '--adb', str(self.adb), '--benchmark', str(self.program),
                '--rest', '0', '--rounds', '2', *map(str, options)])
            spec = importlib.util.spec_from_file_location('run_android', kit / 'run_android.py')
            script = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(script)
            vars(script).update(subprocess=SimpleNamespace(**{**vars(subprocess), 'run': self.answer}), **constants)
            try:
                script.main()
            except SystemExit as stop:
                return stop.code
            return None


@pytest.fixture
def phone(tmp_path, monkeypatch):
    return Phone(tmp_path, monkeypatch)


def exported(tmp_path_factory, **options):
    return export_kit(tmp_path_factory.mktemp('kit') / 'new', SPACE, android=True, resolutions=[20], num_classes=7,
                      check_nets=1, seed=4, **options)


@pytest.fixture(scope='module')
def networks_kit(tmp_path_factory):
    return exported(tmp_path_factory, fitted_nets=10)


@pytest.fixture(scope='module')
def network_kit(tmp_path_factory):
    return export_network_kit(tmp_path_factory.mktemp('network') / 'kit', ROWS, android=True)


def listed(kit):
    return json.loads((kit / 'list.json').read_text())


@pytest.fixture(scope='module')
def results(networks_kit, tmp_path_factory):
    """The results of a kit of 13 networks, and the networks in the order in which they ran."""
    with pytest.MonkeyPatch.context() as patch:
        phone = Phone(tmp_path_factory.mktemp('phone'), patch)
        out = phone.home / 'results.json'
        assert phone.run(networks_kit, '--threads', 2, '--cores', 'f0', '--out', out) is None
        assert not [*(phone.home / 'device').iterdir()] and not [*phone.home.glob('*.partial')]
        assert '--num_threads=2 --use_xnnpack=true' in phone.runs()[0]
        return out, phone.graphs()


def groups_of(path):
    return json.loads(path.read_text())['groups']


def test_whole_networks_on_a_phone_make_a_profile(networks_kit, results):
    profile = import_kit(results[0], device='my-phone')
    assert (profile.runtime, profile.precision, profile.threads, profile.batch_size) == ('litert', 'fp32', 2, 1)
    assert profile.conditions.provider == 'cpu.f0' and profile.name == 'my-phone-litert-ofa-mbv3-tiny-cpu.f0-2t-c7'
    assert profile.protocol['host'] == 'Acme Phone 8, zuma, Android 16, arm64-v8a'
    assert profile.protocol['statistic'] == '5th percentile of wall-clock time, warm runs, median of 2 rounds'
    assert profile.protocol['sweeps'] == 60 and profile.runtime_version.startswith('sha256.')
    assert {name: len(group) for name, group in profile.networks.items()} == {
        'fitted': 10, 'random': 1, 'corners': 1, 'skewed': 1}
    files, low_ms = listed(networks_kit)['groups']['networks'], groups_of(results[0])['networks']['low_ms']
    assert low_ms == [(networks_kit / file).stat().st_size // 100 / 1e3 for file in files]
    fitted = profile.networks['fitted']
    assert set(fitted.values()) <= set(low_ms)
    assert np.abs(profile.latency_ms(SPACE, map(SPACE.parse, fitted)) / [*fitted.values()] - 1).max() < 0.2


def test_each_round_has_another_order_with_the_reference_in_between(networks_kit, results):
    *others, reference = listed(networks_kit)['groups']['networks']
    first, rounds = results[1][0], (results[1][1:15], results[1][15:])
    assert first == reference and len(others) == 12 and rounds[0] != rounds[1]
    for ran in rounds:
        assert sorted(ran) == sorted([*others, reference, reference]) and ran[10] == ran[13] == reference


def test_a_run_that_broke_off_goes_on(phone, networks_kit, results, tmp_path):
    out = tmp_path / 'results.json'
    options = '--cores', 'f0', '--out', out, '--threads'
    phone.set(gone_after=20)
    message = phone.run(networks_kit, *options, 2)
    assert message == "the connection broke off (adb: device 'A1' not found); plug the device in, and run the same " \
                      'command again to go on'
    before = phone.graphs()
    assert len(before) == 19 and not out.exists() and not [*(phone.home / 'device').iterdir()]
    phone.set()
    assert 'results of another task (threads differs)' in phone.run(networks_kit, *options, 1)
    phone.set()
    assert phone.run(networks_kit, *options, 2) is None
    assert before[:15] + phone.graphs() == results[1] and groups_of(out) == groups_of(results[0])
    phone.set()
    assert phone.run(networks_kit, *options, 2) is None and not phone.graphs()  # all of it is measured


def test_networks_run_again_when_the_device_was_hot(phone, networks_kit, results, tmp_path):
    out, first, block, later = tmp_path / 'results.json', results[1][:12], results[1][12:15], results[1][15:]
    options = '--threads', 2, '--cores', 'f0', '--out'
    phone.set(hot_from=16, hot_until=17)  # from the reference after the second block to that after the rest
    assert phone.run(networks_kit, *options, out) is None
    assert phone.graphs() == [*first, *block, block[-1], block[-1], *block, *later]
    assert groups_of(out) == groups_of(results[0])
    out = tmp_path / 'again.json'
    phone.set(hot_from=16)
    assert phone.run(networks_kit, *options, out, TRIES=2) == (
        'the device stays 50 % slower than before; let it cool and run the same command again to go on, or allow it '
        'with --max-drift')
    assert phone.graphs() == [*first, *block, block[-1]]
    phone.set(hot_from=1)
    assert phone.run(networks_kit, *options, out, '--max-drift', 60) is None and phone.graphs() == [*block, *later]


@pytest.mark.parametrize('hot', [dict(hot_from=6, hot_until=14), dict(hot_from=1, hot_until=20)])
def test_a_device_that_is_hot_in_the_first_block_changes_no_result(phone, networks_kit, results, tmp_path, hot):
    """It gets hot within the block, or it was hot before and cools down: the reference becomes faster."""
    phone.set(**hot)
    assert phone.run(networks_kit, '--threads', 2, '--cores', 'f0', '--out', tmp_path / 'results.json') is None
    assert groups_of(tmp_path / 'results.json') == groups_of(results[0])
    assert len(phone.graphs()) > len(results[1])


def test_warnings_are_not_what_a_device_says_of_itself(phone, network_kit, tmp_path):
    out = tmp_path / 'results.json'
    warns = 'echo "WARNING: linker: unused entry" >&2'
    phone.install(getprop=f'{warns}; grep "^$1=" "{phone.home}/properties" | cut -d= -f2-')
    assert phone.run(network_kit, '--out', out) is None
    assert json.loads(out.read_text())['task']['host'] == 'Acme Phone 8, zuma, Android 16, arm64-v8a'
    phone.install(getprop=warns)
    assert phone.run(network_kit, '--out', tmp_path / 'more.json') == (
        'the device does not say which programs it runs (ro.product.cpu.abilist=); restart it, and run the same '
        'command again to go on')


@pytest.mark.parametrize('processor, says, recorded', [
    ('gpu', 'VERBOSE: Replacing 49 out of 49 node(s) with delegate (TfLiteGpuDelegateV2) node, yielding 1', 'gpu'),
    ('gpu', 'VERBOSE: Replacing 9 out of 49 node(s) with delegate (TfLiteGpuDelegateV2) node\n'
            'VERBOSE: Replacing 40 out of 49 node(s) with delegate (TfLiteXNNPackDelegate) node', 'gpu+cpu'),
    ('nnapi', 'Explicitly applied NNAPI delegate, and the model graph will be partially executed by the delegate w/ 2',
     'nnapi+cpu'),
    ('gpu', 'Explicitly applied GPU delegate, and the model graph will be completely executed by the delegate.',
     'gpu'),
    ('nnapi', 'VERBOSE: Replacing 31 out of 31 node(s) with delegate (TfLiteNnapiDelegate) node\n'
              'Though NNAPI delegate is explicitly applied, the model graph will not be executed by the delegate.',
     None),
    ('gpu', 'VERBOSE: Replacing 40 out of 49 node(s) with delegate (TfLiteXNNPackDelegate) node', None)])
def test_what_ran_the_network_is_recorded(phone, network_kit, tmp_path, processor, says, recorded):
    phone.set(says=f'{says}\n')
    out = tmp_path / 'results.json'
    message = phone.run(network_kit, '--processor', processor, '--out', out)
    if recorded is None:
        assert message == f'--processor {processor} runs no part of the network on this device; choose another one'
    else:
        assert message is None and import_network_kit(out, ROWS)['provider'] == recorded
        assert f'--use_{processor}=true' in phone.runs()[0]


def test_half_precision_is_asked_for_and_recorded(phone, tmp_path):
    kit = export_network_kit(tmp_path / 'kit', ROWS, android=True, precision='fp16', batch_size=2)
    assert phone.run(kit) is None
    found = import_network_kit(kit / 'results.json', ROWS)
    assert (found['precision'], found['batch_size']) == ('fp16', 2)
    assert '--xnnpack_force_fp16=true' in phone.runs()[0]


@pytest.mark.parametrize('setup, options, message', [
    ({}, ['--adb', 'no-adb'], "--adb 'no-adb' is not found; install the Android platform tools"),
    ({'adb_fails': 1}, [], 'adb does not answer (A1\tdevice); run `adb kill-server`'),
    ({'devices': ''}, [], 'no device is connected; plug one in, and allow USB debugging'),
    ({'devices': 'A1\tunauthorized'}, [], 'device A1 is unauthorized; unlock it, and allow this computer'),
    ({'devices': 'A1\toffline'}, [], 'device A1 is offline; plug it in again'),
    ({'devices': 'A1\tno permissions (are your udev rules wrong?)'}, [], 'device A1 is not open to this user; allow'),
    ({'devices': 'A1\tdevice\nB2\tdevice'}, [], '2 devices are connected; give --serial with one of A1, B2'),
    ({}, ['--serial', 'B2'], 'device B2 is not connected; plug it in again'),
    ({'full': True}, [], 'No space left on device); free storage on it, and run the same command again to go on'),
    ({'fails': True, 'says': 'ERROR: no such operator'}, [],
     'networks/0000.tflite does not run on the device (ERROR: no such operator)'),
    ({}, ['--cores', 'ff0'], 'does not run on the device (taskset: Invalid argument)'),
    ({'hangs': True}, [], 'networks/0000.tflite takes more than 300 s; run the same command again to go on'),
    ({'old': True}, [], 'benchmark_model prints no percentiles (p5=, median=); download a newer one'),
    ({}, ['--benchmark', 'none'], "benchmark_model is not at 'none'; download it (see -h)"),
    ({}, ['--benchmark', __file__], 'is for no machine, the device runs arm64-v8a, armeabi-v7a; download that one'),
    ({}, ['--benchmark', sys.executable], ', the device runs arm64-v8a, armeabi-v7a; download that one'),
    ({}, ['--cores', '0x3'], "--cores '0x3' is not a hexadecimal mask; write it like f0"),
    *(({}, text.split(), '--rounds must be 1 or more') for text in ('--rounds 0', '--rest inf', '--max-drift nan')),
    ({}, ['--threads', '0'], '--threads 0 is too small; give 1 or more'),
    ({}, ['--out', 'missing/results.json'], "--out 'missing/results.json' cannot be written")])
def test_the_script_says_in_one_line_what_is_wrong(phone, network_kit, tmp_path, setup, options, message):
    phone.set(**setup)
    out = tmp_path / 'results.json'
    said = phone.run(network_kit, '--out', out, *options)
    assert message in said and '\n' not in said and not out.exists()
    assert not [*(phone.home / 'device').iterdir()]


def test_ctrl_c_is_one_line(phone, network_kit, tmp_path):
    def pressed(*args):
        raise KeyboardInterrupt

    said = phone.run(network_kit, '--out', tmp_path / 'results.json', measure_kit=pressed)
    assert said == '\nstopped; run the same command again to go on'


def test_no_drift_may_be_allowed(phone, networks_kit, tmp_path):
    assert phone.run(networks_kit, '--out', tmp_path / 'results.json', '--max-drift', 0) is None
    assert 'must be 1 or more' in phone.run(networks_kit, '--out', tmp_path / 'more.json', '--max-drift', -0.5)


def test_a_run_that_takes_no_microsecond_takes_half_a_one(phone, network_kit, tmp_path):
    phone.set(time_us=0)
    out = tmp_path / 'results.json'
    assert phone.run(network_kit, '--out', out) is None
    assert import_network_kit(out, ROWS)['latency_ms'] == 0.0005


def test_litert_runs_the_files_of_a_kit_beside_an_interpreter_without_packages(phone, tmp_path):
    """The benchmark that litert-cli fetched is found. The script has only the standard library."""
    pytest.importorskip('ai_edge_litert')
    import torch
    from ai_edge_litert.interpreter import Interpreter

    from timm_ofa.runtimes.torch_export import to_torch

    kit = export_network_kit(tmp_path / 'kit', ROWS, android=True, seed=3)
    phone.install(benchmark_model=f'{LITERT}{ANSWER}')
    fetched = Path(os.environ['HOME'], '.cache', 'litert-cli', 'binaries', 'arm64-v8a')
    fetched.mkdir(parents=True)
    phone.program.rename(fetched / 'benchmark_model')
    done = subprocess.run(
        [sys.executable, '-S', '-W', 'error', 'run_android.py', '--rounds', '1', '--adb', phone.adb],
        cwd=kit, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert import_network_kit(kit / 'results.json', ROWS)['n'] == 30
    interpreter = Interpreter(model_path=str(kit / listed(kit)['groups']['network'][-1]))
    interpreter.allocate_tensors()
    x = np.random.default_rng(0).standard_normal((1, 3, 20, 20), np.float32)
    interpreter.set_tensor(interpreter.get_input_details()[0]['index'], x.transpose(0, 2, 3, 1))
    interpreter.invoke()
    y = interpreter.get_tensor(interpreter.get_output_details()[0]['index'])
    np.testing.assert_allclose(y, to_torch(ROWS, seed=3)(torch.from_numpy(x)).numpy(), atol=1e-5)


def made_up(kit, **task):
    """Results of a kit, in which a network takes what its file is large, without running it."""
    listing = listed(kit)
    groups = {}
    for name, files in listing['groups'].items():
        low_ms = [(kit / file).stat().st_size / 1e5 for file in files]
        groups[name] = dict(low_ms=low_ms, p50_ms=low_ms, n=60, noise_pct=0.1, reference_ms=[low_ms[-1]] * 2)
    return dict(format=1, measured_on='2024-05-31', groups=groups, task={
        **listing['task'], 'runtime': 'litert', 'runtime_version': 'sha256.0', 'processor': 'cpu', 'threads': 1,
        'wall': True, 'rounds': 5, 'host': 'Acme', **task})


def test_every_row_on_a_phone_makes_a_profile(tmp_path_factory, tmp_path):
    kit = exported(tmp_path_factory)
    assert len(listed(kit)['groups']['20']) == 58
    (tmp_path / 'results.json').write_text(json.dumps(made_up(kit)))
    profile = import_kit(tmp_path / 'results.json', device='my-phone')
    assert profile.resolutions(SPACE) == (20,)
    assert profile.protocol['statistic'].endswith('warm runs, median of 5 rounds')
    small_ms, large_ms = profile.latency_ms(SPACE, [SPACE.min_arch(20), SPACE.max_arch(20)])
    assert 0 < 1.3 * small_ms < large_ms


def test_networks_too_large_for_caches_are_timed_warm_on_a_phone(tmp_path):
    space = load_space('ofa_mbv3_w10')
    rows = space.rows(space.min_arch(160))
    kit = export_network_kit(tmp_path / 'kit', rows, android=True, warm=False)
    (tmp_path / 'results.json').write_text(json.dumps(made_up(kit)))
    assert 'warm' in import_network_kit(tmp_path / 'results.json', rows)['statistic']


@pytest.mark.parametrize('change, message', [
    (dict(precision='int8'), "precision 'int8' is not one of litert; choose from fp32, fp16"),
    (dict(fitted_nets=11), 'graphs .* is not that of the kit'), (dict(fitted_nets=9), 'fitted_nets: 9'),
    (dict(warm=False), 'warm False is not that of the kit'), (dict(rounds=0), 'rounds: 0'),
    (None, r'group networks is not measured; run run_android\.py again')])
def test_results_that_were_tampered_with_are_refused(networks_kit, tmp_path, change, message):
    data = made_up(networks_kit, **change or {})
    if change is None:
        data['groups'].clear()
    (tmp_path / 'results.json').write_text(json.dumps(data))
    with pytest.raises(InputError, match=message):
        import_kit(tmp_path / 'results.json', device='my-phone')


def command(capsys, *options):
    """(exit status, rows, last line of stderr) of a verb."""
    status = main([*map(str, options), '--format', 'json'])
    out, err = capsys.readouterr()
    return status, json.loads(out or 'null'), err.strip().splitlines()[-1] if err.strip() else ''


def test_the_command_makes_a_kit_for_a_phone_and_takes_its_results(capsys, tmp_path):
    kit, out = tmp_path / 'kit', tmp_path / 'phone.json'
    status, rows, remark = command(
        capsys, 'profile', '--space', 'ofa_mbv3_tiny', '--resolutions', 20, '--few-shot', 12, '--export-kit', kit,
        '--android', '--runtime', 'litert')
    assert status == 0 and 'python run_android.py --benchmark' in remark
    assert rows[0]['files'] == len([*kit.glob('networks/*.tflite')]) > 12 and 1 < rows[0]['mb'] < 100
    (kit / 'results.json').write_text(json.dumps(made_up(kit, processor='gpu')))
    status, rows, _ = command(
        capsys, 'profile', '--import-kit', kit / 'results.json', '--device', 'my-phone', '--out', out)
    assert status == 0 and rows[0]['runtime'] == 'litert' and load_profile(out).conditions.provider == 'gpu'


@pytest.mark.parametrize('options, message', [
    (['--android', '--out', 'p.json'], '--android is read only with --export-kit; add that'),
    (['--android', '--export-kit', 'kit', '--runtime', 'ncnn'], "--runtime 'ncnn' does not fit the kit"),
    (['--export-kit', 'kit', '--runtime', 'litert'], "--runtime 'litert' does not fit the kit"),
    (['--android', '--export-kit', 'kit', '--precision', 'int8'], "precision 'int8' is not one of litert")])
def test_the_command_refuses_in_one_line_what_does_not_fit(capsys, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    status, _, error = command(capsys, 'profile', '--space', 'ofa_mbv3_tiny', *options)
    assert status == 2 and message in error and not [*tmp_path.iterdir()]
