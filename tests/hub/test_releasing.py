"""`timm-ofa release`: every model is made and published once, whatever fails or breaks off."""
import errno
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml
from hub_makers import items_of
from huggingface_hub.utils import close_session
from named_models import upstream_checkpoint
from PIL import Image
from safetensors.torch import load_file

from timm_ofa.cli.command import main
from timm_ofa.errors import InputError
from timm_ofa.hub import configs, find_config, releasing
from timm_ofa.hub.folder import load_record
from timm_ofa.images import calibration
from timm_ofa.networks import load_supernet

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the Hub's client, as it uploads
SHIPPED, FOUND, RECIPE = 'ofa_mbv3_cifar10_epyc_lat0p6ms', 'ofa_mbv3_tiny_lat2ms', 'finetune_cifar10_8'
SUPERNET, LOST = 'ofa_mbv3_tiny_supernet', 'ofa_resnet_tiny_supernet'
IMAGES = ('--data', 'digits', '--num-calibration', '40')
CLASSES = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')


def images_by_class(folder: Path) -> Path:
    """Two images of each of CLASSES, in a folder of its own."""
    for i, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for j in range(2):
            Image.new('RGB', (32, 32), (25 * i, 100 * j, 0)).save(folder / name / f'{j}.png')
    return folder


def supernet_config(space: str, url: str) -> dict:
    return dict(
        kind='supernet', name=f'{space}_supernet', space=space, data='digits', batch_size=32,
        phases=[dict(name='largest', epochs=1, lr=0.1, recipe='largest')],
        weights=dict(tag='mit', hub_id=f'timm-ofa/{space}_supernet', url=url, license='mit',
                     source='https://example.com'))


@pytest.fixture
def shelf(authors, tmp_path, monkeypatch) -> Path:
    """A folder of hub configs: a network that ships, a supernet of the authors, a network to be found in it, a recipe,
    and a supernet whose address answers nothing yet."""
    folder = tmp_path / 'hub_configs'
    folder.mkdir()
    for name in (SHIPPED, RECIPE):
        shutil.copy(find_config(name).path, folder)
    torch.save(upstream_checkpoint(SUPERNET, 0), authors[0] / 'init')
    found = dict(
        kind='subnet', name=FOUND, family='mbv3', space='ofa_mbv3_tiny', arch='r20:k3/3/3:e2/2/2', device='amd-epyc',
        latency_ms=2, top1_pct=None, top5_pct=None, predicted_top1_pct=91.5, predicted_ms=0.1, macs_m=1, params_m=0.1,
        drop_rate=0, search=dict(limit='2 ms', seed=3, profile='amd-epyc-onnxruntime-ofa-mbv3-tiny'), supernet=SUPERNET,
        tag='search', hub_id=f'timm-ofa/{FOUND}', license='mit', source='https://example.com')
    for config in (supernet_config('ofa_mbv3_tiny', f'{authors[1]}/init'),
                   supernet_config('ofa_resnet_tiny', f'{authors[1]}/later'), found):
        (folder / f'{config["name"]}.yaml').write_text(yaml.safe_dump(config))
    monkeypatch.setattr('timm_ofa.hub.configs.hub_configs_dir', lambda: folder)
    configs.hub_configs.cache_clear()
    yield folder
    configs.hub_configs.cache_clear()


def release(capsys, out, *words):
    """(status, what became of each model)"""
    status = main(['release', '--org', 'acme', '--out', str(out), '--format', 'json', *words])
    said = capsys.readouterr()
    assert said.out, said.err
    return status, {row['name']: row for row in json.loads(said.out)}


def states(rows):
    return {name: row['state'] for name, row in rows.items()}


def commits(server):
    return {name: len(repo.commits) for name, repo in server.repos.items()}


