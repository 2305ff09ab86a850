"""Networks of timm and their ONNX files, and how far two outputs are apart, for the tests of runtimes and files."""
import numpy as np
import onnxruntime
import timm
import torch
from torch import nn

from timm_ofa.networks import ENTRY_POINTS, model_args

SMALL = {'mobilenetv3': 'ofa_mbv3_tiny', 'efficientnet': 'ofa_proxyless_w13', 'byobnet': 'ofa_resnet_tiny'}


def run(model: bytes, x: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(model, providers=['CPUExecutionProvider']).run(None, {'x': x})[0]


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(b).max())


def logits(model: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.from_numpy(x)).numpy()


def stock_timm(space, arch, **kwargs):
    """timm's model of an arch, no BatchNorm at its default, yet near enough for rounding not to grow."""
    torch.manual_seed(0)
    model = timm.create_model(
        ENTRY_POINTS[space.family], num_classes=space.num_classes, **{**model_args(space, arch), **kwargs})
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.8, 1.2)
            for tensor in (module.bias, module.running_mean):
                nn.init.uniform_(tensor, -0.2, 0.2)
    return model.eval()
