"""What may leave with a published folder: no path, no place, no key that somebody added, no file behind a link."""
import csv
import io
import json
import shutil

import pytest
import yaml
from hub_makers import edit, like, measured, read_lines

from timm_ofa.errors import InputError
from timm_ofa.hub.outgoing import public_emissions, public_name, public_training
from timm_ofa.hub.publishing import publish
from timm_ofa.hub.saving import stage_folder
from timm_ofa.hub.supernets import stage_supernet
from timm_ofa.training import TrainConfig

SECRET = 'grandmas-disk'
TRAINING = dict(
    name='flowers', space='ofa_mbv3_tiny', data=f'/home/{SECRET}/flowers', resolutions=[20, 24],
    phases=[dict(name='largest', epochs=2, lr=0.1, depths=[3], kd_weight=0), dict(name='all', epochs=3, lr=0.05)],
    teacher=f'local-dir:/home/{SECRET}/teacher', initial_checkpoint=f'local-dir:{SECRET}/supernet')


@pytest.fixture
def told(supernet, tmp_path):
    """The folder of a supernet whose every file names a place, with files that nobody asked for."""
    folder = tmp_path / 'told'
    shutil.copytree(supernet, folder)
    edit(folder / 'config.json', lambda d: d.update(home=SECRET))
    edit(folder / 'config.json', lambda d: d['pretrained_cfg'].update(file=f'/home/{SECRET}/w.safetensors'))
    edit(folder / 'config.json', lambda d: d['timm_ofa'].update(
        training=TRAINING, host=SECRET, source=f'/home/{SECRET}/checkpoint'))
    for name in ('log.jsonl', 'times.jsonl'):
        events = [{**event, 'host': SECRET} if event['event'] != 'subnet' else event
                  for event in read_lines(folder / name)]
        events[0]['config'] = TRAINING
        (folder / name).write_text(''.join(json.dumps(event) + '\n' for event in events))
    (folder / 'emissions.csv').write_text(
        'timestamp,duration,emissions,latitude,longitude,city,cpu_model,project_name\n'
        f'2026-11-20,3600,0.25,48.137,11.575,Munich,{SECRET},{SECRET}\n')
    (folder / 'notes.txt').write_text(SECRET)
    return folder


def test_a_published_supernet_says_nothing_of_the_computer_it_was_trained_on(told, tmp_path):
    stage = tmp_path / 'stage'
    stage.mkdir()
    stage_supernet(told, stage)
    held = {path.name: path.read_bytes() for path in stage.iterdir()}
    assert not [name for name, data in held.items() if any(
        word in data for word in (SECRET.encode(), b'48.137', b'Munich'))] and 'notes.txt' not in held
    train = yaml.safe_load(held['train.yaml'])
    assert [train[name] for name in ('data', 'teacher', 'initial_checkpoint')] == ['flowers', 'teacher', 'supernet']
    assert json.loads(held['config.json'])['timm_ofa']['source'] == 'checkpoint'
    assert held['emissions.csv'] == b'timestamp,duration,emissions\n2026-11-20,3600,0.25\n'
    logged = json.loads(held['log.jsonl'].splitlines()[0])['config']
    settings = {key: value for key, value in train.items() if key != 'kind'}
    assert TrainConfig.from_dict(logged) == TrainConfig.from_dict(settings)


def test_a_published_network_says_nothing_that_its_record_does_not(copied, tmp_path):
    edit(copied / 'config.json', lambda d: (d.update(home=SECRET), d['pretrained_cfg'].update(file=f'/{SECRET}')))
    edit(copied / 'perf.json', lambda d: d.update(home=SECRET))
    stage = tmp_path / 'stage'
    stage.mkdir()
    stage_folder(copied, stage)
    assert not [path.name for path in stage.iterdir() if SECRET.encode() in path.read_bytes()]
    assert json.loads((stage / 'config.json').read_text())['timm_ofa']


def test_what_we_wrote_leaves_byte_by_byte(folder, tmp_path):
    stage_folder(folder, tmp_path)
    assert all((folder / path.name).read_bytes() == path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.parametrize(('source', 'name'), [
    (None, None), ('tf_efficientnet_lite0', 'tf_efficientnet_lite0'), ('resnet18.a1_in1k', 'resnet18.a1_in1k'),
    ('hf-hub:acme/net', 'hf-hub:acme/net'), ('hf-hub:acme/net@v1', 'hf-hub:acme/net@v1'), ('/a/b/net', 'net'),
    ('local-dir:/a/b/net', 'net'), ('local-dir:net', 'net'), ('a/b', 'b'), ('C:\\Users\\me\\net', 'net'), ('../', '..'),
    ('https://user:word@host/x', 'x'), ('https://host/x', 'https://host/x'),
    ('https://host/x?sig=secret', 'https://host/x'), ('/a/b/net/', 'net')])
def test_a_source_leaves_as_a_name(source, name):
    assert public_name(source) == name


@pytest.mark.parametrize(('data', 'name', 'told'), [
    ('uoft-cs/cifar10?test=test', 'uoft-cs/cifar10', 'uoft-cs/cifar10?test=test'), ('digits', 'digits', 'digits'),
    ('flowers/../../private', 'flowers', 'flowers'), ('flowers2', 'flowers', 'flowers'),
    ('stream:acme/set', 'acme/set', 'stream:acme/set'), ('/a/b/flowers?label=x', 'flowers', 'flowers'),
    ('/a/b', None, 'b')])
def test_images_leave_as_a_name(data, name, told):
    training = TrainConfig.from_dict({**TRAINING, 'data': data})
    assert public_training(training, name).data == told


def test_emissions_keep_their_sum():
    rows = list(csv.DictReader(io.StringIO(public_emissions('run_id,emissions,longitude\n1,0.25,9\n2,0.05,9\n'))))
    assert [row['emissions'] for row in rows] == ['0.25', '0.05'] and 'longitude' not in rows[0]
    assert public_emissions('') == '\n'


@pytest.mark.parametrize('name', ['LICENSE', 'config.json', 'model.safetensors', 'architecture.svg', 'README.md'])
def test_a_link_to_a_file_elsewhere_is_refused(template, tmp_path, name):
    folder = like(template, tmp_path / 'net', 'net', (measured('amd-epyc', 3),))
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.write_bytes((folder / name).read_bytes() if (folder / name).exists() else b'a host name')
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(InputError, match=rf'{name} in .* is a link to a file elsewhere') as error:
        publish(folder, 'acme/net', dry_run=True)
    assert '\n' not in str(error.value)


def test_a_link_in_a_supernet_is_refused(supernet, tmp_path):
    folder = tmp_path / 'copy'
    shutil.copytree(supernet, folder)
    (folder / 'LICENSE').symlink_to('/etc/hostname')
    with pytest.raises(InputError, match=r'LICENSE in .* is a link to a file elsewhere'):
        publish(folder, 'acme/net', dry_run=True)
