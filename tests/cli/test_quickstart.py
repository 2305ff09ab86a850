"""The verb `quickstart`."""
from command_line import remarks, run


def test_the_quickstart_refuses_a_limit_that_nothing_meets_before_it_trains(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr('timm_ofa.cli.quickstart.PROFILE_SECONDS', 1.0)
    status, out, err = run(
        capsys, 'quickstart', '--data', 'digits', '--max-latency-ms', '0.000001', '--out', tmp_path / 'out')
    assert status == 2 and out == '' and 'no network of ofa_mbv3_tiny is within' in remarks(err)[-1]
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['profile.json']
