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
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from zipfile import ZipFile

import pytest
import timm
import torch

import timm_ofa
from timm_ofa import InputError
from timm_ofa.accuracy import load_predictor
from timm_ofa.accuracy.judge import evaluate
from timm_ofa.hub import ofa as named
from timm_ofa.hub import upstream
from timm_ofa.hub.card import render_card
from timm_ofa.hub.configs import (
    IMAGENET,
    find_config,
    hub_configs,
    hub_configs_dir,
    named_subnets,
    read_folder,
    read_hub_config,
)
from timm_ofa.hub.ofa import named_tags
from timm_ofa.hub.upstream import import_upstream, subnet_record
from timm_ofa.images import load_data
from timm_ofa.networks.convert import FAMILIES, upstream_names

ROOT = Path(__file__).resolve().parents[2]
SUBNETS = named_subnets()  # by the name of the file
NAMES = sorted(SUBNETS)
RELEASED = {name: s for name, s in SUBNETS.items() if not s.search}
SHIPPED = {name: s for name, s in SUBNETS.items() if s.file}  # weights in the package
OWN = {name: s for name, s in SUBNETS.items() if s.search and not s.file}
TWINS = ['ofa_mbv3_lg_g8_lat24ms', 'ofa_mbv3_lg_g8_lat16ms']  # one architecture, two sets of weights
NAME = TWINS[0]
SECOND = 'ofa_mbv3_note10_lat30ms.search_in1k'  # a second network under one name
SUPERNETS = [f'{space}_supernet' for space in ('ofa_mbv3_w10', 'ofa_mbv3_w12', 'ofa_proxyless_w13', 'ofa_resnet50d')]


def tagged(name):
    """The name with its tag: of a file that has none in its name, the own one."""
    return name if '.' in name else f'{name}.{SUBNETS[name].tag}'


def upstream_checkpoint(name, seed):
    """Random weights of a named model as the authors saved theirs: {'state_dict': ...} under their names."""
    torch.manual_seed(seed)
    model = timm.create_model(name)
    theirs = upstream_names(model.state_dict(), next(rules for kind, rules in FAMILIES if isinstance(model, kind)))
    return {'state_dict': {
        re.sub(r'^(blocks\.\d+)\.conv\.', r'\1.mobile_inverted_conv.', theirs[k]): v
        for k, v in model.state_dict().items()}}


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


def test_all_named_networks_are_there():
    spaces = Counter(s.space.name for s in RELEASED.values())
    assert spaces == {'ofa_mbv3_w10': 24, 'ofa_mbv3_w12': 10, 'ofa_proxyless_w13': 16}
    assert {(s.name, s.latency_ms) for s in OWN.values() if s.device} == {
        (f'ofa_mbv3_note10_lat{ms}ms', ms) for ms in range(15, 51, 5)}
    budgets = (4100, 3700, 3000, 2400, 1800, 1200, 900, 600)
    assert {name for name, s in OWN.items() if not s.device} == {f'ofa_resnet50d_flops{m}m' for m in budgets}


@pytest.mark.parametrize('name', NAMES)
def test_size_and_macs_are_the_published_ones(name):
    s = SUBNETS[name]
    with torch.device('meta'):
        model = timm.create_model(name)
    params = sum(p.numel() for p in model.parameters())
    assert params == s.space.params(s.arch)
    assert params / 1e6 == pytest.approx(s.params_m, abs=0.051)  # published with one digit
    assert s.space.macs(s.arch) / 1e6 == pytest.approx(s.macs_m, abs=0.6)  # published as whole millions
    assert isinstance(model, {
        'mbv3': timm.models.MobileNetV3, 'proxyless': timm.models.EfficientNet, 'resnet50d': timm.models.ByobNet,
    }[s.family])
    drop_rate = {'ofa_mbv3_w10': 0.1, 'ofa_mbv3_w12': 0.2}.get(s.space.name, 0)
    assert (model.drop_rate if s.family != 'resnet50d' else 0) == drop_rate


