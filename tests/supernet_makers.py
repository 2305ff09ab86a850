"""Supernets with nothing at its default, for tests that compare networks."""
import timm
import torch
from torch import nn

SPACES = [
    'ofa_mbv3_tiny', 'ofa_mbv3_w10', 'ofa_mbv3_w12', 'ofa_proxyless_w13', 'ofa_resnet50d', 'ofa_resnet_tiny']
MOBILE = SPACES[:4]


@torch.no_grad()
def randomize(model, seed=0):
    """No tensor at its default: affine parameters, statistics, biases and kernel matrices of every layer."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if 'kernel_transform' in name:
            tensor += 0.05 * torch.randn(tensor.shape, generator=generator)
        elif name.endswith('running_var') or (tensor.ndim == 1 and name.endswith('.weight')):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.is_floating_point() and tensor.ndim == 1:
            tensor.normal_(0, 0.2, generator=generator)
    return model.eval()


@torch.no_grad()
def make(name='ofa_mbv3_tiny', **kwargs):
    """A supernet with nothing at its default, BatchNorm statistics near its own, so that its output sees its input."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = randomize(timm.create_model(f'{name}_supernet', **kwargs))
        calibrate(model, model.space.max_arch())
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.25)
            norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
    return model


@torch.no_grad()
def calibrate(model, arch):
    """Statistics as one batch has them in this arch."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()(images(8, 3, 64, 64), arch)
    for norm in norms:
        norm.momentum = 0.1
    model.eval()


def some_archs(space, rng, n):
    return [space.max_arch(), space.min_arch(), *space.sample(rng, n)]


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
