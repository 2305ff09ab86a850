"""The named models: each file of `hub_configs/` is a timm model with weights.

`timm.create_model('ofa_mbv3_note10_lat22ms', pretrained=True)` takes the weights from this package if they ship with
it. Otherwise it asks the Hub, and then the address where the authors of Once-for-All released them.

A name stands for one network, and its tags for weights. Names whose networks differ only in the resolution offer each
other's weights as tags. A second network that was found under the same limit is one more tag, with its own
architecture. timm lists all these models by the name of this module.
"""
from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import torch
from timm.models import PretrainedCfg, generate_default_cfgs, model_entrypoint, register_model
from timm.models._builder import resolve_pretrained_cfg
from torch import nn

from ..errors import InputError
from ..networks import (
    ENTRY_POINTS,
    PAPER,
    check_configs,
    checked,
    convert_upstream,
    create_supernet,
    data_cfg,
    model_args,
    without_weights,
)
from ..spaces import Arch, SearchSpace, load_space, shelf_space, space_names
from .configs import HubConfig, NamedSubnet, Weights, hub_configs, named_subnets

__all__: list[str] = []  # timm's registry adds each entry-point

_logger = logging.getLogger(__name__)


# ---- names and tags -----------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def named_tags() -> dict[str, dict[str, HubConfig]]:
    """Each named network's tags and the file behind each tag: first its own tags, then those of equal networks."""
    subnets = named_subnets()
    named: dict[str, dict[str, HubConfig]] = {}
    equal: dict[tuple[str, Arch], list[str]] = {}  # by the name of the file
    for key, subnet in subnets.items():  # NAME comes before NAME.TAG
        named.setdefault(subnet.name, {})[subnet.tag] = hub_configs()[key]
        equal.setdefault(subnet.network, []).append(key)
    for subnet in subnets.values():
        for key in equal[subnet.network]:
            other = subnets[key]
            if other.name != subnet.name:
                named[subnet.name][f'{other.tag}_{other.name.split("_", 2)[2]}'] = hub_configs()[key]
    return named


def subnet_cfg(subnet: NamedSubnet) -> dict[str, Any]:
    """timm's pretrained cfg of a named subnet."""
    batch = f' batch_size={subnet.latency_batch_size}' if subnet.latency_batch_size > 1 else ''
    notes = () if subnet.device is None else (f'device={subnet.device} latency_ms={subnet.latency_ms:g}{batch}',)
    return dict(
        num_classes=subnet.space.num_classes, **data_cfg(subnet.space, subnet.arch.resolution), notes=notes,
        **_weights_cfg(subnet))


def _weights_cfg(weights: Weights) -> dict[str, Any]:
    return dict(
        url=weights.url, hf_hub_id=weights.hub_id, license=weights.license, origin_url=weights.source or '', **PAPER)


def create_subnet(name: str, pretrained: bool = False, **kwargs) -> nn.Module:
    """Build a named subnet, which is a stock timm network. `kwargs` are those of any timm model."""
    cfg = _take_cfg(name, kwargs)
    tags = named_tags()[name]
    config = tags.get(cfg.tag or '') or next(iter(tags.values()))
    subnet = named_subnets()[config.name]
    build = partial(model_entrypoint(ENTRY_POINTS[subnet.space.family]), **model_args(subnet.space, subnet.arch))
    return build(pretrained=pretrained, **{
        'drop_rate': subnet.drop_rate, **kwargs, **_weights_kwargs(config, build, pretrained, cfg, kwargs)})


def create_named_supernet(
        name: str,
        default_space: SearchSpace,
        pretrained: bool = False,
        space: str | Mapping | None = None,
        resolutions: Sequence[int] | None = None,
        **kwargs,
) -> nn.Module:
    """Build a registered supernet, also one of another space or at fewer resolutions.

    Args:
        name: The registered name. It has weights if a training configuration of this name says where they are.
        default_space: The space of this name.
        space: The name of another space on the shelf, or its JSON content; no path, because a stranger may write it.
        resolutions: Those that the supernet keeps, px.
    """
    chosen = (default_space if space is None else shelf_space(space, 'space')).restrict(resolutions=resolutions)
    build = partial(create_supernet, name, chosen)
    if config := hub_configs().get(name):
        kwargs |= _weights_kwargs(config, build, pretrained, _take_cfg(name, kwargs), kwargs)
    return build(pretrained=pretrained, **kwargs)


# ---- registration -------------------------------------------------------------------------------------------------


def _configured_spaces() -> dict[str, SearchSpace]:
    """The search space of each training configuration, at its resolutions. Logs a warning for each without a space."""
    spaces = {}
    for name, config in hub_configs().items():
        if config.kind == 'supernet':
            try:
                resolutions = config.data.get('resolutions')
                spaces[name] = load_space(str(config.data.get('space'))).restrict(resolutions=resolutions)
            except (InputError, TypeError) as error:
                _logger.warning('%s is left out: %s', config.path, error)
    return spaces