def test_all_models_are_published_once_and_one_that_fails_does_not_end_the_others(
        here, shelf, authors, capsys, tmp_path):
    out = tmp_path / 'out'
    status, rows = release(capsys, out, *IMAGES, '--dry-run')
    assert status == 0 and not out.exists() and not here.repos
    assert states(rows) == {**dict.fromkeys((SHIPPED, SUPERNET, LOST, FOUND), 'planned'), RECIPE: 'skipped'}

    status, rows = release(capsys, out)  # of the images by default, the local Hub has none
    published = yaml.safe_load((shelf / f'{SHIPPED}.yaml').read_text())
    assert status == 1 and rows[SHIPPED]['top1_pct'] == published['top1_pct']
    assert rows[FOUND]['state'] == 'failed' and 'timm/mini-imagenet' in rows[FOUND]['why']
    assert rows[LOST]['state'] == 'failed' and f'{authors[1]}/later' in rows[LOST]['why']
    status, rows = release(capsys, out, *IMAGES)
    assert status == 1 and states(rows) == {
        **dict.fromkeys((SHIPPED, SUPERNET, RECIPE), 'skipped'), LOST: 'failed', FOUND: 'done',
        'device collections': 'done', 'catalog': 'done'}
    names = [f'acme/{name}' for name in (SHIPPED, SUPERNET, FOUND)]
    assert commits(here) == {**dict.fromkeys(names, 2), 'spaces/acme/catalog': 3}  # the catalog grew once
    assert {title: {*items} for title, items in items_of(here).items()} == {
        'timm_ofa: networks for amd-epyc': {names[0], names[2]}}

    record = load_record(out / FOUND)
    classifier = load_supernet(str(out / SUPERNET)).extract(record.arch).state_dict()['classifier.weight']
    assert torch.equal(load_file(out / FOUND / 'model.safetensors')['classifier.weight'], classifier)
    assert record.top1_pct is None and record.calibration.images == 40 and record.dataset_id == 'ILSVRC/imagenet-1k'

    before = commits(here)
    shutil.rmtree(out)  # as on another computer
    torch.save(upstream_checkpoint(LOST, 0), authors[0] / 'later')
    status, rows = release(capsys, out, *IMAGES)
    assert status == 0 and rows[LOST]['state'] == 'done' and {p.name for p in out.iterdir()} == {LOST, 'catalog.html'}
    status, rows = release(capsys, out, *IMAGES)
    assert status == 0 and not [row for row in rows.values() if row['changed']]
    assert commits(here) == {**before, f'acme/{LOST}': 2}


def test_networks_are_evaluated_on_the_data_set_that_they_learned_alone(here, shelf, capsys, tmp_path):
    out, words = tmp_path / 'out', ('--only', SHIPPED, '--eval-data')
    cifar10 = images_by_class(tmp_path / 'cifar10/test')
    for data in ('digits', images_by_class(tmp_path / 'others/test').parent):  # ten classes as well
        assert main(['release', '--org', 'acme', '--out', str(out), *words, str(data)]) == 2
        assert 'give uoft-cs/cifar10, or a copy of it in a folder called cifar10' in capsys.readouterr().err
    assert not here.repos
    for source in cifar10.parent, cifar10:  # the folder around the split, and the split alone
        status, rows = release(capsys, out, *words, str(source))
        assert status == 0 and rows[SHIPPED]['state'] == 'done'
    record = load_record(out / SHIPPED)
    assert record.class_names == CLASSES and [c.n for c in record.per_class] == [2] * 10
    assert (record.accuracy.dataset, record.accuracy.n, record.dataset_id) == ('cifar10 test', 20, 'uoft-cs/cifar10')
    assert 'datasets:\n- uoft-cs/cifar10' in (out / SHIPPED / 'README.md').read_text()
    for again in (*words, str(cifar10)), words[:2], ('--only', '*mbv3*', *IMAGES, words[2], str(cifar10)):
        rows = release(capsys, out, *again)[1]
        assert rows[SHIPPED]['state'] == 'skipped' and rows[SHIPPED]['top1_pct'] == record.top1_pct
    assert rows[FOUND]['state'] == 'done' and rows[FOUND]['top1_pct'] is None  # it learned ImageNet
    assert here.repos[f'acme/{SHIPPED}'].tags.keys() == {'v1', 'v2'}


