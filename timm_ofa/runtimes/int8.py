"""ONNX files quantized to int8 after training. Every runtime that reads ONNX can run them."""
from __future__ import annotations

import platform
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

CALIBRATION_BATCHES = 2
CPU_INFO = Path('/proc/cpuinfo')


@lru_cache(maxsize=1)
def quantize_on_noise(model: bytes, shape: tuple[int, ...], reduce_range: bool | None = None) -> bytes:
    """`quantize` an ONNX file on noise of this shape (N, C, H, W): its speed is right, its accuracy is not.

    The last result is kept, because it takes a second and a network may be loaded several times in a row.
    """
    rng = np.random.default_rng(0)
    return quantize(model, [rng.standard_normal(shape, np.float32) for _ in range(CALIBRATION_BATCHES)], reduce_range)


def quantize(model: bytes, batches: Iterable[np.ndarray], reduce_range: bool | None = None) -> bytes:
    """An ONNX file quantized after training and calibrated on batches (N, C, H, W).

    Activations are uint8, because int8 activations take twice as long on x86. Weights are int8, with a scale for each
    channel.

    Args:
        reduce_range: Weights use 7 of their 8 bits, so that the products of a file that travels saturate nowhere. None:
            where they would saturate on this machine (`saturates`).
    """
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
    # Its warning asks for BatchNorm to be folded and for shapes to be known. Both hold: nothing is left to prepare.
    add_pre_process_metadata(loaded)
    with TemporaryDirectory() as folder:
        path = Path(folder) / 'int8.onnx'
        quantize_static(
            loaded, path, Feeds(), quant_format=QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8, reduce_range=saturates() if reduce_range is None else reduce_range,
            extra_options={'CalibMovingAverage': True})  # mean range of the batches: an outlier does not stretch it
        return path.read_bytes()


def saturates() -> bool:
    """Whether sums of two products of 8 bits saturate at 16 bits on this machine: on x86 without VNNI."""
    if platform.machine().lower() not in ('x86_64', 'amd64'):
        return False
    try:
        return 'vnni' not in CPU_INFO.read_text()
    except OSError:  # not Linux: unknown
        return True
