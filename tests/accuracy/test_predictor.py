"""Accuracy predictors: good with few samples, honest about their error, safe to load; the released one reproduced."""
import hashlib
import json
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from timm_ofa.accuracy import AccuracyPredictor, AdditivePredictor, load_predictor, load_upstream_predictor
from timm_ofa.devices.profile import kendall_tau
from timm_ofa.errors import InputError
from timm_ofa.searching.limits import MaxMacs
from timm_ofa.searching.strategy import search
from timm_ofa.spaces.arch import Arch
from timm_ofa.spaces.shelf import load_space


@pytest.fixture(scope='module')
def space():
    return load_space('ofa_mbv3_tiny')


def top1_of(space, archs):
    """A made-up truth: larger is better, kernels of the last stage matter, with a little noise."""
    noise = np.random.default_rng(5).normal(0, 0.1, len(archs))
    return np.array([5 * np.log(space.macs(a)) - 20 + 0.3 * sum(a.kernel_size[-1]) for a in archs]) + noise


@pytest.fixture(scope='module')
def archs(space):
    return space.sample(np.random.default_rng(1), 160)


@pytest.fixture(scope='module')
def predictor(space, archs):
    return AccuracyPredictor.fit(space, archs[:80], top1_of(space, archs)[:80])


def test_eighty_samples_rank_the_other_networks(space, archs, predictor):
    expected, predicted = top1_of(space, archs)[80:], predictor.predict(archs[80:])
    assert predicted.shape == (80,)
    assert kendall_tau(predicted, expected) > 0.9
    assert np.sqrt(np.mean((predicted - expected) ** 2)) < 0.35


def test_the_check_is_the_error_on_networks_that_were_held_out(space, archs, predictor):
    assert (predictor.check['n'], predictor.check['folds']) == (80, 5)
    error = np.sqrt(np.mean((predictor.predict(archs[80:]) - top1_of(space, archs)[80:]) ** 2))
    assert 0.5 * error < predictor.check['rmse_pct'] < 2 * error
    noise = np.random.default_rng(0).uniform(60, 80, 80)
    hopeless = AccuracyPredictor.fit(space, archs[:80], noise)
    assert abs(hopeless.check['kendall_tau']) < 0.3 and hopeless.check['rmse_pct'] > 0.8 * noise.std()


def test_the_spread_is_small_where_networks_were_seen_and_covers_the_errors(space, archs, predictor):
    seen, new = predictor.spread(archs[:80]), predictor.spread(archs[80:])
    assert seen.shape == (80,) and (seen >= 0).all() and seen.mean() < 0.8 * new.mean()
    errors = np.abs(predictor.predict(archs[80:]) - top1_of(space, archs)[80:])
    assert (errors < 2 * np.hypot(new, 0.1)).mean() > 0.85  # 0.1: the noise of an evaluation


def test_held_out_predictions_are_kept_for_a_picture(space, archs, predictor):
    error = np.sqrt(np.mean((predictor.held_out_pct - top1_of(space, archs)[:80]) ** 2))
    assert predictor.check['rmse_pct'] == pytest.approx(error, abs=1e-4)


def test_an_additive_predictor_gives_a_table_and_a_search_that_proves_its_front(space, archs, tmp_path):
    additive = AdditivePredictor.fit(space, archs, top1_of(space, archs))
    assert additive.check['kendall_tau'] > 0.8 and additive.check['n'] == 160
    additive.save(tmp_path / 'p.safetensors')
    loaded = load_predictor(tmp_path / 'p.safetensors', space)
    np.testing.assert_array_equal(loaded.predict(archs), additive.predict(archs))
    small = space.restrict(depths=[1, 2], kernel_sizes=[5], resolutions=[24, 32])
    table, some = loaded.accuracy_table(small), small.sample(np.random.default_rng(2), 40)
    np.testing.assert_allclose(table(small.encode(some)), loaded.predict(some))
    result = search(space, loaded, limits=[MaxMacs(4e6)])
    assert result.proven and result.evaluated == len(result.front)
    others = [arch for arch in space.sample(np.random.default_rng(3), 3000) if space.macs(arch) <= 4e6]
    assert len(others) > 500 and loaded.predict(others).max() < result.best.top1_pct


@pytest.mark.parametrize('field, value', [('seen', [23]), ('seen', None), ('check', {}), ('space', {})])
def test_an_additive_file_with_a_wrong_field_is_refused(space, archs, tmp_path, field, value):
    AdditivePredictor.fit(space, archs, top1_of(space, archs)).save(tmp_path / 'p.safetensors')
    about = json.loads((tmp_path / 'p.json').read_text())
    (tmp_path / 'p.json').write_text(json.dumps({**about, field: value}))
    with pytest.raises(InputError) as error:
        load_predictor(tmp_path / 'p.safetensors')
    assert '\n' not in str(error.value)


