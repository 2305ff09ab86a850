"""The named models: each file of `hub_configs/` is a timm model with weights.

`timm.create_model('ofa_mbv3_note10_lat22ms', pretrained=True)` takes the weights from this package if they ship with
it. Otherwise it asks the Hub, and then the address where the authors of Once-for-All released them. A checkpoint of the
authors is converted once, strictly, and kept in timm's cache.

A name stands for one network, and its tags for weights. Names whose networks differ only in the resolution offer each
other's weights as tags. A second network that was found under the same limit is one more tag, with its own
architecture. timm lists all these models by the name of this module.
"""
from __future__ import annotations

import hashlib
import inspect
import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from timm.models import PretrainedCfg, generate_default_cfgs, model_entrypoint, register_model
from timm.models import load_state_dict as load_checkpoint_file
from timm.models._builder import resolve_pretrained_cfg
from torch import nn

from ..errors import InputError, one_line
from ..files import fetch, save_tensors, sha256_of
from ..networks import (
    ENTRY_POINTS,
    PAPER,
    checked,
    convert_upstream,
    create_supernet,
    data_cfg,
    hub_weights,
    model_args,
)
from ..spaces import Arch, SearchSpace, load_space, space_names
from .configs import HubConfig, NamedSubnet, Weights, hub_configs, named_subnets

__all__: list[str] = []  # timm's registry adds each entry-point

_logger = logging.getLogger(__name__)

Reference = Callable[[int, int], nn.Module]  # (classes, channels) -> the network of a checkpoint, on the meta device


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
    entry_point, args = _network(subnet)
    return entry_point(pretrained=pretrained, **{
        **args, 'drop_rate': subnet.drop_rate, **kwargs,
        **_weights_kwargs(config, lambda *shape: _subnet_reference(subnet, *shape), pretrained, cfg, kwargs)})


def _network(subnet: NamedSubnet) -> tuple[Callable[..., nn.Module], dict[str, Any]]:
    """The entry-point that builds a subnet, and its arguments."""
    return model_entrypoint(ENTRY_POINTS[subnet.space.family]), model_args(subnet.space, subnet.arch)


def _subnet_reference(subnet: NamedSubnet, num_classes: int, in_chans: int) -> nn.Module:
    entry_point, args = _network(subnet)
    return entry_point(**args, num_classes=num_classes, in_chans=in_chans, device='meta')


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
        space: The name of another space, or its JSON content.
        resolutions: Those that the supernet keeps, px.
    """
    chosen = SearchSpace.from_dict(space) if isinstance(space, Mapping) else load_space(space or default_space)
    chosen = chosen.restrict(resolutions=resolutions)
    config = hub_configs().get(name)
    if config is None:
        return create_supernet(name, chosen, pretrained, **kwargs)
    weights_kwargs = _weights_kwargs(
        config, lambda *shape: _supernet_reference(name, chosen, *shape), pretrained,
        _take_cfg(name, kwargs), kwargs)
    return create_supernet(name, chosen, pretrained, **{**kwargs, **weights_kwargs})


def _supernet_reference(name: str, space: SearchSpace, num_classes: int, in_chans: int) -> nn.Module:
    return create_supernet(name, space, num_classes=num_classes, in_chans=in_chans, device='meta')


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


def _register(name: str, create: Callable[..., nn.Module], doc: str) -> None:
    def entry_point(pretrained: bool = False, **kwargs) -> nn.Module:
        return create(pretrained=pretrained, **kwargs)

    entry_point.__name__ = entry_point.__qualname__ = name
    entry_point.__doc__, vars(entry_point)['__signature__'] = doc, inspect.signature(create)
    globals()[name] = register_model(checked(entry_point))


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

_subnets = named_subnets()
for _name, _tags in named_tags().items():
    _register(_name, partial(create_subnet, _name), _subnet_doc(_subnets[next(iter(_tags.values())).name]))
for _name, _space in _supernet_spaces.items():
    _register(
        _name, partial(create_named_supernet, _name, _space),
        f'The elastic supernet of the search space `{_space.name}`, or of another `space`, at all its `resolutions` '
        '(px) or at fewer. Source: arXiv:1908.09791.')


# ---- weights ------------------------------------------------------------------------------------------------------


def _take_cfg(name: str, kwargs: dict[str, Any]) -> PretrainedCfg:
    return resolve_pretrained_cfg(name, kwargs.pop('pretrained_cfg', None), kwargs.pop('pretrained_cfg_overlay', None))


def _weights_kwargs(config: HubConfig, reference: Reference, pretrained: bool, cfg: PretrainedCfg,
                    kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for timm's builder: where the weights are, and how they get our names."""
    if pretrained and config.weights and _is_default_source(cfg, config.weights):
        shipped = config.weights.file and cfg.url == config.weights.url
        path = (packaged_weights(config, config.weights) if shipped else
                fetch_weights(config, cfg, reference, kwargs.get('cache_dir')))
        cfg = replace(cfg, file=str(path), custom_load=False)

    def to_our_names(state_dict: Mapping[str, torch.Tensor], _: nn.Module) -> dict[str, torch.Tensor]:
        return convert_upstream(state_dict, reference(cfg.num_classes, cfg.input_size[0]))

    return dict(pretrained_cfg=cfg, pretrained_filter_fn=to_our_names)


