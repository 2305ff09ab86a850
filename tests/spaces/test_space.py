"""Search spaces and archs: exact counts, one value per network, and a border that refuses by name."""
import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from timm_ofa import Arch, InputError, SearchSpace, load_space
from timm_ofa.networks.stock import ENTRY_POINTS, model_args
from timm_ofa.spaces.rows import make_divisible
from timm_ofa.spaces.shelf import space_names

NOTEBOOK = {  # the result that the original's tutorial notebook prints, with one entry a position
    'r': [192], 'd': [2, 2, 3, 4, 3],
    'ks': [5, 3, 3, 3, 5, 3, 3, 3, 7, 7, 3, 3, 5, 5, 7, 3, 3, 3, 5, 3],
    'e': [3, 3, 3, 3, 4, 4, 3, 3, 6, 3, 4, 3, 4, 4, 4, 3, 6, 6, 6, 3]}
NOTEBOOK_TEXT = 'r192:k5,3/5,3/7,7,3/5,5,7,3/3,3,5:e3,3/4,4/6,3,4/4,4,4,3/6,6,6'


@pytest.fixture(scope='module', params=space_names())
def space(request):
    return load_space(request.param)


@pytest.fixture(scope='module')
def w12():
    return load_space('ofa_mbv3_w12')


@pytest.fixture(scope='module')
def tiny():
    return load_space('ofa_mbv3_tiny')


def one_line(error):
    assert '\n' not in str(error.value)
    assert len(str(error.value)) < 400
    return str(error.value)


def refused(data, path, value, naming):
    """A space with another value at this path is refused in one line; `...`: without the value."""
    *outer, name = path
    target = data
    for part in outer:
        target = target[part]
    if value is ...:
        del target[name]
    else:
        target[name] = value
    with pytest.raises(InputError, match=naming) as error:
        SearchSpace.from_dict(data, 'space own.json')
    return one_line(error)


# ---- counting --------------------------------------------------------------------------------------------------------


def test_the_published_spaces_hold_7371_to_the_fifth_networks(w12, tiny):
    assert w12.size() == load_space('ofa_mbv3_w10').size() == (9**2 + 9**3 + 9**4) ** 5 == 7371**5
    assert tiny.size() == (6 + 6**2 + 6**3) ** 3
    assert load_space('ofa_proxyless_w13').size() == 7371**5 * 9


def test_resnet50d_holds_the_distinct_ones_of_the_published_count():
    """The original counts 2.459e12: two of its three widths of the inner stem are the same 24 channels."""
    published = 2 * 3**6 * (3**2 + 3**3 + 3**4) ** 3 * (3**4 + 3**5 + 3**6)
    assert load_space('ofa_resnet50d').size() * 3 == published * 2


def test_size_is_the_number_of_distinct_archs(tiny):
    small = tiny.restrict(depths=[1, 2], kernel_sizes=[3], expand_ratios=[2, 4], resolutions=[32])
    assert small.size() == (2 + 4) ** 3
    assert len(set(small.sample(np.random.default_rng(0), 6000))) == small.size()


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
    assert w12.rows(w12.parse(NOTEBOOK_TEXT))[4].key == '48x48x32/ir_r1_k5_s2_e4_c48_se0.25_nre'


def test_all_rows_holds_the_rows_of_every_arch_once(space, rng):
    resolution = space.resolutions[0]
    rows = space.all_rows(resolution)
    assert len(rows) == len(set(rows)) == len({row.key for row in rows})
    for arch in space.restrict(resolutions=[resolution]).sample(rng, 50):
        assert set(space.rows(arch)) <= set(rows)


def test_divisible_widths_keep_nine_tenths():
    assert [make_divisible(v) for v in (16 * 1.2, 24 * 1.2, 112 * 1.2, 18, 10, 1)] == [24, 32, 136, 24, 16, 8]


# ---- one value per network -------------------------------------------------------------------------------------------


