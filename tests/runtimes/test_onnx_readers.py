"""Programs of others that read our ONNX files: the same logits as ONNX Runtime, or a skipped test."""
import json
import shutil
import subprocess

import numpy as np
import pytest
from runtime_makers import SMALL, relative_error, run

from timm_ofa.runtimes import to_onnx
from timm_ofa.runtimes.layers import random_input
from timm_ofa.spaces import load_space

NODE = """
const ort = require('onnxruntime-node');
const [file, size, ...values] = JSON.parse(require('fs').readFileSync(0));
ort.InferenceSession.create(file).then(async session => {
  const x = new ort.Tensor('float32', Float32Array.from(values), [1, 3, size, size]);
  console.log(JSON.stringify(Array.from((await session.run({ x })).y.data)));
});
"""


@pytest.fixture(params=SMALL.values())
def written(request, tmp_path):
    """(path of an ONNX file, an input, its output by ONNX Runtime)."""
    space = load_space(request.param)
    rows = space.rows(space.max_arch(space.resolutions[0]))
    file, x = to_onnx(rows), random_input(rows)
    (tmp_path / 'model.onnx').write_bytes(file)
    return tmp_path / 'model.onnx', x, run(file, x)


def test_opencv_agrees(written):
    cv2 = pytest.importorskip('cv2', reason='needs opencv-python-headless')
    path, x, expected = written
    net = cv2.dnn.readNetFromONNX(str(path))
    net.setInput(x)
    assert relative_error(net.forward(), expected) < 1e-5


def test_onnxslim_keeps_the_numbers(written):
    onnxslim = pytest.importorskip('onnxslim')
    path, x, expected = written
    slim = onnxslim.slim(str(path))
    assert relative_error(run(slim.SerializeToString(), x), expected) < 1e-5


def test_node_agrees(written):
    path, x, expected = written
    node = shutil.which('node')
    if not node or subprocess.run([node, '-e', "require('onnxruntime-node')"], capture_output=True).returncode:
        pytest.skip('needs node, with onnxruntime-node where NODE_PATH says')
    done = subprocess.run([node, '-e', NODE], input=json.dumps([str(path), x.shape[2], *x.ravel().tolist()]),
                          capture_output=True, text=True, check=True)
    assert relative_error(np.float32(json.loads(done.stdout)).reshape(expected.shape), expected) < 1e-5
