"""The named results: their files, their figures, and where their weights come from."""
import json
import logging
import math
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from zipfile import ZipFile

import pytest
import timm
import torch

import timm_ofa
from timm_ofa import InputError, named
from timm_ofa.convert import MOBILENETV3, upstream_names
from timm_ofa.named import hub_configs, import_upstream, named_subnets, read_hub_config

ROOT = Path(__file__).resolve().parents[1]
SUBNETS = named_subnets()
NAMES = sorted(SUBNETS)
TWINS = ['ofa_mbv3_lg_g8_lat24ms', 'ofa_mbv3_lg_g8_lat16ms']  # one architecture, two sets of weights
NAME = TWINS[0]


def upstream_checkpoint(name, seed):
    """Random weights of a named subnet as the authors saved theirs: {'state_dict': ...} under their names."""
    torch.manual_seed(seed)
    tensors = timm.create_model(name).state_dict()
    theirs = upstream_names(tensors, MOBILENETV3)
    return {'state_dict': {
        re.sub(r'^(blocks\.\d+)\.conv', r'\1.mobile_inverted_conv', theirs[k]): v for k, v in tensors.items()}}


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No Hub, and an empty cache."""
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    monkeypatch.setattr('timm.models._hub.get_cache_dir', lambda: str(tmp_path / 'cache'))
    return tmp_path


@pytest.fixture
def server(tmp_path):
    """A folder, and the address under which its files are served."""
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


# ---- the networks ---------------------------------------------------------------------------------------------------


def test_all_34_released_mobilenets_are_there():
    assert len(NAMES) == 34
    assert sum(s.space.name == 'ofa_mbv3_w10' for s in SUBNETS.values()) == 24
    assert sum(s.space.name == 'ofa_mbv3_w12' for s in SUBNETS.values()) == 10


@pytest.mark.parametrize('name', NAMES)
def test_size_and_macs_are_the_published_ones(name):
    s = SUBNETS[name]
    with torch.device('meta'):
        model = timm.create_model(name)
    params = sum(p.numel() for p in model.parameters())
    assert params == s.space.params(s.arch)
    assert params / 1e6 == pytest.approx(s.params_m, abs=0.051)  # published with one digit
    assert s.space.macs(s.arch) / 1e6 == pytest.approx(s.macs_m, abs=0.6)  # published as whole millions
    assert type(model) is timm.models.MobileNetV3
    assert model.drop_rate == (0.1 if s.space.name.endswith('w10') else 0.2)


def test_every_file_says_what_the_authors_published(shared):
    released = {r['id']: r for r in json.loads((shared / 'upstream/released_archs.json').read_text())}
    for s in SUBNETS.values():
        r = released.pop(s.upstream_id)
        assert s.arch == s.space.from_upstream({'ks': r['ks'], 'e': r['e'], 'd': r['d'], 'r': [r['resolution']]})
        assert (s.top1_pct, s.top5_pct, s.params_m) == (r['top1'], r['top5'], r['params_M'])
        assert s.latency_ms == r['latency_ms'] and (s.device is None) == (r['device'] is None)
        assert s.macs_m == (75.8 if s.name == 'ofa_mbv3_note10_lat8ms' else r['macs_M'])
        assert s.space.macs(s.arch) / 1e6 == pytest.approx(r['verified_macs_M'], abs=0.006)
        assert s.space.params(s.arch) / 1e6 == pytest.approx(r['verified_params_M'], abs=0.0006)
        assert s.tag == f'mit_ft{r["finetune_epochs"]}_in1k'
        assert s.url.endswith(f'/{s.upstream_id.replace("@", "-")}/init')
    assert not any(r['family'] == 'MobileNetV3' for r in released.values())


def test_timm_lists_them_with_their_weights():
    assert set(NAMES) <= set(timm.list_models('ofa_*')) and set(NAMES) <= set(timm.list_models(module='named'))
    tagged = timm.list_pretrained('ofa_mbv3_*')
    for name, s in SUBNETS.items():
        assert f'{name}.{s.tag}' in tagged
        cfg = timm.get_pretrained_cfg(name)
        assert cfg.hf_hub_id == f'timm-ofa/{name}' and cfg.tag == s.tag and cfg.license == 'mit'


@pytest.mark.parametrize('name', NAMES)
def test_images_are_prepared_as_by_the_authors(name):
    s, cfg = SUBNETS[name], timm.get_pretrained_cfg(name)
    resolution = s.arch.resolution
    assert cfg.input_size == (3, resolution, resolution) and cfg.interpolation == 'bilinear'
    assert math.floor(resolution / cfg.crop_pct) == math.ceil(resolution / 0.875)
    assert cfg.pool_size == (math.ceil(resolution / 32),) * 2
    with torch.device('meta'):
        features = timm.create_model(name).forward_features(torch.empty(1, *cfg.input_size))
    assert tuple(features.shape[-2:]) == cfg.pool_size


def test_unknown_arguments_are_refused():
    with pytest.raises(TypeError):
        timm.create_model(NAME, wrong_argument=1)


def test_a_saved_network_comes_back(tmp_path):
    from timm.models import save_for_hf

    model = timm.create_model(NAME, num_classes=7).eval()
    save_for_hf(model, tmp_path, safe_serialization=True)
    again = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(again(x), model(x))


# ---- files ----------------------------------------------------------------------------------------------------------


def text_of(name):
    return (named.hub_configs_dir() / f'{name}.yaml').read_text()


@pytest.mark.parametrize('line, wrong, said', [
    ('family: mbv3', 'family: vit', 'family'),
    ('space: ofa_mbv3_w10', 'space: ofa_mbv3_w99', 'space'),
    ('space: ofa_mbv3_w10', 'space: ../ofa_mbv3_w10', 'space'),
    ('arch: r220', 'arch: r221', 'arch: resolution 221'),
    ('arch: r220:k3,3', 'arch: r220:k9,3', 'arch: kernel_size 9'),
    ('device: lg-g8\n', '', 'device and latency_ms'),
    ('device: lg-g8', 'device: LG G8', 'device'),
    ('latency_ms: 24', 'latency_ms: true', 'latency_ms'),
    ('top1_pct: 76.4', 'top1_pct: 764', 'top1_pct'),
    ('top1_pct: 76.4\n', '', "'top1_pct' is missing"),
    ('drop_rate: 0.1', 'drop_rate: .nan', 'drop_rate'),
    ('tag: mit', 'tag: m.it', 'tag'),
    ('hub_id: timm-ofa/', 'hub_id: ', 'hub_id'),
    ('url: https:', 'url: file:', 'url'),
    ('license: mit', 'license: mit\nextra: 1', "'extra' is unknown"),
    ('kind: subnet', 'kind: subnets', 'kind'),
    ('name: ofa', 'name: ofb', 'name'),
    (f'name: {NAME}\n', '', "'name' is missing"),
    ('name: ofa', 'name: [', 'YAML'),
])
def test_a_wrong_file_is_one_line_with_file_and_field(tmp_path, line, wrong, said):
    text = text_of(NAME)
    assert line in text
    path = tmp_path / f'{NAME}.yaml'
    path.write_text(text.replace(line, wrong))
    with pytest.raises(InputError) as error:
        read_hub_config(path)
    assert path.name in str(error.value) and said in str(error.value) and '\n' not in str(error.value)


def test_a_wrong_file_is_left_out_with_a_warning(tmp_path, caplog):
    (tmp_path / f'{NAME}.yaml').write_text(text_of(NAME))
    (tmp_path / 'ofa_mbv3_broken_lat1ms.yaml').write_text('kind: subnet\n')
    (tmp_path / 'binary.yaml').write_bytes(b'\xff\x00')
    with caplog.at_level(logging.WARNING):
        assert list(named._read_folder(tmp_path)) == [NAME]
    assert len(caplog.records) == 2
    assert 'binary.yaml' in caplog.text and 'ofa_mbv3_broken_lat1ms.yaml' in caplog.text


def test_files_of_supernets_are_kept_as_written(tmp_path):
    path = tmp_path / 'my_supernet.yaml'
    path.write_text('kind: supernet\nspace: anything\nphases: [1, 2]\n')
    config = read_hub_config(path)
    assert (config.name, config.kind, config.subnet) == ('my_supernet', 'supernet', None)
    assert config.data['phases'] == [1, 2]


def test_every_file_opens_with_what_it_is_and_is_on_the_shelf():
    folder = named.hub_configs_dir()
    assert sorted(hub_configs()) == sorted(p.stem for p in folder.glob('*.yaml'))
    assert all(path.read_text().startswith('# ') for path in folder.glob('ofa_mbv3_*ms.yaml'))


def test_reading_all_files_is_quick():
    started = time.process_time()
    named._read_folder(named.hub_configs_dir())
    assert time.process_time() - started < 0.5  # 15 ms on a quiet machine


# ---- weights --------------------------------------------------------------------------------------------------------


SCRIPT = """
import sys, timm, torch, timm_ofa
for name in sys.argv[2:]:
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(url=f'{sys.argv[1]}/{name}/init'))
    torch.save(model.state_dict(), f'{name}.pt')
