"""Publishing for real: many networks, families, supernets; through faults and kills; over what others did meanwhile."""
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import yaml
from hub_server import Client, Repo
from test_hub import SPACE, edit, items_of, make_model, make_record
from test_specialize import toy_profile

from timm_ofa.errors import InputError
from timm_ofa.hub import publishing as hub
from timm_ofa.hub.card import render_card, tags
from timm_ofa.hub.finishing import save_front
from timm_ofa.hub.folder import CARD, PERF, save_folder, update_folder
from timm_ofa.hub.record import Measurement
from timm_ofa.hub.supernets import check_supernet
from timm_ofa.networks.supernet import new_supernet
from timm_ofa.searching.strategy import Candidate, SearchResult
from timm_ofa.training.runs import save_supernet

DEVICES = ('google-pixel-1', 'samsung-note10', 'amd-epyc')


@pytest.fixture(scope='module')
def template(tmp_path_factory) -> Path:
    """The folder of a small network, of which the others are made."""
    record = make_record(arch=SPACE.min_arch(), front=(), measurements=(), supernet=None, search=None)
    return save_folder(tmp_path_factory.mktemp('template') / 'net', make_model(record), record)


def like(template: Path, folder: Path, name: str, measurements: tuple[Measurement, ...] = ()) -> Path:
    """The same network under another name, with other latencies."""
    shutil.copytree(template, folder)
    edit(folder / 'config.json', lambda d: d['timm_ofa'].update(name=name))
    edit(folder / PERF, lambda d: d.update(name=name))
    (folder / CARD).unlink()
    update_folder(folder, measurements=measurements)
    return folder


def measured(device: str, ms: float) -> Measurement:
    ms = round(float(ms), 3)
    return replace(make_record().measurements[0], device=device, device_name=device.title(), latency_ms=ms, p50_ms=ms,
                   p90_ms=round(ms * 1.1, 3))


# ---- many ---------------------------------------------------------------------------------------------------------


def test_fifty_networks_are_found_exactly_and_publishing_again_changes_nothing(server, client, template, tmp_path):
    rng = np.random.default_rng(0)
    known = {}
    for i in range(50):
        devices = rng.choice(DEVICES, size=rng.integers(1, 4), replace=False)
        known[f'net{i}'] = {str(d): measured(d, rng.uniform(1, 60)) for d in devices}
        like(template, tmp_path / f'net{i}', f'net{i}', tuple(known[f'net{i}'].values()))
    publish = f'''
print(sum(hub.publish(f'{tmp_path}/net{{i}}', f'acme/net{{i}}', collection=True)['changed'] for i in range(50)))'''
    assert client(publish) == '50'
    commits = {name: len(repo.commits) for name, repo in server.repos.items()}
    notes = items_of(server)
    writes = len(server.requests)
    assert client(publish) == '0'
    assert {name: len(repo.commits) for name, repo in server.repos.items()} == commits and items_of(server) == notes
    written = ('PUT', 'PATCH')
    assert not [r for r in server.requests[writes:] if r.startswith(written) or '/commit/' in r or '/tag/' in r]

    asked = [(device, rung) for device in DEVICES for rung in (5, 10, 20, 50)]
    found = json.loads(client(f'''
from huggingface_hub import list_models
print(json.dumps([[m.id for m in list_models(filter=['timm_ofa', f'device:{{d}}', f'latency:{{d}}:le-{{n}}ms'])]
                  for d, n in {asked!r}]))'''))
    for (device, rung), ids in zip(asked, found):
        assert set(ids) == {f'acme/{n}' for n, m in known.items() if device in m and m[device].typical_ms <= rung}
        assert len(ids) == len(set(ids)) > 0
    exact = json.loads(client("print(json.dumps([f.id for f in hub.find('acme', 'amd-epyc', 12.3)]))"))
    assert exact == sorted(f'acme/{n}' for n, m in known.items()
                           if 'amd-epyc' in m and m['amd-epyc'].typical_ms <= 12.3)

    name = next(n for n, m in known.items() if 'amd-epyc' in m and m['amd-epyc'].typical_ms > 20)
    before = server.repos[f'acme/{name}'].files('main')
    changed = [measured('amd-epyc', 0.9) if m.device == 'amd-epyc' else m for m in known[name].values()]
    update_folder(tmp_path / name, measurements=changed)
    assert client(f'print(hub.publish("{tmp_path}/{name}", "acme/{name}", collection=True)["changed"])') == 'True'
    after = server.repos[f'acme/{name}'].files('main')
    assert {path for path in {**before, **after} if before.get(path) != after.get(path)} == {'README.md', 'perf.json'}
    assert 'latency:amd-epyc:le-1ms' in server.info(f'acme/{name}')['tags']
    assert server.repos[f'acme/{name}'].tags['v2'] == server.repos[f'acme/{name}'].commits[-1][0]
    assert {n: len(r.commits) for n, r in server.repos.items()} == {**commits, f'acme/{name}': 3}
    differ = {(title, i) for title, items in items_of(server).items() for i in items if notes[title][i] != items[i]}
    assert differ == {('timm_ofa: networks for amd-epyc', f'acme/{name}')}


