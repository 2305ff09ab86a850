"""Supernets that several tests use."""
import pytest
from supernet_makers import SPACES, make


@pytest.fixture(scope='module', params=SPACES)
def supernet(request):
    """Shared by tests that do not change it."""
    return make(request.param)


@pytest.fixture
def tiny():
    """To be changed."""
    return make()
