"""What is checked before the first image is read and before the first file is written."""
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from command_line import ARCH, remarks, run

from timm_ofa.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
Usage = namedtuple('Usage', 'total used free')
BY_ARCH = ['specialize', '--supernet', 'supernet', '--data', 'digits', '--arch', ARCH, '--out']


@pytest.fixture
def no_image(files, monkeypatch):
    """The folder of good and bad files, where reading images fails the test."""
    def read(*_, **__):
        raise AssertionError('an image is read before all was checked')
    monkeypatch.chdir(files)
    monkeypatch.setattr('timm_ofa.images.load_data', read)
    return files


def refused(capsys, *words):
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, '') and len(remarks(err)) == 1, err
    return err


@pytest.mark.parametrize('where', ['.', '..'])
def test_a_folder_that_cannot_be_replaced_is_refused(where, no_image, capsys, monkeypatch, tmp_path):
    supernet = str(no_image / 'supernet')
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    words = [supernet if word == 'supernet' else word for word in BY_ARCH]
    said = refused(capsys, *words, where)
    assert 'in use' in said if where == '.' else 'something else' in said
    assert list((tmp_path / 'here').iterdir()) == []


def test_a_mount_point_is_refused(no_image, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(Path, 'is_mount', lambda path: path == tmp_path)
    assert 'is in use' in refused(capsys, *BY_ARCH, tmp_path)


@pytest.mark.parametrize('words', [
    [*BY_ARCH, 'OUT'], ['train', '--config', 'config.yaml', '--output', 'OUT'], ['quickstart', '--out', 'OUT']])
def test_a_disk_without_room_is_refused(words, no_image, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: Usage(10**9, 10**9, 1000))
    said = refused(capsys, *(str(tmp_path / 'out') if word == 'OUT' else word for word in words))
    assert 'has 0 MB left' in said and 'free space' in said and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('words', [
    [*BY_ARCH, 'OUT'], ['train', '--config', 'config.yaml', '--output', 'OUT'], ['quickstart', '--out', 'OUT'],
    ['profile', '--space', 'ofa_mbv3_tiny', '--out', 'OUT.json'], ['measure', 'HERE', '--save']])
def test_a_read_only_folder_is_refused(words, no_image, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(os, 'access', lambda path, mode: not str(path).startswith(str(tmp_path)))
    places = {'OUT': str(tmp_path / 'out'), 'OUT.json': str(tmp_path / 'out.json'), 'HERE': str(tmp_path)}
    said = refused(capsys, *(places.get(word, word) for word in words))
    assert str(tmp_path) in said and 'cannot be written to; choose another, or change its rights' in said


def test_a_file_in_the_way_of_the_usual_folder_is_refused(no_image, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path('out').touch()
    said = refused(capsys, 'specialize', '--config', no_image / 'ofa_mbv3_tiny.yaml', '--supernet',
                   no_image / 'supernet', '--data', 'digits')
    assert "out' is a file; give a folder" in said


def test_a_token_that_may_not_write_is_refused(no_image, capsys, monkeypatch, tmp_path):
    def refuse(owner, names=()):
        raise InputError(f'namespace {owner!r} is not open to this token')
    front = tmp_path / 'front.jsonl'
    monkeypatch.setattr('timm_ofa.hub.check_token', refuse)
    monkeypatch.setattr('timm_ofa.hub.load_front', lambda path, space: MagicMock(device='my-phone', under=None))
    said = refused(capsys, 'specialize', '--supernet', 'supernet', '--data', 'digits', '--front', front, '--no-measure',
                   '--limits-ms', 5, '--publish', 'google', '--out', tmp_path / 'family')
    assert "'google' is not open" in said and list(tmp_path.iterdir()) == []
    said = refused(capsys, 'catalog', '--source', 'supernet', '--out', tmp_path / 'page.html', '--space', 'google/page')
    assert "'google' is not open" in said and list(tmp_path.iterdir()) == []


def test_active_collection_with_a_profile_of_another_space_writes_no_record(no_image, capsys, tmp_path):
    words = ['collect', '--supernet', 'supernet', '--data', 'digits', '--num', 30, '--active', '--out', tmp_path / 'r']
    assert 'note10' in refused(capsys, *words, '--profile', 'note10') and list(tmp_path.iterdir()) == []


def test_a_name_that_the_console_cannot_show_is_escaped(tmp_path):
    (tmp_path / '网络').mkdir()
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONIOENCODING': 'cp1252', 'PYTHONUTF8': '0'}
    done = subprocess.run([sys.executable, '-m', 'timm_ofa', 'measure', '网络'], cwd=tmp_path, env=env,
                          capture_output=True, check=False)
    assert done.returncode == 2 and done.stdout == b'' and len(done.stderr.splitlines()) == 1
    assert rb'\u7f51\u7edc' in done.stderr and b'has no config.json' in done.stderr