# ---- families -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def family(tmp_path_factory) -> list[Path]:
    """Three networks of one front."""
    root, front = tmp_path_factory.mktemp('family'), make_record().front
    folders = []
    for i in (0, 1, 3):
        points = tuple(replace(p, chosen=p is front[i]) for p in front)
        record = make_record(name=f'ofa_mbv3_mycpu_lat{i + 1}ms', arch=SPACE.parse(front[i].arch), front=points)
        folders.append(save_folder(root / record.name, make_model(record), record))
    return folders


def test_a_family_is_published_at_once_and_its_cards_link_each_other(server, client, family):
    code = f'''
from timm_ofa.__main__ import main
print(main(['publish', '--format', 'json', '--owner', 'acme-lab', '--collection', {str(family[0].parent)!r}]))'''
    out = client(code)
    assert out.endswith('\n0') and sorted(server.repos) == [f'acme-lab/{f.name}' for f in family]
    for folder in family:
        card = server.repos[f'acme-lab/{folder.name}'].files('main')[CARD].decode()
        links = {f'](https://huggingface.co/acme-lab/{other.name})' for other in family if other != folder}
        assert all(link in card for link in links) and f'acme-lab/{folder.name})' not in card
        assert card.index('**this one**') > card.index('| on the front |')
    assert client(code).count('"changed": false') == 3
    assert client(f'print(hub.publish({str(family[0])!r}, "acme-lab/{family[0].name}")["changed"])') == 'False'
    assert [f.id for f in hub.find(str(family[0].parent))] == [str(f) for f in family]


@pytest.mark.parametrize(('token', 'owner', 'message'), [
    ('hf_read', None, 'may only read'), ('hf_write', 'google', "namespace 'google' is not open"),
    ('', 'acme', 'no Hub token'), ('hf_write', '../x y', "namespace '..' is not open")])
def test_a_token_that_cannot_publish_a_family_changes_nothing(server, client, family, token, owner, message):
    before = {path: path.read_bytes() for folder in family for path in folder.iterdir()}
    line = client(f'hub.publish_family({[str(f) for f in family]!r}, {owner!r})', token)
    assert line.startswith('InputError: ') and message in line and '\n' not in line and not server.repos
    assert {path: path.read_bytes() for folder in family for path in folder.iterdir()} == before


def test_one_command_takes_five_networks_of_a_front_to_the_hub(server, client, tmp_path):
    space, profile = SPACE.restrict(resolutions=[20]), toy_profile(SPACE, 'toy-phone')
    save_supernet(new_supernet(space, num_classes=10), tmp_path / 'supernet', {})
    profile.save(tmp_path / 'toy.json')
    by_ms = {profile.latency_ms(space, [arch])[0]: arch for arch in space.sample(np.random.default_rng(0), 60)}
    front = [Candidate(by_ms[ms], 70 + i, float(ms)) for i, ms in enumerate(sorted(by_ms))][-5:]
    result = SearchResult(best=front[-1], front=tuple(front), history=(), evaluated=5)
    limits = [c.latency_ms for c in front]
    save_front(tmp_path / 'front.jsonl', result, space, SimpleNamespace(check={}), profile, str(tmp_path / 'toy.json'),
               limits[-1], 0)
    out = client(f'''
from timm_ofa.__main__ import main
print(main(['specialize', '--supernet', {str(tmp_path / 'supernet')!r}, '--front', {str(tmp_path / 'front.jsonl')!r},
            '--data', 'digits', '--num-calibration', '64', '--no-measure', '--out', {str(tmp_path / 'family')!r},
            '--publish', 'acme', '--limits-ms', *map(str, {limits!r})]))''')
    assert out.endswith('\n0'), out
    names = [f'acme/ofa_mbv3_toy_phone_lat{ms:g}ms' for ms in limits]
    assert sorted(server.repos) == sorted(names) and all(complete(server, name) for name in names)
    for name in names:
        card = server.repos[name].files('main')[CARD].decode()
        assert card.count('](https://huggingface.co/acme/') == 4 and 'latency is predicted' in card
    assert client(f'print(*[f.id for f in hub.find("acme", "toy-phone", {limits[1]})])').split() == sorted(names[:2])


