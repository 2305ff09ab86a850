"""Where the weights of named models come from: the Hub, the authors, a file."""
import io
import json
import pickle
import re
import tempfile
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from fresh import python
from hub_repos import Repo
from named_models import NAME, SECOND, SUBNETS, SUPERNETS, TWINS, upstream_checkpoint

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
    python(SCRIPT, [address, *TWINS], folder=tmp_path, env={
        'HF_ENDPOINT': 'http://127.0.0.1:9', 'TORCH_HOME': str(tmp_path / 'torch'), 'HF_HOME': str(tmp_path / 'hf'),
        'NO_PROXY': '127.0.0.1'})
    for name in TWINS:
        expected = torch.load(folder / name / 'init')['state_dict']
        loaded = torch.load(tmp_path / f'{name}.pt')
        assert torch.equal(loaded['classifier.weight'], expected['classifier.linear.weight'])
        assert torch.equal(loaded['conv_stem.weight'], expected['first_conv.conv.weight'])
    cached = sorted(p.name for p in (tmp_path / 'torch').rglob('*') if p.is_file())
    assert len(cached) == 2 and all(c.endswith('.safetensors') for c in cached)


def test_the_second_load_needs_no_network(authors, no_hub):
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

    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'hub'))
    monkeypatch.setattr(checkpoints, 'hub_weights', download)
    monkeypatch.setattr(checkpoints, '_fetch_upstream', lambda *_: pytest.fail('asked the authors'))
    timm.create_model(NAME, pretrained=True)
    assert asked == [f'timm-ofa/{NAME}']


def test_without_a_hub_its_client_does_not_try_for_long(authors, no_hub, monkeypatch):
    """It would wait between its attempts, 23 s in all."""
    torch.save(upstream_checkpoint(NAME, 0), authors[0] / 'init')
    monkeypatch.setattr('time.sleep', lambda seconds: pytest.fail(f'waits for {seconds} s'))
    timm.create_model(NAME, pretrained=True, cache_dir=no_hub / 'cache', pretrained_cfg_overlay=dict(
        url=f'{authors[1]}/init'))


def test_offline_nobody_is_asked_and_what_is_in_the_cache_is_used(authors, no_hub, monkeypatch):
    """As with the Hub's own client."""
    folder, address = authors
    torch.save(upstream_checkpoint(NAME, 0), folder / 'init')
    load = partial(timm.create_model, NAME, pretrained=True, pretrained_cfg_overlay=dict(url=f'{address}/init'))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises(InputError, match=r'HF_HUB_OFFLINE is set and .* is not in the cache; unset it') as error:
        load()
    assert '\n' not in str(error.value)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', False)
    first = load().state_dict()
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    monkeypatch.setattr('socket.socket.connect', None)
    assert all(torch.equal(v, first[k]) for k, v in load().state_dict().items())


def test_weights_of_the_authors_on_the_hub_come_through_its_client(server, client):
    """From the HF_ENDPOINT, and from its cache when offline."""
    name = 'ofa_resnet50d_supernet'
    repo, path = re.fullmatch(
        'https://huggingface.co/(.+)/resolve/main/(.+)', timm.get_pretrained_cfg(name).url).groups()
    server.repos[repo] = Repo(private=False)
    buffer = io.BytesIO()
    torch.save(upstream_checkpoint(name, 0), buffer)
    server.repos[repo].commit({path: buffer.getvalue()}, 'released')
    code = """
from huggingface_hub import constants
from timm_ofa.hub.checkpoints import read_upstream
model = timm.create_model('{name}', device='meta')
print(float(read_upstream(timm.get_pretrained_cfg('{name}').url, model)['head.fc.weight'].sum()))"""
    expected = str(float(torch.load(io.BytesIO(buffer.getvalue()))['state_dict']['classifier.linear.weight'].sum()))
    assert client(code.format(name=name)) == expected
    asked = len(server.requests)
    offline = code.format(name=name).replace('model =', 'constants.HF_HUB_OFFLINE = True\nmodel =')
    assert client(f'{offline}\nconstants.HF_HUB_OFFLINE = False') == expected
    assert len(server.requests) == asked > 0


LOAD = f"""
model = timm.create_model('{NAME}', pretrained=True)
print(float(model.classifier.weight.detach().double().sum()))"""


def network_files(seed):
    """A repository's files with the weights of a named network, and the sum of a tensor that tells them apart."""
    torch.manual_seed(seed)
    model = timm.create_model(NAME)
    with tempfile.TemporaryDirectory() as folder:
        timm.models.save_for_hf(model, folder, safe_serialization=True)
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    return files, str(float(model.classifier.weight.detach().double().sum()))


def test_a_network_that_is_published_again_is_refused_until_that_is_wanted(server, client):
    """Nobody stated the hash of its weights, so whoever owns the repository could replace them."""
    repo = server.repos[f'timm-ofa/{NAME}'] = Repo(private=False)
    files, expected = network_files(1)
    repo.commit(files, 'published')
    assert client(LOAD) == client(LOAD) == expected
    files, expected = network_files(2)
    repo.commit(files, 'published')
    line = client(LOAD)
    assert line.startswith('InputError: weights of') and 'have changed: SHA-256' in line and '\n' not in line
    pins = Path(re.search("delete that line in '(.+)'", line)[1])
    kept = json.loads(pins.read_text())
    address, = kept
    assert address.endswith(f'/timm-ofa/{NAME}') and re.fullmatch('[0-9a-f]{64}', kept[address])
    pins.write_text('{}')
    assert client(LOAD) == expected and json.loads(pins.read_text()) != kept
    server.forbid, asked = '.*', len(server.requests)
    line = client(f'from huggingface_hub import constants\nconstants.HF_HUB_OFFLINE = True{LOAD}\n'
                  'constants.HF_HUB_OFFLINE = False')
    assert line == expected and len(server.requests) == asked  # from the cache


