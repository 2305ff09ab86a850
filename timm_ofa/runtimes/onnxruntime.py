"""ONNX Runtime, the default: it loads fast, and the latencies of its blocks add up."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import InputError
from ..spaces import Row
from .int8 import quantize_on_noise
from .layers import BN_EPS, random_input
from .onnx_export import to_onnx

NAME = 'onnxruntime'
REQUIRES = 'onnxruntime>=1.21'
PRECISIONS = ('fp32', 'int8')
PROCESSORS = ('cpu', 'cuda')
PROVIDERS = {  # with their settings: fp32 is IEEE arithmetic, not TF32
    'cpu': ('CPUExecutionProvider', {}), 'cuda': ('CUDAExecutionProvider', {'use_tf32': '0'})}


class Session:
    """An ONNX file, loaded, with the input on which it is timed."""

    def __init__(self, model: bytes, x: np.ndarray, threads: int = 1, processor: str = 'cpu') -> None:
        import onnxruntime
        provider, settings = PROVIDERS[processor]
        if provider not in onnxruntime.get_available_providers():
            raise InputError(f"this onnxruntime has no {processor!r}; run: pip uninstall -y onnxruntime && "
                             "pip install --force-reinstall --no-deps 'onnxruntime-gpu>=1.21'")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        # Each session has its own threads. They must sleep after a run, or hundreds of sessions fight for the cores.
        options.add_session_config_entry('session.force_spinning_stop', '1')
        self._session = onnxruntime.InferenceSession(model, options, providers=[(provider, settings)])
        if provider not in self._session.get_providers():  # a session goes on without a provider that does not load
            raise InputError(f'onnxruntime cannot load {provider}; install the CUDA and cuDNN that it names above')
        self._feed = {'x': x}
        self._binding = None
        if processor != 'cpu':  # copying from and to the host is not part of the network
            self._binding = self._session.io_binding()
            self._binding.bind_ortvalue_input('x', onnxruntime.OrtValue.ortvalue_from_numpy(x, processor, 0))
            self._binding.bind_output('y', processor)

    def __call__(self) -> None:
        if self._binding:
            self._session.run_with_iobinding(self._binding)
            self._binding.synchronize_outputs()
        else:
            self._session.run(None, self._feed)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self._session.run(None, {'x': x})[0]


def version() -> str:
    import onnxruntime
    return onnxruntime.__version__


def load(rows: Sequence[Row], *, weights: Mapping | None = None, bn_eps: float = BN_EPS, precision: str = 'fp32',
         processor: str = 'cpu', threads: int = 1, batch_size: int = 1, seed: int = 0) -> Session:
    x = random_input(rows, batch_size, seed)
    model = to_onnx(rows, weights=weights, bn_eps=bn_eps, seed=seed, batch_size=batch_size)
    return Session(quantize_on_noise(model, x.shape) if precision == 'int8' else model, x, threads, processor)
