"""Folders are brought to the Hub: of a network or a supernet, of the networks of one search, and the catalog's page.

Each comes in one commit, and what arrived is checked. A repository that others wrote or changed is not overwritten.
"""
from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetInfo, HfApi, ModelInfo, SpaceCardData, SpaceInfo
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from ..errors import InputError, listed
from ..files import write_text
from ..networks import CONFIG, hub_address, hub_errors, our_block
from .card import render_card
from .client import OWNER, check_repo_id, hub_api, writable_id
from .device_collections import collect
from .folder import CARD, check_folder, is_supernet, programs_of
from .metadata import tags
from .record import Record, SupernetRecord
from .saving import stage_folder, update_folder
from .supernets import CURVES, stage_supernet

ATTEMPTS = 3  # to upload


def publish(folder: str | Path, repo_id: str | None = None, *, private: bool = False, dry_run: bool = False,
            force: bool = False, collection: bool = False) -> dict[str, Any]:
    """Check a folder and bring it to the Hub with one commit and one version tag. If it is there already, nothing is
    written.

    If an answer gets lost or this process ends on the way, publishing again ends in the same repository. A repository
    that others have changed on the Hub is not overwritten.

    Args:
        folder: A folder that `save_folder` or training wrote. Its card is written anew, with the repository's address.
        repo_id: 'namespace/name'. If it is not given: the user's namespace and the record's name.
        private: Make the repository private. One that is already public is refused, not changed.
        dry_run: Stop before the first request.
        force: Overwrite also a repository that timm_ofa did not write, or that others have changed.
        collection: List a network in the namespace's collections, one for each device. A missing collection is made,
            private if the repository is private. A collection that cannot be written to is a warning.

    Returns:
        repo_id, tags, files; after publishing also url, commit (sha), version ('v1', ...) and changed (bool), and
        with `collection` also collections (addresses).
    """
    with tempfile.TemporaryDirectory() as stage:
        record, render = _stage(Path(folder), Path(stage))
        check_repo_id(repo_id or f'{OWNER}/{record.name}')
        write_text(Path(stage) / CARD, render(repo_id))
        files = sorted(str(path.relative_to(stage)) for path in Path(stage).rglob('*') if path.is_file())
        found: dict[str, Any] = {'tags': tags(record), 'files': files}
        if dry_run:
            return {'repo_id': repo_id or f'{OWNER}/{record.name}', **found, 'dry_run': True}
        with hub_errors(repo_id or record.name):
            api = hub_api(record.code_version)
            repo_id = writable_id(api, repo_id, record.name)
            write_text(Path(stage) / CARD, render(repo_id))
            api.create_repo(repo_id, private=private, exist_ok=True)
            before = api.model_info(repo_id)
            _check_ours(api, before, record, private, force)
            commit = _bring(api, 'model', before, stage, f'{record.name} (timm_ofa {record.code_version})', force)
            _check_tags(api, repo_id, found['tags'])
            version = _tag_version(api, repo_id, commit)
    done = dict(repo_id=repo_id, **found, url=f'{hub_address()}/{repo_id}', commit=commit, version=version,
                changed=commit != before.sha)
    if collection and isinstance(record, Record):
        done['collections'] = collect(api, repo_id, record, private)
    return done


def publish_family(folders: Sequence[str | Path], owner: str | None = None, *, dry_run: bool = False,
                   **options: bool) -> list[dict[str, Any]]:
    """Bring networks of one search to the Hub, each to a repository of its own name. Their cards link each other.

    The links are also written into the folders, so that they stay when one of the folders is published again.

    Args:
        folders: The folders of different networks of one front.
        owner: The namespace; the user's own if it is not given.
        options: The options of `publish`, for each folder.

    Returns:
        What `publish` returns, for each folder.
    """
    records = [check_folder(folder) for folder in folders]
    _check_family(folders, records)
    if not dry_run:
        with hub_errors('your account'):
            name = records[0].name
            owner = writable_id(hub_api(), owner and f'{owner}/{name}', name).split('/')[0]
    ids = {str(record.arch): f'{owner or OWNER}/{record.name}' for record in records}
    for repo_id in ids.values():
        check_repo_id(repo_id)
    if not dry_run:
        for folder, record in zip(folders, records):
            linked = tuple(p if p.label else replace(p, id=ids.get(p.arch, p.id)) for p in record.front)
            if linked != record.front:
                update_folder(folder, partial(replace, front=linked))
    return [publish(folder, repo_id, dry_run=dry_run, **options) for folder, repo_id in zip(folders, ids.values())]