def test_text_and_json_give_the_same_arch_back(space, rng):
    for arch in [space.max_arch(), space.min_arch(), *space.sample(rng, 200)]:
        assert space.parse(str(arch)) == arch
        assert Arch.from_dict(json.loads(json.dumps(arch.to_dict()))) == arch
        assert hash(space.parse(f' {arch} ')) == hash(arch)


def test_codes_give_the_same_archs_back(space, rng):
    archs = [space.max_arch(), space.min_arch(), *space.sample(rng, 200)]
    codes = space.encode(archs)
    assert codes.shape == (202, 1 + len(space.positions)) and codes.dtype == np.int64
    assert space.decode(codes) == archs
    assert len(np.unique(codes, axis=0)) == len(set(archs))
    assert space.encode([]).shape == (0, codes.shape[1])


def test_cost_table_adds_up_the_rows(space, rng):
    archs = space.sample(rng, 200)
    codes = space.encode(archs)
    np.testing.assert_array_equal(space.cost_table(lambda row: row.macs)(codes), [space.macs(a) for a in archs])
    np.testing.assert_array_equal(
        space.cost_table(lambda row: row.params, 7)(codes), [space.params(a, 7) for a in archs])


def test_sampling_is_a_function_of_the_generator_and_reaches_every_choice(tiny):
    archs = tiny.sample(np.random.default_rng(5), 300)
    assert archs == tiny.sample(np.random.default_rng(5), 300) != tiny.sample(np.random.default_rng(6), 300)
    assert {a.resolution for a in archs} == set(tiny.resolutions)
    for i, stage in enumerate(tiny.stages):
        assert {a.depth[i] for a in archs} == set(stage.depths)
        assert {k for a in archs for k in a.kernel_size[i]} == set(stage.kernel_sizes)
        assert {e for a in archs for e in a.expand_ratio[i]} == set(stage.expand_ratios)


def test_the_notebook_arch_of_the_original_is_read(w12):
    arch = w12.from_upstream(NOTEBOOK)
    assert str(arch) == NOTEBOOK_TEXT
    other = {k: v for k, v in NOTEBOOK.items() if k != 'r'}
    assert arch == w12.from_upstream({**other, 'image_size': 192, 'wid': None})


def test_upstream_archs_that_differ_only_in_inactive_positions_are_equal(w12):
    other = {**NOTEBOOK, 'ks': list(NOTEBOOK['ks'])}
    other['ks'][2] = 7
    assert w12.from_upstream(other) == w12.from_upstream(NOTEBOOK)
    other['ks'][0] = 7
    assert w12.from_upstream(other) != w12.from_upstream(NOTEBOOK)


def test_upstream_scalars_hold_for_all_positions(w12):
    assert w12.from_upstream({'ks': 7, 'e': 6, 'd': 4, 'r': [224]}) == w12.max_arch()
    assert w12.from_upstream({'ks': 3, 'e': 3, 'd': 2, 'image_size': 160}) == w12.min_arch()


@pytest.mark.parametrize('change, naming', [
    ({'ks': [3] * 19}, "'ks' has 19 entries"), ({'e': [6] * 21}, "'e' has 21 entries"),
    ({'d': [4] * 4}, "'d' has 4 entries"), ({'ks': []}, "'ks' has 0 entries"), ({'d': 5}, "'d' 5"), ({'d': 2.5},
    "'d' 2.5"),
    ({'d': None}, "'d' None"), ({'d': '2'}, "'d' '2'"), ({'ks': 9}, 'kernel_size 9'), ({'ks': 3.5}, 'kernel_size.*3.5'),
    ({'ks': None}, 'kernel_size.*None'), ({'e': 5}, 'expand_ratio 5'), ({'e': 'six'}, "expand_ratio.*'six'"),
    ({'e': 10**30}, 'expand_ratio'), ({'e': float('nan')}, 'expand_ratio.*nan'), ({'r': [100]}, 'resolution 100'),
    ({'r': [192, 224]}, r'resolution \[192, 224\]'), ({'r': 'big'}, "resolution 'big'"), ({'r': True},
    'resolution True'),
    ({'wid': 0}, 'wid'), ({'w': [2] * 6}, "'w'.*keys"), ({'colour': 1}, 'colour')])