def test_every_file_says_what_the_authors_published(shared):
    told = {r['id']: r for r in json.loads((shared / 'upstream/released_archs.json').read_text())}
    for s in RELEASED.values():
        r = told[s.upstream_id]
        assert s.arch == s.space.from_upstream({'ks': r['ks'], 'e': r['e'], 'd': r['d'], 'r': [r['resolution']]})
        assert (s.top1_pct, s.top5_pct, s.params_m) == (r['top1'], r['top5'], r['params_M'])
        assert s.latency_ms == r['latency_ms'] and (s.device is None) == (r['device'] is None)
        batch = re.search(r'batch (\d+)', r['device'] or '')
        assert s.latency_batch_size == (int(batch[1]) if batch else 1)
        assert s.macs_m == (75.8 if s.name == 'ofa_mbv3_note10_lat8ms' else r['macs_M'])
        assert s.space.macs(s.arch) / 1e6 == pytest.approx(r['verified_macs_M'], abs=0.006)
        assert s.space.params(s.arch) / 1e6 == pytest.approx(r['verified_params_M'], abs=0.0006)
        assert s.tag == f'mit_ft{r["finetune_epochs"]}_in1k'
        assert s.url.endswith(f'/{s.upstream_id.replace("@", "-")}/init')
    assert {r['id'] for r in told.values() if r['config_available']} == {s.upstream_id for s in RELEASED.values()}
    compared = [s.published for s in OWN.values() if s.published]
    assert {p.id for p in compared} >= {r['id'] for r in told.values() if not r['config_available']}
    for p in compared:
        r = told[p.id]
        assert (p.top1_pct, p.top5_pct, p.macs_m, p.params_m) == (r['top1'], r['top5'], r['macs_M'], r['params_M'])


@pytest.mark.parametrize('name', sorted(OWN))
def test_what_our_search_found_keeps_its_limit_and_is_not_called_measured(name):
    s = OWN[name]
    assert s.top1_pct is None and s.top5_pct is None and s.url is None and s.supernet == f'{s.space.name}_supernet'
    assert 'training images' in s.search.predictor
    assert '.' in name or 'predicted, not measured' in timm.models.model_entrypoint(name).__doc__
    if s.device:
        latency = timm_ofa.load_profile('note10').latency_ms(s.space, [s.arch])[0]
        assert latency <= s.latency_ms and latency == pytest.approx(s.predicted_ms, abs=0.006)
    else:
        assert s.space.macs(s.arch) <= 1e6 * s.published.macs_m
        assert s.published.top1_pct < s.predicted_top1_pct <= 82.99


def test_predictions_are_those_of_the_released_predictors(shared):
    files = {'ofa_mbv3_w12': 'acc_predictor.pth', 'ofa_resnet50d': 'ofa_resnet50_acc_predictor.pth'}
    for space, file in files.items():
        own = [s for s in OWN.values() if s.space.name == space]
        predictor = timm_ofa.load_upstream_predictor(shared / 'upstream' / file, space)
        assert predictor.predict([s.arch for s in own]) == pytest.approx([s.predicted_top1_pct for s in own], abs=0.006)


def test_timm_lists_them_with_their_weights():
    names = {s.name for s in SUBNETS.values()}
    assert names <= set(timm.list_models('ofa_*')) and names <= set(timm.list_models(module='named'))
    listed = timm.list_pretrained('ofa_*')
    for name, s in SUBNETS.items():
        assert tagged(name) in listed
        cfg = timm.get_pretrained_cfg(name)
        assert cfg.hf_hub_id == f'timm-ofa/{name}' and cfg.tag == s.tag
        assert cfg.license == ('apache-2.0' if name in SHIPPED else 'mit')


# ---- tags: weights of one network, and a second network under one limit ---------------------------------------------


def test_the_50_released_networks_are_40_that_share_their_weights():
    groups = {}
    for name, s in RELEASED.items():
        groups.setdefault(s.network, []).append(name)
    assert len(groups) == 40
    listed = set(timm.list_pretrained('ofa_*'))
    for group in groups.values():
        for name in group:
            tags = list(named_tags()[name].values())
            assert tags[0].name == name  # its own weights are the default
            assert set(group) <= {other.name for other in tags if other.subnet.network == SUBNETS[name].network}
            assert {f'{name}.{tag}' for tag in named_tags()[name]} <= listed


