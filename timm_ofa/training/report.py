"""Accuracy of subnets with inherited weights: of the ends of a phase's space, and of a table at the end of a run."""
from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np

from ..accuracy import SubnetJudge, judge_together, launched
from ..console import progress_bar
from ..spaces import SearchSpace
from .config import Phase
from .runs import RunLog


def judge_ends(phase: Phase, space: SearchSpace, judge: SubnetJudge, log: RunLog) -> None:
    """Write the accuracies of the largest and the smallest subnet of a phase's space into the log."""
    ends = space.max_arch(), space.min_arch(max(space.resolutions))
    largest_pct, smallest_pct = (round(top1_pct, 2) for top1_pct in judge_together(judge, ends))
    log(dict(event='phase', phase=phase.name, largest_top1_pct=largest_pct, smallest_top1_pct=smallest_pct))


def subnet_table(judge: SubnetJudge, log: Path, n: int = 8) -> list[dict]:
    """Judge the largest, the smallest and `n` random subnets; returns one row each, which the log gets as well.

    The processes of a launch share the subnets, and the main process writes.
    """
    space, state = judge.supernet.space, launched()
    largest = space.max_arch()
    archs = {
        'largest': largest, 'smallest': space.min_arch(largest.resolution),
        'smallest, small images': space.min_arch()}
    archs |= {f'random {i}': arch for i, arch in enumerate(space.sample(np.random.default_rng(0), n), 1)}
    rows, left, num_classes = [], iter(archs.items()), judge.supernet.num_classes
    with progress_bar(len(archs), 'evaluate', 'subnet', shown=state.is_main_process, leave=False) as bar:
        while part := dict(islice(left, state.num_processes)):
            for (name, arch), top1_pct in zip(part.items(), judge_together(judge, list(part.values()))):
                rows.append(dict(
                    subnet=name, top1_pct=round(top1_pct, 2), macs_m=round(space.macs(arch, num_classes) / 1e6, 2),
                    params_k=round(space.params(arch, num_classes) / 1e3, 1), arch=str(arch)))
                bar.update()
    if state.is_main_process:
        with log.open('a') as file:
            file.writelines(
                json.dumps(dict(event='subnet', images=judge.images.title, **row)) + '\n' for row in rows)
    return rows
