"""Trackers of Accelerate get the numbers and the settings of a run."""
from dataclasses import replace

import pytest
from training_runs import CONFIG, events

from timm_ofa import InputError
from timm_ofa.training import trackers, train_supernet

ONE = replace(CONFIG, phases=CONFIG.phases[:1])


def test_tensorboard_gets_the_numbers_of_the_log_and_the_settings_by_their_keys(digits, tmp_path):
    event_accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    train_supernet(ONE, digits, tmp_path / 'run', log_with=['tensorboard'])
    first, second, phase = events(tmp_path / 'run')[1:]
    assert [first['step'], second['step'], phase['event']] == [3, 6, 'phase']
    found = {}
    for file in (tmp_path / 'run' / 'tensorboard' / CONFIG.name).rglob('events.*'):
        read = event_accumulator.EventAccumulator(str(file))
        read.Reload()
        found |= {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()['scalars']}
    for name in ('loss', 'lr'):
        assert found[name] == [(e['step'], pytest.approx(e[name])) for e in (first, second)]
    assert found['largest_top1_pct'] == [(6, pytest.approx(phase['largest_top1_pct']))]
    settings, = (tmp_path / 'run' / 'tensorboard').rglob('hparams.yml')
    told = settings.read_text()
    assert 'phases.0.lr: 0.05' in told and 'batch_size: 16' in told and "resolutions: '[20, 24]'" in told


@pytest.mark.parametrize('name, naming', [
    ('abacus', "tracker 'abacus' is unknown; choose from aim, .*wandb"),
    ('clearml', "tracker 'clearml' is not installed; run: pip install clearml")])
def test_a_tracker_that_cannot_be_had_is_one_line_before_anything_is_written(
        digits, tmp_path, monkeypatch, name, naming):
    monkeypatch.setattr(trackers, 'get_available_trackers', list)
    with pytest.raises(InputError, match=naming):
        train_supernet(ONE, digits, tmp_path / 'run', log_with=[name])
    assert not list(tmp_path.iterdir())
