"""What strangers may put into a config: wrong arguments of entry-points are refused in one line."""
import pytest
import timm

from timm_ofa import InputError
from timm_ofa.networks import ENTRY_POINTS

MOBILE = 'ir_r1_k5_s2_e3_c40_se0.25_nre'
BOTTLE = 'bottle_r1_k3_s2_e0.25_c64_nre'
ANY_ENTRY_POINT = pytest.mark.parametrize(
    'entry_point, good', [('ofa_mobilenetv3', MOBILE), ('ofa_efficientnet', MOBILE), ('ofa_byobnet', BOTTLE)])


def refusal(match, entry_point, **args):
    """The one line with which these arguments are refused."""
    with pytest.raises(InputError, match=match) as error:
        timm.create_model(entry_point, **args)
    assert '\n' not in str(error.value) and len(str(error.value)) < 400
    return str(error.value)


def test_an_inverted_residual_needs_its_ratio():
    refusal('ir_r1_k3_s1_c16_nre', 'ofa_mobilenetv3', arch_def=[['ds_r1_k3_s1_c16_nre'], ['ir_r1_k3_s1_c16_nre']])


@ANY_ENTRY_POINT
@pytest.mark.parametrize('old, new', [
    ('r1', 'r2'), ('_c', '_c9999'), ('_c', '_c0_'), ('_k', '_k4'), ('_k', '_k9'), ('s2', 's0'), ('s2', 's3'),
    ('_e', '_e0_'), ('_e', '_e9'), ('_e', '_e-'), ('_e', '_enan'), ('_nre', '_nsw'), ('_nre', '_nre_skip'),
    ('_nre', '_nre\n'), ('_nre', ''), ('_k', '_k٣'), ('_r1', '_r999999'), ('_', ' ')])
def test_a_hostile_block_string_is_refused(entry_point, good, old, new):
    row = good.replace(old, new, 1)
    assert row != good
    said = refusal('arch_def row', entry_point, arch_def=[[good], [row]])
    assert repr(row)[:80] in said and f"write it like '{good.partition('_')[0]}_" in said


@ANY_ENTRY_POINT
@pytest.mark.parametrize('row', [
    '', ' ', '__import__', 'ir', 'bottle', None, 3, 2.5, True, [MOBILE], {}, b'ir', 'x' * 9999],
    ids=lambda row: f'{row!r:.20}')
def test_what_is_no_block_string_is_refused(entry_point, good, row):
    refusal('arch_def row', entry_point, arch_def=[[good], [row]])


@pytest.mark.parametrize('entry_point, row', [
    ('ofa_mobilenetv3', BOTTLE), ('ofa_efficientnet', BOTTLE), ('ofa_byobnet', MOBILE),
    ('ofa_mobilenetv3', MOBILE.replace('se0.25', 'se9')), ('ofa_byobnet', BOTTLE.replace('c64', 'c60')),
    ('ofa_byobnet', BOTTLE.replace('nre', 'nr6')), ('ofa_byobnet', BOTTLE.replace('_nre', '_se0.25_nre')),
    ('ofa_byobnet', BOTTLE.replace('k3', 'k5'))])
def test_blocks_of_another_family_are_refused(entry_point, row):
    refusal('arch_def row', entry_point, arch_def=[[row]] * 2)


@ANY_ENTRY_POINT
def test_a_stride_inside_a_stage_is_refused(entry_point, good):
    refusal('strides; only the first block', entry_point, arch_def=[[good, good], [good]])


@ANY_ENTRY_POINT
@pytest.mark.parametrize('rows', [
    lambda good: [], lambda good: [[]], lambda good: [[good], []], lambda good: good, lambda good: 3, lambda good: {},
    lambda good: [good], lambda good: [[good]] * 13, lambda good: [[good] * 17], lambda good: [[good], None],
    lambda good: {'0': [good]}, lambda good: 1.5, lambda good: True])
def test_an_arch_def_of_the_wrong_shape_is_refused(entry_point, good, rows):
    refusal('arch_def .* is not a list', entry_point, arch_def=rows(good))


NO_WIDTH = (0, -1, 2.5, 16.0, '16', True, [16], {}, 10**9)


@pytest.mark.parametrize('entry_point', ['ofa_mobilenetv3', 'ofa_efficientnet'])
@pytest.mark.parametrize('name', ['stem_size', 'num_features'])
@pytest.mark.parametrize('value', NO_WIDTH)
def test_a_hostile_width_is_refused(entry_point, name, value):
    refusal(name, entry_point, **{name: value})


@pytest.mark.parametrize('value', [
    *NO_WIDTH, 24, [], [24], [24, 24, 24, 40], [24, 32, 40], [24, 10**9], [24, 40.0], [24, -8], ['24', '40'],
    [True, 40], [[24], 40], '24,40', {'0': 24, '1': 40}])
def test_hostile_channels_of_a_stem_are_refused(value):
    refusal('stem_chs', 'ofa_byobnet', stem_chs=value)


@pytest.mark.parametrize('entry_point', [name for family, name in ENTRY_POINTS.items() if family != 'timm'])
@pytest.mark.parametrize('name, value', [
    ('act', 'gelu'), ('act', []), ('act', 3), ('stem_stride', 4), ('stem_stride', 0), ('stem_stride', 2.0),
    ('stem_stride', True), ('stem_stride', '2'), ('stem_stride', [2]), ('bn_eps', 0), ('bn_eps', -1e-5), ('bn_eps', 10),
    ('bn_eps', float('nan')), ('bn_eps', '1e-5'), ('bn_eps', [])])
def test_other_wrong_arguments_are_refused(entry_point, name, value):
    refusal(f'{name}.*{value!r:.10}'.replace('[', r'\['), entry_point, **{name: value})


@pytest.mark.parametrize('value', ['no', 0, [], 1.0])
def test_a_stem_pool_that_is_no_truth_value_is_refused(value):
    refusal('stem_pool', 'ofa_byobnet', stem_pool=value)


@pytest.mark.parametrize('entry_point', ENTRY_POINTS.values())
@pytest.mark.parametrize('wrong', [
    {'archdef': [[MOBILE]]}, {'resolution': 32}, {'kernel_size': 3}, {'depth': [2]}, {'space': 'ofa_mbv3_tiny'}])
def test_unknown_arguments_are_type_errors(entry_point, wrong):
    with pytest.raises(TypeError, match=next(iter(wrong))):
        timm.create_model(entry_point, **wrong)


@pytest.mark.parametrize('entry_point, wrong', [
    ('ofa_mobilenetv3', 'stem_chs'), ('ofa_mobilenetv3', 'stem_pool'), ('ofa_efficientnet', 'stem_chs'),
    ('ofa_byobnet', 'stem_size')])
def test_arguments_of_another_family_are_type_errors(entry_point, wrong):
    with pytest.raises(TypeError, match=wrong):
        timm.create_model(entry_point, **{wrong: 16})
