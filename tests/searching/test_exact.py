"""Searches that prove their result give what brute force gives."""
import numpy as np
import pytest
from toy_search import AdditivePredictor, ToyPredictor, ToyProfile, assert_front_is_best

from timm_ofa.searching.additive import fit_additive
from timm_ofa.searching.exact import every_network
from timm_ofa.searching.limits import MaxParams
from timm_ofa.searching.strategy import search


def test_of_few_networks_all_are_judged_and_the_front_is_proven(small):
    predictor, profile, codes = ToyPredictor(), ToyProfile(), every_network(small)
    assert len({str(arch) for arch in small.decode(codes)}) == len(codes) == small.size() * len(small.resolutions)
    cost, top1 = profile.cost_table(small)(codes), predictor.predict_codes(codes, small)
    limit = float(np.quantile(cost, 0.4))
    result = search(small, predictor, profile, max_latency_ms=limit)
    assert result.proven and result.evaluated == len(codes)
    assert_front_is_best(result, cost, top1, limit)


@pytest.mark.parametrize('name, seed', [('small', 0), ('small', 1), ('resnet', 0)])
def test_where_accuracy_is_additive_the_front_is_proven_without_judging_all(request, name, seed, never_all):
    small, predictor, profile = request.getfixturevalue(name), AdditivePredictor(seed), ToyProfile()
    small = small.restrict(widths=1)
    codes = every_network(small)
    cost, top1 = profile.cost_table(small)(codes), predictor.predict_codes(codes, small)
    limit = float(np.quantile(cost, 0.7))
    result = search(small, predictor, profile, max_latency_ms=limit, seed=seed)
    assert result.proven and result.evaluated == len(result.front)
    assert_front_is_best(result, cost, top1, limit)


def test_with_more_limits_than_dynamic_programming_takes_nothing_is_claimed(space):
    limits = [MaxParams(1.5 * space.params(space.min_arch()))]
    result = search(space, AdditivePredictor(), ToyProfile(), limits=limits, steps=5)
    assert not result.proven and max(space.params(c.arch) for c in result.front) <= limits[0].maximum


def test_the_additive_model_learns_the_part_of_each_width(resnet, rng):
    codes = resnet.encode(resnet.sample(rng, 2000))
    parts = [rng.normal(size=size) for size in resnet.frame_sizes]
    top1 = 70 + sum(part[digit] for part, digit in zip(parts, resnet.frames[codes[:, 0]].T))
    table = fit_additive(resnet, codes[:1000], top1[:1000], 0.3)
    np.testing.assert_allclose(table(codes[1000:]), top1[1000:], atol=0.05)
