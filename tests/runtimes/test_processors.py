"""What depends on the processor: precisions that it lacks, and int8 without saturation."""
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import onnx
import pytest
import timm
import torch
import yaml
from onnx import numpy_helper

from timm_ofa.errors import InputError
from timm_ofa.images import eval_batch, load_data
from timm_ofa.runtimes import Session, input_shape, to_onnx
from timm_ofa.runtimes.ncnn import load
from timm_ofa.runtimes.pytorch import _ieee
from timm_ofa.spaces import load_space

ROOT = Path(__file__).resolve().parents[2]
MAX_LOSS_PCT = 1.0  # of 1,000 images; of all 10,000 it is at most 0.25
int8 = import_module('timm_ofa.runtimes.int8')
SPACE = load_space('ofa_mbv3_tiny')


def test_ncnn_refuses_fp16_where_it_would_calculate_in_fp32():
    ncnn = pytest.importorskip('ncnn')
    if ncnn.cpu_support_arm_asimdhp():
        pytest.skip('this processor has fp16 arithmetic')
    with pytest.raises(InputError, match="precision 'fp16' is not one of this processor; choose fp32"):
        load(SPACE.rows(SPACE.min_arch()), precision='fp16')


def session_on(monkeypatch, loaded):
    """An ONNX Runtime whose session on a GPU has the providers `loaded`; returns what sessions were asked for."""
    onnxruntime = pytest.importorskip('onnxruntime')
    asked = []

    def start(model, options, providers):
        asked.extend(providers)
        return SimpleNamespace(get_providers=lambda: loaded, io_binding=MagicMock)

    monkeypatch.setattr(onnxruntime, 'get_available_providers', lambda: ['CUDAExecutionProvider'])
    monkeypatch.setattr(onnxruntime, 'InferenceSession', start)
    monkeypatch.setattr(onnxruntime, 'OrtValue', MagicMock())
    return asked


def test_onnxruntime_on_a_gpu_calculates_fp32_without_tf32(monkeypatch):
    asked = session_on(monkeypatch, ['CUDAExecutionProvider', 'CPUExecutionProvider'])
    Session(b'', np.zeros(1, np.float32), processor='cuda')
    assert asked == [('CUDAExecutionProvider', {'use_tf32': '0'})]


def test_a_session_that_fell_back_to_the_cpu_is_refused(monkeypatch):
    session_on(monkeypatch, ['CPUExecutionProvider'])
    with pytest.raises(InputError, match='onnxruntime cannot load CUDAExecutionProvider; install the CUDA'):
        Session(b'', np.zeros(1, np.float32), processor='cuda')


def test_tf32_is_off_while_torch_calculates_and_then_as_it_was():
    switches = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = True
        with _ieee():
            assert not any(switch.allow_tf32 for switch in switches)
        assert all(switch.allow_tf32 for switch in switches)
    finally:
        for switch, value in zip(switches, before):
            switch.allow_tf32 = value


@pytest.mark.parametrize('machine, flags, expected', [
    ('x86_64', 'avx2 fma', True), ('x86_64', 'avx512f avx512_vnni', False), ('AMD64', None, True),
    ('aarch64', None, False)])
def test_int8_saturates_on_x86_without_vnni(monkeypatch, tmp_path, machine, flags, expected):
    monkeypatch.setattr('platform.machine', lambda: machine)
    monkeypatch.setattr(int8, 'CPU_INFO', tmp_path / 'cpuinfo')
    if flags is not None:
        (tmp_path / 'cpuinfo').write_text(f'flags : {flags}\n')
    assert int8.saturates() is expected


def test_a_reduced_range_leaves_one_bit_of_the_weights_unused():
    rows = SPACE.rows(SPACE.min_arch(20))
    model, batches = to_onnx(rows), [np.ones(input_shape(rows), np.float32)]

    def largest(**options):
        file = onnx.load_from_string(int8.quantize(model, batches, **options))
        return max(int(np.abs(numpy_helper.to_array(t).astype(int)).max()) for t in file.graph.initializer
                   if t.data_type == onnx.TensorProto.INT8)

    assert largest(reduce_range=False) > 64 >= largest(reduce_range=True)
    assert (largest() <= 64) is int8.saturates()


def test_every_channel_of_an_int8_convolution_has_a_scale_of_its_own():
    rows = SPACE.rows(SPACE.min_arch(20))
    file = onnx.load_from_string(int8.quantize(to_onnx(rows), [np.ones(input_shape(rows), np.float32)]))
    tensors = {t.name: numpy_helper.to_array(t) for t in file.graph.initializer}
    weights = [node for node in file.graph.node if node.op_type == 'DequantizeLinear' and node.input[0] in tensors
               and tensors[node.input[0]].ndim == 4]
    assert len(weights) > 10
    assert all(tensors[node.input[1]].shape == tensors[node.input[0]].shape[:1] for node in weights)


def test_one_outlier_among_the_batches_does_not_stretch_the_range_of_int8():
    """The range is the mean of those of the batches."""
    rows = SPACE.rows(SPACE.min_arch(20))
    usual, wild = np.ones(input_shape(rows), np.float32), 100 * np.ones(input_shape(rows), np.float32)

    def input_scale(batches):
        file = onnx.load_from_string(int8.quantize(to_onnx(rows), batches))
        tensors = {t.name: numpy_helper.to_array(t) for t in file.graph.initializer}
        node = next(node for node in file.graph.node if node.op_type == 'QuantizeLinear' and node.input[0] == 'x')
        return float(tensors[node.input[1]])
    assert input_scale([usual] * 9 + [wild]) < 0.3 * input_scale([wild])


@pytest.mark.parametrize('limit', ['0p6', '1p3'])  # tests/bench/bench_int8.py has all five, on all images
def test_int8_of_a_shipped_network_is_as_exact_as_float(shared, cifar10, limit):
    name = f'ofa_mbv3_cifar10_epyc_lat{limit}ms'
    model = timm.create_model(name, pretrained=True).eval()
    space, known, x, labels = cifar10
    config = yaml.safe_load((ROOT / 'hub_configs' / f'{name}.yaml').read_text())
    file = to_onnx(space.rows(space.parse(config['arch']), 10), weights=model.state_dict(), bn_eps=space.bn_eps,
                   batch_size=None)
    hits = [Session(f, x).predict(x).argmax(1) == labels
            for f in (file, int8.quantize(file, np.split(known, 4)))]
    fp32_pct, int8_pct = (100 * hit.mean() for hit in hits)
    assert fp32_pct > 80 and int8_pct > fp32_pct - MAX_LOSS_PCT


@pytest.fixture(scope='module')
def cifar10(shared):
    """The space of the shipped networks, images to calibrate on, and test images with their labels."""
    space = load_space('ofa_mbv3_32px')
    data = load_data(str(shared / 'data' / 'cifar10'), 32, limit=1000, decode='always')
    known, x = (eval_batch(split.fetch(torch.arange(n)), space, 32).numpy()
                for split, n in ((data.train, 200), (data.test, 1000)))
    return space, known, x, data.test.labels[:1000].numpy()
