"""Every model of `hub_configs/` is made and brought to the Hub, one after the other, and nothing twice.

There is no list of what is done. A repository is done if its last commit has a version tag, which `publish` makes at
its very end, and if it holds what is made of the configuration now: the same figures, the weights that ship, and the
images that are asked for. A folder is done if it holds the same; it appears whole or not at all. So a run that broke
off anywhere goes on where it was, and another one after it makes no commit.
"""
from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeAlias

import timm
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from torch import nn

from ..console import progress_bar
from ..errors import InputError, listed, one_line
from ..files import FULL, check_room, locked, save_tensors, sha256_of
from ..images import Data
from ..networks import DIGEST, WEIGHTS, hub_errors, our_block
from ..spaces import load_space
from ..training import load_config, supernet_folder
from .catalog_page import write_catalog
from .client import check_repo_id, check_token, hub_api
from .configs import HubConfig, NamedSubnet, Weights, hub_configs
from .device_collections import collect
from .finishing import with_accuracy
from .folder import check_folder, load_record
from .listing import fetch_record, find
from .outgoing import public_name
from .publishing import publish, publish_page
from .record import Record, SupernetRecord
from .saving import save_folder
from .supernets import check_supernet, read_supernet
from .upstream import released_network, save_released, subnet_record

WAYS = {  # how the weights of a model come about, in the order in which models are made
    'shipped': 'takes the weights from this package', 'converted': "converts the authors' checkpoint",
    'found': 'takes it from its supernet', 'recipe': 'a recipe, of which no weights exist'}
DONE, SKIPPED, FAILED, PLANNED = 'done', 'skipped', 'failed', 'planned'
THERE = 'it is there already'


@dataclass(frozen=True)
class Outcome:
    """What became of a model, or of what comes after all models."""
    name: str
    way: str
    state: str
    why: str = ''
    repo_id: str | None = None
    record: Record | SupernetRecord | None = None  # of what is on the Hub now
    published: Mapping[str, Any] = field(default_factory=dict)  # what `publish` says

    @property
    def row(self) -> dict[str, Any]:
        """The outcome as data: name, way, state, top1_pct, version, changed, why, repo_id, url."""
        told = self.published
        return dict(
            name=self.name, way=self.way, state=self.state,
            top1_pct=self.record.top1_pct if isinstance(self.record, Record) else None, version=told.get('version'),
            changed=told.get('changed', False), why=self.why, repo_id=self.repo_id, url=told.get('url'))


Work: TypeAlias = Callable[[], Outcome]


