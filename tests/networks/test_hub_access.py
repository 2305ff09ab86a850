"""Errors of the Hub's client come as one line, of the same kind wherever they are raised."""
from __future__ import annotations

from importlib import import_module

import pytest
from huggingface_hub import constants, errors

from timm_ofa.errors import InputError
from timm_ofa.networks.hub_access import NotThere, hub_errors
from timm_ofa.training import supernet_folder

HTTP = import_module(errors.HTTPError.__module__.partition('.')[0])  # httpx, or what newer clients use


def answered(kind: type[errors.HfHubHTTPError], status: int, text: str) -> errors.HfHubHTTPError:
    request = HTTP.Request('GET', 'https://hub.example/acme/net')
    return kind(text, response=HTTP.Response(status, request=request))


@pytest.mark.parametrize('error, line, nowhere', [
    (answered(errors.RemoteEntryNotFoundError, 404, 'no b.json'), 'acme/net holds no b.json, and nothing else', True),
    (answered(errors.RemoteEntryNotFoundError, 404, 'no entry'), 'acme/net holds no a.json or b.json, and', True),
    (answered(errors.RepositoryNotFoundError, 404, ''), 'acme/net or its revision is not on http', True),
    (answered(errors.GatedRepoError, 403, ''), 'acme/net is gated; ask for access', False),
    (answered(errors.HfHubHTTPError, 503, ''), 'the Hub answered 503 for b.json of acme/net; try again later', False),
    (errors.LocalEntryNotFoundError('lost'), 'the transfer of b.json of acme/net failed', True),
    (HTTP.ConnectError('refused'), 'cannot be reached (ConnectError); check the connection', False),
    (RuntimeError('CAS\nservice'), 'the transfer of b.json of acme/net failed (RuntimeError: CAS service)', False),
])
def test_an_error_of_the_client_is_one_line(monkeypatch, error, line, nowhere):
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    with pytest.raises(InputError) as raised, hub_errors('acme/net', 'a.json', 'b.json'):
        raise error
    assert line in str(raised.value) and '\n' not in str(raised.value)
    assert isinstance(raised.value, NotThere) == nowhere


def test_offline_says_what_the_cache_lacks(monkeypatch):
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    for files, line in ((), 'is set; unset it'), (('a.json',), 'is set and a.json of acme/net is not in the cache;'):
        with pytest.raises(NotThere, match=line), hub_errors('acme/net', *files):
            raise errors.OfflineModeIsEnabled('offline')


def test_a_supernet_whose_large_file_breaks_off_is_one_line(monkeypatch):
    def break_off(*_, **__):
        raise RuntimeError('CAS service error')  # as `hf_xet` does

    monkeypatch.setattr('huggingface_hub.snapshot_download', break_off)
    with pytest.raises(InputError, match=r"the transfer of 'hf-hub:acme/net' failed .*CAS service error"):
        supernet_folder('hf-hub:acme/net')
