"""Rows as ONNX and as torch: the same numbers as the stock timm model."""
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from runtime_makers import SMALL, logits, relative_error, run, stock_timm
from torch import nn

from timm_ofa.errors import InputError
from timm_ofa.runtimes import mean_row, to_onnx
from timm_ofa.runtimes.layers import fold_weights, random_input
from timm_ofa.runtimes.torch_export import to_torch
from timm_ofa.spaces import load_space, space_names


@pytest.mark.parametrize('side', ['even', 'odd'])
@pytest.mark.parametrize('name', space_names())
def test_onnx_and_torch_rows_equal_the_timm_model(name, side, rng):
    space = load_space(name)
    arch = replace(space.sample(rng), resolution=space.resolutions[0])
    model = stock_timm(space, arch)
    rows = space.rows(replace(arch, resolution={'even': arch.resolution, 'odd': 3 * space.reduction + 1}[side]))
    x = random_input(rows, batch_size=2, seed=1)
    file = to_onnx(rows, weights=model.state_dict(), bn_eps=space.bn_eps, batch_size=2)
    onnx.checker.check_model(onnx.load_from_string(file), full_check=True)
    expected = logits(model, x)
    assert relative_error(run(file, x), expected) < 1e-4
    assert relative_error(logits(to_torch(rows, weights=model.state_dict(), bn_eps=space.bn_eps), x), expected) < 1e-4


@pytest.mark.parametrize('name', ['ofa_mbv3_tiny', 'ofa_proxyless_w13'])  # the shortcut of timm's ByobNet has its own
def test_the_epsilon_of_batchnorm_counts(name):
    space = load_space(name)
    arch = space.min_arch()
    model, rows = stock_timm(space, arch, bn_eps=0.1), space.rows(arch)
    x = random_input(rows)
    right, wrong = (run(to_onnx(rows, weights=model.state_dict(), bn_eps=eps), x) for eps in (0.1, space.bn_eps))
    assert relative_error(right, logits(model, x)) < 1e-4 < 1e-2 < relative_error(wrong, logits(model, x))


@pytest.mark.parametrize('name', SMALL.values())
def test_one_onnx_file_takes_batches_of_any_size(name):
    space = load_space(name)
    rows = space.rows(space.min_arch())
    file = to_onnx(rows, batch_size=None)
    onnx.checker.check_model(onnx.load_from_string(file), full_check=True)
    x = random_input(rows, batch_size=5)
    y = run(file, x)
    assert y.shape == (5, space.num_classes)
    np.testing.assert_allclose(run(file, x[:1]), y[:1], rtol=1e-4, atol=1e-5)
    assert relative_error(y, run(to_onnx(rows, batch_size=5), x)) < 1e-6


@pytest.mark.parametrize('name', SMALL.values())
def test_torch_export_takes_the_stock_model_with_any_batch(name):
    space = load_space(name)
    arch = space.min_arch()
    model = stock_timm(space, arch)
    x = torch.randn(2, 3, arch.resolution, arch.resolution)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim('N')},))
    x = random_input(space.rows(arch), batch_size=5)
    assert relative_error(logits(program.module(), x), logits(model, x)) < 1e-5


def test_a_head_with_bias_keeps_it(rng):
    space = load_space('ofa_mbv3_tiny')
    arch = space.sample(rng)
    model, rows = stock_timm(space, arch), space.rows(arch)
    x = random_input(rows)
    without = logits(model, x)
    model.conv_head.bias = nn.Parameter(torch.randn(space.num_features))
    expected = logits(model, x)
    assert relative_error(run(to_onnx(rows, weights=model.state_dict()), x), expected) < 1e-4
    assert relative_error(without, expected) > 1e-2


def test_weights_of_another_network_are_refused_by_name():
    space = load_space('ofa_mbv3_tiny')
    small, large = space.min_arch(32), space.max_arch(32)
    weights = stock_timm(space, small).state_dict()
    with pytest.raises(InputError, match='weights of 5 blocks do not fit 13 rows'):
        fold_weights(space.rows(large), weights)
    wider = replace(small, expand_ratio=((3,), (2,), (2,)))
    with pytest.raises(InputError, match=r"'blocks.1.0.conv_pw.weight' are \(32, 16, 1, 1\), the network needs \(48"):
        fold_weights(space.rows(wider), weights)
    del weights['classifier.bias']
    with pytest.raises(InputError, match=r"weights hold no 'classifier.bias'"):
        fold_weights(space.rows(small), weights)
    with pytest.raises(InputError, match='give all rows of the network'):
        fold_weights(space.rows(small)[1:], weights)
    resnet = load_space('ofa_resnet_tiny')
    with pytest.raises(InputError, match='give all rows of the network'):
        fold_weights(resnet.rows(resnet.min_arch()), weights)


def relu6(row):
    return replace(row, act='r6', block=row.block.replace('_nre', '_nr6').replace('_nhs', '_nr6'))


TINY_ROWS = load_space('ofa_mbv3_tiny').all_rows(20)
RESNET_ROWS = load_space('ofa_resnet_tiny').all_rows(28)  # sides 28, 14, 7: an odd one in the last stage
KINDS = {(r.kind, r.stride, r.skip): r for r in [*RESNET_ROWS, *load_space('ofa_resnet50d').all_rows(132)]}


@pytest.mark.parametrize('row', [*TINY_ROWS, *map(relu6, TINY_ROWS[:3]), *KINDS.values()], ids=lambda row: row.key)
def test_any_single_row_is_a_graph_of_its_own(row):
    rows = [row] if row.kind == 'head' else [row, mean_row(row.out_size, row.out_chs)]
    x = random_input(rows, batch_size=2)
    torch_y = to_torch(rows, seed=3)(torch.from_numpy(x)).numpy()
    assert torch_y.shape == (2, row.out_chs)
    assert relative_error(run(to_onnx(rows, seed=3, batch_size=2), x), torch_y) < 1e-5
    other = relative_error(run(to_onnx(rows, seed=4, batch_size=2), x), torch_y)
    assert other > 1e-2 if row.params else other < 1e-5


def test_a_part_of_a_network_keeps_its_map():
    rows = TINY_ROWS[:2]
    y = run(to_onnx(rows), random_input(rows))
    assert y.shape == (1, rows[-1].out_chs, rows[-1].out_size, rows[-1].out_size)


@pytest.mark.parametrize('name', SMALL.values())
def test_the_rows_hold_as_many_parameters_as_they_say(name, rng):
    space = load_space(name)
    arch = space.sample(rng)
    assert sum(p.numel() for p in to_torch(space.rows(arch)).parameters()) == space.params(arch)


def test_an_onnx_file_is_the_same_every_time():
    assert to_onnx(TINY_ROWS[:1], seed=1) == to_onnx(TINY_ROWS[:1], seed=1)
