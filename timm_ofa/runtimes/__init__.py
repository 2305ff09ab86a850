"""What runs a network, or a part of it, so that it can be timed and compared; one file a runtime.

- `registry`: finds a runtime by name; what the file of a runtime must provide is `Runtime` there
- `onnxruntime` (the default), `openvino`, `litert`, `executorch`, `ncnn`, `pytorch`: the runtimes
- `layers`: the weights of rows; `rowgraph`: rows written operator by operator, in any file format
- `onnx_export`, `torch_export`: rows as an ONNX file and as a torch module; `int8`: an ONNX file quantized

A new runtime is a file here and an extra in pyproject.toml; the tests run over every runtime that is installed.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
