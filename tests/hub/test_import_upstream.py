"""What `import-upstream` makes of the authors' checkpoints, predictors and latency tables."""
import re
import shutil
from dataclasses import replace

import pytest
import timm
import torch
from named_models import NAME, NAMES, SUBNETS, upstream_checkpoint

import timm_ofa
from timm_ofa import InputError
from timm_ofa.accuracy import load_predictor
from timm_ofa.hub import checkpoints, hub_configs, upstream
from timm_ofa.hub.card import render_card
from timm_ofa.hub.record import Supernet
from timm_ofa.hub.supernets import check_supernet, stage_supernet, supernet_origin
from timm_ofa.hub.upstream import import_upstream, subnet_record
from timm_ofa.networks import new_supernet
from timm_ofa.training import save_supernet


def test_an_imported_file_is_a_publishable_folder(checkpoint, tmp_path):
    from timm_ofa.hub.folder import check_folder

    folder = import_upstream(NAME, checkpoint, tmp_path / 'out')
    model = timm.create_model(f'local-dir:{folder}', pretrained=True)
    assert torch.equal(model.classifier.weight, torch.load(checkpoint)['state_dict']['classifier.linear.weight'])
    assert model.pretrained_cfg['crop_pct'] == timm.get_pretrained_cfg(NAME).crop_pct
    record = check_folder(folder)
    assert (record.arch, record.device, record.top1_pct) == (SUBNETS[NAME].arch, 'lg-g8', 76.4)


def test_an_imported_address_does_the_same(authors, checkpoint, tmp_path):
    folder, address = authors
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


@pytest.mark.parametrize('name', ['ofa_mbv3_tiny_supernet', 'ofa_mbv3_w10_supernet'])
def test_a_supernet_is_imported_for_load_supernet(tmp_path, name):
    from timm_ofa.networks import load_supernet

    checkpoint = upstream_checkpoint(name, 0)
    torch.save(checkpoint, tmp_path / 'checkpoint.pth')
    folder = import_upstream(name, tmp_path / 'checkpoint.pth', tmp_path / 'out')
    loaded = load_supernet(str(folder)).state_dict()
    assert torch.equal(loaded['classifier.weight'], checkpoint['state_dict']['classifier.linear.weight'])
    assert len(loaded) == len(checkpoint['state_dict'])


def test_the_supernet_of_the_authors_keeps_their_license_and_networks_found_in_it_name_it(tmp_path):
    name = 'ofa_mbv3_w10_supernet'
    torch.save(upstream_checkpoint(name, 0), tmp_path / 'checkpoint.pth')
    folder = import_upstream(name, tmp_path / 'checkpoint.pth', tmp_path / 'out')
    record, _ = check_supernet(folder)
    assert record.license == 'mit' and 'license: mit' in render_card(record)
    hub_id = hub_configs()[name].weights.hub_id
    assert supernet_origin(str(folder)) == supernet_origin(name) == (hub_id, None, 'mit')
    (tmp_path / 'stage').mkdir()
    stage_supernet(folder, tmp_path / 'stage')
    assert supernet_origin(str(tmp_path / 'stage')) == (hub_id, None, 'mit')
    found = replace(subnet_record(NAME, SUBNETS[NAME]), supernet=Supernet(id=hub_id))
    assert f'base_model: {hub_id}\n' in render_card(found)


def test_a_supernet_of_ones_own_is_not_taken_for_that_of_the_authors(tmp_path):
    space = timm_ofa.load_space('ofa_mbv3_tiny')
    training = dict(
        name='ofa_mbv3_w12_supernet', space='ofa_mbv3_tiny', data='digits', phases=[dict(name='a', epochs=1, lr=0.1)])
    save_supernet(new_supernet(space, num_classes=3), tmp_path / 'own', dict(training=training))
    assert supernet_origin(str(tmp_path / 'own')) == ('ofa_mbv3_w12_supernet', None, 'apache-2.0')
    training['initial_checkpoint'] = 'ofa_mbv3_w12_supernet'
    save_supernet(new_supernet(space, num_classes=3), tmp_path / 'own', dict(training=training))
    assert supernet_origin(str(tmp_path / 'own'))[2] == 'mit'


@pytest.mark.parametrize('name', ['ofa_mbv3_tiny_supernet', NAME])
def test_an_import_replaces_no_folder_that_it_did_not_write(tmp_path, checkpoint, name):
    out = tmp_path / 'out'
    out.mkdir()
    for file in ('config.json', 'model.safetensors'):
        (out / file).write_text('{"thesis": 1}')
    source = checkpoint
    if name != NAME:
        source = tmp_path / 'checkpoint.pth'
        torch.save(upstream_checkpoint(name, 0), source)
    with pytest.raises(InputError, match='holds something else'):
        import_upstream(name, source, out)
    assert {path.read_text() for path in out.iterdir()} == {'{"thesis": 1}'}
    import_upstream(name, source, tmp_path / 'new')
    assert import_upstream(name, source, tmp_path / 'new') == tmp_path / 'new'


def test_an_import_replaces_no_file_of_another_kind(shared, tmp_path):
    (tmp_path / 'acc.safetensors').write_text('years of work')
    with pytest.raises(InputError, match='holds something else'):
        import_upstream('ofa_mbv3_w12_predictor', shared / 'upstream/acc_predictor.pth', tmp_path / 'acc')
    (tmp_path / 'note10.json').write_text('[1]')
    with pytest.raises(InputError, match='holds something else'):
        import_upstream('note10', shared, tmp_path / 'note10')
    assert (tmp_path / 'note10.json').read_text() == '[1]'


@pytest.mark.parametrize('name', [NAME, 'ofa_mbv3_w12_supernet'])
def test_without_a_source_the_authors_are_asked(monkeypatch, tmp_path, name):
    asked = []

    def download(url, path):
        asked.append(url)
        torch.save(upstream_checkpoint(name, 0), path)
        return path

    monkeypatch.setattr(checkpoints, 'fetch', download)
    out = import_upstream(name, None, tmp_path / 'out')
    assert asked == [hub_configs()[name].weights.url] and (out / 'model.safetensors').is_file()


def test_a_transfer_from_the_hub_that_breaks_off_is_one_line(monkeypatch, tmp_path):
    def break_off(*_, **__):
        raise RuntimeError('Data processing error: CAS service error')  # as `hf_xet` does

    monkeypatch.setattr(checkpoints, 'refuse_unreachable', lambda: None)
    monkeypatch.setattr(checkpoints, 'hf_hub_download', break_off)
    with pytest.raises(InputError, match=r'the transfer of .*CAS service error.*get the file elsewhere') as error:
        import_upstream('ofa_resnet50d_supernet', None, tmp_path / 'out')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('name, file', [
    ('ofa_mbv3_w12_predictor', 'acc_predictor.pth'), ('ofa_resnet50d_predictor', 'ofa_resnet50_acc_predictor.pth')])
def test_a_released_predictor_is_imported(shared, tmp_path, name, file):

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
    ('ofa_mbv3_note10_lat23ms', 'x', 'for example ofa_mbv3_note10_lat'),
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
