"""Which of timm's networks a search space can be read off, and whether their subnets are what they should be.

For each name of timm's EfficientNets, MobileNets, ResNets and ByobNets: a network with random weights and statistics
is the largest subnet of its space bit for bit; random subnets of the supernet are the extracted stock networks, which
count as many multiply-accumulates and parameters as the space says, and compute in ONNX Runtime what they do in torch.

    python tests/bench/bench_names.py [--names PATTERN ...] [--subnets 5] [--minutes 60] [--out FILE]
"""
import argparse
import fnmatch
import math
import time
from pathlib import Path

import numpy as np
import timm
import torch

import timm_ofa
from timm_ofa.runtimes import Session, to_onnx

MODULES = ('efficientnet', 'mobilenetv3', 'hardcorenas', 'resnet', 'byobnet')
TOLERANCE = 1e-5  # of the largest logit


def randomize(network, seed=0):
    """Random statistics and gains of BatchNorm; weights are random already."""
    generator = torch.Generator().manual_seed(seed)
    for norm in (m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        for tensor, low, high in ((norm.running_mean, -0.3, 0.3), (norm.running_var, 0.5, 2.0),
                                  (norm.weight.data, 0.5, 1.5), (norm.bias.data, -0.3, 0.3)):
            tensor.uniform_(low, high, generator=generator)
    return network


def counted_macs(network, side):
    """The multiply-accumulates of all convolutions and linear layers for an image, counted while it runs."""
    total, hooks = [], []
    for layer in (m for m in network.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))):
        def count(layer, _, output):
            total.append(layer.weight.numel() * (output[0, 0].numel() if output.ndim == 4 else 1))
        hooks.append(layer.register_forward_hook(count))
    network(torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    return sum(total)


def relative(a, b):
    return float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max())


@torch.inference_mode()
def check(name, space, subnets=5, classes=10):
    """The largest errors: of the largest subnet, of others, in ONNX. Raises AssertionError."""
    side = space.resolutions[0]
    torch.manual_seed(0)
    network = randomize(timm.create_model(name, num_classes=classes)).eval()
    supernet = timm_ofa.supernet_of(network, resolutions=[side]).eval()
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    expected = network(x)
    errors = [relative(supernet(x), expected)], [], []
    for arch in [space.max_arch(), space.min_arch(), *space.sample(np.random.default_rng(0), subnets)]:
        subnet = supernet.extract(arch).eval()
        assert type(subnet) is type(network), type(subnet)
        own, y = supernet(x, arch), subnet(x)
        errors[arch != space.max_arch()].append(relative(own, y if arch != space.max_arch() else expected))
        assert space.macs(arch, classes) == counted_macs(subnet, side), arch
        assert space.params(arch, classes) == sum(p.numel() for p in subnet.parameters()), arch
        model = to_onnx(space.rows(arch, classes), weights=subnet.state_dict(), bn_eps=space.bn_eps, batch_size=2)
        errors[2].append(relative(Session(model, x=x.numpy()).predict(x.numpy()), y))
    worst = [max(found, default=0.0) for found in errors]
    assert worst[0] <= TOLERANCE and worst[1] <= TOLERANCE and worst[2] <= 1e-4, worst
    return worst


def read_all(patterns, side=64):
    """Of all names of timm that match: their spaces, the smallest network first; and why the others are refused."""
    spaces, refused = {}, {}
    for name in sorted({name for module in MODULES for name in timm.list_models(module=module)
                        if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)}):
        try:
            spaces[name] = timm_ofa.space_of(name, resolutions=[side])
        except timm_ofa.InputError as error:
            refused[name] = str(error)
    return dict(sorted(spaces.items(), key=lambda item: item[1].params(item[1].max_arch()))), refused


def report(checked, spaces, refused):
    def line(name, worst=()):
        least, most = (spaces[name].macs(arch) for arch in (spaces[name].min_arch(), spaces[name].max_arch()))
        return f'{name:40} {spaces[name].size():10.3g} {least / most:5.2f}' + ''.join(f' {e:8.1e}' for e in worst)

    others = [name for name in spaces if name not in checked]
    return '\n'.join([
        f'timm {timm.__version__}, torch {torch.__version__}: a space is read off {len(spaces)} names, of which '
        f'{len(checked)} were run; {len(refused)} are refused', '',
        f'{"name":40} {"subnets":>10} {"least":>5} {"largest":>8} {"others":>8} {"ONNX":>8}',
        'subnets: how many; least: MACs of the smallest, of the whole; then the largest errors, relative', '',
        *(line(name, checked[name]) for name in sorted(checked)), '', 'read, not run:', '',
        *map(line, sorted(others)), '', 'refused:', '', *(f'{name}: {why}' for name, why in refused.items()), ''])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--names', nargs='+', default=['*'])
    parser.add_argument('--subnets', type=int, default=5)
    parser.add_argument('--minutes', type=float, default=math.inf, help='the largest networks are left out after that')
    parser.add_argument('--out', type=Path)
    args = parser.parse_args()
    began, (spaces, refused) = time.time(), read_all(args.names)
    checked = {}
    for name, space in spaces.items():
        if time.time() - began > 60 * args.minutes:
            break
        checked[name] = check(name, space, args.subnets)
        print(name, *(f'{error:.1e}' for error in checked[name]), flush=True)
        if args.out:
            args.out.write_text(report(checked, spaces, refused))
    print(report(checked, spaces, refused).splitlines()[0])


if __name__ == '__main__':
    main()