def _check_family(folders: Sequence[str | Path], records: Sequence[Record]) -> None:
    fronts = [(r.space, frozenset(p.arch for p in r.front if not p.label)) for r in records]
    for folder, record, front in zip(folders, records, fronts):
        if front != fronts[0] or str(record.arch) not in front[1]:
            raise InputError(f'{str(folder)!r:.200} is not of the search that {str(folders[0])!r:.200} is of; '
                             'publish it by itself')
    for what in ('name', 'arch'):
        values = [getattr(record, what) for record in records]
        twice = next((v for v in values if values.count(v) > 1), None)
        if twice is not None:
            raise InputError(f'two of the folders hold the {what} {str(twice)!r:.160}; leave one out')


def _stage(folder: Path, stage: Path) -> tuple[Record | SupernetRecord, Callable[[str | None], str]]:
    """Check a folder and copy to `stage` all that is published, except the card. Gives the record, and a function that
    writes the card for a repository."""
    if not is_supernet(folder):
        record = stage_folder(folder, stage)
        return record, partial(render_card, record, programs=programs_of(stage))
    supernet, training = stage_supernet(folder, stage)
    phases = training.phases if training else ()
    return supernet, partial(render_card, supernet, phases=phases, curves=(stage / CURVES).is_file())


def publish_page(page: str | Path, space_id: str, *, private: bool = False, force: bool = False) -> str:
    """Bring a page to the Hub as a static Space with one commit, and give its address. If it is there already, nothing
    is written.

    Args:
        space_id: 'namespace/name'.
        private: Make the Space private. One that is already public is refused, not changed.
        force: Overwrite also a Space that timm_ofa did not write.
    """
    data = SpaceCardData(
        title=space_id.split('/')[-1], sdk='static', app_file='index.html', tags=['timm_ofa'], pinned=False)
    card = f'---\n{data.to_yaml()}\n---\n\nNetworks by device and latency, written by `timm-ofa catalog`.\n'
    files = {CARD: card, 'index.html': Path(page).read_text(encoding='utf-8')}
    return publish_texts('space', space_id, files, 'timm_ofa', private=private, force=force, space_sdk='static')['url']


def publish_texts(kind: str, repo_id: str, files: Mapping[str, str], tag: str, *, private: bool = False,
                  force: bool = False, **options: Any) -> dict[str, Any]:
    """Make a Space or a data set hold exactly these texts, with one commit. If it does already, nothing is written.

    Args:
        kind: 'space' or 'dataset'.
        files: Name -> text. One is the card, in which `tag` says that timm_ofa wrote it.
        private, force: As in `publish_page`.
        options: Of a new repository.

    Returns:
        repo_id, url, commit (sha) and changed (bool).
    """
    from .. import __version__

    check_repo_id(repo_id)
    what = {'space': 'Space', 'dataset': 'data set'}[kind]
    with hub_errors(f'{what} {repo_id}'), tempfile.TemporaryDirectory() as stage:
        api = hub_api()
        writable_id(api, repo_id, '')
        is_new = not api.repo_exists(repo_id, repo_type=kind)
        api.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True, **options)
        before = api.space_info(repo_id) if kind == 'space' else api.dataset_info(repo_id)
        _refuse_public(before, private)
        if not (is_new or force or tag in (before.tags or []) or _is_unfinished(api, kind, repo_id)):
            raise InputError(f'{repo_id} exists and was not written by timm_ofa; choose another name, or force it')
        for name, text in files.items():
            write_text(Path(stage) / name, text)
        commit = _bring(api, kind, before, stage, f'{repo_id.split("/")[1]} (timm_ofa {__version__})', force)
    return dict(repo_id=repo_id, url=f'{hub_address()}/{kind}s/{repo_id}', commit=commit, changed=commit != before.sha)


def _is_unfinished(api: HfApi, kind: str, repo_id: str) -> bool:
    """Whether a repository holds only what the Hub puts into a new one, as if publishing had broken off."""
    commits = api.list_repo_commits(repo_id, repo_type=kind)
    return len(commits) == 1 and commits[0].title == 'initial commit'


def _refuse_public(info: ModelInfo | SpaceInfo | DatasetInfo, private: bool) -> None:
    if private and not info.private:
        raise InputError(f'{info.id} is public already; make it private in its settings, or leave out private')


