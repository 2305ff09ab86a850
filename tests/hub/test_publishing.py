"""Publishing with the real client to a Hub on localhost: what arrives, who may write, what others changed meanwhile."""
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hub_client import Client
from hub_makers import NAME, REPO, items_of, like, make_model, make_record, measured
from hub_repos import Repo

from timm_ofa.hub import publishing
from timm_ofa.hub.folder import CARD
from timm_ofa.hub.saving import save_folder


def test_a_published_network_is_found_by_device_and_latency_and_loads_elsewhere(server, client, tmp_path, folder):
    done = client(f'''
import json
from huggingface_hub import list_models
first = hub.publish({str(folder)!r})
again = hub.publish({str(folder)!r})
def found(*tags):
    return [m.id for m in list_models(filter=['timm_ofa', *tags])]
rungs = [found(f'latency:my-cpu:le-{{n}}ms') for n in (2, 1)]
print(json.dumps([first, again, *rungs, found('device:other')]))''')
    first, again, fast, faster, other = json.loads(done)
    assert (first['repo_id'], first['version'], first['changed']) == (REPO, 'v1', True)
    assert again == {**first, 'changed': False}
    assert (fast, faster, other) == ([REPO], [], [])

    repo = server.repos[REPO]
    assert len(repo.commits) == 2 and repo.tags == {'v1': first['commit']}  # the first one is of the Hub itself
    assert sorted(repo.files('main')) == sorted(['.gitattributes', *first['files']])
    assert f'hf-hub:{REPO}' in repo.files('main')['README.md'].decode()

    logits = tmp_path / 'logits.pt'
    elsewhere = Client(server, tmp_path / 'elsewhere')
    elsewhere(f'''
model = timm.create_model('hf-hub:{REPO}', pretrained=True).eval()
torch.save(model(torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)).detach(), {str(logits)!r})''', token='')
    elsewhere.close()
    x = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    assert torch.equal(torch.load(logits), make_model(make_record())(x))


def test_the_token_goes_neither_to_the_file_host_nor_into_a_file(server, client, folder, tmp_path):
    client(f'hub.publish({str(folder)!r})')
    assert [r for r in server.requests if r.startswith('PUT /lfs/')] and '/api/whoami-v2' in server.authorized
    assert not [path for path in server.authorized if re.fullmatch('/lfs/[0-9a-f]{64}|/', path)]  # the Hub verifies
    repo = server.repos[REPO].files('main')
    home = Path(client('from huggingface_hub import constants; print(constants.HF_HOME)'))
    assert not [p for p in home.rglob('*') if p.is_file() and b'hf_write' in p.read_bytes()]
    assert not [name for name, data in repo.items() if b'hf_write' in data]


def test_a_changed_folder_makes_one_more_version_and_stale_files_go(server, client, tmp_path, folder):
    foreign = server.repos['acme-lab/foreign'] = Repo(private=False)
    foreign.commit({'config.json': b'{}', 'model.safetensors': b'x'}, 'the work of somebody else')
    record = replace(make_record(), front=())
    changed = save_folder(tmp_path / 'changed', make_model(record, 1), record)
    done = client(f'''
print(*[hub.publish(f, 'acme-lab/net', private=True)['version'] for f in ({str(folder)!r}, {str(changed)!r})])
try:
    hub.publish({str(folder)!r}, 'acme-lab/foreign')
except timm_ofa.InputError as error:
    print(error)''')
    assert done.splitlines()[0] == 'v1 v2' and 'was not written by timm_ofa' in done.splitlines()[1]
    repo = server.repos['acme-lab/net']
    assert repo.private and len(repo.commits) == 3 and 'pareto.svg' not in repo.files('main')
    assert len(foreign.commits) == 1


def test_a_lost_answer_makes_no_second_commit(server, client, folder):
    server.lose_answers = 1
    assert client(f'print(hub.publish({str(folder)!r})["version"])') == 'v1'
    assert len(server.repos[REPO].commits) == 2


@pytest.mark.parametrize(('token', 'repo_id', 'message'), [
    ('hf_read', None, 'may only read'),
    ('hf_write', 'google/net', "namespace 'google' is not open"),
    ('hf_wrong', None, 'token is not valid'),
    ('', None, 'no Hub token'),
    ('hf_write', 'a b/c', 'not a valid name'),
])
def test_a_token_or_name_that_cannot_publish_is_one_line(server, client, folder, token, repo_id, message):
    line = client(f'hub.publish({str(folder)!r}, {repo_id!r})', token)
    assert line.startswith('InputError:') and message in line and '\n' not in line
    assert not server.repos and 'hf_w' not in line


def test_a_hub_that_is_not_there_is_one_line(client, folder):
    line = client(f'''
from unittest import mock
with mock.patch('huggingface_hub.constants.ENDPOINT', 'http://127.0.0.1:9'):
    hub.publish({str(folder)!r})''')
    assert line.startswith('InputError:') and 'cannot be reached' in line and '\n' not in line


