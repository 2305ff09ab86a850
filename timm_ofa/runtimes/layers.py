"""The weights of rows: which layers a row has, and their weights, either random or from a stock timm model.

Everything that runs rows (an ONNX file, a torch module) takes its weights from here. BatchNorm is folded into the
convolution before it, so that each layer is a weight and a bias.

Besides the kinds of `Row`, a list of rows may end in one of kind 'mean': a global mean, flattened. Probes end so.
"""
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from ..errors import InputError
from ..spaces import Row

BN_EPS = 1e-5
BLOCK = re.compile(r'(blocks|stages)\.(\d+)\.(\d+)\.')
RENAMED = {  # place of a row + name of a module in it -> timm's name for it, where the two differ
    'conv_stem.conv': 'conv_stem', 'conv_stem.bn1': 'bn1', 'conv_head.conv': 'conv_head', 'conv_head.bn1': 'bn2',
    'head.classifier': 'head.fc', **{f'stem.conv{i}.bn1': f'stem.conv{i}.bn' for i in (1, 2, 3)}}


class Layer(NamedTuple):
    """A convolution or linear layer of a row, under timm's names."""
    name: str
    norm: str  # the BatchNorm that follows it; '': none
    shape: tuple[int, ...]  # of the weight
    bias: bool  # whether it has its own bias


Weights = dict[str, tuple[np.ndarray, np.ndarray | None]]  # layer name -> (weight, bias), BatchNorm folded


def mean_row(size: int, chs: int) -> Row:
    """The last row of a probe: (N, C, H, W) -> (N, C)."""
    return Row('mean', 'mean', size, chs, 1, chs, 1, 1, 0, 0, 're', False, macs=0, params=0)


def layers(row: Row) -> tuple[Layer, ...]:
    """The weighted layers of a row."""
    mid, kernel = row.mid_chs, (row.kernel_size, row.kernel_size)
    if row.kind == 'conv':
        return (Layer('conv', 'bn1', (row.out_chs, row.in_chs, *kernel), False),)
    if row.kind == 'res':
        return (Layer('conv', 'bn', (row.out_chs, row.in_chs, *kernel), False),)
    if row.kind == 'ds':
        return (
            Layer('conv_dw', 'bn1', (mid, 1, *kernel), False), *_squeeze_excite(row),
            Layer('conv_pw', 'bn2', (row.out_chs, mid, 1, 1), False))
    if row.kind == 'ir':
        return (
            Layer('conv_pw', 'bn1', (mid, row.in_chs, 1, 1), False), Layer('conv_dw', 'bn2', (mid, 1, *kernel), False),
            *_squeeze_excite(row), Layer('conv_pwl', 'bn3', (row.out_chs, mid, 1, 1), False))
    if row.kind == 'bottle':
        shapes = {
            'conv1_1x1': (mid, row.in_chs, 1, 1), 'conv2_kxk': (mid, mid, *kernel),
            'conv3_1x1': (row.out_chs, mid, 1, 1)}
        if not row.skip:
            shapes['shortcut.conv'] = (row.out_chs, row.in_chs, 1, 1)
        return tuple(Layer(f'{name}.conv', f'{name}.bn', shape, False) for name, shape in shapes.items())
    if row.kind == 'head':
        features = (Layer('conv_head', '', (mid, row.in_chs, 1, 1), False),) if mid else ()
        return (*features, Layer('classifier', '', (row.out_chs, mid or row.in_chs), True))
    assert row.kind in ('pool', 'mean'), row.kind
    return ()


def _squeeze_excite(row: Row) -> tuple[Layer, ...]:
    if not row.se_chs:
        return ()
    return (
        Layer('se.conv_reduce', '', (row.se_chs, row.mid_chs, 1, 1), True),
        Layer('se.conv_expand', '', (row.mid_chs, row.se_chs, 1, 1), True))


def row_weights(rows: Sequence[Row], weights: Mapping[str, torch.Tensor] | None, bn_eps: float,
                seed: int) -> list[Weights]:
    """Weights for each row: `fold_weights` of a state dict, or, where that is None, random ones from the seed."""
    return random_weights(rows, seed) if weights is None else fold_weights(rows, weights, bn_eps)