def test_a_shared_tag_brings_the_weights_and_the_resolution_of_the_other(server, offline):
    name, tag, other = 'ofa_mbv3_lg_g8_lat24ms', 'mit_ft25_in1k_pixel2_lat62ms', 'ofa_mbv3_pixel2_lat62ms'
    folder, address = server
    checkpoint = upstream_checkpoint(other, 5)
    torch.save(checkpoint, folder / 'init')
    cfg = timm.get_pretrained_cfg(f'{name}.{tag}')
    assert (cfg.hf_hub_id, cfg.url) == (f'timm-ofa/{other}', SUBNETS[other].url) and cfg.input_size == (3, 208, 208)
    model = timm.create_model(
        f'{name}.{tag}', pretrained=True, pretrained_cfg_overlay=dict(url=f'{address}/init'))
    assert torch.equal(model.classifier.weight, checkpoint['state_dict']['classifier.linear.weight'])
    assert model.pretrained_cfg['input_size'] == (3, 208, 208)
    (folder / 'init').unlink()  # one file in the cache for both names
    timm.create_model(other, pretrained=True, pretrained_cfg_overlay=dict(url=f'{address}/init'))


def test_a_tag_of_another_network_builds_that_network(tmp_path):
    from timm.models import save_for_hf

    name, _ = SECOND.split('.')
    params = {tag: sum(p.numel() for p in timm.create_model(tag).parameters()) for tag in (name, SECOND)}
    assert params == {tag: SUBNETS[tag].space.params(SUBNETS[tag].arch) for tag in params}
    assert params[name] != params[SECOND]
    model = timm.create_model(SECOND, num_classes=3).eval()
    save_for_hf(model, tmp_path, safe_serialization=True)
    again = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(again(x), model(x))


@pytest.mark.parametrize('name', NAMES)
def test_images_are_prepared_as_by_the_authors(name):
    s, cfg = SUBNETS[name], timm.get_pretrained_cfg(name)
    resolution = s.arch.resolution
    assert cfg.input_size == (3, resolution, resolution) and cfg.interpolation == 'bilinear'
    assert math.floor(resolution / cfg.crop_pct) == math.ceil(resolution / s.space.crop_pct)
    assert s.data != IMAGENET or s.space.crop_pct == 0.875
    assert cfg.pool_size == (math.ceil(resolution / s.space.reduction),) * 2
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
    return (hub_configs_dir() / f'{name}.yaml').read_text()


def refused(folder, name, line, wrong, said):
    """The file of that name with one line written wrong is refused in one line that names file and field."""
    text = text_of(name)
    assert line in text
    path = folder / f'{name}.yaml'
    path.write_text(text.replace(line, wrong))
    with pytest.raises(InputError) as error:
        read_hub_config(path)
    assert path.name in str(error.value) and said in str(error.value) and '\n' not in str(error.value)


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
    ('top1_pct: 76.4', 'top1_pct: null', 'needed where top1_pct is null'),
    ('top5_pct: 93.0', 'top5_pct: null', 'top1_pct and top5_pct belong together'),
    ('top5_pct: 93.0', 'top5_pct: 93.0\npredicted_top1_pct: 80', 'belong together'),
    ('latency_ms: 24', 'latency_ms: 24\nlatency_batch_size: 0', 'latency_batch_size'),
    ('drop_rate: 0.1', 'drop_rate: .nan', 'drop_rate'),
    ('tag: mit', 'tag: m.it', 'tag'),
    ('hub_id: timm-ofa/', 'hub_id: ', 'hub_id'),
    ('url: https:', 'url: file:', 'url'),
    ('url: https:', 'file: weights/x.safetensors\nurl: https:', 'file and sha256 belong together'),
    ('url: https:', 'file: ../x.safetensors\nurl: https:', 'file'),
    ('url: https:', 'file: /x.safetensors\nurl: https:', 'file'),
    ('url: https:', 'file: x.pth\nurl: https:', 'file'),
    ('url: https:', 'sha256: beef\nurl: https:', 'sha256'),
    ('source: https:', '# source: https:', "'source' is missing"),
    ('license: mit', 'license: mit\nextra: 1', "'extra' is unknown"),
    ('kind: subnet', 'kind: subnets', 'kind'),
    ('name: ofa', 'name: ofb', 'name'),
    (f'name: {NAME}\n', '', "'name' is missing"),
    ('name: ofa', 'name: [', 'YAML'),
])
def test_a_wrong_file_is_one_line_with_file_and_field(tmp_path, line, wrong, said):
    refused(tmp_path, NAME, line, wrong, said)


