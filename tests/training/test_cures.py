"""What is refused writes nothing, and what a message tells to type works."""
import re
import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from training_runs import CONFIG, as_written, events

from timm_ofa import InputError
from timm_ofa.cli import main
from timm_ofa.training import report, supernet_config, train_supernet
from timm_ofa.training.loop import Loop, _memory_for


def typed(folder, *more):
    """What the command says after `train` with the settings of CONFIG and more words; its exit status."""
    config = folder / 'own.yaml'
    config.write_text(yaml.safe_dump({'kind': 'supernet', **as_written(CONFIG)}))
    return main(['train', '--config', str(config), '--output', str(folder / 'run'), *more])


@pytest.mark.parametrize('wrong, naming', [
    ('batch_size=500', 'batch_size 500 is more than the 51'), ('precision=fp16', 'precision fp16 needs a GPU'),
    ('teacher=no_such', "teacher 'no_such' cannot be loaded"), ('batch_size=33', None),
    ('initial_checkpoint=no_such', "initial_checkpoint 'no_such' cannot")])
def test_a_start_that_is_refused_writes_nothing(wrong, naming, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Loop, '_step', lambda self, *args: pytest.fail('trained')) if naming else None
    assert typed(tmp_path, '--set', wrong) == (2 if naming else 0)
    assert naming is None or naming in capsys.readouterr().err
    assert (tmp_path / 'run').exists() == (naming is None)


def test_after_a_loss_that_is_not_finite_the_command_that_is_named_goes_on(tmp_path, capsys):
    assert typed(tmp_path, '--set', 'phases.2.lr=99', '--set', 'phases.2.epochs=6', '--set', 'clip_grad=null') == 2
    said = capsys.readouterr().err
    cure = re.search(r'--resume --set phases\.2\.lr=\S+(?=\) or)', said)[0].split()
    assert cure[-1] == 'phases.2.lr=24.75'
    lower = [*cure[:-1], 'phases.2.lr=0.01', '--set', 'phases.2.epochs=6', '--set', 'clip_grad=null']
    assert typed(tmp_path, *lower) == 0
    resumed = [e for e in events(tmp_path / 'run', 'times.jsonl') if e['event'] == 'resume']
    assert resumed[0]['changed'] == {'phases.2.lr': 0.01} and resumed[0]['at_step'] >= 6
    assert supernet_config(tmp_path / 'run').phases[2].lr == 0.01
    assert typed(tmp_path, *lower, '--set', 'clip_grad=1') == 2 and 'may change, until' in capsys.readouterr().err


def test_a_rate_changes_only_in_phases_that_are_not_over(run, digits, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / 'run')
    phases = (replace(CONFIG.phases[0], lr=0.01), *CONFIG.phases[1:])
    with pytest.raises(InputError, match=r"phases\.0\.lr is '0.01', .* has '0.05'"):
        train_supernet(replace(CONFIG, phases=phases), digits, folder, resume=True)


@pytest.mark.parametrize('where', ['accuracy', 'loading'])
def test_after_ctrl_c_the_command_that_is_named_goes_on(where, run, tmp_path, capsys, monkeypatch):
    """In the table at the end, and before the first step."""
    def stop(*args, **kwargs):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        if where == 'accuracy':
            patch.setattr(report, 'judge_together', lambda judge, archs: [0.0, 0.0] if len(archs) == 2 else stop())
        else:
            patch.setattr(Loop, 'run_phase', stop)
        assert typed(tmp_path) == 130
    assert 'add --resume' in capsys.readouterr().err
    assert typed(tmp_path, '--resume') == 0
    assert len([e for e in events(tmp_path / 'run') if e['event'] == 'subnet']) == 11


def test_too_little_memory_names_a_setting_with_which_the_run_goes_on(tmp_path, capsys, monkeypatch):
    original = Loop._step

    def scarce(self, *args):
        if self.accumulate == 1 and args[-2].total_steps == 7:
            with _memory_for('subnet x', args[0], args[-2], args[3]):
                raise torch.OutOfMemoryError('CUDA out of memory')
        original(self, *args)
    monkeypatch.setattr(Loop, '_step', scarce)
    assert typed(tmp_path) == 2
    assert '--resume --set accumulate=NUMBER' in capsys.readouterr().err
    assert typed(tmp_path, '--resume', '--set', 'accumulate=2') == 0
