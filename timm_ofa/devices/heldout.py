"""Whole networks that tell how good a device profile is: those that it is fitted on, and those that it never saw.

Random networks flatter every method, because their latencies nearly follow their MACs. So there are two more groups:
corners, to which a search goes, and networks of equal MACs that differ in everything else as much as the space allows.
"""
from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..spaces import Arch, Row, SearchSpace
from .work import operators

FITTED, RANDOM = 'fitted', 'random'  # the group that constants are fitted on; the group that may be larger
POOL = 200_000  # networks, from which the skewed ones are chosen
NEAR = 0.005  # relative distance from the wanted MACs, so that any two networks are equal within 1 %


def check_networks(space: SearchSpace, n: int, random_nets: int | None = None, seed: int = 0,
                   fitted_nets: int | None = None) -> dict[str, tuple[Arch, ...]]:
    """Group -> networks, all of them distinct.

    There are `fitted_nets` 'fitted' and `random_nets` 'random' ones (None: N of each), which take the resolutions in
    turn; up to N 'corners' at the middle resolution; and N 'skewed' ones of any resolution.
    """
    middle, rng, fitted = space.resolutions[len(space.resolutions) // 2], np.random.default_rng(seed), fitted_nets or n
    sampled = [replace(arch, resolution=space.resolutions[i % len(space.resolutions)])
               for i, arch in enumerate(space.sample(rng, fitted + (random_nets or n)))]
    drawn = {
        FITTED: sampled[:fitted], RANDOM: sampled[fitted:], 'corners': corners(space, middle)[:n],
        'skewed': skewed(space, n, rng)}
    groups: dict[str, tuple[Arch, ...]] = {}
    seen: set[Arch] = set()
    for name, archs in drawn.items():
        groups[name] = tuple(arch for arch in dict.fromkeys(archs) if arch not in seen)
        seen.update(archs)
    return groups


def corners(space: SearchSpace, resolution: int) -> list[Arch]:
    """Networks whose blocks are all alike: extreme depths and expansion ratios, three kernel sizes or widths."""
    def ends(choices: Sequence, middle: bool = False) -> list[int]:
        return sorted({0, len(choices) - 1, *([len(choices) // 2] if middle else [])})

    most = max(space.stages, key=lambda s: len(s.kernel_sizes) * len(s.widths) * len(s.expand_ratios) * len(s.depths))
    found = []
    for depth, kernel, ratio, width in itertools.product(
            ends(most.depths), ends(most.kernel_sizes, True), ends(most.expand_ratios), ends(most.widths, True)):
        def pick(choices: Sequence, index: int):
            return choices[min(index, len(choices) - 1)]

        blocks = [[s.at(j) for j in range(pick(s.depths, depth))] for s in space.stages]
        widths: tuple = ()
        if space.elastic_widths:
            widths = tuple(pick(s.widths, width) for s in space.stages), pick(space.stem_widths, width)
        found.append(space.check(Arch(
            resolution, tuple(tuple(pick(b.kernel_sizes, kernel) for b in stage) for stage in blocks),
            tuple(tuple(pick(b.expand_ratios, ratio) for b in stage) for stage in blocks), *widths)))
    return list(dict.fromkeys(found))


def skewed(space: SearchSpace, n: int, rng: np.random.Generator) -> list[Arch]:
    """N networks of equal MACs, spread evenly over all other work: values moved, weights fetched, operators started.

    At one end, where this is little, are shallow networks of large images. At the other end are deep, wide ones of
    small images, with most of the work in late stages. The MACs are those that the most resolutions have in common.
    The blocks of a stage are alike, with extreme kernel sizes and expansion ratios, whatever the other stages have.
    """
    codes = _extreme_codes(space, rng)
    macs = space.cost_table(lambda row: float(row.macs))(codes)
    ends = space.max_arch(space.resolutions[0]), space.min_arch(space.resolutions[-1])
    wanted = np.prod([space.macs(arch) for arch in ends], dtype=float) ** 0.5
    codes = np.unique(codes[np.abs(macs / wanted - 1) < NEAR], axis=0)
    if not len(codes):  # a space of few networks
        return []
    besides = [space.cost_table(cost)(codes) for cost in (_moved, _fetched, _started)]
    place = sum((values - values.mean()) / max(values.std(), 1e-9) for values in besides)
    chosen: list[int] = []
    for at in np.linspace(place.min(), place.max(), n):
        distance = np.abs(place - at)
        distance[chosen] = np.inf
        chosen.append(int(distance.argmin()))
    return space.decode(codes[list(dict.fromkeys(chosen))])


def _extreme_codes(space: SearchSpace, rng: np.random.Generator) -> np.ndarray:
    """Random codes (POOL, 1 + P), see `SearchSpace.encode`: any frame and depth; extreme blocks, alike in a stage."""
    parts = [rng.integers(len(space.frames), size=(POOL, 1))]
    for stage in space.stages:
        deepest, ends = max(stage.depths), list(itertools.product((0, -1), (0, -1)))  # of kernel sizes, expand ratios
        codes = [{choice: c for c, choice in enumerate(stage.choices(j), 1)} for j in range(deepest)]
        blocks = dict.fromkeys(tuple(
            codes[j][stage.at(j).kernel_sizes[k], stage.at(j).expand_ratios[e]] for j in range(deepest))
            for k, e in ends)
        options = np.array([
            [*block[:depth], *[0] * (deepest - depth)] for depth in stage.depths for block in blocks])
        parts.append(options[rng.integers(len(options), size=POOL)])
    return np.concatenate(parts, axis=1)


def _moved(row: Row) -> float:
    return float(sum(step.read + step.written for step in operators(row)))


def _fetched(row: Row) -> float:
    return float(row.params)


def _started(row: Row) -> float:
    return float(len(operators(row)))
