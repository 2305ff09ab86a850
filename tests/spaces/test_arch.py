"""Archs: one value for each network, and wrong ones are refused by name."""
import json

import numpy as np
import pytest
from refusals import one_line

from timm_ofa.errors import InputError
from timm_ofa.spaces.arch import Arch
from timm_ofa.spaces.shelf import load_space


def test_text_and_json_give_the_same_arch_back(space, rng):
    for arch in [space.max_arch(), space.min_arch(), *space.sample(rng, 200)]:
        assert space.parse(str(arch)) == arch
        assert Arch.from_dict(json.loads(json.dumps(arch.to_dict()))) == arch
        assert hash(space.parse(f' {arch} ')) == hash(arch)


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
    ('r33:k3/3/3:e2/2/2', 'resolution 33'), ('r-32:k3/3/3:e2/2/2', 'resolution: -32'),
    ('r32:k3/3:e2/2/2', 'kernel_size has 2 stages'), ('r32:k3/3/3:e2/2/2/2', 'expand_ratio has 4 stages'),
    ('r32:k3,3,3,3/3/3:e2,2,2,2/2/2', 'kernel_size in stage 1 has 4 blocks'), ('r32:k9/3/3:e2/2/2', 'kernel_size 9'),
    ('r32:k3/3/3:e2/2/2.5', 'expand_ratio 2.5 in stage 3'), ('r32:k3/3/3:e2/2/nan', r'expand_ratio\[2\]: nan'),
    ('r32:k3/3/3:e2/2/1e99', r'expand_ratio\[2\]: 1e.99'), ('r32:k3/3/3:e2/2/-2', r'expand_ratio\[2\]: -2'),
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
    ({'width': 48}, 'width: 48'), ({'width': [48.5, 128, 168]}, r'width: 48\.5'),
    ({'width': [True, 128, 168]}, 'width: True'),
    ({'width': [48, 128, 10**9]}, 'width: 1000000000'), ({'stem_width': [16]}, r'stem_width \[16\]'),
    ({'stem_width': [16, 24, 32]}, r'stem_width \[16, 24, 32\]'), ({'stem_width': '16'}, "stem_width: '16'"),
    ({'kernel_size': [[9], [3], [3]]}, 'kernel_size 9'), ({'expand_ratio': [[0.3], [0.2], [0.2]]}, 'expand_ratio 0.3'),
    ({'w': [0, 1, 2]}, "'w'")])
def test_a_wrong_arch_of_elastic_widths_names_the_field(change, naming):
    space = load_space('ofa_resnet_tiny')
    assert space.check(Arch.from_dict(WIDE)).to_dict() == WIDE
    with pytest.raises(InputError, match=naming) as error:
        space.check(Arch.from_dict({**WIDE, **change}))
    one_line(error)


GOOD = {'resolution': 32, 'kernel_size': [[3], [3], [3]], 'expand_ratio': [[2], [2], [2]]}


def test_widths_are_refused_where_they_are_fixed(tiny):
    with pytest.raises(InputError, match=r'width .*no elastic widths'):
        tiny.check(Arch.from_dict({**GOOD, 'width': [24, 40, 80]}))


@pytest.mark.parametrize('change, naming', [
    ({'resolution': 32.5}, r'resolution: 32\.5'), ({'resolution': '32'}, "resolution: '32'"), ({'resolution': True},
    'resolution'),
    ({'resolution': 10**400}, 'resolution: 1000'), ({'resolution': -32}, 'resolution: -32'), ({'resolution': None},
    'resolution'),
    ({'resolution': [32]}, 'resolution'), ({'kernel_size': [3, 3, 3]}, 'kernel_size'), ({'kernel_size': 3},
    'kernel_size: 3'),
    ({'kernel_size': [[3.5], [3], [3]]}, r'kernel_size\[0\]: 3\.5'), ({'kernel_size': '3/3/3'}, 'kernel_size'),
    ({'kernel_size': [[3], [3], ['3']]}, r'kernel_size\[2\]: .3'), ({'expand_ratio': [[None], [2], [2]]},
    'expand_ratio'),
    ({'expand_ratio': [[2], [float('inf')], [2]]}, r'expand_ratio\[1\]: inf'), ({'expand_ratio': {}},
    'expand_ratio'),
    ({'expand_ratio': [[2], [float('nan')], [2]]}, r'expand_ratio\[1\]: nan'), ({'ks': 3}, "'ks'"),
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
