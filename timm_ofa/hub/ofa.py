"""The named results: every file of `hub_configs/` as a timm model, with its weights.

`timm.create_model('ofa_mbv3_note10_lat22ms', pretrained=True)` takes the weights from a file of this package where it
ships one. Else it looks on the Hub first, then at the address where the authors of Once-for-All released them; what
comes from there is converted once, strictly, and kept in timm's cache. A name is one network and its tags are weights:
names whose networks are equal but for the resolution offer each other's weights, and a second network found under the
same limit is one more tag, whose architecture comes with it.
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
from ..spaces import SearchSpace, load_space, space_names
from .configs import HubConfig, NamedSubnet, Weights, hub_configs

__all__: list[str] = []  # the model registry adds each entry-point

_logger = logging.getLogger(__name__)

Reference = Callable[[int, int], nn.Module]  # (classes, channels) -> the network of a checkpoint, on the meta device


# ---- names and tags -----------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def named_tags() -> dict[str, dict[str, HubConfig]]:
    """Every named network: its tags, each with the file behind it; its own first, then those that it shares."""
    configs = [config for config in hub_configs().values() if config.subnet]
    named: dict[str, dict[str, HubConfig]] = {}
    equal: dict[tuple, list[HubConfig]] = {}
    for config in configs:  # NAME comes before NAME.TAG
        named.setdefault(config.subnet.name, {})[config.subnet.tag] = config
        equal.setdefault(config.subnet.network, []).append(config)
    for config in configs:
        for other in equal[config.subnet.network]:
            if other.subnet.name != config.subnet.name:
                found_for = other.subnet.name.split('_', 2)[2]
                named[config.subnet.name][f'{other.subnet.tag}_{found_for}'] = other
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
    """Build a named subnet, a stock timm network; `kwargs` as for any timm model."""
    cfg = _take_cfg(name, kwargs)
    tags = named_tags()[name]
    config = tags.get(cfg.tag) or next(iter(tags.values()))
    entry_point, args = _network(config.subnet)
    return entry_point(pretrained=pretrained, **{
        **args, 'drop_rate': config.subnet.drop_rate, **kwargs,
        **_weights_kwargs(config, lambda *shape: _subnet_reference(config.subnet, *shape), pretrained, cfg, kwargs)})


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
    """Build the supernet of a name, or one like it: of another space (a name, or its JSON content), at fewer
    resolutions (px). There are weights where a training configuration has that name."""
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
    """The search space, at its resolutions, of every training configuration; a warning for each that has none."""
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
    cfgs = {
        f'{name}.{tag}': subnet_cfg(config.subnet) for name, tags in named_tags().items()
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
    entry_point.__doc__, entry_point.__signature__ = doc, inspect.signature(create)
    globals()[name] = register_model(checked(entry_point))


def _subnet_doc(subnet: NamedSubnet) -> str:
    if subnet.top1_pct is None:
        accuracy, whose = f'{subnet.predicted_top1_pct:g} % top-1 predicted, not measured', 'found by our own search'
    else:
        accuracy = f'{subnet.top1_pct:g} % top-1 on {subnet.data.split("/")[-1]}'
        whose = f'weights of {subnet.source}' if subnet.source else 'found and trained with this package'
    return f'A subnet of `{subnet.space.name}` for {subnet.limit}: {accuracy}. Source: arXiv:1908.09791; {whose}.'


_supernet_spaces = {  # one for any space, one for each on the shelf; configurations may say more of these
    'ofa_supernet': load_space('ofa_mbv3_tiny'), **{f'{name}_supernet': load_space(name) for name in space_names()},
    **_configured_spaces()}
default_cfgs = generate_default_cfgs(_cfgs())

for _name, _tags in named_tags().items():
    _register(_name, partial(create_subnet, _name), _subnet_doc(next(iter(_tags.values())).subnet))
for _name, _space in _supernet_spaces.items():
    _register(
        _name, partial(create_named_supernet, _name, _space),
        f'The elastic supernet of the search space `{_space.name}` (or of another), if wished at fewer resolutions '
        '(px). Source: arXiv:1908.09791.')


# ---- weights ------------------------------------------------------------------------------------------------------


def _take_cfg(name: str, kwargs: dict[str, Any]) -> PretrainedCfg:
    return resolve_pretrained_cfg(name, kwargs.pop('pretrained_cfg', None), kwargs.pop('pretrained_cfg_overlay', None))


def _weights_kwargs(config: HubConfig, reference: Reference, pretrained: bool, cfg: PretrainedCfg,
                    kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for timm's builder: where the weights are, and how they come under our names."""
    if pretrained and config.weights and _is_default_source(cfg, config.weights):
        shipped = config.weights.file and cfg.url == config.weights.url
        path = packaged_weights(config) if shipped else fetch_weights(config, cfg, reference, kwargs.get('cache_dir'))
        cfg = replace(cfg, file=str(path), custom_load=False)

    def to_our_names(state_dict: Mapping[str, torch.Tensor], _: nn.Module) -> dict[str, torch.Tensor]:
        return convert_upstream(state_dict, reference(cfg.num_classes, cfg.input_size[0]))

    return dict(pretrained_cfg=cfg, pretrained_filter_fn=to_our_names)


