"""Trained networks, and the weights with which training begins.

They are those of a supernet of the same space, or of a network of timm's, which becomes the largest subnet of a
supernet that has room for it. The subnet then computes what that network does: narrower layers get channels that
nothing reads yet, smaller kernels get a border of zeros, and blocks that the network lacks add nothing. What the subnet
cannot compute is refused. (Function-preserving growth: Chen, Goodfellow and Shlens, Net2Net, arXiv:1511.05641.)
"""
from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, cast

import timm
import torch
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from torch import nn

from ..errors import InputError, one_line
from .backbones import Backbone
from .elastic import ElasticInvertedResidual
from .narrowing import stock
from .reading import space_of
from .streams import in_mode
from .supernet import EfficientNetSupernet, MobileNetV3Supernet, Supernet, new_supernet
from .weights import known_file

HOLDS: dict[type[Supernet], type[nn.Module]] = {  # a supernet -> the networks that may grow into it
    MobileNetV3Supernet: MobileNetV3, EfficientNetSupernet: EfficientNet}
HEAD, HEAD_BIAS = 'conv_head.weight', 'conv_head.bias'  # timm's MobileNetV3 has the bias, a supernet does not
ACTS = {'act', 'act1', 'act2', 'gate'}  # names of layers that have no weights and decide what is computed
ALWAYS = 3.0  # what a channel gives that is always on; ReLU, ReLU6 and hard swish leave it as it is
TOLERANCE = 1e-2  # of the largest value: rounding stays below it, another layer does not


def load_trained(source: str, what: str) -> nn.Module:
    """A network with weights, by timm's name or from a folder. Raises `InputError`; `what` names the purpose in it."""
    name = f'local-dir:{source}' if os.path.isdir(source) else source  # false for a text that can be no path, too
    return _loaded(name, f'{what} {source!r:.120}', 'give a timm model with weights, or a folder that timm loads')


def load_supernet(source: str) -> Supernet:
    """A trained supernet, from a folder that training wrote, from `hf-hub:ORG/NAME`, or a released one by its name.

    Raises `InputError` if it cannot be loaded or is not a supernet.
    """
    elsewhere = timm.is_model_pretrained(source) or (':' in source and not os.path.isdir(source))
    model = _loaded(source if elsewhere else f'local-dir:{source}', f'supernet {source!r:.120}',
                    'give a folder that train.py wrote, hf-hub:ORG/NAME, or the name of a released one')
    if not isinstance(model, Supernet):
        raise InputError(f'{source!r:.120} is a {type(model).__name__}, not a supernet; give one that train.py wrote')
    return model


def _loaded(name: str, what: str, cure: str) -> nn.Module:
    """A network with weights, by timm's name. Raises `InputError` with these words."""
    try:
        _refuse_far_weights(name)
        return timm.create_model(name, pretrained=True)
    except Exception as error:  # a folder of another make may hold anything
        raise InputError(f'{what} cannot be loaded ({one_line(error):.300}); {cure}') from None


def _refuse_far_weights(name: str) -> None:
    """Raise `InputError` at once where weights would come from the Hub, and it does not answer.

    timm and the Hub's client would ask for most of a minute.
    """
    if name.startswith('hf-hub:'):
        known_file(name.removeprefix('hf-hub:'))
    elif (timm.is_model(name) and not name.startswith('ofa_')
          and (repo_id := getattr(timm.get_pretrained_cfg(name), 'hf_hub_id', None))):
        known_file(repo_id, names=('model.safetensors', 'pytorch_model.bin'))