def test_a_wrong_upstream_arch_is_refused_naming_the_field(w12, change, naming):
    with pytest.raises(InputError, match=naming) as error:
        w12.from_upstream({'ks': 3, 'e': 3, 'd': 2, 'r': [192], **change})
    one_line(error)


@pytest.mark.parametrize('data', [
    {'d': [2, 0, 0, 0, 0], 'e': [0.2] * 18, 'w': [0] * 6, 'image_size': 224}, {'ks': 3, 'e': 3}, {}, [], None, 'ks=3'])
def test_what_is_no_upstream_mobilenet_is_refused(w12, data):
    with pytest.raises(InputError, match='d, e, ks') as error:
        w12.from_upstream(data)
    one_line(error)


RESNET = {'d': [2, 0, 1, 2, 0], 'e': [0.25] * 18, 'w': [2, 1, 0, 1, 2, 0], 'image_size': 224}


def test_an_upstream_resnet_is_read():
    space = load_space('ofa_resnet50d')
    arch = space.from_upstream(RESNET)
    assert (arch.depth, arch.stem_width, arch.width) == ((2, 3, 6, 2), (32, 32, 48), (168, 408, 1024, 1328))
    assert space.from_upstream({**RESNET, 'd': [0, 0, 1, 2, 0]}).stem_width == (32, 48)
    assert {space.from_upstream({**RESNET, 'w': [w, 1, 0, 1, 2, 0]}).stem_width[0] for w in (0, 1)} == {24}
    assert space.from_upstream({'d': 2, 'e': 0.35, 'w': 2, 'image_size': 256}) == space.max_arch()
    assert str(arch).startswith('r224:s32,32,48:w168,408,1024,1328:k3,3/') and space.parse(str(arch)) == arch


def test_a_restricted_space_reads_the_positions_of_the_whole_one():
    space = load_space('ofa_resnet50d')
    arch = {'d': 2, 'e': 0.35, 'w': 2, 'image_size': 256}
    assert space.restrict(deepest=1, widths=2).from_upstream(arch) == space.max_arch()
    with pytest.raises(InputError, match='2 blocks'):
        space.restrict(deepest=1).from_upstream({**arch, 'd': 0})


@pytest.mark.parametrize('change, naming', [
    ({'ks': 7}, "'ks'"), ({'ks': 7, 'e': 6, 'd': 4}, "'ks'"), ({'e': 6}, 'expand_ratio 6'),
    ({'d': [2, 0, 0, 0]}, "'d'"), ({'d': [2, 0, 0, 0, 3]}, "'d'"),
    ({'d': [2, 0.5, 0, 0, 0]}, "'d'"), ({'d': [2, 10**30, 0, 0, 0]}, "'d'"),
    ({'e': [0.25] * 20}, "'e' has 20"), ({'w': [2] * 5}, "'w' has 5"), ({'w': [3] * 6}, "'w' 3"),
    ({'w': [-1] * 6}, "'w' -1"), ({'w': [1.0] * 6}, "'w' 1.0"), ({'w': '222222'}, "'w' '222222'"),
    ({'w': None}, "'w' None"),
    ({'image_size': 223}, 'resolution 223'), ({'r': [224]}, "'r'"), ({'wid': None}, "'wid'")])
def test_a_wrong_upstream_resnet_is_refused_naming_the_field(change, naming):
    with pytest.raises(InputError, match=naming) as error:
        load_space('ofa_resnet50d').from_upstream({**RESNET, **change})
    one_line(error)