def test_the_same_data_give_the_same_predictor(space, archs, predictor):
    again = AccuracyPredictor.fit(space, archs[:80], top1_of(space, archs)[:80])
    assert again.check == predictor.check
    np.testing.assert_array_equal(again.predict(archs), predictor.predict(archs))


def test_codes_of_a_restricted_space_mean_the_same_networks(space, predictor, rng):
    small = space.restrict(depths=[1, 2], kernel_sizes=[5], expand_ratios=[2, 4], resolutions=[24, 32])
    archs = small.sample(rng, 40)
    np.testing.assert_allclose(predictor.predict_codes(small.encode(archs), small), predictor.predict(archs))


def test_elastic_widths_are_learned_and_restricted_by_value(rng):
    space = load_space('ofa_resnet_tiny')
    archs = space.sample(rng, 260)

    def top1_of(archs):  # the last stage and the residual convolution count beyond what they cost
        return np.array([3 * np.log(space.macs(a)) + a.width[-1] / 64 + len(a.stem_width) for a in archs])

    predictor = AccuracyPredictor.fit(space, archs[:120], top1_of(archs[:120]))
    assert kendall_tau(predictor.predict(archs[120:]), top1_of(archs[120:])) > 0.95
    assert predictor.resolutions(space) == (20, 24, 28, 32)
    small = space.restrict(widths=2, depths=[1, 3], expand_ratios=[0.35], resolutions=[24, 32])
    inside = small.sample(rng, 60)
    np.testing.assert_allclose(predictor.predict_codes(small.encode(inside), small), predictor.predict(inside))
    narrow = AccuracyPredictor.fit(small, inside, top1_of(inside))
    assert narrow.resolutions(space) == (24, 32)
    wide = space.restrict(resolutions=[24, 32])
    with pytest.raises(InputError, match='widths 40, 48, 64: some were not seen in fitting'):
        narrow.predict_codes(wide.encode([wide.min_arch()]), wide)


def test_only_resolutions_that_were_seen_are_judged(space, archs):
    seen = [replace(arch, resolution=24 if i % 2 else 32) for i, arch in enumerate(archs[:30])]
    predictor = AccuracyPredictor.fit(space, seen, top1_of(space, seen))
    assert predictor.resolutions(space) == (24, 32)
    assert predictor.resolutions(space.restrict(resolutions=[28, 32])) == (32,)


def test_another_space_is_refused(predictor, rng):
    other = load_space('ofa_mbv3_w10')
    with pytest.raises(InputError, match="predictor of 'ofa_mbv3_tiny' cannot judge 'ofa_mbv3_w10'"):
        predictor.predict_codes(other.encode(other.sample(rng, 3)), other)


@pytest.mark.parametrize('change, message', [
    (lambda t: t[:-1], 'give one value an arch'),
    (lambda t: t / 100, 'looks like a fraction; give percent'),
    (lambda t: np.where(np.arange(len(t)) == 3, np.nan, t), 'is not percent'),
    (lambda t: t + 100, 'is not percent'),
    (lambda t: -t, 'is not percent'),
])
def test_accuracies_that_cannot_be_meant_are_refused(space, archs, change, message):
    with pytest.raises(InputError, match=message):
        AccuracyPredictor.fit(space, archs, change(np.linspace(50, 70, len(archs))))


def test_too_few_networks_are_refused(space, archs):
    with pytest.raises(InputError, match='9 evaluated networks are too few'):
        AccuracyPredictor.fit(space, archs[:9], [70.0] * 9)


def test_save_and_load_are_inverse(predictor, archs, space, tmp_path):
    predictor.save(tmp_path / 'new' / 'p.safetensors')
    assert sorted(p.name for p in (tmp_path / 'new').iterdir()) == ['p.json', 'p.safetensors']
    loaded = load_predictor(tmp_path / 'new' / 'p.safetensors', space)
    np.testing.assert_array_equal(loaded.predict(archs), predictor.predict(archs))
    assert loaded.check == predictor.check and loaded.space == predictor.space
    assert loaded.resolutions(space) == predictor.resolutions(space)
    with pytest.raises(InputError, match="is of 'ofa_mbv3_tiny', not of 'ofa_mbv3_w10'"):
        load_predictor(tmp_path / 'new' / 'p.safetensors', load_space('ofa_mbv3_w10'))


