"""Subnets are stock timm networks, and behave as timm's own do; so do supernets."""
import inspect
import json
import math
import warnings
from dataclasses import replace

import pytest
import timm
import torch
from few_networks import FEW
from fresh import python
from timm.models import get_pretrained_cfg_value
from timm.models.efficientnet import EfficientNet, EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3, MobileNetV3Features
from torch import nn

from timm_ofa import InputError, load_space
from timm_ofa.networks import ENTRY_POINTS, data_cfg, model_args
from timm_ofa.networks.stock import OFAResNet, ResidualStemConv, set_stem_stride
from timm_ofa.spaces.shelf import space_names

SPACES = space_names()
SMALL = ['ofa_mbv3_tiny', 'ofa_proxyless_w13', 'ofa_resnet_tiny']  # one a family
INDICES = [None, (0, -2), (1, -1), (-1,)]  # of feature levels; None: all
BOTTLE = 'bottle_r1_k3_s2_e0.25_c64_nre'
STOCK = {  # family -> the class of a subnet, and of its features
    'mobilenetv3': (MobileNetV3, MobileNetV3Features), 'efficientnet': (EfficientNet, EfficientNetFeatures),
    'byobnet': (OFAResNet, timm.models.FeatureListNet)}


def build(space, arch, **kwargs):
    return timm.create_model(ENTRY_POINTS[space.family], **model_args(space, arch), **kwargs)


@pytest.fixture(scope='module')
def tiny():
    return load_space('ofa_mbv3_tiny')


@pytest.fixture(scope='module', params=[*map(load_space, SPACES), FEW], ids=lambda space: space.name)
def space(request):
    return request.param


@pytest.fixture(scope='module', params=SMALL)
def small(request):
    return load_space(request.param)


@pytest.fixture(params=['subnet', 'supernet'])
def create(request, small):
    """Keyword arguments -> a network of each family, as a subnet and as a supernet."""
    if request.param == 'supernet':
        return lambda **kwargs: timm.create_model(f'{small.name}_supernet', **kwargs)
    return lambda **kwargs: build(small, small.min_arch(), **kwargs)


def randomize_norms(model):
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_(std=0.1)
        norm.running_var.uniform_(0.5, 1.5)
    return model.eval()


RELOAD = """
import sys, timm, timm_ofa, torch
def run(name, x):
    model = timm.create_model(f'local-dir:{sys.argv[1]}/{name}', pretrained=True).eval()
    return model(x), model.pretrained_cfg['input_size']
inputs = torch.load(sys.argv[1] + '/x.pt')
torch.save({name: run(name, x) for name, x in inputs.items()}, sys.argv[1] + '/y.pt')
"""


@torch.no_grad()
def test_a_folder_saved_by_timm_gives_the_same_network_in_a_new_process(tmp_path, rng):
    inputs, expected = {}, {}
    for space in map(load_space, SPACES):
        arch = replace(space.sample(rng), resolution=min(space.resolutions))
        model = randomize_norms(
            build(space, arch, num_classes=7, pretrained_cfg_overlay=data_cfg(space, arch.resolution)))
        timm.models.save_for_hf(model, tmp_path / space.name, safe_serialization=True)
        inputs[space.name] = torch.randn(2, 3, 64, 64)
        expected[space.name] = (model(inputs[space.name]), (3, arch.resolution, arch.resolution))
    torch.save(inputs, tmp_path / 'x.pt')
    python(RELOAD, [str(tmp_path)])
    for name, (logits, input_size) in torch.load(tmp_path / 'y.pt').items():
        assert logits.shape == (2, 7) and torch.equal(logits, expected[name][0])
        assert input_size == expected[name][1]


@torch.no_grad()
@pytest.mark.parametrize('given', [{'act_layer': 'silu'}, {'global_pool': 'max'}], ids=str)
def test_what_was_given_comes_back_with_a_folder(small, given, tmp_path):
    model, x = randomize_norms(build(small, small.min_arch(), **given)), torch.randn(2, 3, 64, 64)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    again = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    assert torch.equal(again(x), model(x))


@pytest.mark.parametrize('given', [{'act_layer': 'nothing'}, {'act_layer': 3}, {'drop_rate': 2}, {'drop_rate': 'x'}])
def test_what_a_config_gives_wrongly_is_one_line(tiny, given, tmp_path):
    timm.models.save_for_hf(build(tiny, tiny.min_arch()), tmp_path, safe_serialization=True)
    config = json.loads((tmp_path / 'config.json').read_text())
    config['model_args'] |= given
    (tmp_path / 'config.json').write_text(json.dumps(config))
    with pytest.raises(InputError) as error:
        timm.create_model(f'local-dir:{tmp_path}', pretrained=True)
    assert '\n' not in str(error.value)


