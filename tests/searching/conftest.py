"""Search spaces that several tests use."""
import sys

import pytest

from timm_ofa.spaces.shelf import load_space
from timm_ofa.spaces.space import SearchSpace


@pytest.fixture(scope='module')
def space() -> SearchSpace:
    return load_space('ofa_mbv3_tiny')


@pytest.fixture(scope='module')
def small(space) -> SearchSpace:
    """Some thousand networks, depths with a gap."""
    return space.restrict(depths=[1, 3], kernel_sizes=[3], expand_ratios=[2, 4], resolutions=[24, 32])


@pytest.fixture(scope='module')
def resnet() -> SearchSpace:
    """28 thousand networks in 128 frames."""
    return load_space('ofa_resnet_tiny').restrict(depths=[1, 2], expand_ratios=[0.2, 0.35], resolutions=[24, 32],
                                                  widths=2)


@pytest.fixture
def never_all(monkeypatch):
    """Searches as if there were too many networks to judge them all."""
    monkeypatch.setattr(sys.modules['timm_ofa.searching.strategy'], 'FEW', 0)
