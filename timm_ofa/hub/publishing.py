"""Networks on the Hugging Face Hub.

`publish` brings a folder there, of a network or a supernet, in one commit and checks what arrived; `publish_family`
does so for the networks of one search, whose cards then link each other. `pull` fetches a folder from anybody and
checks it before it is used, `find` lists the networks that an organization has published. Errors of the Hub come as one
line. Tokens are those of the Hub client; none is kept or shown.
"""
from __future__ import annotations

import hashlib
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import InputError, listed
from ..fields import check_slug
from ..files import write_text
from ..networks import BLOCK, CONFIG, read_json, refuse_unreachable
from .card import OWNER, RUNGS_MS, SUPERNET_TAG, evidence, render_card, tags
from .folder import CARD, FILES, PERF, check_folder, refuse_pickles, stage_folder, update_folder
from .folder import load_record as load_record
from .folder import save_folder as save_folder
from .record import Measurement, Record, SupernetRecord

_logger = logging.getLogger(__name__)

ATTEMPTS = 3  # to upload
READERS = 8  # records that are downloaded at a time
COLLECTION = 'timm_ofa: networks for '  # and the device
MAX_TITLE, MAX_NOTE = 60, 500  # characters that the Hub takes of a collection


def publish(folder: str | Path, repo_id: str | None = None, *, private: bool = False, dry_run: bool = False,
            force: bool = False, collection: bool = False) -> dict[str, Any]:
    """Check a folder and bring it to the Hub: one commit, one version tag; nothing when it is there already.

    Whatever breaks off on the way, a lost answer or this process, doing it again ends in the same repository. One that
    others have changed on the Hub since is not overwritten.

    Args:
        folder: What `save_folder` or training wrote. Its card is written anew, with the address of the repository.
        repo_id: 'namespace/name'; the user's namespace and the record's name if not given.
        private: Make the repository private. One that is public already is refused, not changed.
        dry_run: Stop before the first request.
        force: Overwrite a repository that timm_ofa did not write, or that others changed.
        collection: List a network in the namespace's collection of each of its devices. A collection is made where
            there is none, private if the repository is; one that cannot be written to is a warning.

    Returns:
        repo_id, tags, files; after publishing also url, commit (sha), version ('v1', ...) and changed (bool), and
        with `collection` collections (addresses).
    """
    from huggingface_hub import constants

    with tempfile.TemporaryDirectory() as stage:
        record, render = _stage(Path(folder), Path(stage))
        _check_repo_id(repo_id or f'{OWNER}/{record.name}')
        found = {'tags': tags(record), 'files': sorted({path.name for path in Path(stage).iterdir()} | {CARD})}
        write_text(Path(stage) / CARD, render(repo_id))
        if dry_run:
            return {'repo_id': repo_id or f'{OWNER}/{record.name}', **found, 'dry_run': True}
        with _one_line(repo_id or record.name):
            api = _api(record)
            repo_id = _writable_id(api, repo_id, record.name)
            write_text(Path(stage) / CARD, render(repo_id))
            api.create_repo(repo_id, private=private, exist_ok=True)
            before = api.model_info(repo_id)
            _check_ours(api, before, record.kind, private, force)
            commit = before.sha
            if not _equals_remote(api, 'model', repo_id, stage):
                if not force:
                    _refuse_changed(api, repo_id)
                message = f'{record.name} (timm_ofa {record.code_version})'
                commit = _upload(api, 'model', repo_id, stage, before.sha, message)
            _check_tags(api, repo_id, found['tags'])
            version = _tag_version(api, repo_id, commit)
    done = {'repo_id': repo_id, **found, 'url': f'{constants.ENDPOINT}/{repo_id}', 'commit': commit,
            'version': version, 'changed': commit != before.sha}
    if collection and isinstance(record, Record):
        done['collections'] = _collect(api, repo_id, record, private)
    return done


