"""`timm-ofa release`: every model is made and published once, whatever fails or breaks off."""
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
from safetensors.torch import load_file

from timm_ofa.cli.command import main
from timm_ofa.hub import configs, find_config
from timm_ofa.hub.folder import load_record
from timm_ofa.networks import load_supernet

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the Hub's client, as it uploads
SHIPPED, FOUND, RECIPE = 'ofa_mbv3_cifar10_epyc_lat0p6ms', 'ofa_mbv3_tiny_lat2ms', 'finetune_cifar10_8'
SUPERNET, LOST = 'ofa_mbv3_tiny_supernet', 'ofa_resnet_tiny_supernet'
IMAGES = ('--data', 'digits', '--num-calibration', '40')


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

    words = ('--only', SHIPPED, '--eval-data', 'digits')
    status, rows = release(capsys, out, *words)
    accuracy = load_record(out / SHIPPED).accuracy
    assert status == 0 and rows[SHIPPED]['top1_pct'] < 50 and (accuracy.dataset, accuracy.n) == ('digits', 360)
    assert release(capsys, out, *words)[1][SHIPPED]['state'] == 'skipped'
    assert here.repos[names[0]].tags.keys() == {'v1', 'v2'}


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
