"""Checkpoints of the original Once-for-All code under timm's names. Each tensor must be found, and none left over.

The original has spelled its names in several ways: `.mobile_inverted_conv.` or `.conv.` after a block's number, layer
names once or twice. All of them are read. A family of networks is one table of name rules in `FAMILIES`.
"""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.models import clean_state_dict
from timm.models.byobnet import ByobNet
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from torch import nn

from ..errors import InputError

TWICE = re.compile(r'\.(conv|bn|linear)\.\1\.')  # the original's elastic layers wrap the plain ones
OLD_BLOCK = re.compile(r'^(blocks\.\d+)\.mobile_inverted_conv\.')
STEM_UNIT = re.compile(r'^(input_stem\.\d+)\.(?:\w+\.)*(conv|bn)\.(\w+)$')  # a residual one is wrapped once more
OURS_BLOCK = re.compile(r'((?:blocks|stages)\.\d+\.\d+)\.(.+)')
OURS_KERNEL = re.compile(r'k(\d+to\d+)')  # a kernel matrix, '7to5_matrix' in the original


@dataclass(frozen=True)
class NameRules:
    """The original's names of a family's layers, by our names."""
    anchor: str  # a tensor that only our names have
    layers: Mapping[str, str]  # outside the blocks
    blocks: Mapping[str, Mapping[str, str]]  # a layer that only this kind of block has -> the layers of the block
    unnumbered: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # the same for blocks without a number


MOBILE_BLOCKS = {
    'conv_pwl': {
        'conv_pw': 'conv.inverted_bottleneck.conv',
        'bn1': 'conv.inverted_bottleneck.bn',
        'conv_dw': 'conv.depth_conv.conv',
        'kernel_transform': 'conv.depth_conv.conv',
        'bn2': 'conv.depth_conv.bn',
        'se.conv_reduce': 'conv.depth_conv.se.fc.reduce',
        'se.conv_expand': 'conv.depth_conv.se.fc.expand',
        'conv_pwl': 'conv.point_linear.conv',
        'bn3': 'conv.point_linear.bn',
    },
    'conv_dw': {
        'conv_dw': 'conv.depth_conv.conv',
        'bn1': 'conv.depth_conv.bn',
        'conv_pw': 'conv.point_linear.conv',
        'bn2': 'conv.point_linear.bn',
    },
}
MOBILE_LAYERS = {
    'conv_stem': 'first_conv.conv',
    'bn1': 'first_conv.bn',
    'conv_head': 'feature_mix_layer.conv',
    'classifier': 'classifier.linear',
}
MOBILENETV3 = NameRules(
    anchor='conv_stem.weight',
    layers=MOBILE_LAYERS,
    blocks=MOBILE_BLOCKS,
    unnumbered={'conv': {'conv': 'final_expand_layer.conv', 'bn1': 'final_expand_layer.bn'}},
)
PROXYLESS = NameRules(
    anchor='conv_stem.weight', layers={**MOBILE_LAYERS, 'bn2': 'feature_mix_layer.bn'}, blocks=MOBILE_BLOCKS)
RESNET = NameRules(
    anchor='stem.conv1.conv.weight',
    layers={
        'head.fc': 'classifier.linear',
        **{f'stem.conv{i + 1}.{kind}': f'input_stem.{i}.{kind}' for i in range(3) for kind in ('conv', 'bn')}},
    blocks={'conv1_1x1': {
        f'{ours}.{kind}': f'{theirs}.{kind}' for kind in ('conv', 'bn') for ours, theirs in {
            'conv1_1x1': 'conv1', 'conv2_kxk': 'conv2', 'conv3_1x1': 'conv3', 'shortcut.conv': 'downsample'}.items()}},
)
FAMILIES: tuple[tuple[type[nn.Module], NameRules], ...] = (
    (MobileNetV3, MOBILENETV3), (EfficientNet, PROXYLESS), (ByobNet, RESNET))


