"""Weights that nobody has published are made from the released supernet: once, always the same, by one at a time."""
import io
import json
import re
import shutil
import threading
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import timm
import torch
from hub_makers import put_on
from named_models import SUBNETS, upstream_checkpoint
from PIL import Image

import timm_ofa
from timm_ofa import InputError
from timm_ofa.accuracy import supernet_digest
from timm_ofa.files import sha256_of
from timm_ofa.hub import checkpoints, hub_configs, making
from timm_ofa.hub.making import weights_to_make
from timm_ofa.images import Augment, calibration_batches, calibration_set, load_data, stored_side
from timm_ofa.training import load_config

NAME, SUPERNET = 'ofa_mbv3_note10_lat15ms', 'ofa_mbv3_w12_supernet'
FEATURES = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(num_classes=3))


def parquet(label, n, seed):
    """The bytes of a file with `n` random images of one class."""
    noise = np.random.default_rng(seed).integers(0, 256, (n, 40, 50, 3), dtype=np.uint8)
    file = io.BytesIO()
    datasets.Dataset.from_list(
        [{'image': Image.fromarray(pixels), 'label': label} for pixels in noise], features=FEATURES).to_parquet(file)
    return file.getvalue()


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """A folder of 24 images."""
    folder = tmp_path_factory.mktemp('images')
    for label in range(3):
        (folder / f'train-{label}.parquet').write_bytes(parquet(label, 8, label))
    return folder


@pytest.fixture(scope='module')
def released(tmp_path_factory):
    """The supernet in its authors' format."""
    path = tmp_path_factory.mktemp('released') / 'checkpoint'
    torch.save(upstream_checkpoint(SUPERNET, 0), path)
    return path


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    """What was fetched and made before."""
    return tmp_path_factory.mktemp('cache')


@pytest.fixture
def no_weights(no_hub, released, images, monkeypatch):
    """A world in which the authors alone have published something, and somebody has images."""
    monkeypatch.setattr(checkpoints, 'fetch', lambda url, path: shutil.copyfile(released, path))
    monkeypatch.setenv('TIMM_OFA_CALIBRATION_DATA', str(images))


class Killed(BaseException):
    """The end of a process."""


def kill(*_, **__):
    raise Killed


def test_the_weights_are_those_of_specialize_on_the_same_images_whatever_happened_before(
        no_weights, images, cache, monkeypatch, caplog):
    load = partial(timm.create_model, NAME, pretrained=True, cache_dir=cache)
    made = weights_to_make(hub_configs()[NAME], cache)
    with monkeypatch.context() as context, pytest.raises(Killed):
        context.setattr(making, 'write_text', kill)  # the weights are there, but not what they are
        load()
    assert made.path.is_file() and not made.is_kept()
    caplog.clear()
    torch.manual_seed(3)
    model, drawn = load().eval(), torch.rand(1)
    line, = (r.getMessage() for r in caplog.records if r.name == making.__name__ and r.levelname == 'WARNING')
    assert NAME in line and SUPERNET in line and f'up to 2,000 images of {images}' in line and '\n' not in line
    assert '43 MB are fetched' in line and re.search(r'it takes about \d minute', line) and str(made.path) in line

    supernet, config = timm.create_model(SUPERNET, pretrained=True, cache_dir=cache), hub_configs()[SUPERNET]
    subnet, training = SUBNETS[NAME], load_config(config.path)
    train = load_data(str(images), stored_side(subnet.space), holdout=training.holdout).train
    batches = partial(calibration_batches, calibration_set(train), subnet.space, 160, augment=training.augment)
    x = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = timm_ofa.specialize(supernet, subnet.arch, list(batches()))(x)
        assert torch.equal(model(x), expected) and training.augment != Augment()
    about = json.loads(made.about.read_text())
    assert (about['arch'], about['images'], about['data']) == (str(subnet.arch), len(train), images.name)
    assert about['supernet_sha256'] == supernet_digest(supernet) and about['model_sha256'] == sha256_of(made.path)
    assert about['images_sha256'] == calibration_set(train).digest()

    made.path.unlink()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast('cpu', torch.bfloat16), torch.device('meta'):
            made.make('nobody has them')
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert sha256_of(made.path) == about['model_sha256']  # whatever the settings of the caller

    monkeypatch.setattr('socket.socket.connect', None)
    monkeypatch.setattr(making, 'recalibrate_bn', kill)
    torch.manual_seed(3)
    again = load().eval()
    assert torch.equal(drawn, torch.rand(1)) and torch.equal(again(x), expected)  # with the same global random state
    (images / 'train-0.parquet').touch()
    assert weights_to_make(hub_configs()[NAME], cache).path != made.path


