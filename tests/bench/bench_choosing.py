"""Which networks to judge, so that the one that a search chooses is good, and as good as was predicted.

    python tests/bench/bench_choosing.py [--predictor acc_predictor.pth] > tests/bench/results/choosing.txt

The accuracy predictor that the authors released stands in for the truth: it knows all networks of `ofa_mbv3_w12` at 160
to 224 px. A judgment is its answer with the noise of a number of held-out images. Of each way to choose the networks to
judge, a predictor is fitted to the same number of them; then networks are searched under limits on the phone's latency.

- random: as `collect` chooses
- active: as `collect --active` chooses, with the latency of the device
- last: at random, but the last ten are the best ones of a first search under the limit, by prediction
"""
from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from timm_ofa import Arch, DeviceProfile, SearchSpace, load_profile, load_space, search
from timm_ofa.accuracy import AccuracyPredictor, Active, load_upstream_predictor
from timm_ofa.accuracy.records import Records, subnets_to_judge
from timm_ofa.accuracy.released import UpstreamPredictor
from timm_ofa.console import table

PREDICTOR = Path(__file__).resolve().parents[3] / 'shared' / 'upstream' / 'acc_predictor.pth'
LIMITS_MS = (20, 25, 30)
REJUDGED = 10

Judge = Callable[[list[Arch]], Records]


def at_random(space: SearchSpace, profile: DeviceProfile, judge: Judge, n: int, seed: int, limit_ms: float) -> Records:
    return judge(list(itertools.islice(subnets_to_judge(space, seed), n)))


def actively(space: SearchSpace, profile: DeviceProfile, judge: Judge, n: int, seed: int, limit_ms: float) -> Records:
    propose, records = Active(space, profile, seed), list[tuple[Arch, float]]()
    while len(records) < n:
        records += judge(propose(records, n - len(records)))
    return records


def last(space: SearchSpace, profile: DeviceProfile, judge: Judge, n: int, seed: int, limit_ms: float) -> Records:
    records = at_random(space, profile, judge, n - REJUDGED, seed, limit_ms)
    known = {arch for arch, _ in records}
    front = search(space, fitted(space, records), profile, max_latency_ms=limit_ms, seed=seed).front
    return records + judge([c.arch for c in front[::-1] if c.arch not in known][:REJUDGED])


def fitted(space: SearchSpace, records: Records) -> AccuracyPredictor:
    return AccuracyPredictor.fit(space, [arch for arch, _ in records], [top1 for _, top1 in records])


def chosen(way: Callable[..., Records], space: SearchSpace, profile: DeviceProfile, truth: UpstreamPredictor, n: int,
           noise: float, seed: int) -> list[tuple[float, float, float]]:
    """Of the network that is chosen under each limit: predicted, true, and the predictor's standard deviation."""
    rng = np.random.default_rng(seed)

    def judge(archs: list[Arch]) -> Records:
        return list(zip(archs, (truth.predict(archs) + noise * rng.standard_normal(len(archs))).tolist()))

    rows, shared = [], None if way is last else way(space, profile, judge, n, seed, max(LIMITS_MS))
    for limit_ms in LIMITS_MS:
        predictor = fitted(space, shared or way(space, profile, judge, n, seed, limit_ms))
        best = search(space, predictor, profile, max_latency_ms=limit_ms, seed=seed).best
        rows.append((best.top1_pct, truth.predict([best.arch]).item(), predictor.spread([best.arch]).item()))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--predictor', type=Path, default=PREDICTOR, help='the file that the authors released')
    parser.add_argument('--judged', type=int, nargs='+', default=[60], help='networks')
    parser.add_argument('--noise', type=float, nargs='+', default=[0.3, 0.7],
                        help='standard deviation of a judgment, points')
    parser.add_argument('--seeds', type=int, default=8)
    args = parser.parse_args()
    truth, profile = load_upstream_predictor(args.predictor, 'ofa_mbv3_w12'), load_profile('note10')
    space = load_space('ofa_mbv3_w12')
    space = space.restrict(resolutions=[r for r in truth.resolutions(space) if r in profile.resolutions(space)])
    lines, began = [], time.process_time()
    for n, noise, way in itertools.product(args.judged, args.noise, (at_random, actively, last)):
        found = [chosen(way, space, profile, truth, n, noise, seed) for seed in range(args.seeds)]
        predicted, true, spread = np.array(found).transpose(2, 0, 1)
        inside, more = abs(predicted - true) < 2 * spread, (predicted - true).mean(1)
        lines.append([
            n, noise, way.__name__.removeprefix('at_'), *(f'{pct:.2f}' for pct in (*true.mean(0), true.mean())),
            f'{more.mean():+.2f} ± {more.std(ddof=1) / args.seeds**0.5:.2f}', f'{spread.mean():.2f}',
            f'{100 * inside.mean():.0f} %'])
        print(*lines[-1], flush=True)
    print('\n' + table(['judged', 'noise', 'way', *(f'true at {ms} ms' for ms in LIMITS_MS), 'mean',
                        'predicted above true', 'std it knows', 'within two'], lines))
    print(f'\n{args.seeds} seeds; {time.process_time() - began:.0f} seconds of one core; ± standard error')


if __name__ == '__main__':
    main()
