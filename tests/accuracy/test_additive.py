"""An additive predictor does not know choices that no record has."""
import numpy as np
import pytest
from accuracy_makers import top1_of

from timm_ofa.accuracy.additive import AdditivePredictor
from timm_ofa.accuracy.loading import load_predictor
from timm_ofa.errors import InputError
from timm_ofa.networks import space_of
from timm_ofa.searching.limits import MaxMacs, MaxParams
from timm_ofa.searching.strategy import search
from timm_ofa.spaces.shelf import load_space


@pytest.fixture(scope='module')
def space():
    return load_space('ofa_mbv3_tiny')


@pytest.fixture(scope='module')
def archs(space):
    """Records without kernel 5 and expand ratio 3 in the first stage, and without its third block."""
    return [a for a in space.sample(np.random.default_rng(0), 4000) if known(a)][:150]


@pytest.fixture(scope='module')
def predictor(space, archs, tmp_path_factory):
    path = tmp_path_factory.mktemp('additive') / 'predictor.safetensors'
    AdditivePredictor.fit(space, archs, top1_of(space, archs)).save(path)
    return load_predictor(path, space)


def known(arch):
    return arch.depth[0] < 3 and 5 not in arch.kernel_size[0] and 3 not in arch.expand_ratio[0]


@pytest.mark.parametrize('kind, proven', [(MaxMacs, True), (MaxParams, False)])
def test_no_search_takes_a_choice_that_no_record_has(space, archs, predictor, kind, proven):
    assert len(archs) == 150 and all(map(known, archs))
    cost = space.macs if kind is MaxMacs else space.params
    for quantile in (0.1, 0.5, 1):
        limit = kind(float(np.quantile([cost(a) for a in archs], quantile)))
        result = search(space, predictor, limits=[limit], steps=20)
        assert result.proven == proven and all(known(c.arch) for c in result.front)
        assert result.best.top1_pct > predictor.predict([a for a in archs if cost(a) <= limit.maximum]).max() - 0.2


def test_a_network_with_such_a_choice_is_refused_and_the_others_are_not(space, archs, predictor):
    np.testing.assert_allclose(predictor.predict(archs), top1_of(space, archs), atol=2)
    for arch in (space.max_arch(), next(a for a in space.sample(np.random.default_rng(1), 99) if not known(a))):
        with pytest.raises(InputError, match=r'has choices that no record .*collect more records'):
            predictor.predict([archs[0], arch])
    assert predictor.predict([]).shape == (0,)


def test_limits_that_only_such_networks_keep_are_refused(space, archs):
    large = [a for a in archs if min(a.depth[1:]) > 1]
    predictor = AdditivePredictor.fit(space, large[:40], top1_of(space, large[:40]))
    with pytest.raises(InputError, match=r'knows no network within the limits: .*collect more records'):
        search(space, predictor, limits=[MaxMacs(1.001 * space.macs(space.min_arch()))])


def test_the_resolutions_and_widths_of_no_record_are_not_taken(rng):
    space = load_space('ofa_resnet_tiny')
    archs = [a for a in space.sample(rng, 3000) if a.width[1] != space.stages[1].widths[-1] and a.resolution != 32]
    predictor = AdditivePredictor.fit(space, archs[:300], top1_of(space, archs[:300]))
    result = search(space, predictor)
    assert result.proven and result.best.arch.resolution == 28
    assert all(c.arch.width[1] != space.stages[1].widths[-1] for c in result.front)


def test_a_file_for_a_space_whose_blocks_have_unequal_choices_is_read(tmp_path):
    space, path = space_of('tinynet_e', resolutions=[64]), tmp_path / 'predictor.safetensors'
    archs = space.sample(np.random.default_rng(0), 120)
    predictor = AdditivePredictor.fit(space, archs, np.array([space.macs(arch) for arch in archs]) / 1e6)
    predictor.save(path)
    np.testing.assert_array_equal(load_predictor(path, space).predict(archs), predictor.predict(archs))
