"""The verb `specialize` for named networks."""
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from command_line import ARCH, run
from PIL import Image

from timm_ofa import load_space
from timm_ofa.cli.shared import OpenSupernet
from timm_ofa.files import save_tensors
from timm_ofa.hub.folder import check_folder
from timm_ofa.images import stored_side


def test_images_are_large_enough_for_a_network_of_an_extra_resolution():
    space = load_space('ofa_mbv3_w12')
    opened = OpenSupernet('any', SimpleNamespace(space=space), True, None, None, stored_side(space))
    assert opened.side == opened.for_arch(space.min_arch(128)).side == 256
    assert opened.for_arch(space.max_arch(236)).side == 270  # of which evaluation sees the center, 236 px


def test_a_named_network_is_made_from_a_supernet_in_a_folder(capsys, files, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(
        capsys, 'specialize', '--config', files / 'ofa_mbv3_tiny.yaml', '--supernet', files / 'supernet', '--data',
        'digits', '--num-calibration', 60, '--format', 'json')
    assert status == 0, err
    row, = json.loads(out)
    assert row['folder'] == 'out/ofa_mbv3_tiny' and row['arch'] == ARCH and row['predicted_top1_pct'] == 91.5
    assert 'timm-ofa publish out/ofa_mbv3_tiny --repo acme/tiny' in err
    record = check_folder(row['folder'])
    assert (record.device, record.limit_ms, record.predicted_ms, record.license) == ('my-phone', 2, 1.9, 'mit')
    assert (record.search.seed, record.search.predictor, record.calibration.images) == (3, 'that of a test', 60)
    assert record.top1_pct == row['top1_pct'] != 91.5 and record.accuracy.dataset == 'digits'
    card = Path(row['folder'], 'README.md').read_text()
    assert '| predicted top-1, not measured | 91.50 %' in card and '| predictor | that of a test |' in card
    status, out, err = run(capsys, 'publish', row['folder'], '--repo', 'acme/tiny', '--dry-run')
    assert status == 0, err


def test_without_data_a_named_network_is_made_and_not_judged(capsys, files, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TIMM_OFA_CALIBRATION_DATA', 'digits')
    make = ['specialize', '--config', files / 'ofa_mbv3_tiny.yaml', '--supernet', files / 'supernet',
            '--num-calibration', 60]
    status, _, err = run(capsys, *make)
    assert status == 0 and 'up to 60 images of digits; name others with --data, or in TIMM_OFA_CALIBRATION_DATA' in err
    record = check_folder('out/ofa_mbv3_tiny')
    assert (record.top1_pct, record.accuracy, record.predicted_top1_pct) == (None, None, 91.5)
    assert (record.calibration.data, record.calibration.images, record.supernet.id) == ('digits', 60, 'supernet')
    assert '| BatchNorm statistics | 60 images of digits' in Path('out/ofa_mbv3_tiny/README.md').read_text()
    state = timm.create_model('local-dir:out/ofa_mbv3_tiny', pretrained=True).state_dict()
    assert run(capsys, *make, '--data', 'digits', '--out', 'judged')[0] == 0
    judged = timm.create_model('local-dir:judged', pretrained=True).state_dict()
    assert all(torch.equal(v, judged[k]) for k, v in state.items())
    status, _, err = run(capsys, *make, '--finetune-epochs', 1)
    assert status == 2 and '--finetune-epochs is read only with --data; add that' in err


def test_the_command_in_the_error_makes_the_weights_from_the_released_supernet(capsys, monkeypatch, tmp_path):
    """With a made-up supernet in place of the released one, and a few images of a thousand classes."""
    datasets = pytest.importorskip('datasets')
    name, supernet = 'ofa_mbv3_note10_lat15ms', 'ofa_mbv3_w12_supernet'
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_tensors(tmp_path / 'released.safetensors', timm.create_model(supernet).state_dict())
    monkeypatch.setattr('timm_ofa.hub.checkpoints.fetch_weights', lambda config, *_: {
        supernet: tmp_path / 'released.safetensors'}[config.name])
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(num_classes=1000))
    noise = np.random.default_rng(0).integers(0, 256, (24, 60, 80, 3), dtype=np.uint8)
    rows = [{'image': Image.fromarray(pixels), 'label': 7 * (i % 20)} for i, pixels in enumerate(noise)]
    (tmp_path / 'images').mkdir()
    for split, part in {'train': rows[:20], 'validation': rows[20:], 'test': [{**rows[0], 'label': -1}]}.items():
        datasets.Dataset.from_list(part, features=features).to_parquet(str(tmp_path / f'images/{split}.parquet'))
    monkeypatch.chdir(tmp_path)
    status, out, err = run(
        capsys, 'specialize', '--config', f'hub_configs/{name}.yaml', '--data', 'images', '--num-calibration', 8)
    assert status == 0 and name in out, err
    record = check_folder(f'out/{name}')
    assert (record.name, record.supernet.id) == (name, f'timm-ofa/{supernet}')
    assert (record.accuracy.split, record.accuracy.n, record.calibration.images) == ('validation', 4, 8)
    assert record.predicted_top1_pct > 78 and record.search.limit == 'latency <= 15 ms on samsung-note10'
    model = timm.create_model(f'local-dir:out/{name}', pretrained=True)
    assert tuple(model.pretrained_cfg['input_size']) == (3, 160, 160) and model.num_classes == 1000
