"""Folders that several tests of the Hub publish, and the authors' checkpoints on a server."""
import json
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import named_models
import pytest
import torch
from catalog_makers import fill_folder
from hub_client import constants
from hub_makers import NAME, SPACE, make_model, make_record
from hub_server import HubServer

from timm_ofa.hub.record import Record
from timm_ofa.hub.saving import save_folder
from timm_ofa.networks import new_supernet
from timm_ofa.training import save_supernet


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    record = make_record()
    return save_folder(tmp_path_factory.mktemp('out') / NAME, make_model(record), record)


@pytest.fixture
def copied(folder, tmp_path) -> Path:
    """A folder to spoil."""
    target = tmp_path / 'copy'
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


@pytest.fixture(scope='module')
def template(tmp_path_factory) -> Path:
    """The folder of a small network, of which the others are made."""
    record = make_record(arch=SPACE.min_arch(), front=(), measurements=(), supernet=None, search=None)
    return save_folder(tmp_path_factory.mktemp('template') / 'net', make_model(record), record)


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


@pytest.fixture(scope='module')
def records(tmp_path_factory) -> tuple[Path, list[Record]]:
    """A folder of 50 networks measured on 3 devices, and their records."""
    folder = tmp_path_factory.mktemp('networks') / 'acme'
    return folder, fill_folder(folder, 50)


@pytest.fixture
def here(server, monkeypatch, tmp_path) -> HubServer:
    """The local Hub with this process as its client, whose cache is empty. The client reads most of this at import."""
    for name, value in constants(server.url, tmp_path).items():
        monkeypatch.setattr(f'huggingface_hub.constants.{name}', value)
    monkeypatch.setenv('HF_TOKEN', 'hf_write')
    monkeypatch.setenv('TIMM_OFA_PROGRESS', '0')
    return server


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """A Hub that does not answer, and an empty cache."""
    monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', 'http://127.0.0.1:9')
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'hub'))
    monkeypatch.setattr('timm.models._hub.get_cache_dir', lambda: str(tmp_path / 'cache'))
    return tmp_path


@pytest.fixture
def authors(tmp_path):
    """A folder, and the address under which its files are served, as the authors serve theirs."""
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    folder = tmp_path / 'served'
    folder.mkdir()
    with ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(folder))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={'poll_interval': 0.02})
        thread.start()
        yield folder, f'http://127.0.0.1:{httpd.server_port}'
        httpd.shutdown()
        thread.join()


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp('upstream') / 'init'
    torch.save(named_models.upstream_checkpoint(named_models.NAME, 3), path)
    return path
