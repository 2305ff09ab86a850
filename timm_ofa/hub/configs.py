"""The files of `hub_configs/`, each of which names one published repository. Every field is checked.

`kind: subnet` is a network that was found for a device or a budget, either released by the authors of Once-for-All or
found by our own search. `kind: supernet` is a training run; it has the address of the weights if they were released.
`kind: finetune` says how a network is trained on. A second result under the same name is in `NAME.TAG.yaml`.
"""
from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import InputError, listed
from ..fields import HUB_ID, choice, number, read, text
from ..files import read_yaml_file
from ..spaces import Arch, SearchSpace, shelf_space, space_names
from .record import DATASET_ID, Search

_logger = logging.getLogger(__name__)

FAMILIES = {'mbv3': 'mobilenetv3', 'proxyless': 'efficientnet', 'resnet50d': 'byobnet'}  # in names -> of the space
KINDS = ('subnet', 'supernet', 'finetune')
IMAGENET = 'ILSVRC/imagenet-1k'


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Where the weights of a model are, and whose they are."""
    tag: str = text(r'[a-z0-9_]+')  # in timm's sense: who trained the model, how, and on what
    hub_id: str = text(HUB_ID)
    file: str | None = text(r'([\w-]+/)*[\w-][\w.-]*\.safetensors', default=None)  # in the package; it replaces the Hub
    sha256: str | None = text('[0-9a-f]{64}', default=None)  # of the file
    url: str | None = text(r'https?://\S+', default=None)  # a checkpoint of the original code
    license: str = text(r'[a-z0-9][a-z0-9.-]*')
    source: str | None = text(r'https?://\S+', default=None)  # where they come from; None: they are our own

    @property
    def path(self) -> Path | None:
        """The file that ships with the package."""
        return Path(__file__).parent / self.file if self.file else None


@dataclass(frozen=True, kw_only=True)
class Published:
    """The authors' network under the same limit, to compare with. It is not the network of the file."""
    id: str = text(r'\S+')
    top1_pct: float = number(0, 100)  # ImageNet-1k validation
    top5_pct: float = number(0, 100)
    macs_m: float = number(0.001, 1e6)  # millions
    params_m: float = number(0.001, 1e6)  # millions


@dataclass(frozen=True, kw_only=True)
class NamedSubnet(Weights):
    """A network that was found for a device or a budget, and where its weights are."""
    name: str = text(r'ofa_[a-z0-9]+_[a-z0-9_]+')
    family: str = choice(*FAMILIES)
    space: SearchSpace = field(metadata={'reader': shelf_space})
    arch: Arch = field(metadata={'reader': lambda value, _: value})  # text until its space has read it
    device: str | None = text(r'[a-z0-9]+(-[a-z0-9]+)*', default=None)  # slug
    latency_ms: float | None = number(0.001, 1e6, default=None)  # the limit it was searched for
    latency_batch_size: int = number(1, 4096, default=1)  # images that the limit is for, together
    data: str = text(DATASET_ID, default=IMAGENET)  # the Hub's id of the training images
    split: str = text(r'\w+', default='validation')  # on which top1_pct and top5_pct were measured
    images: int = number(1, default=50000)  # in that split
    top1_pct: float | None = number(0, 100)  # None: not measured
    top5_pct: float | None = number(0, 100)
    macs_m: float = number(0.001, 1e6)  # millions
    params_m: float = number(0.001, 1e6)  # millions
    drop_rate: float = number(0, 0.99)
    upstream_id: str | None = text(r'\S+', default=None)  # its name in the original code
    supernet: str | None = text(r'ofa_[a-z0-9_]+_supernet', default=None)  # from which the weights are taken
    search: Search | None = None  # how we found it; None: we did not
    predicted_top1_pct: float | None = number(0, 100, default=None)  # on the scale of the predictor
    predicted_ms: float | None = number(0.001, 1e6, default=None)
    published: Published | None = None

    @property
    def limit(self) -> str:
        """The limit that it was searched for, as text."""
        if self.latency_ms:
            batch = f' for {self.latency_batch_size} images' if self.latency_batch_size > 1 else ''
            return f'{self.latency_ms:g} ms{batch} on {self.device}'
        return self.search.limit if self.search else f'{self.macs_m:g} M MACs'

    @property
    def network(self) -> tuple[str, Arch]:
        """A key that is the same for equal networks, whatever their resolution."""
        return self.space.name, replace(self.arch, resolution=0)

    def known(self) -> dict[str, Any]:
        """The fields of a `Record` that say something other than its network and its accuracy."""
        return dict(
            device=self.device, limit_ms=self.latency_ms, limit_batch_size=self.latency_batch_size, search=self.search,
            predicted_top1_pct=self.predicted_top1_pct, predicted_ms=self.predicted_ms, license=self.license,
            dataset_id=self.data, source=self.source)


