"""The supernet: every subnet of it is the network that `extract` gives, and nothing is state."""
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import pytest
import timm
import torch
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from torch import nn

from timm_ofa import InputError, load_space
from timm_ofa.networks import ENTRY_POINTS, Supernet, load_supernet, model_args, new_supernet, quick_depthwise
from timm_ofa.networks.depthwise import depthwise_conv
from timm_ofa.networks.elastic import ElasticBottleneck, ElasticInvertedResidual
from timm_ofa.networks.layers import dense_conv
from timm_ofa.networks.slices import first_channels
from timm_ofa.networks.stock import OFAResNet
from timm_ofa.spaces.rows import make_divisible
from timm_ofa.training.runs import save_supernet

SPACES = [
    'ofa_mbv3_tiny', 'ofa_mbv3_w10', 'ofa_mbv3_w12', 'ofa_proxyless_w13', 'ofa_resnet50d', 'ofa_resnet_tiny']
MOBILE = SPACES[:4]
STOCK = {'mobilenetv3': MobileNetV3, 'efficientnet': EfficientNet, 'byobnet': OFAResNet}
STATISTICS = ('running_mean', 'running_var', 'num_batches_tracked')


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


@pytest.fixture(scope='module', params=SPACES)
def supernet(request):
    """Shared by tests that do not change it."""
    return make(request.param)


@pytest.fixture
def tiny():
    """To be changed."""
    return make()


def some_archs(space, rng, n):
    return [space.max_arch(), space.min_arch(), *space.sample(rng, n)]


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- one network, two ways -------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize('name', SPACES)
def test_a_subnet_run_inside_equals_the_extracted_one_bit_for_bit(name, rng):
    supernet = make(name)
    archs = some_archs(supernet.space, rng, 4)
    for arch, size in zip(archs, [(64, 64), (33, 47), (65, 64), (50, 31), (96, 96), (37, 37)]):
        calibrate(supernet, arch)
        x = images(2, 3, *size)
        inside, extracted = supernet(x, arch), supernet.extract(arch)
        assert torch.equal(extracted(x), inside)
        assert (inside[0] - inside[1]).abs().max() > 0.01 * inside.abs().max()  # it sees its input


