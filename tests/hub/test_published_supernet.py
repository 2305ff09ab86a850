"""Supernets on the Hub: published with space, training and log, loaded elsewhere, refused where they are not right."""
import json
import shutil
from dataclasses import replace

import pytest
import timm
import torch
import yaml
from hub_client import Client
from hub_makers import SPACE, edit
from hub_repos import Repo

from timm_ofa.errors import InputError
from timm_ofa.hub.folder import CARD
from timm_ofa.hub.listing import find_supernets
from timm_ofa.hub.supernets import check_supernet
from timm_ofa.networks import load_supernet, new_supernet
from timm_ofa.training import load_config, save_supernet, supernet_config


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
from timm_ofa.training import supernet_config, supernet_folder
print(supernet_config(supernet_folder('hf-hub:{repo_id}')).phases[1].lr, hub.pull({repo_id!r}).name,
      [f.id for f in find('acme')])''', token='').splitlines()
    own = timm.create_model(f'local-dir:{supernet}', pretrained=True).eval()
    x = torch.linspace(-1, 1, 3 * 20 * 20).reshape(1, 3, 20, 20)
    expected = (own(x, own.space.min_arch()) * 1e6).round().int().tolist()
    assert logits[0] == f'MobileNetV3Supernet (20, 24) {expected}'
    assert logits[1] == f'0.05 {server.repos[repo_id].commits[-1][0]} []'


def test_a_supernet_of_ones_own_space_needs_no_other_file_here_or_elsewhere(server, client, tmp_path):
    space = replace(SPACE, name='mine', num_features=64)
    (tmp_path / 'mine.json').write_text(json.dumps(space.to_dict()))
    (tmp_path / 'run.yaml').write_text(yaml.safe_dump(dict(
        kind='supernet', name='ofa_mine_supernet', space=str(tmp_path / 'mine.json'), data='digits', resolutions=[20],
        phases=[dict(name='all', epochs=1, lr=0.1)])))
    config = load_config(tmp_path / 'run.yaml')
    save_supernet(new_supernet(config.load_space(), num_classes=3), tmp_path / 'net', dict(training=config.to_dict()))
    (tmp_path / 'mine.json').unlink()
    record, training = check_supernet(tmp_path / 'net')
    assert record.space == space.restrict(resolutions=[20]) and training == config
    assert client(f'print(hub.publish({str(tmp_path / "net")!r})["repo_id"])') == 'acme/ofa_mine_supernet'
    held = server.repos['acme/ofa_mine_supernet'].files('main')
    assert json.loads(held['space.json']) == record.space.to_dict()
    assert not [name for name, data in held.items() if str(tmp_path).encode() in data]
    (tmp_path / 'train.yaml').write_bytes(held['train.yaml'])
    assert load_config(tmp_path / 'train.yaml') == config
    elsewhere = Client(server, tmp_path / 'elsewhere')
    assert elsewhere('''
from timm_ofa.training import supernet_config, supernet_folder
model = timm.create_model('hf-hub:acme/ofa_mine_supernet', pretrained=True)
config = supernet_config(supernet_folder('hf-hub:acme/ofa_mine_supernet'))
print(model.space.name, model.space.num_features, config.name, hub.pull('acme/ofa_mine_supernet').is_dir())''',
        token='') == 'mine 64 ofa_mine_supernet True'
    elsewhere.close()


@pytest.mark.parametrize('training', [None, 'flowers, second try', 'x' * 91])
def test_a_supernet_without_a_name_for_a_repository_gets_one_of_its_space(tmp_path, training):
    space = replace(SPACE, name='My_Space', resolutions=(20,))
    phase = dict(name='all', epochs=1, lr=0.1)
    about = training and dict(name=training, space=space.to_dict(), data='digits', phases=[phase])
    save_supernet(new_supernet(space, num_classes=3), tmp_path, dict(training=about) if about else {})
    assert check_supernet(tmp_path)[0].name == 'my_space_supernet'


@pytest.mark.parametrize('place', ['training', 'model_args'])
def test_a_path_that_a_stranger_gives_as_a_space_is_not_opened(supernet, tmp_path, place, monkeypatch):
    for name in ('config.json', 'model.safetensors'):
        shutil.copyfile(supernet / name, tmp_path / name)
    (tmp_path / 'space.json').write_text(json.dumps(SPACE.to_dict()))
    path = str(tmp_path / 'space.json')
    edit(tmp_path / 'config.json', lambda d: (
        d['timm_ofa']['training'] if place == 'training' else d['model_args']).update(space=path))
    opened = []
    monkeypatch.setattr('timm_ofa.spaces.shelf._read_space', opened.append)
    read = check_supernet, (supernet_config if place == 'training' else lambda folder: load_supernet(str(folder)))
    for reader in read:
        with pytest.raises(InputError, match='is not known') as error:
            reader(tmp_path)
        assert '\n' not in str(error.value)
    assert path not in map(str, opened)


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
    assert [r['name'] for r in find_supernets(str(supernet.parent))] == [str(supernet)]
    with pytest.raises(InputError, match='holds no supernet'):
        find_supernets(str(tmp_path))


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