@dataclass(frozen=True)
class HubConfig:
    """One file of `hub_configs/`."""
    name: str  # of the file: the registered model, or NAME.TAG
    kind: str  # one of KINDS
    path: Path
    data: Mapping[str, Any]  # as written; `training` reads the fields of a supernet
    subnet: NamedSubnet | None = None  # the checked data of `kind: subnet`
    weights: Weights | None = None  # checked as well


def hub_configs_dir() -> Path:
    """The folder `hub_configs`, which is inside an installed package and beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / 'hub_configs'
    return inside if inside.is_dir() else package.parent / 'hub_configs'


@lru_cache(maxsize=1)
def hub_configs() -> dict[str, HubConfig]:
    """Every valid file of `hub_configs/` by name. Each invalid one is a warning in the log."""
    return read_folder(hub_configs_dir())


def named_subnets() -> dict[str, NamedSubnet]:
    """The named networks, by the names of their files."""
    return {name: config.subnet for name, config in hub_configs().items() if config.subnet}


def find_config(text: str | Path, kind: str | None = None) -> HubConfig:
    """Find a config by the path of its file, or by a name: 'NAME', or from any folder 'hub_configs/NAME.yaml'. The
    error for an unknown one proposes names of that kind."""
    path = Path(text)
    if os.path.isfile(path):  # False for what can be no path
        return read_hub_config(path)
    name = path.name.removesuffix('.yaml')
    if str(path.parent) in ('.', 'hub_configs') and name in hub_configs():
        return hub_configs()[name]
    known = [name for name, config in hub_configs().items() if kind in (None, config.kind)]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0)
    raise InputError(f'config {str(text)!r:.120} is neither a file nor a name; give a file, or a name like '
                     f'{listed(near)}')


def read_folder(folder: Path) -> dict[str, HubConfig]:
    """Every valid file of a folder by name. Each invalid one is a warning in the log."""
    configs = {}
    for path in sorted(folder.glob('*.yaml'), key=lambda path: path.stem):
        try:
            configs[path.stem] = read_hub_config(path)
        except InputError as error:
            _logger.warning('%s is left out: %s', path, error)
    return configs


def read_hub_config(path: str | Path) -> HubConfig:
    """Read and check one file. Raises `InputError` naming the file and the field."""
    path = Path(path)
    where = f'hub config {path.name}'
    name, _, tag = path.stem.partition('.')
    data = read_yaml_file(path, where)
    if not isinstance(data, dict):
        raise InputError(f'{where} holds no fields; write lines like name: {name}')
    if data.get('name', name) != name or (tag and data.get('tag') != tag):
        raise InputError(f'{where}: name {data.get("name")!r:.80} with tag {data.get("tag")!r:.40} is not that of the '
                         f'file; make it {path.stem}')
    kind = data.get('kind')
    if kind not in KINDS:
        raise InputError(f'{where}: kind {kind!r:.60} is unknown; choose from {listed(KINDS)}')
    if kind == 'subnet':
        subnet = _read_subnet(data, where)
        return HubConfig(path.stem, kind, path, data, subnet, subnet)
    weights = _read_weights(data['weights'], f'{where}: weights') if 'weights' in data else None
    return HubConfig(path.stem, kind, path, data, weights=weights)


def _read_weights(data: Any, where: str) -> Weights:
    weights = read(Weights, data, where)
    _check_source(weights, where)
    return weights


def _check_source(weights: Weights, where: str) -> None:
    if (weights.file is None) != (weights.sha256 is None):
        raise InputError(f'{where}: file and sha256 belong together; give both or none')
    if weights.url and weights.source is None:
        raise InputError(f"{where}: field 'source' is missing, which says whose the weights of url are; add it")


def _read_subnet(data: Mapping[str, Any], where: str) -> NamedSubnet:
    subnet = read(NamedSubnet, {k: v for k, v in data.items() if k != 'kind'}, where)
    _check_source(subnet, where)
    if (subnet.device is None) != (subnet.latency_ms is None):
        raise InputError(f'{where}: device and latency_ms belong together; give both or none')
    own = (subnet.search, subnet.supernet, subnet.predicted_top1_pct)
    if any(v is None for v in own) and (subnet.top1_pct is None or any(v is not None for v in own)):
        raise InputError(f'{where}: search, supernet and predicted_top1_pct belong together, and are needed where '
                         'top1_pct is null; give all')
    if (subnet.top1_pct is None) != (subnet.top5_pct is None):
        raise InputError(f'{where}: top1_pct and top5_pct belong together; give both or null')
    other_spaces = {f'{name}_supernet' for name in space_names() if name != subnet.space.name}
    if subnet.supernet in other_spaces:
        raise InputError(f'{where}: supernet {subnet.supernet!r} is not of {subnet.space.name}; '
                         f'write {subnet.space.name}_supernet')
    family = FAMILIES[subnet.family]
    if subnet.space.family != family:
        raise InputError(
            f'{where}: family {subnet.family!r} is not that of {subnet.space.name}, which is {subnet.space.family}')
    try:
        return replace(subnet, arch=subnet.space.parse(str(subnet.arch)))
    except InputError as error:
        raise InputError(f'{where}: arch: {error}') from None
