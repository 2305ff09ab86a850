"""The named results: every `kind: subnet` file of `hub_configs/` as a timm model, with its weights.

`timm.create_model('ofa_mbv3_note10_lat22ms', pretrained=True)` looks on the Hub first, then at the address where the
authors of Once-for-All released the weights; what comes from there is converted once, strictly, and kept in timm's
cache. A file that is not valid is left out with a warning, so that it never keeps the package from being imported.
"""
from __future__ import annotations

import difflib
import hashlib
import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
import yaml
from timm.models import PretrainedCfg, generate_default_cfgs, register_model
from timm.models import load_state_dict as load_checkpoint_file
from timm.models._builder import resolve_pretrained_cfg
from torch import nn

from .convert import convert_upstream
from .errors import InputError, listed
from .fields import choice, number, read, text
from .files import save_tensors
from .models import PAPER, data_cfg, model_args, ofa_mobilenetv3
from .space import Arch, SearchSpace, load_space, shelf_space, space_names
from .supernet import create_supernet, supernet_cfg

if TYPE_CHECKING:
    from .record import Record

__all__: list[str] = []  # the model registry adds each entry-point

_logger = logging.getLogger(__name__)

FAMILIES = {'mbv3': ('mobilenetv3', ofa_mobilenetv3)}  # as in names -> family of the search space, entry-point
KINDS = ('subnet', 'supernet')
WEIGHTS = 'model.safetensors'


# ---- files --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class NamedSubnet:
    """A network found for a device or a budget, and where its weights are."""
    name: str = text(r'ofa_[a-z0-9]+_[a-z0-9_]+')
    family: str = choice(*FAMILIES)
    space: SearchSpace = field(metadata={'reader': shelf_space})
    arch: Arch = field(metadata={'reader': lambda value, _: value})  # text at first; its space reads it
    device: str | None = text(r'[a-z0-9]+(-[a-z0-9]+)*', default=None)  # slug
    latency_ms: float | None = number(0.001, 1e6, default=None)  # the limit it was searched for
    top1_pct: float = number(0, 100)  # ImageNet-1k validation
    top5_pct: float = number(0, 100)
    macs_m: float = number(0.001, 1e6)  # millions
    params_m: float = number(0.001, 1e6)  # millions
    drop_rate: float = number(0, 0.99)
    tag: str = text(r'[a-z0-9_]+')  # timm's: who trained it, how, on what
    hub_id: str = text(r'[\w-][\w.-]*/[\w-][\w.-]*')
    url: str | None = text(r'https?://\S+', default=None)  # a checkpoint of the original code
    upstream_id: str | None = text(r'\S+', default=None)  # its name there
    license: str = text(r'[a-z0-9][a-z0-9.-]*')
    source: str = text(r'https?://\S+')


@dataclass(frozen=True)
class HubConfig:
    """One file of `hub_configs/`."""
    name: str  # of the registered model, of the Hub repository and of the file
    kind: str  # one of KINDS
    path: Path
    data: Mapping[str, Any]  # as written
    subnet: NamedSubnet | None  # 'subnet': the same, checked; the fields of 'supernet' belong to training


def hub_configs_dir() -> Path:
    """The folder of hub configs: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / 'hub_configs'
    return inside if inside.is_dir() else package.parent / 'hub_configs'


@lru_cache(maxsize=1)
def hub_configs() -> dict[str, HubConfig]:
    """Every valid file of `hub_configs/` by name; a warning for each that is not."""
    return _read_folder(hub_configs_dir())


def _read_folder(folder: Path) -> dict[str, HubConfig]:
    configs = {}
    for path in sorted(folder.glob('*.yaml')):
        try:
            configs[path.stem] = read_hub_config(path)
        except InputError as error:
            _logger.warning('%s is left out: %s', path, error)
    return configs


def read_hub_config(path: str | Path) -> HubConfig:
    """One file, strictly checked; raises `InputError` naming file and field."""
    path = Path(path)
    where = f'hub config {path.name}'
    try:
        data = yaml.load(path.read_text(encoding='utf-8'), Loader=getattr(yaml, 'CSafeLoader', yaml.SafeLoader))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f'{where} is not YAML ({_one_line(error)}); mend the file') from None
    if not isinstance(data, dict):
        raise InputError(f'{where} holds no fields; write lines like name: {path.stem}')
    if data.get('name', path.stem) != path.stem:
        raise InputError(f'{where}: name {data["name"]!r:.80} is not that of the file; make it {path.stem}')
    kind = data.get('kind')
    if kind not in KINDS:
        raise InputError(f'{where}: kind {kind!r:.60} is unknown; choose from {listed(KINDS)}')
    return HubConfig(path.stem, kind, path, data, _read_subnet(data, where) if kind == 'subnet' else None)


def _read_subnet(data: Mapping[str, Any], where: str) -> NamedSubnet:
    subnet = read(NamedSubnet, {k: v for k, v in data.items() if k != 'kind'}, where)
    if (subnet.device is None) != (subnet.latency_ms is None):
        raise InputError(f'{where}: device and latency_ms belong together; give both or none')
    family = FAMILIES[subnet.family][0]
    if subnet.space.family != family:
        raise InputError(
            f'{where}: family {subnet.family!r} is not that of {subnet.space.name}, which is {subnet.space.family}')
    try:
        return replace(subnet, arch=subnet.space.parse(subnet.arch))
    except InputError as error:
        raise InputError(f'{where}: arch: {error}') from None


def _one_line(error: BaseException) -> str:
    return f'{type(error).__name__}: {" ".join(str(error).split()):.120}'


# ---- models -------------------------------------------------------------------------------------------------------


def named_subnets() -> dict[str, NamedSubnet]:
    """The networks that this room registers with timm, by name."""
    return {name: config.subnet for name, config in hub_configs().items() if config.subnet}


def subnet_cfg(subnet: NamedSubnet) -> dict[str, Any]:
    """timm's pretrained cfg of a named subnet."""
    notes = () if subnet.device is None else (f'device={subnet.device} latency_ms={subnet.latency_ms:g}',)
    return dict(
        url=subnet.url, hf_hub_id=subnet.hub_id, num_classes=subnet.space.num_classes,
        **data_cfg(subnet.space, subnet.arch.resolution), license=subnet.license, origin_url=subnet.source,
        notes=notes, **PAPER)