@dataclass(frozen=True)
class Release:
    """What a release needs.

    Args:
        owner: The namespace on the Hub.
        out: Folder of the folders of all models.
        find: Makes a network that our search found: (its supernet's name or folder, its name, the network) -> weights
            and record.
        asked: Network that our search found -> fields of its `Calibration` that it must have. Others may be any.
        eval_data: Network -> images on whose test part it is evaluated, if they are of the data set that it learned.
            None: it keeps the accuracy that its authors published, or has none.
        private: Repositories, collections and Space are private.
    """
    owner: str
    out: Path
    find: Callable[[str, str, NamedSubnet], tuple[nn.Module, Record]]
    asked: Callable[[NamedSubnet], Mapping[str, Any]] = lambda _: {}
    eval_data: Callable[[NamedSubnet], Data] | None = None
    private: bool = False

    def run(self, only: str = '*', space_id: str | None = None, dry_run: bool = False) -> list[Outcome]:
        """Make and publish the models whose names match a pattern, list them in the collections of their devices, and
        bring the catalog to the Space. A model that fails does not end the others.

        Args:
            only: As in file names: '*' for any text.
            space_id: By default 'OWNER/catalog'.
            dry_run: Ask the Hub what is there, and write nothing.

        Returns:
            What became of each model, and with `dry_run` what would.
        """
        configs = _chosen(only)
        space_id = space_id or f'{self.owner}/catalog'
        check_repo_id(space_id)
        if not dry_run:
            check_token(self.owner, (repository_name(config) for config in configs))
            check_token(space_id.split('/')[0])
        self._check_data(configs)
        api = hub_api()
        models = [self._outcome(config, FAILED) for config in configs]
        if dry_run:
            return list(_tried(zip(models, (partial(self._planned, api, config) for config in configs))))
        check_room(self.out, sum(_megabytes(c) for c in configs if not (self.out / c.name).exists()))
        self.out.mkdir(parents=True, exist_ok=True)
        with locked(self.out):
            _remove_torn(self.out, configs)
            outcomes = list[Outcome]()
            listing = Outcome('device collections', 'last', FAILED)
            page = Outcome('catalog', 'last', FAILED, repo_id=space_id)
            works: list[Work] = [partial(self._released, api, config) for config in configs]
            works += [lambda: self._collected(listing, api, outcomes), lambda: self._with_catalog(page)]
            with progress_bar(len(works), 'release', 'step') as bar:
                for outcome in _tried(zip([*models, listing, page], works)):
                    outcomes.append(outcome)
                    bar.update()
        return outcomes

    def _outcome(self, config: HubConfig, state: str, why: str = '', **about: Any) -> Outcome:
        return Outcome(config.name, way(config), state, why, self._repo_id(config), **about)

    def _released(self, api: HfApi, config: HubConfig) -> Outcome:
        """Make and publish a model, unless it is on the Hub or cannot be made."""
        planned = self._planned(api, config)
        if planned.state == SKIPPED:
            return planned
        folder = self.out / config.name
        record = self._made(folder, config) or self._make(folder, config)
        published = publish(folder, self._repo_id(config), private=self.private)
        return self._outcome(config, DONE, record=record, published=published)

    def _planned(self, api: HfApi, config: HubConfig) -> Outcome:
        """What is to be done for a model."""
        record = self._on_hub(api, config)
        if record is not None:
            return self._outcome(config, SKIPPED, THERE, record=record)
        return self._outcome(config, SKIPPED if way(config) == 'recipe' else PLANNED, WAYS[way(config)])

    def _repo_id(self, config: HubConfig) -> str:
        return f'{self.owner}/{repository_name(config)}'

    # ---- what is there ----------------------------------------------------------------------------------------------

    def _on_hub(self, api: HfApi, config: HubConfig) -> Record | SupernetRecord | None:
        """What the repository of a model holds, if that is complete and what would be made; else None."""
        repo_id = self._repo_id(config)
        with hub_errors(repo_id):
            try:
                refs = api.list_repo_refs(repo_id)
            except RepositoryNotFoundError:
                return None
            head = next((branch.target_commit for branch in refs.branches if branch.name == 'main'), None)
            if head not in {tag.target_commit for tag in refs.tags if re.fullmatch(r'v\d+', tag.name)}:
                return None
            at = f'hf-hub:{repo_id}@{head}'
            folder = fetch_record(repo_id, str(head)) if config.subnet else supernet_folder(at)
        read = load_record if config.subnet else lambda folder: read_supernet(folder)[0]
        return None if folder is None else self._current(config, folder, read)

    def _made(self, folder: Path, config: HubConfig) -> Record | SupernetRecord | None:
        """What the folder of a model holds, if that is what would be made; else None."""
        read = check_folder if config.subnet else lambda folder: check_supernet(folder)[0]
        return self._current(config, folder, read) if folder.exists() else None

    def _current(self, config: HubConfig, folder: Path, read: Callable[[Path], Record | SupernetRecord],
                 ) -> Record | SupernetRecord | None:
        """The record of a folder, if it is what would be made now; else None."""
        try:
            record = read(folder)
        except InputError:  # it is made anew; publishing says whether it may be replaced
            return None
        if any(getattr(record, name) != value for name, value in _figures(config, record).items()):
            return None
        if way(config) == 'shipped' and (our_block(folder) or {}).get(DIGEST) != _shipped_digest(config):
            return None
        return record if isinstance(record, SupernetRecord) or self._is_as_asked(config, record) else None

    def _is_as_asked(self, config: HubConfig, record: Record) -> bool:
        """Whether a network was made from the images that were asked for, and was evaluated on them."""
        assert config.subnet is not None
        asked = self.asked(config.subnet) if way(config) == 'found' else {}
        data = self._evaluated_on(config.subnet)
        told = record.accuracy and (record.accuracy.dataset, record.accuracy.split, record.accuracy.n)
        return (all(getattr(record.calibration, name, None) == value for name, value in asked.items())
                and (data is None or told == (data.name, data.split, len(data.test))))

    # ---- what is made -----------------------------------------------------------------------------------------------

    def _make(self, folder: Path, config: HubConfig) -> Record | SupernetRecord:
        """Write the folder of a model, and give its record."""
        subnet, weights = config.subnet, config.weights
        assert weights is not None
        if subnet is None:
            save_released(folder, _network(config, weights), _about(config, weights))
            return check_supernet(folder)[0]
        if way(config) == 'found':
            model, record = self.find(self._supernet(subnet), config.name, subnet)
            of = 'weights of the supernet, not fine-tuned'
        else:
            model, record, of = _network(config, weights), subnet_record(config.name, subnet), 'weights as published'
        data = self._evaluated_on(subnet)
        if data:
            record = with_accuracy(model, replace(record, class_names=data.class_names), data, of)
        save_folder(folder, model, record)
        return record

    def _supernet(self, subnet: NamedSubnet) -> str:
        """The supernet of a network: its folder if that was made, else its name."""
        assert subnet.supernet is not None
        folder = self.out / subnet.supernet
        return str(folder) if self._made(folder, hub_configs()[subnet.supernet]) else subnet.supernet

    def _evaluated_on(self, subnet: NamedSubnet) -> Data | None:
        """The images that a network is evaluated on, if there are any of the data set that it learned: of its Hub id,
        or of a folder that is called like it."""
        data = self.eval_data(subnet) if self.eval_data else None
        name = data.name.partition(' ')[0] if data else ''  # that of a split's folder follows
        fits = data and name in (subnet.data, _short(subnet)) and data.num_classes == subnet.space.num_classes
        return data if fits else None

    def _check_data(self, configs: Sequence[HubConfig]) -> None:
        """Open the images before the work; raises `InputError` for what cannot be read, or fits no network."""
        found = next((config.subnet for config in configs if way(config) == 'found'), None)
        if found:
            self.asked(found)
        subnets = [config.subnet for config in configs if config.subnet]
        if self.eval_data and subnets and not any(map(self._evaluated_on, subnets)):
            data = self.eval_data(subnets[0])
            ids, short = (listed(sorted({*map(name, subnets)})) for name in (attrgetter('data'), _short))
            raise InputError(f'data {data.name!r:.100} of {data.num_classes} classes is not what one of these networks '
                             f'learned; give {ids}, or a copy of it in a folder called {short}')

    # ---- what comes last --------------------------------------------------------------------------------------------

    def _collected(self, listing: Outcome, api: HfApi, outcomes: Sequence[Outcome]) -> Outcome:
        """List the networks in the collections of their devices."""
        networks = {o.repo_id: o.record for o in outcomes if o.repo_id and isinstance(o.record, Record)}
        lacking = [repo_id for repo_id, record in networks.items()
                   if len(collect(api, repo_id, record, self.private)) < len({m.device for m in record.measurements})]
        if lacking:
            return replace(listing, why=f'{listed(lacking)} could not be listed; run the same command again')
        return replace(listing, state=DONE, why=f'{len(networks)} networks')

    def _with_catalog(self, page: Outcome) -> Outcome:
        """Bring the page of all networks of the owner to its Space."""
        assert page.repo_id is not None
        found = find(self.owner, on_hub=True)
        if not any(f.record.measurements for f in found):
            return replace(page, state=SKIPPED, why='no network with a latency yet')
        path = write_catalog(self.owner, found, self.out / 'catalog.html')
        url = publish_page(path, page.repo_id, private=self.private)
        return replace(page, state=DONE, published=dict(url=url))