# ---- wrong archs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('text', [
    '', 'nonsense', 'r32', 'r32:k3/3/3', 'k3/3/3:e2/2/2:r32', 'r32:k3/3/3:e2/2/x', 'r32.5:k3/3/3:e2/2/2',
    'r:k3/3/3:e2/2/2',
    'r32:k3/3/:e2/2/2', 'r32:k/3/3:e2/2/2', 'r32:k3.0/3/3:e2/2/2', 'r32:k3/3/3:e2/2/2:', "{'ks': 3}", 'r32:k3/3/3:e',
    f'r{"9" * 5000}:k3/3/3:e2/2/2', None, 7])
def test_text_that_is_no_arch_is_refused_with_an_example(tiny, text):
    with pytest.raises(InputError, match='write it like r20:k3/3/3:e2/2/2') as error:
        tiny.parse(text)
    one_line(error)


@pytest.mark.parametrize('text, naming', [
    ('r33:k3/3/3:e2/2/2', 'resolution 33'), ('r-32:k3/3/3:e2/2/2', 'resolution -32'),
    ('r32:k3/3:e2/2/2', 'kernel_size has 2 stages'), ('r32:k3/3/3:e2/2/2/2', 'expand_ratio has 4 stages'),
    ('r32:k3,3,3,3/3/3:e2,2,2,2/2/2', 'kernel_size in stage 1 has 4 blocks'), ('r32:k9/3/3:e2/2/2', 'kernel_size 9'),
    ('r32:k3/3/3:e2/2/2.5', 'expand_ratio 2.5 in stage 3'), ('r32:k3/3/3:e2/2/nan', 'expand_ratio nan'),
    ('r32:k3/3/3:e2/2/1e99', 'expand_ratio 1e.99'), ('r32:k3/3/3:e2/2/-2', 'expand_ratio -2'),
    ('r32:k3,3/3/3:e2/2/2', 'differ in length'), ('r32:k7/3/3:e2/2/2', 'kernel_size 7 in stage 1')])
def test_text_of_an_arch_outside_the_space_names_field_and_value(tiny, text, naming):
    with pytest.raises(InputError, match=naming) as error:
        tiny.parse(text)
    one_line(error)


WIDE = {
    'resolution': 32, 'kernel_size': [[3], [3], [3]], 'expand_ratio': [[0.2], [0.25], [0.35]], 'width': [48, 128, 168],
    'stem_width': [16, 16, 32]}


@pytest.mark.parametrize('change, naming', [
    ({'width': [48, 128]}, 'width has 2 entries'), ({'width': []}, 'width has 0 entries'), ({'width': [48, 128, 17]},
    'width 17 of stage 3'),
    ({'width': 48}, 'width 48'), ({'width': [48.0, 128, 168]}, 'width 48.0'),
    ({'width': [True, 128, 168]}, 'width True'),
    ({'width': [48, 128, 10**9]}, 'width 1000000000'), ({'stem_width': [16]}, r'stem_width \[16\]'),
    ({'stem_width': [16, 24, 32]}, r'stem_width \[16, 24, 32\]'), ({'stem_width': '16'}, "stem_width '16'"),
    ({'kernel_size': [[9], [3], [3]]}, 'kernel_size 9'), ({'expand_ratio': [[0.3], [0.2], [0.2]]}, 'expand_ratio 0.3'),
    ({'w': [0, 1, 2]}, "'w'")])
def test_a_wrong_arch_of_elastic_widths_names_the_field(change, naming):
    space = load_space('ofa_resnet_tiny')
    assert space.check(Arch.from_dict(WIDE)).to_dict() == WIDE
    with pytest.raises(InputError, match=naming) as error:
        space.check(Arch.from_dict({**WIDE, **change}))
    one_line(error)


def test_widths_are_refused_where_they_are_fixed(tiny):
    with pytest.raises(InputError, match=r'width .*no elastic widths'):
        tiny.check(Arch.from_dict({**GOOD, 'width': [24, 40, 80]}))


