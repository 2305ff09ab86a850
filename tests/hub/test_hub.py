"""Published folders: saved, checked, pushed to a Hub on localhost with the real client, and loaded elsewhere."""
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import yaml
from hub_server import Client, Repo

import timm_ofa  # noqa: F401 - registers the entry-points
from timm_ofa.errors import InputError
from timm_ofa.hub import publishing as hub
from timm_ofa.hub.card import render_card, tags
from timm_ofa.hub.record import Accuracy, FrontPoint, Measurement, Record, Search, Supernet
from timm_ofa.networks.stock import model_args
from timm_ofa.spaces.space import load_space

NAME = 'ofa_mbv3_mycpu_lat2ms'
REPO = f'acme/{NAME}'
WEIGHTS = 'model.safetensors'
SPACE = load_space('ofa_mbv3_tiny')
HOSTILE = 'a|b `c` <img src=x> [d](javascript:e) *f* \\'


def make_record(**changes) -> Record:
    archs = SPACE.sample(np.random.default_rng(1), 4)
    front = tuple(
        FrontPoint(arch=str(a), top1_pct=80 + i, latency_ms=1.0 + i / 2, chosen=i == 2) for i, a in enumerate(archs))
    measurement = Measurement(
        device='my-cpu', device_name='My CPU', runtime='onnxruntime-cpu', runtime_version='1.23', precision='fp32',
        threads=1, resolution=archs[2].resolution, latency_ms=1.9, statistic='median', p50_ms=1.9, p90_ms=2.2, n=100,
        source='measured')
    predicted = replace(measurement, latency_ms=0.9, p50_ms=None, p90_ms=None, n=None, source='predicted')
    return Record(**{
        'name': NAME, 'space': SPACE, 'arch': archs[2], 'num_classes': 4, 'class_names': tuple('abcd'),
        'device': 'my-cpu', 'device_name': 'My CPU', 'limit_ms': 2.0, 'predicted_ms': 1.4,
        'measurements': (measurement, predicted), 'top1_pct': 82.5, 'front': front, 'code_version': '0.1.0',
        'accuracy': Accuracy(dataset='digits', split='test', n=360, protocol='Center crop.'),
        'supernet': Supernet(id='acme/ofa_mbv3_tiny', sha256='0' * 64), 'search': Search(limit='2 ms', seed=0),
        **changes})


def make_model(record: Record, seed: int = 0) -> torch.nn.Module:
    """A subnet whose every weight and statistic is random, so that nothing is equal by default."""
    model = timm.create_model(
        'ofa_mobilenetv3', num_classes=record.num_classes, **model_args(record.space, record.arch)).eval()
    rng = torch.Generator().manual_seed(seed)
    for value in (v for v in model.state_dict().values() if v.is_floating_point()):
        value.copy_(torch.rand(value.shape, generator=rng) * 0.4 + 0.1)
    return model


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    record = make_record()
    return hub.save_folder(tmp_path_factory.mktemp('out') / NAME, make_model(record), record)


@pytest.fixture
def copied(folder, tmp_path) -> Path:
    """A folder to spoil."""
    target = tmp_path / 'copy'
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def edit(path: Path, change) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


# ---- folders ------------------------------------------------------------------------------------------------------


def test_a_saved_folder_loads_through_timm_bit_for_bit(folder):
    record = make_record()
    x = torch.randn(2, 3, record.arch.resolution, record.arch.resolution)
    loaded = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    assert torch.equal(loaded(x), make_model(record)(x))
    assert loaded.pretrained_cfg['label_names'] == list('abcd')
    assert timm.data.resolve_model_data_config(loaded)['mean'] == list(SPACE.mean)
    assert sorted(p.name for p in folder.iterdir()) == sorted(hub.FILES[:6])


def test_a_record_survives_the_folder(folder):
    assert hub.load_record(folder) == make_record()


def test_the_same_network_gives_the_same_bytes(folder, tmp_path):
    again = hub.save_folder(tmp_path / NAME, make_model(make_record()), make_record())
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {p.name: p.read_bytes() for p in folder.iterdir()}


def test_a_folder_is_replaced_whole_and_leaves_no_rubbish(tmp_path):
    record = make_record()
    for seed in (0, 1):
        hub.save_folder(tmp_path / NAME, make_model(record, seed), record)
    x = torch.randn(1, 3, 32, 32)
    loaded = timm.create_model(f'local-dir:{tmp_path / NAME}', pretrained=True).eval()
    assert torch.equal(loaded(x), make_model(record, 1)(x))
    assert [p.name for p in tmp_path.iterdir()] == [NAME]


