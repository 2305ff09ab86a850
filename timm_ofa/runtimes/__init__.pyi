from .export import to_onnx as to_onnx
from .layers import BN_EPS as BN_EPS
from .layers import input_shape as input_shape
from .layers import mean_row as mean_row
from .onnxruntime import Session as Session
from .onnxruntime import to_int8 as to_int8
from .registry import DEFAULT as DEFAULT
from .registry import load_runtime as load_runtime