def test_fewer_widths_keep_the_largest_and_a_single_depth_the_whole_stem(rng):
    space = load_space('ofa_resnet_tiny')
    wide = space.restrict(widths=2)
    assert [s.widths for s in wide.stages] == [s.widths[1:] for s in space.stages]
    assert {s[0] for s in wide.stem_widths} == {16, 24} and {s[-1] for s in wide.stem_widths} == {24, 32}
    assert space.restrict(widths=1).stem_widths == ((24, 32), (24, 24, 32))
    assert all(len(s) == 3 for s in space.restrict(depths=[3]).stem_widths)
    largest = space.restrict(widths=1, depths=[3], expand_ratios=[0.35], resolutions=[32])
    assert largest.size() == 1 and largest.max_arch() == space.max_arch() == largest.sample(rng)
    with pytest.raises(InputError, match='widths 0'):
        space.restrict(widths=0)


@pytest.mark.parametrize('path, value, naming', [
    (('stem_widths',), [[16]], 'stem_widths'), (('stem_widths',), [[16, 24, 32]], 'stem_widths'), (('stem_widths',), [],
    'stem_widths'), (('stem_widths',), [[16, 24]] * 2, 'stem_widths'), (('last_width',), 64, 'last_width'),
    (('first',), {'width': 16, 'stride': 1, 'act': 're'}, 'first'), (('stages', 0, 'widths'), [24, 48], 'widths'),
    (('stages', 0, 'block'), 'ir', "block 'ir'"), (('stages', 0, 'kernel_sizes'), [3, 5], 'stage 1'),
    (('stages', 0, 'widths'), [48, 40], 'widths'), (('stages', 2, 'widths'), list(range(136, 8000, 8)), 'combinations'),
    (('stem_stride',), 3, 'stride 3')])
def test_a_resnet_space_that_cannot_be_built_is_refused_naming_the_field(path, value, naming):
    refused(load_space('ofa_resnet_tiny').to_dict(), path, value, naming)


GOOD = {'resolution': 32, 'kernel_size': [[3], [3], [3]], 'expand_ratio': [[2], [2], [2]]}


@pytest.mark.parametrize('change, naming', [
    ({'resolution': 32.0}, 'resolution 32.0'), ({'resolution': '32'}, "resolution '32'"), ({'resolution': True},
    'resolution'),
    ({'resolution': 10**400}, 'resolution 1000'), ({'resolution': -32}, 'resolution -32'), ({'resolution': None},
    'resolution'),
    ({'resolution': [32]}, 'resolution'), ({'kernel_size': [3, 3, 3]}, 'kernel_size'), ({'kernel_size': 3},
    'kernel_size 3'),
    ({'kernel_size': [[3.5], [3], [3]]}, 'kernel_size in stage 1 3.5'), ({'kernel_size': '3/3/3'}, 'kernel_size'),
    ({'kernel_size': [[3], [3], ['3']]}, 'kernel_size in stage 3'), ({'expand_ratio': [[None], [2], [2]]},
    'expand_ratio'),
    ({'expand_ratio': [[2], [float('inf')], [2]]}, 'expand_ratio in stage 2 inf'), ({'expand_ratio': {}},
    'expand_ratio'),
    ({'expand_ratio': [[2], [float('nan')], [2]]}, 'expand_ratio in stage 2 nan'), ({'ks': 3}, "'ks'"),
    ({'depth': [1, 1, 1]}, "'depth'"), ({'x' * 9999: 3}, 'xxx')])
def test_a_wrong_arch_dictionary_names_the_field(change, naming):
    with pytest.raises(InputError, match=naming) as error:
        Arch.from_dict({**GOOD, **change})
    one_line(error)


@pytest.mark.parametrize('name', GOOD)
def test_a_missing_arch_field_is_named(name):
    with pytest.raises(InputError, match=f"'{name}' is missing"):
        Arch.from_dict({k: v for k, v in GOOD.items() if k != name})


@pytest.mark.parametrize('data', [None, [], 'r32', 3])
def test_what_is_no_arch_dictionary_is_refused(data):
    with pytest.raises(InputError, match='not an object'):
        Arch.from_dict(data)


