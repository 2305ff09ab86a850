"""Closed-form repair: exact where nothing is cut, else what a dense solver finds, and better than a bare cut."""
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from supernet_makers import images, make
from torch import nn

from timm_ofa.accuracy import recalibrate_bn
from timm_ofa.errors import InputError
from timm_ofa.images import eval_batch, load_data
from timm_ofa.networks import repairing, streams
from timm_ofa.networks.energy import energy
from timm_ofa.networks.least_squares import RIDGES, Moments
from timm_ofa.networks.repairing import TINY, repair

SIDE = 24


def smooth(n, seed=0):
    """Images (n, 3, 24, 24) whose points depend on each other."""
    return 3 * F.avg_pool2d(images(n, 3, SIDE + 4, SIDE + 4, seed=seed), 5, 1)


def narrow(arch, stage, block, ratio, kernel_size=None):
    """The arch with one block narrower, and of another kernel size."""
    ratios, kernels = ([list(part) for part in parts] for parts in (arch.expand_ratio, arch.kernel_size))
    ratios[stage][block] = ratio
    if kernel_size:
        kernels[stage][block] = kernel_size
    return replace(arch, expand_ratio=tuple(map(tuple, ratios)), kernel_size=tuple(map(tuple, kernels)))


def error(model, supernet, x):
    """Mean squared distance of the logits from those of the whole network, as a share of their variance."""
    whole = supernet(x)
    return float((model(x) - whole).square().mean() / whole.var(0).mean())


@torch.no_grad()
@pytest.mark.parametrize('name', ['ofa_mbv3_tiny', 'ofa_resnet_tiny'])
def test_where_nothing_is_cut_nothing_changes(name):
    supernet = make(name).train()
    arch, before = supernet.space.max_arch(SIDE), deepcopy(supernet.state_dict())
    subnet = repair(supernet, arch, smooth(4))
    assert all(torch.equal(tensor, before[key]) for key, tensor in subnet.state_dict().items())
    assert all(torch.equal(tensor, before[key]) for key, tensor in supernet.state_dict().items())
    assert supernet.training and not subnet.training


def block_parts(supernet, subnet, place, x):
    """Inputs and outputs of a block of both networks, and of its layers in the subnet, by name."""
    seen = {}
    block = subnet.get_submodule(place)
    hooks = [layer.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: (inputs[0], output)}))
             for name, layer in block.named_modules() if name in ('', 'conv_dw', 'conv_pwl', 'bn3')]
    subnet(x)
    whole = supernet.extract(supernet.space.max_arch(SIDE)).eval()
    hooks.append(whole.get_submodule(place).register_forward_hook(
        lambda _, inputs, output: seen.update(whole=(inputs[0].clone(), output.clone()))))
    hooks.append(whole.get_submodule(f'{place}.conv_dw').register_forward_hook(
        lambda _, inputs, output: seen.update(whole_dw=(inputs[0].clone(), output.clone()))))
    whole(x)
    for hook in hooks:
        hook.remove()
    return seen


