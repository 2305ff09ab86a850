"""From times to prices: what they cannot tell is said."""
import numpy as np
import pytest

from timm_ofa.devices.plan import make_plan
from timm_ofa.devices.rowprices import make_profile
from timm_ofa.errors import InputError
from timm_ofa.spaces.shelf import load_space


def profile_of(plan, time_ms):
    """The profile of a device on which a graph takes `time_ms` of its millions of MACs."""
    groups = {}
    for name, graphs in plan.groups.items():
        low_ms = [time_ms(sum(row.macs for row in graph) / 1e6) for graph in graphs]
        groups[name] = dict(low_ms=low_ms, p50_ms=low_ms, n=60, noise_pct=0.1, reference_ms=[low_ms[-1]] * 2)
    task = {**plan.task('fp32', 1), 'runtime': 'toy', 'runtime_version': '1', 'processor': 'cpu', 'threads': 1,
            'wall': True, 'host': 'Acme'}
    results = dict(measured_on='2024-05-31', groups=groups, task=task)
    return make_profile(plan, results, device='my-phone', device_name='My Phone', source='a test')


def test_times_that_add_up_give_their_prices_back():
    space = load_space('ofa_mbv3_tiny')
    plan = make_plan(space, [20, 32], check_nets=2)
    profile = profile_of(plan, lambda macs_m: 0.1 + macs_m)
    archs = [space.min_arch(20), space.max_arch(32)]
    np.testing.assert_allclose(profile.latency_ms(space, archs), [0.1 + space.macs(a) / 1e6 for a in archs], rtol=0.01)


@pytest.mark.parametrize('time_ms', [lambda _: 0.5, lambda macs_m: 99 - macs_m, lambda macs_m: 0.0005 + macs_m // 2])
def test_times_that_do_not_tell_what_rows_cost_are_refused(time_ms, recwarn):
    plan = make_plan(load_space('ofa_mbv3_tiny'), [20], check_nets=1)
    with pytest.raises(InputError, match=r'the times of my-phone do not tell what rows cost: .* measure again'):
        profile_of(plan, time_ms)
    assert not recwarn.list