def convert_upstream(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, torch.Tensor]:
    """A checkpoint of the original code -> the state dict of `model`, with the same values.

    Args:
        state_dict: Tensors by name, or {'state_dict': tensors}. Tensors that already have our names are returned as
            they are.
        model: A subnet or a supernet of the same architecture. Only its names and shapes are read, so it may be on
            the meta device.

    Raises:
        InputError: A tensor is missing, left over or of another shape; the message names it.
    """
    rules = next((rules for kind, rules in FAMILIES if isinstance(model, kind)), None)
    if rules is None:
        known = ', '.join(kind.__name__ for kind, _ in FAMILIES)
        raise InputError(f'{type(model).__name__} has no name rules; build one of: {known}')
    tensors = _unwrap(state_dict)
    if rules.anchor in tensors:
        return dict(tensors)
    theirs = _plain_names(tensors)
    expected = model.state_dict()
    converted = {
        ours: _take(theirs, name, ours, expected[ours].shape) for ours, name in upstream_names(expected, rules).items()}
    if theirs:
        raise InputError(
            f'upstream tensor {next(iter(theirs))!r:.120} has no place in the model ({len(theirs)} left over); '
            'give the checkpoint of this very architecture')
    return converted


def upstream_names(ours: Iterable[str], rules: NameRules) -> dict[str, str]:
    """Our tensor names -> the original's, with each layer named once. The original numbers blocks across stages."""
    names = list(ours)
    layers: dict[str, set[str]] = {}  # by block, in order
    for name in names:
        if match := OURS_BLOCK.fullmatch(name):
            layers.setdefault(match[1], set()).add(match[2].split('.')[0])
    tables, number = {}, 0
    for block, found in layers.items():
        kind = next(kind for kind in (*rules.unnumbered, *rules.blocks) if kind in found)
        if kind in rules.unnumbered:
            tables[block] = rules.unnumbered[kind]
        else:
            tables[block] = {k: f'blocks.{number}.{v}' for k, v in rules.blocks[kind].items()}
            number += 1
    return {name: _upstream_name(name, tables, rules) for name in names}


def _upstream_name(name: str, tables: Mapping[str, Mapping[str, str]], rules: NameRules) -> str:
    match = OURS_BLOCK.fullmatch(name)
    table, inner = (tables[match[1]], match[2]) if match else (rules.layers, name)
    layer, leaf = inner.rsplit('.', 1)
    return '.'.join([table[layer], OURS_KERNEL.sub(r'\1_matrix', leaf)])


def _unwrap(state_dict: Any) -> dict[str, torch.Tensor]:
    if isinstance(state_dict, Mapping) and isinstance(state_dict.get('state_dict'), Mapping):
        state_dict = state_dict['state_dict']
    if not isinstance(state_dict, Mapping) or not state_dict:
        raise InputError(f"checkpoint {state_dict!r:.60} holds no tensors; give {{'state_dict': {{name: tensor}}}}")
    for name, tensor in state_dict.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise InputError(
                f"checkpoint entry {name!r:.80} is a {type(tensor).__name__}; give {{'state_dict': {{name: tensor}}}}")
    return clean_state_dict(dict(state_dict))


def _plain_names(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors under the original's newest spelling, with each layer named once."""
    plain: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        short = STEM_UNIT.sub(r'\1.\2.\3', TWICE.sub(r'.\1.', OLD_BLOCK.sub(r'\1.conv.', name)))
        if short in plain:
            raise InputError(f'upstream tensor {name!r:.120} is there under two spellings; remove one')
        plain[short] = tensor
    return plain


def _take(theirs: dict[str, torch.Tensor], name: str, ours: str, shape: torch.Size) -> torch.Tensor:
    tensor = theirs.pop(name, None)
    if tensor is None:
        raise InputError(
            f'upstream tensor {name!r} is missing (it becomes {ours!r}); give the checkpoint of this very architecture')
    if tensor.shape != shape:
        raise InputError(
            f'upstream tensor {name!r} has the shape {tuple(tensor.shape)}, {ours!r} needs {tuple(shape)}; '
            'give the checkpoint of this very architecture')
    return tensor