def publish_family(folders: Sequence[str | Path], owner: str | None = None, *, dry_run: bool = False,
                   **options: bool) -> list[dict[str, Any]]:
    """Bring networks of one search to the Hub, each to a repository of its own name; their cards link each other.

    The links are written into the folders as well, so that publishing one of them again keeps them.

    Args:
        folders: Of different networks of one front.
        owner: Namespace; the user's if not given.
        options: As of `publish`, for each.

    Returns:
        What `publish` returns, for each folder.
    """
    records = [check_folder(folder) for folder in folders]
    _check_family(folders, records)
    if not dry_run:
        with _one_line('your account'):
            name = records[0].name
            owner = _writable_id(_api(), owner and f'{owner}/{name}', name).split('/')[0]
    ids = {str(record.arch): f'{owner or OWNER}/{record.name}' for record in records}
    for repo_id in ids.values():
        _check_repo_id(repo_id)
    if not dry_run:
        for folder, record in zip(folders, records):
            linked = tuple(p if p.label else replace(p, id=ids.get(p.arch, p.id)) for p in record.front)
            if linked != record.front:
                update_folder(folder, front=linked)
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
    """Copy what is to be published but the card, all of it checked; the record, and what writes the card."""
    from .supernets import CURVES, is_supernet, stage_supernet  # they import what trains

    if is_supernet(folder):
        record, training = stage_supernet(folder, stage)
        phases = training.phases if training else ()
        return record, partial(render_card, record, phases=phases, curves=(stage / CURVES).is_file())
    record = stage_folder(folder, stage)
    return record, partial(render_card, record)


def pull(repo_id: str, revision: str | None = None) -> Path:
    """Fetch somebody's network or supernet for `timm.create_model(f'local-dir:{path}', pretrained=True)`.

    Only known files are fetched; their hashes must be those that the Hub lists, and record, architecture and weights
    must agree. Raises `InputError`.
    """
    from huggingface_hub import snapshot_download

    from .supernets import FILES as SUPERNET_FILES
    from .supernets import check_supernet, is_supernet

    _check_repo_id(repo_id)
    with _one_line(repo_id):
        api = _api()
        sha = api.model_info(repo_id, revision=revision).sha
        names = api.list_repo_files(repo_id, revision=sha)
        refuse_pickles(names, repo_id)
        if CONFIG not in names:
            raise InputError(f'{repo_id} is not complete, it holds no {CONFIG}; publish it again')
        path = Path(snapshot_download(repo_id, revision=sha, allow_patterns=[*FILES, *SUPERNET_FILES]))
        wrong = api.verify_repo_checksums(repo_id, revision=sha, local_dir=path).mismatches
    if wrong:
        raise InputError(
            f'{wrong[0]["path"]} of {repo_id} has not the hash that the Hub lists; delete {path} and pull again')
    (check_supernet if is_supernet(path) else check_folder)(path)
    return path


def publish_page(page: str | Path, space_id: str, *, private: bool = False, force: bool = False) -> str:
    """Bring a page to the Hub as a static Space, in one commit, none when it is there already; gives its address.

    Args:
        space_id: 'namespace/name'.
        private: Make the Space private. One that is public already is refused, not changed.
        force: Overwrite a Space that timm_ofa did not write.
    """
    from huggingface_hub import SpaceCardData, constants

    _check_repo_id(space_id)
    with _one_line(f'Space {space_id}'), tempfile.TemporaryDirectory() as stage:
        api = _api()
        _writable_id(api, space_id, '')
        is_new = not api.repo_exists(space_id, repo_type='space')
        api.create_repo(space_id, repo_type='space', space_sdk='static', private=private, exist_ok=True)
        before = api.space_info(space_id)
        if private and not before.private:
            raise InputError(f'{space_id} is public already; make it private in its settings, or leave out private')
        if not (is_new or force or 'timm_ofa' in (before.tags or [])):
            raise InputError(f'{space_id} exists and was not written by timm_ofa; choose another name, or force it')
        title = space_id.split('/')[1]
        data = SpaceCardData(title=title, sdk='static', app_file='index.html', tags=['timm_ofa'], pinned=False)
        card = f'---\n{data.to_yaml()}\n---\n\nNetworks by device and latency, written by `timm-ofa catalog`.\n'
        (Path(stage) / CARD).write_text(card, encoding='utf-8')
        shutil.copyfile(page, Path(stage) / 'index.html')
        if not _equals_remote(api, 'space', space_id, stage):
            _upload(api, 'space', space_id, stage, before.sha, 'Catalog')
    return f'{constants.ENDPOINT}/spaces/{space_id}'


@dataclass(frozen=True)
class Found:
    """A network that was published. `id` is 'ORG/NAME', or its folder."""
    id: str
    record: Record
    url: str | None = None  # of its page on the Hub

    @property
    def load_line(self) -> str:
        address = f'{"hf-hub" if self.url else "local-dir"}:{self.id}'
        return f'import timm, timm_ofa; timm.create_model({address!r}, pretrained=True)'

    def latency(self, device: str) -> Measurement | None:
        """What is known of single images on a device: the fastest measurement, else the fastest prediction."""
        return next(iter(evidence(self.record, device)), None)


