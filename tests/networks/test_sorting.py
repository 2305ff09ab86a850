"""Channel sorting: by importance, and without a change of what is trained already."""
from dataclasses import replace
from itertools import pairwise

import pytest
import timm
import torch
from supernet_makers import MOBILE, images, make, randomize

from timm_ofa.spaces.rows import make_divisible

HIDDEN = {'conv_reduce.weight', 'conv_reduce.bias', 'conv_expand.weight'}  # of squeeze-and-excite


def at_ratios(space, keep):
    """The spaces to keep while sorting: one of these expand ratios, if any."""
    return [space.restrict(expand_ratios=keep)] if keep else []


def widened(space, ratio):
    """The largest arch at another expand ratio."""
    arch = space.max_arch()
    return replace(arch, expand_ratio=tuple((ratio,) * len(s) for s in arch.expand_ratio))


@torch.no_grad()
@pytest.mark.parametrize('keep, kept', [((), [4]), ((3, 4), [3, 4]), ((2, 3, 4), [2, 3, 4])])
def test_sorting_keeps_the_largest_net_and_the_ratios_it_is_told_to(tiny, keep, kept):
    x = images(2, 3, 32, 32)
    before = {ratio: tiny(x, widened(tiny.space, ratio)) for ratio in (2, 3, 4)}
    tiny.sort_channels(keep=at_ratios(tiny.space, keep))
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
    model.sort_channels(keep=at_ratios(model.space, (middle, max(model.space.stages[0].expand_ratios))))
    importance = block.conv_pwl.weight.abs().sum((0, 2, 3))
    torch.testing.assert_close(importance[[0, border]], torch.stack([largest[:border].max(), largest[border:].max()]))
    assert importance[border] > importance[border - 1]


@torch.no_grad()
@pytest.mark.parametrize('keep, kept', [((), [0.35]), ((0.25, 0.35), [0.25, 0.35])])
def test_sorting_a_resnet_keeps_what_it_is_told_to_and_puts_important_channels_first(keep, kept):
    model, x = make('ofa_resnet_tiny'), images(2, 3, 32, 32)
    before = {ratio: model(x, widened(model.space, ratio)) for ratio in (0.2, 0.25, 0.35)}
    model.sort_channels(keep=[space.restrict(widths=1) for space in at_ratios(model.space, keep)])
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
@pytest.mark.parametrize('name', ['ofa_mbv3_tiny', 'ofa_resnet_tiny'])
def test_what_phases_have_trained_stays_as_it_is(name, rng):
    """After a phase over the whole space, and after two that trained different parts of it."""
    model, x = make(name), images(2, 3, 32, 32)
    space, ratios = model.space, model.space.stages[0].expand_ratios
    parts = [space.restrict(expand_ratios=ratios[:1], widths=1), space.restrict(expand_ratios=ratios[1:2], widths=2)]
    for keep in ([space], parts):
        archs = [arch for part in keep for arch in [part.min_arch(), *part.sample(rng, 8)]]
        before = [model(x, arch) for arch in archs]
        model.sort_channels(keep=keep)
        for arch, expected in zip(archs, before):
            torch.testing.assert_close(model(x, arch), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    archs = space.sample(rng, 20)
    before = [model(x, arch) for arch in archs]
    model.sort_channels()
    changes = [float((model(x, arch) - y).abs().max() / y.abs().max()) for arch, y in zip(archs, before)]
    assert max(changes) > 1e-2  # without them, narrow subnets are others


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
        ours.sort_channels(keep=[s.restrict(widths=1) for s in at_ratios(ours.space, keep)])
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
        ours.sort_channels(keep=[s.restrict(widths=1) for s in at_ratios(ours.space, keep)])
        expected = convert_upstream(theirs.state_dict(), ours)
        assert all(torch.equal(v, expected[k]) for k, v in ours.state_dict().items())
