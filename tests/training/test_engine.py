"""Training: phases chain, runs stop and go on, and every result is a function of its settings."""
import json
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from accelerate import Accelerator
from safetensors.torch import load_file

from timm_ofa import InputError, load_space
from timm_ofa.accuracy.judge import SubnetJudge
from timm_ofa.images import Augment, load_data
from timm_ofa.networks.stock import model_args
from timm_ofa.networks.supernet import load_supernet, new_supernet
from timm_ofa.training import engine
from timm_ofa.training.config import Phase, TrainConfig
from timm_ofa.training.engine import EpochBatches, load_teacher, subnet_table, train_supernet
from timm_ofa.training.recipes import RECIPES
from timm_ofa.training.runs import Interrupted, graceful_stop, supernet_config

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


def events(folder, name='log.jsonl'):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


# ---- a whole run -----------------------------------------------------------------------------------------------------


def test_the_log_tells_every_phase_and_setting(run):
    log = events(run[0])
    assert [e['event'] for e in log] == ['start', *['train', 'train', 'phase'], *['train', 'phase'] * 2]
    assert [e['phase'] for e in log if e['event'] == 'phase'] == ['largest', 'narrow', 'all']
    start = log[0]
    assert start['steps'] == STEPS and start['images'] == len(load_data('digits', 24, limit=112).train)
    assert TrainConfig.from_dict(start['config']) == CONFIG
    times = events(run[0], 'times.jsonl')
    assert [e['event'] for e in times] == ['start', 'phase', 'phase', 'phase', 'end']
    assert times[0]['versions']['torch'] == torch.__version__ and times[0]['processes'] == 1
    assert all(e['seconds'] >= 0 and e['date'] > '2024' for e in times[1:])
    assert [e['step'] for e in log if e['event'] == 'train'] == [3, 6, 9, 12]
    assert all(0 < e['loss'] < 20 and e['lr'] > 0 for e in log if e['event'] == 'train')
    judged = [e[k] for e in log if e['event'] == 'phase' for k in ('largest_top1_pct', 'smallest_top1_pct')]
    assert len(judged) == 6 and all(0 <= top1_pct <= 100 for top1_pct in judged)


def small_proxyless(folder):
    """A space of the family 'efficientnet' for small images, as a file."""
    data = load_space('ofa_mbv3_tiny').to_dict()
    stages = [{**s, 'se_ratio': 0, 'act': 'r6'} for s in data['stages']]
    data |= {'name': 'small_proxyless', 'family': 'efficientnet', 'num_features': 0, 'act': 'r6', 'stages': stages}
    path = folder / 'small_proxyless.json'
    path.write_text(json.dumps(data))
    return str(path)


@pytest.mark.parametrize('family, last_phases', [
    ('byobnet', (Phase('narrow', 1, 0.03, widths=2, expand_ratios=(0.25, 0.35), sort_channels=True),
                 Phase('all', 3, 0.03, subnets_per_step=2, sort_channels=True))),
    ('efficientnet', (Phase('all', 3, 0.03, subnets_per_step=2, sort_channels=True),))])
def test_supernets_of_every_family_learn(family, last_phases, tmp_path):
    space = 'ofa_resnet_tiny' if family == 'byobnet' else small_proxyless(tmp_path)
    largest = Phase('largest', 8, 0.05, kd_weight=0, widths=1, depths=(3,))
    config = replace(
        CONFIG, space=space, resolutions=(20,), limit=400, drop_rate=0, augment=Augment(flip=False),
        phases=(largest, *last_phases))
    digits = load_data('digits', 20, limit=config.limit)
    supernet = train_supernet(config, digits, tmp_path / 'run')
    losses = [e['loss'] for e in events(tmp_path / 'run') if e['event'] == 'train' and e['phase'] == 'largest']
    assert losses[-1] < 0.8 * losses[0]
    judge = SubnetJudge(supernet, digits.train, digits.train, augment=config.augment)
    for arch in (supernet.space.max_arch(), supernet.space.min_arch()):
        assert judge.top1_pct(arch) > 30  # chance is 10
    loaded = load_supernet(str(tmp_path / 'run'))
    assert loaded.space.family == family and same_weights(loaded, supernet)