def test_what_would_be_made_otherwise_by_now_is_published_anew(here, shelf, authors, capsys, tmp_path, monkeypatch):
    def done(*words):
        for name in SHIPPED, FOUND:
            shutil.rmtree(tmp_path / 'out' / name, ignore_errors=True)
        configs.hub_configs.cache_clear()
        rows = release(capsys, tmp_path / 'out', '--only', 'ofa_mbv3_*', *words)[1]
        assert not [row['why'] for row in rows.values() if row['state'] == 'failed']
        return {name for name in (SHIPPED, SUPERNET, FOUND) if rows[name]['state'] == 'done' and rows[name]['changed']}

    def told(name):
        return json.loads(here.repos[f'acme/{name}'].files('main')['config.json'])['timm_ofa']

    assert done(*IMAGES) == {SHIPPED, SUPERNET, FOUND} and done(*IMAGES) == done() == set()
    monkeypatch.setenv('TIMM_OFA_CALIBRATION_DATA', 'digits')
    shutil.copy(authors[0] / 'init', authors[0] / 'moved')
    for name, old, new in ((SHIPPED, 'top1_pct: 86.89', 'top1_pct: 87'), (SHIPPED, 'apache-2.0', 'mit'),
                           (SUPERNET, 'license: mit', 'license: bsd'), (SUPERNET, '/init', '/moved'),
                           (FOUND, 'predicted_top1_pct: 91.5', 'predicted_top1_pct: 9')):
        text = (shelf / f'{name}.yaml').read_text()
        assert old in text
        (shelf / f'{name}.yaml').write_text(text.replace(old, new))
        assert done() == {name} and done() == set()
    assert told(SHIPPED)['top1_pct'] == 87 and told(SUPERNET)['source'] == f'{authors[1]}/moved'
    network = releasing._network

    def other_weights(config, weights):
        model = network(config, weights)
        if config.name == SHIPPED:
            model.state_dict()['classifier.weight'] += 1
        return model

    monkeypatch.setattr(releasing, '_network', other_weights)
    assert done() == {SHIPPED} and done() == set()


def test_networks_are_made_from_the_images_that_are_asked_for_which_are_fetched_once(
        here, shelf, capsys, tmp_path, monkeypatch):
    second = FOUND.replace('2ms', '3ms')
    text = (shelf / f'{FOUND}.yaml').read_text().replace(FOUND, second).replace('latency_ms: 2', 'latency_ms: 3')
    (shelf / f'{second}.yaml').write_text(text)
    configs.hub_configs.cache_clear()
    fetched, fetch = [], calibration._first_images
    monkeypatch.setattr(calibration, '_first_images', lambda *args: fetched.append(1) or fetch(*args))
    pictures = f'stream:{images_by_class(tmp_path / "pictures")}'
    for words, state, expected in (
            (IMAGES, 'done', ('digits', 40, 0)), (IMAGES, 'skipped', ('digits', 40, 0)),
            (('--data', 'digits', '--num-calibration', '30'), 'done', ('digits', 30, 0)),
            (('--seed', '1', '--num-calibration', '30', '--data', 'digits'), 'done', ('digits', 30, 1)),
            ((), 'skipped', ('digits', 30, 1)), (('--data', pictures), 'done', ('pictures', 20, 0))):
        rows = release(capsys, tmp_path / 'out', '--only', 'ofa_mbv3_tiny_*', *words)[1]
        for name in FOUND, second:
            made = load_record(tmp_path / 'out' / name).calibration
            assert rows[name]['state'] == state and (made.data, made.images, made.seed) == expected
    assert fetched == [1]


def test_a_wrong_source_or_space_is_found_before_the_work(here, shelf, capsys, tmp_path):
    for words, naming in ((('--data', 'no/such/images'), "'no/such/images' is not a folder"),
                          (('--eval-data', 'no/such/images'), "'no/such/images' is not a folder"),
                          (('--space', 'a/b/c'), "'a/b/c' is not a valid name")):
        for dry_run in ((), ('--dry-run',)):
            assert main(['release', '--org', 'acme', '--out', str(tmp_path / 'out'), *words, *dry_run]) == 2
            assert naming in capsys.readouterr().err
    assert main(['release', '--org', 'acme', '--out', str(tmp_path / 'out'), '--space', 'zoe/catalog']) == 2
    assert "namespace 'zoe' is not open to this token" in capsys.readouterr().err
    assert not here.repos and not (tmp_path / 'out').exists()


