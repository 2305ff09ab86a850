"""The loop: recipes, parts of a batch, rate and momentum, batches, losses that are not finite, too little memory."""
import resource
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from fresh import python
from tqdm import tqdm
from training_runs import CONFIG, events, limited

from timm_ofa import InputError, load_space
from timm_ofa.images import Augment, EpochBatches
from timm_ofa.networks import new_supernet
from timm_ofa.training import Phase, supernets, train_supernet
from timm_ofa.training.checkpoints import Progress
from timm_ofa.training.loop import Loop, accelerated, make_optimizer
from timm_ofa.training.recipes import RECIPES


@pytest.mark.parametrize('recipe', RECIPES)
def test_every_recipe_trains_every_kind_of_subnet(recipe, digits, tmp_path):
    subnets = 1 if 'subnets_per_step' in RECIPES[recipe].ignores else 4
    phases = (Phase('only', 2, 0.03, recipe=recipe, subnets_per_step=subnets),)
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
    monkeypatch.setattr(supernets, 'new_supernet', lambda *args, **kwargs: _eval(new_supernet(*args, **kwargs)))
    config = replace(CONFIG, drop_rate=0, clip_grad=None, phases=(
        Phase('only', 1, 0.03, recipe=recipe, subnets_per_step=subnets),))
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


def test_the_rate_rises_and_falls_and_momentum_is_forgotten_in_every_phase(digits, monkeypatch, tmp_path):
    rates, states, original = [], [], Loop._step

    def note(self, *args):
        rates.append(self.optimizer.param_groups[0]['lr'])
        states.append(sum(s['momentum_buffer'].abs().sum() for s in self.optimizer.state.values()))
        original(self, *args)
    monkeypatch.setattr(Loop, '_step', note)
    phase = Phase('one', 3, 0.04, warmup_epochs=1, kd_weight=0)
    train_supernet(replace(CONFIG, phases=(phase, replace(phase, name='two', lr=0.02))), digits, tmp_path / 'run')
    first, second = rates[:12], rates[12:]
    assert first[0] == pytest.approx(0.004) and max(first) == pytest.approx(0.04) == first[3]
    assert first[:4] == sorted(first[:4]) and first[3:] == sorted(first[3:], reverse=True) and first[-1] < 0.003
    np.testing.assert_allclose(second, np.array(first) / 2)
    assert [i for i, n in enumerate(states) if not n] == [0, 12]


def test_an_epoch_sees_every_image_at_most_once_in_an_order_of_its_own(digits):
    batches = EpochBatches(digits.train, 16, 0, 0, Accelerator())
    assert len(batches) == 3

    def order(epoch, skip=0):
        weights = torch.arange(3 * 24 * 24).double()
        return torch.cat([pixels.flatten(1).double() @ weights for pixels, _ in batches(epoch, skip)])
    assert len(set(order(0).tolist())) == 48
    assert torch.equal(order(0), order(0)) and not torch.equal(order(0), order(1))
    assert torch.equal(order(0, skip=2), order(0)[32:])


def test_processes_share_every_batch(digits):
    class Rank:
        num_processes, device = 2, torch.device('cpu')

        def __init__(self, rank):
            self.process_index = rank
    whole = next(EpochBatches(digits.train, 16, 0, 0, Accelerator())(0, 0))[1]
    halves = [next(EpochBatches(digits.train, 16, 0, 0, Rank(r))(0, 0))[1] for r in (0, 1)]
    assert torch.equal(torch.cat(halves), whole)


def test_a_loss_that_is_not_finite_names_phase_step_and_subnet(digits, tmp_path):
    wild = replace(CONFIG, clip_grad=None, phases=(Phase('wild', 20, 99.0, kd_weight=0, subnets_per_step=2),))
    naming = r"loss (nan|inf) in phase 'wild' at step \d+ with subnet r2\d:k.*lower rate"
    with pytest.raises(InputError, match=naming) as error:
        train_supernet(wild, digits, tmp_path / 'run')
    text = str(error.value)
    assert '\n' not in text and load_space('ofa_mbv3_tiny').parse(text.split('subnet ')[1].split(';')[0])
    assert not (tmp_path / 'run' / 'model.safetensors').exists()


@pytest.mark.parametrize('phase, naming', [(0, 'subnet r2'), (1, 'its teacher|subnet r2')])
def test_a_process_without_memory_says_which_network_wanted_it(digits, monkeypatch, tmp_path, phase, naming):
    original = Loop._step

    def scarce(self, *args):
        if args[0].name != CONFIG.phases[phase].name:
            return original(self, *args)
        pixels = args[3].repeat(400, 1, 1, 1)
        used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
        with limited(resource.RLIMIT_AS, used + 2**28):
            original(self, *args[:3], pixels, args[4].repeat(400), *args[5:])
    monkeypatch.setattr(Loop, '_step', scarce)
    with pytest.raises(InputError, match=rf'out of memory in phase .* with ({naming}).* on 6400 images; go on with'):
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


