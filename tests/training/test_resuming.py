"""A run that is stopped, killed or broken off goes on exactly where it was."""
import os
import resource
import shutil
import signal
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from training_runs import CONFIG, STEPS, events, limited, same_weights, stop_at

from timm_ofa import InputError
from timm_ofa.errors import Interrupted
from timm_ofa.images import Augment
from timm_ofa.training import Phase, checkpoints, train_supernet
from timm_ofa.training.checkpoints import Progress, flush, graceful_stop
from timm_ofa.training.loop import Loop
from timm_ofa.training.runs import RunLog


@pytest.fixture(scope='module')
def half(digits, tmp_path_factory):
    """The folder of a run that was killed after its first phase."""
    folder, original = tmp_path_factory.mktemp('half') / 'run', Loop._step

    def die(self, *args):
        if args[-2].total_steps == 6:
            raise RuntimeError('power cut')
        original(self, *args)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match='power cut'):
        patch.setattr(Loop, '_step', die)
        train_supernet(CONFIG, digits, folder)
    return folder


@pytest.mark.parametrize('step', [2, 6, 8, 11])
def test_a_run_that_is_stopped_and_resumed_equals_one_that_is_not(run, digits, monkeypatch, tmp_path, step):
    folder = tmp_path / 'run'
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(Interrupted, match=f'stopped at step {step} of {STEPS}; add --resume'):
            train_supernet(CONFIG, digits, folder)
    assert not (folder / 'model.safetensors').exists()
    torch.manual_seed(step)
    assert same_weights(train_supernet(CONFIG, digits, folder, resume=True), run[1])
    assert (folder / 'log.jsonl').read_bytes() == (run[0] / 'log.jsonl').read_bytes()
    times = events(folder, 'times.jsonl')
    begun = [(e['event'], e['at_step']) for e in times if e['event'] in ('start', 'resume')]
    assert begun == [('start', 0), ('resume', step)]
    assert [e['event'] for e in times if e['event'] in ('stop', 'end')] == ['stop', 'end']


def test_a_run_that_is_killed_goes_on_from_its_last_checkpoint(run, digits, monkeypatch, tmp_path):
    """Steps after the checkpoint are lost, and a half-written checkpoint is not taken for one."""
    folder, original = tmp_path / 'run', Loop._step

    def die(self, *args):
        if args[-2].total_steps == 8:
            raise RuntimeError('power cut')
        original(self, *args)
    with monkeypatch.context() as patch:
        patch.setattr(Loop, '_step', die)
        with pytest.raises(RuntimeError, match='power cut'):
            train_supernet(CONFIG, digits, folder)
    (folder / 'checkpoints' / '.part').mkdir()
    (folder / 'checkpoints' / '.part' / 'model.safetensors').write_bytes(b'torn')
    assert same_weights(train_supernet(CONFIG, digits, folder, resume=True), run[1])
    assert (folder / 'log.jsonl').read_bytes() == (run[0] / 'log.jsonl').read_bytes()
    assert next(e for e in events(folder, 'times.jsonl') if e['event'] == 'resume')['at_step'] == 6


def test_resuming_a_run_that_has_ended_gives_its_weights(run, digits, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / 'run')
    assert same_weights(train_supernet(CONFIG, digits, folder, resume=True), run[1])


def test_a_run_that_begins_with_what_is_trained_and_is_killed_at_once_writes_the_same_log(
        digits, monkeypatch, tmp_path):
    config = replace(CONFIG, phases=(Phase('trained', 0, 0.05, kd_weight=0), Phase('all', 1, 0.03)))
    whole = train_supernet(config, digits, tmp_path / 'whole')
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match='power cut'):
        patch.setattr(Loop, '_step', lambda *args: (_ for _ in ()).throw(RuntimeError('power cut')))
        train_supernet(config, digits, tmp_path / 'parts')
    assert same_weights(train_supernet(config, digits, tmp_path / 'parts', resume=True), whole)
    assert (tmp_path / 'parts/log.jsonl').read_bytes() == (tmp_path / 'whole/log.jsonl').read_bytes()


