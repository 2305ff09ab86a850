"""Rows of a network as an ONNX file, with the operators that torch's exporter writes.

The graph is written node by node: that takes 3 ms for a block, where tracing takes a second.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from ..spaces import Row
from .layers import BN_EPS, input_shape
from .rowgraph import RowGraph, WeightAndBias

OPSET = 17
IR_VERSION = 8  # version of the file format that came with this opset; old runtimes read it too


def to_onnx(rows: Sequence[Row], *, weights: Mapping[str, torch.Tensor] | None = None, bn_eps: float = BN_EPS,
            seed: int = 0, batch_size: int | None = 1) -> bytes:
    """An ONNX file of the rows: input 'x' (N, C, H, W), output 'y', which is (N, classes) after a head.

    Args:
        weights: State dict of the stock timm model of the whole network; None: random weights from the seed.
        bn_eps: Epsilon of that model's BatchNorms (`space.bn_eps`).
        batch_size: N; None: any, as the symbolic dimension 'N'.
    """
    graph = _OnnxGraph()
    graph.network('x', rows, weights, bn_eps, seed)
    end, batch = rows[-1], 'N' if batch_size is None else batch_size
    size = () if end.kind in ('head', 'mean') else (end.out_size, end.out_size)
    return graph.file((batch, *input_shape(rows)[1:]), (batch, end.out_chs, *size))


class _OnnxGraph(RowGraph):
    """Collects nodes and weights. An attribute that has its default is left out: OpenCV misreads some of these."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: list[TensorProto] = []

    def conv(self, x: str, weight_and_bias: WeightAndBias, stride: int = 1, groups: int = 1,
             pads: tuple[int, int] = (0, 0)) -> str:
        weight, bias = weight_and_bias
        inputs = [self._tensor(weight)] + ([] if bias is None else [self._tensor(bias)])
        kernel = weight.shape[-1]
        grouped = {'group': groups} if groups > 1 else {}
        return self._node(
            'Conv', x, *inputs, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[*[pads[0]] * 2, *[pads[1]] * 2],
            **grouped)

    def act(self, x: str, act: str) -> str:
        if act == 'r6':
            return self._node('Clip', x, self._tensor(np.float32(0)), self._tensor(np.float32(6)))
        if act == 'hard_sigmoid':
            return self._node('HardSigmoid', x, alpha=1 / 6)
        if act == 'sw':
            return self._node('Mul', x, self.act(x, 'sigmoid'))
        return self._node({'re': 'Relu', 'hs': 'HardSwish', 'sigmoid': 'Sigmoid'}[act], x)

    def add(self, x: str, y: str) -> str:
        return self._node('Add', x, y)

    def multiply(self, x: str, gate: str) -> str:
        return self._node('Mul', x, gate)

    def global_mean(self, x: str) -> str:
        return self._node('GlobalAveragePool', x)

    def max_pool(self, x: str) -> str:
        return self._node('MaxPool', x, kernel_shape=[3] * 2, strides=[2] * 2, pads=[1] * 4)

    def average_pool(self, x: str, size: int) -> str:
        return self._node(
            'AveragePool', x, kernel_shape=[2] * 2, strides=[2] * 2, pads=[0, 0, *[size % 2] * 2])

    def flatten(self, x: str) -> str:
        return self._node('Flatten', x)

    def linear(self, x: str, weight_and_bias: WeightAndBias) -> str:
        weight, bias = weight_and_bias
        assert bias is not None
        return self._node('Gemm', x, self._tensor(weight), self._tensor(bias), transB=1)

    def file(self, in_shape: tuple, out_shape: tuple) -> bytes:
        """The file; what the last node gives becomes its output 'y'."""
        self._nodes[-1].output[0] = 'y'
        graph = helper.make_graph(
            self._nodes, 'timm_ofa', [helper.make_tensor_value_info('x', TensorProto.FLOAT, in_shape)],
            [helper.make_tensor_value_info('y', TensorProto.FLOAT, out_shape)], self._tensors)
        model = helper.make_model(
            graph, producer_name='timm_ofa', opset_imports=[helper.make_opsetid('', OPSET)], ir_version=IR_VERSION)
        return model.SerializeToString()

    def _node(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f't{len(self._nodes)}'
        self._nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def _tensor(self, value: np.ndarray | np.float32) -> str:
        name = f'w{len(self._tensors)}'
        self._tensors.append(onnx.numpy_helper.from_array(np.asarray(value), name))
        return name
