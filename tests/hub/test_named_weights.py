"""Where the weights of named models come from: the Hub, the authors, a file."""
import json
import os
import pickle
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from named_models import NAME, SECOND, SUBNETS, SUPERNETS, TWINS, upstream_checkpoint

import timm_ofa
from timm_ofa import InputError
from timm_ofa.hub import checkpoints, find_config

SCRIPT = """
import sys, timm, torch, timm_ofa
for name in sys.argv[2:]:
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(url=f'{sys.argv[1]}/{name}/init'))
    torch.save(model.state_dict(), f'{name}.pt')
"""


def test_two_released_networks_in_one_process_get_their_own_weights(authors, tmp_path):
    folder, address = authors
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


def test_the_second_load_needs_no_network(authors, offline):
    folder, address = authors
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

    monkeypatch.setattr(checkpoints, 'hub_weights', download)
    monkeypatch.setattr(checkpoints, '_fetch_upstream', lambda *_: pytest.fail('asked the authors'))
    timm.create_model(NAME, pretrained=True)
    assert asked == [f'timm-ofa/{NAME}']


def test_without_a_hub_its_client_does_not_try_for_long(authors, offline, monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', False)
    monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', 'http://127.0.0.1:9')
    torch.save(upstream_checkpoint(NAME, 0), authors[0] / 'init')
    started = time.monotonic()
    timm.create_model(NAME, pretrained=True, cache_dir=offline / 'cache', pretrained_cfg_overlay=dict(
        url=f'{authors[1]}/init'))
    assert time.monotonic() - started < 10  # 23 s of retries otherwise


def test_no_source_is_one_line_with_both_addresses_and_the_cure(authors, offline):
    url = f'{authors[1]}/nothing/init'
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


# ---- supernets, and files of the authors -----------------------------------------------------------------------------


@pytest.mark.parametrize('name', SUPERNETS)
def test_a_released_supernet_comes_from_its_authors_once(authors, offline, name):
    folder, address = authors
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


def test_a_supernet_of_another_width_is_refused_and_named(authors, offline):
    folder, address = authors
    torch.save(upstream_checkpoint(SUPERNETS[0], 0), folder / 'init')
    with pytest.raises(InputError, match=f'import-upstream --name {SUPERNETS[1]} --from FILE'):
        timm.create_model(SUPERNETS[1], pretrained=True, pretrained_cfg_overlay=dict(url=f'{address}/init'))


@pytest.mark.parametrize(
    'content', [b'', b'<html>', pickle.dumps(print), pickle.dumps([1])], ids=['empty', 'html', 'code', 'list'])
def test_what_is_no_checkpoint_is_refused_and_not_kept(authors, offline, content):
    folder, address = authors
    (folder / 'init').write_bytes(content)
    with pytest.raises(InputError, match='is not a checkpoint of tensors'):
        timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=dict(url=f'{address}/init'))
    assert not list((offline / 'cache').rglob('*.safetensors'))


def test_weights_of_another_network_are_refused(authors, offline):
    folder, address = authors
    torch.save(upstream_checkpoint('ofa_mbv3_note10_lat22ms', 0), folder / 'init')
    with pytest.raises(InputError, match='upstream tensor'):
        timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=dict(url=f'{address}/init'))


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
