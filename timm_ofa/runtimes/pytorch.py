"""PyTorch eager: always there, but on a CPU twice as slow as a real runtime and noisier."""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from ..export import to_torch
from ..layers import BN_EPS, random_input
from ..space import Row

NAME = 'pytorch'
REQUIRES = 'torch'
PRECISIONS = ('fp32', 'bf16', 'fp16')
PROCESSORS = ('cpu', 'cuda')
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


class _Module:
    """A module with its input."""

    def __init__(self, module: torch.nn.Module, threads: int, x: np.ndarray, dtype: torch.dtype,
                 processor: str) -> None:
        self._to = dict(device=processor, dtype=dtype)
        self._module = module.to(**self._to)
        self._threads = threads
        self._x = torch.from_numpy(x).to(**self._to)

    @torch.inference_mode()
    def __call__(self) -> None:
        with _threads(self._threads):
            self._module(self._x)
            if self._x.is_cuda:
                torch.cuda.synchronize()

    @torch.inference_mode()
    def predict(self, x: np.ndarray) -> np.ndarray:
        with _threads(self._threads):
            return self._module(torch.from_numpy(x).to(**self._to)).float().cpu().numpy()


def version() -> str:
    return str(torch.__version__)


def load(rows: Sequence[Row], *, weights: Mapping | None = None, bn_eps: float = BN_EPS, precision: str = 'fp32',
         processor: str = 'cpu', threads: int = 1, batch_size: int = 1, seed: int = 0) -> _Module:
    return _Module(
        to_torch(rows, weights=weights, bn_eps=bn_eps, seed=seed), threads, random_input(rows, batch_size, seed),
        DTYPES[precision], processor)


@contextmanager
def _threads(threads: int) -> Iterator[None]:
    """torch's number of threads is one for the whole process: lend it, and put it back."""
    before = torch.get_num_threads()
    if before != threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if before != threads:
            torch.set_num_threads(before)
