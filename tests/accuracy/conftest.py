"""What the tests of accuracy share: a fitted predictor; a small supernet with images and a judge."""
import numpy as np
import pytest
import torch
from accuracy_makers import AUGMENT, top1_of

from timm_ofa import load_space
from timm_ofa.accuracy import AccuracyPredictor, SubnetJudge
from timm_ofa.images import load_data
from timm_ofa.networks import new_supernet


@pytest.fixture(scope='session')
def space():
    return load_space('ofa_mbv3_tiny')


@pytest.fixture(scope='session')
def archs(space):
    return space.sample(np.random.default_rng(1), 160)


@pytest.fixture(scope='session')
def predictor(space, archs):
    return AccuracyPredictor.fit(space, archs[:80], top1_of(space, archs)[:80])


@pytest.fixture(scope='session')
def digits():
    return load_data('digits', 24)


@pytest.fixture(scope='session')
def supernet():
    """Untrained, for tests in which its accuracy does not matter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return new_supernet(load_space('ofa_mbv3_tiny').restrict(resolutions=[20, 24]), num_classes=10).eval()


@pytest.fixture
def judge(supernet, digits):
    return SubnetJudge(supernet, digits.train, digits.holdout, augment=AUGMENT, calibration_images=64)
