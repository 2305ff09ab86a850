"""The verb `quickstart`."""
import json

import pytest
from command_line import remarks, run

from timm_ofa.cli import quickstart, stages


def test_the_quickstart_refuses_a_limit_that_nothing_meets_before_it_trains(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr('timm_ofa.cli.quickstart.PROFILE_SECONDS', 1.0)
    monkeypatch.setattr('timm_ofa.devices.measuring.MIN_SWEEPS', 3)
    status, out, err = run(
        capsys, 'quickstart', '--data', 'digits', '--max-latency-ms', '0.000001', '--out', tmp_path / 'out')
    assert status == 2 and out == '' and 'no network of ofa_mbv3_tiny is within' in remarks(err)[-1]
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['profile.json', 'quickstart.json']


@pytest.mark.parametrize('name, value', [('budget', 2.0), ('runtime', 'openvino'), ('data', 'digits'), ('seed', 1)])
def test_the_quickstart_does_not_go_on_with_steps_of_other_settings(name, value, capsys, monkeypatch, tmp_path):
    known = {'data': 'fashion-mnist-12k', 'budget': 1.0, 'seed': 0, 'runtime': 'onnxruntime'}
    (tmp_path / 'quickstart.json').write_text(json.dumps({**known, name: value}))
    monkeypatch.setattr(quickstart, 'load_data', None)  # no image is read
    status, out, err = run(capsys, 'quickstart', '--out', tmp_path)
    assert (status, out) == (2, '') and f'--{name} is {known[name]!r}' in err and f'done with {value!r}' in err
    monkeypatch.setattr(quickstart, 'load_runtime', lambda name: None)
    stages.check_settings(tmp_path / 'quickstart.json', {**known, name: value})