def initialize(supernet: Supernet, source: str) -> bool:
    """Give a supernet the weights of a trained network. If the classes differ, the classifier begins at zero.

    timm's random classifier of few classes gives large logits. Their gradients would spoil in some steps what the
    layers below have learned.

    Returns whether that network is a supernet, so that all subnets are trained.

    Args:
        source: A supernet of this space at any resolutions, or a network of timm's that fits into the supernet. It is
            a name that timm knows, or a folder.

    Raises:
        InputError: It cannot be loaded, or does not fit; the message names what does not.
    """
    model, what = load_trained(source, 'initial_checkpoint'), f'initial_checkpoint {source!r:.120}'
    if isinstance(supernet, Backbone) and not isinstance(model, Supernet):
        take_weights(supernet, model, what)
    else:
        _take_fitting(supernet, model, what)
    if model.num_classes != supernet.num_classes:
        for parameter in cast(Any, supernet).get_classifier().parameters():
            nn.init.zeros_(parameter)
    return isinstance(model, Supernet)


def _take_fitting(supernet: Supernet, model: nn.Module, what: str) -> None:
    """Give a supernet the weights of another one of its space, or of a network that grows into it.

    Raises `InputError`, which begins with `what`.
    """
    if isinstance(model, Supernet):
        if replace(model.space, resolutions=supernet.space.resolutions) != supernet.space:
            raise InputError(
                f'{what} is a supernet of {model.space.name}, not of {supernet.space.name}; give one of it')
    elif not isinstance(model, HOLDS.get(type(supernet), ())):
        kind = type(model).__name__
        raise InputError(
            f'{what}: {"an" if kind[0] in "AEIO" else "a"} {kind} does not grow into {supernet.space.name}; '
            'give a supernet of it, or begin at random')
    elif misfit := _misfit(supernet, model):
        raise InputError(
            f'{what} does not fit into {supernet.space.name}: {misfit}; '
            'give another network, or write a space that holds it')
    _grow(supernet, model)
    if not isinstance(model, Supernet) and (place := _first_difference(supernet, model)):
        raise InputError(
            f'{what} does not fit into {supernet.space.name}: there, {place} computes something else; '
            'give another network')


def supernet_of(model: str | nn.Module, *, pretrained: bool = True, **rules: Any) -> Supernet:
    """The supernet of the space that is read off a timm network. That network, with its weights, is its largest subnet.

    Args:
        model: A network, whose weights are copied; or a name of timm's, or a folder that timm loads.
        pretrained: Whether a name has timm's weights; False: random ones.
        rules: As for `space_of`.

    Raises `InputError` if the network has a layer that a space cannot hold, or its weights cannot be had.
    """
    if isinstance(model, str):
        model = load_trained(model, 'network') if pretrained else stock(model)
    supernet = new_supernet(space_of(model, **rules), num_classes=model.num_classes)
    assert isinstance(supernet, Backbone)
    take_weights(supernet, model, 'the network')
    return supernet


def take_weights(supernet: Backbone, model: nn.Module, what: str) -> None:
    """Give a supernet the weights of the network that its space was read off, or of one that is built alike.

    If the classes differ, the classifier is left out. Raises `InputError`, which begins with `what`.
    """
    space, own = space_of(model), supernet.space
    same = [[b.layers for b in s.blocks] for s in space.stages] == [[b.layers for b in s.blocks] for s in own.stages]
    if (space.network, space.bn_eps) != (own.network, own.bn_eps) or not same:
        raise InputError(f'{what} is not the network that {own.name} was read off; give it, or read a space off this '
                         'one')
    state = model.state_dict()
    if model.num_classes != supernet.num_classes and own.network:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(f'{own.network.classifier}.')}
    _, unexpected = supernet.load_state_dict(state, strict=False)
    assert not unexpected, unexpected[0]