def test_settings_of_a_run_that_somebody_broke_are_one_line(run, digits, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / 'run')
    for text, naming in ('name: [', r'train\.yaml.* is not YAML'), ('[]', r'train\.yaml: \[\] is not an object'):
        (folder / 'train.yaml').write_text(text)
        with pytest.raises(InputError, match=naming) as error:
            train_supernet(CONFIG, digits, folder, resume=True)
        assert '\n' not in str(error.value)


@pytest.mark.parametrize('name, content', [
    ('progress.json', None), ('progress.json', b'{}'), ('progress.json', b'{"losses": [], "color": 1}'),
    ('model.safetensors', b'torn'), ('optimizer.bin', b'torn'),
    ('../../teacher.safetensors', None), ('../../teacher.safetensors', b'torn')])
def test_a_run_whose_files_are_damaged_is_refused_in_one_line(digits, half, tmp_path, name, content):
    folder = shutil.copytree(half, tmp_path / 'run')
    path = folder / 'checkpoints/step-00000006-phase-01' / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    damaged = path.resolve().name if 'teacher' in name else 'step-00000006-phase-01'
    with pytest.raises(InputError, match=f"{damaged}' is damaged .*; copy it again, or begin anew") as error:
        train_supernet(CONFIG, digits, folder, resume=True)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('change, naming', [
    ({'batch_size': 32}, "batch_size is '32'.*'16'"), ({'seed': 3}, "seed is '3'"), ({'space': 'ofa_mbv3_32px'},
    "space.name is 'ofa_mbv3_32px'.*'ofa_mbv3_tiny'"),
    ({'resolutions': (20, 28)}, r"resolutions is '.20, 28.'.*'.20, 24.'"),
    ({'phases': (*CONFIG.phases[:2], replace(CONFIG.phases[2], epochs=3))}, "phases.2.epochs is '3'.*'1'"),
    ({'phases': CONFIG.phases[:1]}, "phases.1.name is 'None'.*'narrow'"),
    ({'augment': Augment()}, "augment.flip is 'True'.*'False'")])
def test_resuming_with_other_settings_is_refused_naming_the_field(run, digits, change, naming):
    with pytest.raises(InputError, match=f'{naming}.*resume with the same settings') as error:
        train_supernet(replace(CONFIG, **change), digits, run[0], resume=True)
    assert '\n' not in str(error.value)


def test_a_folder_is_not_used_twice_by_accident_nor_resumed_when_empty(run, digits, tmp_path):
    with pytest.raises(InputError, match='already holds a run; add --resume'):
        train_supernet(CONFIG, digits, run[0])
    with pytest.raises(InputError, match='holds no run to resume'):
        train_supernet(CONFIG, digits, tmp_path / 'empty', resume=True)


def test_signals_set_a_flag_once_and_are_given_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted) as told, graceful_stop() as stopped:
        assert not stopped()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped() == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()
    assert told.value.number == signal.SIGTERM
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_loss_that_is_not_finite_leaves_the_last_checkpoint_and_the_run_goes_on_from_it(
        run, digits, monkeypatch, tmp_path):
    folder, original = tmp_path / 'run', Loop._step

    def spoil(self, *args):
        if args[-2].total_steps == 7:
            self.model.conv_stem.weight.data[0] = torch.inf
        original(self, *args)
    with monkeypatch.context() as patch:
        patch.setattr(Loop, '_step', spoil)
        with pytest.raises(InputError, match=r"loss nan in phase 'narrow' at step 7 with subnet r2\d:k.*; go on from"):
            train_supernet(CONFIG, digits, folder)
    assert [p.name for p in (folder / 'checkpoints').iterdir()] == ['step-00000006-phase-01']
    assert same_weights(train_supernet(CONFIG, digits, folder, resume=True), run[1])


@pytest.mark.parametrize('room', [0, 30_000])  # bytes: for the first file of a checkpoint, or for some of a later one
def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_goes_on_from_it(run, digits, monkeypatch, tmp_path, room):
    folder, original, calls = tmp_path / 'run', Accelerator.save_state, []

    def full(self, path, **kwargs):
        calls.append(path)
        with limited(resource.RLIMIT_FSIZE, room) if len(calls) == 2 else nullcontext():
            return original(self, path, **kwargs)
    with monkeypatch.context() as patch:
        patch.setattr(Accelerator, 'save_state', full)
        with pytest.raises(InputError, match=r'cannot be written.*free space and resume.*step-00000006-phase') as error:
            train_supernet(CONFIG, digits, folder)
    assert '\n' not in str(error.value)
    assert [p.name for p in (folder / 'checkpoints').iterdir()] == ['step-00000006-phase-01']
    assert same_weights(train_supernet(CONFIG, digits, folder, resume=True), run[1])


