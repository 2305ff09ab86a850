"""Files appear whole or not at all, whoever else writes them."""
import hashlib
import os
import stat
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from timm_ofa.errors import InputError
from timm_ofa.files import (
    drop_torn_line,
    fetch,
    locked,
    remove_parts,
    replacing,
    replacing_both,
    replacing_folder,
    save_tensors,
    write_text,
)


def test_a_failed_write_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / 'new' / 'a.txt'
    write_text(path, 'old é')
    with pytest.raises(RuntimeError, match='stop'), replacing(path) as temporary:
        temporary.write_text('half')
        raise RuntimeError('stop')
    assert path.read_text(encoding='utf-8') == 'old é' and list(path.parent.iterdir()) == [path]


def test_two_writers_do_not_share_a_temporary_file(tmp_path):
    path = tmp_path / 'a.txt'
    with replacing(path) as first, replacing(path) as second:
        assert first != second and first.parent == path.parent
        first.write_text('first')
        second.write_text('second')
    assert path.read_text() == 'first' and list(tmp_path.iterdir()) == [path]


def test_readers_never_see_a_part(tmp_path):
    path = tmp_path / 'a.txt'
    texts = [letter * 10**5 for letter in 'ab']
    write_text(path, texts[0])
    writers = [
        threading.Thread(target=lambda t=t: [write_text(path, t) for _ in range(30)]) for t in texts]
    for writer in writers:
        writer.start()
    seen = {path.read_text() for _ in range(60)}
    for writer in writers:
        writer.join()
    assert seen <= set(texts) and list(tmp_path.iterdir()) == [path]


def test_two_files_are_replaced_together_and_never_stand_there_mixed(tmp_path, monkeypatch):
    path, beside = tmp_path / 'a', tmp_path / 'a.json'

    def write(text):
        with replacing_both(path, beside) as new:
            for file in new:
                file.write_text(text)
    write('old')
    with pytest.raises(RuntimeError), replacing_both(path, beside) as new:
        new[0].write_text('new')
        raise RuntimeError
    assert (path.read_text(), beside.read_text()) == ('old', 'old')
    seen, replace = [], os.replace

    def watch(*args):
        replace(*args)
        seen.append({file.read_text() for file in (path, beside) if file.exists()})
    monkeypatch.setattr(os, 'replace', watch)
    write('new')
    assert seen == [{'new'}] * 2 and sorted(tmp_path.iterdir()) == [path, beside]


def test_a_lock_that_another_holds_is_refused_at_once_where_nobody_waits(tmp_path):
    with locked(tmp_path / 'a'):
        with pytest.raises(InputError, match=r"a' is being written by another process; wait for its end"), \
                locked(tmp_path / 'a', wait=False):
            pytest.fail('both hold it')
        with locked(tmp_path / 'b', wait=False):
            pass
    with locked(tmp_path / 'a', wait=False):
        pass


def test_who_waits_for_a_lock_says_so_and_removes_what_killed_processes_left(tmp_path, caplog):
    path, left = tmp_path / 'a[1].safetensors', tmp_path / '.a[1].safetensors.0123456789ab.part'
    for file in (left, tmp_path / '.a1.safetensors.0123456789ab.part'):
        file.write_bytes(b'half')

    def work():
        with locked(path, waiting='another process makes a'):
            remove_parts(path)
    with locked(path):
        waiting = threading.Thread(target=work)
        waiting.start()
        while not caplog.messages:
            time.sleep(0.01)
        assert caplog.messages == ['another process makes a; this one waits for it'] and left.exists()
    waiting.join()
    assert not left.exists() and len([*tmp_path.iterdir()]) == 1


def test_a_full_disk_is_no_fault_of_the_address(address, tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2, hard))
    try:
        with pytest.raises(OSError, match='File too large'):
            fetch(f'{address}/file', tmp_path / 'a')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize('text, left', [
    (b'{}\n{"a', b'{}\n'), (b'{"a', b''), (b'{}\n', b'{}\n'), (b'', b''), (b'\xff\r\n{"\xc3', b'\xff\r\n')])
def test_a_line_that_was_cut_off_goes_and_the_others_stay_as_they_are(tmp_path, text, left):
    (tmp_path / 'log').write_bytes(text)
    drop_torn_line(tmp_path / 'log')
    drop_torn_line(tmp_path / 'none')
    assert (tmp_path / 'log').read_bytes() == left and not (tmp_path / 'none').exists()


@pytest.mark.parametrize('stop', [KeyboardInterrupt, PermissionError])
def test_a_folder_that_cannot_be_replaced_is_there_as_before(tmp_path, monkeypatch, stop):
    folder, rename = tmp_path / 'net', Path.rename

    def interrupted(path, target):
        if path.name == 'new':
            raise stop
        return rename(path, target)
    for text in ('old', 'new'):
        with replacing_folder(folder) as new:
            (new / 'a').write_text(text)
    assert (folder / 'a').read_text() == 'new'
    monkeypatch.setattr(Path, 'rename', interrupted)
    with pytest.raises(stop), replacing_folder(folder) as new:
        (new / 'a').write_text('newest')
    assert list(tmp_path.iterdir()) == [folder] and (folder / 'a').read_text() == 'new'


def test_tensors_are_written_as_they_are_and_for_all_users(tmp_path):
    path = tmp_path / 'w.safetensors'
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {'a': base.t(), 'b': base, 'c': torch.nn.Parameter(base[:, :2]), 'd': torch.tensor(3)}
    save_tensors(path, tensors)
    loaded = load_file(path)
    assert all(torch.equal(loaded[k], v) for k, v in tensors.items()) and loaded.keys() == tensors.keys()
    with safe_open(path, 'pt') as file:
        assert file.metadata() == {'format': 'pt'}
    (tmp_path / 'plain').touch()
    assert stat.S_IMODE(os.stat(path).st_mode) == stat.S_IMODE(os.stat(tmp_path / 'plain').st_mode)
    first = path.read_bytes()
    save_tensors(path, dict(reversed(tensors.items())))
    assert path.read_bytes() == first


class Server(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path in ('/file', '/cut') else 404)
        self.send_header('Content-Length', '3' if self.path == '/file' else '9')
        self.end_headers()
        self.wfile.write(b'abc')

    def log_message(self, *_):
        pass


@pytest.fixture(scope='module')
def address():
    server = ThreadingHTTPServer(('127.0.0.1', 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()


def test_a_file_is_fetched_and_checked(address, tmp_path):
    path = tmp_path / 'new' / 'a'
    assert fetch(f'{address}/file', path, hashlib.sha256(b'abc').hexdigest()) == path
    assert path.read_bytes() == b'abc' and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize('url, message', [
    ('{}/file', r'has the SHA-256 ba7816bf8f01\.\.\., not 000000000000'),
    ('{}/cut', 'broke off 6 bytes before its end'),
    ('{}/missing', r'cannot be fetched \(HTTPError: HTTP Error 404'),
    ('http://127.0.0.1:1/a', 'cannot be fetched .*check the address, or get the file elsewhere and give its path'),
    ('http://a b/', 'cannot be fetched'), ('file:///etc/hosts', 'is not http or https'), ('', 'is not http or https'),
])
def test_what_cannot_be_fetched_leaves_the_old_file_alone(address, tmp_path, url, message):
    path = tmp_path / 'a'
    path.write_text('old')
    with pytest.raises(InputError, match=message) as error:
        fetch(url.format(address), path, '0' * 64)
    assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path] and '\n' not in str(error.value)