def _misfit(supernet: Supernet, model: nn.Module) -> str | None:
    """Why the network is not part of the largest subnet; None if it is."""
    own, state = supernet.state_dict(), _without_classifier(model, supernet)
    stages, room = (len(list(net.get_submodule('blocks').children())) for net in (model, supernet))
    if stages != room:
        return f'{stages} stages, the space has {room}'
    for name, tensor in state.items():
        place = name.rpartition('.')[0]
        if name == HEAD_BIAS and tensor.any() and own[HEAD].shape[1] == state[HEAD].shape[1]:
            return f'{place} has a bias, for which the space has no channel to spare'
        if name not in own and name != HEAD_BIAS:
            return f'{place} is not there'
        if name in own and any(a > b for a, b in zip(tensor.shape, own[name].shape)):
            return f'{name} is {tuple(tensor.shape)}, the space has {tuple(own[name].shape)}'
    theirs = dict(model.named_modules())
    for place, layer in supernet.named_modules():
        other = theirs.get(place)
        if other is None:
            continue  # the network lacks this block
        if place.endswith('.se') and isinstance(layer, nn.Identity) != isinstance(other, nn.Identity):
            return f'{place} is there in one of them only'
        if place.rpartition('.')[2] in ACTS and type(layer) is not type(other):
            return f'{place} is {type(other).__name__}, in the space {type(layer).__name__}'
        if isinstance(layer, nn.Conv2d) and isinstance(other, nn.Conv2d):
            if layer.stride != other.stride:
                return f'{place} has stride {other.stride}, in the space {layer.stride}'
            if other.padding != tuple(side // 2 for side in other.kernel_size):  # TensorFlow's depends on the image
                return f'{place} does not pad by half a kernel on each side'
    return None


def _without_classifier(model: nn.Module, supernet: Supernet) -> dict[str, torch.Tensor]:
    """The tensors of a network, without those of its classifier if the classes differ."""
    leave = 'classifier.' if model.num_classes != supernet.num_classes else None
    leave = 'head.fc.' if leave and not hasattr(model, 'classifier') else leave
    return {name: tensor for name, tensor in model.state_dict().items() if not (leave and name.startswith(leave))}


@torch.no_grad()
def _grow(supernet: Supernet, model: nn.Module) -> None:
    """Copy each tensor into the first channels and the kernel center of the supernet's. What it lacks becomes 0."""
    own, state = supernet.state_dict(), _without_classifier(model, supernet)
    bias = state.pop(HEAD_BIAS, None)
    for name, tensor in state.items():
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
        elif isinstance(layer, nn.BatchNorm2d) and isinstance(other := theirs.get(place), nn.BatchNorm2d):
            assert layer.running_var is not None and other.running_var is not None
            var = other.running_var + other.eps
            layer.running_var[:other.num_features] = (var - layer.eps).clamp(min=0)
            layer.weight[:other.num_features] *= (layer.eps / var).clamp(min=1).sqrt()  # where it was clamped
    if bias is not None and bias.any():  # the first spare channel before the head is always on
        channel, before = state[HEAD].shape[1], f'blocks.{len(supernet.elastic_stages()) + 1}.0.bn1'
        own[f'{before}.weight'][channel], own[f'{before}.bias'][channel] = 0, ALWAYS
        own[HEAD][:len(bias), channel] = bias[:, None, None] / ALWAYS


@torch.no_grad()
def _first_difference(supernet: Supernet, model: nn.Module) -> str | None:
    """The first stage, or the head, that gives other values in the largest subnet than in the network; None if none."""
    x = torch.randn(2, supernet.in_chans, 64, 64, generator=torch.Generator().manual_seed(0))
    for own, (place, other) in zip(_stage_outputs(supernet, x).values(), _stage_outputs(model, x).items()):
        error = (own[:, :other.shape[1]] - other).abs().max()
        if not error <= TOLERANCE * other.abs().max():
            return place
    return None


def _stage_outputs(network: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What each stage gives for x (N, channels, H, W), and what the classifier gets, in evaluation mode."""
    outputs: dict[str, torch.Tensor] = {}
    hooks = [
        stage.register_forward_hook(lambda _, __, output, place=f'blocks.{i}': outputs.update({place: output}))
        for i, stage in enumerate(network.get_submodule('blocks').children())]
    hooks.append(network.get_submodule('classifier').register_forward_pre_hook(
        lambda _, inputs: outputs.update({'the head': inputs[0]})))
    with in_mode(network):
        network(x[:, :network.state_dict()['conv_stem.weight'].shape[1]])
    for hook in hooks:
        hook.remove()
    return outputs
