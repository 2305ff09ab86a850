"""Predictors that are fitted: good with few samples, and honest about their error."""
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from accuracy_makers import top1_of

from timm_ofa.accuracy import AccuracyPredictor, AdditivePredictor, gaussian, load_predictor
from timm_ofa.accuracy.checking import held_out, held_out_error
from timm_ofa.devices.profile import kendall_tau
from timm_ofa.errors import InputError
from timm_ofa.searching.limits import MaxMacs
from timm_ofa.searching.strategy import search
from timm_ofa.spaces.arch import Arch
from timm_ofa.spaces.shelf import load_space


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


@pytest.mark.parametrize('smooth', [0.0, 0.3])
def test_the_spread_is_that_of_a_gaussian_process(space, archs, smooth):
    """The variance of a new network, given the known ones, from the whole covariance of all of them."""
    alpha = np.random.default_rng(0).normal(size=80)
    predictor = AccuracyPredictor(
        space, space.encode(archs[:80]), alpha, 70.0, gaussian.Strengths(2.0, smooth, 0.05), {})
    known, new = (predictor._features(space.encode(part)) for part in (archs[:80], archs[80:90]))
    both = gaussian._kernel(np.vstack([known, new]), np.vstack([known, new]), predictor.strengths)
    among = both[:80, :80] + predictor.strengths.ridge * np.eye(80)
    left = both[80:, 80:] - both[80:, :80] @ np.linalg.solve(among, both[:80, 80:])
    expected = predictor._scale_pct * np.sqrt(np.diag(left))
    np.testing.assert_allclose(predictor.spread(archs[80:90]), expected, rtol=1e-6)


@pytest.mark.parametrize('n, factor', [(20, 2.5), (60, 1.7), (150, 1.4)])
@pytest.mark.parametrize('noise', [0.2, 0.5, 1.5])
def test_the_noise_of_an_evaluation_is_about_what_it_is(space, archs, n, factor, noise):
    truth, found = top1_of(space, archs), []
    for seed in range(9):
        rng = np.random.default_rng(seed)
        some = rng.permutation(len(archs))[:n]
        codes, top1 = space.encode([archs[i] for i in some]), 50 + truth[some] + rng.normal(0, noise, n)
        found.append(AccuracyPredictor._learn(space, codes, top1).noise_pct)
    assert noise / factor < np.median(found) < noise * factor


@pytest.mark.parametrize('kind', [AccuracyPredictor, AdditivePredictor])
def test_networks_that_are_judged_several_times_do_not_leak_into_the_check(space, archs, kind):
    noise = np.repeat(np.random.default_rng(0).uniform(60, 80, 40), 4)  # says nothing about other networks
    check = kind.fit(space, [arch for arch in archs[:40] for _ in range(4)], noise).check
    assert check['kendall_tau'] < 0.5 and check['rmse_pct'] > 0.8 * noise.std()


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


def test_an_additive_predictor_has_the_ridge_of_the_least_error_on_networks_that_were_held_out(space, archs):
    top1, codes = top1_of(space, archs[:60]), space.encode(archs[:60])
    checks = [held_out_error(held_out(partial(AdditivePredictor._learn, ridge=ridge), space, codes, top1, 0), top1)
              for ridge in gaussian.RIDGES]
    assert AdditivePredictor.fit(space, archs[:60], top1).check == min(checks, key=lambda check: check['rmse_pct'])
    assert max(check['rmse_pct'] for check in checks) > 1.5 * min(check['rmse_pct'] for check in checks)


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
    with pytest.raises(InputError, match='9 evaluated networks are too few'):
        AccuracyPredictor.fit(space, archs[:9] * 20, [70.0] * 180)


def test_real_accuracies_are_predicted_from_a_hundred_of_them(shared):
    space = load_space('ofa_mbv3_w10')
    lines = (shared / 'archives' / 'ofa_mbv3_w1.0_imagenet_top1.jsonl').read_text().splitlines()
    records = [json.loads(line) for line in lines]
    archs = [Arch.from_dict({k: r[k] for k in ('resolution', 'kernel_size', 'expand_ratio')}) for r in records]
    top1 = np.array([r['top1_pct'] for r in records])
    predicted = AccuracyPredictor.fit(space, archs[:100], top1[:100]).predict(archs[100:])
    assert kendall_tau(predicted, top1[100:]) > 0.852
    assert np.sqrt(np.mean((predicted - top1[100:]) ** 2)) < 0.303