def _check_ours(api: HfApi, info: ModelInfo, record: Record | SupernetRecord, private: bool, force: bool) -> None:
    """Raise unless the repository may be written to: it is empty, unfinished, or ours and of the same kind and name."""
    _refuse_public(info, private)
    files = {s.rfilename for s in info.siblings or []} - {'.gitattributes', CARD}
    if not files or force:
        return
    block = _block_on_hub(api, info) if CONFIG in files else None
    if block is None:
        raise InputError(f'{info.id} exists and was not written by timm_ofa; choose another name, or force it')
    there = block.get('kind', 'subnet')
    if there != record.kind:
        raise InputError(f'{info.id} holds a {there!s:.40}, not a {record.kind}; choose another name, or force it')
    name = block.get('name', record.name)  # a supernet's has none
    if name != record.name:
        raise InputError(f'{info.id} holds the network {name!r:.100}, not {record.name!r}; choose another repository, '
                         'or force it')


def _block_on_hub(api: HfApi, info: ModelInfo) -> dict[str, Any] | None:
    """Our block in the repository's `config.json`; None if timm_ofa did not write that file."""
    return our_block(Path(api.hf_hub_download(info.id, CONFIG, revision=info.sha)).parent)


def _refuse_changed(api: HfApi, repo_id: str, kind: str = 'model') -> None:
    """Raise if the last commit is neither ours nor the first one, which the Hub makes."""
    commits = api.list_repo_commits(repo_id, repo_type=kind)
    last = commits[0]
    if len(commits) > 1 and not re.search(r'\(timm_ofa [\w.+-]+\)$', last.title):
        raise InputError(f'{repo_id} was changed on the Hub since ({last.commit_id[:8]}, {last.title!r:.60}); '
                         'bring the change here, or force it')


def _bring(api: HfApi, kind: str, before: ModelInfo | SpaceInfo | DatasetInfo, stage: str, message: str,
           force: bool) -> str | None:
    """Make the repository equal to the folder, with one commit or none, and give its last commit (sha)."""
    if _equals_remote(api, kind, before.id, stage):
        return before.sha
    if not force:
        _refuse_changed(api, before.id, kind)
    return _upload(api, kind, before.id, stage, before.sha, message)


def _upload(api: HfApi, kind: str, repo_id: str, stage: str, parent: str | None, message: str) -> str | None:
    """Make the repository equal to the folder and give the commit (sha).

    An answer may get lost after the commit was made, so the content of the repository decides, not the answer. `parent`
    keeps the client from making a second commit when it tries again.
    """
    error: Exception | None = None
    for _ in range(ATTEMPTS):
        try:
            api.upload_folder(
                repo_id=repo_id, repo_type=kind, folder_path=stage, delete_patterns='*', parent_commit=parent,
                commit_message=message)
            error = None
        except (HTTPError, RuntimeError) as problem:  # RuntimeError: the transfer of a large file failed
            error = problem
        if _equals_remote(api, kind, repo_id, stage):
            return api.repo_info(repo_id, repo_type=kind).sha
        if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
            break
    if error:
        raise error
    raise InputError(f'{repo_id} does not hold the files that were sent; publish again')


def _equals_remote(api: HfApi, kind: str, repo_id: str, stage: str) -> bool:
    check = api.verify_repo_checksums(repo_id, repo_type=kind, local_dir=stage)
    return not check.mismatches and not check.extra_paths and set(check.missing_paths) <= {'.gitattributes'}


def _check_tags(api: HfApi, repo_id: str, expected: list[str]) -> None:
    missing = set(expected) - set(api.model_info(repo_id).tags or [])
    if missing:
        raise InputError(f'the Hub does not list {listed(sorted(missing))} on {repo_id}; publish again in a minute')


def _tag_version(api: HfApi, repo_id: str, commit: str | None) -> str:
    """The version tag of the commit. If it has none, the next free tag is made."""
    found = api.list_repo_refs(repo_id).tags
    versions = {int(t.name[1:]): t.target_commit for t in found if re.fullmatch(r'v\d{1,9}', t.name)}
    number = next((n for n, target in sorted(versions.items()) if target == commit), max(versions, default=0) + 1)
    if number not in versions:
        api.create_tag(repo_id, tag=f'v{number}', revision=commit)
    return f'v{number}'
