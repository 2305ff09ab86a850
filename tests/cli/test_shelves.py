"""The verbs that list: `spaces`, `devices` and `models`."""
import json
import re

import pytest
from command_line import run
from named_models import RELEASED

from timm_ofa import load_space
from timm_ofa.hub import hub_configs


@pytest.mark.parametrize('verb, field', [('spaces', 'space'), ('devices', 'profile'), ('models', 'name')])
def test_shelves_are_shown_as_tables_and_as_json(capsys, verb, field):
    status, text, err = run(capsys, verb)
    assert status == 0 and err == '' and text.splitlines()[1].startswith('---')
    status, out, err = run(capsys, verb, '--format', 'json')
    rows = json.loads(out)
    assert status == 0 and err == '' and rows and len(text.splitlines()) == len(rows) + 2
    assert all(row[field] in text for row in rows)


def test_a_space_is_read_off_a_network_into_a_file(capsys, tmp_path):
    file = tmp_path / 'own.json'
    status, text, err = run(capsys, 'spaces', '--from', 'test_efficientnet', '--resolutions', 64, 96, '--out', file)
    assert status == 0 and '64..96' in text and 'own.json' in err
    space = load_space(file)
    assert space.network.name == 'test_efficientnet' and space.resolutions == (64, 96)
    for words, naming in ((('--from', 'mixnet_s', '--out', file), 'MixedConv2d'), (('--out', file), '--from'),
                          (('--from', 'nonet', '--out', file), 'nonet'),
                          (('--from', 'test_resnet', '--out', tmp_path / 'x'), '.json')):
        status, _, err = run(capsys, 'spaces', *words)
        assert status and naming in err and err.count('\n') == 1
    assert load_space(file) == space


def test_models_are_chosen_by_device_and_latency(capsys):
    rows = json.loads(run(capsys, 'models', '--format', 'json')[1])
    device = 'samsung-note10'
    chosen = json.loads(run(capsys, 'models', '--device', device, '--max-latency-ms', 25, '--format', 'json')[1])
    assert chosen and chosen == [r for r in rows if r['device'] == device and r['latency_ms'] <= 25]
    assert [r['latency_ms'] for r in chosen] == sorted(r['latency_ms'] for r in chosen)


def test_models_show_what_we_compute_beside_what_was_published(capsys):
    rows = json.loads(run(capsys, 'models', '--format', 'json')[1])
    subnets = [r for r in rows if r['kind'] == 'subnet' and r['published']]
    same = [r for r in subnets if r['published']['same_network']]
    others = [r for r in subnets if not r['published']['same_network'] and not r['device']]
    assert {r['name'] for r in same} >= RELEASED.keys()
    assert (len(same), len(others)) == (50, 8) and len([r for r in rows if r['kind'] == 'supernet']) == 5
    assert {r['name'] for r in rows} == {name for name, config in hub_configs().items() if config.weights}
    for row in same:
        assert row['macs_m'] == pytest.approx(row['published']['macs_m'], abs=0.6)
        assert row['params_m'] == pytest.approx(row['published']['params_m'], abs=0.056)
        assert row['top1_pct'] == row['published']['top1_pct'] and row['predicted_top1_pct'] is None
    assert all(r['macs_m'] <= r['published']['macs_m'] and r['top1_pct'] is None for r in others)
    text = run(capsys, 'models')[1]
    found = [line for line in text.splitlines() if 'predicted' in line]
    assert len(found) == 16 and all(re.search(r'\d\d\.\d predicted', line) for line in found)
    assert re.search(r'ofa_proxyless_v100_lat5ms .* 5 ms for 64 images on nvidia-v100 +71\.6 ', text)