def test_a_run_leaves_a_folder_that_timm_loads(run):
    folder, supernet = run
    loaded = timm.create_model(f'local-dir:{folder}', pretrained=True)
    assert same_weights(loaded, supernet) and same_weights(load_supernet(str(folder)), supernet)
    assert loaded.space == CONFIG.load_space() and loaded.drop_rate == 0
    about = json.loads((folder / 'config.json').read_text())['timm_ofa']
    assert about['class_names'] == [str(i) for i in range(10)] and about['data'] == 'digits'
    assert supernet_config(folder) == CONFIG
    assert TrainConfig.from_dict(yaml.safe_load((folder / 'train.yaml').read_text())) == CONFIG


def test_a_folder_can_teach(run, digits, tmp_path):
    from timm.models._hub import save_for_hf

    space = CONFIG.load_space()
    save_for_hf(run[1].extract(space.max_arch()), str(tmp_path / 'teacher'), model_args={
        **model_args(space, space.max_arch()), 'num_classes': 10}, safe_serialization=True)
    phases = (Phase('taught', 1, 0.05, kd_weight=5.0),)
    taught = train_supernet(
        replace(CONFIG, teacher=str(tmp_path / 'teacher'), phases=phases), digits, tmp_path / 'taught')
    alone = train_supernet(replace(CONFIG, phases=phases), digits, tmp_path / 'alone')
    assert not same_weights(taught, alone)
    losses = [[e['loss'] for e in events(tmp_path / name) if e['event'] == 'train'] for name in ('taught', 'alone')]
    assert losses[0][0] > 2 * losses[1][0]  # five times the teacher's loss is in it


def test_training_begins_with_the_weights_of_a_supernet(run, digits, tmp_path, monkeypatch):
    still = replace(
        CONFIG, initial_checkpoint=str(run[0]), drop_rate=0.0, phases=(Phase('still', 1, 1e-12, kd_weight=0),))
    begun = train_supernet(still, digits, tmp_path / 'begun').state_dict()
    for name, weight in run[1].state_dict().items():  # the rate is next to nothing; statistics of BatchNorm do move
        assert 'running' in name or 'num_batches' in name or torch.allclose(begun[name], weight, atol=1e-6), name
    for images in (digits.train, digits.holdout):
        monkeypatch.setattr(images, 'labels', images.labels % 2)
    other = train_supernet(still, replace(digits, class_names=('even', 'odd')), tmp_path / 'other')
    assert other.num_classes == 2
    assert torch.allclose(other.conv_stem.weight, run[1].conv_stem.weight, atol=1e-6)


@pytest.mark.parametrize('source, naming', [
    ('nowhere', "initial_checkpoint 'nowhere' cannot be loaded"),
    ('ofa_mbv3_cifar10_supernet', 'supernet of ofa_mbv3_32px, not of ofa_mbv3_tiny')])
def test_what_training_cannot_begin_with_is_one_line(source, naming, digits, tmp_path):
    with pytest.raises(InputError, match=naming) as error:
        train_supernet(replace(CONFIG, initial_checkpoint=source), digits, tmp_path / 'run')
    assert '\n' not in str(error.value) and not (tmp_path / 'run').exists()


def test_a_teacher_sees_images_normalized_its_own_way(run):
    model = run[1].extract(CONFIG.load_space().max_arch()).eval()
    expected = model(torch.zeros(1, 3, 24, 24))
    model.pretrained_cfg = {**model.pretrained_cfg, 'mean': (0.1, 0.2, 0.3), 'std': (0.5, 0.4, 0.3)}
    space = CONFIG.load_space()
    x = (torch.tensor([0.1, 0.2, 0.3]) - torch.tensor(space.mean)) / torch.tensor(space.std)
    seen = engine.Teacher(model, space)(x.view(1, 3, 1, 1).expand(1, 3, 24, 24))
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('source, naming', [
    ('no_such_model', "teacher 'no_such_model' cannot be loaded"),
    ('ofa_mbv3_tiny_supernet', 'cannot be loaded|classes')])
def test_what_cannot_teach_is_one_line(run, source, naming):
    with pytest.raises(InputError, match=naming) as error:
        load_teacher(source, run[1])
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('recipe', RECIPES)
def test_every_recipe_trains_every_kind_of_subnet(recipe, digits, tmp_path):
    phases = (Phase('only', 2, 0.03, recipe=recipe, subnets_per_step=3),)
    before = timm.create_model('ofa_mbv3_tiny_supernet', num_classes=10)
    supernet = train_supernet(replace(CONFIG, phases=phases), digits, tmp_path / 'run')
    log = [e for e in events(tmp_path / 'run') if e['event'] == 'train']
    assert len(log) == 2 and all(np.isfinite(e['loss']) for e in log)
    moved = {k for k, v in supernet.named_parameters() if not torch.equal(v, dict(before.named_parameters())[k])}
    assert {k.split('.')[1] for k in moved if k.startswith('blocks')} == {'0', '1', '2', '3', '4'}


