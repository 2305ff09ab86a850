"""Networks that judge a profile: distinct, in the space, and what their groups are called."""
import numpy as np
import pytest

from timm_ofa.heldout import FITTED, check_networks, corners, skewed
from timm_ofa.space import load_space, space_names


@pytest.mark.parametrize('name', space_names())
def test_groups_are_distinct_networks_of_the_space_and_follow_the_seed(name):
    space = load_space(name)
    groups = check_networks(space, 12, 50, seed=3)
    archs = [arch for group in groups.values() for arch in group]
    assert len(set(archs)) == len(archs) and [space.check(arch) for arch in archs] == archs
    assert {group: len(found) for group, found in groups.items()}.items() >= {FITTED: 12, 'random': 50}.items()
    assert 6 <= len(groups['corners']) <= 12 and len(groups['skewed']) == 12
    assert {arch.resolution for arch in groups['random']} == set(space.resolutions)
    assert groups == check_networks(space, 12, 50, seed=3) != check_networks(space, 12, 50, seed=4)


def test_corners_hold_the_smallest_and_the_largest_network():
    space = load_space('ofa_mbv3_w10')
    found = corners(space, 192)
    assert len(set(found)) == 12 and {space.min_arch(192), space.max_arch(192)} <= set(found)


def test_skewed_networks_have_equal_macs_in_other_places(rng):
    space = load_space('ofa_mbv3_w10')
    found = skewed(space, 192, 12, rng)
    macs = np.array([space.macs(arch) for arch in found])
    early = [sum(row.macs for row in space.rows(arch) if row.size > 24) / space.macs(arch) for arch in found]
    assert np.abs(macs / np.median(macs) - 1).max() < 0.02
    assert np.mean(early[:6]) > np.mean(early[6:]) + 0.05
