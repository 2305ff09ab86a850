"""The shelf of runtimes: finds a runtime by name, and imports its file only then.

A runtime is a file of this folder that has the names of `Runtime`. Nothing else needs to know of it.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from ..errors import InputError, listed

if TYPE_CHECKING:
    import numpy as np

    from ..spaces import Row

DEFAULT = 'onnxruntime'
SHARED = ('__init__', 'int8', 'layers', 'onnx_export', 'registry', 'rowgraph', 'torch_export')  # no runtimes


class Runner(Protocol):
    """Rows of a network, loaded. It may also have `peak_memory_mb()`: the memory that one run needs."""

    def __call__(self) -> None:
        """Run once on a fixed random input, and return when the run has ended. This is what is timed."""

    def predict(self, x: np.ndarray) -> np.ndarray:
        """(N, C, H, W) float32 in any order of memory -> the output, float32. This is what is compared with torch."""


class Runtime(Protocol):
    """What the file of a runtime provides."""
    NAME: str  # of the runtime, in device profiles too; the name of the file
    REQUIRES: str  # what to install with pip, with the oldest version that runs, as in pyproject.toml
    PRECISIONS: tuple[str, ...]  # of the arithmetic: 'fp32' first; 'fp16', 'bf16', 'int8' (quantized after training)
    PROCESSORS: tuple[str, ...]  # what it runs on: 'cpu' first; 'cuda'

    def version(self) -> str:
        """The version of the installed package, which this function imports; `ImportError` where there is none."""

    def load(self, rows: Sequence[Row], *, weights: Mapping | None = None, bn_eps: float = 1e-5,
             precision: str = 'fp32', processor: str = 'cpu', threads: int = 1, batch_size: int = 1,
             seed: int = 0) -> Runner:
        """Load rows for runs of a batch on so many threads; precision and processor are among those listed above.

        Args:
            weights: State dict of the stock timm model of the whole network; None: random weights from the seed.
            bn_eps: Epsilon of that model's BatchNorms (`space.bn_eps`).
        """


def runtime_names() -> list[str]:
    """The runtimes on the shelf, whether or not they are installed."""
    return sorted(path.stem for path in Path(__file__).parent.glob('*.py') if path.stem not in SHARED)


def load_runtime(name: str = DEFAULT, precision: str = 'fp32', processor: str = 'cpu') -> Runtime:
    """A runtime by name. Raises `InputError` if it is unknown, not installed, or cannot do what is asked."""
    from packaging.requirements import Requirement  # it is slow to import

    if name not in runtime_names():
        raise InputError(f'runtime {str(name)!r:.60} is not known; choose from {listed(runtime_names())}')
    runtime = cast(Runtime, import_module(f'.{name}', __package__))
    for what, value, known in (
            ('precision', precision, runtime.PRECISIONS), ('processor', processor, runtime.PROCESSORS)):
        if value not in known:
            raise InputError(f'{what} {str(value)!r:.60} is not one of {name}; choose from {listed(known)}')
    try:
        found = runtime.version()
    except ImportError:
        raise InputError(f'runtime {name!r} is not installed; run: pip install {runtime.REQUIRES!r}') from None
    if not Requirement(runtime.REQUIRES).specifier.contains(found, prereleases=True):
        raise InputError(f'runtime {name!r} {found} is too old; run: pip install {runtime.REQUIRES!r}')
    if processor == 'cuda':
        import torch
        if not torch.cuda.is_available():
            raise InputError("processor 'cuda' is not on this machine; choose 'cpu', or go to a machine with a GPU")
    return runtime