GAPS = """
import torch
from pathlib import Path
from timm_ofa.training.loop import give_back_memory, keep_freed_memory
def mb():
    return int(Path('/proc/self/statm').read_text().split()[1]) * 4096 / 1e6
keep_freed_memory()
kept, freed = [], []
for _ in range(100):  # 400 MB, with something that stays after each part
    freed.append(torch.ones(10**6))
    kept.append(torch.ones(10**4))
full = mb()
del freed
idle = mb()
give_back_memory()
print(full - idle, full - mb())
"""


@pytest.mark.skipif(not Path('/proc/self/statm').exists(), reason='only Linux tells the memory of a process')
def test_freed_memory_is_kept_and_given_back_from_time_to_time(digits, tmp_path, monkeypatch):
    at_once, given_back = map(float, python(GAPS).split())
    assert at_once < 50 and given_back > 350
    calls, kept = [], []
    monkeypatch.setattr(supernets, 'keep_freed_memory', lambda: kept.append(1))
    monkeypatch.setattr('timm_ofa.training.loop.GIVE_BACK_EVERY', 2)
    monkeypatch.setattr('timm_ofa.training.loop.give_back_memory', lambda: calls.append(1))
    train_supernet(replace(CONFIG, phases=CONFIG.phases[:1]), digits, tmp_path / 'run')
    steps = [e['step'] for e in events(tmp_path / 'run') if e['event'] == 'train'][-1]
    assert len(calls) == steps // 2 > 2 and kept == [1]


def test_batch_norm_and_biases_do_not_decay():
    model = timm.create_model('ofa_mbv3_tiny_supernet', num_classes=10)
    decay = {parameter: group['weight_decay'] for group in make_optimizer(model, 0.1, 0.9, 0.3).param_groups
             for parameter in group['params']}
    assert len(decay) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        assert decay[parameter] == (0.0 if parameter.ndim == 1 else 0.3), name