def _cfgs() -> dict[str, dict[str, Any]]:
    """timm's pretrained cfgs by 'name.tag'."""
    subnets = named_subnets()
    cfgs = {
        f'{name}.{tag}': subnet_cfg(subnets[config.name]) for name, tags in named_tags().items()
        for tag, config in tags.items()}
    for name, space in _supernet_spaces.items():
        weights = hub_configs()[name].weights if name in hub_configs() else None
        key = f'{name}.{weights.tag}' if weights else name
        where = _weights_cfg(weights) if weights else dict(url='', license='apache-2.0', **PAPER)
        cfgs[key] = dict(num_classes=space.num_classes, **data_cfg(space), **where)
    return cfgs


def _register(name: str, doc: str, create: Callable[..., nn.Module], *given: Any) -> None:
    """Register an entry-point that calls `create` with the given first arguments."""
    def entry_point(pretrained: bool = False, **kwargs) -> nn.Module:
        return create(*given, pretrained=pretrained, **kwargs)

    entry_point.__name__ = entry_point.__qualname__ = name
    entry_point.__doc__ = doc
    vars(entry_point)['__signature__'] = inspect.Signature(_parameters(create)[len(given):])
    globals()[name] = register_model(checked(entry_point))


@lru_cache
def _parameters(create: Callable[..., nn.Module]) -> tuple[inspect.Parameter, ...]:
    return tuple(inspect.signature(create).parameters.values())


def _subnet_doc(subnet: NamedSubnet) -> str:
    if subnet.top1_pct is None:
        accuracy, whose = f'{subnet.predicted_top1_pct:g} % top-1 predicted, not measured', 'found by our own search'
    else:
        accuracy = f'{subnet.top1_pct:g} % top-1 on {subnet.data.split("/")[-1]}'
        whose = f'weights of {subnet.source}' if subnet.source else 'found and trained with this package'
    return f'A subnet of `{subnet.space.name}` for {subnet.limit}: {accuracy}. Source: arXiv:1908.09791; {whose}.'


_supernet_spaces = {  # one name for any space, one for each space of the shelf, one for each training configuration
    'ofa_supernet': load_space('ofa_mbv3_tiny'), **{f'{name}_supernet': load_space(name) for name in space_names()},
    **_configured_spaces()}
default_cfgs = generate_default_cfgs({**_cfgs()})
check_configs()

_subnets = named_subnets()
for _name, _tags in named_tags().items():
    _register(_name, _subnet_doc(_subnets[next(iter(_tags.values())).name]), create_subnet, _name)
for _name, _space in _supernet_spaces.items():
    _register(
        _name, f'The elastic supernet of the search space `{_space.name}`, or of another `space`, at all its '
        '`resolutions` (px) or at fewer. Source: arXiv:1908.09791.', create_named_supernet, _name, _space)


# ---- weights ------------------------------------------------------------------------------------------------------


def _take_cfg(name: str, kwargs: dict[str, Any]) -> PretrainedCfg:
    return resolve_pretrained_cfg(name, kwargs.pop('pretrained_cfg', None), kwargs.pop('pretrained_cfg_overlay', None))


def _weights_kwargs(config: HubConfig, build: Callable[..., nn.Module], pretrained: bool, cfg: PretrainedCfg,
                    kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for timm's builder: where the weights are, and how they get our names. `build` gives the network."""
    from .checkpoints import fetch_weights, packaged_weights  # it needs timm, whose import runs this module

    def reference() -> nn.Module:
        with without_weights():
            return build(num_classes=cfg.num_classes, in_chans=cfg.input_size[0])  # of the checkpoint

    if pretrained and config.weights and _is_default_source(cfg, config.weights):
        shipped = config.weights.file and cfg.url == config.weights.url
        path = (packaged_weights(config, config.weights) if shipped else
                fetch_weights(config, cfg, reference, kwargs.get('cache_dir')))
        cfg = replace(cfg, file=str(path), custom_load=False)

    def to_our_names(state_dict: Mapping[str, torch.Tensor], _: nn.Module) -> dict[str, torch.Tensor]:
        return convert_upstream(state_dict, reference())

    return dict(pretrained_cfg=cfg, pretrained_filter_fn=to_our_names)


def _is_default_source(cfg: PretrainedCfg, weights: Weights) -> bool:
    """Whether we choose the weights, because the user asked for no file, state dict, folder or other repository."""
    own = cfg.source or cfg.file or cfg.state_dict or cfg.hf_hub_filename
    return not own and cfg.hf_hub_id in (None, '', weights.hub_id)
