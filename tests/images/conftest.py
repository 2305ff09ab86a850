"""What the tests of images share: a small space and small images."""
import pytest

from timm_ofa import load_space
from timm_ofa.images import load_data


@pytest.fixture(scope='session')
def space():
    return load_space('ofa_mbv3_tiny')


@pytest.fixture(scope='session')
def digits():
    return load_data('digits', 24)
