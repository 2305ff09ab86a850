"""The client of the Hub: it is asked for in one place, names are checked, and errors of the Hub come as one line.

Tokens are those of `huggingface_hub`. None is kept or shown.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from huggingface_hub import HfApi, errors
from huggingface_hub.utils import validate_repo_id

from ..errors import InputError, listed, one_line
from ..fields import is_hub_id
from ..networks import hub_address, refuse_unreachable

OWNER = 'OWNER'  # stands for the namespace where it is not known yet
CURES = {  # status of an answer -> what to do
    401: 'the token is not valid; run `hf auth login`, or set HF_TOKEN anew',
    403: 'the token may not do this; make one that may write to this namespace',
    412: 'somebody else wrote to it meanwhile; try again',
    429: 'too many requests; wait some minutes',
}


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


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Turn errors of the client into one `InputError` line that says what to do. None of them holds the token.

    Args:
        what: What is asked for, e.g. the name of the repository.
    """
    try:
        yield
    except InputError:
        raise
    except errors.LocalTokenNotFoundError:
        raise InputError('no Hub token was found; run `hf auth login`, or set HF_TOKEN to one that may write') from None
    except errors.OfflineModeIsEnabled:
        raise InputError('HF_HUB_OFFLINE is set; unset it to reach the Hub') from None
    except errors.GatedRepoError:
        raise InputError(f'{what} is gated; ask for access on its page at {hub_address()}, then give a token of the '
                         'account that has it') from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise InputError(f'{what} or its revision is not on {hub_address()}; check name and token') from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        cure = CURES.get(status, 'try again later' if status >= 500 else 'see the status page of the Hub')
        raise InputError(f'the Hub answered {status} for {what}; {cure}') from None
    except errors.HTTPError as error:
        kind = type(error).__name__
        raise InputError(f'the Hub at {hub_address()} cannot be reached ({kind}); check the connection') from None
    except (RuntimeError, OSError, ValueError) as error:
        raise InputError(f'the transfer of {what} failed ({one_line(error):.200}); try again') from None
