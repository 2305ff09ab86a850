"""Search spaces that are read off timm networks: the conformance suite, on a few small names of each kind of block.

`tests/bench/bench_names.py` runs the same checks on all names of timm.
"""
import copy
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.models._hub import save_for_hf

import timm_ofa
from timm_ofa import InputError, MaxMacs, SearchSpace, load_space, search, space_of, supernet_of
from timm_ofa.devices.heldout import check_networks
from timm_ofa.devices.memory import MemoryTable, peak_memory_mb
from timm_ofa.devices.plan import make_plan
from timm_ofa.hub.record import Accuracy, Record
from timm_ofa.hub.saving import add_onnx, save_folder
from timm_ofa.networks import initialize, load_supernet, new_supernet
from timm_ofa.networks.flexible import conv_same
from timm_ofa.networks.ofa import ofa_timm
from timm_ofa.training.recipes import coupled
from timm_ofa.training.runs import save_supernet

sys.path.insert(0, str(Path(__file__).parents[1] / 'bench'))
from bench_names import check, randomize

NAMES = [  # a small name of each kind: ir, ds, er, cn, uir, basic, bottle; squeeze-excite, paddings, stems
    'lcnet_035', 'mobilenetv3_small_050', 'tf_mobilenetv3_small_minimal_100', 'tinynet_e', 'test_efficientnet',
    'mobilenetv4_conv_small_035', 'test_resnet', 'resnet10t']
SMALL = 'tf_mobilenetv3_small_minimal_100'


@pytest.fixture(scope='module')
def supernet():
    torch.manual_seed(0)
    network = randomize(timm.create_model(SMALL, num_classes=7))
    return supernet_of(network, resolutions=[32, 48, 64]).eval()


@pytest.mark.parametrize('name', NAMES)
def test_the_network_is_the_largest_subnet_and_subnets_are_stock_networks(name):
    pytest.importorskip('onnxruntime')
    space = space_of(name, resolutions=[64])
    largest, others, _ = check(name, space, subnets=2)  # counts are compared there too, and ONNX
    assert largest == 0 and others == 0


def test_byobnets_are_read_and_run():
    assert check('gernet_s', space_of('gernet_s', resolutions=[64]), subnets=0)[0] == 0


def test_choices_belong_to_positions():
    space = space_of('efficientnet_b0')
    kernels = [block.kernel_sizes for stage in space.stages for block in stage.blocks]
    assert set(kernels) == {(3,), (3, 5)}
    by_position = dict(zip(space.positions, map(space.choices, range(len(space.positions)))))
    assert by_position[0, 0] == [(3, 1)] and len(by_position[2, 1]) == 8
    arch = space.max_arch()
    assert arch.kernel_size[2] == (5, 5) and arch.depth == (1, 2, 2, 3, 3, 4, 1)
    assert space.resolutions == (128, 160, 192, 224) and space.min_arch().depth == (1, 1, 1, 2, 2, 2, 1)
    with pytest.raises(InputError, match='kernel_size 5 in stage 2 is not in efficientnet_b0; choose from 3'):
        space.check(replace(arch, kernel_size=(*arch.kernel_size[:1], (5, 3), *arch.kernel_size[2:])))


def test_rules_are_arguments():
    space = space_of('efficientnet_b0', ratios=(1, 0.25), kernel_sizes=(3,), least_depth=1, resolutions=(96, 100))
    assert {b.expand_ratios for s in space.stages for b in s.blocks} == {(1,), (0.25, 1)}
    assert {s.depths for s in space.stages} == {(1,), (2,), (3,), (4,)} and space.resolutions == (96, 100)
    for wrong, naming in (({'ratios': (0, 1)}, 'ratios'), ({'least_depth': 2}, 'least_depth'),
                          ({'resolutions': (4,)}, 'resolutions'), ({'kernel_sizes': ('x',)}, 'kernel_sizes')):
        with pytest.raises(InputError, match=naming):
            space_of('efficientnet_b0', **wrong)


