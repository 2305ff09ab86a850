"""Search spaces: exact counts, sampling, codes, and fewer choices."""
from dataclasses import replace

import numpy as np
import pytest

from timm_ofa.errors import InputError
from timm_ofa.spaces.shelf import load_space


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


def test_sampling_is_a_function_of_the_generator_and_reaches_every_choice(tiny):
    archs = tiny.sample(np.random.default_rng(5), 300)
    assert archs == tiny.sample(np.random.default_rng(5), 300) != tiny.sample(np.random.default_rng(6), 300)
    assert {a.resolution for a in archs} == set(tiny.resolutions)
    for i, stage in enumerate(tiny.stages):
        assert {a.depth[i] for a in archs} == set(stage.depths)
        assert {k for a in archs for k in a.kernel_size[i]} == set(stage.kernel_sizes)
        assert {e for a in archs for e in a.expand_ratio[i]} == set(stage.expand_ratios)


def test_extra_resolutions_are_accepted_but_neither_drawn_nor_encoded(w12, rng):
    arch = w12.max_arch(236)
    assert w12.check(arch) is arch
    assert 236 not in {a.resolution for a in w12.sample(rng, 300)}
    with pytest.raises(InputError, match='resolution 236'):
        w12.encode([arch])


def test_only_archs_are_checked_and_encoded(tiny):
    for nonsense in (tiny.min_arch().to_dict(), str(tiny.min_arch()), None):
        with pytest.raises(InputError, match=r'Arch.from_dict or space.parse'):
            tiny.encode([nonsense])


def test_codes_give_the_same_archs_back(space, rng):
    archs = [space.max_arch(), space.min_arch(), *space.sample(rng, 200)]
    codes = space.encode(archs)
    assert codes.shape == (202, 1 + len(space.positions)) and codes.dtype == np.int64
    assert space.decode(codes) == archs
    assert len(np.unique(codes, axis=0)) == len(set(archs))
    assert space.encode([]).shape == (0, codes.shape[1])


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
    {'depths': [9]}, {'kernel_sizes': [7]}, {'expand_ratios': [6]}, {'resolutions': [224]}, {'resolutions': []},
    {'kernel_sizes': []}])
def test_restricting_to_nothing_names_the_dimension(tiny, wanted):
    with pytest.raises(InputError, match=f'{next(iter(wanted))}.*ofa_mbv3_tiny'):
        tiny.restrict(**wanted)


@pytest.mark.parametrize('name, wanted, message', [
    ('ofa_mbv3_tiny', {'resolutions': [20, 25]}, 'resolutions 25 is not in ofa_mbv3_tiny; the nearest is 24, choose'),
    ('ofa_mbv3_tiny', {'expand_ratios': [4, 9]}, 'expand_ratios 9 .*nearest is 4, choose from 2, 3, 4'),
    ('ofa_mbv3_tiny', {'depths': [1, 2, 99]}, 'depths 99 .*nearest is 3'),
    ('ofa_mbv3_tiny', {'kernel_sizes': [5, float('nan')]}, 'kernel_sizes nan'),
    ('ofa_mbv3_tiny', {'kernel_sizes': [5, '3']}, "kernel_sizes '3' is not in ofa_mbv3_tiny; choose from 3, 5"),
    ('ofa_mbv3_tiny', {'kernel_sizes': [[5]]}, r'kernel_sizes \[5\] is not in'),
    ('ofa_resnet_tiny', {'kernel_sizes': [3, 5]}, 'kernel_sizes 5 .*nearest is 3'),
    ('ofa_resnet_tiny', {'expand_ratios': [0.2, 0.3]}, r'expand_ratios 0\.3 .*nearest is 0\.25')])
def test_a_value_that_no_stage_has_is_refused_with_the_nearest_one(name, wanted, message):
    with pytest.raises(InputError, match=message) as error:
        load_space(name).restrict(**wanted)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('wanted', ['160', 160])
def test_a_restriction_that_is_no_list_is_refused(w12, wanted):
    with pytest.raises(InputError, match=r'resolutions .*160.* is not a list'):
        w12.restrict(resolutions=wanted)


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