def test_a_supernet_that_ships_is_not_fetched(monkeypatch, caplog, tmp_path):
    config = hub_configs()['ofa_mbv3_cifar10_epyc_lat0p6ms']
    monkeypatch.setenv('TIMM_OFA_CALIBRATION_DATA', 'nowhere')
    made = weights_to_make(replace(config, subnet=replace(config.subnet, file=None, sha256=None)), tmp_path)
    with pytest.raises(InputError, match='connect to the Hub') as error:
        made.make('nobody has them')
    assert 'up to 0 MB are fetched' in caplog.text and 'import-upstream' not in str(error.value)


def test_two_that_want_the_same_weights_make_them_once(no_weights, cache, tmp_path, monkeypatch):
    for path in cache.glob(f'{SUPERNET}-*'):
        shutil.copyfile(path, tmp_path / path.name)
    made, make = [], making.WeightsToMake._make
    monkeypatch.setattr(making.WeightsToMake, '_make', lambda self: made.append(0) or make(self))
    sums: list[float] = []

    def load():
        model = timm.create_model(NAME, pretrained=True, cache_dir=tmp_path)
        sums.append(sum(v.double().sum().item() for v in model.state_dict().values()))

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and len(sums) == 2 and sums[0] == sums[1]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith('.')]


def test_what_is_wrong_on_the_hub_is_said_and_nothing_is_made(no_weights, cache, monkeypatch):
    def wrong(*_):
        raise InputError('model.safetensors does not have the hash that the Hub lists')
    monkeypatch.setattr(checkpoints, 'hub_weights', wrong)
    monkeypatch.setattr(making.WeightsToMake, 'make', kill)
    with pytest.raises(InputError, match='does not have the hash'):
        timm.create_model('ofa_mbv3_note10_lat20ms', pretrained=True, cache_dir=cache)


@pytest.mark.parametrize('reason, said', [
    ('room', 'MB left, about'), ('images', "data 'nowhere' cannot be loaded|data 'nowhere' is not a folder"),
    ('network', 'timm-ofa/ofa_mbv3_w12_supernet')])
def test_what_is_missing_is_one_line_with_every_cure(no_weights, tmp_path, monkeypatch, reason, said):
    def fetch(url, path):
        raise InputError(f'{url!r} cannot be fetched')
    if reason == 'room':
        monkeypatch.setattr(shutil, 'disk_usage', lambda _: SimpleNamespace(free=10**6))
    elif reason == 'images':
        monkeypatch.setenv('TIMM_OFA_CALIBRATION_DATA', 'nowhere')
    monkeypatch.setattr(checkpoints, 'fetch', fetch)
    with pytest.raises(InputError, match=said) as error:
        timm.create_model(NAME, pretrained=True, cache_dir=tmp_path)
    line = str(error.value)
    assert '\n' not in line and all(cure in line for cure in (
        'connect to the Hub', 'TIMM_OFA_CALIBRATION_DATA', f'timm-ofa import-upstream --name {SUPERNET} --from FILE',
        f'timm-ofa specialize --config {NAME} --supernet', 'free space', 'TORCH_HOME', 'pretrained=False'))
    assert not list(tmp_path.glob('ofa_mbv3_note10*'))


def test_the_mission_s_line_streams_images_of_the_hub_and_asks_for_nothing_the_second_time(
        server, client, released, tmp_path):
    """And the command makes the same network."""
    split = '{split: train, path: data/train-*}'
    put_on(server, 'datasets/timm/mini-imagenet', {
        'README.md': f'---\nconfigs:\n- config_name: default\n  data_files:\n  - {split}\n---\n'.encode(),
        **{f'data/train-{i:05d}-of-00003.parquet': parquet(i, 4, i) for i in range(3)}})
    load = f"""
from timm_ofa.hub import checkpoints
import shutil
checkpoints.fetch = lambda url, path: shutil.copyfile({str(released)!r}, path)
os.environ['TORCH_HOME'] = {str(tmp_path)!r}
def logits(name):
    x = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return timm.create_model(name, pretrained=True).eval()(x).double().sum().item()
"""
    first = client(f'{load}print(logits({NAME!r}))')
    assert float(first) and len([r for r in server.requests if r.startswith('GET') and '.parquet' in r]) >= 3
    asked = len(server.requests)
    assert client(f'{load}print(logits({NAME!r}))') == first and len(server.requests) == asked
    out = tmp_path / 'net'
    assert client(f"""{load}
from timm_ofa.__main__ import main
assert main(['specialize', '--config', {NAME!r}, '--out', {str(out)!r}]) == 0
print(logits('local-dir:{out}'))""").splitlines()[-1] == first
    card = (out / 'README.md').read_text()
    assert '12 images of timm/mini-imagenet' in card and '% top-1 (predicted)' in card