@pytest.mark.parametrize('name, naming', [
    ('mixnet_s', r'blocks.1.0.conv_pw is a MixedConv2d'), ('efficientnet_cc_b0_4e', r'blocks.4.0 is a CondConvRes'),
    ('mobilenetv4_hybrid_medium', r'blocks.2.4 is a MobileAttention'), ('efficientnet_b0_gn', 'bn1 is a GroupNormAct'),
    ('resnext50_32x4d', r'layer1.0.conv2 is Conv2d\(.*groups=32'),
    ('efficientnet_blur_b0', r'blocks.1.0.aa is a BlurPool2d'),
    ('ecaresnet50d', r'layer1.0.se is a EcaModule|layer1.0.se.conv'), ('resnet50_clip', 'AttentionPool2d'),
    ('vit_tiny_patch16_224', 'a VisionTransformer is no class'), ('nonet', 'no network that timm knows')])
def test_what_no_space_holds_is_one_line_that_names_the_layer(name, naming):
    with pytest.raises(InputError, match=naming) as error:
        space_of(name)
    assert '\n' not in str(error.value)


def test_a_network_of_the_users_own_making_is_refused_by_its_layer():
    model = timm.create_model(SMALL)
    model.blocks[1][0].bn1.eps = 0.5
    with pytest.raises(InputError, match=r'blocks\.1\.0\.bn1 of this network is not as in'):
        space_of(model)
    with pytest.raises(InputError, match='a Linear is no network that timm knows'):
        space_of(torch.nn.Linear(2, 2))


def test_a_space_is_a_file_like_any_other(supernet, tmp_path):
    (tmp_path / 'own.json').write_text(json.dumps(supernet.space.to_dict()))
    assert load_space(tmp_path / 'own.json') == supernet.space
    archs = supernet.space.sample(np.random.default_rng(0), 20)
    space = supernet.space
    assert space.decode(space.encode(archs)) == archs and [space.parse(str(a)) for a in archs] == archs


def test_an_arch_of_ratios_with_many_decimals_is_its_text(supernet):
    space = SearchSpace.from_dict(json.loads(json.dumps(supernet.space.to_dict()).replace('0.3333', '0.33333333')))
    arch = space.min_arch()
    assert 0.33333333 in arch.expand_ratio[2] and space.parse(str(arch)) == arch


def changed(data, *path, to):
    data = json.loads(json.dumps(data))
    inside = data
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = to
    return data


@pytest.mark.parametrize('path, to, naming', [
    (('network',), None, 'only the family timm has one'),
    (('stages', 1, 'stride'), 1, 'stage 2 does not have as many blocks'),
    (('stages', 1, 'blocks', 0, 'expand_ratios'), [0.3], 'has choices that its stage does not have'),
    (('stages', 1, 'blocks', 0, 'layers'), [], 'stage 2 has no blocks, or a block without layers'),
    (('stages', 1, 'blocks'), [], 'stage 2 has no blocks'),
    (('stages', 1, 'depths'), [], 'stage 2 does not have as many blocks'),
    (('stages', 1, 'blocks', 0, 'layers', 0), {'kind': 'se'}, 'a layer has no channels'),
    (('stages', 1, 'blocks', 0, 'mid_chs'), 0, 'conv_pw has no channels'), (('stem_widths',), [[]], 'one width'),
    (('network', 'stem', 0, 'width'), 0, 'conv_stem has no channels'),
    (('stages', 3, 'blocks', 1, 'layers', 1, 'stride'), 2, 'blocks.3.1 has a stride inside its stage'),
    (('stages', 1, 'blocks', 0, 'layers', 0, 'act'), 'xx', "act: 'xx' is unknown"),
    (('network', 'name'), '../x', 'does not match'), (('stem_stride',), 1, 'shrinks the image by 2')])
def test_a_stranger_space_is_checked(supernet, path, to, naming):
    with pytest.raises(InputError, match=naming):
        SearchSpace.from_dict(changed(supernet.space.to_dict(), *path, to=to))