@pytest.mark.parametrize('recipe, subnets', [('progressive', 2), ('sandwich', 3)])
def test_accumulating_gradients_sums_over_the_parts_of_a_batch(recipe, subnets, digits, monkeypatch, tmp_path):
    """With BatchNorm out of the way (evaluation mode) the parts of a batch learn what the whole does."""
    monkeypatch.setattr(torch.nn.Module, 'train', lambda self, mode=True: _eval(self))
    monkeypatch.setattr(engine, 'new_supernet', lambda *args, **kwargs: _eval(new_supernet(*args, **kwargs)))
    config = replace(CONFIG, drop_rate=0, clip_grad=None, phases=(
        Phase('only', 1, 0.03, kd_weight=0, recipe=recipe, subnets_per_step=subnets),))
    whole = train_supernet(config, digits, tmp_path / 'whole')
    parts = train_supernet(replace(config, accumulate=4), digits, tmp_path / 'parts')
    for (name, a), (_, b) in zip(whole.named_parameters(), parts.named_parameters()):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5, msg=name)
    losses = [[e['loss'] for e in events(tmp_path / name) if e['event'] == 'train'] for name in ('whole', 'parts')]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def _eval(module):
    """What `train()` does here: nothing."""
    for child in module.modules():
        child.training = False
    return module


def test_the_teacher_is_the_largest_net_after_the_first_phase(run, digits, tmp_path):
    folder, _ = run
    teacher = load_file(folder / 'teacher.safetensors')
    first = train_supernet(replace(CONFIG, phases=CONFIG.phases[:1]), digits, tmp_path / 'first')
    expected = first.extract(first.space.max_arch()).state_dict()
    assert set(teacher) == set(expected) and all(torch.equal(teacher[k], v) for k, v in expected.items())
    assert not (tmp_path / 'first' / 'teacher.safetensors').exists()  # nobody to teach


def test_training_twice_gives_the_same_weights_and_another_seed_others(run, digits, tmp_path):
    torch.manual_seed(999)  # global randomness does not matter
    assert same_weights(train_supernet(CONFIG, digits, tmp_path / 'again'), run[1])
    short = replace(CONFIG, phases=CONFIG.phases[:1])
    assert not same_weights(
        train_supernet(short, digits, tmp_path / 'a'), train_supernet(replace(short, seed=1), digits, tmp_path / 'b'))


def test_one_checkpoint_remains_and_nothing_half_written(run):
    assert [p.name for p in (run[0] / 'checkpoints').iterdir()] == [f'step-{STEPS:08d}-phase-03']
    assert not [p for p in run[0].rglob('*.part')] and sorted(p.name for p in run[0].iterdir()) == [
        'checkpoints', 'config.json', 'log.jsonl', 'model.safetensors', 'teacher.safetensors', 'times.jsonl',
        'train.yaml']


# ---- stopping and going on -------------------------------------------------------------------------------------------


def stop_at(monkeypatch, step):
    """Send SIGTERM to this process once, when so many steps are done."""
    original, sent = engine.Loop._step, []

    def step_and_stop(self, *args):
        original(self, *args)
        if args[-2].total_steps + 1 == step and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))
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
    assert (folder / 'log.jsonl').read_bytes() == (run[0] / 'log.jsonl').read_bytes()
    times = events(folder, 'times.jsonl')
    assert times[-1]['event'] == 'end' and [e['at_step'] for e in times if e['event'] == 'resume'] == [step]


def test_a_run_that_is_killed_goes_on_from_its_last_checkpoint(run, digits, monkeypatch, tmp_path):
    """Steps after the checkpoint are lost, and a half-written checkpoint is not taken for one."""
    folder, original = tmp_path / 'run', engine.Loop._step

    def die(self, *args):
        if args[-2].total_steps == 8:
            raise RuntimeError('power cut')
        original(self, *args)
    with monkeypatch.context() as patch:
        patch.setattr(engine.Loop, '_step', die)
        with pytest.raises(RuntimeError, match='power cut'):
            train_supernet(CONFIG, digits, folder)
    (folder / 'checkpoints' / '.part').mkdir()
    (folder / 'checkpoints' / '.part' / 'model.safetensors').write_bytes(b'torn')
    assert same_weights(train_supernet(CONFIG, digits, folder, resume=True), run[1])
    assert (folder / 'log.jsonl').read_bytes() == (run[0] / 'log.jsonl').read_bytes()
    assert next(e for e in events(folder, 'times.jsonl') if e['event'] == 'resume')['at_step'] == 6


