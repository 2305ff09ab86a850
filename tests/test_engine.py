"""Training: phases chain, runs stop and go on, and every result is a function of its settings."""
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import yaml
from accelerate import Accelerator
from safetensors.torch import load_file

from timm_ofa import InputError, engine, load_space
from timm_ofa.accuracy import SubnetJudge
from timm_ofa.data import Augment, load_data
from timm_ofa.engine import (
    EpochBatches,
    distillation_loss,
    subnet_draw,
    subnet_table,
    train_supernet,
)
from timm_ofa.runs import Interrupted, graceful_stop, supernet_config
from timm_ofa.shrink import Phase, TrainConfig
from timm_ofa.supernet import load_supernet

CONFIG = TrainConfig(
    'test', 'ofa_mbv3_tiny', 'digits', resolutions=(20, 24), batch_size=32, limit=112, drop_rate=0.1, clip_grad=10.0,
    augment=Augment(flip=False, erase=0.2), phases=(
        Phase('largest', 1, 0.05, warmup_epochs=1, kd_weight=0, depths=(3,), kernel_sizes=(5,), expand_ratios=(4,)),
        Phase('narrow', 1, 0.03, expand_ratios=(3, 4), sort_channels=True, subnets_per_step=2),
        Phase('all', 1, 0.03, sort_channels=True)))
STEPS = 4 * 3  # 101 images after the holdout, 3 batches an epoch


@pytest.fixture(scope='module')
def digits():
    return load_data('digits', 24, limit=CONFIG.limit)


@pytest.fixture(scope='module')
def run(digits, tmp_path_factory):
    """(folder, supernet) of an uninterrupted run."""
    folder = tmp_path_factory.mktemp('engine') / 'run'
    return folder, train_supernet(CONFIG, digits, folder)


def events(folder):
    return [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


# ---- a whole run -----------------------------------------------------------------------------------------------------


def test_the_log_tells_every_phase_and_setting(run):
    log = events(run[0])
    assert [e['event'] for e in log] == ['start', *['train', 'train', 'phase'], *['train', 'phase'] * 2, 'end']
    assert [e['phase'] for e in log if e['event'] == 'phase'] == ['largest', 'narrow', 'all']
    start = log[0]
    assert start['steps'] == STEPS and start['images'] == len(load_data('digits', 24, limit=112).train)
    assert TrainConfig.from_dict(start['config']) == CONFIG and start['versions']['torch'] == torch.__version__
    assert [e['step'] for e in log if e['event'] == 'train'] == [3, 6, 9, 12]
    assert all(0 < e['loss'] < 20 and e['lr'] > 0 for e in log if e['event'] == 'train')
    judged = [e[k] for e in log if e['event'] == 'phase' for k in ('largest_top1_pct', 'smallest_top1_pct')]
    assert len(judged) == 6 and all(0 <= top1_pct <= 100 for top1_pct in judged)


def test_a_run_leaves_a_folder_that_timm_loads(run):
    folder, supernet = run
    loaded = timm.create_model(f'local-dir:{folder}', pretrained=True)
    assert same_weights(loaded, supernet) and same_weights(load_supernet(str(folder)), supernet)
    assert loaded.space == CONFIG.load_space() and loaded.drop_rate == 0
    about = json.loads((folder / 'config.json').read_text())['timm_ofa']
    assert about['class_names'] == [str(i) for i in range(10)] and about['data'] == 'digits'
    assert supernet_config(folder) == CONFIG
    assert TrainConfig.from_dict(yaml.safe_load((folder / 'train.yaml').read_text())) == CONFIG


def test_the_teacher_is_the_largest_net_after_the_first_phase(run, digits, tmp_path):
    folder, _ = run
    teacher = load_file(folder / 'teacher.safetensors')
    first = train_supernet(replace(CONFIG, phases=CONFIG.phases[:1]), digits, tmp_path / 'first')
    expected = first.subnet_state_dict(first.space.max_arch())
    assert set(teacher) == set(expected) and all(torch.equal(teacher[k], v) for k, v in expected.items())
    assert not (tmp_path / 'first' / 'teacher.safetensors').exists()  # nobody to teach


def test_training_twice_gives_the_same_weights_and_another_seed_others(run, digits, tmp_path):
    torch.manual_seed(999)  # global randomness does not matter
    assert same_weights(train_supernet(CONFIG, digits, tmp_path / 'again'), run[1])
    short = replace(CONFIG, phases=CONFIG.phases[:1])
    assert not same_weights(
        train_supernet(short, digits, tmp_path / 'a'), train_supernet(replace(short, seed=1), digits, tmp_path / 'b'))


def test_one_checkpoint_remains_and_nothing_half_written(run):
    assert [p.name for p in (run[0] / 'checkpoints').iterdir()] == [f'step-{STEPS:08d}']
    assert not [p for p in run[0].rglob('*.part')] and sorted(p.name for p in run[0].iterdir()) == [
        'checkpoints', 'config.json', 'log.jsonl', 'model.safetensors', 'teacher.safetensors', 'train.yaml']


# ---- stopping and going on -------------------------------------------------------------------------------------------


def stop_at(monkeypatch, step):
    """Send SIGTERM to this process once, when so many steps are done."""
    original, sent = engine.Loop._step, []

    def step_and_stop(self, *args):
        seen = original(self, *args)
        if args[-1].total_steps + 1 == step and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))
        return seen
    monkeypatch.setattr(engine.Loop, '_step', step_and_stop)


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
    assert events(folder)[-1]['event'] == 'end'
    resumed = next(e for e in events(folder) if e['event'] == 'resume')
    assert resumed['at_step'] == step


