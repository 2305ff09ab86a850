"""The memory of a network, against a walk over its ONNX graph that keeps track of every tensor."""
import subprocess
import sys

import numpy as np
import onnx
import pytest

from timm_ofa.devices.memory import MemoryTable, peak_memory_mb, row_activations, row_weights
from timm_ofa.runtimes import to_onnx
from timm_ofa.spaces.shelf import load_space, space_names

IN_PLACE = {'Relu', 'HardSwish', 'Clip', 'HardSigmoid', 'Mul', 'Add', 'Flatten'}


def walk(model):
    """(numbers in weights, most numbers alive at one time) of an ONNX file."""
    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(model))
    graph = model.graph
    sizes = {v.name: int(np.prod([d.dim_value for d in v.type.tensor_type.shape.dim]))
             for v in [*graph.input, *graph.value_info, *graph.output]}
    weights = {t.name: int(np.prod(t.dims)) for t in graph.initializer if t.dims}
    last_use = {name: i for i, node in enumerate(graph.node) for name in node.input}
    alive, most = {'x': sizes['x']}, 0
    for i, node in enumerate(graph.node):
        first, output = node.input[0], node.output[0]
        if node.op_type in IN_PLACE:
            assert last_use[first] == i and alive.pop(first) == sizes[output]
        alive[output] = sizes[output]
        most = max(most, sum(alive.values()))
        alive = {name: size for name, size in alive.items() if last_use.get(name, i + 1) > i}
    return sum(weights.values()), most


@pytest.mark.parametrize('name', space_names())
def test_memory_is_that_of_the_graph(name, rng):
    space = load_space(name)
    for arch, batch_size in [(space.min_arch(), 1), (space.max_arch(), 2), (space.sample(rng), 3)]:
        rows = space.rows(arch, 10)
        weights, activations = walk(to_onnx(rows, batch_size=batch_size))
        assert peak_memory_mb(space, arch, batch_size, 10) == pytest.approx(4e-6 * (weights + activations), rel=1e-12)


@pytest.mark.parametrize('name', ['ofa_mbv3_tiny', 'ofa_proxyless_w13', 'ofa_resnet_tiny'])
def test_memory_of_every_row_is_that_of_its_graph(name):
    space = load_space(name)
    rows = {(r.kind, r.stride, r.skip, bool(r.se_chs), r.size % 2, r.kernel_size): r for size in space.resolutions[:2]
            for r in space.all_rows(size)}
    for row in rows.values():
        assert walk(to_onnx([row])) == (row_weights(row), row_activations(row)), row.key


def test_a_batch_adds_activations_and_no_weights():
    space = load_space('ofa_mbv3_w10')
    one, two, three = (peak_memory_mb(space, space.max_arch(224), n) for n in (1, 2, 3))
    assert one < two and three - two == pytest.approx(two - one)
    assert one > 4e-6 * 0.95 * space.params(space.max_arch(224))


@pytest.mark.parametrize('name', space_names())
def test_thousands_of_networks_at_once_take_what_each_takes(name, rng):
    space = load_space(name)
    archs = [space.min_arch(), space.max_arch(), *space.sample(rng, 20)]
    found_mb = MemoryTable.of(space, batch_size=2, num_classes=7)(space.encode(archs))
    np.testing.assert_allclose(found_mb, [peak_memory_mb(space, arch, 2, 7) for arch in archs], rtol=1e-12)


RUN = """
import re, sys
import numpy as np
import onnxruntime
options = onnxruntime.SessionOptions()
options.enable_cpu_mem_arena, options.intra_op_num_threads = False, 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=['CPUExecutionProvider'])
for n in (1, 24, 48):
    session.run(None, {'x': np.zeros((n, 3, 224, 224), np.float32)})
    print(1.024e-3 * int(re.search('VmHWM: *(.*) kB', open('/proc/self/status').read().replace(chr(9), ' '))[1]))
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='peak memory is read from /proc')
def test_a_real_runtime_needs_about_as_much_more_for_more_images(tmp_path):
    space = load_space('ofa_mbv3_w10')
    arch, file = space.max_arch(224), tmp_path / 'net.onnx'
    file.write_bytes(to_onnx(space.rows(arch), batch_size=None))
    printed = subprocess.run([sys.executable, '-c', RUN, str(file)], capture_output=True, text=True, check=True).stdout
    _, few, many = map(float, printed.split())
    computed_mb = peak_memory_mb(space, arch, 48) - peak_memory_mb(space, arch, 24)
    held_mb = 4 * 24 * 3 * 224**2 / 1e6  # the images themselves, which the caller keeps
    assert 0.8 * computed_mb < many - few - held_mb < 1.6 * computed_mb