def test_a_resumed_run_needs_no_initial_checkpoint(run, digits, monkeypatch, tmp_path):
    initial = shutil.copytree(run[0], tmp_path / 'initial')
    config = replace(CONFIG, initial_checkpoint=str(initial), phases=(Phase('all', 1, 0.01, kd_weight=0),))
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(Interrupted):
            train_supernet(config, digits, tmp_path / 'run')
    shutil.rmtree(initial)
    train_supernet(config, digits, tmp_path / 'run', resume=True)


def test_a_session_of_another_precision_is_not_remembered(digits, tmp_path):
    config = replace(CONFIG, phases=(Phase('all', 1, 0.01, kd_weight=0),))
    one, half, again = (
        train_supernet(replace(config, precision=precision), digits, tmp_path / name)
        for name, precision in (('one', 'no'), ('half', 'bf16'), ('again', 'no')))
    assert same_weights(one, again) and not same_weights(one, half)
    x = torch.zeros(2, 3, 24, 24)
    assert half(x).dtype == torch.float32 and '_original_forward' not in vars(half)
    assert Accelerator().mixed_precision == 'no'


def test_a_folder_that_cannot_be_opened_is_not_flushed(tmp_path, monkeypatch):
    """As on Windows, where a folder has no handle."""
    original, flushed = os.open, []

    def windows(path, flags, *args, **kwargs):
        if os.path.isdir(path):
            raise PermissionError(13, 'Permission denied')
        flushed.append(flags & os.O_RDWR)
        return original(path, flags, *args, **kwargs)
    monkeypatch.setattr(os, 'open', windows)
    (tmp_path / 'file').write_text('x')
    for path in (tmp_path, tmp_path / 'file'):
        flush(path)
    assert flushed == [os.O_RDWR]  # fsync on Windows needs a handle that may write


def test_a_checkpoint_is_on_disk_before_it_has_its_name_and_the_older_one_goes_last(monkeypatch, tmp_path):
    def save_state(folder):
        os.mkdir(folder)
        (tmp_path / '.part' / 'weights').write_bytes(b'1')

    done, replace_, rmtree = [], os.replace, shutil.rmtree
    monkeypatch.setattr(checkpoints, 'flush', lambda path: done.append(f'flush {path.name}'))
    monkeypatch.setattr(os, 'replace', lambda a, b: done.append(f'name {b.name}') or replace_(a, b))
    monkeypatch.setattr(shutil, 'rmtree', lambda path, **_: done.append(f'remove {path.name}') or rmtree(path))
    one = SimpleNamespace(num_processes=1, is_main_process=True, wait_for_everyone=lambda: None, save_state=save_state)
    writer = checkpoints.Checkpoints(tmp_path, one, 60)
    writer.save(Progress(total_steps=1))
    done.clear()
    writer.save(Progress(total_steps=2))
    first, second = ('step-00000001-phase-00', 'step-00000002-phase-00')
    assert sorted(done[:3]) == ['flush .part', 'flush progress.json', 'flush weights']
    assert done[3:] == [f'name {second}', f'flush {tmp_path.name}', f'remove {first}']


def test_what_was_logged_after_the_checkpoint_is_cut_off(tmp_path):
    """The steps that wrote it are done again."""
    log = RunLog(tmp_path, Accelerator(cpu=True))
    log({'event': 'kept'})
    size = log.size()
    log({'event': 'done again'})
    again = RunLog(tmp_path, Accelerator(cpu=True), size)
    assert [e['event'] for e in events(tmp_path)] == ['kept'] and again.size() == size
    (tmp_path / 'log.jsonl').unlink()
    assert RunLog(tmp_path, Accelerator(cpu=True), size).size() == 0  # no zeros in place of what somebody removed


def test_only_the_main_process_writes_a_log(tmp_path):
    log = RunLog(tmp_path, SimpleNamespace(is_main_process=False, trackers=()))
    log({'event': 'train'})
    log.time({'event': 'phase'})
    assert log.size() == 0 and list(tmp_path.iterdir()) == []
