"""Predictors as files: what is written is read, everything else is refused in one line."""
import json

import numpy as np
import pytest
from accuracy_makers import top1_of

from timm_ofa.accuracy import AccuracyPredictor, AdditivePredictor, load_predictor
from timm_ofa.errors import InputError
from timm_ofa.spaces.shelf import load_space


@pytest.mark.parametrize('field, value', [('seen', [23]), ('seen', None), ('check', {}), ('space', {})])
def test_an_additive_file_with_a_wrong_field_is_refused(space, archs, tmp_path, field, value):
    AdditivePredictor.fit(space, archs, top1_of(space, archs)).save(tmp_path / 'p.safetensors')
    about = json.loads((tmp_path / 'p.json').read_text())
    (tmp_path / 'p.json').write_text(json.dumps({**about, field: value}))
    with pytest.raises(InputError) as error:
        load_predictor(tmp_path / 'p.safetensors')
    assert '\n' not in str(error.value)


def test_save_and_load_are_inverse(predictor, archs, space, tmp_path):
    predictor.save(tmp_path / 'new' / 'p.safetensors')
    assert sorted(p.name for p in (tmp_path / 'new').iterdir()) == ['p.json', 'p.safetensors']
    loaded = load_predictor(tmp_path / 'new' / 'p.safetensors', space)
    np.testing.assert_array_equal(loaded.predict(archs), predictor.predict(archs))
    assert loaded.check == predictor.check and loaded.space == predictor.space
    assert loaded.resolutions(space) == predictor.resolutions(space)
    with pytest.raises(InputError, match="is of 'ofa_mbv3_tiny', not of 'ofa_mbv3_w10'"):
        load_predictor(tmp_path / 'new' / 'p.safetensors', load_space('ofa_mbv3_w10'))


def test_two_versions_in_the_names_are_two_predictors(predictor, space, archs, tmp_path):
    additive = AdditivePredictor.fit(space, archs, top1_of(space, archs))
    predictor.save(tmp_path / 'acc_v1.5')
    additive.save(tmp_path / 'acc_v1.7.safetensors')
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        'acc_v1.5.json', 'acc_v1.5.safetensors', 'acc_v1.7.json', 'acc_v1.7.safetensors']
    for name, written in (('acc_v1.5', predictor), ('acc_v1.5.safetensors', predictor), ('acc_v1.7', additive)):
        np.testing.assert_array_equal(load_predictor(tmp_path / name, space).predict(archs), written.predict(archs))
    before = (tmp_path / 'acc_v1.7.json').read_bytes()
    load_predictor(tmp_path / 'acc_v1.7').save(tmp_path / 'acc_v1.7')
    assert (tmp_path / 'acc_v1.7.json').read_bytes() == before


@pytest.mark.parametrize('field, value', [
    ('format', 99), ('space', {}), ('space', 'ofa_mbv3_w10'), ('check', 3), ('mean_pct', 'x'),
    ('mean_pct', float('nan')), ('strengths', {}), ('strengths', []),
    ('strengths', {'length': 0, 'smooth': 1, 'ridge': 1}), ('strengths', {'length': 1, 'smooth': 1, 'ridge': -1}),
    ('strengths', {'length': 1, 'smooth': 1, 'ridge': 0}), ('strengths', {'length': 1, 'smooth': -1, 'ridge': 1}),
    ('mean_pct', 10**400), ('check', {'kendall_tau': None}),
    ('check', {'rmse_pct': []}),
])
def test_a_predictor_file_with_a_wrong_field_is_refused(predictor, tmp_path, field, value):
    predictor.save(tmp_path / 'p')
    about = json.loads((tmp_path / 'p.json').read_text())
    (tmp_path / 'p.json').write_text(json.dumps({**about, field: value}))
    with pytest.raises(InputError):
        AccuracyPredictor.load(tmp_path / 'p')


@pytest.mark.parametrize('change', [
    lambda a: {**a, 'codes': a['codes'] + 100}, lambda a: {**a, 'codes': a['codes'][:, :-1]},
    lambda a: {**a, 'codes': a['codes'] * 0}, lambda a: {'codes': a['codes']},
    lambda a: {'codes': a['codes'][:0], 'alpha': a['alpha'][:0]},
    lambda a: {**a, 'alpha': a['alpha'] * np.nan}, lambda a: {**a, 'alpha': a['alpha'][:-1]},
])
def test_a_predictor_file_with_wrong_arrays_is_refused(predictor, tmp_path, change):
    from safetensors.numpy import load_file, save_file
    predictor.save(tmp_path / 'p')
    save_file(change(load_file(tmp_path / 'p.safetensors')), tmp_path / 'p.safetensors')
    with pytest.raises(InputError):
        AccuracyPredictor.load(tmp_path / 'p')


def test_a_missing_or_broken_file_is_refused_in_one_line(predictor, tmp_path):
    with pytest.raises(InputError, match='cannot be read'):
        AccuracyPredictor.load(tmp_path / 'nothing')
    predictor.save(tmp_path / 'p')
    (tmp_path / 'p.safetensors').write_bytes(b'junk')
    with pytest.raises(InputError, match='cannot be read') as error:
        AccuracyPredictor.load(tmp_path / 'p')
    assert '\n' not in str(error.value)
