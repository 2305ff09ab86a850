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
from ..spaces import Row, Step

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
    steps = (Step('mean', size, chs, 1, chs), Step('flatten', 1, chs, 1, chs))
    return Row('mean', 'mean', size, chs, 1, chs, 1, 1, 0, 0, 're', False, macs=0, params=0, steps=steps)


def layers(row: Row) -> tuple[Layer, ...]:
    """The weighted layers of a row."""
    return tuple(layer for step in row.all_steps for layer in _layers(step))


def _layers(step: Step) -> list[Layer]:
    if step.kind == 'se':
        return [Layer(step.name, '', (step.hidden, step.in_chs, 1, 1), True),
                Layer(step.second, '', (step.in_chs, step.hidden, 1, 1), True)]
    if step.kind == 'linear':
        return [Layer(step.name, '', (step.out_chs, step.in_chs), True)]
    kernel = (step.kernel_size, step.kernel_size)
    shape = step.out_chs, step.in_chs // step.groups, *kernel
    return [Layer(step.name, step.norm, shape, step.bias)] if step.kind == 'conv' else []


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
    if rows[0].place is not None:
        return [row.place or '' for row in rows]
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