"""


def test_two_released_networks_in_one_process_get_their_own_weights(server, tmp_path):
    folder, address = server
    for seed, name in enumerate(TWINS):
        (folder / name).mkdir()
        torch.save(upstream_checkpoint(name, seed), folder / name / 'init')
    environment = {
        **os.environ, 'HF_HUB_OFFLINE': '1', 'TORCH_HOME': str(tmp_path / 'torch'), 'HF_HOME': str(tmp_path / 'hf'),
        'NO_PROXY': '127.0.0.1', 'PYTHONPATH': str(Path(timm_ofa.__file__).parents[1])}
    command = [sys.executable, '-c', SCRIPT, address, *TWINS]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True, timeout=120)
    for name in TWINS:
        expected = torch.load(folder / name / 'init')['state_dict']
        loaded = torch.load(tmp_path / f'{name}.pt')
        assert torch.equal(loaded['classifier.weight'], expected['classifier.linear.weight'])
        assert torch.equal(loaded['conv_stem.weight'], expected['first_conv.conv.weight'])
    cached = sorted(p.name for p in (tmp_path / 'torch').rglob('*') if p.is_file())
    assert len(cached) == 2 and all(c.endswith('.safetensors') for c in cached)


def test_the_second_load_needs_no_network(server, offline):
    folder, address = server
    torch.save(upstream_checkpoint(NAME, 0), folder / 'init')
    load = partial(timm.create_model, NAME, pretrained=True, pretrained_cfg_overlay=dict(url=f'{address}/init'))
    first = load().state_dict()
    (folder / 'init').unlink()
    assert all(torch.equal(v, first[k]) for k, v in load().state_dict().items())


def test_the_hub_comes_first(monkeypatch, tmp_path):
    asked = []

    def download(repo, filename, cache_dir=None):
        from safetensors.torch import save_file

        asked.append((repo, filename))
        save_file(timm.create_model(NAME).state_dict(), tmp_path / filename)
        return str(tmp_path / filename)

    monkeypatch.setattr('timm.models._hub.download_from_hf', download)
    monkeypatch.setattr(named, '_fetch_upstream', lambda *_: pytest.fail('asked the authors'))
    timm.create_model(NAME, pretrained=True)
    assert asked == [(f'timm-ofa/{NAME}', 'model.safetensors')]


def test_no_source_is_one_line_with_both_addresses_and_the_cure(server, offline):
    url = f'{server[1]}/nothing/init'
    with pytest.raises(InputError) as error:
        timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=dict(url=url))
    text = str(error.value)
    assert '\n' not in text
    for said in (f'timm-ofa/{NAME}', url, f'timm-ofa import-upstream --name {NAME} --from FILE', 'pretrained=False'):
        assert said in text


@pytest.mark.parametrize(
    'content', [b'', b'<html>', pickle.dumps(print), pickle.dumps([1])], ids=['empty', 'html', 'code', 'list'])
def test_what_is_no_checkpoint_is_refused_and_not_kept(server, offline, content):
    folder, address = server
    (folder / 'init').write_bytes(content)
    with pytest.raises(InputError, match='is not a checkpoint of tensors'):
        timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=dict(url=f'{address}/init'))
    assert not list((offline / 'cache').rglob('*.safetensors'))


def test_weights_of_another_network_are_refused(server, offline):
    folder, address = server
    torch.save(upstream_checkpoint('ofa_mbv3_note10_lat22ms', 0), folder / 'init')
    with pytest.raises(InputError, match='upstream tensor'):
        timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=dict(url=f'{address}/init'))


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp('upstream') / 'init'
    torch.save(upstream_checkpoint(NAME, 3), path)
    return path


@pytest.mark.parametrize('kwargs', [
    {}, dict(num_classes=10), dict(num_classes=0), dict(in_chans=1), dict(num_classes=5, in_chans=4),
    dict(features_only=True)], ids=str)
def test_a_file_of_the_authors_adapts_to_classes_and_channels(checkpoint, kwargs):
    model = timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=dict(file=str(checkpoint)), **kwargs)
    expected = torch.load(checkpoint)['state_dict']
    state = {k.replace('blocks_', 'blocks.'): v for k, v in model.state_dict().items()}
    assert torch.equal(
        state['blocks.1.0.conv_pw.weight'],
        expected['blocks.1.mobile_inverted_conv.inverted_bottleneck.conv.weight'])
    assert state['conv_stem.weight'].shape[1] == kwargs.get('in_chans', 3)
    if kwargs.get('num_classes'):
        assert model.num_classes == kwargs['num_classes']
    model.eval()(torch.randn(1, kwargs.get('in_chans', 3), 64, 64))


@torch.no_grad()
def test_a_file_written_by_the_original_package_gives_its_outputs(shared, tmp_path):
    networks = pytest.importorskip('ofa.imagenet_classification.networks', reason='needs the package ofa')
    s = SUBNETS['ofa_mbv3_flops595m']
    config = shared / f'upstream/ofa_specialized/{s.upstream_id.replace("@", "-")}/net.config'
    theirs = networks.MobileNetV3.build_from_config(json.loads(config.read_text())).eval()
    torch.save({'state_dict': theirs.state_dict()}, tmp_path / 'init')
    ours = timm.create_model(
        s.name, pretrained=True, pretrained_cfg_overlay=dict(file=str(tmp_path / 'init'))).eval()
    x = torch.randn(2, 3, s.arch.resolution, s.arch.resolution)
    assert (ours(x) - theirs(x)).abs().max() <= 1e-5 * theirs(x).abs().max()


# ---- import ---------------------------------------------------------------------------------------------------------


def test_an_imported_file_is_a_publishable_folder(checkpoint, tmp_path):
    from timm_ofa.hub import check_folder

    folder = import_upstream(NAME, checkpoint, tmp_path / 'out')
    model = timm.create_model(f'local-dir:{folder}', pretrained=True)
    assert torch.equal(model.classifier.weight, torch.load(checkpoint)['state_dict']['classifier.linear.weight'])
    assert model.pretrained_cfg['crop_pct'] == timm.get_pretrained_cfg(NAME).crop_pct
    record = check_folder(folder)
    assert (record.arch, record.device, record.top1_pct) == (SUBNETS[NAME].arch, 'lg-g8', 76.4)


def test_an_imported_address_does_the_same(server, checkpoint, tmp_path):
    folder, address = server
    (folder / 'init').write_bytes(checkpoint.read_bytes())
    out = import_upstream(NAME, f'{address}/init', tmp_path / 'out')
    assert (out / 'model.safetensors').is_file()


def test_every_hub_config_is_a_timm_model():
    assert set(hub_configs()) <= set(timm.list_models('ofa_*'))
    supernet = timm.create_model('ofa_mbv3_fashion_supernet', num_classes=4)
    assert supernet.space.resolutions == (20, 24, 28) and supernet(torch.zeros(1, 3, 28, 28)).shape == (1, 4)


def test_a_training_config_without_a_known_space_is_left_out_with_a_warning(tmp_path, monkeypatch, caplog):
    (tmp_path / 'my_supernet.yaml').write_text('kind: supernet\nspace: nowhere\n')
    monkeypatch.setattr(named, 'hub_configs', lambda: named._read_folder(tmp_path))
    assert named._configured_spaces() == {} and 'my_supernet.yaml is left out' in caplog.text


def test_a_supernet_is_imported_for_load_supernet(tmp_path):
    from timm_ofa.supernet import load_supernet

    model = timm.create_model('ofa_mbv3_tiny_supernet')
    theirs = upstream_names(model.state_dict(), MOBILENETV3)
    torch.save({theirs[k]: v for k, v in model.state_dict().items()}, tmp_path / 'checkpoint.pth')
    folder = import_upstream('ofa_mbv3_tiny_supernet', tmp_path / 'checkpoint.pth', tmp_path / 'out')
    loaded = load_supernet(str(folder)).state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize('name, source, said', [
    ('ofa_mbv3_note10_lat23ms', 'x', 'ofa_mbv3_note10_lat22ms'),
    ('resnet50', 'x', 'was not released'),
    (NAME, 'absent.pth', "'absent.pth' is not there"),
    (NAME, 'ftp://host/init', 'not http'),
    (NAME, 'file:///etc/hostname', 'not http'),
])
def test_a_wrong_import_is_one_line(tmp_path, name, source, said):
    with pytest.raises(InputError, match=said) as error:
        import_upstream(name, source, tmp_path / 'out')
    assert '\n' not in str(error.value) and not (tmp_path / 'out').exists()


# ---- the wheel ------------------------------------------------------------------------------------------------------


def test_an_installed_package_finds_its_files_inside(tmp_path):
    """As in the wheel: the folder lies in the package, none lies beside it."""
    shutil.copytree(ROOT / 'timm_ofa', tmp_path / 'timm_ofa', ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copytree(named.hub_configs_dir(), tmp_path / 'timm_ofa/hub_configs')
    code = "import timm, timm_ofa.named as n; print(n.hub_configs_dir(), len(timm.list_pretrained('ofa_mbv3_*ms')))"
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=tmp_path, env={**os.environ, 'PYTHONPATH': str(tmp_path)}, check=True,
        capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == [str(tmp_path / 'timm_ofa/hub_configs'), '31'], done.stderr


def test_the_wheel_carries_the_files(tmp_path):
    pytest.importorskip('hatchling', reason='building a wheel needs hatchling')
    subprocess.run(
        [sys.executable, '-m', 'hatchling', 'build', '-t', 'wheel', '-d', str(tmp_path)], cwd=ROOT, check=True,
        capture_output=True, timeout=120)
    names = ZipFile(next(tmp_path.glob('*.whl'))).namelist()
    assert {f'timm_ofa/hub_configs/{name}.yaml' for name in NAMES} <= set(names)