def test_a_space_that_is_not_of_its_network_makes_no_supernet(supernet):
    wrong = changed(supernet.space.to_dict(), 'stages', 1, 'blocks', 0, 'mid_chs', to=64)
    with pytest.raises(InputError, match=r'blocks.1.0 of the space .* is not that of'):
        new_supernet(SearchSpace.from_dict(wrong), num_classes=7)
    data = supernet.space.to_dict()
    block = data['stages'][1]['blocks'][-1]
    more = changed(data, 'stages', 1, to={
        **data['stages'][1], 'depths': [3], 'blocks': [*data['stages'][1]['blocks'], {**block, 'place': 'blocks.1.2'}]})
    for wrong in (more, changed(data, 'stages', to=data['stages'][:-1])):
        with pytest.raises(InputError, match=r'the number of stages or blocks of the space .* is not that of'):
            new_supernet(SearchSpace.from_dict(wrong), num_classes=7)


def test_a_space_with_fewer_choices_has_a_supernet_too():
    space = space_of('tinynet_e', resolutions=[64])
    few = space.restrict(kernel_sizes=[3], expand_ratios=[0.3333, 0.5], depths=[1])
    own, x = new_supernet(few, num_classes=7).eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(own(x, few.max_arch()), own.extract(few.max_arch())(x))
    assert max(few.max_arch().depth) == 1 and own.blocks[2][0].conv_dw.kernel_size == (5, 5)


def test_a_supernet_is_saved_and_loaded(supernet, tmp_path):
    save_supernet(supernet, tmp_path / 'net', {'data': 'x', 'class_names': []})
    loaded, x = load_supernet(str(tmp_path / 'net')).eval(), torch.randn(2, 3, 64, 64)
    arch = supernet.space.sample(np.random.default_rng(1))
    assert loaded.space == supernet.space and torch.equal(loaded(x, arch), supernet(x, arch))


def test_a_subnet_is_published_as_a_stock_network(supernet, tmp_path):
    space = supernet.space
    arch = space.parse('r64:k3/3/3,3/3/3,3/1:e1/0.5/0.6667,0.5/0.3333/1,0.5/1')
    record = Record(
        name='small_any_64px', space=space, arch=arch, num_classes=7, top1_pct=1.0,
        class_names=list('abcdefg'), accuracy=Accuracy(dataset='d', split='test', n=7, protocol='top-1'),
        code_version='t')
    net = save_folder(tmp_path / 'net', supernet.extract(arch).eval(), record)
    add_onnx(net)  # its logits are compared with torch's
    loaded = timm.create_model(f'local-dir:{net}', pretrained=True).eval()
    assert type(loaded) is timm.models.MobileNetV3 and {type(m).__module__.split('.')[0] for m in loaded.modules()} <= {
        'timm', 'torch'}
    features = timm.create_model(f'local-dir:{net}', pretrained=True, features_only=True, out_indices=(1, 3))
    assert [tuple(f.shape) for f in features(torch.zeros(1, 3, 64, 64))] == [(1, 16, 16, 16), (1, 48, 4, 4)]


@pytest.mark.parametrize('network, blocks, naming', [
    ('nonet', None, 'no network of timm'), ('ofa_timm', None, 'no network of timm'),
    ('vit_tiny_patch16_224', None, 'no class'),
    (SMALL, [[[3, 0]]], 'blocks has 1 stages'), (SMALL, 'x', 'blocks'),
    (SMALL, [[[3, 0]], [[3, 0]], [[3, 8]], [[3, 8]], [[3, 8]], [[1, 0]]], '0 middle channels cannot be cut out of 72'),
    (SMALL, [[[2, 0]], [[3, 8]], [[3, 8]], [[3, 8]], [[3, 8]], [[1, 0]]], 'kernel size 2 cannot be cut out of 3')])
def test_a_stranger_config_builds_no_network(network, blocks, naming):
    with pytest.raises(InputError, match=naming):
        ofa_timm(network=network, blocks=blocks)