def test_whole_ratios_are_equal_however_they_are_written(tiny):
    arch = Arch.from_dict({**GOOD, 'expand_ratio': [[2.0], [np.float64(2)], [np.int64(2)]]})
    assert arch == Arch.from_dict(GOOD)
    assert str(arch) == str(tiny.parse('r32:k3/3/3:e2.0/2/2')) == 'r32:k3/3/3:e2/2/2'


def test_extra_resolutions_are_accepted_but_neither_drawn_nor_encoded(w12, rng):
    arch = w12.max_arch(236)
    assert w12.check(arch) is arch
    assert 236 not in {a.resolution for a in w12.sample(rng, 300)}
    with pytest.raises(InputError, match='resolution 236'):
        w12.encode([arch])


def test_only_archs_are_checked_and_encoded(tiny):
    for nonsense in (GOOD, str(tiny.min_arch()), None):
        with pytest.raises(InputError, match=r'Arch.from_dict or space.parse'):
            tiny.encode([nonsense])


# ---- fewer choices ---------------------------------------------------------------------------------------------------


def test_a_restricted_space_draws_only_what_is_left(tiny, rng):
    small = tiny.restrict(depths=[3], kernel_sizes=[3, 5], expand_ratios=[4], resolutions=[24, 32])
    archs = small.sample(rng, 100)
    assert {a.depth for a in archs} == {(3, 3, 3)}
    assert {e for a in archs for stage in a.expand_ratio for e in stage} == {4}
    assert {k for a in archs for stage in a.kernel_size for k in stage} == {3, 5}
    assert {a.resolution for a in archs} == {24, 32}
    assert all(tiny.check(arch) for arch in archs)
    assert tiny.restrict() == tiny


def test_choices_that_some_stages_lack_are_dropped_there_alone(tiny):
    first = replace(tiny.stages[0], kernel_sizes=(3,))
    mixed = replace(tiny, stages=(first, *tiny.stages[1:])).restrict(kernel_sizes=[5])
    assert [s.kernel_sizes for s in mixed.stages] == [(3,), (5,), (5,)]


@pytest.mark.parametrize('wanted', [
    {'depths': [9]}, {'kernel_sizes': [7]}, {'expand_ratios': [6]}, {'resolutions': [224]}, {'resolutions': []}])
def test_restricting_to_nothing_names_the_dimension(tiny, wanted):
    with pytest.raises(InputError, match=f'{next(iter(wanted))}.*ofa_mbv3_tiny'):
        tiny.restrict(**wanted)


# ---- files -----------------------------------------------------------------------------------------------------------


def test_a_space_file_outside_the_shelf_loads_by_path(space, tmp_path):
    path = tmp_path / 'own.json'
    path.write_text(json.dumps(space.to_dict()))
    assert load_space(str(path)) == load_space(path) == load_space(space) == space
    assert SearchSpace.from_dict(space.to_dict()) == space


def test_unknown_spaces_are_refused_with_the_shelf(tmp_path):
    for name in ('ofa_mbv3_w99', '', str(tmp_path), str(tmp_path / 'none.json'), 'x' * 5000):
        with pytest.raises(InputError, match='ofa_mbv3_tiny, ofa_mbv3_w10, ofa_mbv3_w12') as error:
            load_space(name)
        one_line(error)


@pytest.mark.parametrize('content', ['', '{', '[]', 'null', '"ofa_mbv3_tiny"', '{"name": "x"}', '\x00'])
def test_a_file_that_is_no_space_is_refused(content, tmp_path):
    path = tmp_path / 'own.json'
    path.write_text(content)
    with pytest.raises(InputError, match=r'own\.json') as error:
        load_space(path)
    one_line(error)


def fields_of(data):
    inner = [('first', name) for name in data['first']] + [('stages', 1, name) for name in data['stages'][1]]
    return [(name,) for name in data] + inner