@pytest.mark.parametrize('line, wrong, said', [
    ('tag: search', 'tag: other', 'make it ofa_mbv3_note10_lat30ms.search_in1k'),
    ('name: ofa_mbv3_note10_lat30ms', 'name: ofa_mbv3_note10_lat31ms', 'name'),
    ('supernet: ofa_mbv3_w12', 'supernet: ofa_mbv3_w10', 'write ofa_mbv3_w12_supernet'),
    ('supernet: ofa_mbv3_w12', 'supernet: ../w12', 'supernet'),
    ('  limit: latency <= 30 ms on samsung-note10\n', '', "search: field 'limit' is missing"),
    ('  limit: latency', '  limits: latency', "search: field 'limits' is unknown"),
    ('  top1_pct: 78.4', '  top1_pct: high', 'published: top1_pct'),
    ('predicted_top1_pct: ', 'predicted_top1_pct: 1', 'predicted_top1_pct'),
    ('latency_ms: 30', 'latency_ms: 1e400', 'latency_ms'),
])
def test_a_wrong_file_of_a_search_is_one_line_too(tmp_path, line, wrong, said):
    refused(tmp_path, SECOND, line, wrong, said)


@pytest.mark.parametrize('line, wrong', [
    ('tag: mit', 'tag: m.it'), ('license: mit\n  ', ''), ('url: https:', 'url: file:'), ('source:', 'sources:')])
def test_wrong_weights_of_a_supernet_are_one_line(tmp_path, line, wrong):
    path = tmp_path / f'{SUPERNETS[0]}.yaml'
    path.write_text(text_of(SUPERNETS[0]).replace(f'  {line}', f'  {wrong}'))
    with pytest.raises(InputError, match=f'{path.name}: weights'):
        read_hub_config(path)


def test_a_file_is_found_by_path_by_name_and_as_it_lies_in_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in (SECOND, f'hub_configs/{SECOND}.yaml', hub_configs_dir() / f'{SECOND}.yaml'):
        assert find_config(text).subnet == SUBNETS[SECOND]
    for text in ('ofa_mbv3_note10_lat29ms', 'elsewhere/' + SECOND, '', 'x' * 5000, '\0'):
        with pytest.raises(InputError, match=r'is neither a file nor a name.*timm-ofa models') as error:
            find_config(text)
        assert '\n' not in str(error.value)


def test_a_wrong_file_is_left_out_with_a_warning(tmp_path, caplog):
    (tmp_path / f'{NAME}.yaml').write_text(text_of(NAME))
    (tmp_path / 'ofa_mbv3_broken_lat1ms.yaml').write_text('kind: subnet\n')
    (tmp_path / 'binary.yaml').write_bytes(b'\xff\x00')
    with caplog.at_level(logging.WARNING):
        assert list(read_folder(tmp_path)) == [NAME]
    assert len(caplog.records) == 2
    assert 'binary.yaml' in caplog.text and 'ofa_mbv3_broken_lat1ms.yaml' in caplog.text


def test_files_of_supernets_are_kept_as_written(tmp_path):
    path = tmp_path / 'my_supernet.yaml'
    path.write_text('kind: supernet\nspace: anything\nphases: [1, 2]\n')
    config = read_hub_config(path)
    assert (config.name, config.kind, config.subnet) == ('my_supernet', 'supernet', None)
    assert config.data['phases'] == [1, 2]


