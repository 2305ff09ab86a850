"""timm's own tests of models, from timm's source distribution, over every kind of network of this package.

Found in the folder $TIMM_TESTS (`tests/` of the unpacked distribution), else downloaded once into pytest's cache.
"""
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import read_off_models
import timm

from timm_ofa import load_space
from timm_ofa.networks import ENTRY_POINTS

SMALL = ['ofa_mobilenetv3', 'ofa_efficientnet', 'ofa_byobnet', 'ofa_mbv3_tiny_supernet', 'ofa_resnet_tiny_supernet']
MODELS = [
    *SMALL, 'ofa_mbv3_note10_lat22ms', 'ofa_proxyless_cpu_lat11ms', 'ofa_resnet50d_flops600m', 'ofa_mbv3_w10_supernet',
    'ofa_proxyless_w13_supernet', 'ofa_resnet50d_supernet']
READ_OFF = [*read_off_models.SUBNETS, *read_off_models.SUPERNETS]  # of spaces that were read off networks
SUPERNETS = [name for name in (*MODELS, *READ_OFF) if name.endswith('_supernet')]
WITH_MATRICES = [name for name in SUPERNETS if not re.search('resnet|byobnet', name)]  # their kernel size is elastic

TESTS = {  # of timm, that take the name of a model -> models
    'test_model_forward': [*MODELS, *READ_OFF],
    'test_model_backward': [*MODELS, *READ_OFF],
    'test_model_default_cfgs': [*SMALL, 'ofa_mbv3_note10_lat22ms', *READ_OFF],
    'test_model_forward_features': SMALL,
    'test_model_forward_intermediates_features': [*SMALL, *READ_OFF],
    'test_model_forward_intermediates': SMALL,
    'test_model_forward_torchscript': SMALL,
    'test_model_forward_fx': [*SMALL, *READ_OFF],
    'test_model_backward_fx': SMALL,
    'test_model_forward_fx_torchscript': SMALL,
    'test_features_only_grad_checkpointing_backward': SMALL[:3],  # timm's wrapper of a supernet has no checkpointing
    'test_reset_classifier_keeps_pool': SMALL,
    'test_head_hidden_size': SMALL,
    'test_prune_intermediate_layers_contract': SMALL,  # slow
    'test_prune_intermediate_layers_params_used': SMALL,
}
NO_GRADIENT = (AssertionError, 'the largest network uses no kernel matrix, and the test wants a gradient of each')
NO_SCRIPT = (RuntimeError, 'a trace keeps calls of functions that TorchScript does not know')
EXCLUDED = {  # what a supernet cannot pass, and why; that it does not is checked
    'test_model_backward': (WITH_MATRICES, NO_GRADIENT),
    'test_model_backward_fx': (WITH_MATRICES, NO_GRADIENT),
    'test_prune_intermediate_layers_params_used': (WITH_MATRICES, NO_GRADIENT),
    'test_model_forward_fx_torchscript': (SUPERNETS, NO_SCRIPT),
}
ARGUMENTS = {'batch_size': 2, 'cfg_device': 'meta', 'model_kwargs': {}}  # of timm's tests besides the name

pytestmark = pytest.mark.filterwarnings('ignore:.torch.jit')  # deprecated by torch, still tested by timm


def cases():
    for test, models in TESTS.items():
        excluded, (error, reason) = EXCLUDED.get(test, ((), NO_GRADIENT))
        for model in models:
            marks = [pytest.mark.xfail(strict=True, raises=error, reason=reason)] if model in excluded else []
            yield pytest.param(test, model, marks=marks, id=f'{test.removeprefix("test_")}-{model}')


@pytest.fixture(scope='session')
def suite(request, tmp_path_factory):
    """timm's `test_models.py` as a module."""
    path = find_tests(request.config, tmp_path_factory) / 'test_models.py'
    for mark in set(re.findall(r'pytest\.mark\.(\w+)', path.read_text())):
        request.config.addinivalue_line('markers', f'{mark}: of timm')
    spec = importlib.util.spec_from_file_location('timm_test_models', path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        for name in ('GITHUB_ACTIONS', 'TORCH_BACKEND', 'TORCH_DEVICE'):  # it leaves tests out, or runs them elsewhere
            patch.delenv(name, raising=False)
        spec.loader.exec_module(module)
    return module


def find_tests(config, tmp_path_factory):
    """The folder `tests/` of the source distribution of the installed timm."""
    if 'TIMM_TESTS' in os.environ:
        return Path(os.environ['TIMM_TESTS'])
    folder = config.cache.mkdir('timm') if hasattr(config, 'cache') else tmp_path_factory.mktemp('timm')
    name = f'timm-{timm.__version__}'
    file = folder / f'{name}.tar.gz'
    if not file.is_file():
        download = [
            sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps', '--no-binary', 'timm', '--retries', '0',
            '--dest', str(folder), f'timm=={timm.__version__}']
        done = subprocess.run(download, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"timm's source distribution cannot be had: {done.stderr.strip()[-200:]!r}; set TIMM_TESTS")
    with tarfile.open(file) as archive:
        (folder / 'test_models.py').write_bytes(archive.extractfile(f'{name}/tests/test_models.py').read())
    return folder


@pytest.mark.parametrize('test, model', list(cases()))
def test_our_models_pass_what_timm_asks_of_its_own(suite, monkeypatch, test, model):
    if test == 'test_prune_intermediate_layers_contract':  # it asks a gradient of what is trained
        monkeypatch.setattr(suite, 'create_model', create_with_frozen_matrices)
    function = getattr(suite, test)
    arguments = {name: ARGUMENTS[name] for name in inspect.signature(function).parameters if name != 'model_name'}
    function(model, **arguments)


def create_with_frozen_matrices(*args, **kwargs):
    model = timm.create_model(*args, **kwargs)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_('kernel_transform' not in name)
    return model


def test_every_family_is_among_them():
    spaces = [load_space(name.removesuffix('_supernet')) for name in MODELS if name.endswith('_supernet')]
    assert set(ENTRY_POINTS.values()) <= {*MODELS, 'ofa_timm'}
    assert {space.family for space in (*spaces, *read_off_models.SPACES.values())} == set(ENTRY_POINTS)
