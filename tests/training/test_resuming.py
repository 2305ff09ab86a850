"""A run that is stopped, killed or broken off goes on exactly where it was."""
import os
import resource
import shutil
import signal
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from training_runs import CONFIG, STEPS, events, limited, same_weights

from timm_ofa import InputError
from timm_ofa.images import Augment
from timm_ofa.training import train_supernet
from timm_ofa.training.checkpoints import Interrupted, graceful_stop
from timm_ofa.training.loop import Loop


def stop_at(monkeypatch, step):
    """Send SIGTERM to this process once, when so many steps are done."""
    original, sent = Loop._step, []

    def step_and_stop(self, *args):
        original(self, *args)
        if args[-2].total_steps + 1 == step and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(Loop, '_step', step_and_stop)


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


@pytest.mark.parametrize('change, naming', [
    ({'batch_size': 16}, "batch_size is '16'.*'32'"), ({'seed': 3}, "seed is '3'"), ({'space': 'ofa_mbv3_32px'},
    'space is'),
    ({'phases': CONFIG.phases[:1]}, 'phases is'), ({'augment': Augment()}, 'augment is')])
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
    with graceful_stop() as stopped:
        assert not stopped()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()
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