def repository_name(config: HubConfig) -> str:
    """The name of the repository of a model, as its configuration has it."""
    return config.weights.hub_id.split('/')[1] if config.weights else config.name


def way(config: HubConfig) -> str:
    """How the weights of a model come about, a key of WAYS."""
    weights = config.weights
    if weights is None:
        return 'recipe'
    return 'shipped' if weights.file else 'converted' if weights.url else 'found'


def _chosen(only: str) -> list[HubConfig]:
    """The models whose names match, supernets before the networks that are found in them."""
    configs = [config for config in hub_configs().values() if fnmatchcase(config.name, only)]
    if not configs:
        raise InputError(f'no model is called {only!r:.120}; choose from `timm-ofa models`')
    ways = list(WAYS)
    return sorted(configs, key=lambda c: (ways.index(way(c)), c.subnet is not None, c.name))


def _megabytes(config: HubConfig) -> float:
    """About the size of the folder of a model, MB (1e6 bytes)."""
    if config.weights is None:
        return 0
    space = config.subnet.space if config.subnet else load_space(str(config.data['space']))
    return 4e-6 * space.params(config.subnet.arch if config.subnet else space.max_arch())


def _network(config: HubConfig, weights: Weights) -> nn.Module:
    """The network or supernet, with weights of this package or of the authors."""
    if weights.file:
        return timm.create_model(config.name, pretrained=True)
    assert weights.url is not None
    return released_network(config.name, weights.url)


