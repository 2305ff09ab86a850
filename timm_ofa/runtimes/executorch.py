"""ExecuTorch on the CPU, with XNNPACK.

It takes seconds to lower a program, so measure a few whole networks and fit prices to them (`profile_by_networks`).
int8 comes from XNNPACK's own quantizer after training: symmetric, with a scale for each channel of the weights.
"""
from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from types import ModuleType

import numpy as np
import torch

from ..spaces import Row
from .layers import BN_EPS, random_input
from .torch_export import to_torch

NAME = 'executorch'
REQUIRES = 'executorch>=1.0'
PRECISIONS = ('fp32', 'int8')
PROCESSORS = ('cpu',)


@cache
def _library() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # one says that it is experimental
        from executorch.extension.pybindings import portable_lib
    return portable_lib


class _Pool:
    """The threads that all programs of the process share. A program keeps the pool that it was loaded with."""
    number = 0  # how many pools there were so far

    @classmethod
    def set(cls, threads: int) -> int:
        """Make a pool of so many threads, unless it is there; returns its number."""
        if _library()._threadpool_get_thread_count() != threads:
            _library()._unsafe_reset_threadpool(threads)
            cls.number += 1
        return cls.number


class _Program:
    """A program with the input on which it is timed."""

    def __init__(self, program: bytes, x: np.ndarray, threads: int) -> None:
        self._program, self._threads, self._pool = program, threads, -1
        self._x = torch.from_numpy(x)

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        pool = _Pool.set(self._threads)
        if self._pool != pool:
            self._module, self._pool = _library()._load_for_executorch_from_buffer(self._program), pool
        return self._module.run_method('forward', (x,))[0]

    def __call__(self) -> None:
        self._run(self._x)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self._run(torch.from_numpy(np.ascontiguousarray(x))).numpy().copy()


def version() -> str:
    from importlib.metadata import version as installed

    import executorch
    return installed(executorch.__name__)


def load(rows: Sequence[Row], *, weights: Mapping | None = None, bn_eps: float = BN_EPS, precision: str = 'fp32',
         processor: str = 'cpu', threads: int = 1, batch_size: int = 1, seed: int = 0) -> _Program:
    x = random_input(rows, batch_size, seed)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # dozens, all about its own code
        program = _lower(to_torch(rows, weights=weights, bn_eps=bn_eps, seed=seed), torch.from_numpy(x), precision)
    return _Program(program, x, threads)


def _lower(module: torch.nn.Module, x: torch.Tensor, precision: str) -> bytes:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    exported = torch.export.export(module, (x,))
    if precision == 'int8':
        exported = torch.export.export(_quantized(exported.module(), x), (x,))
    return to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch().buffer


def _quantized(module: torch.nn.Module, x: torch.Tensor) -> torch.nn.Module:
    """Calibrated on noise: its speed is right, its accuracy is not."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(module, quantizer)
    prepared(x)
    return convert_pt2e(prepared)