def test_a_foreign_folder_is_not_replaced(tmp_path):
    (tmp_path / 'thesis.tex').write_text('years of work')
    with pytest.raises(InputError, match='holds something else'):
        hub.save_folder(tmp_path, make_model(make_record()), make_record())
    assert (tmp_path / 'thesis.tex').exists()


def test_a_model_that_is_not_the_arch_is_refused(tmp_path):
    other = make_record(arch=SPACE.max_arch())
    with pytest.raises(InputError, match='has the shape'):
        hub.save_folder(tmp_path / 'x', make_model(other), make_record())
    assert not list(tmp_path.iterdir())


def test_a_model_that_computes_something_else_is_refused(tmp_path):
    model = make_model(make_record())
    model.act2 = torch.nn.Identity()
    with pytest.raises(InputError, match='differs by'):
        hub.save_folder(tmp_path / 'x', model, make_record())


def test_a_space_of_ones_own_travels_in_the_folder(tmp_path):
    space = replace(SPACE, name='my_space', num_features=64)
    record = make_record(space=space)
    hub.save_folder(tmp_path / 'x', make_model(record), record)
    assert hub.load_record(tmp_path / 'x').space == space


@pytest.mark.parametrize(('field', 'value', 'message'), [
    ('name', '../etc', 'does not match'),
    ('space', '/etc/passwd.json', 'is not known'),
    ('device', 'My CPU', 'does not match'),
    ('num_classes', 10**9, 'out of range'),
    ('top1_pct', float('nan'), 'out of range'),
    ('top1_pct', '82', 'not a number'),
    ('limit_ms', -1, 'out of range'),
    ('device_name', 'x' * 201, 'up to 200'),
    ('device_name', 'a\nb', 'cannot be shown'),
    ('measurements', [{'device': 'x'}], 'missing'),
    ('measurements', 'none', 'not a list'),
    ('class_names', ['a'], 'entries'),
    ('accuracy', None, 'accuracy'),
    ('supernet', {'id': 'x', 'exec': 'y'}, 'unknown'),
    ('front', [{'arch': 'r999', 'top1_pct': 1, 'latency_ms': 1}], 'cannot be read'),
    ('surprise', 1, 'unknown'),
])
def test_a_hostile_record_is_one_line(field, value, message):
    with pytest.raises(InputError, match=message) as caught:
        Record.from_dict({**make_record().to_dict(), field: value})
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(('file', 'change', 'message'), [
    ('config.json', lambda d: d.update(architecture='resnet50'), 'architecture'),
    ('config.json', lambda d: d['model_args']['arch_def'][1].append('ir_r1_k3_s1_e4_c24_nre'), 'arch_def'),
    ('config.json', lambda d: d['model_args'].update(checkpoint_path='/x'), 'checkpoint_path'),
    ('config.json', lambda d: d['timm_ofa']['arch'].update(resolution=10**6), 'out of range'),
    ('config.json', lambda d: d.pop('timm_ofa'), 'no .timm_ofa. block'),
    ('config.json', lambda d: d['timm_ofa'].update(format=99), 'upgrade'),
    ('perf.json', lambda d: d.update(name='other'), 'is of'),
    ('perf.json', lambda d: d.update(model_sha256='0' * 64), 'perf.json was written for'),
    ('config.json', lambda d: d['timm_ofa'].update(model_sha256='0' * 64), 'config.json was written for'),
])
def test_a_changed_folder_is_refused(copied, file, change, message):
    edit(copied / file, change)
    with pytest.raises(InputError, match=message):
        hub.check_folder(copied)


def test_a_folder_with_a_pickle_is_refused(copied):
    (copied / 'pytorch_model.bin').write_bytes(b'x')
    with pytest.raises(InputError, match='pickles can run code'):
        hub.publish(copied, dry_run=True)


def test_broken_weights_are_refused(copied):
    (copied / 'model.safetensors').write_bytes(b'\xff' * 100)
    with pytest.raises(InputError, match='cannot be read'):
        hub.check_folder(copied)


# ---- cards --------------------------------------------------------------------------------------------------------


def test_tags_name_every_rung_from_the_measured_latency():
    found = tags(make_record())
    assert {'timm_ofa', 'device:my-cpu', 'runtime:onnxruntime-cpu', 'supernet:ofa-mbv3-tiny'} <= set(found)
    rungs = [int(t.split('le-')[1][:-2]) for t in found if t.startswith('latency:my-cpu:')]
    assert rungs == [2, 5, 10, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200, 500, 1000]
    assert len(found) == len(set(found)) and not [t for t in found if ',' in t or ' ' in t]