def find(source: str, device: str | None = None, max_latency_ms: float | None = None) -> list[Found]:
    """The networks of an organization on the Hub, or of the folders in a folder, by id.

    Whatever is there may be from anybody: a record that is not valid is left out with a warning. Weights are neither
    fetched nor read.

    Args:
        device: Only those of which a latency on this device is known (a slug).
        max_latency_ms: Only those that take at most this long there, or on any device if none is given.
    """
    if device is not None:
        check_slug(device, 'device')
    folder = Path(source)
    candidates = _in_folder(folder) if folder.is_dir() else _on_hub(source, device, max_latency_ms)
    found = []
    for name, url, path in candidates:
        try:
            if not name.isprintable():
                raise InputError('the name holds characters that cannot be shown; rename it')
            if path is None:
                raise InputError(f'there is no {CONFIG} or no {PERF} that may be read; publish it again')
            found.append(Found(name, load_record(path), url))
        except InputError as error:
            _logger.warning('left out: %.200r: %s', name, error)
    fits = partial(_fits, device=device, max_latency_ms=max_latency_ms)
    return sorted(filter(fits, found), key=lambda f: f.id)


def find_supernets(source: str) -> list[dict[str, Any]]:
    """The supernets of an organization on the Hub, or of the folders in a folder, as rows, by name.

    What is not valid is left out with a warning. Weights are neither fetched nor read.
    """
    from ..training import supernet_folder
    from .supernets import is_supernet, read_supernet

    rows, folder = [], Path(source)
    if folder.is_dir():
        places = [(str(path), 'local-dir') for path in _folders_with(folder, CONFIG) if is_supernet(path)]
    else:
        places = [(f'{info.id}@{info.sha}', 'hf-hub') for info in _listed(source, ['timm_ofa', SUPERNET_TAG])]
    for place, kind in places:
        try:
            record, *_ = read_supernet(supernet_folder(f'hf-hub:{place}') if kind == 'hf-hub' else Path(place))
        except InputError as error:
            _logger.warning('left out: %.200r: %s', place, error)
            continue
        name = place.split('@')[0] if kind == 'hf-hub' else place
        rows.append(dict(
            name=name, space=record.space.name, networks=float(record.space.size()), data=record.data,
            resolutions=f'{min(record.space.resolutions)}..{max(record.space.resolutions)}',
            largest_top1_pct=next((j.top1_pct for j in record.judged if j.subnet == 'largest'), None),
            load=f'import timm, timm_ofa; timm.create_model({f"{kind}:{name}"!r}, pretrained=True)'))
    if not rows:
        raise InputError(f'{source!r:.120} holds no supernet; publish one, or give another source')
    return sorted(rows, key=lambda row: row['name'])


def _fits(found: Found, device: str | None, max_latency_ms: float | None) -> bool:
    if device is None and max_latency_ms is None:
        return True
    devices = [device] if device else {m.device for m in found.record.measurements}
    known = [m for m in map(found.latency, devices) if m]
    return any(max_latency_ms is None or m.typical_ms <= max_latency_ms for m in known)


def _in_folder(folder: Path) -> Iterator[tuple[str, None, Path]]:
    """Published folders."""
    for path in _folders_with(folder, PERF):
        yield str(path), None, path


def _folders_with(folder: Path, name: str) -> Iterator[Path]:
    """Folders that hold a file, down to two levels; those in the making are hidden ones."""
    for pattern in (name, f'*/{name}', f'*/*/{name}'):
        for path in sorted(folder.glob(pattern)):
            if not any(part.startswith('.') for part in path.relative_to(folder).parts):
                yield path.parent


def _listed(org: str, wanted: list[str]) -> list[Any]:
    """Repositories of an organization that have all of these tags."""
    if not re.fullmatch(r'[\w-][\w.-]*', org, re.ASCII):
        raise InputError(f'source {org!r:.120} is neither a folder nor a name on the Hub; give one of these')
    with _one_line(org):
        return list(_api().list_models(author=org, filter=wanted, expand=['sha', 'tags']))


def _on_hub(org: str, device: str | None, max_latency_ms: float | None) -> Iterator[tuple[str, str, Path | None]]:
    """Repositories of an organization that have the right tags: id, address, and a folder with the record if any."""
    from huggingface_hub import constants

    wanted = ['timm_ofa']
    if device:
        wanted.append(f'device:{device}')
        rung = next((r for r in RUNGS_MS if max_latency_ms is not None and max_latency_ms <= r), None)
        wanted += [f'latency:{device}:le-{rung}ms'] if rung else []
    infos = [info for info in _listed(org, wanted) if SUPERNET_TAG not in (info.tags or [])]
    with ThreadPoolExecutor(READERS) as pool:
        paths = pool.map(_fetch_record, infos)
        for info, path in zip(infos, paths):
            yield info.id, f'{constants.ENDPOINT}/{info.id}', path


