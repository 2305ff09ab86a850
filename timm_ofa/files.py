"""Files that are written as a whole or not at all, even if others write them at the same time; YAML; downloads."""
from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from .errors import InputError

if TYPE_CHECKING:
    import torch

TIMEOUT_S = 30.0  # seconds to wait for the next byte from a server
CHUNK = 2**20  # bytes


class _YamlLoader(getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):  # type: ignore[misc]  # C where yaml has it
    """Reads 1e-3 as a number, as YAML 1.2 does."""


_YamlLoader.add_implicit_resolver(
    'tag:yaml.org,2002:float', re.compile(r'[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$'), list('-+.0123456789'))


def read_yaml(text: str) -> Any:
    """The values of a YAML text: plain data only. Raises `yaml.YAMLError`, ValueError or RecursionError."""
    return yaml.load(text, _YamlLoader)


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


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Hold the lock of a file or a folder; other processes of this computer wait for it. Nothing is left beside it."""
    from filelock import FileLock

    key = hashlib.sha256(str(Path(path).resolve()).encode()).hexdigest()[:24]
    with FileLock(Path(tempfile.gettempdir()) / f'timm_ofa-{key}.lock', mode=0o666):
        yield


def check_room(folder: str | Path, megabytes: float) -> None:
    """Refuse to begin what the disk of a folder has no room for; the size is an estimate."""
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 1e6
    if free < megabytes:
        raise InputError(f'the disk of {str(folder)!r:.120} has {free:.0f} MB left, about {megabytes:.0f} MB are '
                         'needed; free space, or choose another disk')


def write_text(path: str | Path, text: str) -> None:
    """Write a text file."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding='utf-8')


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