def test_a_slow_second_device_gets_no_rung_of_the_fast_one():
    fast = make_record().measurements[0]
    found = tags(make_record(measurements=(fast, replace(fast, device='slow', latency_ms=60, p50_ms=60))))
    assert 'latency:my-cpu:le-2ms' in found and 'latency:slow:le-75ms' in found
    assert 'latency:slow:le-50ms' not in found


def test_the_card_opens_with_the_import_and_carries_both_results():
    front, body = render_card(make_record(), REPO).split('\n---\n', 1)
    assert f"import timm, timm_ofa\n\nmodel = timm.create_model('hf-hub:{REPO}', pretrained=True)" in body
    assert body.index('```') < body.index('import timm, timm_ofa') < body.index('## Latency')
    data = yaml.safe_load(front.removeprefix('---\n'))
    metrics = data['model-index'][0]['results'][0]['metrics']
    assert [m['type'] for m in metrics] == ['accuracy', 'latency', 'latency']
    assert [m['value'] for m in metrics] == [82.5, 1.9, 0.9]
    assert 'my-cpu' in metrics[1]['name'] and (data['library_name'], data['license']) == ('timm', 'apache-2.0')


def test_hostile_text_stays_text_in_the_card():
    measurement = replace(make_record().measurements[0], device_name=HOSTILE, runtime_version='x: {[')
    card = render_card(make_record(
        device_name=HOSTILE, measurements=(measurement,), citation='```\n# out\n```',
        accuracy=Accuracy(dataset='- a: b\n# c', split='yes', n=1, protocol=HOSTILE)))
    front, body = card.split('\n---\n', 1)
    assert yaml.safe_load(front.removeprefix('---\n'))['model-index'][0]['results'][0]['dataset']['split'] == 'yes'
    assert '<img' not in body and '[d](' not in body and body.count('```') == 8
    header, row = re.search(r'(\| device \|.*)\n\|.*\n(\| a.*)', body).groups()
    assert len(re.findall(r'(?<!\\)\|', row)) == header.count('|')


def test_a_record_of_the_bare_minimum_has_a_card(tmp_path):
    arch = SPACE.min_arch()
    record = Record(name='tiny', space='ofa_mbv3_tiny', arch=arch, num_classes=3, code_version='0.1.0')
    hub.save_folder(tmp_path / 'tiny', make_model(record), record)
    assert 'An image classifier.' in (tmp_path / 'tiny' / 'README.md').read_text()
    assert not (tmp_path / 'tiny' / 'pareto.svg').exists()


# ---- the Hub ------------------------------------------------------------------------------------------------------


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
    changed = hub.save_folder(tmp_path / 'changed', make_model(record, 1), record)
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
    monkeypatch.setattr(hub, '_api', None)
    found = hub.publish(folder, dry_run=True)
    assert found['repo_id'] == f'OWNER/{NAME}' and 'latency:my-cpu:le-2ms' in found['tags']


def test_a_download_is_checked_before_it_is_used(server, client, folder):
    for name in ('good', 'changed', 'pickled'):
        client(f'hub.publish({str(folder)!r}, "acme/{name}")')
    assert client('print(hub.pull("acme/good").name)') == server.repos['acme/good'].commits[-1][0]
    server.tamper = lambda path, data: data[:-1] + b'!' if path == 'model.safetensors' else data
    assert 'has not the hash' in client('hub.pull("acme/changed")')
    server.tamper = lambda path, data: data[:-9] if path == 'model.safetensors' else data
    client(f'hub.publish({str(folder)!r}, "acme/truncated")')
    line = client('hub.pull("acme/truncated")')
    assert line.startswith('InputError: the transfer of acme/truncated failed') and '\n' not in line
    server.repos['acme/pickled'].files('main')['weights.pkl'] = b'x'
    assert 'pickles can run code' in client('hub.pull("acme/pickled")')
    assert 'is not on' in client('hub.pull("acme/absent")')


def test_swapped_weights_are_refused_though_the_hub_lists_their_hash(server, client, folder):
    client(f'hub.publish({str(folder)!r}, "acme/swapped")')
    repo = server.repos['acme/swapped']
    weights = save_file_bytes(make_model(make_record(), seed=1))
    repo.commit({**repo.files('main'), 'model.safetensors': weights}, 'weights of another network, same shapes')
    assert 'is not that which perf.json was written for' in client('hub.pull("acme/swapped")')
    assert client('print(hub.pull("acme/swapped", "v1").is_dir())') == 'True'