def test_what_is_of_another_search_is_no_family(family, template, tmp_path):
    for folders, message in (
            ([*family, template], 'is not of the search'), ([family[0]] * 2, 'two of the folders hold')):
        with pytest.raises(InputError, match=message) as error:
            hub.publish_family(folders, 'acme', dry_run=True)
        assert '\n' not in str(error.value)


# ---- supernets ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def supernet(tmp_path_factory) -> Path:
    """A folder as training leaves it, on a disk whose places are nobody's affair."""
    folder = tmp_path_factory.mktemp('run') / 'supernet'
    training = dict(
        name='ofa_mbv3_flowers_supernet', space='ofa_mbv3_tiny', data='/data/secret/flowers', resolutions=[20, 24],
        phases=[dict(name='largest', epochs=2, lr=0.1, depths=[3], kd_weight=0), dict(name='all', epochs=3, lr=0.05)])
    network = new_supernet(SPACE.restrict(resolutions=[20, 24]), num_classes=3)
    save_supernet(network, folder, dict(data='flowers', class_names=['a', 'b', 'c'], training=training))
    (folder / 'checkpoints').mkdir()
    arch = str(network.space.max_arch())
    log = [dict(event='start', config=training, images=90), dict(
        event='train', phase='largest', step=1, loss=1.1, lr=0.1), dict(
        event='subnet', images='flowers test', subnet='largest', top1_pct=81.5, macs_m=6.5, params_k=456.2, arch=arch)]
    times = [dict(event='start', processes=2, device='cuda:0', date='2026-11-20T10:00:00'),
             dict(event='phase', date='2026-11-20T11:00:00'),
             dict(event='resume', processes=2, device='cuda:0', date='2026-11-21T10:00:00'),
             dict(event='end', date='2026-11-21T10:30:00')]
    for name, events in (('log.jsonl', log), ('times.jsonl', times)):
        (folder / name).write_text(''.join(json.dumps(event) + '\n' for event in events))
    (folder / 'emissions.csv').write_text('run_id,duration,emissions\n1,3600,0.25\n2,1800,0.05\n')
    return folder


def test_a_supernet_is_published_with_space_training_and_log_and_loads_elsewhere(server, client, supernet):
    done = json.loads(client(f'print(json.dumps([hub.publish({str(supernet)!r}) for _ in range(2)]))'))
    repo_id = 'acme/ofa_mbv3_flowers_supernet'
    assert [d['changed'] for d in done] == [True, False] and done[0]['repo_id'] == repo_id
    files = server.repos[repo_id].files('main')
    assert sorted(files) == sorted(['.gitattributes', *done[0]['files']]) and 'checkpoints' not in str(sorted(files))
    assert {'space.json', 'train.yaml', 'log.jsonl', 'times.jsonl', 'emissions.csv'} <= set(files)
    assert not [name for name, data in files.items() if b'secret' in data]
    assert yaml.safe_load(files['train.yaml'])['data'] == 'flowers'
    card = files[CARD].decode()
    assert b'<!-- largest -->' in files['training.svg'] and '](training.svg)' in card
    assert '1.5 hours on cuda, 2 processes, 3 GPU-hours, 0.3 kg CO2 eq. (codecarbon)' in card
    assert '**81.50 % top-1** on flowers test' in card
    front = yaml.safe_load(card.split('---\n')[1])
    assert front['co2_eq_emissions']['emissions'] == 300 and 'supernet' in front['tags']

    logits = client(f'''
model = timm.create_model('hf-hub:{repo_id}', pretrained=True).eval()
arch = model.space.min_arch()
x = torch.linspace(-1, 1, 3 * 20 * 20).reshape(1, 3, 20, 20)
print(type(model).__name__, model.space.resolutions, (model(x, arch) * 1e6).round().int().tolist())
from timm_ofa.runs import supernet_config, supernet_folder
print(supernet_config(supernet_folder('hf-hub:{repo_id}')).phases[1].lr, hub.pull({repo_id!r}).name,
      [f.id for f in hub.find('acme')])''', token='').splitlines()
    own = timm.create_model(f'local-dir:{supernet}', pretrained=True).eval()
    x = torch.linspace(-1, 1, 3 * 20 * 20).reshape(1, 3, 20, 20)
    expected = (own(x, own.space.min_arch()) * 1e6).round().int().tolist()
    assert logits[0] == f'MobileNetV3Supernet (20, 24) {expected}'
    assert logits[1] == f'0.05 {server.repos[repo_id].commits[-1][0]} []'