def _is_default_source(cfg: PretrainedCfg, weights: Weights) -> bool:
    """Whether we choose the weights, because the user asked for no file, state dict, folder or other repository."""
    own = cfg.source or cfg.file or cfg.state_dict or cfg.hf_hub_filename
    return not own and cfg.hf_hub_id in (None, '', weights.hub_id)


def packaged_weights(config: HubConfig, weights: Weights) -> Path:
    """The file with a named model's weights that ships with the package, after a check of its hash."""
    path, problem = weights.path, ''
    if path is None or not path.is_file():
        problem = 'is not in the package'
    elif sha256_of(path) != weights.sha256:
        problem = f'has not the SHA-256 that {config.path.name} names'
    if path is None or problem:
        raise InputError(f'weights of {config.name!r}: {weights.file} {problem}; install timm_ofa again, '
                         'or use pretrained=False')
    return path


def fetch_weights(config: HubConfig, cfg: PretrainedCfg, reference: Reference,
                  cache_dir: str | Path | None = None) -> Path:
    """A file with a named model's weights: from the Hub, otherwise converted from the authors' checkpoint."""
    from huggingface_hub import constants

    sources: list[tuple[str, Callable[[], Path]]] = []
    if repo_id := cfg.hf_hub_id:
        sources.append((f'{constants.ENDPOINT}/{repo_id}', lambda: hub_weights(repo_id, cache_dir)))
    if url := str(cfg.url or ''):
        sources.append((url, lambda: _fetch_upstream(
            config.name, url, reference(cfg.num_classes, cfg.input_size[0]), cache_dir)))
    failures = []
    for address, download in sources:
        try:
            return download()
        except (OSError, ValueError) as error:  # what the Hub's client and we raise
            _logger.info('weights of %s: %s failed (%s)', config.name, address, one_line(error))
            reason = one_line(error)
            failures.append(reason if address in reason else f'{address} ({reason})')
    raise InputError(
        f'weights of {config.name!r} could not be loaded: {"; ".join(failures) or "no source is set"}; '
        f'{weights_cure(config)}, or use pretrained=False')


def weights_cure(config: HubConfig) -> str:
    """What the user can do for a named model's weights when no download gives them."""
    if config.subnet and config.subnet.search:
        return f'make them: `timm-ofa specialize --config hub_configs/{config.name}.yaml --data {config.subnet.data}`'
    return f'get the file and run `timm-ofa import-upstream --name {config.name} --from FILE`'


def _fetch_upstream(name: str, url: str, model: nn.Module, cache_dir: str | Path | None) -> Path:
    """The authors' checkpoint under our names, in timm's cache, in a file with the name of the model."""
    from timm.models._hub import get_cache_dir

    path = Path(cache_dir or get_cache_dir()) / f'{name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}.safetensors'
    if not path.is_file():
        save_tensors(path, read_upstream(url, model))
    return path


def read_upstream(source: str | Path, model: nn.Module) -> dict[str, torch.Tensor]:
    """A checkpoint of the original code, from a file or an address -> the state dict of `model`.

    Only tensors are read (`weights_only`), never code. Raises `InputError` for what is no such checkpoint.
    """
    if '://' not in str(source):
        return _read_checkpoint(Path(source), str(source), model)
    with tempfile.TemporaryDirectory() as folder:
        return _read_checkpoint(fetch(str(source), Path(folder) / 'checkpoint'), str(source), model)


def _read_checkpoint(path: Path, source: str, model: nn.Module) -> dict[str, torch.Tensor]:
    if not os.path.isfile(path):
        raise InputError(f'checkpoint {source!r:.200} is not there; give a file or an http address')
    try:
        state_dict = load_checkpoint_file(str(path), use_ema=False)
    except Exception as error:  # unpickling what is no checkpoint raises nearly anything
        raise InputError(
            f'{source!r:.200} is not a checkpoint of tensors ({one_line(error)}); give another file') from None
    return convert_upstream(state_dict, model)
