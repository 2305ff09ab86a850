"""ONNX Runtime: fast to load, and block latencies add up. The int8 files serve other runtimes as well."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ..errors import InputError
from ..spaces import Row
from .export import to_onnx
from .layers import BN_EPS, random_input

NAME = 'onnxruntime'
REQUIRES = 'onnxruntime>=1.20'
PRECISIONS = ('fp32', 'int8')
PROCESSORS = ('cpu', 'cuda')
PROVIDERS = {'cpu': 'CPUExecutionProvider', 'cuda': 'CUDAExecutionProvider'}
CALIBRATION_BATCHES = 2


class Session:
    """An ONNX file, loaded, with the input on which it is timed."""

    def __init__(self, model: bytes, x: np.ndarray, threads: int = 1, processor: str = 'cpu') -> None:
        import onnxruntime
        if PROVIDERS[processor] not in onnxruntime.get_available_providers():
            raise InputError(f"this onnxruntime has no {processor!r}; run: pip install 'onnxruntime-gpu>=1.20'")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        # Each session has its own threads; behind a run they must sleep, or hundreds of sessions fight for the cores.
        options.add_session_config_entry('session.force_spinning_stop', '1')
        self._session = onnxruntime.InferenceSession(model, options, providers=[PROVIDERS[processor]])
        self._feed = {'x': x}
        self._binding = None
        if processor != 'cpu':  # the copy from and to the host is no part of the network
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
    return Session(to_int8(model, x.shape) if precision == 'int8' else model, x, threads, processor)


@lru_cache(maxsize=1)
def to_int8(model: bytes, shape: tuple[int, ...]) -> bytes:
    """`quantize` on noise of this shape: right in speed, not in accuracy.

    It takes a second for a network, so the last one is kept: a network may be loaded several times in a row.
    """
    rng = np.random.default_rng(0)
    return quantize(model, [rng.standard_normal(shape, np.float32) for _ in range(CALIBRATION_BATCHES)])


def quantize(model: bytes, batches: Iterable[np.ndarray]) -> bytes:
    """An ONNX file quantized after training, calibrated on batches (N, C, H, W): activations uint8, weights int8 by
    channel. Signed activations would be twice as slow on x86."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    class Feeds(CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = iter(batches)

        def get_next(self) -> dict | None:
            batch = next(self._batches, None)
            return None if batch is None else {'x': batch}

    loaded = onnx.load_model_from_string(model)
    add_pre_process_metadata(loaded)  # BatchNorm is folded and shapes are known: nothing to prepare, nor to warn of
    with TemporaryDirectory() as folder:
        path = Path(folder) / 'int8.onnx'
        quantize_static(
            loaded, path, Feeds(), quant_format=QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8)
        return path.read_bytes()
