"""Networks and supernets are fetched from anybody's repository, and checked before they are used."""
from __future__ import annotations

import logging
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from ..errors import InputError
from ..networks import CONFIG, hub_errors
from .client import check_repo_id, hub_api
from .folder import FILES, check_folder, is_supernet, refuse_pickles
from .supernets import FILES as SUPERNET_FILES
from .supernets import check_supernet

PATTERNS = [*FILES, *SUPERNET_FILES]
_logger = logging.getLogger(__name__)


def pull(repo_id: str, revision: str | None = None) -> Path:
    """Fetch somebody's network or supernet for `timm.create_model(f'local-dir:{path}', pretrained=True)`.

    Only known files are fetched. Their hashes must be those that the Hub lists, and record, architecture and weights
    must agree. As with the Hub's own client, what is in the cache is used with HF_HUB_OFFLINE, and with a warning when
    the Hub does not answer. Raises `InputError`.
    """
    check_repo_id(repo_id)
    if constants.HF_HUB_OFFLINE:
        path = _cached(repo_id, revision)
        if path is None:
            raise InputError(f'HF_HUB_OFFLINE is set and {repo_id} is not in the cache; unset it to reach the Hub')
    else:
        try:
            api = hub_api()
        except InputError as error:
            path = _cached(repo_id, revision)
            if path is None:
                raise
            _logger.warning('%s; %s is taken from the cache', error, repo_id)
        else:
            path = _fetched(api, repo_id, revision)
    (check_supernet if is_supernet(path) else check_folder)(path)
    return path


def _fetched(api: HfApi, repo_id: str, revision: str | None) -> Path:
    with hub_errors(repo_id):
        names = api.list_repo_files(repo_id, revision=revision)
        refuse_pickles(names, repo_id)
        if CONFIG not in names:
            raise InputError(f'{repo_id} is not complete, it holds no {CONFIG}; publish it again')
        path = Path(snapshot_download(repo_id, revision=revision, allow_patterns=PATTERNS))
        wrong = api.verify_repo_checksums(repo_id, revision=path.name, local_dir=path).mismatches
    if wrong:
        raise InputError(
            f'{wrong[0]["path"]} of {repo_id} does not have the hash that the Hub lists; delete {path} and pull again')
    return path


def _cached(repo_id: str, revision: str | None) -> Path | None:
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=PATTERNS, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
