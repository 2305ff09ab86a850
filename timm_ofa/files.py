"""Files that are written whole or not at all, whoever else writes them meanwhile."""
from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path of one's own in the same folder, which takes the place of `path` if the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.urandom(6).hex()}.part')
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding='utf-8')


def save_tensors(path: str | Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a safetensors file: copies on the CPU, contiguous; the only metadata is the one that makes bytes repeat."""
    from safetensors.torch import save

    data = save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, {'format': 'pt'})
    with replacing(path) as temporary:
        temporary.write_bytes(data)  # save_file would keep it from all other users