def create_subnet(subnet: NamedSubnet, pretrained: bool = False, **kwargs) -> nn.Module:
    """Build a named subnet, a stock timm network; `kwargs` as for any timm model."""
    cfg = resolve_pretrained_cfg(
        subnet.name, kwargs.pop('pretrained_cfg', None), kwargs.pop('pretrained_cfg_overlay', None))
    if pretrained and _is_default_source(cfg, subnet):
        cfg = replace(cfg, file=str(fetch_weights(subnet, cfg, kwargs.get('cache_dir'))), custom_load=False)

    def to_our_names(state_dict: Mapping[str, torch.Tensor], _: nn.Module) -> dict[str, torch.Tensor]:
        return convert_upstream(state_dict, _reference(subnet, cfg.num_classes, cfg.input_size[0]))

    _, entry_point = FAMILIES[subnet.family]
    return entry_point(pretrained=pretrained, **{
        **model_args(subnet.space, subnet.arch), 'drop_rate': subnet.drop_rate, 'pretrained_cfg': cfg,
        'pretrained_filter_fn': to_our_names, **kwargs})


def _reference(subnet: NamedSubnet, num_classes: int | None = None, in_chans: int = 3) -> nn.Module:
    """The names and shapes that a checkpoint has before timm adapts it to other classes or channels; no memory."""
    _, entry_point = FAMILIES[subnet.family]
    num_classes = subnet.space.num_classes if num_classes is None else num_classes
    return entry_point(
        **model_args(subnet.space, subnet.arch), num_classes=num_classes, in_chans=in_chans, device='meta')


def _register(subnet: NamedSubnet) -> None:
    def entry_point(pretrained: bool = False, **kwargs) -> nn.Module:
        return create_subnet(subnet, pretrained, **kwargs)

    what = f'{subnet.latency_ms:g} ms on {subnet.device}' if subnet.device else f'{subnet.macs_m:g} M MACs'
    entry_point.__name__ = entry_point.__qualname__ = subnet.name
    entry_point.__doc__ = (
        f'A subnet of `{subnet.space.name}` found for {what}: {subnet.top1_pct:g} % top-1 on ImageNet-1k. '
        f'Source: arXiv:1908.09791; weights of {subnet.source}.')
    globals()[subnet.name] = register_model(entry_point)


def _register_supernet(name: str, space: SearchSpace) -> None:
    def entry_point(pretrained: bool = False, **kwargs) -> nn.Module:
        return create_supernet(name, space, pretrained, **kwargs)

    entry_point.__name__ = entry_point.__qualname__ = name
    entry_point.__doc__ = f'The elastic supernet that hub_configs/{name}.yaml trains. Source: arXiv:1908.09791.'
    globals()[name] = register_model(entry_point)


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


_supernet_spaces = _configured_spaces()
default_cfgs = generate_default_cfgs({
    **{f'{s.name}.{s.tag}': subnet_cfg(s) for s in named_subnets().values()},
    **{name: supernet_cfg(space) for name, space in _supernet_spaces.items()},
})

for _subnet in named_subnets().values():
    _register(_subnet)
for _name, _space in _supernet_spaces.items():
    _register_supernet(_name, _space)


# ---- weights ------------------------------------------------------------------------------------------------------


def _is_default_source(cfg: PretrainedCfg, subnet: NamedSubnet) -> bool:
    """Whether the weights are left to us: no file, state dict, folder or other repository was asked for."""
    return not (cfg.source or cfg.file or cfg.state_dict) and cfg.hf_hub_id in (None, '', subnet.hub_id)


