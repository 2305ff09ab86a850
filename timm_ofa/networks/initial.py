"""What training begins with besides random weights: a supernet of the same space, or a network of timm's.

timm's pretrained networks become the largest subnet of a supernet that holds them, which then computes what they do:
narrower layers get channels that nothing reads yet, smaller kernels a border of zeros, missing blocks add nothing.
(Function-preserving growth: Chen, Goodfellow and Shlens, Net2Net, arXiv:1511.05641.)
"""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import timm
import torch
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from torch import nn

from ..errors import InputError, one_line
from .elastic import ElasticInvertedResidual
from .supernet import EfficientNetSupernet, MobileNetV3Supernet, Supernet

HOLDS = {MobileNetV3Supernet: MobileNetV3, EfficientNetSupernet: EfficientNet}  # what may grow into it
LEFT_OUT = ('conv_head.bias',)  # of timm's MobileNetV3; a supernet's has none


def load_trained(source: str, what: str) -> nn.Module:
    """A network with weights by timm's name or from a folder; raises `InputError`, which says `what` it is for."""
    name = f'local-dir:{source}' if Path(source).is_dir() else source
    try:
        return timm.create_model(name, pretrained=True)
    except Exception as error:  # a folder of another make may hold anything
        raise InputError(
            f'{what} {source!r:.120} cannot be loaded ({one_line(error):.300}); '
            'give a timm model with weights, or a folder that timm loads') from None


def initialize(supernet: Supernet, source: str) -> None:
    """Give a supernet the weights of a trained network; for other classes, all but those of the classifier.

    Args:
        source: A supernet of this space, whose resolutions may differ, or a network of timm's that fits into the
            supernet, by timm's name or as a folder.

    Raises:
        InputError: It cannot be loaded, or does not fit; names what does not.
    """
    model = load_trained(source, 'initial_checkpoint')
    if isinstance(model, Supernet):
        if replace(model.space, resolutions=supernet.space.resolutions) != supernet.space:
            raise InputError(
                f'initial_checkpoint {source!r:.120} is a supernet of {model.space.name}, not of '
                f'{supernet.space.name}; give one of it')
    elif not isinstance(model, HOLDS.get(type(supernet), ())):
        kind = type(model).__name__
        raise InputError(
            f'initial_checkpoint {source!r:.120}: {"an" if kind[0] in "AEIO" else "a"} {kind} does not grow into '
            f'{supernet.space.name}; give a supernet of it, or begin at random')
    else:
        misfit = _misfit(supernet, model)
        if misfit:
            raise InputError(
                f'initial_checkpoint {source!r:.120} does not fit into {supernet.space.name}: {misfit}; '
                'give a smaller network, or write a space that holds it')
    _grow(supernet, model)


def _misfit(supernet: Supernet, model: nn.Module) -> str | None:
    """Why the network is no part of the largest subnet."""
    own, state = supernet.state_dict(), _without_classifier(model, supernet)
    if len(model.blocks) != len(supernet.blocks):
        return f'{len(model.blocks)} stages, the space has {len(supernet.blocks)}'
    for name, tensor in state.items():
        place = name.rpartition('.')[0]
        if name not in own and name not in LEFT_OUT:
            return f'{place} is not there'
        if name in own and any(a > b for a, b in zip(tensor.shape, own[name].shape)):
            return f'{name} is {tuple(tensor.shape)}, the space has {tuple(own[name].shape)}'
    theirs = dict(model.named_modules())
    for place, layer in supernet.named_modules():
        other = theirs.get(place)
        stride, act = (getattr(layer, name, None) for name in ('stride', 'act'))
        if other is None:
            continue  # of a block that it lacks
        if place.endswith('.se') and isinstance(layer, nn.Identity) != isinstance(other, nn.Identity):
            return f'{place} is there in one of them only'
        if stride is not None and stride != getattr(other, 'stride', None):
            return f'{place} has stride {getattr(other, "stride", None)}, in the space {stride}'
        if act is not None and type(act) is not type(getattr(other, 'act', None)):
            return f'{place} has {type(getattr(other, "act", None)).__name__}, in the space {type(act).__name__}'
    return None


def _without_classifier(model: nn.Module, supernet: Supernet) -> dict[str, torch.Tensor]:
    """The tensors of a network, without those of a classifier of other classes."""
    leave = 'classifier.' if model.num_classes != supernet.num_classes else None
    leave = 'head.fc.' if leave and not hasattr(model, 'classifier') else leave
    return {name: tensor for name, tensor in model.state_dict().items() if not (leave and name.startswith(leave))}


@torch.no_grad()
def _grow(supernet: Supernet, model: nn.Module) -> None:
    """Its tensors in the middle of the first rows of the supernet's; columns and borders that it lacks are 0."""
    own = supernet.state_dict()
    for name, tensor in _without_classifier(model, supernet).items():
        if name in LEFT_OUT:
            continue
        rows = own[name][:len(tensor)] if tensor.ndim else own[name]
        rows.zero_()
        border = [(a - b) // 2 for a, b in zip(rows.shape[2:], tensor.shape[2:])]
        for dim, start in enumerate([0, 0, *border][:tensor.ndim]):
            rows = rows.narrow(dim, start, tensor.shape[dim])
        rows.copy_(tensor)
    theirs = dict(model.named_modules())
    for place, layer in supernet.named_modules():
        if isinstance(layer, ElasticInvertedResidual) and place not in theirs:
            layer.bn3.weight.zero_()
            layer.bn3.bias.zero_()
        elif isinstance(layer, nn.BatchNorm2d) and place in theirs:
            known = layer.running_var[:theirs[place].num_features]
            known.add_(theirs[place].eps - layer.eps).clamp_(min=0)
