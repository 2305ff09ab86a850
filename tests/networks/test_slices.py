"""The first channels of many parameters, and their gradients."""
import pytest
import torch
from supernet_makers import images
from torch import nn

from timm_ofa.networks.layers import dense_conv
from timm_ofa.networks.slices import first_channels


@pytest.mark.parametrize('kernel_size, stride', [(1, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 2e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize('order', [torch.contiguous_format, torch.channels_last])
def test_the_gradients_of_the_first_channels_are_right(kernel_size, stride, dtype, tolerance, order):
    settings = (stride, stride), (kernel_size // 2, kernel_size // 2)
    for out_chs, in_chs in [(24, 20), (48, 20), (24, 40), (48, 40)]:
        doubles = [images(3, in_chs, 9, 12).double(), images(48, 40, kernel_size, kernel_size, seed=1).double()]
        inputs = [t.to(dtype).contiguous(memory_format=order).requires_grad_() for t in doubles]
        x, weight = (t.requires_grad_() for t in doubles)
        part, = first_channels(inputs[1:], [(out_chs, in_chs)], 1)
        y, stock = dense_conv(inputs[0], part, *settings), nn.functional.conv2d(
            x, weight[:out_chs, :in_chs], None, *settings)
        grad = images(*y.shape, seed=2).double()
        own = y, *torch.autograd.grad(y, inputs, grad.to(dtype))
        assert own[2].stride() == inputs[1].stride() or kernel_size == 1
        for mine, right in zip(own, (stock, *torch.autograd.grad(stock, doubles, grad))):
            assert mine.dtype is dtype and (mine - right).abs().max() < tolerance * right.abs().max()


@pytest.mark.parametrize('order', [torch.contiguous_format, torch.channels_last])
def test_slices_of_many_parameters_are_taken_and_cast_at_once(order):
    sizes = [(48, 40, 1, 1), (48, 1, 5, 5), (48, 40, 3, 3), (48, 40, 3, 3), (48,), (48,), (48,)]
    shapes = [(24, 20), (24,), (24, 20), (48, 40), (24,), (48,), (24,)]
    parameters = [images(*size, seed=i) for i, size in enumerate(sizes)]
    parameters = [(t.to(memory_format=order) if t.ndim == 4 else t).requires_grad_() for t in parameters]
    with torch.autocast('cpu', torch.bfloat16):
        parts = first_channels(parameters, shapes, 4)
    assert [part.dtype for part in parts] == [torch.bfloat16] * 4 + [torch.float32] * 3
    grads = [torch.randn_like(part) for part in parts]
    torch.autograd.backward(parts[:-1], grads[:-1])
    for parameter, shape, part, grad in list(zip(parameters, shapes, parts, grads))[:-1]:
        active, expected = tuple(map(slice, shape)), torch.zeros_like(parameter)
        expected[active] = grad.float()
        assert torch.equal(part, parameter[active].to(part.dtype)) and torch.equal(parameter.grad, expected)
        assert [a for a, n in zip(parameter.grad.stride(), parameter.shape) if n > 1] == [
            a for a, n in zip(parameter.stride(), parameter.shape) if n > 1]
    assert parameters[-1].grad is None  # its slice was not used
