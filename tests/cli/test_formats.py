"""Every mode of every verb, run once, shown as a table and as JSON."""
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from command_line import ARCH, CONFIG, NAMED

from timm_ofa import load_profile, load_space
from timm_ofa.accuracy.released import RELEASED
from timm_ofa.cli import pipeline, quickstart, stages
from timm_ofa.cli.command import VERBS
from timm_ofa.cli.verbs import Answer, parse
from timm_ofa.devices import measuring
from timm_ofa.networks.supernet import new_supernet
from timm_ofa.searching import Candidate
from timm_ofa.training.runs import save_supernet

SEEN = set()
SPACE = load_space('ofa_mbv3_tiny').restrict(resolutions=[20])
ON_DIGITS = '--supernet supernet --data digits --num-calibration 20'
TRAIN = {**CONFIG, 'limit': 60, 'phases': CONFIG['phases'][:1]}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('formats')
    (folder / 'digits_supernet.yaml').write_text(yaml.safe_dump(TRAIN))
    (folder / 'ofa_mbv3_tiny.yaml').write_text(yaml.safe_dump(NAMED))
    (folder / 'space.json').write_text(json.dumps(SPACE.to_dict()))
    (folder / 'supernet').mkdir()
    (folder / 'nets').mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_supernet(new_supernet(SPACE, num_classes=10), folder / 'supernet', {})
        shapes = RELEASED['ofa_mbv3_w12']
        torch.save({name: torch.randn(shape) if name == weight else torch.randn(shape[0])
                    for (weight, bias), shape in zip(shapes.layers, shapes.shapes) for name in (weight, bias)},
                   folder / 'predictor.pth')
    rng = np.random.default_rng(0)
    (folder / 'blocks.csv').write_text('row,ms\n' + ''.join(
        f'{key},{rng.uniform(0.01, 0.1):.4f}\n' for key in dict.fromkeys(row.key for row in SPACE.all_rows(20, 100))))
    (folder / 'nets.csv').write_text('arch,latency_ms\n' + ''.join(
        f'"{arch}",{1e-6 * SPACE.macs(arch) + 0.1:.5f}\n' for arch in SPACE.sample(rng, 16)))
    return folder


def shown(words, data=None):
    """What a mode gives, after both formats were looked at."""
    call = parse(VERBS, [str(word) for word in (words.split() if isinstance(words, str) else words)])
    answer = call.run()
    text, parsed = answer.shown('table'), json.loads(answer.shown('json'))
    assert text.strip() and 'None' not in text
    rows = parsed if isinstance(parsed, list) else [parsed]
    assert rows and all(isinstance(row, dict) and row for row in rows)
    SEEN.add((call.verb.name, call.mode.selectors))
    return rows