def test_a_subnet_is_exactly_the_stock_class(space, rng):
    with torch.device('meta'):
        model = build(space, space.sample(rng))
    assert type(model) is STOCK[space.family][0]
    own = {type(m) for m in model.modules() if type(m).__module__.split('.')[0] not in ('timm', 'torch')}
    assert own <= ({OFAResNet, ResidualStemConv} if space.family == 'byobnet' else set())
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {space.bn_eps}


def test_a_subnet_has_the_parameters_that_its_space_counts(space, rng):
    for arch in space.sample(rng, 3):
        model = build(space, arch, num_classes=space.num_classes, device='meta')
        assert sum(p.numel() for p in model.parameters()) == space.params(arch)


@torch.no_grad()
def test_the_middle_of_three_stem_convolutions_is_residual():
    args = dict(arch_def=[[BOTTLE]] * 2, stem_chs=[8, 8, 16])
    stem = randomize_norms(timm.create_model('ofa_byobnet', **args)).stem
    y = stem.conv1(torch.randn(1, 3, 16, 16))
    assert torch.equal(stem.conv2(y), stem.conv2.bn(stem.conv2.conv(y)).relu() + y)
    assert stem.conv2.conv.stride == (1, 1) and isinstance(stem.conv2, ResidualStemConv)


def test_model_args_are_json(space, rng):
    args = model_args(space, space.sample(rng))
    assert json.loads(json.dumps(args)) == args


def test_arguments_of_a_wrong_arch_are_refused(tiny):
    with pytest.raises(InputError, match='resolution 224'):
        model_args(tiny, load_space('ofa_mbv3_w10').max_arch())
    with pytest.raises(InputError, match='stages'):
        model_args(load_space('ofa_proxyless_w13'), load_space('ofa_mbv3_w10').max_arch())


@pytest.mark.parametrize('entry_point', [name for family, name in ENTRY_POINTS.items() if family != 'timm'])
def test_without_blocks_an_entry_point_is_the_smallest_net_and_keeps_what_is_given(entry_point):
    space = {'ofa_mobilenetv3': 'ofa_mbv3_w10', 'ofa_efficientnet': 'ofa_proxyless_w13', 'ofa_byobnet': 'ofa_resnet50d'}
    space = load_space(space[entry_point])
    model = timm.create_model(entry_point, device='meta')
    assert sum(p.numel() for p in model.parameters()) == space.params(space.min_arch())
    given = timm.create_model(entry_point, stem_stride=1, bn_eps=0.125, device='meta')
    assert given.get_submodule(given.default_cfg['first_conv']).stride == (1, 1)
    assert {m.eps for m in given.modules() if isinstance(m, nn.BatchNorm2d)} == {0.125}
    names = set(inspect.signature(timm.model_entrypoint(entry_point)).parameters)
    assert set(model_args(space, space.min_arch())) == names - {'pretrained', 'kwargs'}


# ---- images ----------------------------------------------------------------------------------------------------------


def resized_side(cfg):
    """To which side timm's evaluation resizes an image, px."""
    config = timm.data.resolve_data_config(pretrained_cfg=cfg)
    return timm.data.create_transform(**config).transforms[0].size


@pytest.mark.parametrize('resolution, side', [(224, 256), (192, 220), (160, 183), (128, 147), (236, 270)])
def test_crop_pct_makes_timm_resize_to_the_side_of_the_original(resolution, side):
    assert resized_side(data_cfg(load_space('ofa_mbv3_w12'), resolution)) == side


def test_timm_resizes_to_the_side_of_the_original_at_every_resolution(space):
    for r in (*space.resolutions, *space.extra_resolutions):
        assert resized_side(data_cfg(space, r)) == math.ceil(r / space.crop_pct)


def test_so_it_does_for_every_registered_network():
    for name in timm.list_models('ofa_*', exclude_filters='*_supernet'):
        cfg = timm.get_pretrained_cfg(name).to_dict()
        seen = 1 if '_cifar10_' in name else 0.875
        assert resized_side(cfg) == math.ceil(cfg['input_size'][1] / seen), name