def test_resuming_a_run_that_has_ended_gives_its_weights(run, digits):
    folder, supernet = run
    assert same_weights(train_supernet(CONFIG, digits, folder, resume=True), supernet)


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


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_phase_step_and_subnet(digits, tmp_path):
    wild = replace(CONFIG, clip_grad=None, phases=(Phase('wild', 20, 99.0, kd_weight=0, subnets_per_step=2),))
    naming = r"loss (nan|inf) in phase 'wild' at step \d+ with subnet r2\d:k.*lower lr"
    with pytest.raises(InputError, match=naming) as error:
        train_supernet(wild, digits, tmp_path / 'run')
    text = str(error.value)
    assert '\n' not in text and load_space('ofa_mbv3_tiny').parse(text.split('subnet ')[1].split(';')[0])
    assert not (tmp_path / 'run' / 'model.safetensors').exists()


def test_a_loss_that_is_not_finite_leaves_the_last_checkpoint_and_the_run_goes_on_from_it(
        run, digits, monkeypatch, tmp_path):
    folder, original = tmp_path / 'run', engine.Loop._step

    def spoil(self, *args):
        if args[-2].total_steps == 7:
            self.model.conv_stem.weight.data[0] = torch.inf
        original(self, *args)
    with monkeypatch.context() as patch:
        patch.setattr(engine.Loop, '_step', spoil)
        with pytest.raises(InputError, match=r"loss nan in phase 'narrow' at step 7 with subnet r2\d:k.*resume from"):
            train_supernet(CONFIG, digits, folder)
    assert [p.name for p in (folder / 'checkpoints').iterdir()] == ['step-00000006-phase-01']
    assert same_weights(train_supernet(CONFIG, digits, folder, resume=True), run[1])


@contextmanager
def limited(what, value):
    """A limit of this process, for a while: bytes of a file, bytes of memory."""
    before = resource.getrlimit(what)
    resource.setrlimit(what, (value, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


@pytest.mark.parametrize('phase, naming', [(0, 'subnet r2'), (1, 'its teacher|subnet r2')])
def test_a_process_without_memory_says_which_network_wanted_it(digits, monkeypatch, tmp_path, phase, naming):
    original = engine.Loop._step

    def scarce(self, *args):
        if args[0].name != CONFIG.phases[phase].name:
            return original(self, *args)
        pixels = args[3].repeat(200, 1, 1, 1)
        used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
        with limited(resource.RLIMIT_AS, used + 2**28):
            original(self, *args[:3], pixels, args[4].repeat(200), *args[5:])
    monkeypatch.setattr(engine.Loop, '_step', scarce)
    with pytest.raises(InputError, match=rf'out of memory in phase .* with ({naming}).* on 6400 images; lower batch'):
        train_supernet(replace(CONFIG, augment=Augment('none', flip=False)), digits, tmp_path / 'run')


@pytest.mark.parametrize('error, naming', [
    (torch.OutOfMemoryError('CUDA out of memory'), 'subnet r2'),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 'lower batch_size')])
def test_too_little_memory_names_the_subnet_and_what_to_lower(digits, monkeypatch, tmp_path, error, naming):
    def forward(self, x, arch=None):
        raise error
    monkeypatch.setattr(type(load_space('ofa_mbv3_tiny')), 'check', lambda self, arch: arch)
    monkeypatch.setattr('timm_ofa.networks.supernet.Supernet.forward', forward)
    with pytest.raises(InputError, match=f'out of memory in phase .largest. at step 0 .*{naming}'):
        train_supernet(CONFIG, digits, tmp_path / 'run')


def test_other_errors_of_a_network_are_not_taken_for_too_little_memory(digits, monkeypatch, tmp_path):
    def forward(self, x, arch=None):
        raise RuntimeError('mat1 and mat2 shapes cannot be multiplied')
    monkeypatch.setattr('timm_ofa.networks.supernet.Supernet.forward', forward)
    with pytest.raises(RuntimeError, match='mat1 and mat2'):
        train_supernet(CONFIG, digits, tmp_path / 'run')


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


def test_more_images_a_batch_than_there_are_is_refused(digits, tmp_path):
    with pytest.raises(InputError, match='batch_size 5000 is more than the 101 training images'):
        train_supernet(replace(CONFIG, batch_size=5000), digits, tmp_path / 'run')


# ---- parts -----------------------------------------------------------------------------------------------------------


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


def test_the_rate_rises_and_falls_and_momentum_is_forgotten_in_every_phase(digits, monkeypatch, tmp_path):
    rates, states, original = [], [], engine.Loop._step

    def note(self, *args):
        rates.append(self.optimizer.param_groups[0]['lr'])
        states.append(sum(s['momentum_buffer'].abs().sum() for s in self.optimizer.state.values()))
        original(self, *args)
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
import os, signal, sys
import torch
from timm_ofa import engine
from timm_ofa.accuracy import supernet_digest
from timm_ofa.data import load_data
from timm_ofa.shrink import load_config
config, die, original = load_config(sys.argv[1]), int(sys.argv[2]), engine.Loop._step
def step(self, *args):
    if args[-2].total_steps == die:
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, *args)
if die:
    engine.Loop._step = step