@torch.no_grad()
def test_a_block_is_what_a_dense_solver_finds():
    """One block is cut, with a shortcut and a smaller kernel; its inputs are the whole network's."""
    supernet, x = make().double(), smooth(16).double()
    arch = narrow(supernet.space.max_arch(SIDE), 0, 1, 2, kernel_size=3)
    seen = block_parts(supernet, repair(supernet, arch, x), 'blocks.1.1', x)
    (before, small), (_, large) = seen['conv_dw'], seen['whole_dw']
    for channel in (0, small.shape[1] - 1):  # a kernel with the least error, and a small penalty
        read = F.unfold(before[:, channel:channel + 1], 3, padding=1).transpose(1, 2).flatten(0, 1)
        read = torch.cat([read, torch.ones(len(read), 1)], 1)
        wanted = large[:, channel].flatten()
        best = (read @ torch.linalg.lstsq(read, wanted[:, None]).solution)[:, 0]
        given = small[:, channel].flatten()
        given = given + (wanted - given).mean()
        assert (given - wanted).var() <= 1.01 * (best - wanted).var() + 1e-5 * wanted.var()
    h, wanted = seen['conv_pwl'][0], seen['whole'][1] - seen['whole'][0]
    h, wanted = (t.permute(0, 2, 3, 1).flatten(0, 2) for t in (h, wanted))
    given = seen['bn3'][1].permute(0, 2, 3, 1).flatten(0, 2)
    own = supernet.blocks[1][1]
    scale = own.bn3.weight / (own.bn3.running_var + own.bn3.eps).sqrt()
    kept = own.conv_pwl.weight[:, :h.shape[1], 0, 0] * scale[:, None]
    center = h - h.mean(0)
    distances = []
    for ridge in RIDGES:  # rows that stand for the penalty on the distance from what is kept
        size = (ridge * len(h) * center.square().mean(0).mean()).sqrt()
        rows = torch.cat([center, size * torch.eye(h.shape[1])])
        goals = torch.cat([wanted - wanted.mean(0), size * kept.T])
        solved = center @ torch.linalg.lstsq(rows, goals).solution + wanted.mean(0)
        distances.append(float((solved - given).abs().max() / wanted.std()))
    assert min(distances) < 1e-6 and sorted(distances)[1] > 1e-4


def test_some_of_many_targets_choose_the_strength_for_all():
    x, way = images(400, 30, seed=1), images(30, 150, seed=2)
    found, kept = Moments(), torch.zeros(150, 30, dtype=torch.float64)
    found.add(x, x @ way + 20 * images(400, 150, seed=3), 100)
    chosen, whole = found.nearest(kept), found.covariances()
    solved = [whole.solve(kept, ridge) for ridge in RIDGES]
    near = [torch.equal(chosen, weight) for weight in solved]
    true = [float((weight - way.T).square().sum()) for weight in solved]
    assert near.count(True) == 1 and near.index(True) == true.index(min(true)) > 0


@torch.no_grad()
def test_repair_is_the_same_each_time_and_in_any_batches(monkeypatch):
    supernet, x = make(), smooth(24)
    arch = replace(supernet.space.min_arch(), resolution=SIDE)
    first = repair(supernet, arch, x).state_dict()
    again = repair(supernet, arch, x).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    monkeypatch.setattr(repairing, 'KERNEL_ROWS', 1)  # passes that end early
    monkeypatch.setattr(streams, 'BATCH', 6)
    first = repair(supernet, arch, x).state_dict()
    monkeypatch.setattr(repairing, 'MAX_BYTES', 0)  # nothing is kept between passes
    again = repair(supernet, arch, x).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    monkeypatch.undo()
    out = {batch: repair(supernet.double(), arch, [(part, None) for part in x.double().split(batch)])(x.double())
           for batch in (24, 7)}
    torch.testing.assert_close(out[7], out[24], rtol=1e-6, atol=1e-6)


def test_an_empty_batch_changes_nothing():
    supernet, x = make(), smooth(6)
    arch = narrow(supernet.space.max_arch(SIDE), 1, 1, 2)
    first, again = (repair(supernet, arch, batches).state_dict() for batches in ([x], [x[:0], x, x[:0]]))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_supernet_keeps_its_mode_where_a_repair_or_a_sorting_breaks_off(monkeypatch):
    supernet = make().train()
    monkeypatch.setattr(supernet, 'forward_before', lambda *_: 1 / 0)
    for broken in (lambda: repair(supernet, supernet.space.max_arch(SIDE), smooth(2)),
                   lambda: supernet.sort_channels(smooth(2))):
        with pytest.raises(ZeroDivisionError):
            broken()
        assert supernet.training


@torch.no_grad()
def test_full_convolutions_are_repaired_by_patches():
    supernet, x, other = make('ofa_resnet_tiny'), smooth(64), smooth(32, seed=1)
    largest = supernet.space.max_arch(SIDE)
    arch = replace(largest, expand_ratio=tuple((0.2,) * len(stage) for stage in largest.expand_ratio))
    recalibrated = error(recalibrate_bn(supernet.extract(arch), [x]).eval(), supernet, other)
    assert error(repair(supernet, arch, x), supernet, other) < 0.7 * recalibrated
    thin = replace(supernet.space.min_arch(), resolution=SIDE)  # widths and stem are cut as well
    assert torch.isfinite(repair(supernet, thin, x)(other)).all()


