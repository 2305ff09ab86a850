"""Files that are written as a whole or not at all, even if others write them at the same time; YAML; downloads."""
from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from .errors import InputError, one_line

if TYPE_CHECKING:
    import torch

MAX_ATTEMPTS = 100  # to replace a folder that others replace as well
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what an error of a full disk, or of a limit on it, may be
MOVED_MEANWHILE = (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST)  # what the system says then
TIMEOUT_S = 30.0  # seconds to wait for the next byte from a server
CHUNK = 2**20  # bytes
_logger = logging.getLogger(__name__)


class _YamlLoader(getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):  # type: ignore[misc]  # C where yaml has it
    """Reads 1e-3 as a number, as YAML 1.2 does."""


_YamlLoader.add_implicit_resolver(
    'tag:yaml.org,2002:float', re.compile(r'[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$'), list('-+.0123456789'))


def read_yaml(text: str) -> Any:
    """The values of a YAML text: plain data only. Raises `yaml.YAMLError`, ValueError or RecursionError."""
    return yaml.load(text, _YamlLoader)


def read_yaml_file(path: str | Path, what: str) -> Any:
    """The values of a YAML file. Raises `InputError`, which begins with `what`, if it cannot be read or is no YAML."""
    try:
        return read_yaml(Path(path).read_text(encoding='utf-8'))
    except OSError as error:
        raise InputError(f'{what} cannot be read ({error.strerror}); give a hub_configs/*.yaml') from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f'{what} is not YAML ({one_line(error)}); mend the file') from None


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a new temporary path in the same folder; it replaces `path` if the block ends without an error."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f'{str(path)!r:.160} is a folder; give a file')
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.urandom(6).hex()}.part')
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_parts(path: Path) -> None:
    """Remove what killed processes left of a file that `replacing` writes. Call it inside `locked(path)`."""
    for part in path.parent.glob(f'.{escape(path.name)}.*.part'):
        part.unlink(missing_ok=True)


@contextmanager
def replacing_both(path: str | Path, beside: str | Path) -> Iterator[tuple[Path, Path]]:
    """Like `replacing`, for a file and the one that describes it. Whenever both are there, they belong together."""
    with locked(path), replacing(path) as new, replacing(beside) as new_beside:
        yield new, new_beside
        Path(path).unlink(missing_ok=True)  # comes back after the other one


@contextmanager
def replacing_folder(folder: str | Path) -> Iterator[Path]:
    """Give a new temporary folder beside `folder`; it takes its place if the block ends without an error."""
    folder = Path(folder)
    refuse_in_use(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f'.{folder.name}.') as around:
        new = Path(around) / 'new'
        new.mkdir()
        yield new
        put_in_place(new, folder)


def refuse_in_use(folder: Path) -> None:
    """Raise `InputError` for a folder that cannot be replaced, because this process is in it, or it is a mount."""
    if folder.exists() and (folder.samefile('.') or folder.absolute() in Path.cwd().parents or folder.is_mount()):
        raise InputError(f'folder {str(folder)!r} is in use, so that it cannot be replaced; give one inside it, like '
                         f'{str(folder / "net")!r}')


def put_in_place(new: Path, folder: Path) -> None:
    """Move a new folder to its place. The one that is there goes, also if others put theirs there at the same time."""
    for attempt in range(MAX_ATTEMPTS):
        old = new.with_name(f'old{attempt}')
        try:
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
            return
        except BaseException as error:
            if old.exists() and not folder.exists():
                with suppress(OSError):  # others put theirs there
                    old.rename(folder)
            if not isinstance(error, OSError) or error.errno not in MOVED_MEANWHILE:
                raise
    raise InputError(f'folder {str(folder)!r:.200} is written by others all the time; try again')


@contextmanager
def locked(path: str | Path, *, wait: bool = True, waiting: str = '') -> Iterator[None]:
    """Hold the lock of a file or a folder; other processes of this computer wait for it. Nothing is left beside it.

    Raises `InputError` at once instead of waiting unless `wait`. `waiting`: what is logged where it waits.
    """
    from filelock import FileLock, Timeout

    key = hashlib.sha256(str(Path(path).resolve()).encode()).hexdigest()[:24]
    lock = FileLock(Path(tempfile.gettempdir()) / f'timm_ofa-{key}.lock', mode=0o666)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise InputError(f'{str(path)!r:.160} is being written by another process; wait for its end, or choose '
                             'another place') from None
        if waiting:
            _logger.warning('%s; this one waits for it', waiting)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def check_writable(folder: str | Path) -> None:
    """Say before the work that a folder is read-only."""
    if not os.access(folder, os.W_OK):
        raise InputError(f'the folder {str(folder)!r:.120} cannot be written to; choose another, or change its rights')


def existing(place: str | Path) -> Path:
    """The place, or the innermost folder around it that exists."""
    place = Path(place).absolute()
    while not place.exists():
        place = place.parent
    return place


def check_room(folder: str | Path, megabytes: float) -> None:
    """Refuse to begin what the disk has no room for, or does not take; the size is an estimate."""
    place = existing(folder)
    check_writable(place)
    free = shutil.disk_usage(place).free / 1e6
    if free < megabytes:
        raise InputError(f'the disk of {str(folder)!r:.120} has {free:.0f} MB left, about {megabytes:.0f} MB are '
                         'needed; free space, or choose another disk')


def write_text(path: str | Path, text: str) -> None:
    """Write a text file."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding='utf-8')


def drop_torn_line(path: Path) -> None:
    """Cut off the last line of a text file that an interruption left unfinished; there may be no file."""
    if path.exists():
        data = path.read_bytes()
        whole = data[:data.rfind(b'\n') + 1]
        if whole != data:
            with replacing(path) as temporary:
                temporary.write_bytes(whole)


def save_tensors(path: str | Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a safetensors file from contiguous copies on the CPU. The same tensors give the same bytes."""
    from safetensors.torch import save

    data = save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, {'format': 'pt'})
    with replacing(path) as temporary:
        temporary.write_bytes(data)  # `save_file` makes files that other users cannot read


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def fetch(url: str, path: Path, sha256: str | None = None) -> Path:
    """Download a file over http(s) as a whole or not at all, and check its length and SHA-256; raises `InputError`."""
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import urlopen

    if not url.startswith(('http://', 'https://')):
        raise InputError(f'address {url!r:.160} is not http or https; give such an address, or a file')
    digest = hashlib.sha256()
    with replacing(path) as temporary:
        try:
            with urlopen(url, timeout=TIMEOUT_S) as response, open(temporary, 'wb') as file:
                while chunk := response.read(CHUNK):
                    file.write(chunk)
                    digest.update(chunk)
                missing = response.length  # None: the server did not say how much it sends
        except (OSError, ValueError, HTTPException) as error:
            if getattr(error, 'errno', None) in FULL:
                raise
            if isinstance(error, HTTPError):
                error.close()
            reason = ' '.join(str(error).split())
            raise InputError(f'{url!r:.200} cannot be fetched ({type(error).__name__}: {reason:.120}); '
                             'check the address, or get the file elsewhere and give its path') from None
        if missing:
            raise InputError(f'{url!r:.200} broke off {missing} bytes before its end; try again')
        if sha256 and digest.hexdigest() != sha256:
            raise InputError(f'{url!r:.200} has the SHA-256 {digest.hexdigest()[:12]}..., not {sha256[:12]}...; '
                             'the file is another one, get it elsewhere and give its path')
    return Path(path)
