"""A stock timm network, narrowed: fewer blocks, smaller depthwise kernels, fewer middle channels.

The network is built by timm's own name first, so that everything but these is as timm builds it. Its class and all of
its modules are timm's.
"""
from __future__ import annotations

from collections.abc import Sequence

import timm
import torch
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import nn

from ..errors import InputError
from .flexible import KINDS, kernel_link, middle
from .frames import frame_of


def stock(name: str, **kwargs) -> nn.Module:
    """A network of timm's by its name, with random weights."""
    if not isinstance(name, str) or not timm.is_model(name) or name.startswith('ofa_'):
        raise InputError(f'network {name!r:.80} is no network of timm; give a name of timm.list_models()')
    network = timm.create_model(name, **kwargs)
    frame_of(network)
    return network


def narrowed(name: str, blocks: Sequence[Sequence[Sequence[int]]] | None, **kwargs) -> nn.Module:
    """A network of timm's by its name, cut to the blocks; None: whole. See `ofa_timm`."""
    network = stock(name, **kwargs)
    if blocks is not None:
        narrow(network, blocks)
    return network


@torch.no_grad()
def narrow(network: nn.Module, blocks: Sequence[Sequence[Sequence[int]]]) -> None:
    """Cut a stock network, in place: its first blocks, channels and kernel centers stay."""
    stages = frame_of(network).stages
    if len(blocks) != len(stages):
        raise InputError(f'blocks has {len(blocks)} stages, the network has {len(stages)}; give one list for each')
    for number, (stage, choices) in enumerate(zip(stages, blocks), 1):
        if not 0 < len(choices) <= len(stage) or any(len(choice) != 2 for choice in choices):
            raise InputError(f'blocks of stage {number} are {list(choices)!r:.80}; give [kernel size, middle channels] '
                             f'for 1 to {len(stage)} blocks')
        del stage[len(choices):]
        for block, (kernel_size, mid_chs) in zip(stage, choices):
            narrow_block(block, kernel_size, mid_chs, f'block of stage {number}')


def narrow_block(block: nn.Module, kernel_size: int, mid_chs: int, where: str) -> None:
    """Cut a stock block, in place."""
    if type(block) not in KINDS:
        raise InputError(f'{where} is a {type(block).__name__}, which cannot be narrowed; give another network')
    chain = KINDS[type(block)].chain(block)
    inside, smaller = middle(chain), kernel_link(chain)
    sides = [link.conv.kernel_size[0] for link in chain.links]
    own_side = max(sides) if smaller is None else sides[smaller]
    own = chain.links[inside[0]].conv.out_channels if inside else 0
    if not (kernel_size == own_side or (smaller is not None and kernel_size in range(1, own_side, 2))):
        raise InputError(f'{where}: kernel size {kernel_size} cannot be cut out of {own_side}; give an odd one below')
    if not (mid_chs == own or 0 < mid_chs < own):
        raise InputError(f'{where}: {mid_chs} middle channels cannot be cut out of {own}; give fewer')
    for i, link in enumerate(chain.links):
        outputs = mid_chs if i in inside else link.conv.out_channels
        inputs = mid_chs if i - 1 in inside else link.conv.in_channels
        _cut_conv(link.conv, outputs, inputs, kernel_size if i == smaller else sides[i])
        _cut_norm(link.norm, outputs)
        if i in inside:
            for se in (layer for layer in link.then if isinstance(layer, SqueezeExcite)):
                _cut_conv(se.conv_reduce, se.conv_reduce.out_channels, outputs, 1)
                _cut_conv(se.conv_expand, outputs, se.conv_expand.in_channels, 1)


def _cut_conv(conv: nn.Conv2d, outputs: int, inputs: int, side: int) -> None:
    if conv.groups > 1:
        conv.groups = inputs
    start, padded = (conv.kernel_size[0] - side) // 2, conv.padding == (conv.kernel_size[0] // 2,) * 2
    center = slice(start, start + side)
    conv.weight = _cut(conv.weight, (slice(outputs), slice(inputs // conv.groups), center, center))
    conv.bias = conv.bias if conv.bias is None else _cut(conv.bias, (slice(outputs),))
    conv.out_channels, conv.in_channels, conv.kernel_size = outputs, inputs, (side, side)
    if padded:
        conv.padding = (side // 2, side // 2)


def _cut_norm(norm: nn.BatchNorm2d, channels: int) -> None:
    norm.weight, norm.bias = (_cut(tensor, (slice(channels),)) for tensor in (norm.weight, norm.bias))
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean, norm.running_var = (
        tensor[:channels].clone() for tensor in (norm.running_mean, norm.running_var))
    norm.num_features = channels


def _cut(tensor: torch.Tensor, part: tuple[slice, ...]) -> nn.Parameter:
    return nn.Parameter(tensor[part].clone(), requires_grad=tensor.requires_grad)