@pytest.mark.parametrize('precision, tolerance', [(torch.float32, 3e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize('kernel_size, stride', [(3, 2), (5, 1), (5, 2), (7, 1), (7, 2)])
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
    with quick_depthwise(others):
        assert not any('_conv_forward' in vars(conv) for conv in others)


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


@torch.no_grad()
def test_without_an_arch_the_largest_network_runs(supernet):
    x = images(2, 3, 48, 48)
    torch.testing.assert_close(supernet(x), supernet(x, supernet.space.max_arch()), rtol=0, atol=0)


@torch.no_grad()
def test_archs_that_differ_in_one_choice_are_different_networks(supernet):
    outputs = [supernet(images(1, 3, 64, 64), arch) for arch in one_choice_apart(supernet.space)]
    assert all((a - b).abs().max() > 1e-4 * b.abs().max() for i, a in enumerate(outputs) for b in outputs[:i])


def one_choice_apart(space):
    """The largest arch, and some that differ from it in one choice each."""
    largest = space.max_arch()
    ratio = (*largest.expand_ratio[:-1], (*largest.expand_ratio[-1][:-1], min(space.stages[-1].expand_ratios)))
    i = max(i for i, s in enumerate(space.stages) if len(s.depths) > 1)

    def shorter(stages):
        return (*stages[:i], stages[i][:-1], *stages[i + 1:])
    archs = [largest, replace(largest, expand_ratio=ratio), replace(
        largest, kernel_size=shorter(largest.kernel_size), expand_ratio=shorter(largest.expand_ratio))]
    if space.elastic_widths:
        stem, width = largest.stem_width, largest.width
        stems = [stem[1:], (*stem[:2], space.stem_widths[0][-1]), (*space.stem_widths[1][:2], stem[-1])]
        widths = [(*width[:s], stage.widths[0], *width[s + 1:]) for s, stage in enumerate(space.stages)]
        archs += [replace(largest, stem_width=s) for s in stems] + [replace(largest, width=w) for w in widths]
        return [space.check(arch) for arch in archs]
    kernel = ((3, *largest.kernel_size[0][1:]), *largest.kernel_size[1:])
    return [*archs, replace(largest, kernel_size=kernel)]


def test_names_are_those_of_the_stock_network_plus_kernel_matrices(supernet):
    space = supernet.space
    stock = timm.create_model(
        ENTRY_POINTS[space.family], **model_args(space, space.max_arch()), num_classes=space.num_classes, device='meta')
    own = {k: v.shape for k, v in supernet.state_dict().items()}
    added = set(own) - set(stock.state_dict())
    assert {k: v for k, v in own.items() if k not in added} == {k: v.shape for k, v in stock.state_dict().items()}
    blocks = sum(max(s.depths) for s in space.stages)
    assert len(added) == blocks * (len(space.stages[0].kernel_sizes) - 1)
    assert all('.kernel_transform.k' in name for name in added)


def test_an_extracted_network_is_stock_owns_its_weights_and_knows_its_resolution(supernet, rng):
    arch = supernet.space.sample(rng)
    subnet = supernet.extract(arch)
    assert type(subnet) is STOCK[supernet.space.family]
    assert not any(isinstance(m, (ElasticInvertedResidual, ElasticBottleneck)) for m in subnet.modules())
    assert not ({t.data_ptr() for t in subnet.state_dict().values()}
                & {t.data_ptr() for t in supernet.state_dict().values()})
    assert all(p.requires_grad and p.is_leaf and not p.is_meta for p in subnet.parameters())
    assert sum(p.numel() for p in subnet.parameters()) == supernet.space.params(arch)
    assert subnet.pretrained_cfg['input_size'] == (3, arch.resolution, arch.resolution)


def test_extracting_keeps_mode_classes_channels_and_dropout():
    supernet = timm.create_model('ofa_mbv3_tiny_supernet', num_classes=3, in_chans=1, drop_rate=0.3)
    for training in (True, False):
        subnet = supernet.train(training).extract(supernet.space.min_arch())
        assert subnet.training is training and subnet.num_classes == 3 and subnet.drop_rate == 0.3
        assert subnet.conv_stem.in_channels == 1


@torch.no_grad()
def test_drop_rate_acts_in_training_alone():
    supernet = timm.create_model('ofa_mbv3_tiny_supernet', drop_rate=0.5)
    arch, features = supernet.space.min_arch(), images(2, supernet.space.last_width, 2, 2)
    assert not torch.equal(supernet.forward_head(features), supernet.forward_head(features))
    x = images(2, 3, 24, 24)
    assert torch.equal(supernet.eval()(x, arch), supernet(x, arch))


def test_an_arch_of_another_space_is_refused(supernet):
    other = load_space('ofa_mbv3_w10' if supernet.space.name == 'ofa_mbv3_tiny' else 'ofa_mbv3_tiny').max_arch()
    for use in (lambda: supernet(images(1, 3, 32, 32), other), lambda: supernet.extract(other)):
        with pytest.raises(InputError, match=supernet.space.name):
            use()
    with pytest.raises(InputError, match=r'Arch\.from_dict'):
        supernet.extract({'ks': 3})


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


# ---- no hidden state -------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_archs_can_alternate_and_run_in_threads(tiny, rng):
    before = {k: v.clone() for k, v in tiny.state_dict().items()}
    archs, x = some_archs(tiny.space, rng, 4), images(2, 3, 24, 24)
    expected = [tiny(x, arch) for arch in archs]
    assert all(torch.equal(tiny(x, arch), y) for arch, y in reversed(list(zip(archs, expected))))

    @torch.no_grad()
    def run(i):
        return torch.equal(tiny(x, archs[i % 6]), expected[i % 6])
    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(run, range(30)))
    assert all(torch.equal(v, before[k]) for k, v in tiny.state_dict().items())


# ---- training --------------------------------------------------------------------------------------------------------


def test_the_smallest_kernels_train_every_parameter_of_the_largest_net(tiny):
    largest = tiny.space.max_arch()
    arch = replace(largest, kernel_size=tuple((3,) * len(s) for s in largest.kernel_size))
    tiny.train()(images(8, 3, 24, 24), arch).square().sum().backward()
    idle = [n for n, p in tiny.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


def test_only_what_a_subnet_uses_gets_gradients(tiny):
    arch = tiny.space.min_arch()
    tiny.train()(images(8, 3, 24, 24), arch).square().sum().backward()
    block, unused = tiny.elastic_stages()[1][0], tiny.elastic_stages()[1][1]
    mid = block.mid_chs(2)
    for weight in (block.conv_pw.weight, block.conv_dw.weight, block.bn1.weight, block.bn2.bias):
        assert (weight.grad[:mid].abs().flatten(1).sum(1) if weight.ndim > 1 else weight.grad[:mid].abs()).gt(0).any()
        assert weight.grad[mid:].abs().sum() == 0
    assert block.conv_pwl.weight.grad[:, mid:].abs().sum() == 0
    assert block.kernel_transform['k5to3'].grad.abs().sum() > 0
    assert all(p.grad is None for p in unused.parameters())
    largest = tiny.space.max_arch()
    tiny.zero_grad()
    tiny(images(8, 3, 24, 24), largest).square().sum().backward()
    assert block.kernel_transform['k5to3'].grad is None


def test_gradients_inside_equal_those_of_the_extracted_network(tiny, rng):
    arch, x = tiny.space.max_arch(), images(8, 3, 24, 24)
    arch = replace(arch, expand_ratio=((2, 4, 3), (3, 2, 2), (2, 2, 3)))
    subnet = tiny.train().extract(arch)
    tiny(x, arch).square().sum().backward()
    subnet(x).square().sum().backward()
    block, small = tiny.elastic_stages()[2][1], subnet.blocks[3][1]
    mid, hidden = block.mid_chs(2), block.hidden_chs(block.mid_chs(2))
    assert (mid, hidden) == (small.conv_dw.out_channels, small.se.conv_reduce.out_channels)
    for ours, theirs in [
            (block.conv_pw.weight.grad[:mid], small.conv_pw.weight.grad),
            (block.conv_dw.weight.grad[:mid], small.conv_dw.weight.grad),
            (block.se.conv_reduce.weight.grad[:hidden, :mid], small.se.conv_reduce.weight.grad),
            (block.se.conv_expand.bias.grad[:mid], small.se.conv_expand.bias.grad),
            (block.conv_pwl.weight.grad[:, :mid], small.conv_pwl.weight.grad)]:
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_running_statistics_move_for_the_active_channels_alone(tiny):
    block = tiny.elastic_stages()[0][0]
    mid, before = block.mid_chs(2), {k: v.clone() for k, v in tiny.state_dict().items()}
    tiny.train()(images(8, 3, 24, 24), tiny.space.min_arch())
    after = tiny.state_dict()
    for name in ('blocks.1.0.bn1.', 'blocks.1.0.bn2.'):
        for kind in ('running_mean', 'running_var'):
            moved = after[name + kind] != before[name + kind]
            assert moved[:mid].all() and not moved[mid:].any()
        assert after[name + 'num_batches_tracked'] == before[name + 'num_batches_tracked'] + 1
    assert all(torch.equal(after[k], v) for k, v in before.items() if k.startswith(('blocks.1.1.', 'blocks.3.2.')))
    assert all(torch.equal(after[k], v) for k, v in before.items() if not k.endswith(STATISTICS))


def test_running_statistics_move_as_in_the_extracted_network(tiny, rng):
    arch, x = tiny.space.min_arch(), images(8, 3, 24, 24)
    subnet = tiny.train().extract(arch)
    with torch.no_grad():
        torch.testing.assert_close(tiny(x, arch), subnet(x))
    extracted = tiny.extract(arch).state_dict()
    for name, tensor in subnet.state_dict().items():
        torch.testing.assert_close(extracted[name], tensor, msg=name)


def test_gradient_checkpointing_gives_the_same_gradients(tiny, rng):
    arch, x = replace(tiny.space.sample(rng), resolution=24), images(4, 3, 24, 24)
    found = []
    for enable in (False, True):
        model = make().train()
        model.set_grad_checkpointing(enable)
        model(x, arch).square().mean().backward()
        found.append({n: p.grad for n, p in model.named_parameters()})
    assert {n for n, g in found[0].items() if g is None} == {n for n, g in found[1].items() if g is None}
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad, msg=name)


# ---- channel sorting -------------------------------------------------------------------------------------------------


def widened(space, ratio):
    """The largest arch at another expand ratio."""
    arch = space.max_arch()
    return replace(arch, expand_ratio=tuple((ratio,) * len(s) for s in arch.expand_ratio))


@torch.no_grad()
@pytest.mark.parametrize('keep, kept', [((), [4]), ((3, 4), [3, 4]), ((2, 3, 4), [2, 3, 4])])
def test_sorting_keeps_the_largest_net_and_the_ratios_it_is_told_to(tiny, keep, kept):
    x = images(2, 3, 32, 32)
    before = {ratio: tiny(x, widened(tiny.space, ratio)) for ratio in (2, 3, 4)}
    tiny.sort_channels(keep)
    for ratio, expected in before.items():
        difference = (tiny(x, widened(tiny.space, ratio)) - expected).abs().max() / expected.abs().max()
        assert difference < 1e-5 if ratio in kept else difference > 1e-2, ratio


@torch.no_grad()
@pytest.mark.parametrize('name', MOBILE)
def test_sorting_puts_important_channels_first_within_what_is_kept(name):
    model = randomize(timm.create_model(f'{name}_supernet'), seed=1)
    model.sort_channels()
    for stage in model.elastic_stages():
        for block in stage:
            importance = block.conv_pwl.weight.abs().sum((0, 2, 3))
            assert (importance.diff() <= 1e-5 * importance[0]).all()
            if block.se_ratio:
                hidden = block.se.conv_expand.weight.abs().sum((0, 2, 3))
                assert (hidden.diff() <= 1e-5 * hidden[0]).all()
    middle = model.space.stages[0].expand_ratios[1]
    model = randomize(timm.create_model(f'{name}_supernet'), seed=1)
    block = model.elastic_stages()[-1][-1]
    border, largest = block.mid_chs(middle), block.conv_pwl.weight.abs().sum((0, 2, 3))
    model.sort_channels((middle, 99))
    importance = block.conv_pwl.weight.abs().sum((0, 2, 3))
    torch.testing.assert_close(importance[[0, border]], torch.stack([largest[:border].max(), largest[border:].max()]))
    assert importance[border] > importance[border - 1]


@torch.no_grad()
@pytest.mark.parametrize('keep, kept', [((), [0.35]), ((0.25, 0.35), [0.25, 0.35])])
def test_sorting_a_resnet_keeps_what_it_is_told_to_and_puts_important_channels_first(keep, kept):
    model, x = make('ofa_resnet_tiny'), images(2, 3, 32, 32)
    before = {ratio: model(x, widened(model.space, ratio)) for ratio in (0.2, 0.25, 0.35)}
    model.sort_channels(keep)
    for ratio, expected in before.items():
        difference = (model(x, widened(model.space, ratio)) - expected).abs().max() / expected.abs().max()
        assert difference < 1e-5 if ratio in kept else difference > 1e-3, ratio
    for block in (block for stage in model.elastic_stages() for block in stage):
        for reader in (block.conv2_kxk, block.conv3_1x1):
            importance = reader.conv.weight.abs().sum((0, 2, 3))
            edges = [0, *(make_divisible(round(block.conv3_1x1.conv.out_channels * e)) for e in keep or (0.35,))]
            for start, end in pairwise(edges):
                assert (importance[start:end].diff() <= 1e-5 * importance.max()).all()


@torch.no_grad()
def test_sorting_makes_a_narrow_subnet_better_than_leaving_channels_as_they_are(tiny):
    """Channels of no weight in front: cutting the width loses everything unless they are sorted."""
    for stage in tiny.elastic_stages():
        for block in stage:
            block.conv_pwl.weight[:, :block.mid_chs(2)] = 0
    x, narrow = images(8, 3, 32, 32), widened(tiny.space, 2)

    def distance():
        return (tiny(x, narrow) - tiny(x)).norm()
    unsorted = distance()
    tiny.sort_channels()
    assert distance() < 0.5 * unsorted


def test_sorting_twice_changes_nothing(tiny):
    tiny.sort_channels()
    before = {k: v.clone() for k, v in tiny.state_dict().items()}
    tiny.sort_channels()
    assert all(torch.equal(v, before[k]) for k, v in tiny.state_dict().items())


# ---- entry-points and folders ----------------------------------------------------------------------------------------


def own_space():
    """A space that is not on the shelf, unlike all that are."""
    tiny = load_space('ofa_mbv3_tiny')
    stages = (replace(tiny.stages[0], depths=(2, 3)), replace(tiny.stages[2], kernel_sizes=(3, 7), widths=(48,)))
    return replace(tiny, name='own', stages=stages, stem_stride=2, resolutions=(40, 48), bn_eps=1e-3)


@torch.no_grad()
@pytest.mark.parametrize('space', [
    own_space(), load_space('ofa_mbv3_tiny'), load_space('ofa_mbv3_tiny').restrict(resolutions=[20, 28]),
    replace(load_space('ofa_mbv3_tiny'), bn_eps=1e-3), load_space('ofa_mbv3_w10').restrict(resolutions=[128])],
    ids=['own', 'shelf', 'fewer resolutions', 'shelf name, changed', 'one with a config, fewer resolutions'])
def test_a_saved_supernet_is_the_same_when_it_is_loaded(space, tmp_path, rng):
    supernet = randomize(new_supernet(space, num_classes=3))
    save_supernet(supernet, tmp_path, dict(data='none', class_names=['a', 'b', 'c']))
    loaded = load_supernet(str(tmp_path)).eval()
    assert isinstance(loaded, Supernet) and loaded.space == supernet.space == space
    assert {m.eps for m in loaded.modules() if isinstance(m, nn.BatchNorm2d)} == {space.bn_eps}
    arch = space.sample(rng)
    x = images(2, 3, arch.resolution, arch.resolution)
    assert torch.equal(loaded(x, arch), supernet(x, arch)) and loaded(x, arch).shape == (2, 3)
    block = json.loads((tmp_path / 'config.json').read_text())['timm_ofa']
    assert block['kind'] == 'supernet' and block['space'] == space.name
    assert sorted(p.name for p in tmp_path.iterdir()) == ['config.json', 'model.safetensors']


def test_supernets_of_every_space_are_registered():
    assert {f'{name}_supernet' for name in SPACES} <= set(timm.list_models('*_supernet'))
    assert timm.create_model('ofa_mbv3_w12_supernet', device='meta').space == load_space('ofa_mbv3_w12')


def test_the_published_numbers_of_parameters_are_met():
    for name, millions in (('ofa_mbv3_w10', 7.679), ('ofa_mbv3_w12', 10.716)):
        model = timm.create_model(f'{name}_supernet', device='meta')
        assert round(sum(p.numel() for p in model.parameters()) / 1e6, 3) == millions


@pytest.mark.parametrize('space, naming', [('ofa_mbv3_none', 'ofa_mbv3_none'), ({'name': 'x'}, 'missing')])
def test_a_supernet_of_no_space_is_refused(space, naming):
    with pytest.raises(InputError, match=naming):
        timm.create_model('ofa_supernet', space=space)


def test_unknown_arguments_are_type_errors():
    with pytest.raises(TypeError, match='arch_def'):
        timm.create_model('ofa_mbv3_tiny_supernet', arch_def=[])
    with pytest.raises(InputError, match='resolutions 100'):
        timm.create_model('ofa_mbv3_tiny_supernet', resolutions=[100])


def broken(folder, how):
    """A folder that holds no loadable supernet."""
    save_supernet(new_supernet(load_space('ofa_mbv3_tiny')), folder, {})
    config, weights = folder / 'config.json', folder / 'model.safetensors'
    if how == 'no weights':
        weights.unlink()
    elif how == 'no config':
        config.unlink()
    elif how == 'torn weights':
        weights.write_bytes(weights.read_bytes()[:1000])
    elif how == 'torn config':
        config.write_text(config.read_text()[:50])
    elif how == 'another space':
        config.write_text(config.read_text().replace('ofa_mbv3_tiny_supernet', 'ofa_mbv3_w10_supernet'))
    elif how == 'a subnet':
        space = load_space('ofa_mbv3_tiny')
        args = model_args(space, space.min_arch())
        timm.models._hub.save_config_for_hf(
            timm.create_model('ofa_mobilenetv3', **args), str(config), model_args=args)
    return str(folder)


@pytest.mark.parametrize('how', ['no weights', 'no config', 'torn weights', 'torn config', 'another space', 'a subnet'])
def test_a_folder_that_holds_no_supernet_is_one_line(how, tmp_path):
    with pytest.raises(InputError, match=f'{tmp_path.name}.*train.py') as error:
        load_supernet(broken(tmp_path, how))
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'source', ['', 'nowhere/at/all', 'ofa_mobilenetv3', 'ofa_mbv3_w99_supernet', 'local-dir:/nowhere', 'x:y'])
def test_a_source_that_is_no_supernet_is_one_line(source):
    with pytest.raises(InputError, match='supernet') as error:
        load_supernet(source)
    assert '\n' not in str(error.value)


# ---- the original code -----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_sorting_orders_channels_as_the_original_code_does(rng):
    """The published expand phases: first everything, then within what the wider ratios have trained."""
    networks = pytest.importorskip('ofa.imagenet_classification.elastic_nn.networks', reason='needs the package ofa')
    from timm_ofa.networks.convert import convert_upstream

    torch.manual_seed(0)
    theirs = networks.OFAMobileNetV3(
        width_mult=1.0, ks_list=[3, 5, 7], expand_ratio_list=[3, 4, 6], depth_list=[2, 3, 4]).double()
    ours = timm.create_model('ofa_mbv3_w10_supernet').double()
    for theirs_stage, keep in ((0, ()), (1, (4, 6))):  # later, hidden units of squeeze-excite stay in their groups here
        for tensor in theirs.parameters():
            tensor += 0.05 * torch.randn(tensor.shape, dtype=tensor.dtype)
        ours.load_state_dict(convert_upstream(theirs.state_dict(), ours))
        theirs.re_organize_middle_weights(theirs_stage)
        ours.sort_channels(keep)
        expected = convert_upstream(theirs.state_dict(), ours)
        different = {k for k, v in ours.state_dict().items() if not torch.equal(v, expected[k])}
        assert {k.split('.se.')[-1] for k in different} <= (HIDDEN if keep else set())


@torch.no_grad()
def test_sorting_orders_a_resnet_as_the_original_code_does():
    networks = pytest.importorskip('ofa.imagenet_classification.elastic_nn.networks', reason='needs the package ofa')
    from timm_ofa.networks.convert import convert_upstream

    torch.manual_seed(0)
    theirs = networks.OFAResNets(
        depth_list=[0, 1, 2], expand_ratio_list=[0.2, 0.25, 0.35], width_mult_list=[0.65, 0.8, 1.0]).double()
    ours = timm.create_model('ofa_resnet50d_supernet').double()
    for theirs_stage, keep in ((0, ()), (1, (0.25, 0.35))):
        ours.load_state_dict(convert_upstream(theirs.state_dict(), ours))
        for block in theirs.blocks:
            block.conv.re_organize_middle_weights(theirs_stage) if hasattr(block, 'conv') else (
                block.re_organize_middle_weights(theirs_stage))
        ours.sort_channels(keep)
        expected = convert_upstream(theirs.state_dict(), ours)
        assert all(torch.equal(v, expected[k]) for k, v in ours.state_dict().items())


HIDDEN = {'conv_reduce.weight', 'conv_reduce.bias', 'conv_expand.weight'}
