"""What every runtime of the shelf must do. A new runtime is tested because its file is there."""
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from timm_ofa.errors import InputError
from timm_ofa.networks import new_supernet, space_of
from timm_ofa.runtimes import load_runtime, runtime_names
from timm_ofa.runtimes.layers import random_input
from timm_ofa.runtimes.torch_export import to_torch
from timm_ofa.spaces import load_space

SPACE = load_space('ofa_mbv3_tiny')
FAMILIES = ['ofa_mbv3_tiny', 'ofa_proxyless_w13', 'ofa_resnet_tiny']
MAX_ERROR = {'fp32': 1e-5, 'fp16': 0.01, 'bf16': 0.06, 'int8': 0.2}  # relative to the largest output, by precision
VARIANTS = [(name, precision) for name in runtime_names() for precision in MAX_ERROR]


def on_this_machine(name, precision='fp32', processor='cpu'):
    """A runtime, or a skipped test with the reason."""
    try:
        return load_runtime(name, precision, processor)
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture(params=runtime_names())
def runtime(request):
    return on_this_machine(request.param)


def max_relative_error(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape and a.dtype == np.float32
    return float(np.abs(a - b).max() / np.abs(b).max())


def by_torch(rows, x, seed=0):
    return to_torch(rows, seed=seed)(torch.from_numpy(x)).numpy()


@pytest.mark.parametrize('batch_size', [1, 3])
@pytest.mark.parametrize('name', FAMILIES)
def test_a_whole_network_agrees_with_torch(runtime, name, batch_size, rng):
    space = load_space(name)
    rows = space.rows(space.sample(rng))
    x = random_input(rows, batch_size, seed=5)
    y = runtime.load(rows, batch_size=batch_size, seed=2).predict(x)
    assert max_relative_error(y, by_torch(rows, x, seed=2)) < MAX_ERROR['fp32']


@pytest.mark.parametrize('side', [47, 64])
def test_the_first_blocks_of_a_network_of_timm_agree_with_torch(runtime, side):
    """TensorFlow's padding, swish, and squeeze-and-excite with a sigmoid."""
    space = space_of('tf_efficientnet_b0', resolutions=[side])
    rows = space.rows(space.max_arch())[:6]
    x = random_input(rows)
    assert max_relative_error(runtime.load(rows).predict(x), by_torch(rows, x)) < MAX_ERROR['fp32']


@pytest.mark.parametrize('side', [47, 64])
def test_a_pool_behind_the_stem_agrees_with_torch(runtime, side):
    space = replace(load_space('ofa_resnet_tiny'), stem_pool=True, resolutions=(side,))
    rows = space.rows(space.min_arch())
    x = random_input(rows)
    assert max_relative_error(runtime.load(rows).predict(x), by_torch(rows, x)) < MAX_ERROR['fp32']


def test_an_image_may_lie_in_memory_in_any_order(runtime):
    rows = SPACE.rows(SPACE.min_arch(20))
    x, runner = random_input(rows, batch_size=2), runtime.load(rows, batch_size=2)
    channels_last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert max_relative_error(runner.predict(channels_last), runner.predict(x)) < MAX_ERROR['fp32']


@pytest.mark.parametrize('part', [slice(0, 1), slice(1, 3), slice(-3, -1), slice(-1, None)])
@pytest.mark.parametrize('name', FAMILIES)
def test_a_part_of_a_network_agrees_with_torch(runtime, name, part):
    space = load_space(name)
    rows = space.rows(space.max_arch(space.resolutions[0]))[part]
    x = random_input(rows)
    y = runtime.load(rows).predict(x)
    assert max_relative_error(y, by_torch(rows, x)) < MAX_ERROR['fp32']


@pytest.mark.parametrize('name', FAMILIES)
def test_every_kind_of_row_agrees_with_torch(runtime, name):
    space = load_space(name)
    rows = {}
    for resolution in space.resolutions[:2]:  # sides that are odd on the way down among them
        for row in space.all_rows(resolution):
            rows.setdefault((row.kind, row.stride, row.skip, bool(row.se_chs), row.act, row.size % 2), row)
    for row in rows.values():
        x = random_input([row], seed=1)
        assert max_relative_error(runtime.load([row]).predict(x), by_torch([row], x)) < MAX_ERROR['fp32'], row.key


@pytest.mark.parametrize('name, precision', VARIANTS)
def test_a_network_in_another_precision_agrees_with_torch_less_closely(name, precision, rng):
    runtime = on_this_machine(name, precision)
    rows = SPACE.rows(SPACE.sample(rng))
    x = random_input(rows, seed=5)
    try:
        y, wanted = runtime.load(rows, precision=precision).predict(x), by_torch(rows, x)
    except InputError as error:  # of the processor
        pytest.skip(str(error))
    error = max_relative_error(y, wanted)
    assert error < MAX_ERROR[precision] and np.corrcoef(y.ravel(), wanted.ravel())[0, 1] > 0.98
    assert precision == 'fp32' or error > MAX_ERROR['fp32']  # it is that precision


def test_given_weights_are_the_ones_that_run(runtime):
    arch = SPACE.min_arch(20)
    rows = SPACE.rows(arch)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = new_supernet(SPACE, num_classes=SPACE.num_classes).extract(arch).eval()
        for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            norm.running_mean.normal_(std=0.1)
            norm.running_var.uniform_(0.5, 1.5)
    x = random_input(rows)
    y = runtime.load(rows, weights=model.state_dict(), seed=1).predict(x)
    with torch.inference_mode():
        wanted = model(torch.from_numpy(x)).numpy()
    assert max_relative_error(y, wanted) < MAX_ERROR['fp32']


def test_a_runner_runs_and_leaves_the_threads_of_torch_alone(runtime):
    before = torch.get_num_threads()
    runner = runtime.load(SPACE.rows(SPACE.min_arch(20)), threads=2 if before == 1 else 1)
    assert runner() is None
    assert torch.get_num_threads() == before


@pytest.mark.skipif(sys.platform != 'linux', reason='the times of threads are read from /proc')
@pytest.mark.parametrize('threads', [1, 2])
def test_as_many_threads_work_as_were_asked_for(runtime, threads):
    if threads > len(os.sched_getaffinity(0)):
        pytest.skip(f'{threads} threads need as many cores')

    def nanoseconds():
        return {path: int((path / 'schedstat').read_text().split()[0]) for path in Path('/proc/self/task').iterdir()}

    space = load_space('ofa_mbv3_w10')
    run = runtime.load(space.rows(space.min_arch(160)), threads=threads, batch_size=8)
    run()
    before = nanoseconds()
    for _ in range(8):
        run()
    spent = sorted((after - before.get(path, 0) for path, after in nanoseconds().items()), reverse=True)
    shares = np.array(spent) / sum(spent)
    # A worker has about 1 / threads of the time, less on a busy machine; threads left by other tests had 1 percent.
    assert (shares > 0.05).sum() <= threads <= (shares > 1e-3).sum(), shares.round(4)


def test_a_runtime_says_what_it_can_do(runtime):
    assert runtime.version()[0].isdigit()
    assert set(runtime.PRECISIONS) <= set(MAX_ERROR) and runtime.PRECISIONS[0] == 'fp32'
    assert runtime.PROCESSORS[0] == 'cpu'


def test_two_threads_agree_with_one(runtime):
    rows = SPACE.rows(SPACE.max_arch(20))
    x = random_input(rows)
    one, two, again = (runtime.load(rows, threads=threads).predict(x) for threads in (1, 2, 2))
    assert max_relative_error(two, one) < MAX_ERROR['fp32']
    np.testing.assert_allclose(again, two, rtol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU here')
@pytest.mark.parametrize('name, precision', VARIANTS)
def test_a_gpu_agrees_with_torch_on_the_cpu(name, precision):
    runtime = on_this_machine(name, precision, 'cuda')
    rows = SPACE.rows(SPACE.max_arch())
    x = random_input(rows, batch_size=2)
    runner = runtime.load(rows, precision=precision, processor='cuda', batch_size=2)
    assert runner() is None
    assert max_relative_error(runner.predict(x), by_torch(rows, x)) < MAX_ERROR[precision]


@pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU here')
def test_a_captured_network_computes_what_the_module_does():
    rows = SPACE.rows(SPACE.max_arch())
    runners = [on_this_machine('pytorch', processor='cuda').load(rows, processor='cuda', seed=seed) for seed in (1, 2)]
    for runner in runners * 2:  # they share memory: each must write all that it reads
        before = runner._x.clone()
        runner()
        torch.testing.assert_close(runner._x, before, rtol=0, atol=0)
        assert runner.peak_memory_mb() * 1e6 >= 4 * sum(row.params for row in rows)
