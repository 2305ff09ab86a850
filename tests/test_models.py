"""Subnets are stock timm networks, and behave as timm's own do."""
import json
import subprocess
import sys
import warnings
from dataclasses import replace

import pytest
import timm
import torch
from timm.models import get_pretrained_cfg_value
from timm.models._hub import save_config_for_hf
from timm.models.mobilenetv3 import MobileNetV3, MobileNetV3Features
from torch import nn

from timm_ofa import InputError, load_space
from timm_ofa.files import save_tensors
from timm_ofa.models import data_cfg, model_args, set_stem_stride

SPACES = ['ofa_mbv3_tiny', 'ofa_mbv3_w10', 'ofa_mbv3_w12']


def build(space, arch, **kwargs):
    return timm.create_model('ofa_mobilenetv3', **model_args(space, arch), **kwargs)


@pytest.fixture(scope='module')
def tiny():
    return load_space('ofa_mbv3_tiny')


@pytest.fixture(scope='module', params=SPACES)
def space(request):
    return load_space(request.param)


def publish_by_timm(model, args, folder):
    """What timm's own functions write for a model: `config.json` and `model.safetensors`."""
    folder.mkdir()
    save_config_for_hf(model, str(folder / 'config.json'), model_args=args)
    save_tensors(folder / 'model.safetensors', model.state_dict())


@torch.no_grad()
def test_a_saved_folder_gives_the_same_network_in_a_new_process(tmp_path, rng):
    names = {}
    for space in map(load_space, ('ofa_mbv3_tiny', 'ofa_mbv3_w10')):
        arch = replace(space.sample(rng), resolution=min(space.resolutions))
        model = build(space, arch, num_classes=7, pretrained_cfg_overlay=data_cfg(space, arch.resolution)).eval()
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.running_mean.normal_(std=0.1)
            norm.running_var.uniform_(0.5, 1.5)
        publish_by_timm(model, model_args(space, arch), tmp_path / space.name)
        x = torch.randn(2, 3, arch.resolution, arch.resolution)
        names[space.name] = (x, model(x), model.conv_stem.stride, (3, arch.resolution, arch.resolution))
    torch.save({name: values[0] for name, values in names.items()}, tmp_path / 'x.pt')
    code = (
        'import sys, timm, timm_ofa, torch\n'
        'def run(name, x):\n'
        "    m = timm.create_model(f'local-dir:{sys.argv[1]}/{name}', pretrained=True).eval()\n"
        "    return m(x), m.conv_stem.stride, m.pretrained_cfg['input_size']\n"
        "inputs = torch.load(sys.argv[1] + '/x.pt')\n"
        "torch.save({name: run(name, x) for name, x in inputs.items()}, sys.argv[1] + '/y.pt')\n")
    subprocess.run([sys.executable, '-c', code, str(tmp_path)], check=True)
    for name, (logits, *others) in torch.load(tmp_path / 'y.pt').items():
        _, expected, *expected_others = names[name]
        assert expected.shape == (2, 7) and torch.equal(logits, expected)
        assert others == expected_others


def test_a_subnet_is_exactly_the_stock_class(space, rng):
    with torch.device('meta'):
        model = build(space, space.sample(rng))
    assert type(model) is MobileNetV3
    assert {type(m).__module__.split('.')[0] for m in model.modules()} == {'timm', 'torch'}
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {space.bn_eps}


def test_model_args_are_json(space, rng):
    args = model_args(space, space.sample(rng))
    assert json.loads(json.dumps(args)) == args


def test_arguments_of_a_wrong_arch_are_refused(tiny):
    with pytest.raises(InputError, match='resolution 224'):
        model_args(tiny, load_space('ofa_mbv3_w10').max_arch())


@pytest.mark.parametrize('resolution, side', [(224, 256), (192, 220), (160, 183), (128, 147), (236, 270)])
def test_crop_pct_makes_timm_resize_to_the_side_of_the_original(resolution, side):
    crop_pct = data_cfg(load_space('ofa_mbv3_w12'), resolution)['crop_pct']
    assert int(resolution / crop_pct) == side