def test_tables_searches_and_plans_take_the_space(supernet):
    space, rng = supernet.space, np.random.default_rng(0)
    archs = space.sample(rng, 60)
    codes, macs, memory = space.encode(archs), space.cost_table(lambda row: row.macs), MemoryTable.of(space)
    assert macs(codes).tolist() == [space.macs(arch) for arch in archs]
    np.testing.assert_allclose(memory(codes), [peak_memory_mb(space, arch) for arch in archs])
    assert {str(arch) for group in check_networks(space, 4).values() for arch in group}
    rows = space.all_rows(64)
    assert all(set(space.rows(arch)) <= set(rows) for arch in archs if arch.resolution == 64)
    assert len({row.key for row in rows}) == len(rows) and make_plan(space, [64], check_nets=2).groups['64']
    top1 = [50 + np.log(space.macs(arch)) for arch in archs]
    limit = MaxMacs(space.macs(space.max_arch()) * 0.6)
    for predictor in (timm_ofa.AccuracyPredictor, timm_ofa.AdditivePredictor):
        fitted = predictor.fit(space, archs, top1)
        found = search(space, fitted, limits=[limit], steps=20).best
        assert space.macs(found.arch) <= limit.maximum
    for nothing in ({'kernel_sizes': []}, {'expand_ratios': []}):
        with pytest.raises(InputError, match=f'{next(iter(nothing))} .. leave nothing of tf_mobilenetv3'):
            space.restrict(**nothing)
    few = space.restrict(expand_ratios=[0.5], kernel_sizes=[3], deepest=1, resolutions=[64])
    assert few.size() == 1 and fitted.predict([space.check(few.max_arch())]).shape == (1,)
    assert space.check(coupled(space, archs[0])).depth == archs[0].depth


def test_sorting_keeps_the_function(supernet):
    own, x = copy.deepcopy(supernet), torch.randn(2, 3, 64, 64)
    before = own(x)
    own.sort_channels()
    torch.testing.assert_close(own(x), before, rtol=1e-4, atol=1e-4)
    weight = own.blocks[2][0].conv_pwl.weight.abs().sum((0, 2, 3))
    assert (weight.diff() <= 0).all()


def test_gradients_reach_what_a_subnet_uses_and_nothing_else(supernet):
    own = new_supernet(supernet.space, num_classes=7)
    arch = supernet.space.min_arch(32)
    own(torch.randn(4, 3, 32, 32), arch).square().sum().backward()
    grad = own.blocks[1][0].conv_pw.weight.grad
    mid = own.blocks[1][0].mid_chs(arch.expand_ratio[1][0])
    assert grad[:mid].abs().sum() > 0 and not grad[mid:].any() and own.blocks[2][-1].conv_pw.weight.grad is None


@pytest.mark.parametrize('side, kernel', [(8, 5), (9, 5), (8, 3), (10, 7)])
def test_padding_as_tensorflow_does_is_the_same_in_training(side, kernel):
    x, weight = torch.randn(2, 4, side, side, dtype=torch.double), torch.randn(4, 1, kernel, kernel, dtype=torch.double)
    with torch.no_grad():
        expected = conv_same(x, weight, (2, 2), True)
    torch.testing.assert_close(conv_same(x, weight.requires_grad_(), (2, 2), True), expected)


def test_a_run_begins_with_the_weights_of_the_network(supernet, tmp_path):
    torch.manual_seed(0)
    model = randomize(timm.create_model(SMALL, num_classes=7)).eval()
    save_for_hf(model, str(tmp_path / 'own'), safe_serialization=True, model_args={'num_classes': 7})
    own, x = new_supernet(supernet.space, num_classes=7).eval(), torch.randn(2, 3, 64, 64)
    assert not initialize(own, str(tmp_path / 'own'))
    with torch.no_grad():
        assert torch.equal(own(x), model(x))
    fewer = new_supernet(supernet.space, num_classes=3)
    initialize(fewer, str(tmp_path / 'own'))
    assert not fewer.classifier.weight.any() and torch.equal(fewer.conv_head.weight, model.conv_head.weight)
    with pytest.raises(InputError, match='is not the network that tinynet_e was read off'):
        initialize(new_supernet(space_of('tinynet_e')), str(tmp_path / 'own'))
