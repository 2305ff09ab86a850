"""From a candidate to a network: weights of its own, fine-tuning, its name, and all that is known of it."""
import re
from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState
from hub_makers import make_front, save_made_front
from timm.models.mobilenetv3 import MobileNetV3

import timm_ofa
from timm_ofa import InputError, load_space
from timm_ofa.accuracy import evaluate, recalibrate_bn, supernet_digest
from timm_ofa.devices import Conditions
from timm_ofa.hub import finishing
from timm_ofa.hub.card import render_card
from timm_ofa.hub.configs import named_subnets
from timm_ofa.hub.finishing import Source, arch_name, finish, finish_named
from timm_ofa.hub.record import MAX_NAME, NAME
from timm_ofa.images import Augment, load_data
from timm_ofa.networks.supernet import new_supernet
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
    ('amd-epyc', 2.0, 'ofa_mbv3_amd_epyc_lat2ms'), ('amd-epyc-9b14', 0.25, 'ofa_mbv3_amd_epyc_9b14_lat0p25ms')])
def test_names_say_device_and_limit(space, device, limit, expected):
    assert arch_name(space, Conditions(device=device, runtime='onnxruntime', threads=1), limit) == expected
    assert arch_name(space, None, None) == 'ofa_mbv3_any_subnet'


@pytest.mark.parametrize('name', ['My_Space', 'a b', 'x__y', 'é', 'n' * 90])
def test_a_network_of_any_space_on_any_device_has_a_name(space, name):
    space = replace(space, name=name)
    under = Conditions(device=f'd{"0" * 59}', runtime='torch-inductor', threads=64)
    names = {arch_name(space, under, limit) for limit in (0.25, 0.5, 1e-7, None)}
    names.add(arch_name(space, replace(under, device=f'{under.device[:-1]}1'), 0.25))
    assert len(names) == 5 and all(re.fullmatch(NAME, n) and len(n) <= MAX_NAME for n in names)
    assert sum(n.endswith('_lat0p25ms') for n in names) == 2


def test_what_a_record_cannot_hold_is_said_before_the_network_is_trained_on(supernet, tmp_path, monkeypatch):
    monkeypatch.setattr(finishing, 'finetune', lambda *_, **__: pytest.fail('it was trained on'))
    source = Source(supernet, 'test/supernet', load_data('digits', 20, limit=40), Augment(flip=False))
    found = replace(save_made_front(tmp_path / 'front.jsonl'), seed=-1)
    with pytest.raises(InputError, match='record: search: seed: -1'):
        finish(source, found.best(), found=found, training=FinetuneConfig(1))


def test_all_that_is_to_be_said_of_an_accuracy_fits_into_the_record(supernet, tmp_path, monkeypatch):
    monkeypatch.setattr(finishing, 'finetune', lambda model, *_, **__: model)
    data = replace(load_data('digits', 20, limit=40), name='flowers ' * 24, test_name='acme/other', skipped=1234)
    found = save_made_front(tmp_path / 'front.jsonl', [replace(c, top1_pct=100.4) for c in make_front()])
    source = Source(supernet, 'test/supernet', data, Augment(flip=False), repairs=True)
    _, record = finish(source, found.best(), found=found, training=FinetuneConfig(10, batch_size=8))
    assert record.check() == record and '1,234 broken images' in record.accuracy.protocol
    assert record.predicted_top1_pct == record.front[0].top1_pct == 100


def test_a_finished_network_says_all_that_is_known_of_it(supernet, space, tmp_path):
    data = load_data('digits', 20, limit=200)
    source = Source(supernet, 'test/supernet', data, Augment(flip=False))
    front, found = make_front(), save_made_front(tmp_path / 'front.jsonl')
    model, record = finish(source, found.front[3], found=found)
    assert type(model) is MobileNetV3 and not model.training
    assert record.name == 'ofa_mbv3_toy_phone_pytorch_lat4ms' and record.arch == front[3].arch
    assert (record.limit_ms, record.predicted_ms, record.predicted_top1_pct) == (4.0, 4.0, 54.0)
    assert record.limit_conditions == found.conditions and 'RMSE of the predictor 0.40 points' in render_card(record)
    assert record.accuracy.n == 360 and record.accuracy.split == 'test' and record.accuracy.dataset == 'digits'
    assert record.supernet.sha256 == supernet_digest(supernet) and record.calibration.images == 180
    assert [p.chosen for p in record.front].count(True) == 1 and len(record.front) == 6
    assert record.top1_pct == round(evaluate(model, data.test, space, 20), 3)
    assert [c.n for c in record.per_class] == torch.bincount(data.test.labels).tolist()
    assert record.top1_pct == round(sum(c.n * c.top1_pct for c in record.per_class) / 360, 3)
    worst = min(record.per_class, key=lambda c: c.top1_pct)
    assert f'| {worst.name} | {worst.n} | {worst.top1_pct:.1f} |' in render_card(record)
    _, alone = finish(source, found.front[0], name='ofa_mbv3_mine')
    assert alone.name == 'ofa_mbv3_mine' and alone.device is None and alone.front == () and alone.predicted_ms is None


def test_a_named_network_is_told_under_the_images_that_judged_it(supernet, space):
    cifar = replace(named_subnets()['ofa_mbv3_cifar10_epyc_lat0p6ms'], space=space, arch=space.min_arch(20))
    source = Source(supernet, 'test/supernet', load_data('digits', 20, limit=200), Augment(flip=False))
    _, record = finish_named(source, 'ofa_mbv3_mine', cifar)
    assert (record.accuracy.dataset, record.dataset_id, record.device) == ('digits', None, 'amd-epyc')
    card = render_card(record)
    assert 'cifar' not in card.split('## Architecture')[0] and 'top-1** on digits' in card


def test_a_front_without_a_limit_makes_a_network_without_one(supernet, space, tmp_path):
    source = Source(supernet, 'test/supernet', load_data('digits', 20, limit=200), Augment(flip=False))
    found = save_made_front(tmp_path / 'front.jsonl', limit_ms=None, limits=['300 M MACs'])
    _, record = finish(source, found.best(), found=found)
    assert record.name == 'ofa_mbv3_toy_phone_pytorch_subnet'
    assert (record.limit_ms, record.search.limit) == (None, '300 M MACs')
    assert 'under' not in render_card(record).split('## Load it')[0].split('searched for')[1].split(':')[0]


def test_a_finished_network_can_learn_from_the_largest_one(supernet, space):
    front = make_front()
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


def test_a_teacher_that_is_loaded_is_not_loaded_again_and_other_test_images_are_told(supernet, monkeypatch):
    data, asked = replace(load_data('digits', 20, limit=40), test_name='acme/other'), []
    monkeypatch.setattr(finishing, 'finetune', lambda model, *_, teacher, **__: asked.append(teacher) or model)
    source = Source(supernet, 'test/supernet', data, Augment(flip=False), teacher=supernet)
    _, record = finish(source, make_front()[0], training=FinetuneConfig(1, teacher='nobody', batch_size=8))
    assert asked == [supernet] and (record.accuracy.dataset, record.dataset_id) == ('acme/other', 'acme/other')
    assert record.accuracy.protocol.endswith('fine-tuned for 1 epoch; training images: digits')
