"""Stacked trainings of the benchmarks have the logits and gradients of the supernet, for several runs at once."""
import sys
from pathlib import Path

import pytest
import torch

from timm_ofa import load_space
from timm_ofa.networks import new_supernet

sys.path.insert(0, str(Path(__file__).parents[1] / 'bench'))
from stacked import StackedSupernet


def gradients(supernet):
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in supernet.parameters()])


@pytest.mark.parametrize('name, side', [('ofa_mbv3_tiny', 24), ('ofa_mbv3_32px', 20)])
def test_stacked_runs_have_the_logits_and_gradients_of_their_supernets(name, side, rng):
    torch.manual_seed(0)
    space = load_space(name)
    nets = [new_supernet(space, num_classes=3).double().train() for _ in range(2)]
    for parameter in (p for net in nets for p in net.parameters()):
        parameter.data += 0.05 * torch.randn_like(parameter)
    stacked = StackedSupernet(nets[0], torch.device('cpu'))
    flat = torch.stack([torch.cat([p.detach().flatten() for p in net.parameters()]) for net in nets]).requires_grad_()
    x, ct = torch.randn(2, 4, 3, side, side).double(), torch.randn(2, 4, 3)
    archs = space.sample(rng, 2)
    limits, one_hot = stacked.codes(archs)
    ways = [  # logits (S, K, N), and the arch of each run
        (stacked.logits(flat, x.transpose(1, 2), dtype=torch.float64), [space.max_arch()] * 2),
        (stacked.subnet(archs[0]).logits_of(flat, x.transpose(1, 2), dtype=torch.float64), [archs[0]] * 2),
        (stacked.random_logits(flat, x.transpose(1, 2), limits, one_hot.double(), torch.float64), archs)]
    for logits, own in ways:
        gradient, = torch.autograd.grad((logits.transpose(1, 2) * ct).sum(), flat)
        for i, net in enumerate(nets):
            net.zero_grad()
            expected = net(x[i], own[i])
            (expected * ct[i]).sum().backward()
            torch.testing.assert_close(logits[i].t().double(), expected, rtol=1e-4, atol=1e-5)  # given as float32
            torch.testing.assert_close(gradient[i], gradients(net), rtol=1e-4, atol=1e-5)
