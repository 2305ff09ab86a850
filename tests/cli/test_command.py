"""The command as a program: exit status, stdout and stderr, remarks, and what stops it."""
import json
import logging
import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from command_line import run

import timm_ofa
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


# ---- where the output goes -------------------------------------------------------------------------------------------


def shell(script, tmp_path):
    """What bash says of a script in which `$ofa` is the command."""
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'ofa': f'{sys.executable} -m timm_ofa'}
    return subprocess.run(['bash', '-c', script], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize('words', ['models', '-h', 'search -h', 'spaces --format json'])
def test_a_reader_that_leaves_ends_the_command_quietly(words, tmp_path):
    done = shell(f'$ofa {words} | true; echo ${{PIPESTATUS[0]}}', tmp_path)
    assert done.stderr == '' and done.stdout.strip() in ('141', '0')  # 0: all fit into the pipe before it was closed
    assert shell(f'$ofa {words} | head -n 1', tmp_path).stderr == ''


def test_a_closed_or_full_output_is_no_traceback(tmp_path):
    assert (done := shell('$ofa spaces >&-', tmp_path)).returncode == 0 and done.stderr == ''
    assert (done := shell('$ofa search 2>&-', tmp_path)).returncode == 2 and done.stdout == ''
    if Path('/dev/full').exists():
        done = shell('$ofa spaces > /dev/full', tmp_path)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and 'the disk takes no more' in done.stderr


def test_the_version_is_told(capsys):
    status, out, _ = run(capsys, '--version')
    assert status == 0 and out == f'timm_ofa {timm_ofa.__version__}\n'


def test_the_environment_names_no_place_and_no_user(capsys, monkeypatch):
    monkeypatch.setenv('HF_TOKEN', 'hf_secret')
    status, out, err = run(capsys, 'env', '--format', 'json')
    told = {row['what']: row['value'] for row in json.loads(out)}
    assert status == 0 and err == '' and told['torch'] == version('torch') and told['runtime onnxruntime'][0].isdigit()
    assert told['cores'].startswith(f'{len(os.sched_getaffinity(0))} usable')
    whole_kib = int(Path('/proc/meminfo').read_text().partition('MemTotal:')[2].split()[0])
    assert told['memory'].endswith(f' GB free of {1024 * whole_kib / 1e9:.1f} GB')
    assert 'hf_secret' not in out and str(Path.home()) not in out and platform.node() not in out