def test_weights_of_the_authors_that_change_are_refused(authors, no_hub, monkeypatch):
    folder, address = authors
    load = partial(timm.create_model, NAME, pretrained=True, pretrained_cfg_overlay=dict(url=f'{address}/init'))
    for seed in (0, 1):
        torch.save(upstream_checkpoint(NAME, seed), folder / 'init')
        if not seed:
            load()
    for path in (no_hub / 'cache').glob('*.safetensors'):
        path.unlink()
    with pytest.raises(InputError, match=f'{address}/init have changed: SHA-256 .*delete that line') as error:
        load()
    assert '\n' not in str(error.value)
    (no_hub / 'timm_ofa_pins.json').write_text('[')
    with pytest.raises(InputError, match=r'timm_ofa_pins.json. does not hold the hashes .*; remove it'):
        load()
    monkeypatch.setattr('timm_ofa.hub.pins.write_text', lambda *_: (_ for _ in ()).throw(PermissionError(13, 'denied')))
    (no_hub / 'timm_ofa_pins.json').unlink()
    assert load() is not None  # a cache that cannot be written is a warning


def test_a_gated_repository_says_that_it_is_one(server, client):
    repo = server.repos['acme/gated'] = Repo(private=False)
    repo.commit(network_files(1)[0], 'published')
    server.gated = '/acme/gated/'
    line = client("from timm_ofa.networks import hub_weights; hub_weights('acme/gated')")
    assert "'acme/gated' is gated; ask for access on its page" in line and '\n' not in line


def test_no_source_is_one_line_with_both_addresses_and_the_cure(authors, no_hub):
    url = f'{authors[1]}/nothing/init'
    with pytest.raises(InputError) as error:
        timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=dict(url=url))
    text = str(error.value)
    assert '\n' not in text
    for said in (f'timm-ofa/{NAME}', url, f'timm-ofa import-upstream --name {NAME} --from FILE', 'pretrained=False'):
        assert said in text


@pytest.mark.parametrize('name', ['ofa_mbv3_note10_lat25ms', SECOND, 'ofa_resnet50d_flops600m'])
def test_weights_that_nobody_released_come_with_the_command_that_makes_them(no_hub, name):
    """Where neither the supernet nor images can be reached."""
    with pytest.raises(InputError) as error:
        timm.create_model(name, pretrained=True)
    text = str(error.value)
    assert '\n' not in text and f'timm-ofa/{name}' in text
    command = re.search(r'`timm-ofa specialize --config (\S+) --supernet (\S+)`', text)
    assert find_config(command[1]).subnet == SUBNETS[name]
    assert f'timm-ofa import-upstream --name {SUBNETS[name].supernet} --from FILE --out {command[2]}' in text


# ---- supernets, and files of the authors -----------------------------------------------------------------------------


@pytest.mark.parametrize('name', SUPERNETS)
def test_a_released_supernet_comes_from_its_authors_once(authors, no_hub, name):
    folder, address = authors
    cfg = timm.get_pretrained_cfg(name)
    assert cfg.hf_hub_id == f'timm-ofa/{name}' and f'{name}.mit_in1k' in timm.list_pretrained('ofa_*')
    assert re.fullmatch(r'https://(raw.githubusercontent.com/han-cai/files|huggingface.co/han-cai/ofa)/\S+', cfg.url)
    checkpoint = upstream_checkpoint(name, 0)
    torch.save(checkpoint, folder / 'init')
    load = partial(timm.create_model, name, pretrained=True, pretrained_cfg_overlay=dict(url=f'{address}/init'))
    ours = {k: v for k, v in load().state_dict().items() if v.ndim == 2}
    (folder / 'init').unlink()
    assert len([*(no_hub / 'cache').glob(f'{name}-*.safetensors')]) == 1
    classifier = load(num_classes=7).get_classifier()
    assert classifier.weight.shape == (7, classifier.in_features)
    theirs = {k: v for k, v in checkpoint['state_dict'].items() if v.ndim == 2}
    assert len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours.values(), theirs.values()))


def test_a_supernet_of_another_width_is_refused_and_named(authors, no_hub):
    folder, address = authors
    torch.save(upstream_checkpoint(SUPERNETS[0], 0), folder / 'init')
    with pytest.raises(InputError, match=f'import-upstream --name {SUPERNETS[1]} --from FILE'):
        timm.create_model(SUPERNETS[1], pretrained=True, pretrained_cfg_overlay=dict(url=f'{address}/init'))


@pytest.mark.parametrize(
    'content', [b'', b'<html>', pickle.dumps(print), pickle.dumps([1])], ids=['empty', 'html', 'code', 'list'])
def test_what_is_no_checkpoint_is_refused_and_not_kept(authors, no_hub, content):
    folder, address = authors
    (folder / 'init').write_bytes(content)
    with pytest.raises(InputError, match='is not a checkpoint of tensors'):
        timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=dict(url=f'{address}/init'))
    assert not list((no_hub / 'cache').rglob('*.safetensors'))


def test_weights_of_another_network_are_refused(authors, no_hub):
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