def _fetch_record(info: Any) -> Path | None:
    """The folder of the two files that make a record; None if the repository does not give them."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError, RemoteEntryNotFoundError, RepositoryNotFoundError

    with _one_line(info.id):
        try:
            paths = [Path(hf_hub_download(info.id, name, revision=info.sha)) for name in (CONFIG, PERF)]
        except (HFValidationError, RemoteEntryNotFoundError, RepositoryNotFoundError):
            return None
    return paths[0].parent


def _api(record: Record | SupernetRecord | None = None) -> Any:
    """The Hub's client, after a first question whether the Hub is there: it would try for long."""
    from huggingface_hub import HfApi

    refuse_unreachable()
    return HfApi(library_name='timm_ofa', library_version=record.code_version if record else None)


def _check_repo_id(repo_id: str) -> None:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        valid = False
    else:
        valid = repo_id.count('/') == 1
    if not valid:
        raise InputError(f"repository {repo_id!r:.120} is not a valid name; write it like 'acme/ofa_mbv3_lat22ms'")


def _writable_id(api: Any, repo_id: str | None, name: str) -> str:
    """The repository to write to, after a look at what the token may do."""
    user = api.whoami()
    token = (user.get('auth') or {}).get('accessToken') or {}
    if token.get('role') == 'read':
        raise InputError('the Hub token may only read; make one with the write role at https://huggingface.co/settings/tokens')
    spaces = [user['name'], *(org['name'] for org in user.get('orgs') or [])]
    repo_id = repo_id or f'{user["name"]}/{name}'
    if repo_id.split('/')[0] not in spaces:
        raise InputError(f'namespace {repo_id.split("/")[0]!r} is not open to this token; choose from {listed(spaces)}')
    return repo_id


def _check_ours(api: Any, info: Any, kind: str, private: bool, force: bool) -> None:
    """A repository may be written to if it is empty, unfinished or ours, and of the same kind."""
    if private and not info.private:
        raise InputError(f'{info.id} is public already; make it private in its settings, or leave out private')
    files = {s.rfilename for s in info.siblings or []} - {'.gitattributes', CARD}
    if not files or force:
        return
    there = _kind_on_hub(api, info) if CONFIG in files else None
    if there is None:
        raise InputError(f'{info.id} exists and was not written by timm_ofa; choose another name, or force it')
    if there != kind:
        raise InputError(f'{info.id} holds a {there}, not a {kind}; choose another name, or force it')


def _kind_on_hub(api: Any, info: Any) -> str | None:
    """What a repository's `config.json` says that it holds; None if it is not one of ours."""
    try:
        block = read_json(Path(api.hf_hub_download(info.id, CONFIG, revision=info.sha))).get(BLOCK)
    except InputError:
        return None
    return str(block.get('kind', 'subnet')) if isinstance(block, dict) else None


def _refuse_changed(api: Any, repo_id: str) -> None:
    """Raise where the last commit is not of ours, nor the Hub's first one."""
    commits = api.list_repo_commits(repo_id)
    last = commits[0]
    if len(commits) > 1 and not re.search(r'\(timm_ofa [\w.+-]+\)$', last.title):
        raise InputError(f'{repo_id} was changed on the Hub since ({last.commit_id[:8]}, {last.title!r:.60}); '
                         'bring the change here, or force it')


def _upload(api: Any, kind: str, repo_id: str, stage: str, parent: str, message: str) -> str:
    """Make the repository equal to the folder and give the commit (sha).

    An answer may get lost after the commit was made, so what the repository holds decides, not the answer; `parent`
    keeps the client's own retry from making a second commit.
    """
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    error: Exception | None = None
    for _ in range(ATTEMPTS):
        try:
            api.upload_folder(
                repo_id=repo_id, repo_type=kind, folder_path=stage, delete_patterns='*', parent_commit=parent,
                commit_message=message)
            error = None
        except (HTTPError, RuntimeError) as problem:  # RuntimeError: how a failed transfer of a large file is reported
            error = problem
        if _equals_remote(api, kind, repo_id, stage):
            return api.repo_info(repo_id, repo_type=kind).sha
        if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
            break
    if error:
        raise error
    raise InputError(f'{repo_id} does not hold the files that were sent; publish again')