def test_a_dry_run_asks_nobody(folder, monkeypatch):
    monkeypatch.setattr(publishing, 'hub_api', None)
    found = publishing.publish(folder, dry_run=True)
    assert found['repo_id'] == f'OWNER/{NAME}' and 'latency:my-cpu:le-2ms' in found['tags']


def test_without_network_every_verb_is_one_line_at_once(client, template):
    code = f'''
from unittest import mock
waits = mock.patch('time.sleep', side_effect=AssertionError('waits'))
with mock.patch('huggingface_hub.constants.ENDPOINT', 'http://127.0.0.1:9'), waits:
    for run in (lambda: hub.publish({str(template)!r}), lambda: hub.pull('acme/net'), lambda: find('acme'),
                lambda: hub.publish_page({str(template / CARD)!r}, 'acme/page'),
                lambda: timm_ofa.networks.load_supernet('hf-hub:acme/supernet')):
        try:
            run()
        except timm_ofa.InputError as error:
            print(error)'''
    lines = client(code).splitlines()
    assert len(lines) == 5 and all('cannot be reached' in line for line in lines)


def test_a_repository_that_others_changed_is_not_overwritten(server, client, template, tmp_path):
    folder = like(template, tmp_path / 'net', 'net', (measured('amd-epyc', 3),))
    assert client(f'print(hub.publish({str(folder)!r})["version"])') == 'v1'
    repo = server.repos['acme/net']
    repo.commit({**repo.files('main'), CARD: repo.files('main')[CARD] + b'By hand.\n'}, 'Update README.md')
    line = client(f'hub.publish({str(folder)!r})')
    assert line.startswith('InputError: acme/net was changed on the Hub since') and "'Update README.md'" in line
    assert client(f'print(hub.publish({str(folder)!r}, force=True)["version"])') == 'v2'
    assert b'By hand' not in repo.files('main')[CARD]


def test_a_pulled_network_may_be_published_by_somebody_else(server, client, template, tmp_path):
    folder = like(template, tmp_path / 'net', 'net', (measured('amd-epyc', 3),))
    client(f'hub.publish({str(folder)!r})')
    assert client('print(hub.publish(hub.pull("acme/net"), "acme-lab/copy")["version"])') == 'v1'
    assert b'hf-hub:acme-lab/copy' in server.repos['acme-lab/copy'].files('main')[CARD]


@pytest.mark.parametrize(('token', 'owner', 'name', 'message'), [
    ('hf_read', 'acme', 'net', 'may only read'), ('hf_write', 'google', 'net', "namespace 'google' is not open"),
    ('hf_write', 'acme', 'x' * 97, 'is not a valid name'), ('hf_write', None, 'a--b', 'is not a valid name'),
    ('', 'acme', 'net', 'no Hub token')])
def test_what_cannot_be_published_is_said_before_the_work(server, client, token, owner, name, message):
    line = client(f'hub.check_token({owner!r}, [{name!r}])', token)
    assert line.startswith('InputError: ') and message in line and '\n' not in line and not server.repos
    assert client('hub.check_token("acme-lab", ["net"])') == client('hub.check_token(None, ["net"])') == ''


def test_a_network_does_not_overwrite_another_one(server, client, template, tmp_path):
    for name in ('first', 'second'):
        like(template, tmp_path / name, name, (measured('amd-epyc', 3),))
    client(f'hub.publish({str(tmp_path / "first")!r}, "acme/net")')
    line = client(f'hub.publish({str(tmp_path / "second")!r}, "acme/net")')
    assert line.startswith("InputError: acme/net holds the network 'first', not 'second'; choose another repository")
    assert len(server.repos['acme/net'].commits) == 2
    assert client(f'print(hub.publish({str(tmp_path / "second")!r}, "acme/net", force=True)["version"])') == 'v2'


def test_a_gated_repository_is_said_to_be_gated(server, client, template):
    client(f'hub.publish({str(template)!r}, "acme/gated")')
    server.gated = '/(api/models/)?acme/gated'
    line = client('hub.pull("acme/gated")')
    assert line.startswith('InputError: acme/gated is gated; ask for access on its page at http') and '\n' not in line


def test_what_is_in_the_cache_is_used_without_the_hub(server, client, template):
    client(f'hub.publish({str(template)!r}, "acme/kept")')
    path = client('print(hub.pull("acme/kept"))')
    offline = '''
from unittest import mock
with mock.patch('huggingface_hub.constants.HF_HUB_OFFLINE', {}), mock.patch('huggingface_hub.constants.ENDPOINT', {!r}):
    print(hub.pull({!r}))'''
    server.requests.clear()
    assert client(offline.format(True, server.url, 'acme/kept')) == path and not server.requests
    assert client(offline.format(False, 'http://127.0.0.1:9', 'acme/kept')) == path
    line = client(offline.format(True, server.url, 'acme/absent'))
    assert line == 'InputError: HF_HUB_OFFLINE is set and acme/absent is not in the cache; unset it to reach the Hub'
    assert 'cannot be reached' in client(offline.format(False, 'http://127.0.0.1:9', 'acme/absent'))