def test_every_file_opens_with_what_it_is_and_is_on_the_shelf():
    folder = hub_configs_dir()
    assert sorted(hub_configs()) == sorted(p.stem for p in folder.glob('*.yaml'))
    assert all(path.read_text().startswith('# ') for path in folder.glob('ofa_*.yaml'))


def test_reading_all_files_is_quick():
    started = time.process_time()
    read_folder(hub_configs_dir())
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

    def download(repo, cache_dir=None):
        from safetensors.torch import save_file

        asked.append(repo)
        save_file(timm.create_model(NAME).state_dict(), tmp_path / 'model.safetensors')
        return tmp_path / 'model.safetensors'

    monkeypatch.setattr(named, 'hub_weights', download)
    monkeypatch.setattr(named, '_fetch_upstream', lambda *_: pytest.fail('asked the authors'))
    timm.create_model(NAME, pretrained=True)
    assert asked == [f'timm-ofa/{NAME}']


def test_without_a_hub_its_client_does_not_try_for_long(server, offline, monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', False)
    monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', 'http://127.0.0.1:9')
    torch.save(upstream_checkpoint(NAME, 0), server[0] / 'init')
    started = time.monotonic()
    timm.create_model(NAME, pretrained=True, cache_dir=offline / 'cache', pretrained_cfg_overlay=dict(
        url=f'{server[1]}/init'))
    assert time.monotonic() - started < 10  # 23 s of retries otherwise


def test_no_source_is_one_line_with_both_addresses_and_the_cure(server, offline):
    url = f'{server[1]}/nothing/init'
    with pytest.raises(InputError) as error:
        timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=dict(url=url))
    text = str(error.value)
    assert '\n' not in text
    for said in (f'timm-ofa/{NAME}', url, f'timm-ofa import-upstream --name {NAME} --from FILE', 'pretrained=False'):
        assert said in text


@pytest.mark.parametrize('name', ['ofa_mbv3_note10_lat25ms', SECOND, 'ofa_resnet50d_flops600m'])
def test_weights_that_nobody_released_come_with_the_command_that_makes_them(offline, name):
    with pytest.raises(InputError) as error:
        timm.create_model(name, pretrained=True)
    text = str(error.value)
    assert '\n' not in text and f'timm-ofa/{name}' in text
    command = re.search(r'`timm-ofa specialize --config (\S+) --data (\S+)`', text)
    assert command[1] == f'hub_configs/{name}.yaml' and find_config(command[1]).subnet == SUBNETS[name]


# ---- supernets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', SUPERNETS)
def test_a_released_supernet_comes_from_its_authors_once(server, offline, name):
    folder, address = server
    cfg = timm.get_pretrained_cfg(name)
    assert cfg.hf_hub_id == f'timm-ofa/{name}' and f'{name}.mit_in1k' in timm.list_pretrained('ofa_*')
    assert re.fullmatch(r'https://(raw.githubusercontent.com/han-cai/files|huggingface.co/han-cai/ofa)/\S+', cfg.url)
    checkpoint = upstream_checkpoint(name, 0)
    torch.save(checkpoint, folder / 'init')
    load = partial(timm.create_model, name, pretrained=True, pretrained_cfg_overlay=dict(url=f'{address}/init'))
    ours = {k: v for k, v in load().state_dict().items() if v.ndim == 2}
    (folder / 'init').unlink()
    assert len([*(offline / 'cache').glob(f'{name}-*.safetensors')]) == 1
    classifier = load(num_classes=7).get_classifier()
    assert classifier.weight.shape == (7, classifier.in_features)
    theirs = {k: v for k, v in checkpoint['state_dict'].items() if v.ndim == 2}
    assert len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours.values(), theirs.values()))


