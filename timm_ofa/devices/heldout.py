"""Whole networks that tell how good a device profile is: what it is fitted on, and what it never saw.

Random networks flatter every method, since their latencies all but follow the MACs. So there are two more groups:
corners, where a search goes, and networks of equal MACs that differ in all else as much as the space allows.
"""
from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..spaces import Arch, Row, SearchSpace
from .fewshot import operators

FITTED, RANDOM = 'fitted', 'random'  # the group that gives a profile its constant; the one of many networks
POOL = 200_000  # networks, of which the skewed ones are chosen
NEAR = 0.005  # relative distance from the MACs that are wanted: any two are equal within 1 %


def check_networks(space: SearchSpace, n: int, random_nets: int | None = None, seed: int = 0,
                   fitted_nets: int | None = None) -> dict[str, tuple[Arch, ...]]:
    """Group -> distinct networks: `fitted_nets` 'fitted' and `random_nets` 'random' ones (None: N of each) of all
    resolutions in turn; up to N 'corners' at the middle resolution; N 'skewed' ones of any.
    """
    middle, rng, fitted = space.resolutions[len(space.resolutions) // 2], np.random.default_rng(seed), fitted_nets or n
    sampled = [replace(arch, resolution=space.resolutions[i % len(space.resolutions)])
               for i, arch in enumerate(space.sample(rng, fitted + (random_nets or n)))]
    groups = {
        FITTED: sampled[:fitted], RANDOM: sampled[fitted:], 'corners': corners(space, middle)[:n],
        'skewed': skewed(space, n, rng)}
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


def skewed(space: SearchSpace, n: int, rng: np.random.Generator) -> list[Arch]:
    """N networks of equal MACs, spread evenly over what a network does beside multiplying: from one end of the space,
    where few values are moved, few weights fetched and few operators started, to the other.

    At one end are shallow networks of large images, at the other deep, wide ones of small images, with most of the work
    in late stages. The MACs are those that the most resolutions have in common. The blocks of a stage are alike, with
    extreme kernel sizes and expansions, whatever the other stages have.
    """
    codes = _extreme_codes(space, rng)
    macs = space.cost_table(lambda row: float(row.macs))(codes)
    ends = space.max_arch(space.resolutions[0]), space.min_arch(space.resolutions[-1])
    wanted = np.prod([space.macs(arch) for arch in ends], dtype=float) ** 0.5
    codes = np.unique(codes[np.abs(macs / wanted - 1) < NEAR], axis=0)
    besides = [space.cost_table(cost)(codes) for cost in (_moved, _fetched, _started)]
    place = sum((values - values.mean()) / max(values.std(), 1e-9) for values in besides)
    chosen: list[int] = []
    for at in np.linspace(place.min(), place.max(), n) if len(place) else ():
        distance = np.abs(place - at)
        distance[chosen] = np.inf
        chosen.append(int(distance.argmin()))
    return space.decode(codes[list(dict.fromkeys(chosen))])


def _extreme_codes(space: SearchSpace, rng: np.random.Generator) -> np.ndarray:
    """(POOL, 1 + P), see `SearchSpace.encode`: any frame; any depth, the blocks of a stage all alike and extreme."""
    parts = [rng.integers(len(space.frames), size=(POOL, 1))]
    for i, stage in enumerate(space.stages):
        code = {choice: c for c, choice in enumerate(space.choices(i), 1)}
        blocks = [code[ends] for ends in itertools.product(
            {stage.kernel_sizes[0], stage.kernel_sizes[-1]}, {stage.expand_ratios[0], stage.expand_ratios[-1]})]
        options = np.array([
            [block] * depth + [0] * (max(stage.depths) - depth) for depth in stage.depths for block in sorted(blocks)])
        parts.append(options[rng.integers(len(options), size=POOL)])
    return np.concatenate(parts, axis=1)


def _moved(row: Row) -> float:
    return float(sum(step.read + step.written for step in operators(row)))


def _fetched(row: Row) -> float:
    return float(row.params)


def _started(row: Row) -> float:
    return float(len(operators(row)))