class Scaled(torch.nn.Module):
    """A network whose subnets differ in a factor."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([[0.3, -0.2, 0.1], [0.1, 0.4, -0.3]]))

    def forward(self, x, arch):
        return arch.factor * x @ self.weight


def small_loop(model, prepare=lambda x, *_: x, lr=1.0):
    """A loop of two steps an epoch, and the (epoch, skip) pairs that it asked for."""
    x, labels, asked = torch.tensor([[1.0, 2.0], [0.5, -1.0]]), torch.tensor([0, 2]), []

    def batches(epoch, skip, pieces):
        asked.append((epoch, skip))
        return iter([(x, labels)] * (2 - skip))
    optimizer = make_optimizer(model, lr, 0.0, 0.0)
    loop = Loop(Accelerator(cpu=True), model, optimizer, batches, 2, prepare, 0, 0.0, None, 1, lambda event: None,
                tqdm(disable=True))
    return loop, asked, (x, labels)


ARCHS = [SimpleNamespace(resolution=8, factor=factor) for factor in (1.0, 3.0)]


ONLY = Phase('only', 1, 1.0, kd_weight=0)


def take_step(loop, model, archs, phase=ONLY):
    """The change of the weights in one step, with a rate of 1."""
    before, (x, labels) = model.weight.detach().clone(), next(iter(loop.batches(0, 1, 1)))
    loop._step(phase, lambda rng, done: archs, None, x, labels, Progress(), 0.0)
    return model.weight.detach() - before


def test_the_gradients_of_a_step_are_the_sum_over_its_subnets():
    model = Scaled()
    weight = model.weight.detach().clone().requires_grad_()
    loop, _, (x, labels) = small_loop(model)
    loss = sum(torch.nn.functional.cross_entropy(arch.factor * x @ weight, labels) for arch in ARCHS)
    torch.testing.assert_close(take_step(loop, model, ARCHS), -torch.autograd.grad(loss, weight)[0])


def test_the_subnets_of_a_step_may_divide_the_batch():
    model = Scaled()
    weight = model.weight.detach().clone().requires_grad_()
    loop, _, (x, labels) = small_loop(model)
    loss = sum(torch.nn.functional.cross_entropy(arch.factor * x[i:i + 1] @ weight, labels[i:i + 1])
               for i, arch in enumerate(ARCHS))
    divided = replace(ONLY, subnets_per_step=2, recipe='divided')
    torch.testing.assert_close(take_step(loop, model, ARCHS, divided), -torch.autograd.grad(loss, weight)[0])


def test_the_gradients_of_a_step_are_clipped_together():
    model = Scaled()
    loop, *_ = small_loop(model)
    loop.clip_grad = 1e-3
    assert take_step(loop, model, ARCHS).norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_processes_exchange_gradients_once_in_a_step(monkeypatch):
    """With the last subnet on the last part of the batch."""
    model, done = Scaled(), []
    loop, *_ = small_loop(model)
    loop.accumulate = 2
    monkeypatch.setattr(loop.accelerator, 'no_sync', lambda model: done.append('apart') or nullcontext())
    monkeypatch.setattr(loop.accelerator, 'backward', lambda loss: done.append('backward') or loss.backward())
    take_step(loop, model, ARCHS)
    assert done == [*['apart', 'backward'] * 3, 'backward']


def test_the_bar_and_the_log_tell_the_mean_loss_over_subnets_and_steps():
    model, bar, log = Scaled(), [], []
    loop, _, (x, labels) = small_loop(model)
    loop.log = log.append
    loop.bar = SimpleNamespace(update=lambda: None, set_postfix_str=lambda text, refresh: bar.append(text))
    loop.run_phase(Phase('only', 2, 1e-12, kd_weight=0), lambda rng, done: ARCHS, None, Progress())
    loss = np.mean([torch.nn.functional.cross_entropy(a.factor * model(x, ARCHS[0]), labels).item() for a in ARCHS])
    assert bar == [f'only, loss {loss:.3f}'] * 2
    assert [(e['epoch'], e['step'], e['loss']) for e in log] == [
        (0, 2, pytest.approx(loss, abs=1e-5)), (1, 4, pytest.approx(loss, abs=1e-5))]


def test_the_mean_loss_is_right_where_a_run_that_is_resumed_has_other_parts():
    model, kept, log = Scaled(), [], []
    loop, _, (x, labels) = small_loop(model)
    loop.log, phase = log.append, Phase('only', 1, 1e-12, kd_weight=0)

    def stop(progress, why):
        kept.append(progress)
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        loop.run_phase(phase, lambda rng, done: ARCHS, None, Progress(), lambda: 2, stop)
    loop.accumulate = 2
    loop.run_phase(phase, lambda rng, done: ARCHS, None, *kept)
    loss = np.mean([torch.nn.functional.cross_entropy(a.factor * model(x, ARCHS[0]), labels).item() for a in ARCHS])
    assert [e['loss'] for e in log] == [pytest.approx(loss, abs=1e-5)]


def numbers_drawn(rank, monkeypatch):
    """What subnets, augmentation and dropout draw in each step of a process, and the epochs that it asks for."""
    drawn, augmented, dropout = [], [], []

    def prepare(x, rng, *_):
        augmented.append(int(rng.integers(2**62)))
        dropout.append(torch.initial_seed())
        return x

    def draw(rng, done):
        drawn.append(int(rng.integers(2**62)))
        return ARCHS[:1]
    loop, asked, _ = small_loop(Scaled(), prepare, lr=0.1)
    monkeypatch.setattr(type(loop.accelerator), 'process_index', rank)
    progress = Progress()
    for place in range(2):
        progress = loop.run_phase(Phase(f'{place}', 2, 0.1, kd_weight=0), draw, None, replace(
            progress, phase=place, epoch=0, step=0))
    return drawn, augmented, dropout, asked


def test_every_step_of_every_phase_draws_anew(monkeypatch):
    """Random numbers belong to the step of the whole run, the order of images to the epoch of the whole run.

    Dropout alone differs between processes.
    """
    first, second = (numbers_drawn(rank, monkeypatch) for rank in (0, 1))
    assert first[:2] == second[:2] and first[3] == second[3] and len(set(first[3])) == 4
    numbers = [*first[0], *first[1], *first[2], *second[2]]
    assert len(set(numbers)) == len(numbers) == 32 and np.median(numbers) > 2**59


@pytest.mark.parametrize('momentum', [0.0, 0.9])
def test_momentum_is_that_of_nesterov_if_there_is_any(momentum):
    group, = make_optimizer(Scaled(), 0.1, momentum, 0.0).param_groups
    assert (group['nesterov'], group['momentum'], group['fused']) == (momentum > 0, momentum, True)


def test_the_precision_of_a_process_is_given_back_after_a_training():
    assert Accelerator().mixed_precision == 'no'
    before = dict(AcceleratorState._shared_state)
    with pytest.raises(KeyError), accelerated('bf16') as accelerator:
        assert accelerator.mixed_precision == 'bf16'
        raise KeyError
    assert AcceleratorState._shared_state == before != {}