def test_supernets_are_listed_from_a_folder_and_from_the_hub(server, client, supernet, template, tmp_path):
    client(f'hub.publish({str(supernet)!r}); hub.publish({str(template)!r})')
    bad = {'config.json': b'{"timm_ofa": {"kind": "supernet"}}', CARD: b'---\ntags: [timm_ofa, supernet]\n---\n'}
    server.repos['acme/bad'] = Repo(private=False)
    server.repos['acme/bad'].commit(bad, 'a gift')
    rows = json.loads(client('''
from timm_ofa.__main__ import main
main(['models', '--source', 'acme', '--supernets', '--format', 'json'])''', token=''))
    assert [(r['name'], r['largest_top1_pct'], r['data']) for r in rows] == [
        ('acme/ofa_mbv3_flowers_supernet', 81.5, 'flowers')]
    assert rows[0]['load'].endswith("timm.create_model('hf-hub:acme/ofa_mbv3_flowers_supernet', pretrained=True)")
    assert not [r for r in server.requests if r.startswith('GET') and r.endswith('model.safetensors')]
    assert [r['name'] for r in hub.find_supernets(str(supernet.parent))] == [str(supernet)]
    with pytest.raises(InputError, match='holds no supernet'):
        hub.find_supernets(str(tmp_path))


def test_a_supernet_and_a_network_do_not_overwrite_each_other(server, client, supernet, template):
    client(f'hub.publish({str(supernet)!r}, "acme/one")')
    assert 'holds a supernet, not a subnet' in client(f'hub.publish({str(template)!r}, "acme/one")')
    client(f'hub.publish({str(template)!r}, "acme/two")')
    assert 'holds a subnet, not a supernet' in client(f'hub.publish({str(supernet)!r}, "acme/two")')


@pytest.mark.parametrize(('change', 'message'), [
    (lambda d: d.update(architecture='resnet50'), 'is no supernet'),
    (lambda d: d['model_args'].update(checkpoint_path='/x'), "hold 'checkpoint_path'"),
    (lambda d: d['model_args'].update(resolutions=[7]), 'resolutions'),
    (lambda d: d['model_args'].update(num_classes='x'), 'cannot be built'),
    (lambda d: (d['model_args'].update(num_classes=4), d['timm_ofa'].pop('class_names')), 'has the shape'),
    (lambda d: d['model_args'].update(num_classes=10**9), 'num_classes'),
    (lambda d: d['timm_ofa'].update(model_sha256='0' * 64), 'not that which config.json was written for'),
    (lambda d: d['timm_ofa'].update(space='../x'), "space '../x' is not"),
    (lambda d: d['timm_ofa'].update(class_names=['a']), 'class_names has 1'),
    (lambda d: d['timm_ofa'].update(data='a\nb'), 'cannot be shown'),
    (lambda d: d['timm_ofa']['training'].update(exec='x'), "'exec' is unknown"),
    (lambda d: d['timm_ofa'].pop('kind'), 'is not of a supernet'),
])
def test_a_hostile_supernet_is_one_line(supernet, tmp_path, change, message):
    for name in ('config.json', 'model.safetensors'):
        shutil.copyfile(supernet / name, tmp_path / name)
    edit(tmp_path / 'config.json', change)
    with pytest.raises(InputError, match=message) as error:
        check_supernet(tmp_path)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('line', [
    '{', '[1]', '{"event": "subnet"}', '{"event": "subnet", "subnet": "a", "top1_pct": 1e9}'])
def test_a_broken_log_is_one_line(supernet, tmp_path, line):
    shutil.copytree(supernet, tmp_path / 'copy')
    (tmp_path / 'copy/log.jsonl').write_text(line + '\n')
    with pytest.raises(InputError) as error:
        check_supernet(tmp_path / 'copy')
    assert '\n' not in str(error.value)


# ---- faults -------------------------------------------------------------------------------------------------------


QUICK = '''
import huggingface_hub.utils._http as http
http.time = type('time', (), {'sleep': staticmethod(lambda s: None), 'time': staticmethod(__import__('time').time),
                              'monotonic': staticmethod(__import__('time').monotonic)})
'''  # the client waits between its tries, which is not what is tried here


def complete(server, repo_id: str) -> bool:
    repo = server.repos[repo_id]
    return len(repo.commits) == 2 and repo.tags == {'v1': repo.commits[-1][0]}


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


