"""The client of the Hub is asked for in one place. Names of repositories are checked, and what the token may do."""
from __future__ import annotations

from collections.abc import Iterable

from huggingface_hub import HfApi, errors
from huggingface_hub.utils import validate_repo_id

from ..errors import InputError, listed
from ..fields import is_hub_id
from ..networks import hub_errors, refuse_unreachable

OWNER = 'OWNER'  # stands for the namespace where it is not known yet


def hub_api(code_version: str | None = None) -> HfApi:
    """The client. It is asked first whether the Hub answers at all, because its own requests would try for long."""
    refuse_unreachable()
    return HfApi(library_name='timm_ofa', library_version=code_version)


def check_repo_id(repo_id: str) -> None:
    """Raise if this is not 'namespace/name'."""
    try:
        validate_repo_id(repo_id)
        valid = is_hub_id(repo_id)  # older clients take letters that the Hub refuses
    except errors.HFValidationError:
        valid = None
    if not valid:
        raise InputError(f"repository {repo_id!r:.120} is not a valid name; write it like 'acme/ofa_mbv3_lat22ms'")


def writable_id(api: HfApi, repo_id: str | None, name: str) -> str:
    """The repository to write to: `repo_id`, else `name` in the user's namespace. Raise if the token may not write."""
    user = api.whoami()
    token = (user.get('auth') or {}).get('accessToken') or {}
    if token.get('role') == 'read':
        raise InputError('the Hub token may only read; make one with the write role at https://huggingface.co/settings/tokens')
    spaces = [user['name'], *(org['name'] for org in user.get('orgs') or [])]
    repo_id = repo_id or f'{user["name"]}/{name}'
    if repo_id.split('/')[0] not in spaces:
        raise InputError(f'namespace {repo_id.split("/")[0]!r} is not open to this token; choose from {listed(spaces)}')
    return repo_id


def check_token(owner: str | None = None, names: Iterable[str] = ()) -> None:
    """Raise `InputError` unless repositories of these names can be published in a namespace, by default the user's own.

    The Hub is asked whether the token may write there.
    """
    for name in names:
        check_repo_id(f'{owner or OWNER}/{name}')
    if owner:
        check_repo_id(f'{owner}/name')
    with hub_errors(owner or 'your account'):
        writable_id(hub_api(), owner and f'{owner}/name', 'name')
