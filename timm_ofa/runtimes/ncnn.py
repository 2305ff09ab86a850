"""ncnn on the CPU. It takes one image at a time, so a batch runs image by image."""
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ..errors import InputError
from ..spaces import Row
from .layers import BN_EPS, random_input
from .rowgraph import RowGraph, WeightAndBias

NAME = 'ncnn'
REQUIRES = 'ncnn>=1.0.20261020'  # 1.0.20260114 and 1.0.20260526 compute wrong numbers in ProxylessNAS
PRECISIONS = ('fp32', 'fp16', 'bf16')
PROCESSORS = ('cpu',)
MAGIC = 7767517  # of a .param file


class _Net:
    """A loaded network, with the input on which it is timed."""

    def __init__(self, param: str, weights: bytes, x: np.ndarray, precision: str, threads: int) -> None:
        import ncnn
        self._ncnn = ncnn
        self._net = ncnn.Net()
        if precision == 'fp16' and not ncnn.cpu_support_arm_asimdhp():  # there it would calculate in fp32
            raise InputError("precision 'fp16' is not one of this processor; choose fp32")
        options = self._net.opt
        options.num_threads = threads
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = precision == 'fp16'
        options.use_bf16_packed = options.use_bf16_storage = precision == 'bf16'
        with TemporaryDirectory() as folder:
            file = Path(folder) / 'net.bin'
            file.write_bytes(weights)
            self._net.load_param_mem(param)
            self._net.load_model(str(file))
        self._images = self._mats(x)

    def _mats(self, x: np.ndarray) -> list:
        x = np.ascontiguousarray(x)  # a Mat refers to memory that somebody must hold
        return [self._ncnn.Mat(image).clone() for image in x]

    def _run(self, image):
        extractor = self._net.create_extractor()
        extractor.input('x', image)
        return extractor.extract('y')[1]

    def __call__(self) -> None:
        for image in self._images:
            self._run(image)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return np.stack([np.array(self._run(image)) for image in self._mats(x)])


def version() -> str:
    import ncnn
    return ncnn.__version__


def load(rows: Sequence[Row], *, weights: Mapping | None = None, bn_eps: float = BN_EPS, precision: str = 'fp32',
         processor: str = 'cpu', threads: int = 1, batch_size: int = 1, seed: int = 0) -> _Net:
    graph = _Graph()
    last = graph.network('x', rows, weights, bn_eps, seed)
    return _Net(*graph.files(last), random_input(rows, batch_size, seed), precision, threads)


class _Graph(RowGraph):
    """Collects layers (type, inputs, output, parameters) and, in the same order, their weights."""

    def __init__(self) -> None:
        self._layers: list[tuple[str, tuple[str, ...], str, dict[int, float]]] = [('Input', (), 'x', {})]
        self._weights: list[bytes] = []
        self._flat: set[str] = set()  # tensors of one dimension

    def conv(self, x: str, weight_and_bias: WeightAndBias, stride: int = 1, groups: int = 1,
             pads: tuple[int, int] = (0, 0)) -> str:
        if x in self._flat:
            return self.linear(x, weight_and_bias)
        weight, bias = weight_and_bias
        kernel = weight.shape[-1]
        self._add_weights(weight, bias)
        return self._layer(
            'ConvolutionDepthWise' if groups > 1 else 'Convolution', x, params={
                0: weight.shape[0], 1: kernel, 3: stride, 4: pads[0], 5: int(bias is not None), 6: weight.size,
                **({7: groups} if groups > 1 else {}), **({15: pads[1], 16: pads[1]} if pads[0] != pads[1] else {})})

    def act(self, x: str, act: str) -> str:
        kind, params = {
            're': ('ReLU', {}), 'r6': ('Clip', {0: 0.0, 1: 6.0}), 'hs': ('HardSwish', {0: 1 / 6, 1: 0.5}),
            'hard_sigmoid': ('HardSigmoid', {0: 1 / 6, 1: 0.5}), 'sigmoid': ('Sigmoid', {}), 'sw': ('Swish', {})}[act]
        return self._layer(kind, x, params=params, flat=x in self._flat)

    def add(self, x: str, y: str) -> str:
        return self._layer('BinaryOp', x, y, params={0: 0})

    def multiply(self, x: str, gate: str) -> str:
        return self._layer('BinaryOp', x, gate, params={0: 2})

    def global_mean(self, x: str) -> str:
        return self._layer('Pooling', x, params={0: 1, 4: 1}, flat=True)

    def max_pool(self, x: str) -> str:
        return self._layer('Pooling', x, params={0: 0, 1: 3, 2: 2, 3: 1, 5: 1})

    def average_pool(self, x: str, size: int) -> str:
        return self._layer('Pooling', x, params={0: 1, 1: 2, 2: 2, 5: 0, 6: 0})

    def flatten(self, x: str) -> str:
        return x

    def linear(self, x: str, weight_and_bias: WeightAndBias) -> str:
        weight, bias = weight_and_bias
        self._add_weights(weight, bias)
        return self._layer(
            'InnerProduct', x, params={0: weight.shape[0], 1: int(bias is not None), 2: weight.size}, flat=True)

    def files(self, last: str) -> tuple[str, bytes]:
        """The contents of (.param, .bin). A tensor with several readers is split first, as ncnn wants it."""
        readers = Counter(name for _, inputs, _, _ in self._layers for name in inputs)
        read: Counter[str] = Counter()
        lines, blobs = [], 0
        for number, (kind, inputs, output, params) in enumerate(self._layers):
            sources = []
            for name in inputs:
                sources.append(f'{name}_{read[name]}' if readers[name] > 1 else name)
                read[name] += 1
            output = 'y' if output == last else output
            settings = ' '.join(f'{key}={value:.9g}' for key, value in params.items())
            lines.append(f'{kind} l{number} {len(inputs)} 1 {" ".join([*sources, output])} {settings}')
            blobs += 1
            if (count := readers[output]) > 1:
                copies = ' '.join(f'{output}_{i}' for i in range(count))
                lines.append(f'Split s{number} 1 {count} {output} {copies}')
                blobs += count
        return '\n'.join([str(MAGIC), f'{len(lines)} {blobs}', *lines, '']), b''.join(self._weights)

    def _add_weights(self, weight: np.ndarray, bias: np.ndarray | None) -> None:
        self._weights.append(np.int32(0).tobytes() + np.ascontiguousarray(weight).tobytes())  # 0: float32
        if bias is not None:
            self._weights.append(np.ascontiguousarray(bias).tobytes())

    def _layer(self, kind: str, *inputs: str, params: dict[int, float], flat: bool = False) -> str:
        name = f't{len(self._layers)}'
        self._layers.append((kind, inputs, name, params))
        if flat:
            self._flat.add(name)
        return name
