"""The shelf of runtimes: one file each, imported only when asked for.

A runtime file has the names of `Runtime`; putting such a file here is all it takes (tests run over every file).
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np

from ..errors import InputError, listed
from ..space import Row

DEFAULT = 'onnxruntime'


class Runner(Protocol):
    """Rows of a network, loaded and ready."""

    def __call__(self) -> None:
        """Run once on a fixed random input: what is timed."""

    def predict(self, x: np.ndarray) -> np.ndarray:
        """(N, C, H, W) float32 -> output, float32: what is compared with torch."""


class Runtime(Protocol):
    """What a file of this folder provides."""
    NAME: str  # as in a device profile; the name of the file
    REQUIRES: str  # what to pip install
    PRECISION: str  # of the arithmetic, e.g. 'fp32'

    def version(self) -> str:
        """Of the installed package, which is imported now."""

    def load(self, rows: Sequence[Row], *, weights: Mapping | None = None, bn_eps: float = 1e-5, threads: int = 1,
             batch_size: int = 1, seed: int = 0) -> Runner:
        """Load rows with these weights (see `export.to_onnx`), for runs on that many threads."""


def runtime_names() -> list[str]:
    """The runtimes on the shelf, installed or not."""
    return sorted(path.stem for path in Path(__file__).parent.glob('*.py') if path.stem != '__init__')


def load_runtime(name: str = DEFAULT) -> Runtime:
    """A runtime by name; raises `InputError` when it is unknown, or saying what to install."""
    if name not in runtime_names():
        raise InputError(f'runtime {str(name)!r:.60} is not known; choose from {listed(runtime_names())}')
    runtime = import_module(f'.{name}', __name__)
    try:
        runtime.version()
    except ImportError:
        raise InputError(f'runtime {name!r} is not installed; run: pip install {runtime.REQUIRES!r}') from None
    return runtime