def _is_default_source(cfg: PretrainedCfg, weights: Weights) -> bool:
    """Whether the weights are left to us: no file, state dict, folder or other repository was asked for."""
    own = cfg.source or cfg.file or cfg.state_dict or cfg.hf_hub_filename
    return not own and cfg.hf_hub_id in (None, '', weights.hub_id)


def packaged_weights(config: HubConfig) -> Path:
    """The file with the weights of a named model that ships with the package, checked before anybody reads it."""
    weights, problem = config.weights, ''
    if not weights.path.is_file():
        problem = 'is not in the package'
    elif sha256_of(weights.path) != weights.sha256:
        problem = f'has not the SHA-256 that {config.path.name} names'
    if problem:
        raise InputError(f'weights of {config.name!r}: {weights.file} {problem}; install timm_ofa again, '
                         'or use pretrained=False')
    return weights.path


def fetch_weights(config: HubConfig, cfg: PretrainedCfg, reference: Reference,
                  cache_dir: str | Path | None = None) -> Path:
    """A file with the weights of a named model: from the Hub, else converted from the authors' checkpoint."""
    from huggingface_hub import constants

    sources: list[tuple[str, Callable[[], str | Path]]] = []
    if cfg.hf_hub_id:
        sources.append((f'{constants.ENDPOINT}/{cfg.hf_hub_id}', lambda: hub_weights(cfg.hf_hub_id, cache_dir)))
    if cfg.url:
        sources.append((cfg.url, lambda: _fetch_upstream(
            config.name, cfg.url, reference(cfg.num_classes, cfg.input_size[0]), cache_dir)))
    failures = []
    for address, download in sources:
        try:
            return Path(download())
        except (OSError, ValueError) as error:  # what the Hub's client and we raise
            _logger.info('weights of %s: %s failed (%s)', config.name, address, one_line(error))
            reason = one_line(error)
            failures.append(reason if address in reason else f'{address} ({reason})')
    raise InputError(
        f'weights of {config.name!r} could not be loaded: {"; ".join(failures) or "no source is set"}; '
        f'{weights_cure(config)}, or use pretrained=False')


def weights_cure(config: HubConfig) -> str:
    """What gives the weights of a named model when no download does."""
    if config.subnet and config.subnet.search:
        return f'make them: `timm-ofa specialize --config hub_configs/{config.name}.yaml --data {config.subnet.data}`'
    return f'get the file and run `timm-ofa import-upstream --name {config.name} --from FILE`'


def _fetch_upstream(name: str, url: str, model: nn.Module, cache_dir: str | Path | None) -> Path:
    """The authors' checkpoint under our names, in timm's cache; most of them are called 'init' there, none here."""
    from timm.models._hub import get_cache_dir

    path = Path(cache_dir or get_cache_dir()) / f'{name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}.safetensors'
    if not path.is_file():
        save_tensors(path, read_upstream(url, model))
    return path


def read_upstream(source: str | Path, model: nn.Module) -> dict[str, torch.Tensor]:
    """A checkpoint of the original code, from a file or an address -> the state dict of `model`; raises `InputError`.

    Only tensors are read from it (`weights_only`), never code.
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