def test_a_supernet_of_another_width_is_refused_and_named(server, offline):
    folder, address = server
    torch.save(upstream_checkpoint(SUPERNETS[0], 0), folder / 'init')
    with pytest.raises(InputError, match=f'import-upstream --name {SUPERNETS[1]} --from FILE'):
        timm.create_model(SUPERNETS[1], pretrained=True, pretrained_cfg_overlay=dict(url=f'{address}/init'))


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
    from timm_ofa.hub.folder import check_folder

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


@pytest.mark.parametrize('name', NAMES)
def test_what_is_known_of_a_network_makes_a_card(name):
    s, record = SUBNETS[name], subnet_record(name, SUBNETS[name]).check()
    card = render_card(record)
    opening = re.search(r'\*\*(\d\d\.\d)\d % top-1( \(predicted\))?\*\*', card)
    assert float(opening[1]) == pytest.approx(s.top1_pct or s.predicted_top1_pct, abs=0.1)
    assert (opening[2] is None) == (s.top1_pct is not None)
    assert ('| predicted top-1, not measured |' in card) == ('| predictor |' in card) == (s.search is not None)
    if s.latency_batch_size > 1:
        assert f'under {s.latency_ms:g} ms for a batch of {s.latency_batch_size}:' in card


def test_every_hub_config_is_a_timm_model():
    networks = {name.partition('.')[0] for name, config in hub_configs().items() if config.kind != 'finetune'}
    assert networks <= set(timm.list_models('ofa_*')) and len(networks) == 76
    supernet = timm.create_model('ofa_mbv3_fashion_supernet', num_classes=4)
    assert supernet.space.resolutions == (20, 24, 28) and supernet(torch.zeros(1, 3, 28, 28)).shape == (1, 4)


def test_a_training_config_without_a_known_space_is_left_out_with_a_warning(tmp_path, monkeypatch, caplog):
    (tmp_path / 'my_supernet.yaml').write_text('kind: supernet\nspace: nowhere\n')
    monkeypatch.setattr(named, 'hub_configs', lambda: read_folder(tmp_path))
    assert named._configured_spaces() == {} and 'my_supernet.yaml is left out' in caplog.text


@pytest.mark.parametrize('name', ['ofa_mbv3_tiny_supernet', 'ofa_mbv3_w10_supernet'])
def test_a_supernet_is_imported_for_load_supernet(tmp_path, name):
    from timm_ofa.networks.supernet import load_supernet

    checkpoint = upstream_checkpoint(name, 0)
    torch.save(checkpoint, tmp_path / 'checkpoint.pth')
    folder = import_upstream(name, tmp_path / 'checkpoint.pth', tmp_path / 'out')
    loaded = load_supernet(str(folder)).state_dict()
    assert torch.equal(loaded['classifier.weight'], checkpoint['state_dict']['classifier.linear.weight'])
    assert len(loaded) == len(checkpoint['state_dict'])


@pytest.mark.parametrize('name', [NAME, 'ofa_mbv3_w12_supernet'])
def test_without_a_source_the_authors_are_asked(monkeypatch, tmp_path, name):
    asked = []

    def download(url, path):
        asked.append(url)
        torch.save(upstream_checkpoint(name, 0), path)
        return path

    monkeypatch.setattr(named, 'fetch', download)
    out = import_upstream(name, None, tmp_path / 'out')
    assert asked == [hub_configs()[name].weights.url] and (out / 'model.safetensors').is_file()


@pytest.mark.parametrize('name, file', [
    ('ofa_mbv3_w12_predictor', 'acc_predictor.pth'), ('ofa_resnet50d_predictor', 'ofa_resnet50_acc_predictor.pth')])
def test_a_released_predictor_is_imported(shared, tmp_path, name, file):
    from timm_ofa.accuracy import load_predictor

    space = timm_ofa.load_space(name.removesuffix('_predictor'))
    path = import_upstream(name, shared / 'upstream' / file, tmp_path / 'predictor')
    archs = [space.max_arch(224), space.min_arch(160)]
    theirs = timm_ofa.load_upstream_predictor(shared / 'upstream' / file, space)
    assert path.is_file() and load_predictor(path, space).predict(archs) == pytest.approx(theirs.predict(archs))