def test_a_hub_that_fails_is_no_hub_without_the_model(here, shelf, capsys, tmp_path, monkeypatch):
    words = ('--only', SHIPPED)
    release(capsys, tmp_path / 'out', *words)

    def fails(*_):
        raise InputError('the Hub answered 500')

    monkeypatch.setattr(releasing, 'fetch_record', fails)
    for dry_run in ((), ('--dry-run',)):
        status, rows = release(capsys, tmp_path / 'out', *words, *dry_run)
        assert status == 1 and (rows[SHIPPED]['state'], rows[SHIPPED]['why']) == ('failed', 'the Hub answered 500')


def test_a_full_disk_ends_in_the_table(here, shelf, capsys, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(releasing, 'save_released', full)
    status, rows = release(capsys, tmp_path / 'out')
    assert status == 1 and rows.pop(SHIPPED)['state'] == 'done' and len(rows) == 6
    assert all(row['state'] == 'failed' and 'the disk takes no more' in row['why'] for row in rows.values())
    monkeypatch.setattr(releasing, 'locked', full)
    assert main(['release', '--org', 'acme', '--out', str(tmp_path / 'out')]) == 2
    told = capsys.readouterr().err
    assert 'run the same command again' in told and '--resume' not in told


def test_a_catalog_waits_for_a_network_with_a_latency_and_is_of_the_hub(here, shelf, capsys, tmp_path, monkeypatch):
    status, rows = release(capsys, tmp_path / 'out', '--only', 'finetune*')
    assert status == 0 and rows['catalog']['state'] == 'skipped' and not here.repos
    assert rows['catalog']['why'] == 'no network with a latency yet'
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'acme').mkdir()  # called like the owner
    assert states(release(capsys, tmp_path / 'out', '--only', SHIPPED)[1])['catalog'] == 'done'
    assert f'acme/{SHIPPED}' in here.repos['spaces/acme/catalog'].files('main')['index.html'].decode()


def test_a_release_that_is_killed_or_meets_faults_goes_on_to_the_same(here, shelf, capsys, tmp_path):
    words = ('--only', 'ofa_mbv3_tiny_*', *IMAGES)
    assert release(capsys, tmp_path / 'out', *words)[0] == 0
    steps, expected = len(here.requests), {name: repo.files('main') for name, repo in here.repos.items()}
    here.reset()
    out = tmp_path / 'killed'
    for step in (steps // 4, steps // 2):
        status = killed_at(here, step, ['release', '--org', 'acme', '--out', str(out), *words])
        assert os.WTERMSIG(status) == signal.SIGKILL
        (out / f'.{FOUND}.torn').mkdir(parents=True, exist_ok=True)  # what a kill between two files leaves
    here.fault, here.fault_at = 'lose', len(here.requests) + steps // 3
    release(capsys, out, *words)
    here.fault = None
    status, _ = release(capsys, out, *words)
    assert status == 0 and {name: repo.files('main') for name, repo in here.repos.items()} == expected
    assert set(commits(here).values()) == {2} and not list(out.glob('.*'))


def killed_at(server, step, words) -> int:
    """Run the command in a fork, which is killed at its request number `step`; how it ended."""
    close_session()
    ready, go = os.pipe()
    child = os.fork()
    if not child:
        os.read(ready, 1)
        try:
            main(words)
        finally:
            os._exit(0)
    server.fault, server.fault_at = child, len(server.requests) + step
    os.write(go, b'.')
    status = os.waitpid(child, 0)[1]
    server.fault = None
    return status


def test_a_pattern_that_fits_nothing_is_one_line(here, shelf, capsys, tmp_path):
    assert main(['release', '--org', 'acme', '--only', 'resnet50', '--out', str(tmp_path / 'out')]) == 2
    assert "no model is called 'resnet50'" in capsys.readouterr().err
    assert main(['release', '--org', 'zoe', '--out', str(tmp_path / 'out')]) == 2
    assert "namespace 'zoe' is not open to this token" in capsys.readouterr().err and not (tmp_path / 'out').exists()