def test_weights_that_changed_on_this_disk_are_refused(client, server, folder):
    client(f'hub.publish({str(folder)!r}, "acme/kept")')
    line = client('''
path = hub.pull('acme/kept') / 'model.safetensors'
data = path.read_bytes()
path.resolve().write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
hub.pull('acme/kept')''')
    assert line.startswith('InputError: model.safetensors of acme/kept has not the hash') and '\n' not in line


def changed_config(config: bytes, change) -> bytes:
    data = json.loads(config)
    change(data)
    return json.dumps(data).encode()


HOSTILE_CONFIGS = {  # what a config.json of somebody may say -> what loading it says
    'deeper': (lambda d: d['model_args']['arch_def'][1].append('ir_r1_k3_s1_e4_c24_nre'), 'the network needs'),
    'huge': (lambda d: d['model_args'].update(arch_def=[['ir_r1_k9_s1_e16_c9999_nre'] * 16] * 12), 'arch_def row'),
    'code': (lambda d: d['model_args'].update(arch_def=[["__import__('os').system('true')"]]), 'is not a block'),
    'file': (lambda d: d['model_args'].update(checkpoint_path='/x'), "'checkpoint_path', which ofa_mobilenetv3"),
    'many': (lambda d: d.update(num_classes=10**12), 'out of range'),
    'image': (lambda d: d['pretrained_cfg'].update(input_size=[3, -1, 10**9]), 'input_size'),
    'field': (lambda d: d['pretrained_cfg'].update(surprise=1), 'is not one that timm reads'),
}


@pytest.mark.parametrize('kind', HOSTILE_CONFIGS)
def test_timm_builds_nothing_that_a_stranger_made_up(server, client, folder, kind):
    change, message = HOSTILE_CONFIGS[kind]
    files = {name: (folder / name).read_bytes() for name in ('config.json', 'model.safetensors')}
    files['config.json'] = changed_config(files['config.json'], change)
    server.repos[f'mallory/{kind}'] = Repo(private=False)
    server.repos[f'mallory/{kind}'].commit(files, 'a gift')
    line = client(f"timm.create_model('hf-hub:mallory/{kind}', pretrained=True)", token='')
    assert line.startswith('InputError:') and message in line and '\n' not in line


def test_timm_uses_no_weights_but_those_that_were_recorded(server, client, folder):
    def load(name, change_repo=lambda files: None, tamper=lambda path, data: data):
        repo = server.repos[f'acme/{name}'] = Repo(private=False)
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        change_repo(files)
        repo.commit(files, 'published')
        server.tamper = tamper
        return client(f"print(type(timm.create_model('hf-hub:acme/{name}', pretrained=True)).__name__)", token='')

    other = save_file_bytes(make_model(make_record(), seed=1))
    assert load('good') == 'MobileNetV3'
    assert 'not that which config.json was written for' in load('swapped', lambda f: f.update({WEIGHTS: other}))
    assert 'has not the hash that the Hub lists' in load(
        'noisy', tamper=lambda path, data: data[:-1] + b'!' if path == WEIGHTS else data)
    assert 'cannot be fetched' in load('cut', tamper=lambda path, data: data[:-9] if path == WEIGHTS else data)
    assert 'holds no model.safetensors' in load(
        'pickled', lambda f: f.update({'pytorch_model.bin': f.pop(WEIGHTS)}))
    assert 'cannot be read' in load('noise', lambda f: f.update({
        WEIGHTS: b'\xff' * 99, 'config.json': changed_config(f['config.json'], lambda d: d.pop('timm_ofa'))}))


def test_a_repository_that_changes_while_it_is_loaded_gives_one_commit(server, client, folder):
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    repo = server.repos['acme/moving'] = Repo(private=False)
    repo.commit(files, 'published')

    def move(path, data):
        if path == WEIGHTS and len(repo.commits) == 1:
            repo.commit({**files, WEIGHTS: b'of another commit'}, 'meanwhile')
        return data

    server.tamper = move
    assert client("print(type(timm.create_model('hf-hub:acme/moving', pretrained=True)).__name__)") == 'MobileNetV3'


def save_file_bytes(model: torch.nn.Module) -> bytes:
    return safetensors.torch.save({k: v.contiguous() for k, v in model.state_dict().items()}, {'format': 'pt'})


# ---- collections --------------------------------------------------------------------------------------------------


def items_of(server) -> dict[str, dict[str, str]]:
    """Title of each collection -> repository -> its note."""
    return {c['title']: {i['id']: i['note']['text'] for i in c['items']} for c in server.collections.values()}


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
    faster = hub.save_folder(tmp_path / NAME, make_model(record), record)
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
    folder = hub.save_folder(tmp_path / NAME, make_model(record), record)
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