FIELDS = fields_of(load_space('ofa_mbv3_tiny').to_dict())


@pytest.mark.parametrize('path', FIELDS, ids=lambda path: '.'.join(map(str, path)))
@pytest.mark.parametrize('value', [None, {}, True, float('nan'), ...], ids=['null', 'object', 'true', 'nan', 'missing'])
def test_every_field_of_a_space_file_is_checked(path, value):
    line = refused(load_space('ofa_mbv3_tiny').to_dict(), path, value, naming=path[-1])
    assert line.startswith('space own.json')


def test_a_space_file_that_was_changed_is_read_anew(w12, tmp_path):
    path = tmp_path / 'own.json'
    for resolutions in ([160], [160, 192]):
        path.write_text(json.dumps({**w12.to_dict(), 'name': 'own', 'resolutions': resolutions}))
        assert list(load_space(path).resolutions) == resolutions


@pytest.mark.parametrize('wanted', ['160', 160])
def test_a_restriction_that_is_no_list_is_refused(w12, wanted):
    with pytest.raises(InputError, match=r'resolutions .*160.* is not a list'):
        w12.restrict(resolutions=wanted)


@pytest.mark.parametrize('path, value, naming', [
    (('family',), 'vit', "family 'vit'"), (('stem_widths',), [[17]], 'width 17'), (('stem_pool',), True, 'stem_pool'),
    (('stem_widths',), [[16.5]], 'stem_widths: 16.5'), (('stem_widths',), [[16], [24]], 'stem_widths'),
    (('first',), None, 'first'), (('stages', 0, 'widths'), [16, 24], 'widths'), (('family',), 'byobnet', 'byobnet'),
    (('family',), 'efficientnet', 'num_features'),
    (('last_width',), 10**9, 'width 1000000000'), (('num_features',), -8, 'width -8'), (('act',), 'gelu', "act 'gelu'"),
    (('first', 'stride'), 3, 'stride 3'), (('stem_stride',), 0, 'stride 0'), (('first', 'colour'), 1, "'colour'"),
    (('stages',), [], 'stages'), (('stages', 0, 'widths'), [20], 'width 20'), (('stages', 0, 'kernel_sizes'),
    [2, 3], 'odd'),
    (('stages', 2, 'kernel_sizes'), [5, 3], 'kernel_sizes .*stage 3'), (('stages', 2, 'depths'),
    [], 'depths .*stage 3'),
    (('stages', 0, 'depths'), [0, 1], 'depths .*stage 1'), (('stages', 0, 'depths'), [1, 99], 'depths .*stage 1'),
    (('stages', 0, 'depths'), [1.5], 'depths: 1.5'), (('stages', 1, 'expand_ratios'),
    [2, 2], 'expand_ratios .*stage 2'),
    (('stages', 1, 'expand_ratios'), ['2'], "expand_ratios: '2'"), (('stages', 1, 'block'),
    'er', "block 'er' of stage 2"),
    (('stages', 1, 'se_ratio'), -0.25, 'se_ratio -0.25 of stage 2'), (('resolutions',), [], 'resolutions'),
    (('resolutions',), [32, 24], 'resolutions'), (('resolutions',), [32, 10**6], 'resolution 1000000'),
    (('mean',), [0.5], 'mean'), (('mean',), ['a', 'b', 'c'], "mean.*'a'"), (('std',), [0.2, 0.2, 10**400], 'std'),
    (('crop_pct',), 0, 'crop_pct 0'), (('crop_pct',), 1.5, 'crop_pct 1.5'), (('colour',), 'red', "'colour'"),
    (('std',), [0.2, 0, 0.2], 'std'), (('bn_eps',), -1, 'bn_eps'), (('num_classes',), 0, 'num_classes')])
def test_a_space_with_a_wrong_value_is_refused_naming_it(path, value, naming):
    refused(load_space('ofa_mbv3_tiny').to_dict(), path, value, naming)