def fetch_weights(subnet: NamedSubnet, cfg: PretrainedCfg, cache_dir: str | Path | None = None) -> Path:
    """A file with the weights of a named subnet: from the Hub, else converted from the authors' checkpoint."""
    from huggingface_hub import constants
    from timm.models._hub import download_from_hf

    sources: list[tuple[str, Callable[[], str | Path]]] = []
    if cfg.hf_hub_id:
        sources.append((f'{constants.ENDPOINT}/{cfg.hf_hub_id}', lambda: download_from_hf(
            cfg.hf_hub_id, cfg.hf_hub_filename or WEIGHTS, cache_dir=cache_dir)))
    if cfg.url:
        sources.append((cfg.url, lambda: _fetch_upstream(subnet, cfg.url, cache_dir)))
    failures = []
    for address, fetch in sources:
        try:
            return Path(fetch())
        except (OSError, ValueError) as error:  # what the Hub's client, urllib and we raise
            _logger.info('weights of %s: %s failed (%s)', subnet.name, address, _one_line(error))
            reason = str(error) if isinstance(error, InputError) else _one_line(error)
            failures.append(reason if address in reason else f'{address} ({reason})')
    raise InputError(
        f'weights of {subnet.name!r} could not be loaded: {"; ".join(failures) or "no source is set"}; '
        f'get the file and run `timm-ofa import-upstream --name {subnet.name} --from FILE`, or use pretrained=False')


def _fetch_upstream(subnet: NamedSubnet, url: str, cache_dir: str | Path | None) -> Path:
    """The authors' checkpoint under our names, in timm's cache; all of them are called 'init' there, none here."""
    from timm.models._hub import get_cache_dir

    folder = Path(cache_dir or get_cache_dir())
    path = folder / f'{subnet.name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}.safetensors'
    if not path.is_file():
        save_tensors(path, read_upstream(url, _reference(subnet)))
    return path


def read_upstream(source: str | Path, model: nn.Module) -> dict[str, torch.Tensor]:
    """A checkpoint of the original code, from a file or an address -> the state dict of `model`; raises `InputError`.

    Only tensors are read from it (`weights_only`), never code.
    """
    source = str(source)
    if '://' not in source:
        return _read_checkpoint(Path(source), source, model)
    if not source.startswith(('http://', 'https://')):
        raise InputError(f'address {source!r:.160} is not http or https; give such an address, or a file')
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'checkpoint'
        try:
            torch.hub.download_url_to_file(source, str(path), progress=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f'{source!r:.200} cannot be fetched ({_one_line(error)}); check the address') from None
        return _read_checkpoint(path, source, model)


def _read_checkpoint(path: Path, source: str, model: nn.Module) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise InputError(f'checkpoint {source!r:.200} is not there; give a file or an http address')
    try:
        state_dict = load_checkpoint_file(str(path), use_ema=False)
    except Exception as error:  # unpickling what is no checkpoint raises nearly anything
        raise InputError(
            f'{source!r:.200} is not a checkpoint of tensors ({_one_line(error)}); give another file') from None
    return convert_upstream(state_dict, model)


def import_upstream(name: str, source: str | Path, out: str | Path) -> Path:
    """A released checkpoint of the original code -> a folder for `timm.create_model('local-dir:...', pretrained=True)`.

    Args:
        name: A named subnet: the folder is one that `publish` takes. Or a supernet: one that `load_supernet` takes.
        source: A file or an http address.
        out: The folder; made, or replaced if it is such a folder already.
    """
    from .hub import save_folder
    from .runs import save_supernet

    supernets = [f'{space}_supernet' for space in space_names()]
    subnet = named_subnets().get(name)
    if subnet is None and name not in supernets:
        known = difflib.get_close_matches(name, [*named_subnets(), *supernets], n=3, cutoff=0) or supernets
        raise InputError(f'model {name!r:.120} was not released; choose from `timm-ofa models`, e.g. {listed(known)}')
    model = timm.create_model(name)
    model.load_state_dict(read_upstream(source, model))
    if subnet:
        return save_folder(out, model, subnet_record(subnet))
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f'{str(out)!r:.200} is a file; give a folder')
    out.mkdir(parents=True, exist_ok=True)
    save_supernet(model, out, {'source': str(source)})
    return out


def subnet_record(subnet: NamedSubnet) -> Record:
    """What is known of a named subnet, as its authors published it; nothing was measured here."""
    from . import __version__
    from .record import Accuracy, Record

    return Record(
        name=subnet.name, space=subnet.space, arch=subnet.arch, num_classes=subnet.space.num_classes,
        device=subnet.device, limit_ms=subnet.latency_ms, top1_pct=subnet.top1_pct,
        accuracy=Accuracy(
            dataset='ImageNet-1k', split='validation', n=50000, protocol='as published by the authors, not repeated'),
        license=subnet.license, dataset_id='ILSVRC/imagenet-1k', source=subnet.source, code_version=__version__)