@torch.no_grad()
def test_a_full_convolution_keeps_the_means_of_its_channels():
    supernet, x = make('ofa_resnet_tiny'), smooth(64)
    for layer in supernet.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.bias.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(0))
    recalibrate_bn(supernet, [x]).eval()
    subnet, seen = repair(supernet, narrow(supernet.space.max_arch(SIDE), 0, 0, 0.2), x), []
    for model in supernet, subnet:
        hook = model.stages[0][0].conv2_kxk.bn.register_forward_hook(lambda *args: seen.append(args[2].mean((0, 2, 3))))
        model(x)
        hook.remove()
    whole, own = seen
    assert len(own) < len(whole) and own.min() > 0.3
    torch.testing.assert_close(own, whole[:len(own)], rtol=0, atol=0.1)


@pytest.fixture(scope='module')
def trained():
    """A supernet of which only the largest subnet was trained, on images of digits; (supernet, data)."""
    data, supernet = load_data('digits', SIDE), make()
    supernet.train()
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    generator, steps = torch.Generator().manual_seed(0), 30
    for step in range(steps):
        indices = torch.randint(len(data.train), (48,), generator=generator)
        x = eval_batch(data.train.fetch(indices), supernet.space, SIDE)
        for group in optimizer.param_groups:
            group['lr'] = 0.05 * (1 - step / steps)
        F.cross_entropy(supernet(x), data.train.labels[indices]).backward()
        optimizer.step()
        optimizer.zero_grad()
    x = eval_batch(data.train.fetch(torch.arange(256)), supernet.space, SIDE)
    recalibrate_bn(supernet, [x])
    return supernet.eval(), data


@torch.no_grad()
def test_a_repaired_subnet_of_a_trained_network_is_better_than_a_cut_one(trained):
    supernet, data = trained
    supernet = deepcopy(supernet)
    x, other = (eval_batch(part.fetch(torch.arange(256)), supernet.space, SIDE) for part in (data.train, data.test))
    before = supernet(other)
    supernet.sort_channels(x)
    torch.testing.assert_close(supernet(other), before, rtol=1e-3, atol=1e-3)
    arch, labels = replace(supernet.space.min_arch(), resolution=SIDE), data.test.labels[:256]
    hits = {name: float((model.eval()(other).argmax(1) == labels).float().mean()) for name, model in {
        'whole': supernet, 'cut': supernet.extract(arch), 'recalibrated': recalibrate_bn(supernet.extract(arch), [x]),
        'repaired': repair(supernet, arch, x)}.items()}
    assert hits['whole'] > 0.8 and hits['repaired'] > max(hits['recalibrated'] + 0.1, hits['cut'] + 0.2)


@torch.no_grad()
def test_statistics_move_by_as_much_as_their_inputs(trained):
    supernet, data = trained
    x = eval_batch(data.train.fetch(torch.arange(256)), supernet.space, SIDE)
    subnet = repair(supernet, narrow(supernet.space.max_arch(SIDE), 0, 0, 2), x)
    moved = []
    for name, own in subnet.named_modules():
        whole = supernet.get_submodule(name) if isinstance(own, nn.BatchNorm2d) else own
        n = getattr(own, 'num_features', 0)
        if whole is own or torch.equal(own.running_var, whole.running_var[:n]):
            continue  # no BatchNorm, or one whose inputs are as before
        inputs = []
        for norm, model in (own, subnet), (whole, supernet):
            hook = norm.register_forward_pre_hook(lambda _, given, into=inputs: into.append(given[0]))
            model(x)
            hook.remove()
        inputs[1] = inputs[1][:, :n]
        shift = inputs[0].mean((0, 2, 3)) - inputs[1].mean((0, 2, 3))
        torch.testing.assert_close(own.running_mean, whole.running_mean[:n] + shift, rtol=0.01, atol=0.01)
        grown = (inputs[0].var((0, 2, 3)) + TINY) / (inputs[1].var((0, 2, 3)) + TINY)
        torch.testing.assert_close(own.running_var, whole.running_var[:n] * grown, rtol=0.01, atol=1e-5)
        moved.append(float(shift.abs().max()))
    assert len(moved) > 5 and max(moved) > 0.05