if sys.argv[3:] == ['double']:
    make, augment = engine.new_supernet, type(config.augment).__call__
    engine.new_supernet = lambda *args, **kwargs: make(*args, **kwargs).double()
    type(config.augment).__call__ = lambda *args: augment(*args).double()
    engine.SubnetJudge.top1_pct = lambda *args: 0.0
data = load_data('digits', 24, limit=config.limit)
supernet = engine.train_supernet(config, data, 'run', resume=os.path.exists('run/train.yaml'))
open('digest' + os.environ['RANK'], 'w').write(supernet_digest(supernet))
"""


def launch_two(folder, config, die=0, *flags, processes=2):
    """Train in two processes, which are killed at step `die`; the digests of both supernets."""
    folder.mkdir(exist_ok=True)
    (folder / 'two.py').write_text(TWO)
    (folder / 'two.yaml').write_text(yaml.safe_dump({'kind': 'supernet', **config.to_dict()}))
    env = {**os.environ, 'ACCELERATE_USE_CPU': 'true', 'OMP_NUM_THREADS': '1',
           'PYTHONPATH': str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(processes), 'two.py',
         'two.yaml', str(die), *flags], cwd=folder, env=env, capture_output=True, text=True, timeout=240)
    assert bool(done.returncode) == bool(die), done.stderr[-3000:]
    told = '1 process' if processes == 1 else f'{processes} processes'
    assert f'{told} on cpu, {config.batch_size // processes} images each' in done.stderr
    return [path.read_text() for path in sorted(folder.glob('digest*'))]


def test_two_processes_learn_what_one_does(tmp_path):
    """The gradient of two processes is that of one on the whole batch; BatchNorm, augmentation and parts included.

    In double precision: in single, rounding alone moves some of these gradients by a percent.
    """
    config = replace(CONFIG, drop_rate=0, clip_grad=None, accumulate=2, phases=(
        Phase('largest', 1, 0.03, kd_weight=0), Phase('taught', 1, 0.03, subnets_per_step=2),
        Phase('sandwich', 1, 0.03, recipe='sandwich', subnets_per_step=3)))
    first, second = launch_two(tmp_path / 'two', config, 0, 'double')
    assert first == second  # parameters and running statistics of both processes
    launch_two(tmp_path / 'one', config, 0, 'double', processes=1)
    together, alone = (load_file(tmp_path / name / 'run' / 'model.safetensors') for name in ('two', 'one'))
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-7, atol=1e-9, msg=name)
    logs = [events(tmp_path / name / 'run') for name in ('two', 'one')]
    assert [log[0]['processes'] for log in logs] == [2, 1]
    assert [{**e, 'processes': 0} for e in logs[0]] == [{**e, 'processes': 0} for e in logs[1]]


def test_two_processes_that_are_killed_and_resumed_equal_two_that_are_not(tmp_path):
    config = replace(
        CONFIG, workers=2, phases=CONFIG.phases[1:], checkpoint_minutes=1e-6, precision='bf16', accumulate=2)
    expected = launch_two(tmp_path / 'whole', config)
    launch_two(tmp_path / 'killed', config, die=4)
    assert launch_two(tmp_path / 'killed', config) == expected and len(set(expected)) == 1
    logs = [(tmp_path / name / 'run' / 'log.jsonl').read_bytes() for name in ('whole', 'killed')]
    assert logs[0] == logs[1]
