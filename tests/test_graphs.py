"""Replayed blocks against blocks run one by one, on a CUDA device; elsewhere blocks run as they are."""
import numpy as np
import pytest
import torch

from timm_ofa import load_space
from timm_ofa.graphs import BlockGraphs, graphs_for, run_block
from timm_ofa.supernet import new_supernet

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')


def steps(supernet, archs, n, precision=None):
    """Gradients and running statistics of n steps, each over all archs, images new in each."""
    generator, found = torch.Generator().manual_seed(1), []
    for _ in range(n):
        x = torch.randn(8, 3, 32, 32, generator=generator).cuda().contiguous(memory_format=torch.channels_last)
        for arch in archs:
            with torch.autocast('cuda', precision, enabled=precision is not None):
                y = supernet(x, arch)
            y.float().square().mean().backward()
        found.append({name: p.grad.clone() for name, p in supernet.named_parameters() if p.grad is not None})
        supernet.zero_grad()
    return found, {name: b.clone() for name, b in supernet.named_buffers()}


@cuda
@pytest.mark.parametrize('name', ['ofa_mbv3_tiny', 'ofa_resnet_tiny'])
@pytest.mark.parametrize('precision', [None, torch.bfloat16])
def test_replayed_blocks_give_the_gradients_and_statistics_of_blocks_run_one_by_one(name, precision, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    monkeypatch.setattr(torch.backends.cudnn, 'deterministic', True)
    space = load_space(name)
    archs = space.sample(np.random.default_rng(0), 2) * 2  # each subnet twice a step: gradients add up
    torch.manual_seed(0)
    plain = new_supernet(space).cuda().to(memory_format=torch.channels_last).train()
    replayed = new_supernet(space).cuda().to(memory_format=torch.channels_last).train()
    replayed.load_state_dict(plain.state_dict())
    replayed.run = BlockGraphs()
    expected, expected_buffers = steps(plain, archs, 4, precision)
    got, got_buffers = steps(replayed, archs, 4, precision)
    assert len(replayed.run) > 4
    tolerance = 1e-4 if precision is None else 0.05
    for want, have in zip(expected, got):
        assert want.keys() == have.keys()
        for parameter, grad in want.items():
            error = (have[parameter] - grad).norm() / grad.norm().clamp(min=1e-6)
            assert error < tolerance, (parameter, error)
    for buffer, value in expected_buffers.items():
        torch.testing.assert_close(got_buffers[buffer].float(), value.float(), rtol=tolerance, atol=tolerance)


@cuda
def test_a_block_that_is_called_again_before_its_backward_pass_runs_as_it_is():
    space = load_space('ofa_mbv3_tiny')
    supernet = new_supernet(space).cuda().train()
    arch = space.max_arch()
    x = torch.randn(4, 3, 32, 32, device='cuda')
    supernet.run = BlockGraphs()
    for _ in range(4):
        supernet(x, arch).sum().backward()
        supernet.zero_grad()
    (supernet(x, arch).sum() + supernet(2 * x, arch).sum()).backward()
    got = supernet.conv_stem.weight.grad.clone()
    supernet.zero_grad()
    supernet.run = run_block
    (supernet(x, arch).sum() + supernet(2 * x, arch).sum()).backward()
    assert (got - supernet.conv_stem.weight.grad).norm() < 0.02 * got.norm()


@cuda
def test_a_network_without_gradients_is_replayed_as_a_whole():
    network = new_supernet(load_space('ofa_mbv3_tiny')).cuda().eval()
    x, graphs = torch.randn(4, 3, 32, 32, device='cuda'), BlockGraphs()
    with torch.inference_mode():
        results = [graphs(network, x * i) for i in (1, 2, 3, 4)]
        expected = [network(x * i) for i in (1, 2, 3, 4)]
    assert len(graphs) == 1
    for got, want in zip(results, expected):
        torch.testing.assert_close(got, want, rtol=1e-2, atol=1e-3)


def test_blocks_run_as_they_are_on_a_cpu_and_where_processes_wait_for_each_other():
    assert graphs_for(torch.device('cpu'), 1) is run_block
    assert graphs_for(torch.device('cuda'), 2) is run_block
    block, x = torch.nn.Conv2d(3, 4, 1), torch.randn(2, 3, 5, 5)
    assert torch.equal(BlockGraphs()(block, x), block(x))
