"""The verbs `profile` and `measure`."""
import json

from command_line import run


def test_this_machine_is_measured_by_few_whole_networks(capsys, tmp_path):
    status, out, _ = run(capsys, 'profile', '--space', 'ofa_mbv3_tiny', '--few-shot', 12, '--resolutions', 20,
                         '--seconds', 0.1, '--out', tmp_path / 'p.json', '--format', 'json')
    told, profile = json.loads(out)[0], json.loads((tmp_path / 'p.json').read_text())
    assert status == 0 and told['n'] == sum(map(len, profile['networks'].values())) - 12 > 20
    assert profile['protocol']['method'] == 'prices of units of work, fitted on whole networks'
