"""Search spaces that several tests use."""
import pytest

from timm_ofa.spaces.shelf import load_space, space_names


@pytest.fixture(scope='module', params=space_names())
def space(request):
    return load_space(request.param)


@pytest.fixture(scope='module')
def w12():
    return load_space('ofa_mbv3_w12')


@pytest.fixture(scope='module')
def tiny():
    return load_space('ofa_mbv3_tiny')
