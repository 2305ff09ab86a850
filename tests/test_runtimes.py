"""What every runtime of the shelf must do; a new file there is tested by being there."""
import numpy as np
import pytest
import torch

from timm_ofa import runtimes
from timm_ofa.errors import InputError
from timm_ofa.export import to_torch
from timm_ofa.layers import random_input
from timm_ofa.runtimes import DEFAULT, load_runtime, runtime_names
from timm_ofa.space import load_space

SPACE = load_space('ofa_mbv3_tiny')
FAMILIES = ['ofa_mbv3_tiny', 'ofa_proxyless_w13', 'ofa_resnet_tiny']
MAX_ERROR = {'fp32': 1e-5}  # relative to the largest output, by precision


@pytest.fixture(params=runtime_names())
def runtime(request):
    try:
        return load_runtime(request.param)
    except InputError as error:
        pytest.skip(str(error))


def max_relative_error(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape and a.dtype == np.float32
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.mark.parametrize('batch_size', [1, 3])
@pytest.mark.parametrize('name', FAMILIES)
def test_a_whole_network_agrees_with_torch(runtime, name, batch_size, rng):
    space = load_space(name)
    rows = space.rows(space.sample(rng))
    x = random_input(rows, batch_size, seed=5)
    y = runtime.load(rows, batch_size=batch_size, seed=2).predict(x)
    assert max_relative_error(y, to_torch(rows, seed=2)(torch.from_numpy(x)).numpy()) < MAX_ERROR[runtime.PRECISION]


@pytest.mark.parametrize('part', [slice(0, 1), slice(1, 3), slice(-3, -1), slice(-1, None)])
@pytest.mark.parametrize('name', FAMILIES)
def test_a_part_of_a_network_agrees_with_torch(runtime, name, part):
    space = load_space(name)
    rows = space.rows(space.max_arch(space.resolutions[0]))[part]
    x = random_input(rows)
    y = runtime.load(rows).predict(x)
    assert max_relative_error(y, to_torch(rows)(torch.from_numpy(x)).numpy()) < MAX_ERROR[runtime.PRECISION]


def test_given_weights_are_the_ones_that_run(runtime):
    arch = SPACE.min_arch(20)
    rows = SPACE.rows(arch)
    model = to_torch(rows, seed=7)
    names = ['conv_stem', 'blocks.0.0', 'blocks.1.0', 'blocks.2.0', 'blocks.3.0', 'blocks.4.0', '']
    weights = {
        f'{name}.{key}'.lstrip('.').replace('conv_stem.conv.', 'conv_stem.').replace('conv_stem.bn1', 'bn1'): value
        for name, child in zip(names, model) for key, value in child.state_dict().items()}
    weights.pop('conv_head.bias', None)
    x = random_input(rows)
    y = runtime.load(rows, weights=weights, seed=1).predict(x)
    assert max_relative_error(y, model(torch.from_numpy(x)).numpy()) < MAX_ERROR[runtime.PRECISION]


def test_a_runner_runs_and_leaves_the_threads_of_torch_alone(runtime):
    before = torch.get_num_threads()
    runner = runtime.load(SPACE.rows(SPACE.min_arch(20)), threads=2 if before == 1 else 1)
    assert runner() is None
    assert torch.get_num_threads() == before


def test_a_runtime_names_itself(runtime, request):
    assert runtime.NAME in runtime_names() and runtime.REQUIRES
    assert runtime.version()[0].isdigit()


def test_two_threads_agree_with_one(runtime):
    rows = SPACE.rows(SPACE.max_arch(20))
    x = random_input(rows)
    one, two, again = (runtime.load(rows, threads=threads).predict(x) for threads in (1, 2, 2))
    assert max_relative_error(two, one) < MAX_ERROR[runtime.PRECISION]
    np.testing.assert_allclose(again, two, rtol=1e-5)


def test_an_unknown_runtime_lists_the_shelf():
    assert DEFAULT in runtime_names()
    with pytest.raises(InputError, match="runtime 'tensorrt' is not known; choose from onnxruntime, pytorch"):
        load_runtime('tensorrt')


def test_an_absent_package_says_what_to_install(monkeypatch):
    def absent():
        raise ImportError

    monkeypatch.setattr(load_runtime('onnxruntime'), 'version', absent)
    with pytest.raises(InputError, match=r"not installed; run: pip install 'onnxruntime>="):
        runtimes.load_runtime('onnxruntime')
