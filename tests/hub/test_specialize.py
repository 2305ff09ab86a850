"""From a search result to one network: the limit honored by measuring, the front as a file, weights of its own."""
import json
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from hub_makers import toy_profile
from timm.models.mobilenetv3 import MobileNetV3

import timm_ofa
from timm_ofa import InputError, load_space
from timm_ofa.accuracy.judge import evaluate, recalibrate_bn, supernet_digest
from timm_ofa.hub.finishing import Source, arch_name, finish
from timm_ofa.hub.fronts import load_front, save_front
from timm_ofa.hub.timing import arch_timer, meet_limit
from timm_ofa.images import Augment, load_data
from timm_ofa.networks.supernet import new_supernet
from timm_ofa.searching.strategy import Candidate, SearchResult
from timm_ofa.training.config import FinetuneConfig
from timm_ofa.training.specialization import finetune, specialize


@pytest.fixture(scope='module')
def space():
    return load_space('ofa_mbv3_tiny').restrict(resolutions=[20])


@pytest.fixture(scope='module')
def supernet(space):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return new_supernet(space, num_classes=10).eval()


@pytest.fixture
def front(space):
    """Six networks, the slower the better: 1 to 6 ms, 51 to 56 %."""
    archs = space.sample(np.random.default_rng(0), 6)
    return [Candidate(arch, 50.0 + i, float(i)) for i, arch in enumerate(archs, 1)]


class Timer:
    """A device on which every network takes `factor` times what was predicted."""

    def __init__(self, front, factor):
        self.ms = {c.arch: c.latency_ms * factor for c in front}
        self.asked = []

    def __call__(self, arch):
        self.asked.append(arch)
        return {'latency_ms': self.ms[arch]}


# ---- meeting the limit -----------------------------------------------------------------------------------------------


def test_a_network_within_its_limit_is_measured_once(front):
    timer = Timer(front, 1.0)
    attempts = meet_limit(front, 4.0, timer)
    assert [a.candidate for a in attempts] == [front[3]] and timer.asked == [front[3].arch]
    assert attempts[-1].measured == {'latency_ms': 4.0}


@pytest.mark.parametrize('factor, limit', [(1.3, 5.5), (2.0, 6.0), (1.01, 5.0), (5.9, 6.0)])
def test_the_limit_is_tightened_until_the_measured_latency_is_within(front, factor, limit):
    attempts = meet_limit(front, limit, Timer(front, factor))
    assert attempts[-1].measured['latency_ms'] <= limit
    assert all(a.measured['latency_ms'] > limit for a in attempts[:-1])
    predicted = [a.candidate.latency_ms for a in attempts]
    assert predicted == sorted(set(predicted), reverse=True)  # each is faster than the one before
    best = max((c for c in front if c.latency_ms * factor <= limit), key=lambda c: c.top1_pct)
    assert attempts[-1].candidate == best


def test_the_best_and_not_the_slowest_within_the_limit_is_taken(front):
    front[1] = replace(front[1], top1_pct=99.0)
    assert meet_limit(front, 4.0, Timer(front, 1.0))[0].candidate == front[1]


def test_when_nothing_fits_the_limit_and_the_last_measurement_are_named(front):
    with pytest.raises(InputError, match=r'within 0\.5 ms; raise the limit'):
        meet_limit(front, 0.5, Timer(front, 1.0))
    timer = Timer(front, 10.0)
    with pytest.raises(InputError, match=r'within 6 ms; the last of \d+ tried takes \d+ ms'):
        meet_limit(front, 6.0, timer)
    assert len(set(timer.asked)) == len(timer.asked)


def test_attempts_are_bounded(front):
    timer = Timer(front, 1.0)
    timer.ms = dict.fromkeys(timer.ms, 6.0001)
    with pytest.raises(InputError, match='the last of 3 tried'):
        meet_limit(front, 6.0, timer, max_attempts=3)


def test_another_device_cannot_be_measured_here(space):
    with pytest.raises(InputError, match=r'toy-phone.*--no-measure'):
        arch_timer(space, toy_profile(space, 'toy-phone'))