@torch.no_grad()
def test_squeeze_and_excite_follows_its_channels(trained, monkeypatch):
    supernet, data = trained
    x, other = (eval_batch(part.fetch(torch.arange(256)), supernet.space, SIDE) for part in (data.train, data.test))
    largest, gates = supernet.space.max_arch(SIDE), []

    def gate_error(model):
        """Mean squared distance of the gates from those of the whole network, as a share of their variance."""
        for each in (model, supernet.extract(largest).eval()):
            layer = each.blocks[2][1].se.conv_expand
            hook = layer.register_forward_hook(lambda _, inputs, output: gates.append(output))
            each(other)
            hook.remove()
        own, whole = gates.pop(-2), gates.pop()
        return float((own - whole[:, :own.shape[1]]).square().mean() / whole.var(0).mean())
    arch = narrow(largest, 1, 1, 2)
    repaired = gate_error(repair(supernet, arch, x))
    monkeypatch.setattr(repairing, '_fit_squeeze_excite', lambda *_: None)
    assert repaired < 0.3 * gate_error(repair(supernet, arch, x))


@torch.no_grad()
def test_energy_puts_what_carries_most_first():
    """A channel that hardly varies goes last, whatever its weights; by their L1 norm it would be the first."""
    supernet, x = make(), smooth(8)
    block = supernet.elastic_stages()[0][1]
    block.bn2.weight[3], block.bn2.bias[3] = 1e-7, 0.5
    block.conv_pwl.weight[:, 3] *= 50
    other, marked, before = deepcopy(supernet), block.conv_pwl.weight[:, 3].clone(), supernet(x)
    supernet.sort_channels([(x[:4], None), (x[4:], None)])
    found = (block.conv_pwl.weight - marked[:, None]).abs().sum((0, 2, 3)).argmin()
    energies = energy(supernet, [x])(block.conv_pwl)
    assert (energies.diff() <= 0).all() and energies[found] < 1e-6 * energies[0]
    torch.testing.assert_close(supernet(x), before, rtol=1e-3, atol=1e-4)
    other.sort_channels()
    torch.testing.assert_close(other.elastic_stages()[0][1].conv_pwl.weight[:, 0], marked)


@pytest.mark.parametrize('given, naming', [
    (images(2, 3, 32, 32), r'float32 \(2, 3, 32, 32\).*\(N, 3, 24, 24\)'),
    (images(2, 1, 24, 24), r'\(2, 1, 24, 24\).*\(N, 3, 24, 24\)'), (images(3, 24, 24), r'\(3, 24, 24\)'),
    (torch.zeros(2, 3, 24, 24, dtype=torch.uint8), 'uint8.*normalized floats'), ([], 'no images'),
    (torch.zeros(0, 3, 24, 24), 'no images'), ([np.zeros((2, 3, 24, 24))], 'ndarray'),
    (torch.tensor(3.0), 'a batch of'), (torch.full((2, 3, 24, 24), float('nan')), 'a batch of 2 images holds NaN')])
def test_wrong_images_are_one_line(given, naming):
    supernet = make()
    with pytest.raises(InputError, match=naming) as caught:
        repair(supernet, replace(supernet.space.min_arch(), resolution=SIDE), given)
    assert '\n' not in str(caught.value)


def test_an_arch_of_another_space_is_one_line():
    supernet = make()
    with pytest.raises(InputError) as caught:
        repair(supernet, make('ofa_lite0').space.min_arch(), images(2, 3, 64, 64))
    assert '\n' not in str(caught.value)
    assert isinstance(supernet, nn.Module)
