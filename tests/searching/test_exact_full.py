"""The exact front of the full-size spaces: equal at 20 limits, and equal to one that is computed in another way."""
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
from toy_search import ToyProfile

from timm_ofa.searching.additive import fit_additive
from timm_ofa.searching.problem import leading
from timm_ofa.searching.strategy import search
from timm_ofa.spaces.shelf import load_space

FULL = ('ofa_mbv3_w10', 'ofa_mbv3_w12', 'ofa_proxyless_w13', 'ofa_resnet50d', 'ofa_lite0')


class OddProfile(ToyProfile):
    def resolutions(self, space):
        return space.resolutions

    def cost_table(self, space):
        return space.cost_table(lambda row: row.macs / 3e7 + 0.0137 * row.kernel_size)


@dataclass
class Sums:
    """Accuracy as a sum that was fitted on noisy networks."""
    table: object

    def resolutions(self, space):
        return space.resolutions

    def accuracy_table(self, _):
        return self.table

    def predict_codes(self, codes, _):
        return self.table(codes)


def fitted(space):
    rng = np.random.default_rng(0)
    codes = space.encode(space.sample(rng, 300))
    cost = space.cost_table(lambda row: row.macs)(codes)
    return Sums(fit_additive(space, codes, 70 + 5 * np.log(cost / cost.min()) + 0.3 * rng.normal(size=300), 1.0))


@pytest.mark.parametrize('name', FULL)
def test_at_20_limits_an_additive_search_gives_the_exact_front_and_each_point_again(name):
    space = load_space(name)
    space = space.restrict(resolutions=space.resolutions[::max(1, len(space.resolutions) // 3)])
    predictor, profile = fitted(space), OddProfile()
    whole = search(space, predictor, profile)
    assert whole.proven and len(whole.front) > 100
    for i in np.linspace(0, len(whole.front) - 1, 20).astype(int):
        again = search(space, predictor, profile, max_latency_ms=whole.front[i].latency_ms)
        assert again.proven and again.front == whole.front[:i + 1]


@pytest.mark.parametrize('name', FULL)
def test_the_exact_front_of_one_frame_is_that_of_all_stages_enumerated(name):
    space = load_space(name).restrict(widths=1)
    space = space.restrict(resolutions=[space.resolutions[0]])
    predictor, profile = fitted(space), OddProfile()
    result = search(space, predictor, profile)
    tables = profile.cost_table(space), predictor.table
    fronts = []
    for frame in range(len(space.frames)):
        cost, value = (table.const[[frame]] for table in tables)
        start = 0
        for s, stage in enumerate(space.stages):
            choices = range(1, 1 + len(space.stages[s].choices(0)))
            ends = [np.concatenate([
                [sum(table.table[frame, start + j, c] for j, c in enumerate(blocks))
                 for blocks in product(choices, repeat=depth)] for depth in stage.depths]) for table in tables]
            kept = leading(*ends)
            cost, value = ((a[:, None] + b[kept]).ravel() for a, b in zip((cost, value), ends))
            kept = leading(cost, value)
            cost, value, start = cost[kept], value[kept], start + stage.depths[-1]
        fronts.append((cost, value))
    cost, value = map(np.concatenate, zip(*fronts))
    kept = leading(cost.round(9), value.round(9))
    found = [[getattr(c, name) for c in result.front] for name in ('latency_ms', 'top1_pct')]
    kept_found = leading(*(np.round(values, 9) for values in found))
    np.testing.assert_allclose(np.array(found)[:, kept_found], [cost[kept], value[kept]], rtol=1e-12)
