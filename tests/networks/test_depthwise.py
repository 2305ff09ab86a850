"""Depthwise convolutions with gradients of our own, and kernels cut from larger ones."""
from itertools import pairwise

import pytest
import timm
import torch
from supernet_makers import MOBILE, images, make
from torch import nn

from timm_ofa.networks import quick_depthwise
from timm_ofa.networks.depthwise import depthwise_conv


@pytest.mark.parametrize('precision, tolerance', [(torch.float32, 3e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize('kernel_size, stride', [(1, 2), (3, 2), (5, 1), (5, 2), (7, 1), (7, 2)])
def test_the_gradients_of_a_wide_depthwise_convolution_are_right(kernel_size, stride, precision, tolerance):
    for channels, *size in [(40, 9, 13), (24, 17, 12), (8, 1, 1), (16, 2, 3), (24, 16, 16)]:
        x, weight = images(3, channels, *size), images(channels, 1, kernel_size, kernel_size, seed=1)
        inputs = [t.contiguous(memory_format=torch.channels_last).requires_grad_() for t in (x, weight)]
        doubles = [t.double().requires_grad_() for t in (x, weight)]
        settings = dict(stride=stride, padding=kernel_size // 2, groups=channels)
        with torch.autocast('cpu', torch.bfloat16, enabled=precision is torch.bfloat16):
            y, stock = depthwise_conv(*inputs, (stride, stride)), nn.functional.conv2d(*inputs, **settings)
        assert torch.equal(y, stock) and y.dtype is precision
        grad = images(*y.shape, seed=2).to(precision)
        expected = torch.autograd.grad(nn.functional.conv2d(*doubles, **settings), doubles, grad.double())
        for own, right in zip(torch.autograd.grad(y, inputs, grad), expected):
            assert own.dtype is torch.float32 and (own - right).abs().max() < tolerance * right.abs().max()


def test_a_plain_network_is_trained_with_the_quick_depthwise_convolutions():
    """The same gradients, taken another way; nothing of it is left in the network."""
    model = make()
    model = model.extract(model.space.max_arch()).train()
    x = images(4, 3, 40, 40)

    def gradients():
        model.zero_grad()
        model(x).square().sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}
    stock = gradients()
    with pytest.raises(KeyError), quick_depthwise(model):
        quick = gradients()
        raise KeyError
    assert any(not torch.equal(g, stock[name]) for name, g in quick.items())
    for name, grad in quick.items():
        assert (grad - stock[name]).abs().max() <= 1e-3 * stock[name].abs().max() + 1e-4, name
    assert all(torch.equal(g, stock[name]) for name, g in gradients().items())
    others = nn.ModuleList(
        nn.Conv2d(4, 4, k, padding=p, groups=4, bias=False) for k, p in [((3, 5), 1), (2, 1), (3, 0)])
    quick = nn.ModuleList(nn.Conv2d(4, 4, k, padding=k // 2, groups=4, bias=False) for k in (3, 5, 7))
    with quick_depthwise(nn.ModuleList([others, quick])):
        assert not any('_conv_forward' in vars(conv) for conv in others)
        assert all('_conv_forward' in vars(conv) for conv in quick)


# ---- kernel matrices -------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize('name', MOBILE)
def test_a_smaller_kernel_is_the_center_of_the_larger_through_its_matrix(name):
    supernet = make(name)
    block = supernet.elastic_stages()[0][0]
    sizes = sorted(supernet.space.stages[0].kernel_sizes, reverse=True)
    expected = block.conv_dw.weight[:8]
    for large, small in pairwise(sizes):
        matrix, c = block.kernel_transform[f'k{large}to{small}'], (large - small) // 2
        center = expected[:, 0, c:large - c, c:large - c].reshape(8, -1)
        expected = (center @ matrix.T).reshape(8, 1, small, small)
        torch.testing.assert_close(block.kernel(small, 8), expected)
    assert torch.equal(block.kernel(None, 8), block.conv_dw.weight[:8])


@pytest.mark.parametrize('kernel_size', [3, 5])
def test_the_gradients_of_a_smaller_kernel_are_right(kernel_size):
    block = make('ofa_mbv3_w10').double().elastic_stages()[0][0]
    weight, *matrices = block.conv_dw.weight[:3].detach().requires_grad_(), *block.kernel_transform.values()
    inputs = [weight, *matrices[:1 if kernel_size == 5 else 2]]
    assert torch.autograd.gradcheck(lambda *_: block.smaller(weight, kernel_size), inputs)
    with torch.autocast('cpu', torch.bfloat16):
        kernel = block.float().kernel(kernel_size, 3)
    assert torch.equal(kernel, block.kernel(kernel_size, 3).bfloat16())  # computed in float32


@torch.no_grad()
def test_fresh_matrices_leave_the_center_as_it_is():
    block = timm.create_model('ofa_mbv3_w10_supernet').elastic_stages()[0][0]
    assert torch.equal(block.kernel(3, 5), block.conv_dw.weight[:5, :, 2:5, 2:5])
