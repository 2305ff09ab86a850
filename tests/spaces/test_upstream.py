"""Archs of the original code are read, and wrong ones are refused by name."""
import pytest
from refusals import one_line

from timm_ofa.errors import InputError
from timm_ofa.spaces.shelf import load_space

NOTEBOOK = {  # the result that the original's tutorial notebook prints, with one entry a position
    'r': [192], 'd': [2, 2, 3, 4, 3],
    'ks': [5, 3, 3, 3, 5, 3, 3, 3, 7, 7, 3, 3, 5, 5, 7, 3, 3, 3, 5, 3],
    'e': [3, 3, 3, 3, 4, 4, 3, 3, 6, 3, 4, 3, 4, 4, 4, 3, 6, 6, 6, 3]}
NOTEBOOK_TEXT = 'r192:k5,3/5,3/7,7,3/5,5,7,3/3,3,5:e3,3/4,4/6,3,4/4,4,4,3/6,6,6'


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
    ({'r': [192, 224]}, r'resolution: \[192, 224\]'), ({'r': 'big'}, "resolution: 'big'"), ({'r': True},
    'resolution: True'),
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
