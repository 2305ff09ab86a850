"""Every field of a space file is checked."""
import pytest
from refusals import one_line

from timm_ofa.errors import InputError
from timm_ofa.spaces.checking import MAX_STAGES
from timm_ofa.spaces.shelf import load_space, space_names
from timm_ofa.spaces.space import SearchSpace


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


def fields_of(data):
    inner = [('first', name) for name in data['first']] + [('stages', 1, name) for name in data['stages'][1]]
    return [(name,) for name in data] + inner


FIELDS = fields_of(load_space('ofa_mbv3_tiny').to_dict())


@pytest.mark.parametrize('path', FIELDS, ids=lambda path: '.'.join(map(str, path)))
@pytest.mark.parametrize('value', [None, {}, True, float('nan'), ...], ids=['null', 'object', 'true', 'nan', 'missing'])
def test_every_field_of_a_space_file_is_checked(path, value):
    line = refused(load_space('ofa_mbv3_tiny').to_dict(), path, value, naming=path[-1])
    assert line.startswith('space own.json')


@pytest.mark.parametrize('path, value, naming', [
    (('family',), 'vit', "family: 'vit' is unknown; choose from mobilenetv3"),
    (('stem_widths',), [[17]], 'width 17'), (('stem_pool',), True, 'stem_pool'),
    (('stem_widths',), [[16.5]], r'stem_widths\[0\]: 16\.5'), (('stem_widths',), [[16], [24]], 'stem_widths'),
    (('first',), None, 'first'), (('stages', 0, 'widths'), [16, 24], 'widths'), (('family',), 'byobnet', 'byobnet'),
    (('family',), 'efficientnet', 'num_features'),
    (('last_width',), 10**9, 'width 1000000000'), (('num_features',), -8, 'width -8'),
    (('act',), 'gelu', "act: 'gelu'"),
    (('first', 'stride'), 3, 'stride: 3'), (('stem_stride',), 0, 'stride: 0'), (('first', 'colour'), 1, "'colour'"),
    (('stages',), [], 'stages'), (('stages', 0, 'widths'), [20], 'width 20'), (('stages', 0, 'kernel_sizes'),
    [2, 3], 'odd'),
    (('stages', 2, 'kernel_sizes'), [5, 3], 'kernel_sizes .*stage 3'), (('stages', 2, 'depths'),
    [], 'depths .*stage 3'),
    (('stages', 0, 'depths'), [0, 1], 'depths .*stage 1'), (('stages', 0, 'depths'), [1, 99], 'depths .*stage 1'),
    (('stages', 0, 'depths'), [1.5], 'depths: 1.5'), (('stages', 1, 'expand_ratios'),
    [2, 2], 'expand_ratios .*stage 2'),
    (('stages', 1, 'expand_ratios'), ['2'], "expand_ratios: '2'"), (('stages', 1, 'block'),
    'er', "block 'er' of stage 2"),
    (('stages', 1, 'se_ratio'), -0.25, r'stages\[1\]: se_ratio: -0\.25'), (('resolutions',), [], 'resolutions'),
    (('resolutions',), [32, 24], 'resolutions'), (('resolutions',), [32, 10**6], 'resolutions: 1000000'),
    (('mean',), [0.5], 'mean'), (('mean',), ['a', 'b', 'c'], "mean.*'a'"), (('std',), [0.2, 0.2, 10**400], 'std'),
    (('crop_pct',), 0, 'crop_pct: 0'), (('crop_pct',), 1.5, 'crop_pct: 1.5'), (('colour',), 'red', "'colour'"),
    (('act',), 'sw', "act 'sw' does not fit the family mobilenetv3"), (('first', 'act'), 'sw', "act 'sw'"),
    (('stages', 0, 'act'), 'sw', "act 'sw'"), (('stages', 0, 'kernel_sizes'), [3, 11], 'odd, up to 9'),
    (('stages', 0, 'expand_ratios'), [2, 3.33333], 'expand_ratios 3.33333 of stage 1 has more than 4 decimals'),
    (('stages', 1, 'se_ratio'), 1, 'se_ratio 1.0 of stage 2 .* not below 1'),
    (('stages', 1, 'se_ratio'), 0.33333, 'se_ratio 0.33333 of stage 2 has more than 4 decimals'),
    (('std',), [0.2, 0, 0.2], 'std'), (('bn_eps',), -1, 'bn_eps'), (('num_classes',), 0, 'num_classes')])
def test_a_space_with_a_wrong_value_is_refused_naming_it(path, value, naming):
    refused(load_space('ofa_mbv3_tiny').to_dict(), path, value, naming)


@pytest.mark.parametrize('path, value, naming', [
    (('stem_widths',), [[16]], 'stem_widths'), (('stem_widths',), [[16, 24, 32]], 'stem_widths'), (('stem_widths',), [],
    'stem_widths'), (('stem_widths',), [[16, 24]] * 2, 'stem_widths'), (('last_width',), 64, 'last_width'),
    (('first',), {'width': 16, 'stride': 1, 'act': 're'}, 'first'), (('stages', 0, 'widths'), [24, 48], 'widths'),
    (('stages', 0, 'block'), 'ir', "block 'ir'"), (('stages', 0, 'kernel_sizes'), [3, 5], 'stage 1'),
    (('stages', 0, 'widths'), [48, 40], 'widths'), (('stages', 2, 'widths'), list(range(136, 8000, 8)), 'combinations'),
    (('stages', 0, 'kernel_sizes'), [5], r'kernel_sizes \[3\]'), (('stages', 0, 'act'), 'hs', 'act re of the stem'),
    (('stages',), load_space('ofa_resnet_tiny').to_dict()['stages'][:1], 'give 2 or more'),
    (('stem_stride',), 3, 'stride: 3')])
def test_a_resnet_space_that_cannot_be_built_is_refused_naming_the_field(path, value, naming):
    refused(load_space('ofa_resnet_tiny').to_dict(), path, value, naming)


@pytest.mark.parametrize('change, naming', [
    (lambda d: d.update(stages=d['stages'][:1] * 305), 'stages are 305, a network of mobilenetv3 has at most 10'),
    (lambda d: d['stages'][2].update(widths=[8192], depths=[16], expand_ratios=[16]), 'largest network .* parameters'),
    (lambda d: d.update(resolutions=list(range(8, 1025)), stages=[
        {**s, 'depths': [16], 'kernel_sizes': [1, 3, 5, 7, 9], 'expand_ratios': [i / 20 for i in range(20, 320)]}
        for s in d['stages']]), 'a table of .* prices, more than 5e')])
def test_products_of_choices_that_cannot_be_held_are_refused(change, naming):
    data = load_space('ofa_mbv3_tiny').to_dict()
    change(data)
    with pytest.raises(InputError, match=naming) as error:
        SearchSpace.from_dict(data, 'space own.json')
    assert one_line(error).startswith('space own.json')


def test_every_network_has_as_many_stages_as_timm_builds():
    for name in space_names():
        space = load_space(name)
        assert len(space.arch_def(space.max_arch())) <= MAX_STAGES
