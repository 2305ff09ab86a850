"""Additive searches of the five full-size spaces, at all their resolutions: equal to the exact front at 20 limits each.

The limits are the latencies of 20 points of the whole front. The search under each must give the front up to that
point, and so find the point again.

    python tests/bench/bench_exact.py > tests/bench/results/bench_exact.txt
"""
import time

import numpy as np

from timm_ofa.accuracy.additive import AdditivePredictor
from timm_ofa.console import table
from timm_ofa.searching.strategy import search
from timm_ofa.spaces.shelf import load_space

SPACES = ('ofa_mbv3_w10', 'ofa_mbv3_w12', 'ofa_proxyless_w13', 'ofa_resnet50d', 'ofa_lite0')
LIMITS, RECORDS = 20, 300


class Profile:
    """Latencies that are no short binary fractions, so that the order of a sum changes its last digits."""
    name, num_classes, batch_size = 'made-up', None, 1

    def resolutions(self, space):
        return space.resolutions

    def cost_table(self, space):
        return space.cost_table(lambda row: row.macs / 3e7 + 0.0137 * row.kernel_size)


def main() -> None:
    rows = []
    for name in SPACES:
        space, profile, rng = load_space(name), Profile(), np.random.default_rng(0)
        archs = space.sample(rng, RECORDS)
        macs = np.array([space.macs(arch) for arch in archs])
        predictor = AdditivePredictor.fit(space, archs, 65 + 4 * np.log(macs / macs.min()) + rng.normal(0, .3, RECORDS))
        whole, equal, seconds = search(space, predictor, profile), 0, []
        for i in np.linspace(0, len(whole.front) - 1, LIMITS).astype(int):
            start = time.perf_counter()
            again = search(space, predictor, profile, max_latency_ms=whole.front[i].latency_ms)
            seconds.append(time.perf_counter() - start)
            equal += again.proven and again.front == whole.front[:i + 1]
        rows.append([name, len(space.frames), len(whole.front), f'{equal} of {LIMITS}', float(np.median(seconds))])
    print(table(['space', 'frames', 'points of the front', 'equal', 'seconds a search'], rows))


if __name__ == '__main__':
    main()
