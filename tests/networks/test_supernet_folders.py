"""Supernets by name, and as saved folders."""
import json
from dataclasses import replace

import pytest
import timm
import torch
from refusals import one_line
from safetensors.torch import load_file, save_file
from supernet_makers import SPACES, images, randomize
from torch import nn

from timm_ofa import InputError, load_space
from timm_ofa.files import sha256_of
from timm_ofa.networks import Supernet, load_supernet, model_args, new_supernet
from timm_ofa.training.runs import save_supernet


def own_space():
    """A space that is not on the shelf, unlike all that are."""
    tiny = load_space('ofa_mbv3_tiny')
    stages = (replace(tiny.stages[0], depths=(2, 3)), replace(tiny.stages[2], kernel_sizes=(3, 7), widths=(48,)))
    return replace(tiny, name='own', stages=stages, stem_stride=2, resolutions=(40, 48), bn_eps=1e-3)


@torch.no_grad()
@pytest.mark.parametrize('space', [
    own_space(), load_space('ofa_mbv3_tiny'), load_space('ofa_mbv3_tiny').restrict(resolutions=[20, 28]),
    replace(load_space('ofa_mbv3_tiny'), bn_eps=1e-3), load_space('ofa_mbv3_w10').restrict(resolutions=[128])],
    ids=['own', 'shelf', 'fewer resolutions', 'shelf name, changed', 'one with a config, fewer resolutions'])
def test_a_saved_supernet_is_the_same_when_it_is_loaded(space, tmp_path, rng):
    supernet = randomize(new_supernet(space, num_classes=3))
    save_supernet(supernet, tmp_path, dict(data='none', class_names=['a', 'b', 'c']))
    loaded = load_supernet(str(tmp_path)).eval()
    assert isinstance(loaded, Supernet) and loaded.space == supernet.space == space
    assert {m.eps for m in loaded.modules() if isinstance(m, nn.BatchNorm2d)} == {space.bn_eps}
    arch = space.sample(rng)
    x = images(2, 3, arch.resolution, arch.resolution)
    assert torch.equal(loaded(x, arch), supernet(x, arch)) and loaded(x, arch).shape == (2, 3)
    block = json.loads((tmp_path / 'config.json').read_text())['timm_ofa']
    assert block['kind'] == 'supernet' and block['space'] == space.name
    assert sorted(p.name for p in tmp_path.iterdir()) == ['config.json', 'model.safetensors']


def test_a_folder_may_have_a_colon_in_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_supernet(new_supernet(load_space('ofa_mbv3_tiny'), num_classes=3), tmp_path / 'run-12:30', {})
    assert load_supernet('run-12:30').num_classes == 3


def test_supernets_of_every_space_are_registered():
    assert {f'{name}_supernet' for name in SPACES} <= set(timm.list_models('*_supernet'))
    assert timm.create_model('ofa_mbv3_w12_supernet', device='meta').space == load_space('ofa_mbv3_w12')


def test_the_published_numbers_of_parameters_are_met():
    for name, millions in (('ofa_mbv3_w10', 7.679), ('ofa_mbv3_w12', 10.716)):
        model = timm.create_model(f'{name}_supernet', device='meta')
        assert round(sum(p.numel() for p in model.parameters()) / 1e6, 3) == millions


@pytest.mark.parametrize('space, naming', [('ofa_mbv3_none', 'ofa_mbv3_none'), ({'name': 'x'}, 'missing')])
def test_a_supernet_of_no_space_is_refused(space, naming):
    with pytest.raises(InputError, match=naming):
        timm.create_model('ofa_supernet', space=space)


def test_a_space_of_a_config_is_a_name_or_its_content_never_a_path(tmp_path):
    """Anybody may have written a config: it must not make us open a file."""
    own = own_space()
    (tmp_path / 'own.json').write_text(json.dumps(own.to_dict()))
    assert timm.create_model('ofa_supernet', space=own.to_dict(), device='meta').space == own
    with pytest.raises(InputError, match=r'space: .* is not known'):
        timm.create_model('ofa_supernet', space=str(tmp_path / 'own.json'))
    save_supernet(randomize(new_supernet(own)), tmp_path, {})
    config = json.loads((tmp_path / 'config.json').read_text())
    config['model_args']['space'] = str(tmp_path / 'own.json')
    (tmp_path / 'config.json').write_text(json.dumps(config))
    with pytest.raises(InputError, match=r'space: .* is not known'):
        timm.create_model(f'local-dir:{tmp_path}', pretrained=True)


def test_unknown_arguments_are_type_errors():
    with pytest.raises(TypeError, match='arch_def'):
        timm.create_model('ofa_mbv3_tiny_supernet', arch_def=[])
    with pytest.raises(InputError, match='resolutions 100'):
        timm.create_model('ofa_mbv3_tiny_supernet', resolutions=[100])


def broken(folder, how):
    """A folder that holds no loadable supernet."""
    save_supernet(new_supernet(load_space('ofa_mbv3_tiny')), folder, {})
    config, weights = folder / 'config.json', folder / 'model.safetensors'
    if how == 'no weights':
        weights.unlink()
    elif how == 'no config':
        config.unlink()
    elif how == 'torn weights':
        weights.write_bytes(weights.read_bytes()[:1000])
    elif how == 'torn config':
        config.write_text(config.read_text()[:50])
    elif how == 'another space':
        config.write_text(config.read_text().replace('ofa_mbv3_tiny_supernet', 'ofa_mbv3_w10_supernet'))
    elif how == 'a subnet':
        space = load_space('ofa_mbv3_tiny')
        args = model_args(space, space.min_arch())
        timm.models._hub.save_config_for_hf(
            timm.create_model('ofa_mobilenetv3', **args), str(config), model_args=args)
    return str(folder)


