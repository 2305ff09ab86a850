"""Weights and small files from a folder or a Hub repository, checked before anybody uses them.

timm takes what it is given. The Hub's client compares only sizes, a repository may change between two requests, and
without a safetensors file a pickle would be read. `checked` wraps an entry-point: before the network is built, the file
must have the hashes that the Hub and `config.json` list, and the network's names and shapes. Only safetensors are read.
"""
from __future__ import annotations

import functools
import hashlib
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from timm.models import PretrainedCfg
from timm.models._builder import resolve_pretrained_cfg
from torch import nn

from ..errors import InputError, one_line
from ..fields import MAX_ITEMS, is_hub_id, read_value
from ..files import sha256_of
from .blank import without_weights
from .hub_access import hub_errors, refuse_unreachable, unreachable

CONFIG, WEIGHTS = 'config.json', 'model.safetensors'
BLOCK = 'timm_ofa'  # our key in config.json
DIGEST = 'model_sha256'  # in that block: of the weights beside it
BUILD_ARGS = {'num_classes', 'in_chans', 'global_pool', 'img_size'}  # timm records them beside the entry-point's own
OTHER_ARGS = {'drop_rate', 'drop_path_rate', 'bn_eps', 'bn_momentum', 'act_layer'}  # a user may have given them
CFG_KINDS: dict[str, Any] = {  # fields of timm's `PretrainedCfg` that users of a network read
    'label_names': tuple[str, ...], 'label_descriptions': dict[str, str], 'mean': tuple[float, ...],
    'std': tuple[float, ...], 'crop_pct': float, 'interpolation': str, 'crop_mode': str, 'first_conv': str}
MAX_JSON_BYTES = 16 * 2**20