def _equals_remote(api: Any, kind: str, repo_id: str, stage: str) -> bool:
    check = api.verify_repo_checksums(repo_id, repo_type=kind, local_dir=stage)
    return not check.mismatches and not check.extra_paths and set(check.missing_paths) <= {'.gitattributes'}


def _check_tags(api: Any, repo_id: str, expected: list[str]) -> None:
    missing = set(expected) - set(api.model_info(repo_id).tags or [])
    if missing:
        raise InputError(f'the Hub does not list {listed(sorted(missing))} on {repo_id}; publish again in a minute')


def _tag_version(api: Any, repo_id: str, commit: str) -> str:
    """The version tag of the commit; the next free one is made where it has none."""
    found = api.list_repo_refs(repo_id).tags
    versions = {int(t.name[1:]): t.target_commit for t in found if re.fullmatch(r'v\d{1,9}', t.name)}
    number = next((n for n, target in sorted(versions.items()) if target == commit), max(versions, default=0) + 1)
    if number not in versions:
        api.create_tag(repo_id, tag=f'v{number}', revision=commit)
    return f'v{number}'


def _collect(api: Any, repo_id: str, record: Record, private: bool) -> list[str]:
    """List a repository in the collections of its devices; gives the addresses of those that hold it."""
    urls = []
    for device in sorted({m.device for m in record.measurements}):
        title = _title(device)
        try:
            with _one_line(f'collection {title!r}'):
                urls.append(_list_in_collection(api, repo_id, title, _note(record, device), private))
        except InputError as error:
            _logger.warning('%s is published, but not listed: %s', repo_id, error)
    return urls


def _title(device: str) -> str:
    """Of a device's collection. One that would be too long ends in a hash, so that no two devices share one."""
    title = COLLECTION + device
    end = hashlib.sha256(device.encode()).hexdigest()[:8]
    return title if len(title) <= MAX_TITLE else f'{title[:MAX_TITLE - 9]}-{end}'


def _note(record: Record, device: str) -> str:
    parts = [f'{m.typical_ms:.4g} ms on {m.device_name}, {m.runtime} {m.runtime_version}, {m.precision}, {m.source}'
             for m in evidence(record, device)[:1]]
    if record.top1_pct is not None:
        parts.insert(0, f'{record.top1_pct:.2f} % top-1 on {record.accuracy.dataset}')
    return '; '.join(parts)[:MAX_NOTE]


def _list_in_collection(api: Any, repo_id: str, title: str, note: str, private: bool) -> str:
    owner = repo_id.split('/')[0]
    slug = next((c.slug for c in api.list_collections(owner=owner) if c.title == title), None)
    if slug is None:
        about = 'Image classifiers with their measured or predicted latency, from timm_ofa.'
        slug = api.create_collection(title, namespace=owner, description=about, private=private, exists_ok=True).slug
    found = api.get_collection(slug)  # with all its items: the list above holds four of each
    item = next((i for i in found.items if (i.item_type, i.item_id) == ('model', repo_id)), None)
    if item is None:
        api.add_collection_item(slug, repo_id, 'model', note=note, exists_ok=True)
    elif item.note != note:
        api.update_collection_item(slug, item.item_object_id, note=note)
    return found.url


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Errors of the Hub client as one line that says what to do. None of them holds the token."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HTTPError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except InputError:
        raise
    except LocalTokenNotFoundError:
        raise InputError('no Hub token was found; run `hf auth login`, or set HF_TOKEN to one that may write') from None
    except OfflineModeIsEnabled:
        raise InputError('HF_HUB_OFFLINE is set; unset it to reach the Hub') from None
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise InputError(f'{what} or its revision is not on {constants.ENDPOINT}; check name and token') from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        cure = _CURES.get(status, 'try again later' if status >= 500 else 'see the status page of the Hub')
        raise InputError(f'the Hub answered {status} for {what}; {cure}') from None
    except HTTPError as error:
        kind = type(error).__name__
        raise InputError(f'the Hub at {constants.ENDPOINT} cannot be reached ({kind}); check the connection') from None
    except (RuntimeError, OSError, ValueError) as error:
        line = ' '.join(str(error).split())
        raise InputError(f'the transfer of {what} failed ({type(error).__name__}: {line:.160}); try again') from None


_CURES = {
    401: 'the token is not valid; run `hf auth login`, or set HF_TOKEN anew',
    403: 'the token may not do this; make one that may write to this namespace',
    412: 'somebody else wrote to it meanwhile; try again',
    429: 'too many requests; wait some minutes',
}
