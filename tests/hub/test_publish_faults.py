"""Faults at every request: answers get lost, the Hub fails, the client is killed; publishing again mends it."""
import json

import pytest
from hub_client import Client
from hub_makers import complete, items_of, like, measured

from timm_ofa.hub.folder import CARD

QUICK = '''
import huggingface_hub.utils._http as http
http.time = type('time', (), {'sleep': staticmethod(lambda s: None), 'time': staticmethod(__import__('time').time),
                              'monotonic': staticmethod(__import__('time').monotonic)})
'''  # the client waits between its tries, which is not what is tried here


@pytest.fixture(scope='module')
def steps(running_server, client, template) -> int:
    """How many requests it takes to publish."""
    running_server.reset()
    folder = like(template, template.parent / 'steps', 'steps', (measured('amd-epyc', 3),))
    assert client(f'print(hub.publish({str(folder)!r}, collection=True)["version"])') == 'v1'
    return len(running_server.requests)


@pytest.mark.parametrize('fault', ['drop', 'lose', 429, 503])
def test_whatever_breaks_publishing_again_ends_in_one_complete_repository(server, client, template, steps, fault):
    folder = template.parent / 'steps'
    outcomes = set()
    for step in range(steps):
        server.reset()
        server.fault, server.fault_at = fault, step
        first = client(f'{QUICK}print(hub.publish({str(folder)!r}, collection=True)["version"])')
        assert first == 'v1' or (first.startswith('InputError: ') and '\n' not in first), (step, first)
        server.fault = None
        again = client(f'{QUICK}print(hub.publish({str(folder)!r}, collection=True)["version"])')
        assert again == 'v1' and complete(server, 'acme/steps'), (step, first, server.requests)
        assert list(items_of(server).values()) == [{'acme/steps': items_of(server).popitem()[1]['acme/steps']}]
        outcomes.add(first == 'v1')
    assert True in outcomes


def test_killed_at_any_request_publishing_again_ends_in_one_complete_repository(server, client, template, steps):
    folder = template.parent / 'steps'
    publish = f'hub.publish({str(folder)!r}, collection=True)'
    unfinished = 0
    for step in range(steps):
        server.reset()
        pid = client(f'''
import os, signal
from huggingface_hub.utils import close_session
close_session()
child = os.fork()
if not child:
    os.kill(os.getpid(), signal.SIGSTOP)
    try:
        {publish}
    finally:
        os._exit(0)
print(child)''')
        server.fault, server.fault_at = int(pid), step
        status = client('''
os.waitpid(child, os.WUNTRACED)
os.kill(child, signal.SIGCONT)
print(os.WTERMSIG(os.waitpid(child, 0)[1]))''')
        assert status == '9', step
        server.fault = None
        if 'acme/steps' in server.repos and not complete(server, 'acme/steps'):
            unfinished += 1
            if len(server.repos['acme/steps'].commits) == 1:
                assert 'is not complete, it holds no config.json' in client('hub.pull("acme/steps")')
        assert client(f'print({publish}["version"])') == 'v1' and complete(server, 'acme/steps'), step
    assert unfinished > 3


def test_by_xet_as_the_client_does_by_default_a_lost_answer_makes_no_second_commit(server, template, tmp_path):
    pytest.importorskip('hf_xet', reason='needs hf_xet')
    folder = like(template, tmp_path / 'net', 'net', (measured('amd-epyc', 3),))
    server.xet_files, server.lose_answers = list(folder.iterdir()), 1
    client = Client(server, tmp_path / 'home', xet=True)
    done = json.loads(client(f'print(json.dumps([hub.publish({str(folder)!r}) for _ in range(2)]))'))
    client.close()
    assert [d['changed'] for d in done] == [True, False] and complete(server, 'acme/net')
    assert [r for r in server.requests if 'xet-write-token' in r] and not [r for r in server.requests if 'lfs' in r]
    files = server.repos['acme/net'].files('main')
    assert all(files[p.name] == p.read_bytes() for p in folder.iterdir() if p.name != CARD)
