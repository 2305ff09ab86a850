"""Where the weights of a named model come from: the package, the Hub, or the authors' checkpoint.

What the authors released is converted once, strictly, and kept in timm's cache.
"""
from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import constants, hf_hub_download
from timm.models import PretrainedCfg
from timm.models import load_state_dict as load_checkpoint_file
from torch import nn

from ..errors import InputError, one_line
from ..files import fetch, locked, remove_parts, save_tensors, sha256_of
from ..networks import NotThere, convert_upstream, hub_address, hub_errors, hub_weights, refuse_unreachable
from .configs import HubConfig, Weights
from .pins import refuse_changed

_logger = logging.getLogger(__name__)

HUB_FILE = re.compile(r'https://huggingface\.co/([\w.-]+/[\w.-]+)/resolve/([\w.-]+)/(.+)')  # repository, revision, file


def packaged_weights(config: HubConfig, weights: Weights) -> Path:
    """The file with a named model's weights that ships with the package, after a check of its hash."""
    path = weights.path
    assert path is not None
    if path.is_file() and sha256_of(path) == weights.sha256:
        return path
    problem = f'does not have the SHA-256 that {config.path.name} names' if path.is_file() else 'is not in the package'
    raise InputError(f'weights of {config.name!r}: {weights.file} {problem}; install timm_ofa again, '
                     'or use pretrained=False')


def fetch_weights(config: HubConfig, cfg: PretrainedCfg, reference: Callable[[], nn.Module],
                  cache_dir: str | Path | None = None) -> Path:
    """A file with a named model's weights: from the Hub, else converted from the authors' checkpoint. Where nobody has
    published them, they are made from a released supernet.

    It must be the file that the same address gave before.
    `reference` gives the network of the checkpoint, which may be on the meta device.
    """
    made = None
    if config.subnet and config.subnet.supernet and not cfg.url:
        from .making import weights_to_make  # it imports much

        made = weights_to_make(config, cache_dir)
    if made and made.is_kept():
        return made.path
    sources: list[tuple[str, Callable[[], Path]]] = []
    if repo_id := cfg.hf_hub_id:
        sources.append((f'{hub_address()}/{repo_id}', lambda: hub_weights(repo_id, cache_dir)))
    if url := str(cfg.url or ''):
        sources.append((url, lambda: _fetch_upstream(config.name, url, reference(), cache_dir)))
    failures, nowhere = list[str](), True
    for address, download in sources:
        try:
            path = download()
        except (OSError, ValueError) as error:  # what the Hub's client and we raise
            _logger.info('weights of %s: %s failed (%s)', config.name, address, one_line(error))
            reason = one_line(error)
            nowhere &= isinstance(error, NotThere)
            failures.append(reason if address in reason else f'{address} ({reason})')
        else:
            refuse_changed(config.name, address, path, cache_dir or Path(constants.HF_HUB_CACHE).parent)
            return path
    if made and nowhere:
        return made.make('; '.join(failures))
    raise InputError(
        f'weights of {config.name!r} could not be loaded: {"; ".join(failures) or "no source is set"}; '
        f'{weights_cure(config)}, or use pretrained=False')


def weights_cure(config: HubConfig) -> str:
    """What the user can do for a named model's weights when no download gives them."""
    if config.subnet and config.subnet.search:
        return f'make them: `timm-ofa specialize --config hub_configs/{config.name}.yaml --data {config.subnet.data}`'
    return f'get the file and run `timm-ofa import-upstream --name {config.name} --from FILE --out out/{config.name}`'


def _fetch_upstream(name: str, url: str, model: nn.Module, cache_dir: str | Path | None) -> Path:
    """The authors' checkpoint under our names, in timm's cache, in a file with the name of the model."""
    from timm.models._hub import get_cache_dir

    path = Path(cache_dir or get_cache_dir()) / f'{name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}.safetensors'
    with locked(path, waiting=f'another process fetches {url}'):
        remove_parts(path)
        if not path.is_file():
            if constants.HF_HUB_OFFLINE:
                raise InputError(f'HF_HUB_OFFLINE is set and {url!r:.200} is not in the cache; unset it to reach it')
            save_tensors(path, read_upstream(url, model))
    return path


def read_upstream(source: str | Path, model: nn.Module) -> dict[str, torch.Tensor]:
    """A checkpoint of the original code, from a file or an address -> the state dict of `model`.

    Only tensors are read (`weights_only`), never code. Raises `InputError` for what is no such checkpoint.
    """
    if match := HUB_FILE.fullmatch(str(source)):
        return _read_checkpoint(_fetch_from_hub(*match.groups()), str(source), model)
    with as_file(source) as path:
        return _read_checkpoint(path, str(source), model)


@contextmanager
def as_file(source: str | Path) -> Iterator[Path]:
    """A source as a file. What is behind an address is downloaded, and removed after it was read."""
    if '://' not in str(source):
        yield Path(source)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield fetch(str(source), Path(folder) / 'checkpoint')


def _fetch_from_hub(repo_id: str, revision: str, name: str) -> Path:
    """A file of a repository, through the Hub's own client: with its HF_ENDPOINT, HF_HUB_OFFLINE, token and cache."""
    refuse_unreachable()
    try:
        with hub_errors(repo_id, name):
            return Path(hf_hub_download(repo_id, name, revision=revision, library_name='timm_ofa'))
    except InputError as error:
        raise InputError(f'{error}, or get the file elsewhere and give its path') from None


def _read_checkpoint(path: Path, source: str, model: nn.Module) -> dict[str, torch.Tensor]:
    if not os.path.isfile(path):
        raise InputError(f'checkpoint {source!r:.200} is not there; give a file or an http address')
    try:
        state_dict = load_checkpoint_file(str(path), use_ema=False)
    except Exception as error:  # unpickling what is no checkpoint raises nearly anything
        raise InputError(
            f'{source!r:.200} is not a checkpoint of tensors ({one_line(error)}); give another file') from None
    return convert_upstream(state_dict, model)