def test_shelves_and_what_is_imported(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for words in ('env', 'spaces', 'devices', 'models', 'models --device samsung-note10 --max-latency-ms 25'):
        shown(words)
    shown('models --source . --supernets')
    shown('spaces --from lcnet_035 --out lcnet.json')
    row, = shown('import-upstream --name ofa_mbv3_w12_predictor --from predictor.pth --out released')
    assert row == {'name': 'ofa_mbv3_w12_predictor', 'path': 'released.safetensors'}


def test_profiles(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(measuring, 'MIN_SWEEPS', 5)
    row, = shown('profile --space space.json --num-classes 10 --seconds 0.5 --out profile.json')
    assert row['mape_pct'] >= 0
    shown('profile --space space.json --export-kit kit')
    subprocess.run([sys.executable, 'kit/run_kit.py', '--seconds', '0.2'], check=True, capture_output=True)
    shown('profile --import-kit kit/results.json --space space.json --device my-phone --out phone.json')
    about = '--space space.json --device my-phone --runtime tflite --num-classes 100 --threads 4 --batch-size 2'
    row, = shown(f'profile --fit nets.csv {about} --precision fp16 --out fitted.json')
    assert [row[k] for k in ('runtime', 'precision', 'threads', 'batch_size')] == ['tflite', 'fp16', 4, 2]
    assert json.loads((folder / 'fitted.json').read_text())['num_classes'] == 100
    row, = shown(f'profile --import-csv blocks.csv {about} --out table.json')
    assert [row[k] for k in ('runtime', 'precision', 'threads', 'batch_size')] == ['tflite', 'unknown', 4, 2]


def test_learning_searching_and_finishing(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert len(shown('train --config digits_supernet.yaml --output run')) == 11
    shown(f'collect {ON_DIGITS} --num 12 --num-images 20 --out records.jsonl')
    shown(f'collect {ON_DIGITS} --num 3 --num-images 20 --active --out active.jsonl')
    shown('fit --space space.json --records records.jsonl --out additive --additive')
    shown('fit --space space.json --records records.jsonl --out predictor.safetensors --plot fit.svg')
    shown('search --space space.json --predictor predictor.safetensors --max-macs-m 99')
    shown('search --space space.json --predictor predictor.safetensors --profile profile.json --max-latency-ms 50 '
          '--out front.jsonl')
    shown(f'specialize {ON_DIGITS} --arch {ARCH} --out net_of_text')
    shown(f'specialize {ON_DIGITS} --front front.jsonl --no-measure --out nets/net')
    shown(f'specialize {ON_DIGITS} --front front.jsonl --no-measure --limits-ms 40 50 --out family')
    shown(f'specialize {ON_DIGITS} --config ofa_mbv3_tiny.yaml --out named')
    monkeypatch.setenv('TIMM_OFA_CALIBRATION_DATA', 'digits')
    shown('specialize --supernet supernet --num-calibration 20 --config ofa_mbv3_tiny.yaml --out unjudged')


def test_measuring_and_publishing(folder, monkeypatch):
    monkeypatch.chdir(folder)
    row, = shown('measure nets/net --seconds 0.2 --save')
    assert row['latency_ms'] > 0
    shown('measure nets/net --export-kit net_kit')
    subprocess.run([sys.executable, 'net_kit/run_kit.py', '--seconds', '0.2'], check=True, capture_output=True)
    row, = shown('measure nets/net --import-kit net_kit/results.json --device my-phone --save')
    assert row['latency_ms'] > 0 and 'p90_ms' not in row
    shown('models --source nets')
    for words in ('nets/net --repo acme/net', 'nets/net --onnx', 'supernet', 'run', 'family'):
        shown(f'publish {words} --dry-run')
    assert not (folder / 'nets/net/model.onnx').exists()
    row, = shown('catalog --source nets --out page.html')
    assert row == {'page': 'page.html'}
    monkeypatch.setattr('timm_ofa.hub.check_token', lambda owner: None)
    monkeypatch.setattr('timm_ofa.hub.publish_page', lambda page, space, **_: f'https://example.com/{space}')
    row, = shown('catalog --source nets --out page.html --space acme/page')
    assert row == {'page': 'page.html', 'url': 'https://example.com/acme/page'}


def test_what_others_published_and_releasing(monkeypatch):
    monkeypatch.setattr('timm_ofa.hub.find_profiles', lambda *_: [('hf-hub:acme/note10', load_profile('note10'))])
    row, = shown('devices --source acme')
    assert row['profile'] == 'hf-hub:acme/note10'
    outcome = SimpleNamespace(row=dict(name='net', way='ships', state='failed', top1_pct=None, version=None, why='no'))
    monkeypatch.setattr('timm_ofa.hub.Release', lambda *_: SimpleNamespace(run=lambda *_: [outcome]))
    assert shown('release --org acme') == [outcome.row]


def test_the_quickstart(monkeypatch):
    source = SimpleNamespace(supernet=SimpleNamespace(space=SPACE), data=SimpleNamespace(num_classes=10))
    rows = [stages.row(label, Candidate(SPACE.max_arch(), 90.0, 0.2), 88.0, {'latency_ms': 0.21}, source)
            for label in ('chosen', 'largest subnet', 'smallest subnet')]
    monkeypatch.setattr(quickstart, 'quickstart', lambda *_, **__: rows)
    assert len(shown('quickstart')) == 3


def test_the_whole_job(monkeypatch):
    monkeypatch.setattr(pipeline.Job, 'run', lambda job: Answer([{'network': job.origin}], job.data_source))
    for words in ('', ' --profile note10'):
        assert shown('run --data digits --from lcnet_050' + words) == [{'network': 'lcnet_050'}]


def test_no_mode_is_left_out():
    print(f'{len(SEEN)} modes of {len({verb for verb, _ in SEEN})} verbs in two formats')
    assert {(verb.name, mode.selectors) for verb in VERBS.values() for mode in verb.modes} == SEEN