# ---- what others did ----------------------------------------------------------------------------------------------


def test_a_repository_that_others_changed_is_not_overwritten(server, client, template, tmp_path):
    folder = like(template, tmp_path / 'net', 'net', (measured('amd-epyc', 3),))
    assert client(f'print(hub.publish({str(folder)!r})["version"])') == 'v1'
    repo = server.repos['acme/net']
    repo.commit({**repo.files('main'), CARD: repo.files('main')[CARD] + b'By hand.\n'}, 'Update README.md')
    line = client(f'hub.publish({str(folder)!r})')
    assert line.startswith('InputError: acme/net was changed on the Hub since') and "'Update README.md'" in line
    assert client(f'print(hub.publish({str(folder)!r}, force=True)["version"])') == 'v2'
    assert b'By hand' not in repo.files('main')[CARD]


@pytest.mark.parametrize('change', [
    lambda text: text + 'By hand.\n', lambda text: text.replace('le-5ms', 'le-1ms'), lambda text: '',
    lambda text: '---\n['])
def test_a_card_that_was_edited_by_hand_is_one_line(template, tmp_path, change):
    folder = like(template, tmp_path / 'net', 'net', (measured('amd-epyc', 3),))
    hub.publish(folder, 'acme/net', dry_run=True)
    card = folder / CARD
    card.write_text(change(card.read_text()))
    with pytest.raises(InputError, match='is not the card of its record from line') as error:
        hub.publish(folder, 'acme/net', dry_run=True)
    assert '\n' not in str(error.value)
    card.unlink()
    hub.publish(folder, 'acme/net', dry_run=True)


def test_a_pulled_network_may_be_published_by_somebody_else(server, client, template, tmp_path):
    folder = like(template, tmp_path / 'net', 'net', (measured('amd-epyc', 3),))
    client(f'hub.publish({str(folder)!r})')
    assert client('print(hub.publish(hub.pull("acme/net"), "acme-lab/copy")["version"])') == 'v1'
    assert b'hf-hub:acme-lab/copy' in server.repos['acme-lab/copy'].files('main')[CARD]


@pytest.mark.parametrize('name', [
    'a b', 'it\'s "q"', '<script>', '../up', 'x' * 200, 'ünïcode', '', 'a..b', '-a', 'a.git'])
def test_a_hostile_name_is_one_line(server, client, template, tmp_path, name):
    for repo_id in (f'acme/{name}', f'{name}/net'):
        line = client(f'hub.publish({str(template)!r}, {repo_id!r})')
        assert line.startswith('InputError: ') and '\n' not in line and len(line) < 400
        assert client(f'hub.pull({repo_id!r})').startswith('InputError: ')
    assert not server.repos and (name == '' or not (tmp_path / name).exists())
    edit_to = like(template, tmp_path / 'net', 'net')
    edit(edit_to / 'config.json', lambda d: d['timm_ofa'].update(name=name))
    with pytest.raises(InputError) as error:
        hub.publish(edit_to, dry_run=True)
    assert '\n' not in str(error.value)


def test_files_of_a_stranger_stay_where_they_are(server, client, template):
    files = {path.name: path.read_bytes() for path in template.iterdir()}
    repo = server.repos['mallory/net'] = Repo(private=False)
    repo.commit({**files, '..%2F..%2Fevil': b'x', 'sub/setup.py': b'x', '.bashrc': b'x', 'conftest.py': b'x'}, 'a gift')
    found = client('print(sorted(p.name for p in hub.pull("mallory/net").rglob("*")))', token='')
    assert found == str(sorted(files))


def test_without_network_every_verb_is_one_line_at_once(client, template):
    code = f'''
import time
from unittest import mock
with mock.patch('huggingface_hub.constants.ENDPOINT', 'http://127.0.0.1:9'):
    for run in (lambda: hub.publish({str(template)!r}), lambda: hub.pull('acme/net'), lambda: hub.find('acme'),
                lambda: hub.publish_page({str(template / CARD)!r}, 'acme/page'),
                lambda: timm_ofa.networks.supernet.load_supernet('hf-hub:acme/supernet')):
        start = time.monotonic()
        try:
            run()
        except timm_ofa.InputError as error:
            print(time.monotonic() - start < 5, error)'''
    lines = client(code).splitlines()
    assert len(lines) == 5 and all(line.startswith('True ') and 'cannot be reached' in line for line in lines)


def test_the_tags_of_a_card_are_those_that_are_looked_for():
    record = make_record()
    assert yaml.safe_load(render_card(record).split('---\n')[1])['tags'] == tags(record)
