"""Networks that judge a profile: distinct, in the space, and what their groups are called."""
import numpy as np
import pytest
from few_networks import FEW

from timm_ofa.devices.heldout import FITTED, check_networks, corners, skewed
from timm_ofa.devices.profile import kendall_tau, load_profile
from timm_ofa.spaces.shelf import load_space, space_names

SPACES = [*map(load_space, space_names()), FEW]
LARGE = [space for space in SPACES if space.size() > 10**5]  # in others networks repeat, and few have equal MACs


def of(spaces):
    return pytest.mark.parametrize('space', spaces, ids=lambda space: space.name)


@of(SPACES)
def test_groups_are_distinct_networks_of_the_space_and_follow_the_seed(space):
    groups = check_networks(space, 12, 50, seed=3)
    archs = [arch for group in groups.values() for arch in group]
    assert len(set(archs)) == len(archs) and [space.check(arch) for arch in archs] == archs
    most = {FITTED: 12, 'random': 50, 'corners': 12, 'skewed': 12}
    assert all(len(archs) <= most[group] for group, archs in groups.items())
    if space in LARGE:
        assert groups.keys() >= most.keys()
        least = most | {'corners': 6}
        assert all(len(archs) >= least[group] for group, archs in groups.items())
    assert {arch.resolution for arch in groups['random']} == set(space.resolutions)
    assert groups == check_networks(space, 12, 50, seed=3) != check_networks(space, 12, 50, seed=4)


def test_corners_hold_the_smallest_and_the_largest_network():
    space = load_space('ofa_mbv3_w10')
    found = corners(space, 192)
    assert len(set(found)) == 12 and {space.min_arch(192), space.max_arch(192)} <= set(found)


@of(LARGE)
def test_skewed_networks_have_equal_macs_and_differ_in_the_rest(space, rng):
    found = skewed(space, 12, rng)
    macs, params = (np.array([cost(arch) for arch in found], float) for cost in (space.macs, space.params))
    operators = [sum(map(len, arch.kernel_size)) for arch in found]
    assert macs.max() / macs.min() < 1.01 and params[6:].mean() > 1.15 * params[:6].mean()
    assert np.mean(operators[6:]) > np.mean(operators[:6])
    assert len({arch.resolution for arch in found}) > 2


def test_skewed_networks_differ_in_latency_where_random_ones_of_equal_macs_hardly_do(rng):
    profile, space = load_profile('amd-epyc-onnxruntime-ofa-mbv3-w10'), load_space('ofa_mbv3_w10')
    space = space.restrict(resolutions=profile.resolutions(space))
    latency_ms = profile.latency_ms(space, skewed(space, 12, rng))
    assert latency_ms.max() / latency_ms.min() > 1.2 and kendall_tau(latency_ms, np.arange(12)) > 0.6