@pytest.mark.parametrize('field, value', [
    ('format', 99), ('space', {}), ('space', 'ofa_mbv3_w10'), ('check', 3), ('mean_pct', 'x'),
    ('mean_pct', float('nan')), ('strengths', {}), ('strengths', []),
    ('strengths', {'length': 0, 'smooth': 1, 'ridge': 1}), ('mean_pct', 10**400), ('check', {'kendall_tau': None}),
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


RELEASED = {  # space -> file, name of its reference networks
    'ofa_mbv3_w12': ('acc_predictor.pth', 'mbv3'), 'ofa_resnet50d': ('ofa_resnet50_acc_predictor.pth', 'resnet50')}


@pytest.fixture(params=RELEASED)
def released(request, shared):
    """A released predictor, and reference networks in the form of the original with their accuracies."""
    file, vectors = RELEASED[request.param]
    vectors = json.loads((shared / 'upstream' / 'parity' / f'ref_predictor_{vectors}.json').read_text())['vectors']
    for vector in vectors:
        if 'r' in vector['arch']:
            vector['arch']['r'] = [vector['arch']['r']]
    return load_upstream_predictor(shared / 'upstream' / file, request.param), vectors


def test_a_released_predictor_gives_the_published_numbers(released):
    predictor, vectors = released
    space, known = predictor.space, 0
    for vector in vectors:
        arch, expected = space.from_upstream(vector['arch']), 100 * vector['predicted_acc']
        if arch.resolution not in predictor.resolutions(space):
            with pytest.raises(InputError, match=f'resolution {arch.resolution} is '):
                predictor.predict([arch])
            continue
        same = predictor.predict_inputs(space.encode([arch]))[:, 0]  # inputs that are this network
        said = min(vector['arch']['w'][0], 1) if len(same) > 1 else 0
        assert same[said] == pytest.approx(expected, abs=1e-4)
        assert predictor.predict([arch])[0] == pytest.approx(expected, abs=1e-4 if len(same) == 1 else 0.002)
        known += 1
    assert known >= 20


def test_codes_of_a_restricted_space_mean_the_same_to_a_released_predictor(released, rng):
    predictor, _ = released
    small = predictor.space.restrict(resolutions=predictor.resolutions(predictor.space)[2:], widths=2, depths=[3, 4, 5],
                                     expand_ratios=[0.2, 0.35, 3, 6], kernel_sizes=[3, 7])
    archs = small.sample(rng, 40)
    np.testing.assert_allclose(
        predictor.predict_codes(small.encode(archs), small), predictor.predict(archs), atol=1e-4, rtol=0)
    assert small.resolutions == predictor.resolutions(small)


def test_a_released_predictor_is_kept_in_our_own_format(released, tmp_path, rng):
    predictor, _ = released
    space = predictor.space
    archs = space.restrict(resolutions=predictor.resolutions(space)).sample(rng, 20)
    predictor.save(tmp_path / 'p.safetensors')
    loaded = load_predictor(tmp_path / 'p.safetensors')
    np.testing.assert_array_equal(loaded.predict(archs), predictor.predict(archs))
    assert (loaded.space, loaded.ceiling_pct) == (space, predictor.ceiling_pct)
    with pytest.raises(InputError, match="not of 'ofa_mbv3_w10'"):
        load_predictor(tmp_path / 'p', load_space('ofa_mbv3_w10'))
    about = json.loads((tmp_path / 'p.json').read_text())
    other = next(name for name in RELEASED if name != space.name)
    for change in ({'space': other}, {'space': 'ofa_mbv3_w10'}, {'space': ['x']}, {'kind': 'fitted'}, {'format': 2}):
        (tmp_path / 'p.json').write_text(json.dumps({**about, **change}))
        with pytest.raises(InputError):
            load_predictor(tmp_path / 'p')


def test_the_released_predictors_refuse_what_they_were_not_trained_for(shared):
    space, path = load_space('ofa_mbv3_w12'), shared / 'upstream' / 'acc_predictor.pth'
    predictor = load_upstream_predictor(path, space)
    assert predictor.resolutions(space) == (160, 176, 192, 208, 224) and predictor.ceiling_pct is None
    with pytest.raises(InputError, match='resolution 164 is untrained'):
        predictor.predict([space.max_arch(164)])
    with pytest.raises(InputError, match='are of ofa_mbv3_w12, ofa_resnet50d, not of'):
        load_upstream_predictor(path, load_space('ofa_mbv3_w10'))
    with pytest.raises(InputError, match=r'is not the released ofa_resnet50_acc_predictor\.pth'):
        load_upstream_predictor(path, 'ofa_resnet50d')


def test_the_released_predictor_of_resnet_has_a_ceiling_and_no_208_px(shared):
    space = load_space('ofa_resnet50d')
    predictor = load_upstream_predictor(shared / 'upstream' / 'ofa_resnet50_acc_predictor.pth', space)
    assert predictor.resolutions(space) == (128, 144, 160, 176, 192, 224, 240, 256)
    assert predictor.ceiling_pct == pytest.approx(82.9870, abs=1e-4)
    largest = predictor.predict([space.max_arch(r) for r in (176, 192, 224, 240, 256)])
    np.testing.assert_allclose(largest, predictor.ceiling_pct, atol=1e-4)
    random = space.restrict(resolutions=[224, 256]).sample(np.random.default_rng(0), 1000)
    assert predictor.predict(random).max() <= predictor.ceiling_pct + 1e-4
    with pytest.raises(InputError, match='resolution 208 is untrained'):
        predictor.predict([space.max_arch(208)])


def test_the_two_inputs_of_one_stem_hardly_differ(shared, rng):
    space = load_space('ofa_resnet50d')
    predictor = load_upstream_predictor(shared / 'upstream' / 'ofa_resnet50_acc_predictor.pth', space)
    archs = space.restrict(resolutions=predictor.resolutions(space)).sample(rng, 500)
    first, second = predictor.predict_inputs(space.encode(archs))
    narrow = np.array([arch.stem_width[0] == 24 for arch in archs])
    assert (first[~narrow] == second[~narrow]).all() and (first[narrow] != second[narrow]).mean() > 0.9
    assert np.abs(first - second).max() < 0.003
    np.testing.assert_allclose(predictor.predict(archs), (first + second) / 2, atol=1e-4)


@pytest.mark.parametrize('content', [b'junk', {}, {'0.weight': torch.zeros(2, 2)}, [1, 2]])
@pytest.mark.parametrize('space', RELEASED)
def test_any_other_checkpoint_is_not_taken_for_a_released_predictor(tmp_path, content, space):
    path = tmp_path / 'acc_predictor.pth'
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(InputError, match=f'released {RELEASED[space][0]}'):
        load_upstream_predictor(path, space)


@pytest.fixture
def authors(shared, tmp_path, monkeypatch):
    """A server in the place of the authors' one with a folder of its own; timm's cache is empty."""
    folder = tmp_path / 'served'
    folder.mkdir()
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr('timm_ofa.accuracy.released.RELEASED_URL', f'http://127.0.0.1:{server.server_port}/')
        monkeypatch.setattr('timm.models._hub.get_cache_dir', lambda: str(tmp_path / 'cache'))
        yield folder
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.mark.parametrize('space', RELEASED)
def test_without_a_path_the_released_file_is_fetched_once(authors, shared, tmp_path, space):
    file = RELEASED[space][0]
    with pytest.raises(InputError, match=r'cannot be fetched .*get the file elsewhere and give its path'):
        load_upstream_predictor(None, space)
    (authors / file).write_bytes(b'something else')
    with pytest.raises(InputError, match='has the SHA-256 ') as error:
        load_upstream_predictor(None, space)
    assert '\n' not in str(error.value) and list((tmp_path / 'cache').iterdir()) == []
    (authors / file).write_bytes((shared / 'upstream' / file).read_bytes())
    predictor = load_upstream_predictor(None, space)
    (authors / file).unlink()
    assert load_upstream_predictor(None, space).ceiling_pct == predictor.ceiling_pct
    cached, = (tmp_path / 'cache').iterdir()
    digest = hashlib.sha256(cached.read_bytes()).hexdigest()
    assert cached.name == f'{space}-{file[:-4]}-{digest[:12]}.pth'


def test_real_accuracies_are_predicted_from_a_hundred_of_them(shared):
    space = load_space('ofa_mbv3_w10')
    lines = (shared / 'archives' / 'ofa_mbv3_w1.0_imagenet_top1.jsonl').read_text().splitlines()
    records = [json.loads(line) for line in lines]
    archs = [Arch.from_dict({k: r[k] for k in ('resolution', 'kernel_size', 'expand_ratio')}) for r in records]
    top1 = np.array([r['top1_pct'] for r in records])
    predicted = AccuracyPredictor.fit(space, archs[:100], top1[:100]).predict(archs[100:])
    assert kendall_tau(predicted, top1[100:]) > 0.852
    assert np.sqrt(np.mean((predicted - top1[100:]) ** 2)) < 0.303
