"""Whether the Hub answers, and its client's errors as one line that says what to do.

Tokens are those of `huggingface_hub`. None is kept or shown.
"""
from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants, errors
from huggingface_hub.utils import get_session

from ..errors import InputError, one_line, without_password

_logger = logging.getLogger(__name__)

PROBE_S = 5.0  # for finding out whether the Hub answers; its client would try for 23 s
CURES = {  # status of an answer -> what to do
    401: 'the token is not valid; run `hf auth login`, or set HF_TOKEN anew',
    403: 'the token may not do this; make one that may write to this namespace',
    412: 'somebody else wrote to it meanwhile; try again',
    429: 'too many requests; wait some minutes',
}


class NotThere(InputError):
    """Nothing is at a place, or nobody answers there, as opposed to something that is wrong."""


@contextmanager
def hub_errors(what: str, *files: str) -> Iterator[None]:
    """Turn errors of the client into one `InputError` line that says what to do. None of them holds the token.

    Args:
        what: What is asked for, e.g. the name of the repository.
        files: The files of the repository that are fetched here.
    """
    what = f'{what:.160}'
    wanted = f'{files[-1]} of {what}' if files else what
    try:
        yield
    except InputError:
        raise
    except errors.LocalTokenNotFoundError:
        raise InputError('no Hub token was found; run `hf auth login`, or set HF_TOKEN to one that may write') from None
    except errors.GatedRepoError:
        raise InputError(f'{what} is gated; ask for access on its page at {hub_address()}, then give a token of the '
                         'account that has it') from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise NotThere(f'{what} or its revision is not on {hub_address()}; check name and token') from None
    except errors.RemoteEntryNotFoundError as error:
        missing = next((name for name in files if name in str(error)), ' or '.join(files) or 'such file')
        raise NotThere(f'{what} holds no {missing}, and nothing else is read; publish it again') from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        if not constants.HF_HUB_OFFLINE:
            raise NotThere(f'the transfer of {wanted} failed ({one_line(error)}); try again') from None
        absent = f' and {wanted} is not in the cache' if files else ''
        raise NotThere(f'HF_HUB_OFFLINE is set{absent}; unset it to reach the Hub') from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        cure = CURES.get(status, 'try again later' if status >= 500 else 'see the status page of the Hub')
        raise InputError(f'the Hub answered {status} for {wanted}; {cure}') from None
    except errors.HTTPError as error:
        raise InputError(_no_answer(error)) from None
    except (RuntimeError, OSError, ValueError) as error:  # the first: of a large file
        raise InputError(f'the transfer of {wanted} failed ({one_line(error)}); try again') from None


def refuse_unreachable() -> None:
    """Raise `NotThere` at once if the Hub does not answer. What it answers does not matter here."""
    if constants.HF_HUB_OFFLINE:
        return  # its client says so itself, without asking
    try:
        get_session().head(constants.ENDPOINT, timeout=PROBE_S)
    except errors.HTTPError as error:
        raise NotThere(_no_answer(error)) from None


def unreachable() -> bool:
    """Whether the Hub does not answer, which is then a warning: the caller uses what is in the cache."""
    try:
        refuse_unreachable()
    except NotThere as error:
        _logger.warning('%s; what is in the cache is used', error)
        return True
    return False


def _no_answer(error: Exception) -> str:
    return f'the Hub at {hub_address()} cannot be reached ({type(error).__name__}); check the connection'


def hub_address() -> str:
    """The address of the Hub (HF_ENDPOINT) for people to read: without the password that it may hold."""
    return without_password(constants.ENDPOINT)