def test_a_run_that_is_killed_goes_on_from_its_last_checkpoint(run, digits, monkeypatch, tmp_path):
    """Steps after the checkpoint are lost, and a half-written checkpoint is not taken for one."""
    folder, original = tmp_path / 'run', engine.Loop._step

    def die(self, *args):
        if args[-1].total_steps == 8:
            raise RuntimeError('power cut')
        return original(self, *args)
    with monkeypatch.context() as patch:
        patch.setattr(engine.Loop, '_step', die)
        with pytest.raises(RuntimeError, match='power cut'):
            train_supernet(CONFIG, digits, folder)
    (folder / 'checkpoints' / '.part').mkdir()
    (folder / 'checkpoints' / '.part' / 'model.safetensors').write_bytes(b'torn')
    assert same_weights(train_supernet(CONFIG, digits, folder, resume=True), run[1])
    assert next(e for e in events(folder) if e['event'] == 'resume')['at_step'] == 6


def test_resuming_a_run_that_has_ended_gives_its_weights(run, digits):
    folder, supernet = run
    assert same_weights(train_supernet(CONFIG, digits, folder, resume=True), supernet)


@pytest.mark.parametrize('change, naming', [
    ({'batch_size': 16}, "batch_size is '16'.*'32'"), ({'seed': 3}, "seed is '3'"), ({'space': 'ofa_mbv3_w10'},
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


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_phase_step_and_subnet(digits, tmp_path):
    wild = replace(CONFIG, clip_grad=None, phases=(Phase('wild', 20, 99.0, kd_weight=0, subnets_per_step=2),))
    naming = r"loss (nan|inf) in phase 'wild' at step \d+ with subnet r2\d:k.*lower lr"
    with pytest.raises(InputError, match=naming) as error:
        train_supernet(wild, digits, tmp_path / 'run')
    text = str(error.value)
    assert '\n' not in text and load_space('ofa_mbv3_tiny').parse(text.split('subnet ')[1].split(';')[0])
    assert not (tmp_path / 'run' / 'model.safetensors').exists()


def test_more_images_a_batch_than_there_are_is_refused(digits, tmp_path):
    with pytest.raises(InputError, match='batch_size 5000 is more than the 101 training images'):
        train_supernet(replace(CONFIG, batch_size=5000), digits, tmp_path / 'run')


# ---- parts -----------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_published_one():
    torch.manual_seed(0)
    logits, labels, soft = torch.randn(4, 10), torch.tensor([1, 2, 3, 4]), torch.randn(4, 10).softmax(1)
    smooth = torch.full((4, 10), 0.1 / 10).scatter_(1, labels[:, None], 0.9 + 0.1 / 10)
    hard = -(smooth * logits.log_softmax(1)).sum(1).mean()
    kd = -(soft * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(distillation_loss(logits, labels, None, 0.1, 1.0), hard)
    torch.testing.assert_close(distillation_loss(logits, labels, soft, 0.1, 0.5), hard + 0.5 * kd)
    torch.testing.assert_close(distillation_loss(logits, labels, None, 0.0, 1.0), F.cross_entropy(logits, labels))


def test_an_epoch_sees_every_image_at_most_once_in_an_order_of_its_own(digits):
    batches = EpochBatches(digits.train, 32, 0, 0, Accelerator())
    assert len(batches) == 3

    def order(epoch, skip=0):
        weights = torch.arange(3 * 24 * 24).double()
        return torch.cat([pixels.flatten(1).double() @ weights for pixels, _ in batches(epoch, skip)])
    assert len(set(order(0).tolist())) == 96
    assert torch.equal(order(0), order(0)) and not torch.equal(order(0), order(1))
    assert torch.equal(order(0, skip=2), order(0)[64:])


def test_processes_share_every_batch(digits):
    class Rank:
        num_processes, device = 2, torch.device('cpu')

        def __init__(self, rank):
            self.process_index = rank
    whole = next(EpochBatches(digits.train, 32, 0, 0, Accelerator())(0, 0))[1]
    halves = [next(EpochBatches(digits.train, 32, 0, 0, Rank(r))(0, 0))[1] for r in (0, 1)]
    assert torch.equal(torch.cat(halves), whole)


def test_a_step_draws_one_resolution_for_all_its_subnets():
    space = CONFIG.load_space()
    draw = subnet_draw(space, 4)
    resolution, archs = draw(np.random.default_rng(0))
    assert {a.resolution for a in archs} == {resolution} and len(archs) == 4
    assert draw(np.random.default_rng(0)) == (resolution, archs)
    assert {draw(np.random.default_rng(i))[0] for i in range(30)} == {20, 24}


def test_the_rate_rises_and_falls_and_momentum_is_forgotten_in_every_phase(digits, monkeypatch, tmp_path):
    rates, states, original = [], [], engine.Loop._step

    def note(self, *args):
        rates.append(self.optimizer.param_groups[0]['lr'])
        states.append(len(self.optimizer.state))
        return original(self, *args)
    monkeypatch.setattr(engine.Loop, '_step', note)
    phase = Phase('one', 3, 0.04, warmup_epochs=1, kd_weight=0)
    train_supernet(replace(CONFIG, phases=(phase, replace(phase, name='two', lr=0.02))), digits, tmp_path / 'run')
    first, second = rates[:12], rates[12:]
    assert first[0] == pytest.approx(0.004) and max(first) == pytest.approx(0.04) == first[3]
    assert first[:4] == sorted(first[:4]) and first[3:] == sorted(first[3:], reverse=True) and first[-1] < 0.003
    np.testing.assert_allclose(second, np.array(first) / 2)
    assert [i for i, n in enumerate(states) if not n] == [0, 12]


def test_the_table_of_subnets_is_shown_and_logged(run, digits, tmp_path):
    judge = SubnetJudge(run[1], digits.train, digits.test, calibration_images=32)
    rows = subnet_table(judge, tmp_path / 'log.jsonl', n=2)
    assert [r['subnet'] for r in rows] == ['largest', 'smallest', 'smallest, small images', 'random 1', 'random 2']
    assert [{k: e[k] for k in rows[0]} for e in events(tmp_path)] == rows
    space = run[1].space
    assert rows[0]['macs_m'] == round(space.macs(space.max_arch(), 10) / 1e6, 2) and rows[1]['arch'].startswith('r24')


# ---- two processes ---------------------------------------------------------------------------------------------------

TWO = """
import os, sys
from timm_ofa.accuracy import supernet_digest
from timm_ofa.data import load_data
from timm_ofa.engine import train_supernet
from timm_ofa.shrink import load_config
config = load_config('two.yaml')
supernet = train_supernet(config, load_data('digits', 24, limit=config.limit), 'run')
for norm in (m for m in supernet.modules() if hasattr(m, 'running_var')):
    norm.reset_running_stats()  # those of the main process count
open('digest' + os.environ['RANK'], 'w').write(supernet_digest(supernet))
"""


def test_two_processes_train_the_same_weights(run, tmp_path):
    (tmp_path / 'two.py').write_text(TWO)
    (tmp_path / 'two.yaml').write_text(yaml.safe_dump({'kind': 'supernet', **CONFIG.to_dict()}))
    env = {**os.environ, 'ACCELERATE_USE_CPU': 'true', 'OMP_NUM_THREADS': '1',
           'PYTHONPATH': str(Path(__file__).resolve().parents[1])}
    done = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', 'two.py'],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    start, *_, end = events(tmp_path / 'run')
    assert start['processes'] == 2 and end['event'] == 'end'
    digests = [(tmp_path / f'digest{rank}').read_text() for rank in (0, 1)]
    assert digests[0] == digests[1]
    together, alone = load_file(tmp_path / 'run' / 'model.safetensors'), run[1].state_dict()
    assert set(together) == set(alone) and not torch.equal(together['classifier.weight'], alone['classifier.weight'])
