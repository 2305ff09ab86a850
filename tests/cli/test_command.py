"""The command as a program: exit status, stdout and stderr, remarks, and what stops it."""
import logging
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import run

from timm_ofa.console import PROGRESS_SWITCH

ROOT = Path(__file__).resolve().parents[2]


def test_stdout_and_exit_status_of_the_installed_module():
    """Once as a program: what `python -m timm_ofa` and `train.py` do with a wrong verb and a wrong file."""
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    commands = [['-m', 'timm_ofa', 'serach'], [str(ROOT / 'train.py'), '--config', 'none.yaml']]
    started = [
        subprocess.Popen([sys.executable, *c], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for c in commands]
    for command, process in zip(commands, started):
        out, err = process.communicate()
        assert (process.returncode, out) == (2, '')
        assert len(err.splitlines()) == 1 and command[-1] in err


def test_ctrl_c_says_how_to_go_on(capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr('timm_ofa.cli.command.parse', stop)
    status, out, err = run(capsys, 'spaces')
    assert (status, out) == (130, '') and 'same command' in err


def test_a_full_disk_is_one_line(capsys, files, monkeypatch, tmp_path):
    monkeypatch.chdir(files)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))  # bytes of a file
    try:
        status, out, err = run(capsys, 'train', '--config', 'config.yaml', '--output', tmp_path / 'run')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (status, out) == (2, '') and 'File too large' in err and 'free space' in err, err
    assert list((tmp_path / 'run').iterdir()) == []


def test_records_of_the_library_are_plain_lines_on_stderr(capsys, monkeypatch):
    def tell(*_):
        logging.getLogger('timm_ofa.training.loop').info('1 process on cpu')
        logging.getLogger('timm_ofa').debug('a detail')
        logging.getLogger('elsewhere').info('of others')
    monkeypatch.setattr('timm_ofa.spaces.space_names', tell)
    with pytest.raises(TypeError):  # no names
        run(capsys, 'spaces')
    assert capsys.readouterr() == ('', '1 process on cpu\n')
    assert not logging.getLogger('timm_ofa').handlers


def test_one_option_turns_progress_bars_off(capsys, monkeypatch):
    monkeypatch.setenv(PROGRESS_SWITCH, '1')
    assert run(capsys, 'spaces', '--no-progress')[0] == 0
    assert os.environ[PROGRESS_SWITCH] == '0'
