"""Networks and supernets are fetched from anybody's repository, and checked before they are used."""
from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download

from ..errors import InputError
from ..networks import CONFIG
from .client import check_repo_id, hub_api, hub_errors
from .folder import FILES, check_folder, refuse_pickles
from .supernets import FILES as SUPERNET_FILES
from .supernets import check_supernet, is_supernet


def pull(repo_id: str, revision: str | None = None) -> Path:
    """Fetch somebody's network or supernet for `timm.create_model(f'local-dir:{path}', pretrained=True)`.

    Only known files are fetched. Their hashes must be those that the Hub lists, and record, architecture and weights
    must agree. Raises `InputError`.
    """
    check_repo_id(repo_id)
    with hub_errors(repo_id):
        api = hub_api()
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