def checked(entry_point: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """The entry-point, which now checks weights of a folder or a repository before it uses them (`InputError`)."""
    @functools.wraps(entry_point)
    def create(pretrained: bool = False, **kwargs) -> nn.Module:
        cfg = kwargs.get('pretrained_cfg')
        source = cfg.get('source') if isinstance(cfg, Mapping) else None
        if not pretrained or not isinstance(cfg, Mapping) or source not in ('hf-hub', 'local-dir'):
            return entry_point(pretrained, **kwargs)
        own = set(inspect.signature(entry_point).parameters) - {'pretrained', 'kwargs'}
        where = str(cfg['hf_hub_id'] if source == 'hf-hub' else cfg['file'])
        args = kwargs.get('pretrained_model_args') or {}
        cfg = _check_cfg(where, entry_point.__name__, dict(cfg), kwargs.pop('pretrained_cfg_overlay', None), args, own)
        path = (hub_weights(where, kwargs.get('cache_dir'), asked=True) if source == 'hf-hub' else
                folder_weights(where))  # timm has just asked the Hub for `config.json`
        _check_network(path, where, functools.partial(entry_point, False, **{
            **args, 'num_classes': cfg.num_classes, 'in_chans': cfg.input_size[0],
            'pretrained_cfg': replace(cfg, source='')}))
        model = entry_point(True, **{
            **kwargs, 'pretrained_cfg': replace(cfg, source='', file=str(path), custom_load=False)})
        told = {**vars(model)['pretrained_cfg'], 'source': source, 'file': cfg.file}  # its origin, as timm says it
        vars(model).update(pretrained_cfg=told, default_cfg=told)
        return model

    return create


def check_configs() -> None:
    """Let timm refuse a `config.json` of ours by the field whose kind is wrong. Other ones it reads as before."""
    from timm.models import _hub

    parse = _hub._parse_model_cfg

    @functools.wraps(parse)
    def checked_parse(cfg: dict[str, Any], extra_fields: dict[str, Any]) -> tuple[dict[str, Any], str, dict[str, Any]]:
        if isinstance(cfg, Mapping) and BLOCK in cfg:
            where = f'{CONFIG} of {extra_fields.get("file") or extra_fields.get("hf_hub_id")!r:.120}'
            name = read_value(str, cfg.get('architecture'), f'{where}: architecture')
            if not name.startswith('ofa_'):
                raise InputError(f'{where}: architecture {name!r:.60} is not of this package; save it again')
            for field in ('pretrained_cfg', 'model_args'):
                if field in cfg and not isinstance(cfg[field], Mapping):
                    raise InputError(f'{where}: {field} {cfg[field]!r:.60} is not an object; write {{..}}')
        return parse(cfg, extra_fields)

    vars(_hub)['_parse_model_cfg'] = checked_parse


def hub_weights(repo_id: str, cache_dir: str | Path | None = None, *, asked: bool = False) -> Path:
    """The weights of a repository, 'ORG/NAME' or 'ORG/NAME@REVISION', checked, in the cache of the Hub's client.

    They are of the commit that the Hub has now. As with its client, what is in the cache counts where HF_HUB_OFFLINE is
    set or the Hub does not answer. They have the hashes that the Hub and `config.json` list.

    Args:
        asked: The `config.json` in the cache was fetched just now, so the Hub need not be asked again.
    """
    from huggingface_hub import constants, hf_hub_download

    name, _, revision = repo_id.partition('@')
    fetch = functools.partial(hf_hub_download, name, cache_dir=cache_dir, library_name='timm_ofa')
    known = known_file(repo_id, cache_dir)
    with hub_errors(repr(repo_id), CONFIG, WEIGHTS):
        if known is None or not (asked or constants.HF_HUB_OFFLINE or unreachable()):
            known = Path(fetch(CONFIG, revision=revision or None))
        path = Path(fetch(WEIGHTS, revision=known.parent.name))
    digest = sha256_of(path)
    _check_listed(path, digest, repo_id)
    _check_recorded(known, digest, repo_id)
    return path


def hub_file(place: str, name: str, repo_type: str = 'dataset') -> Path:
    """A small file of a repository, 'ORG/NAME' or 'ORG/NAME@REVISION', in the cache of the Hub's client.

    It is of the commit that the Hub has now, has at most MAX_JSON_BYTES, which is asked before it is fetched, and has
    the hash that the Hub lists. What is in the cache counts where HF_HUB_OFFLINE is set or the Hub does not answer.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url

    repo_id, _, revision = place.partition('@')
    if not is_hub_id(repo_id):
        raise InputError(f"repository {repo_id!r:.120} is not a valid name; write it like 'acme/{repo_type}'")
    path = known_file(place, names=(name,), repo_type=repo_type)
    if path is None or not (constants.HF_HUB_OFFLINE or unreachable()):
        with hub_errors(repr(place), name):
            url = hf_hub_url(repo_id, name, repo_type=repo_type, revision=revision or None)
            size = get_hf_file_metadata(url).size
            if size is None or size > MAX_JSON_BYTES:
                raise InputError(f'{name} of {place!r:.120} has {size} bytes, and at most {MAX_JSON_BYTES} are read; '
                                 'give another one')
            path = Path(hf_hub_download(
                repo_id, name, repo_type=repo_type, revision=revision or None, library_name='timm_ofa'))
    if path.stat().st_size > MAX_JSON_BYTES:  # it grew meanwhile
        raise InputError(f'{name} of {place!r:.120} is larger than the {MAX_JSON_BYTES} bytes that are read; give '
                         'another one')
    _check_listed(path, sha256_of(path), place)
    return path


def _check_listed(path: Path, digest: str, place: str) -> None:
    """Check that a file in the client's cache has the hash that the Hub lists, by which the client names it there.

    `digest` is its SHA-256. A small file is listed as git hashes it. Without links the client keeps no hash.
    """
    blob = path.resolve()
    if re.fullmatch('[0-9a-f]{40}', blob.name):
        data = path.read_bytes()
        digest = hashlib.sha1(b'blob %d\0' % len(data) + data, usedforsecurity=False).hexdigest()
    if re.fullmatch('[0-9a-f]{40}|[0-9a-f]{64}', blob.name) and blob.name != digest:
        raise InputError(
            f'{path.name} of {place!r:.120} does not have the hash that the Hub lists; delete {str(blob)!r} '
            'and try again')


def folder_weights(folder: str | Path) -> Path:
    """The weights of a folder. If its `config.json` is ours, they must have the hash that it lists."""
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise InputError(f'{str(folder)!r:.200} holds no {WEIGHTS}, and nothing else is read; '
                         'save it with safe_serialization=True')
    _check_recorded(path.with_name(CONFIG), sha256_of(path), str(folder))
    return path


def _check_recorded(config: Path, digest: str, where: str) -> None:
    block = read_json(config).get(BLOCK)
    recorded = block.get(DIGEST, digest) if isinstance(block, Mapping) else digest
    if recorded != digest:
        raise InputError(f'{WEIGHTS} of {where!r:.200} is not that which {CONFIG} was written for; get it elsewhere, '
                         'or save it again')


def _check_cfg(where: str, name: str, data: dict[str, Any], overlay: dict[str, Any] | None, args: Mapping[str, Any],
               own: Iterable[str]) -> PretrainedCfg:
    """timm's `PretrainedCfg` of somebody's `config.json`, after a check of all values that decide what is built."""
    allowed = {*own, *BUILD_ARGS, *OTHER_ARGS}
    unknown = [key for key in args if key not in allowed]
    if unknown:
        raise InputError(f'model_args of {where!r:.200} hold {unknown[0]!r:.60}, which {name} does not take; '
                         f'remove it from {CONFIG}')
    for key in ('drop_rate', 'drop_path_rate'):
        read_value(float | None, args.get(key), f'{CONFIG} of {where!r:.120}: {key}', low=0, high=1)
    read_value(str | None, args.get('act_layer'), f'{CONFIG} of {where!r:.120}: act_layer')
    try:
        cfg = resolve_pretrained_cfg(name, data, overlay)
    except (TypeError, ValueError) as error:
        raise InputError(f'{CONFIG} of {where!r:.200} is not one that timm reads ({one_line(error)}); '
                         'save it again') from None
    cfg = replace(cfg, num_classes=read_value(
        int, cfg.num_classes, f'{CONFIG} of {where!r:.120}: num_classes', low=0, high=MAX_ITEMS))
    for field, kind in CFG_KINDS.items():
        read_value(kind | None, getattr(cfg, field), f'{CONFIG} of {where!r:.120}: {field}')
    size = cfg.input_size
    if not isinstance(size, (list, tuple)) or len(size) != 3 or not all(type(n) is int and 0 < n < 9999 for n in size):
        raise InputError(f'{CONFIG} of {where!r:.120}: input_size {size!r:.60} is not [channels, height, width]')
    return cfg


def _check_network(path: Path, where: str, build: Callable[[], nn.Module]) -> None:
    """Check by the file's header that it holds what the network needs."""
    try:
        with without_weights():
            network = build()
    except InputError:
        raise
    except Exception as error:  # whatever timm says to arguments of strangers
        raise InputError(f'the network of {where!r:.200} cannot be built ({one_line(error)}); mend {CONFIG}') from None
    check_shapes(path, network, where)


def check_shapes(path: Path, network: nn.Module, where: str) -> None:
    """Check that a file's tensors have a network's names and shapes. Only the file's header is read."""
    from safetensors import SafetensorError, safe_open

    expected = {k: list(v.shape) for k, v in network.state_dict().items()}
    try:
        with safe_open(path, framework='pt') as file:
            found = {k: file.get_slice(k).get_shape() for k in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise InputError(f'{path.name} of {where!r:.200} cannot be read ({error!s:.80}); save it again') from None
    wrong = [k for k in {**expected, **found} if found.get(k) != expected.get(k)]
    if wrong:
        raise InputError(
            f'{path.name} of {where!r:.200}: {wrong[0]!r:.80} has the shape {found.get(wrong[0])}, the network needs '
            f'{expected.get(wrong[0])}; save it again')


def known_file(repo_id: str, cache_dir: str | Path | None = None, *, names: Sequence[str] = (CONFIG,),
               repo_type: str = 'model') -> Path | None:
    """The first of some files of a repository in the cache of the Hub's client. Without one, the Hub must answer."""
    from huggingface_hub import try_to_load_from_cache

    repo_id, _, revision = repo_id.partition('@')
    for name in names:
        file = try_to_load_from_cache(
            repo_id, name, cache_dir=cache_dir, revision=revision or 'main', repo_type=repo_type)
        if isinstance(file, str):
            return Path(file)
    refuse_unreachable()
    return None


def our_block(folder: Path) -> dict[str, Any] | None:
    """What timm_ofa wrote into the `config.json` of a folder; None if another program wrote that, or there is none."""
    try:
        block = read_json(folder / CONFIG).get(BLOCK)
    except InputError:
        return None
    return block if isinstance(block, dict) else None


def read_json(path: Path) -> dict:
    """A JSON object of bounded size, from a file that anybody may have written. Raises `InputError`."""
    if not path.is_file() or path.stat().st_size > MAX_JSON_BYTES:
        raise InputError(f'{str(path)!r} is missing or above {MAX_JSON_BYTES} bytes; save the folder again')
    try:
        data = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError):
        raise InputError(f'{str(path)!r} is not JSON; save the folder again') from None
    if not isinstance(data, dict):
        raise InputError(f'{str(path)!r} is not a JSON object; save the folder again')
    return data