def test_timm_resizes_to_the_side_of_the_original_at_every_resolution():
    space = load_space('ofa_mbv3_w10')
    for r in (*space.resolutions, *space.extra_resolutions):
        assert int(r / data_cfg(space, r)['crop_pct']) == -(-r * 8 // 7)  # ceil(r / 0.875)


# ---- features --------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize('indices', [None, (0, 2), (1, 3), (-1,)])
def test_features_have_the_channels_and_reductions_that_they_announce(space, indices, rng):
    arch = space.sample(rng)
    model = build(space, arch, features_only=True, **({'out_indices': indices} if indices else {})).eval()
    assert type(model) is MobileNetV3Features
    features = model(torch.randn(1, 3, 64, 64))
    assert len(features) == len(indices or range(4 if space.name == 'ofa_mbv3_tiny' else 5))
    assert [f.shape[1] for f in features] == model.feature_info.channels()
    assert [64 // f.shape[2] for f in features] == model.feature_info.reduction()


@torch.no_grad()
def test_features_by_another_class_of_timm_agree(tiny):
    """`feature_cls='getter'` wraps the whole network, the default is a class of its own."""
    arch, x = tiny.max_arch(), torch.randn(1, 3, 32, 32)
    own = build(tiny, arch, features_only=True, out_indices=(1, 3)).eval()
    wrapped = build(tiny, arch, features_only=True, out_indices=(1, 3), feature_cls='getter').eval()
    wrapped.model.load_state_dict(own.state_dict(), strict=False)
    assert all(torch.equal(a, b) for a, b in zip(own(x), wrapped(x), strict=True))


@torch.no_grad()
def test_intermediates_of_a_subnet_are_what_forward_computes(tiny):
    model, x = build(tiny, tiny.max_arch()).eval(), torch.randn(1, 3, 32, 32)
    final, intermediates = model.forward_intermediates(x)
    assert torch.equal(final, model.forward_features(x))
    assert [i.shape[2] for i in intermediates] == [32 // info['reduction'] for info in model.feature_info]


def test_feature_indices_that_a_small_network_lacks_are_refused(tiny):
    with pytest.raises((InputError, IndexError, AssertionError)):
        build(tiny, tiny.max_arch(), features_only=True, out_indices=(0, 4))


# ---- what strangers may put into a config ----------------------------------------------------------------------------

GOOD = 'ir_r1_k5_s2_e3_c40_se0.25_nre'


@pytest.mark.parametrize('row', [
    'ir_r999999_k3_s1_e1_c16', GOOD.replace('r1', 'r2'), GOOD.replace('c40', 'c99999'), GOOD.replace('k5', 'k4'),
    GOOD.replace('k5', 'k99'), GOOD.replace('s2', 's0'), GOOD.replace('e3', 'e99'), GOOD.replace('e3', 'e0'),
    GOOD.replace('c40', 'c0'), GOOD.replace('nre', 'nsw'), GOOD.replace('se0.25', 'se9'), GOOD + '_skip', GOOD + '\n',
    'er' + GOOD[2:], '', ' ', '__import__', 'ir', None, 3, [GOOD], {}, GOOD.replace('k5', 'k٣')])
def test_a_hostile_block_string_is_refused(row):
    with pytest.raises(InputError, match='arch_def row') as error:
        timm.create_model('ofa_mobilenetv3', arch_def=[[GOOD], [row]])
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('arch_def', [
    [], [[]], [[GOOD], []], 'ir', 3, {}, [GOOD], [[GOOD]] * 13, [[GOOD] * 17], [[GOOD], None], [[[GOOD]] * 17]],
    ids=lambda arch_def: f'{arch_def!r:.20}')
def test_an_arch_def_of_the_wrong_shape_is_refused(arch_def):
    with pytest.raises(InputError, match='arch_def') as error:
        timm.create_model('ofa_mobilenetv3', arch_def=arch_def)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('wrong', [{'act': 'gelu'}, {'stem_stride': 4}, {'stem_stride': 0}])
def test_wrong_arguments_name_field_and_choices(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(InputError, match=f'{name} {value!r}.*choose'):
        timm.create_model('ofa_mobilenetv3', **wrong)


@pytest.mark.parametrize('wrong', [{'archdef': [[GOOD]]}, {'resolution': 32}, {'kernel_size': 3}])
def test_unknown_arguments_are_type_errors(wrong):
    with pytest.raises(TypeError, match=next(iter(wrong))):
        timm.create_model('ofa_mobilenetv3', **wrong)


# ---- the contract of timm --------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_head_can_be_replaced_and_left_out(tiny):
    model, x = build(tiny, tiny.min_arch(), num_classes=10).eval(), torch.randn(2, 3, 32, 32)
    assert model.get_classifier() is model.classifier
    pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    assert torch.equal(model.classifier(pooled), model(x)) and pooled.shape == (2, tiny.num_features)
    model.reset_classifier(3)
    assert model(x).shape == (2, 3) and model.num_classes == 3
    model.reset_classifier(0)
    assert torch.equal(model(x), pooled)
    assert build(tiny, tiny.min_arch(), num_classes=0).eval()(x).shape == (2, tiny.num_features)


@torch.no_grad()
def test_other_numbers_of_input_channels_are_built(tiny):
    for in_chans in (1, 4):
        model = build(tiny, tiny.min_arch(), in_chans=in_chans, num_classes=5).eval()
        assert model(torch.randn(1, in_chans, 32, 32)).shape == (1, 5)


def test_the_registry_knows_paper_license_and_data(space):
    for name in ('ofa_mobilenetv3', f'{space.name}_supernet'):
        cfg = timm.get_pretrained_cfg(name)
        assert cfg.license == 'apache-2.0' and 'arXiv:1908.09791' in cfg.paper_ids
        assert cfg.first_conv == 'conv_stem' and cfg.classifier == 'classifier'
    assert get_pretrained_cfg_value(f'{space.name}_supernet', 'input_size') == (3, *(max(space.resolutions),) * 2)
    assert timm.get_pretrained_cfg(f'{space.name}_supernet').mean == space.mean
    assert {'ofa_mobilenetv3', f'{space.name}_supernet'} <= set(timm.list_models('ofa_*'))


def test_a_subnet_is_told_its_resolution_by_its_config(tiny):
    model = build(tiny, tiny.max_arch(), pretrained_cfg_overlay=data_cfg(tiny, 24))
    config = timm.data.resolve_model_data_config(model)
    assert config['input_size'] == (3, 24, 24) and config['mean'] == tiny.mean and config['crop_pct'] == 1.0
    assert model.pretrained_cfg['pool_size'] == (3, 3)


@torch.no_grad()
def test_a_subnet_can_be_traced_by_fx(tiny, rng):
    model, x = build(tiny, tiny.sample(rng)).eval(), torch.randn(2, 3, 24, 24)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))


@torch.no_grad()
def test_a_subnet_can_be_scripted(tiny, rng):
    model, x = build(tiny, tiny.sample(rng), scriptable=True).eval(), torch.randn(2, 3, 24, 24)
    with warnings.catch_warnings():  # torch deprecates it, timm keeps it
        warnings.simplefilter('ignore')
        scripted = torch.jit.script(model)
    torch.testing.assert_close(scripted(x), model(x))


def test_parameter_groups_cover_every_parameter(tiny):
    model = build(tiny, tiny.max_arch())
    matcher = model.group_matcher()
    groups = timm.models.group_parameters(model, matcher)
    assert sorted(name for names in groups.values() for name in names) == sorted(n for n, _ in model.named_parameters())


def test_gradient_checkpointing_gives_the_same_gradients(tiny):
    model, x = build(tiny, tiny.min_arch()).train(), torch.randn(4, 3, 24, 24)
    model(x).square().mean().backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    model.set_grad_checkpointing()
    model(x).square().mean().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], msg=name)


def test_a_stem_without_stride_halves_every_reduction(tiny):
    args = model_args(tiny, tiny.max_arch())
    halved = timm.create_model('ofa_mobilenetv3', **{**args, 'stem_stride': 2}, device='meta')
    full = timm.create_model('ofa_mobilenetv3', **args, device='meta')
    assert [2 * i['reduction'] for i in full.feature_info] == [i['reduction'] for i in halved.feature_info]
    assert set_stem_stride(halved, 2).conv_stem.stride == (2, 2)
