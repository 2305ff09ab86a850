"""The verbs `profile` and `measure`."""
import json
from types import SimpleNamespace

import pytest
from command_line import run

from timm_ofa.cli import measuring


def test_this_machine_is_measured_by_few_whole_networks(capsys, tmp_path):
    status, out, _ = run(capsys, 'profile', '--space', 'ofa_mbv3_tiny', '--few-shot', 12, '--resolutions', 20,
                         '--seconds', 0.1, '--out', tmp_path / 'p.json', '--format', 'json')
    told, profile = json.loads(out)[0], json.loads((tmp_path / 'p.json').read_text())
    assert status == 0 and told['n'] == sum(map(len, profile['networks'].values())) - 12 > 20
    assert profile['protocol']['method'] == 'prices of units of work, fitted on whole networks'


@pytest.mark.parametrize('typed, device', [
    ([], ('note10', 'Samsung Note10')), (['--device', 'note10'], ('note10', 'Samsung Note10')),
    (['--device', 'my-phone'], ('my-phone', 'my-phone'))])
def test_the_device_of_the_search_keeps_its_name_for_people(capsys, monkeypatch, typed, device):
    record = SimpleNamespace(device='note10', device_name='Samsung Note10')
    found = []
    monkeypatch.setattr(measuring, '_open_network', lambda *_: (None, record))
    monkeypatch.setattr(measuring, '_rows', lambda _: ())
    monkeypatch.setattr(measuring, '_told', lambda *args: found.append(args[3]))
    monkeypatch.setattr('timm_ofa.devices.import_network_kit', lambda *_: {})
    assert run(capsys, 'measure', 'net', '--import-kit', 'results.json', *typed)[0] == 0
    assert found == [device]
