"""The shelf of runtimes: one file each, imported only when asked for.

A runtime file has the names of `Runtime`; putting such a file here is all it takes (tests run over every file).
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ..errors import InputError, listed
from ..spaces import Row

DEFAULT = 'onnxruntime'
SHARED = ('__init__', 'export', 'layers', 'registry')  # files of this folder that are no runtimes


class Runner(Protocol):
    """Rows of a network, loaded and ready. One that can tell has a `peak_memory_mb()` of a run, too."""

    def __call__(self) -> None:
        """Run once on a fixed random input, to its end: what is timed."""

    def predict(self, x: np.ndarray) -> np.ndarray:
        """(N, C, H, W) float32 -> output, float32: what is compared with torch."""


class Runtime(Protocol):
    """What a file of this folder provides."""
    NAME: str  # as in a device profile; the name of the file
    REQUIRES: str  # what to pip install
    PRECISIONS: tuple[str, ...]  # of the arithmetic: 'fp32', 'fp16', 'bf16', 'int8' (quantized after training)
    PROCESSORS: tuple[str, ...]  # what it runs on: 'cpu', 'cuda'

    def version(self) -> str:
        """Of the installed package, which is imported now."""

    def load(self, rows: Sequence[Row], *, weights: Mapping | None = None, bn_eps: float = 1e-5,
             precision: str = 'fp32', processor: str = 'cpu', threads: int = 1, batch_size: int = 1,
             seed: int = 0) -> Runner:
        """Load rows with these weights (see `export.to_onnx`), for runs of a batch on that many threads.

        Precision and processor are those that `load_runtime` was asked for.
        """


def runtime_names() -> list[str]:
    """The runtimes on the shelf, installed or not."""
    return sorted(path.stem for path in Path(__file__).parent.glob('*.py') if path.stem not in SHARED)


def load_runtime(name: str = DEFAULT, precision: str = 'fp32', processor: str = 'cpu') -> Runtime:
    """A runtime by name; raises `InputError` when it is unknown or cannot do that, or saying what to install."""
    if name not in runtime_names():
        raise InputError(f'runtime {str(name)!r:.60} is not known; choose from {listed(runtime_names())}')
    runtime = import_module(f'.{name}', __package__)
    for what, value, known in (
            ('precision', precision, runtime.PRECISIONS), ('processor', processor, runtime.PROCESSORS)):
        if value not in known:
            raise InputError(f'{what} {str(value)!r:.60} is not one of {name}; choose from {listed(known)}')
    try:
        runtime.version()
    except ImportError:
        raise InputError(f'runtime {name!r} is not installed; run: pip install {runtime.REQUIRES!r}') from None
    if processor == 'cuda' and not torch.cuda.is_available():
        raise InputError("processor 'cuda' is not on this machine; choose 'cpu', or go to a machine with a GPU")
    return runtime