def random_weights(rows: Sequence[Row], seed: int = 0) -> list[Weights]:
    """Weights for each row. Activations stay near 1 in size; biases are small but not zero."""
    rng = np.random.default_rng(seed)

    def draw(layer: Layer) -> tuple[np.ndarray, np.ndarray | None]:
        scale = np.float32((2 / np.prod(layer.shape[1:])) ** 0.5)
        bias = rng.standard_normal(layer.shape[0], np.float32) / 10 if layer.norm or layer.bias else None
        return rng.standard_normal(layer.shape, np.float32) * scale, bias

    return [{layer.name: draw(layer) for layer in layers(row)} for row in rows]


def fold_weights(rows: Sequence[Row], state_dict: Mapping[str, torch.Tensor], bn_eps: float = BN_EPS) -> list[Weights]:
    """Weights for each row of a whole network, from its stock timm model; an `InputError` names a wrong tensor."""
    def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in state_dict:
            raise InputError(f'weights hold no {name!r}; give the state_dict of the timm model of this very arch')
        if tuple(state_dict[name].shape) != shape:
            raise InputError(
                f'weights {name!r} are {tuple(state_dict[name].shape)}, the network needs {shape}; '
                'give the state_dict of the timm model of this very arch')
        return state_dict[name].detach().double().cpu().numpy()

    def fold(place: str, layer: Layer) -> tuple[np.ndarray, np.ndarray | None]:
        name, norm = (RENAMED.get(f'{place}{part}', f'{place}{part}') for part in (layer.name, layer.norm))
        weight, chs = tensor(f'{name}.weight', layer.shape), layer.shape[:1]
        bias = tensor(f'{name}.bias', chs) if layer.bias or f'{name}.bias' in state_dict else None
        if layer.norm:
            gain = tensor(f'{norm}.weight', chs) / np.sqrt(tensor(f'{norm}.running_var', chs) + bn_eps)
            weight = weight * gain.reshape(-1, *[1] * (weight.ndim - 1))
            bias = tensor(f'{norm}.bias', chs) - gain * tensor(f'{norm}.running_mean', chs)
        return weight.astype(np.float32), None if bias is None else bias.astype(np.float32)

    return [
        {layer.name: fold(place, layer) for layer in layers(row)}
        for place, row in zip(_places(rows, state_dict), rows)]


def _places(rows: Sequence[Row], state_dict: Mapping) -> list[str]:
    """For each row of a whole network, the prefix of its names in timm's state dict: stem, blocks in order, head."""
    found = {(match[1], int(match[2]), int(match[3])) for match in map(BLOCK.match, state_dict) if match}
    blocks = [f'{name}.{stage}.{block}.' for name, stage, block in sorted(found)]
    start = next((i for i, row in enumerate(rows) if row.kind in ('ds', 'bottle')), 0)
    if not start or rows[-1].kind != 'head':
        before, after = [], []
    elif rows[start].kind == 'bottle':
        before, after = [f'stem.conv{i}.' for i in range(1, start + 1)], ['head.']  # a pool has no weights
    else:
        before, after = ['conv_stem.'], [''] if rows[-1].mid_chs else ['conv_head.', '']
    if not before or len(before) + len(blocks) + len(after) != len(rows):
        raise InputError(
            f'weights of {len(blocks)} blocks do not fit {len(rows)} rows; '
            'give all rows of the network and the state_dict of its timm model')
    return [*before, *blocks, *after]


def input_shape(rows: Sequence[Row], batch_size: int = 1) -> tuple[int, int, int, int]:
    """(N, C, H, W) that a list of rows takes."""
    return batch_size, rows[0].in_chs, rows[0].size, rows[0].size


def random_input(rows: Sequence[Row], batch_size: int = 1, seed: int = 0) -> np.ndarray:
    """(N, C, H, W) float32 for a list of rows, standard normal."""
    return np.random.default_rng(seed).standard_normal(input_shape(rows, batch_size), np.float32)
