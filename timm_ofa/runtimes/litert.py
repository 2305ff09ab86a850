"""LiteRT (formerly TensorFlow Lite) on the CPU, with XNNPACK. The file is written operator by operator (`rowgraph`).

Tensors are (N, H, W, C) inside, as LiteRT wants them; `predict` takes and gives (N, C, H, W).
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..spaces import Row
from .layers import BN_EPS, input_shape, random_input
from .rowgraph import RowGraph, WeightAndBias

NAME = 'litert'
REQUIRES = 'ai-edge-litert>=1.2'
PRECISIONS = ('fp32',)
PROCESSORS = ('cpu',)
LOWEST = np.float32(np.finfo(np.float32).min)


class _Interpreter:
    """A loaded model, with the input on which it is timed."""

    def __init__(self, model: bytes, x: np.ndarray, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter
        self._interpreter = Interpreter(model_content=model, num_threads=threads)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]['index']
        self._output = self._interpreter.get_output_details()[0]['index']
        self._set(x)

    def _set(self, x: np.ndarray) -> None:
        self._interpreter.set_tensor(self._input, np.ascontiguousarray(x.transpose(0, 2, 3, 1)))

    def __call__(self) -> None:
        self._interpreter.invoke()

    def predict(self, x: np.ndarray) -> np.ndarray:
        self._set(x)
        self._interpreter.invoke()
        y = self._interpreter.get_tensor(self._output)
        return y.transpose(0, 3, 1, 2) if y.ndim == 4 else y


def version() -> str:
    import ai_edge_litert
    return ai_edge_litert.__version__


def load(rows: Sequence[Row], *, weights: Mapping | None = None, bn_eps: float = BN_EPS, precision: str = 'fp32',
         processor: str = 'cpu', threads: int = 1, batch_size: int = 1, seed: int = 0) -> _Interpreter:
    model = to_tflite(rows, weights=weights, bn_eps=bn_eps, batch_size=batch_size, seed=seed)
    return _Interpreter(model, random_input(rows, batch_size, seed), threads)


def to_tflite(rows: Sequence[Row], *, weights: Mapping | None = None, bn_eps: float = BN_EPS, batch_size: int = 1,
              seed: int = 0) -> bytes:
    """A TFLite file of rows; arguments as of `Runtime.load`."""
    graph = _Graph(input_shape(rows, batch_size))
    return graph.file(graph.network(graph.input, rows, weights, bn_eps, seed))


class _Graph(RowGraph):
    """Collects operators and tensors of a TFLite file. The name of a tensor is its number."""

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        from ai_edge_litert import schema_py_generated as schema
        self._schema = schema
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._tensors: list = []
        self._buffers: list = [schema.BufferT()]  # the first one is for tensors without data
        self._codes: list[int] = []
        self._operators: list = []
        batch, chs, height, width = shape
        self.input = self._tensor((batch, height, width, chs))

    def conv(self, x: str, weight_and_bias: WeightAndBias, stride: int = 1, groups: int = 1,
             pads: tuple[int, int] = (0, 0)) -> str:
        weight, bias = weight_and_bias
        batch, height, width, _ = self._shapes[x]
        out_chs, kernel = weight.shape[0], weight.shape[-1]
        out = (batch, -(-height // stride), -(-width // stride), out_chs)
        missing = max(0, (out[1] - 1) * stride + kernel - height)
        same = pads == (missing // 2, missing - missing // 2)  # then LiteRT pads so by itself
        if not same and any(pads):
            x = self._pad(x, pads)
        options = self._schema.DepthwiseConv2DOptionsT() if groups > 1 else self._schema.Conv2DOptionsT()
        options.strideH = options.strideW = stride
        options.padding = self._schema.Padding.SAME if same else self._schema.Padding.VALID
        if groups > 1:
            options.depthMultiplier = 1
        data = weight.transpose((1, 2, 3, 0) if groups > 1 else (0, 2, 3, 1))
        bias = np.zeros(out_chs, np.float32) if bias is None else bias
        code = 'DEPTHWISE_CONV_2D' if groups > 1 else 'CONV_2D'
        return self._operator(code, [x, self._constant(data), self._constant(bias)], out, options)

    def act(self, x: str, act: str) -> str:
        if act == 'hs':
            return self._operator('HARD_SWISH', [x], self._shapes[x])
        if act == 'sigmoid':
            return self._operator('LOGISTIC', [x], self._shapes[x])
        if act == 'sw':
            return self.multiply(x, self.act(x, 'sigmoid'))
        if act == 'hard_sigmoid':  # min(max(x + 3, 0), 6) / 6
            lifted = self.act(self.add(x, self._constant(np.float32(3))), 'r6')
            return self.multiply(lifted, self._constant(np.float32(1 / 6)))
        fused = self._schema.ActivationFunctionType
        self._operators[-1].builtinOptions.fusedActivationFunction = {'re': fused.RELU, 'r6': fused.RELU6}[act]
        return x

    def add(self, x: str, y: str) -> str:
        return self._operator('ADD', [x, y], self._shapes[x], self._schema.AddOptionsT())

    def multiply(self, x: str, gate: str) -> str:
        return self._operator('MUL', [x, gate], self._shapes[x], self._schema.MulOptionsT())

    def global_mean(self, x: str) -> str:
        batch, _, _, chs = self._shapes[x]
        options = self._schema.ReducerOptionsT()
        options.keepDims = True
        return self._operator('MEAN', [x, self._constant(np.array([1, 2], np.int32))], (batch, 1, 1, chs), options)

    def max_pool(self, x: str) -> str:
        return self._pool('MAX_POOL_2D', self._pad(x, (1, 1), LOWEST), 3, self._schema.Padding.VALID)

    def average_pool(self, x: str, size: int) -> str:
        return self._pool('AVERAGE_POOL_2D', x, 2, self._schema.Padding.SAME)

    def flatten(self, x: str) -> str:
        batch, _, _, chs = self._shapes[x]
        options = self._schema.ReshapeOptionsT()
        options.newShape = [batch, chs]
        return self._operator('RESHAPE', [x, self._constant(np.array([batch, chs], np.int32))], (batch, chs), options)

    def linear(self, x: str, weight_and_bias: WeightAndBias) -> str:
        weight, bias = weight_and_bias
        assert bias is not None
        inputs, out = [x, self._constant(weight), self._constant(bias)], (self._shapes[x][0], weight.shape[0])
        return self._operator('FULLY_CONNECTED', inputs, out, self._schema.FullyConnectedOptionsT())

    def _pool(self, code: str, x: str, kernel: int, padding: int) -> str:
        batch, height, width, chs = self._shapes[x]
        options = self._schema.Pool2DOptionsT()
        options.strideH = options.strideW = 2
        options.filterHeight = options.filterWidth = kernel
        options.padding = padding
        inside = kernel - 1 if padding == self._schema.Padding.VALID else 0
        out = (batch, -(-(height - inside) // 2), -(-(width - inside) // 2), chs)
        return self._operator(code, [x], out, options)

    def _pad(self, x: str, pads: tuple[int, int], value: np.float32 | None = None) -> str:
        shape = self._shapes[x]
        widths = np.array([[0, 0], pads, pads, [0, 0]], np.int32)
        out = (shape[0], shape[1] + sum(pads), shape[2] + sum(pads), shape[3])
        inputs = [x, self._constant(widths)]
        if value is None:
            return self._operator('PAD', inputs, out, self._schema.PadOptionsT())
        return self._operator('PADV2', [*inputs, self._constant(value)], out, self._schema.PadV2OptionsT())

    def file(self, last: str) -> bytes:
        import flatbuffers

        schema = self._schema
        graph, model = schema.SubGraphT(), schema.ModelT()
        graph.tensors, graph.operators = self._tensors, self._operators
        graph.inputs, graph.outputs = [int(self.input)], [int(last)]
        model.version, model.subgraphs, model.buffers = 3, [graph], self._buffers
        model.operatorCodes = [self._code(code) for code in self._codes]
        builder = flatbuffers.Builder(2**20)
        builder.Finish(model.Pack(builder), b'TFL3')
        return bytes(builder.Output())

    def _code(self, code: int):
        found = self._schema.OperatorCodeT()
        found.builtinCode = code
        found.deprecatedBuiltinCode = min(code, 127)
        found.version = 1
        return found

    def _operator(self, code: str, inputs: list[str], shape: tuple[int, ...], options=None) -> str:
        number = getattr(self._schema.BuiltinOperator, code)
        if number not in self._codes:
            self._codes.append(number)
        operator, out = self._schema.OperatorT(), self._tensor(shape)
        operator.opcodeIndex = self._codes.index(number)
        operator.inputs, operator.outputs = [int(name) for name in inputs], [int(out)]
        if options is not None:
            kind = type(options).__name__.removesuffix('T')
            operator.builtinOptionsType = getattr(self._schema.BuiltinOptions, kind)
            operator.builtinOptions = options
        self._operators.append(operator)
        return out

    def _constant(self, number: np.ndarray | np.float32) -> str:
        value = np.ascontiguousarray(number)
        buffer = self._schema.BufferT()
        buffer.data = value.reshape(-1).view(np.uint8)
        self._buffers.append(buffer)
        return self._tensor(value.shape, len(self._buffers) - 1, value.dtype == np.int32)

    def _tensor(self, shape: tuple[int, ...], buffer: int = 0, whole: bool = False) -> str:
        tensor = self._schema.TensorT()
        tensor.shape, tensor.buffer = list(shape), buffer
        tensor.type = self._schema.TensorType.INT32 if whole else self._schema.TensorType.FLOAT32
        tensor.name = name = str(len(self._tensors))
        self._tensors.append(tensor)
        self._shapes[name] = tuple(shape)
        return name