# ---- the front as a file ---------------------------------------------------------------------------------------------


class Judge:
    check: ClassVar = {'rmse_pct': 0.4}


@pytest.fixture
def saved(space, front, tmp_path):
    path = tmp_path / 'front.jsonl'
    result = SearchResult(best=front[3], front=tuple(front), history=(), evaluated=6)
    return path, save_front(path, result, space, Judge(), toy_profile(space, 'toy-phone'), 'toy.json', 4.0, 7)


def test_a_front_gives_the_same_values_back(saved, space, front):
    path, written = saved
    assert load_front(path, space) == written
    assert written.front == tuple(front)
    assert (written.max_latency_ms, written.seed, written.device, written.profile) == (4.0, 7, 'toy-phone', 'toy.json')
    assert (written.profile_error_pct, written.predictor_error_pct) == (2.5, 0.4)
    line = json.loads(path.read_text().splitlines()[0])
    assert list(line) == ['resolution', 'kernel_size', 'expand_ratio', 'top1_pct', 'latency_ms']


@pytest.mark.parametrize('limit, match', [(1e-6, 'no network within its limit'), (None, 'cannot be read')])
def test_a_front_without_a_network_under_its_limit_is_refused(saved, space, limit, match):
    path, _ = saved
    meta = path.with_name(f'{path.name}.meta.json')
    meta.write_text(json.dumps({**json.loads(meta.read_text()), 'max_latency_ms': limit}))
    with pytest.raises(InputError, match=match):
        load_front(path, space)


@pytest.mark.parametrize('how', ['torn line', 'no meta', 'torn meta', 'no file', 'no latency', 'list', 'list meta'])
def test_a_front_that_cannot_be_read_is_refused(saved, space, how):
    path, _ = saved
    meta = path.with_name(f'{path.name}.meta.json')
    lines = path.read_text().splitlines()
    if how == 'torn line':
        path.write_text('\n'.join([*lines[:3], lines[3][:30]]))
    elif how == 'no latency':
        path.write_text(lines[0].replace('latency_ms', 'latency'))
    elif how == 'list':
        path.write_text('[]')
    elif how == 'list meta':
        meta.write_text('[]')
    elif how == 'torn meta':
        meta.write_text(meta.read_text()[:20])
    else:
        (meta if how == 'no meta' else path).unlink()
    with pytest.raises(InputError, match=r'front.*timm-ofa search --out') as error:
        load_front(path, space)
    assert '\n' not in str(error.value)


def test_a_network_outside_the_space_is_refused_naming_its_line(saved, space):
    path, _ = saved
    lines = path.read_text().splitlines()
    path.write_text('\n'.join([lines[0], lines[1].replace('"resolution": 20', '"resolution": 21')]))
    with pytest.raises(InputError, match=r'front\.jsonl line 2: resolution 21'):
        load_front(path, space)


def test_the_front_of_another_space_is_refused(saved, space):
    path, _ = saved
    meta = path.with_name(f'{path.name}.meta.json')
    meta.write_text(meta.read_text().replace('ofa_mbv3_tiny', 'ofa_mbv3_w10'))
    with pytest.raises(InputError, match="is of 'ofa_mbv3_w10', the supernet of ofa_mbv3_tiny"):
        load_front(path, space)


# ---- the network -----------------------------------------------------------------------------------------------------


def loader(n=4):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(16, 3, 20, 20, generator=generator), torch.arange(16) % 10) for _ in range(n)]


def test_specializing_is_extracting_and_recalibrating(supernet, space):
    arch, before = space.min_arch(), supernet_digest(supernet)
    model = specialize(supernet, arch, loader())
    expected = recalibrate_bn(supernet.extract(arch), loader()).state_dict()
    assert type(model) is MobileNetV3 and not model.training
    assert all(torch.equal(v, expected[k]) for k, v in model.state_dict().items())
    assert supernet_digest(supernet) == before
    assert timm_ofa.specialize is specialize


