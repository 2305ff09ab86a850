"""The named models: their networks, figures and tags."""
import json
import math
import re
from collections import Counter

import pytest
import timm
import torch
from named_models import NAME, NAMES, OWN, RELEASED, SECOND, SUBNETS, upstream_checkpoint

import timm_ofa
from timm_ofa.hub import hub_configs
from timm_ofa.hub import ofa as named
from timm_ofa.hub.configs import IMAGENET, read_folder
from timm_ofa.hub.ofa import named_tags


def tagged(name):
    """The name with its tag: of a file that has none in its name, the own one."""
    return name if '.' in name else f'{name}.{SUBNETS[name].tag}'



# ---- the networks ----------------------------------------------------------------------------------------------------


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
    ours = set(timm.list_models('ofa_*'))
    assert {s.name for s in SUBNETS.values()} <= ours == set(timm.list_models(module='ofa'))
    assert 'ofa' in timm.list_modules() and not {'stock', 'named', 'supernet'} & set(timm.list_modules())
    listed = timm.list_pretrained('ofa_*')
    for name, s in SUBNETS.items():
        assert tagged(name) in listed
        cfg = timm.get_pretrained_cfg(name)
        assert cfg.hf_hub_id == f'timm-ofa/{name}' and cfg.tag == s.tag
        assert cfg.license == s.license == ('mit' if s.source else 'apache-2.0')


def test_every_hub_config_is_a_timm_model():
    networks = {name.partition('.')[0] for name, config in hub_configs().items() if config.kind != 'finetune'}
    assert networks <= set(timm.list_models('ofa_*')) and len(networks) == 76
    supernet = timm.create_model('ofa_mbv3_fashion_supernet', num_classes=4)
    assert supernet.space.resolutions == (20, 24, 28) and supernet(torch.zeros(1, 3, 28, 28)).shape == (1, 4)


def test_a_training_config_without_a_known_space_is_left_out_with_a_warning(tmp_path, monkeypatch, caplog):
    (tmp_path / 'my_supernet.yaml').write_text('kind: supernet\nspace: nowhere\n')
    monkeypatch.setattr(named, 'hub_configs', lambda: read_folder(tmp_path))
    assert named._configured_spaces() == {} and 'my_supernet.yaml is left out' in caplog.text


# ---- tags: weights of one network, and a second network under one limit ----------------------------------------------


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


def test_a_shared_tag_brings_the_weights_and_the_resolution_of_the_other(authors, no_hub):
    name, tag, other = 'ofa_mbv3_lg_g8_lat24ms', 'mit_ft25_in1k_pixel2_lat62ms', 'ofa_mbv3_pixel2_lat62ms'
    folder, address = authors
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