def test_released_latency_tables_are_imported(shared, tmp_path, monkeypatch):
    path = import_upstream('note10', shared / 'upstream/note10', tmp_path / 'note10.json')
    shelf, again = timm_ofa.load_profile('note10'), timm_ofa.load_profile(path)
    assert again.table == shelf.table
    monkeypatch.setattr(
        upstream, 'fetch', lambda url, path: shutil.copy(shared / 'upstream/note10' / url.rpartition('/')[2], path))
    fetched = timm_ofa.load_profile(import_upstream('note10', None, tmp_path / 'five.json'))
    assert fetched.resolutions(timm_ofa.load_space('ofa_mbv3_w12')) == (160, 176, 192, 208, 224)


@pytest.mark.parametrize('name, source, said', [
    ('ofa_mbv3_note10_lat23ms', 'x', 'e.g. ofa_mbv3_note10_lat'),
    ('resnet50', 'x', 'was not released'),
    ('ofa_mbv3_cifar10_supernet', 'x', 'was not released'),
    ('ofa_mbv3_note10_lat25ms', None, 'never released; make them: `timm-ofa specialize --config hub_configs/ofa_mbv3'),
    ('ofa_mbv3_tiny_supernet', None, 'never released; give a file'),
    ('ofa_mbv3_w12_predictor', 'absent.pth', 'absent.pth'),
    ('ofa_mbv3_w12_predictor', 'ftp://host/predictor.pth', 'not http'),
    ('note10', 'absent', 'absent'),
    (NAME, 'absent.pth', "'absent.pth' is not there"),
    (NAME, 'ftp://host/init', 'not http'),
    (NAME, 'file:///etc/hostname', 'not http'),
])
def test_a_wrong_import_is_one_line(tmp_path, name, source, said):
    with pytest.raises(InputError, match=said) as error:
        import_upstream(name, source, tmp_path / 'out')
    assert '\n' not in str(error.value) and not (tmp_path / 'out').exists()


# ---- the wheel ------------------------------------------------------------------------------------------------------


SHIPPED_SUBNET = """# weights in the package
kind: subnet
name: ofa_mbv3_test_lat1ms
family: mbv3
space: ofa_mbv3_tiny
arch: '{arch}'
device: my-cpu
latency_ms: 1
data: uoft-cs/cifar10
split: test
images: 10000
top1_pct: 80.5
top5_pct: 99.0
macs_m: 1
params_m: 0.1
drop_rate: 0
{weights}
"""
SHIPPED_SUPERNET = """# weights in the package
kind: supernet
name: ofa_mbv3_test_supernet
space: ofa_mbv3_tiny
data: uoft-cs/cifar10
weights: {{{weights}}}
"""


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    """As in the wheel: the configs lie in the package, none beside it, and two of them name weights in there."""
    from timm_ofa.files import save_tensors, sha256_of

    root = tmp_path_factory.mktemp('installed')
    shutil.copytree(ROOT / 'timm_ofa', root / 'timm_ofa', ignore=shutil.ignore_patterns('__pycache__', 'images'))
    shutil.copytree(hub_configs_dir(), root / 'timm_ofa/hub_configs')
    supernet = timm.create_model('ofa_mbv3_tiny_supernet')
    arch = supernet.space.min_arch()
    for text, model in ((SHIPPED_SUPERNET, supernet), (SHIPPED_SUBNET, supernet.extract(arch))):
        name = re.search(r'name: (\S+)', text)[1]
        path = root / f'timm_ofa/weights/{name}.safetensors'
        save_tensors(path, {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()})
        weights = [f'file: weights/{path.name}', f'sha256: {sha256_of(path)}', f'hub_id: timm-ofa/{name}',
                   'tag: test_cifar10', 'license: apache-2.0']
        weights = ('\n' if 'subnet' in text else ', ').join(weights)
        (root / f'timm_ofa/hub_configs/{name}.yaml').write_text(text.format(weights=weights, arch=arch))

    def python(code):
        code = f'import socket, timm, timm_ofa.configs as c\nsocket.socket.connect = None  # no network\n{code}'
        environment = {**os.environ, 'PYTHONPATH': str(root)}
        return subprocess.run(
            [sys.executable, '-c', code], cwd=root, env=environment, capture_output=True, text=True, timeout=120)
    return root / 'timm_ofa', supernet, python


