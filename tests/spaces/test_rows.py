"""Rows of networks: what they count is what a built network has and computes."""
from itertools import pairwise

import numpy as np
import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from timm_ofa.networks.ofa import ENTRY_POINTS
from timm_ofa.networks.stock import model_args
from timm_ofa.spaces.rows import make_divisible
from timm_ofa.spaces.shelf import load_space


@pytest.mark.parametrize('name, resolution, low, high', [
    ('ofa_mbv3_w10', 128, 41.5, 188.2), ('ofa_mbv3_w10', 160, 63.2, 291.3), ('ofa_mbv3_w10', 192, 89.8, 417.3),
    ('ofa_mbv3_w10', 224, 121.3, 566.2), ('ofa_mbv3_w12', 128, 65.5, 280.0), ('ofa_mbv3_w12', 160, 100.3, 433.6),
    ('ofa_mbv3_w12', 192, 142.8, 621.3), ('ofa_mbv3_w12', 224, 193.1, 843.1),
    ('ofa_proxyless_w13', 128, 87.8, 329.3), ('ofa_proxyless_w13', 160, 136.3, 513.5),
    ('ofa_proxyless_w13', 192, 195.5, 738.7), ('ofa_proxyless_w13', 224, 265.5, 1004.9),
    ('ofa_resnet50d', 128, 315.1, 2447.6), ('ofa_resnet50d', 160, 491.6, 3823.3),
    ('ofa_resnet50d', 192, 707.3, 5504.6), ('ofa_resnet50d', 224, 962.2, 7491.6)])
def test_macs_are_those_that_the_original_code_counts(name, resolution, low, high):
    space = load_space(name)
    macs = [space.macs(arch) / 1e6 for arch in (space.min_arch(resolution), space.max_arch(resolution))]
    assert [round(m, 1) for m in macs] == [low, high]


@pytest.mark.parametrize('name, low, high', [
    ('ofa_mbv3_w10', 3.411, 7.665), ('ofa_mbv3_w12', 4.602, 10.702), ('ofa_proxyless_w13', 3.719, 7.942),
    ('ofa_resnet50d', 6.539, 48.106)])
def test_parameters_are_those_of_the_original_networks(name, low, high):
    space = load_space(name)
    params = [space.params(arch) / 1e6 for arch in (space.min_arch(), space.max_arch())]
    assert [round(p, 3) for p in params] == [low, high]


def test_rows_count_what_a_built_network_holds_and_computes(space, rng):
    archs = [space.max_arch(), space.min_arch(), *space.sample(rng, 2)]
    for arch, classes in zip(archs, (space.num_classes, 7, 1, 100)):
        model = timm.create_model(
            ENTRY_POINTS[space.family], **model_args(space, arch), num_classes=classes, device='meta').eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, arch.resolution, arch.resolution, device='meta'))
        assert space.macs(arch, classes) == counter.get_total_flops() // 2
        assert space.params(arch, classes) == sum(p.numel() for p in model.parameters())


def test_rows_follow_each_other_through_the_network(space, rng):
    for arch in space.sample(rng, 5):
        rows = space.rows(arch)
        blocks = sum(arch.depth)
        assert [row.kind for row in rows] == (
            [*(['conv', 'res', 'conv'] if len(arch.stem_width) == 3 else ['conv', 'conv']),
             *['pool'] * space.stem_pool, *['bottle'] * blocks, 'head']
            if space.elastic_widths else ['conv', 'ds', *['ir'] * blocks, 'conv', 'head'])
        assert (rows[0].size, rows[0].in_chs) == (arch.resolution, 3)
        assert all((a.out_size, a.out_chs) == (b.size, b.in_chs) for a, b in pairwise(rows))
        assert [row.kernel_size for row in rows if row.kind in ('ir', 'bottle')] == [
            k for stage in arch.kernel_size for k in stage]


def test_a_row_key_says_input_and_block(w12):
    arch = w12.parse('r192:k5,3/5,3/7,7,3/5,5,7,3/3,3,5:e3,3/4,4/6,3,4/4,4,4,3/6,6,6')
    assert w12.rows(arch)[4].key == '48x48x32/ir_r1_k5_s2_e4_c48_se0.25_nre'


def test_all_rows_holds_the_rows_of_every_arch_once(space, rng):
    resolution = space.resolutions[0]
    rows = space.all_rows(resolution)
    assert len(rows) == len(set(rows)) == len({row.key for row in rows})
    for arch in space.restrict(resolutions=[resolution]).sample(rng, 50):
        assert set(space.rows(arch)) <= set(rows)


def test_cost_table_adds_up_the_rows(space, rng):
    archs = space.sample(rng, 200)
    codes = space.encode(archs)
    np.testing.assert_array_equal(space.cost_table(lambda row: row.macs)(codes), [space.macs(a) for a in archs])
    np.testing.assert_array_equal(
        space.cost_table(lambda row: row.params, 7)(codes), [space.params(a, 7) for a in archs])


def test_divisible_widths_keep_nine_tenths():
    assert [make_divisible(v) for v in (16 * 1.2, 24 * 1.2, 112 * 1.2, 18, 10, 1)] == [24, 32, 136, 24, 16, 8]