# ---- features --------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize('indices', INDICES)
def test_features_have_the_channels_and_reductions_that_they_announce(space, indices, rng):
    arch = space.sample(rng)
    model = build(space, arch, features_only=True, **({'out_indices': indices} if indices else {})).eval()
    assert type(model) is STOCK[space.family][1]
    check_features(model, len(indices or range(levels(space, build(space, arch, device='meta')))))


@torch.no_grad()
@pytest.mark.parametrize('indices', INDICES)
def test_so_do_those_of_supernets(small, indices):
    name = f'{small.name}_supernet'
    model = timm.create_model(name, features_only=True, **({'out_indices': indices} if indices else {})).eval()
    check_features(model, len(indices or range(levels(small, timm.create_model(name, device='meta')))))


def levels(space, model):
    """The number of feature levels that a network announces, which is known of three stages or more, and of FEW."""
    n = len(model.feature_info)
    if space is FEW or len(space.stages) >= 3:
        assert n == (3 if space is FEW else 4 if space.stem_stride == 1 else 5)
    return n


def check_features(model, n):
    features = model(torch.randn(1, 3, 64, 64))
    assert len(features) == n
    assert [f.shape[1] for f in features] == model.feature_info.channels()
    assert [64 // f.shape[2] for f in features] == model.feature_info.reduction()


@torch.no_grad()
@pytest.mark.parametrize('stem_chs', [(8, 16), (8, 8, 16)])
@pytest.mark.parametrize('stem_stride', [1, 2])
@pytest.mark.parametrize('stem_pool', [True, False])
@pytest.mark.parametrize('strides', [(1, 2, 2), (2, 2), (2, 1, 2), (1, 1)])
def test_resnets_announce_true_features_with_any_stem(stem_chs, stem_stride, stem_pool, strides):
    args = dict(
        arch_def=[[BOTTLE.replace('s2', f's{stride}'), BOTTLE.replace('s2', 's1')] for stride in strides],
        stem_chs=stem_chs, stem_stride=stem_stride, stem_pool=stem_pool)
    reduction = stem_stride * (1 + stem_pool) * math.prod(strides)
    for feature_cls in ('list', 'getter', 'fx'):
        model = timm.create_model('ofa_byobnet', **args, features_only=True, feature_cls=feature_cls).eval()
        check_features(model, len(model.feature_info.channels()))
        assert model.feature_info.reduction()[-1] == reduction
    model = timm.create_model('ofa_byobnet', **args).eval()
    final, intermediates = model.forward_intermediates(torch.randn(1, 3, 64, 64))
    assert [64 // i.shape[2] for i in intermediates] == [info['reduction'] for info in model.feature_info]
    assert final.shape[2] == 64 // reduction


@torch.no_grad()
def test_features_by_another_class_of_timm_agree(small):
    """`feature_cls='getter'` wraps the whole network, the default is a class of its own."""
    arch, x = small.max_arch(), torch.randn(1, 3, 32, 32)
    own = build(small, arch, features_only=True, out_indices=(1, 3)).eval()
    wrapped = build(small, arch, features_only=True, out_indices=(1, 3), feature_cls='getter').eval()
    weights = {name.replace('stages_', 'stages.').replace('stem_', 'stem.'): w for name, w in own.state_dict().items()}
    missing = wrapped.model.load_state_dict(weights, strict=False).missing_keys
    assert not [name for name in missing if not name.startswith('head')]
    assert all(torch.equal(a, b) for a, b in zip(own(x), wrapped(x), strict=True))


@torch.no_grad()
def test_intermediates_are_what_forward_computes(create):
    model, x = create().eval(), torch.randn(1, 3, 64, 64)
    final, intermediates = model.forward_intermediates(x)
    assert torch.equal(final, model.forward_features(x))
    assert [i.shape[2] for i in intermediates] == [64 // info['reduction'] for info in model.feature_info]


def test_feature_indices_that_a_small_network_lacks_are_refused(tiny):
    with pytest.raises((InputError, IndexError, AssertionError)):
        build(tiny, tiny.max_arch(), features_only=True, out_indices=(0, 4))


# ---- the contract of timm --------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_head_can_be_replaced_and_left_out(create):
    model, x = create(num_classes=10).eval(), torch.randn(2, 3, 32, 32)
    classifier = model.get_classifier()
    assert isinstance(classifier, nn.Linear) and classifier.out_features == 10
    assert model.get_submodule(model.default_cfg['classifier']) is classifier
    pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    assert torch.equal(classifier(pooled), model(x)) and pooled.shape == (2, model.head_hidden_size)
    model.reset_classifier(3)
    assert model(x).shape == (2, 3) and model.num_classes == 3
    model.reset_classifier(0)
    assert torch.equal(model(x), pooled)
    assert create(num_classes=0).eval()(x).shape == pooled.shape


@torch.no_grad()
@pytest.mark.parametrize('in_chans', [1, 4])
def test_other_numbers_of_input_channels_are_built(create, in_chans):
    model = create(in_chans=in_chans, num_classes=5).eval()
    assert model.get_submodule(model.default_cfg['first_conv']).in_channels == in_chans == model.in_chans
    assert model(torch.randn(1, in_chans, 32, 32)).shape == (1, 5)


@pytest.mark.parametrize('space', [load_space(name) for name in SPACES], ids=SPACES)
def test_the_registry_knows_paper_license_and_data(space):
    for name in (ENTRY_POINTS[space.family], f'{space.name}_supernet'):
        cfg = timm.get_pretrained_cfg(name)
        assert cfg.license in ('apache-2.0', 'mit') and 'arXiv:1908.09791' in cfg.paper_ids
        names = dict(timm.create_model(name, device='meta').named_modules())
        assert cfg.first_conv in names and cfg.classifier in names
        assert name in timm.list_models('ofa_*')
    assert get_pretrained_cfg_value(f'{space.name}_supernet', 'input_size') == (3, *(max(space.resolutions),) * 2)
    assert timm.get_pretrained_cfg(f'{space.name}_supernet').mean == space.mean


def test_a_subnet_is_told_its_resolution_by_its_config(tiny):
    model = build(tiny, tiny.max_arch(), pretrained_cfg_overlay=data_cfg(tiny, 24))
    config = timm.data.resolve_model_data_config(model)
    assert config['input_size'] == (3, 24, 24) and config['mean'] == tiny.mean and config['crop_pct'] == 1.0
    assert model.pretrained_cfg['pool_size'] == (3, 3)


@torch.no_grad()
def test_a_network_can_be_traced_by_fx(create):
    model, x = create().eval(), torch.randn(2, 3, 32, 32)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))


def test_a_traced_supernet_refuses_an_arch(small):
    traced = torch.fx.symbolic_trace(timm.create_model(f'{small.name}_supernet').eval())
    with pytest.raises(InputError, match='trace of the largest network'):
        traced(torch.randn(1, 3, 32, 32), small.min_arch())


@torch.no_grad()
def test_a_subnet_can_be_scripted(small, rng):
    model, x = build(small, small.sample(rng), scriptable=True).eval(), torch.randn(2, 3, 24, 24)
    with warnings.catch_warnings():  # torch deprecates it, timm keeps it
        warnings.simplefilter('ignore')
        scripted = torch.jit.script(model)
    torch.testing.assert_close(scripted(x), model(x))


def test_parameter_groups_cover_every_parameter_from_stem_to_head(create):
    model = create()
    groups = timm.models.group_parameters(model, model.group_matcher())
    names = [name for group in groups.values() for name in group]
    assert sorted(names) == sorted(n for n, _ in model.named_parameters())
    first_conv, classifier = (f'{model.default_cfg[key]}.weight' for key in ('first_conv', 'classifier'))
    assert first_conv in groups[min(groups)] and classifier in groups[max(groups)] and len(groups) > 4


def test_gradient_checkpointing_gives_the_same_gradients(create):
    model, x = create().train(), torch.randn(4, 3, 32, 32)
    model(x).square().mean().backward()
    expected = {n: p.grad for n, p in model.named_parameters()}
    assert {n for n, g in expected.items() if g is None} == {n for n in expected if 'kernel_transform' in n}
    model.zero_grad()
    model.set_grad_checkpointing()
    model(x).square().mean().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], msg=name)


@pytest.mark.parametrize('entry_point', [name for family, name in ENTRY_POINTS.items() if family != 'timm'])
def test_a_stem_without_stride_halves_every_reduction(entry_point):
    full, halved = (timm.create_model(entry_point, stem_stride=stride, device='meta') for stride in (1, 2))
    assert [2 * i['reduction'] for i in full.feature_info] == [i['reduction'] for i in halved.feature_info]


def test_a_stem_keeps_its_stride_of_two():
    model = timm.create_model('ofa_mobilenetv3', device='meta')
    assert set_stem_stride(model, 2).conv_stem.stride == (2, 2)
