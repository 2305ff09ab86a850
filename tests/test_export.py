"""Rows as ONNX and as torch: the same numbers as the stock timm model."""
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import pytest
import torch
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.mobilenetv3 import MobileNetV3
from torch import nn

from timm_ofa.errors import InputError
from timm_ofa.export import fold_weights, mean_row, random_input, to_onnx, to_torch
from timm_ofa.space import load_space

onnxruntime = pytest.importorskip('onnxruntime')


def run(model: bytes, x: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(model, providers=['CPUExecutionProvider']).run(None, {'x': x})[0]


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(b).max())


def stock_timm(space, arch, bn_eps=1e-5, head_bias=False):
    """timm's MobileNetV3 of an arch, nothing of it at its default."""
    torch.manual_seed(0)
    model = MobileNetV3(
        decode_arch_def(space.arch_def(arch)), num_classes=space.num_classes, stem_size=space.stem_width, fix_stem=True,
        num_features=space.num_features, head_bias=head_bias, act_layer=nn.Hardswish,
        norm_layer=partial(nn.BatchNorm2d, eps=bn_eps), round_chs_fn=round_channels,
        se_layer=partial(SqueezeExcite, gate_layer='hard_sigmoid', force_act_layer=nn.ReLU, rd_round_fn=round_channels))
    model.conv_stem.stride = (space.stem_stride, space.stem_stride)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.uniform_(tensor, -1, 1)
    return model.eval()


@pytest.mark.parametrize('name, resolution', [('ofa_mbv3_tiny', 28), ('ofa_mbv3_w10', 132)])
@pytest.mark.parametrize('bn_eps', [1e-5, 1e-2])
def test_onnx_and_torch_rows_equal_the_timm_model(name, resolution, bn_eps, rng):
    space = load_space(name)
    arch = replace(space.sample(rng), resolution=resolution)
    model, rows = stock_timm(space, arch, bn_eps), space.rows(arch)
    x = random_input(rows, batch_size=2, seed=1)
    with torch.no_grad():
        expected = model(torch.from_numpy(x)).numpy()
        ours = to_torch(rows, weights=model.state_dict(), bn_eps=bn_eps)(torch.from_numpy(x)).numpy()
    file = to_onnx(rows, weights=model.state_dict(), bn_eps=bn_eps, batch_size=2)
    onnx.checker.check_model(onnx.load_from_string(file), full_check=True)
    assert relative_error(run(file, x), expected) < 1e-5
    assert relative_error(ours, expected) < 1e-5


def test_a_head_with_bias_keeps_it(rng):
    space = load_space('ofa_mbv3_tiny')
    arch = space.sample(rng)
    model, rows = stock_timm(space, arch, head_bias=True), space.rows(arch)
    x = random_input(rows)
    with torch.no_grad():
        expected = model(torch.from_numpy(x)).numpy()
    assert relative_error(run(to_onnx(rows, weights=model.state_dict()), x), expected) < 1e-5


def test_weights_of_another_network_are_refused_by_name(rng):
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


def relu6(row):
    return replace(row, act='r6', block=row.block.replace('_nre', '_nr6').replace('_nhs', '_nr6'))


TINY_ROWS = load_space('ofa_mbv3_tiny').all_rows(20)


@pytest.mark.parametrize('row', [*TINY_ROWS, *map(relu6, TINY_ROWS[:3])], ids=lambda row: row.key)
def test_any_single_row_is_a_graph_of_its_own(row):
    rows = [row] if row.kind == 'head' else [row, mean_row(row.out_size, row.out_chs)]
    x = random_input(rows, batch_size=2)
    torch_y = to_torch(rows, seed=3)(torch.from_numpy(x)).numpy()
    assert torch_y.shape == (2, row.out_chs)
    assert relative_error(run(to_onnx(rows, seed=3, batch_size=2), x), torch_y) < 1e-5
    assert relative_error(run(to_onnx(rows, seed=4, batch_size=2), x), torch_y) > 1e-2


def test_a_part_of_a_network_keeps_its_map():
    rows = TINY_ROWS[:2]
    y = run(to_onnx(rows), random_input(rows))
    assert y.shape == (1, rows[-1].out_chs, rows[-1].out_size, rows[-1].out_size)


def test_the_rows_hold_as_many_parameters_as_they_say(rng):
    space = load_space('ofa_mbv3_tiny')
    arch = space.sample(rng)
    assert sum(p.numel() for p in to_torch(space.rows(arch)).parameters()) == space.params(arch)


def test_an_onnx_file_is_the_same_every_time():
    assert to_onnx(TINY_ROWS[:1], seed=1) == to_onnx(TINY_ROWS[:1], seed=1)