def test_fine_tuning_learns_and_is_a_function_of_its_seed(supernet, space):
    arch, batches = space.min_arch(), loader()
    plain, one, two = (
        specialize(supernet, arch, batches, finetune_epochs=epochs, lr=0.05) for epochs in (0, 6, 6))

    @torch.no_grad()
    def loss(model):
        return sum(torch.nn.functional.cross_entropy(model(x), y).item() for x, y in batches)
    assert not one.training and loss(one) < 0.9 * loss(plain)
    assert all(torch.equal(v, two.state_dict()[k]) for k, v in one.state_dict().items())
    norm = recalibrate_bn(one, batches).bn1  # statistics fit the weights after training
    torch.testing.assert_close(norm.running_mean, two.bn1.running_mean)


@pytest.fixture
def fresh_accelerate():
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


def test_fine_tuning_in_mixed_precision_leaves_a_plain_network(supernet, space, fresh_accelerate):
    """As it is saved and loaded again: nothing of the training's precision stays in it."""
    subnet, fresh = (supernet.extract(space.min_arch()) for _ in range(2))
    model = finetune(
        subnet, lambda epoch, skip: loader(), steps_per_epoch=4, phase=FinetuneConfig(1).phase, seed=0,
        precision='bf16').eval()
    fresh.load_state_dict(model.state_dict())
    x, _ = loader(1)[0]
    torch.testing.assert_close(model(x), fresh.eval()(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize('device, limit, expected', [
    ('amd-epyc', 2.0, 'ofa_mbv3_amd_epyc_lat2ms'), ('amd-epyc-9b14', 0.25, 'ofa_mbv3_amd_epyc_9b14_lat0p25ms'),
    ('any', None, 'ofa_mbv3_any_subnet')])
def test_names_say_device_and_limit(space, device, limit, expected):
    assert arch_name(space, device, limit) == expected


def test_a_finished_network_says_all_that_is_known_of_it(supernet, space, saved, front):
    data = load_data('digits', 20, limit=200)
    source = Source(supernet, 'test/supernet', data, Augment(flip=False))
    found = load_front(saved[0], space)
    model, record = finish(source, found.front[3], found=found)
    assert type(model) is MobileNetV3 and not model.training
    assert record.name == 'ofa_mbv3_toy_phone_lat4ms' and record.arch == front[3].arch
    assert (record.limit_ms, record.predicted_ms, record.predicted_top1_pct) == (4.0, 4.0, 54.0)
    assert record.accuracy.n == 360 and record.accuracy.split == 'test' and record.accuracy.dataset == 'digits'
    assert record.supernet.sha256 == supernet_digest(supernet) and record.calibration.images == 180
    assert [p.chosen for p in record.front].count(True) == 1 and len(record.front) == 6
    assert record.top1_pct == round(evaluate(model, data.test, space, 20), 3)
    _, alone = finish(source, found.front[0], name='ofa_mbv3_mine')
    assert alone.name == 'ofa_mbv3_mine' and alone.device is None and alone.front == () and alone.predicted_ms is None


def test_a_finished_network_can_learn_from_the_largest_one(supernet, space, front):
    data = load_data('digits', 20, limit=200)
    source = Source(supernet, 'test/supernet', data, Augment(flip=False))
    configs = [FinetuneConfig(4, 0.03, teacher=teacher, kd_weight=9.0, batch_size=32) for teacher in (None, 'largest')]
    (alone, _), (taught, record) = (finish(source, front[0], name='x', training=config) for config in configs)
    assert 'fine-tuned for 4 epochs' in record.accuracy.protocol and not taught.training
    judge = source.judge(data.train)
    batches = judge.batches(20)
    with torch.no_grad():
        largest = [judge.subnet(space.max_arch())(x).softmax(1) for x in batches]
        distance = [
            sum((recalibrate_bn(model, batches).eval()(x).softmax(1) - y).abs().mean().item()
                for x, y in zip(batches, largest)) for model in (taught, alone)]
    assert distance[0] < 0.8 * distance[1]
    with pytest.raises(InputError, match="teacher 'nobody'"):
        finish(source, front[0], training=FinetuneConfig(1, teacher='nobody'))