def test_the_password_of_an_endpoint_is_shown_nowhere(server, client, template, tmp_path):
    secret = server.url.replace('://', '://me:sesame@')
    folder = like(template, tmp_path / 'net', 'net', (measured('amd-epyc', 3),))
    client(f'hub.publish({str(folder)!r})')
    said = client(f'''
from unittest import mock
with mock.patch('huggingface_hub.constants.ENDPOINT', {secret!r}):
    print(hub.catalog('acme', {str(tmp_path / 'index.html')!r}).read_text())
    for run in (lambda: hub.pull('acme/none'), lambda: hub.publish({str(folder)!r})):
        try:
            print(run())
        except timm_ofa.InputError as error:
            print(error)
with mock.patch('huggingface_hub.constants.ENDPOINT', 'http://me:sesame@127.0.0.1:9'):
    for run in (lambda: hub.pull('acme/none'), lambda: timm.create_model('hf-hub:acme/none', pretrained=True)):
        try:
            run()
        except Exception as error:
            print(error)''')
    assert 'sesame' not in said and server.url in said and '127.0.0.1:9' in said


# ---- collections ----------------------------------------------------------------------------------------------------


def test_publishing_lists_a_network_once_in_the_collection_of_its_device(server, client, tmp_path, folder):
    done = client(f'''
import json
for name in 'abcdef':
    done = hub.publish({str(folder)!r}, f'acme/{{name}}', collection=True)
again = hub.publish({str(folder)!r}, 'acme/f', collection=True)
print(json.dumps([done, again]))''')
    first, again = json.loads(done)
    title = 'timm_ofa: networks for my-cpu'
    note = '82.50 % top-1 on digits; 1.9 ms on My CPU, onnxruntime-cpu 1.23, fp32, measured'
    assert items_of(server) == {title: {f'acme/{name}': note for name in 'abcdef'}}
    assert again == {**first, 'changed': False}
    assert first['collections'] == [f'{server.url}/collections/{next(iter(server.collections))}']

    fast = replace(make_record().measurements[0], latency_ms=1.25, p50_ms=1.25)
    record = make_record(measurements=(fast, make_record().measurements[1]))
    faster = save_folder(tmp_path / NAME, make_model(record), record)
    before = server.repos['acme/b'].files('main')
    requests = len(server.requests)
    client(f'hub.publish({str(faster)!r}, "acme/b", collection=True)')
    after = server.repos['acme/b'].files('main')
    assert {name for name in after if after[name] != before[name]} == {'README.md', 'perf.json'}
    assert items_of(server) == {title: {
        f'acme/{name}': note.replace('1.9', '1.25') if name == 'b' else note for name in 'abcdef'}}
    assert [r.split()[0] for r in server.requests[requests:] if 'collections' in r] == ['GET', 'GET', 'PATCH']


def test_each_device_has_its_collection_with_a_title_that_the_hub_takes(server, client, tmp_path):
    fast = make_record().measurements[0]
    devices = ['my-cpu', 'x' * 59 + 'y', 'x' * 59 + 'z']
    record = make_record(measurements=tuple(replace(fast, device=d, latency_ms=3, p50_ms=3) for d in devices))
    folder = save_folder(tmp_path / NAME, make_model(record), record)
    client(f'hub.publish({str(folder)!r}, "acme-lab/net", private=True, collection=True)')
    assert len(items_of(server)) == 3 and all(list(items) == ['acme-lab/net'] for items in items_of(server).values())
    assert all(c['private'] and c['owner']['name'] == 'acme-lab' for c in server.collections.values())


def test_a_collection_that_cannot_be_written_loses_no_network(server, client, folder):
    server.forbid = '/api/collections'
    code = f'''
import logging
handler = logging.StreamHandler(sys.stdout)
logging.getLogger('timm_ofa').addHandler(handler)
done = hub.publish({str(folder)!r}, collection=True)
logging.getLogger('timm_ofa').removeHandler(handler)
print(done['version'], done['collections'])'''
    warning, done = client(code).splitlines()
    assert done == 'v1 []' and server.repos[REPO].tags
    assert warning.startswith(f"{REPO} is published, but not listed: the Hub answered 403 for collection 'timm_ofa: ")
    server.forbid = '(?!)'
    assert len(client(code).splitlines()) == 1 and REPO in items_of(server)['timm_ofa: networks for my-cpu']
