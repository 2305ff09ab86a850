"""ONNX Runtime on the CPU, float32: fast to load, and block latencies add up."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..export import to_onnx
from ..layers import BN_EPS, random_input
from ..space import Row

NAME = 'onnxruntime'
REQUIRES = 'onnxruntime>=1.20'
PRECISION = 'fp32'


class Session:
    """An ONNX file, loaded, with the input on which it is timed."""

    def __init__(self, model: bytes, x: np.ndarray, threads: int = 1) -> None:
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        # Each session has its own threads; behind a run they must sleep, or hundreds of sessions fight for the cores.
        options.add_session_config_entry('session.force_spinning_stop', '1')
        self._session = onnxruntime.InferenceSession(model, options, providers=['CPUExecutionProvider'])
        self._feed = {'x': x}

    def __call__(self) -> None:
        self._session.run(None, self._feed)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self._session.run(None, {'x': x})[0]


def version() -> str:
    import onnxruntime
    return onnxruntime.__version__


def load(rows: Sequence[Row], *, weights: Mapping | None = None, bn_eps: float = BN_EPS, threads: int = 1,
         batch_size: int = 1, seed: int = 0) -> Session:
    model = to_onnx(rows, weights=weights, bn_eps=bn_eps, seed=seed, batch_size=batch_size)
    return Session(model, random_input(rows, batch_size, seed), threads)

