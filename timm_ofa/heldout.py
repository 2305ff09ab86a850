"""Whole networks that tell how good a device profile is: what it is fitted on, and what it never saw.

Random networks flatter every method, since their latencies all but follow the MACs. So there are two more groups:
corners, where a search goes, and networks of equal MACs that lie in early or in late stages.
"""
from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .arch import Arch
from .space import SearchSpace

FITTED = 'fitted'  # the group that gives a profile its constant
POOL = 2000  # random networks, of which the skewed ones are chosen
NEAR = 0.01  # relative difference of MACs that counts as equal


def check_networks(space: SearchSpace, n: int, random_nets: int | None = None,
                   seed: int = 0) -> dict[str, tuple[Arch, ...]]:
    """Group -> distinct networks: N 'fitted' and `random_nets` (None: N) 'random' ones of all resolutions in turn; up
    to N 'corners' and 'skewed' ones at the middle resolution.
    """
    middle, rng = space.resolutions[len(space.resolutions) // 2], np.random.default_rng(seed)
    sampled = [replace(arch, resolution=space.resolutions[i % len(space.resolutions)])
               for i, arch in enumerate(space.sample(rng, n + (random_nets or n)))]
    groups = {
        FITTED: sampled[:n], 'random': sampled[n:], 'corners': corners(space, middle)[:n],
        'skewed': skewed(space, middle, n, rng)}
    seen: set[Arch] = set()
    for name, archs in groups.items():
        groups[name] = tuple(arch for arch in dict.fromkeys(archs) if arch not in seen)
        seen.update(archs)
    return groups


def corners(space: SearchSpace, resolution: int) -> list[Arch]:
    """Networks whose blocks are all alike: extreme depths and expansions, three kernel sizes or widths."""
    def ends(choices: Sequence, middle: bool = False) -> list[int]:
        return sorted({0, len(choices) - 1, *([len(choices) // 2] if middle else [])})

    most = max(space.stages, key=lambda s: len(s.kernel_sizes) * len(s.widths) * len(s.expand_ratios) * len(s.depths))
    found = []
    for depth, kernel, ratio, width in itertools.product(
            ends(most.depths), ends(most.kernel_sizes, True), ends(most.expand_ratios), ends(most.widths, True)):
        def pick(choices: Sequence, index: int):
            return choices[min(index, len(choices) - 1)]

        depths = [pick(s.depths, depth) for s in space.stages]
        widths = ()
        if space.elastic_widths:
            widths = tuple(pick(s.widths, width) for s in space.stages), pick(space.stem_widths, width)
        found.append(space.check(Arch(
            resolution, tuple((pick(s.kernel_sizes, kernel),) * d for s, d in zip(space.stages, depths)),
            tuple((pick(s.expand_ratios, ratio),) * d for s, d in zip(space.stages, depths)), *widths)))
    return found


def skewed(space: SearchSpace, resolution: int, n: int, rng: np.random.Generator) -> list[Arch]:
    """N networks of nearly the same MACs: half of them lie in the earliest stages, half in the latest."""
    space = space.restrict(resolutions=[resolution])
    pool = space.sample(rng, POOL)
    codes = space.encode(pool)
    macs = space.cost_table(lambda row: row.macs)(codes)
    sides = space.cost_table(lambda row: row.macs * row.size)(codes) / macs  # px, the mean over MACs
    near = [i for i in np.argsort(-sides) if abs(macs[i] / np.median(macs) - 1) < NEAR]
    return [pool[i] for i in (*near[:n // 2], *near[len(near) - (n - n // 2):])]
