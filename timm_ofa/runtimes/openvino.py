"""OpenVINO on the CPU. Its precision is set explicitly, because its default is bfloat16 where the processor has it."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from ..errors import InputError
from ..spaces import Row
from .int8 import quantize_on_noise
from .layers import BN_EPS, random_input
from .onnx_export import to_onnx

NAME = 'openvino'
REQUIRES = 'openvino>=2024.0'
PRECISIONS = ('fp32', 'bf16', 'int8')
PROCESSORS = ('cpu',)
HINTS = {'fp32': 'f32', 'bf16': 'bf16', 'int8': 'f32'}  # int8 layers are int8 in the file; the hint is for the others


class _Compiled:
    """A compiled model, with the input on which it is timed."""

    def __init__(self, model: bytes, x: np.ndarray, precision: str, threads: int) -> None:
        import openvino
        core = _core()
        self._model = core.compile_model(core.read_model(model), 'CPU', {
            'INFERENCE_PRECISION_HINT': HINTS[precision], 'INFERENCE_NUM_THREADS': threads, 'NUM_STREAMS': 1,
            'PERFORMANCE_HINT': 'LATENCY', 'ENABLE_CPU_PINNING': False})
        found = self._model.get_property('INFERENCE_PRECISION_HINT').to_string()
        if found != HINTS[precision]:
            raise InputError(f'precision {precision!r} is not one of this processor ({found} is); choose fp32')
        self._request = self._model.create_infer_request()
        self._request.set_input_tensor(openvino.Tensor(x))

    def __call__(self) -> None:
        self._request.infer()

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self._model(x)[0]


def version() -> str:
    import openvino
    return openvino.__version__.split('-')[0]


def load(rows: Sequence[Row], *, weights: Mapping | None = None, bn_eps: float = BN_EPS, precision: str = 'fp32',
         processor: str = 'cpu', threads: int = 1, batch_size: int = 1, seed: int = 0) -> _Compiled:
    x = random_input(rows, batch_size, seed)
    model = to_onnx(rows, weights=weights, bn_eps=bn_eps, seed=seed, batch_size=batch_size)
    return _Compiled(quantize_on_noise(model, x.shape) if precision == 'int8' else model, x, precision, threads)


@cache
def _core():
    import openvino
    return openvino.Core()
