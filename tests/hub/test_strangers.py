"""What strangers put on the Hub: it is checked before it is used, by `pull` and by timm itself."""
import json

import pytest
from hub_makers import edit, like, make_model, make_record, weights_bytes
from hub_repos import Repo

from timm_ofa.errors import InputError
from timm_ofa.hub.folder import WEIGHTS
from timm_ofa.hub.publishing import publish


def test_a_download_is_checked_before_it_is_used(server, client, folder):
    for name in ('good', 'changed', 'pickled'):
        client(f'hub.publish({str(folder)!r}, "acme/{name}")')
    assert client('print(hub.pull("acme/good").name)') == server.repos['acme/good'].commits[-1][0]
    server.tamper = lambda path, data: data[:-1] + b'!' if path == 'model.safetensors' else data
    assert 'does not have the hash' in client('hub.pull("acme/changed")')
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
    weights = weights_bytes(make_model(make_record(), seed=1))
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
    assert line.startswith('InputError: model.safetensors of acme/kept does not have the hash') and '\n' not in line


def test_files_of_a_stranger_stay_where_they_are(server, client, template):
    files = {path.name: path.read_bytes() for path in template.iterdir()}
    repo = server.repos['mallory/net'] = Repo(private=False)
    repo.commit({**files, '..%2F..%2Fevil': b'x', 'sub/setup.py': b'x', '.bashrc': b'x', 'conftest.py': b'x'}, 'a gift')
    found = client('print(sorted(p.name for p in hub.pull("mallory/net").rglob("*")))', token='')
    assert found == str(sorted(files))


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
        publish(edit_to, dry_run=True)
    assert '\n' not in str(error.value)


# ---- loaded by timm -------------------------------------------------------------------------------------------------


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

    other = weights_bytes(make_model(make_record(), seed=1))
    assert load('good') == 'MobileNetV3'
    assert 'not that which config.json was written for' in load('swapped', lambda f: f.update({WEIGHTS: other}))
    assert 'does not have the hash that the Hub lists' in load(
        'noisy', tamper=lambda path, data: data[:-1] + b'!' if path == WEIGHTS else data)
    assert 'the transfer of model.safetensors' in load(
        'cut', tamper=lambda path, data: data[:-9] if path == WEIGHTS else data)
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