def _about(config: HubConfig, weights: Weights) -> dict[str, Any]:
    """What the folder of a supernet says of it."""
    about: dict[str, Any] = dict(license=weights.license, imported=config.name)
    if weights.url:
        return {**about, 'source': weights.url}
    training = load_config(config.path)
    return {**about, 'data': training.data, 'training': training.to_dict()}


def _figures(config: HubConfig, record: Record | SupernetRecord) -> dict[str, Any]:
    """What the record of a model says if it is made now, except what is measured, and what images decide."""
    from .. import __version__

    subnet, weights = config.subnet, config.weights
    if subnet is None or isinstance(record, SupernetRecord):
        about = dict(license=weights.license, source=public_name(weights.url)) if weights else {}
        return dict(name=config.name, **about)
    published = {} if record.per_class else dict(top1_pct=subnet.top1_pct)  # else it was evaluated
    return dict(name=config.name, space=subnet.space, arch=subnet.arch, code_version=__version__, **published,
                **subnet.known())


def _shipped_digest(config: HubConfig) -> str:
    """The SHA-256 of the file of weights, if it is written now."""
    assert config.weights is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / WEIGHTS
        save_tensors(path, _network(config, config.weights).state_dict())
        return sha256_of(path)


def _short(subnet: NamedSubnet) -> str:
    """The name of the data set that a network learned, without its owner."""
    return subnet.data.rpartition('/')[2]


def _tried(steps: Iterable[tuple[Outcome, Work]]) -> Iterator[Outcome]:
    """The outcome of each piece of work, which comes with what it is if it fails. Whatever goes wrong in one must not
    end the others. On a full disk no other one is begun."""
    full = ''
    for failed, work in steps:
        try:
            outcome = replace(failed, why=full) if full else work()
        except Exception as error:
            why = one_line(error)
            if isinstance(error, OSError) and error.errno in FULL:
                full = why = f'the disk takes no more ({why}); free space'
            outcome = replace(failed, why=why)
        yield outcome


def _remove_torn(out: Path, configs: list[HubConfig]) -> None:
    """Remove what a run that was killed left half-written. The folder is locked."""
    for config in configs:
        for path in filter(Path.is_dir, out.glob(f'.{config.name}.*')):
            shutil.rmtree(path)