def test_an_installed_package_brings_weights_that_ship_with_it_and_checks_them(installed):
    package, supernet, python = installed
    done = python("""
print(c.hub_configs_dir(), len(timm.list_models('ofa_*lat*ms')))
print(*[name for name in timm.list_pretrained('ofa_*') if 'test' in name])
supernet = timm.create_model('ofa_mbv3_test_supernet', pretrained=True)
subnet = timm.create_model('ofa_mbv3_test_lat1ms', pretrained=True)
print(supernet.conv_stem.weight.double().sum().item(), subnet.classifier.weight.double().sum().item())
print(timm.create_model('ofa_mbv3_test_lat1ms', pretrained=True, num_classes=7).classifier.out_features)
weights = c.hub_configs()['ofa_mbv3_test_lat1ms'].weights.path
weights.write_bytes(weights.read_bytes()[:-1] + b'!')
timm.create_model('ofa_mbv3_test_lat1ms', pretrained=True)""")
    sums = [supernet.conv_stem.weight, supernet.extract(supernet.space.min_arch()).classifier.weight]
    lines = done.stdout.splitlines()
    known = {s.name for s in SUBNETS.values() if s.device}
    assert lines[0] == f'{package / "hub_configs"} {len(known) + 1}', done.stderr
    assert lines[1] == 'ofa_mbv3_test_lat1ms.test_cifar10 ofa_mbv3_test_supernet.test_cifar10'
    assert lines[2] == ' '.join(str(v.half().double().sum().item()) for v in sums) and lines[3] == '7'
    assert done.stderr.splitlines()[-1].endswith(
        "InputError: weights of 'ofa_mbv3_test_lat1ms': weights/ofa_mbv3_test_lat1ms.safetensors has not the SHA-256 "
        'that ofa_mbv3_test_lat1ms.yaml names; install timm_ofa again, or use pretrained=False')


@pytest.fixture(scope='module')
def cifar10(shared):
    """The first 500 test images."""
    return load_data(str(shared / 'data/cifar10'), 32, limit=10).test.subset(range(500), 'first').decode()


@pytest.mark.parametrize('name', sorted(SHIPPED))
def test_what_ships_is_as_accurate_as_said_and_found_by_what_ships(name, cifar10, monkeypatch):
    """The predictor, the profile and the weights all are of this package."""
    monkeypatch.setattr('socket.socket.connect', None)
    s = SHIPPED[name]
    model = timm.create_model(name, pretrained=True)
    assert evaluate(model, cifar10, s.space, s.arch.resolution) == pytest.approx(s.top1_pct, abs=5)
    predicted = load_predictor(s.search.predictor, s.space).predict([s.arch])[0]
    assert predicted == pytest.approx(s.predicted_top1_pct, abs=0.006)
    latency_ms = timm_ofa.load_profile(s.search.profile).latency_ms(s.space, [s.arch])[0]
    assert latency_ms == pytest.approx(s.predicted_ms, rel=1e-3) and latency_ms <= s.latency_ms
    assert hub_configs()[s.supernet].weights.path.stat().st_size < 8e6


def test_the_wheel_carries_the_files(tmp_path):
    pytest.importorskip('hatchling', reason='building a wheel needs hatchling')
    subprocess.run(
        [sys.executable, '-m', 'hatchling', 'build', '-t', 'wheel', '-d', str(tmp_path)], cwd=ROOT, check=True,
        capture_output=True, timeout=120)
    names = ZipFile(next(tmp_path.glob('*.whl'))).namelist()
    assert {f'timm_ofa/hub_configs/{name}.yaml' for name in NAMES} <= set(names)
    assert {f'timm_ofa/{s.file}' for s in SHIPPED.values()} <= set(names)