@pytest.mark.parametrize('how', ['no weights', 'no config', 'torn weights', 'torn config', 'another space', 'a subnet'])
def test_a_folder_that_holds_no_supernet_is_one_line(how, tmp_path):
    with pytest.raises(InputError, match=f'{tmp_path.name}.*train.py') as error:
        load_supernet(broken(tmp_path, how))
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'source', ['', 'nowhere/at/all', 'ofa_mobilenetv3', 'ofa_mbv3_w99_supernet', 'local-dir:/nowhere', 'x:y'])
def test_a_source_that_is_no_supernet_is_one_line(source):
    with pytest.raises(InputError, match='supernet') as error:
        load_supernet(source)
    assert '\n' not in str(error.value)


# ---- what timm reads of a stranger's config.json ---------------------------------------------------------------------


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp('saved')
    save_supernet(randomize(new_supernet(load_space('ofa_mbv3_tiny'), num_classes=3)), folder, {})
    return folder


def changed(saved, folder, **fields):
    """The folder with other fields in its `config.json`; those of `pretrained_cfg` may be given alone."""
    config = json.loads((saved / 'config.json').read_text())
    for name, value in fields.items():
        place, _, key = name.rpartition('__')
        (config[place] if place else config)[key] = value
    (folder / 'config.json').write_text(json.dumps(config))
    (folder / 'model.safetensors').write_bytes((saved / 'model.safetensors').read_bytes())
    return f'local-dir:{folder}'


@pytest.mark.parametrize('fields', [
    dict(num_classes='3'), dict(num_classes=None), dict(num_classes=True), dict(num_classes=-1), dict(num_classes=[3]),
    dict(num_classes=3.5), dict(label_names=5), dict(label_names={'a': 1}), dict(label_names=[1, 2, 3]),
    dict(label_descriptions=4), dict(label_descriptions={'a': 1}), dict(pretrained_cfg=5), dict(pretrained_cfg=[1]),
    dict(pretrained_cfg='x'), dict(pretrained_cfg=None), dict(model_args=5), dict(model_args=[1]), dict(model_args='x'),
    dict(architecture=5), dict(architecture=None), dict(architecture='resnet18'), dict(pretrained_cfg__input_size='x'),
    dict(pretrained_cfg__input_size=[3, 0, 32]), dict(pretrained_cfg__mean=3), dict(pretrained_cfg__mean=['a']),
    dict(pretrained_cfg__std={}), dict(pretrained_cfg__crop_pct='1'), dict(pretrained_cfg__interpolation=2),
    dict(pretrained_cfg__crop_mode=[]), dict(pretrained_cfg__first_conv=7)], ids=str)
def test_a_field_of_a_wrong_kind_is_named_when_timm_loads_the_folder(fields, saved, tmp_path):
    with pytest.raises(InputError, match=next(iter(fields)).rpartition('__')[2]) as error:
        timm.create_model(changed(saved, tmp_path, **fields), pretrained=True)
    one_line(error)


def test_a_whole_number_may_be_written_as_a_float(saved, tmp_path):
    assert timm.create_model(changed(saved, tmp_path, num_classes=3.0), pretrained=True).num_classes == 3


def test_configs_of_others_are_read_as_timm_reads_them(tmp_path):
    (tmp_path / 'config.json').write_text(json.dumps(dict(architecture='resnet10t', num_classes=2, pretrained_cfg={})))
    assert timm.create_model(f'local-dir:{tmp_path}').num_classes == 2


# ---- other ways to build one -----------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['ofa_mbv3_tiny_supernet', 'ofa_resnet_tiny_supernet'])
@pytest.mark.parametrize('kwargs', [dict(features_only=True), {}])
def test_an_output_stride_is_refused_but_not_the_usual_one(name, kwargs):
    for stride in (8, 16):
        with pytest.raises(InputError, match=f'output_stride {stride} is not for the supernet {name}') as error:
            timm.create_model(name, output_stride=stride, **kwargs)
        one_line(error)
    assert timm.create_model(name, output_stride=32, device='meta', **kwargs)


@torch.no_grad()
@pytest.mark.filterwarnings('ignore:.torch.jit')
@pytest.mark.parametrize('space', ['ofa_mbv3_tiny', 'ofa_resnet_tiny'])
def test_a_script_of_a_supernet_is_that_of_its_largest_network(space):
    supernet = randomize(new_supernet(load_space(space), num_classes=3)).eval()
    x = images(2, 3, 24, 24)
    torch.testing.assert_close(torch.jit.script(supernet)(x), supernet(x))


@pytest.mark.parametrize('name', ['one_more', 'blocks.9.0.conv.weight'])
def test_a_file_with_a_tensor_too_many_is_refused(name, saved, tmp_path):
    source = changed(saved, tmp_path)
    tensors = load_file(tmp_path / 'model.safetensors')
    save_file({**tensors, name: torch.ones(2)}, tmp_path / 'model.safetensors')
    config = json.loads((tmp_path / 'config.json').read_text())
    config['timm_ofa']['model_sha256'] = sha256_of(tmp_path / 'model.safetensors')
    (tmp_path / 'config.json').write_text(json.dumps(config))
    with pytest.raises(InputError, match=rf"'{name}' has the shape \[2\], the network needs None"):
        timm.create_model(source, pretrained=True)
