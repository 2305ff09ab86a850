"""The whole job on images that come with the package: train, measure this machine, search, specialize, save, load.

Every step leaves files in the output folder. When it runs again, it continues where it was stopped.
"""
from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ..console import say
from ..files import write_text
from ..hub import Source, arch_name, arch_timer, hub_configs_dir, save_front
from ..images import load_data, stored_side
from ..runtimes import load_runtime
from ..searching import Limit, refuse_infeasible, search
from ..training import load_config, scaled
from . import stages
from .shared import check_room_for

CONFIG = 'ofa_mbv3_fashion_supernet.yaml'
SUBNETS = 60  # judged for the predictor
PROFILE_SECONDS = 10.0
SETTINGS = 'quickstart.json'  # in the folder of all results


def quickstart(out: str | Path, *, data_source: str | None = None, test: str | None = None,
               max_latency_ms: float | None = None, budget: float = 1.0, seed: int = 0, runtime: str = 'onnxruntime',
               skip_broken: bool = False) -> list[dict[str, Any]]:
    """Run all steps; returns the rows of the final table, of which the first one is the chosen network.

    Args:
        out: Folder of all results; given again, finished steps are not repeated.
        data_source: Other images than those of the package (see `load_data`).
        test: Test images from another source.
        max_latency_ms: The limit; by default 60 % of the latency of the largest subnet.
        budget: Factor on the number of training epochs and of judged subnets.
        skip_broken: Leave out images that cannot be decoded.
    """
    out = Path(out)
    began = time.perf_counter()
    config = scaled(load_config(
        hub_configs_dir() / CONFIG, data=data_source, test=test, seed=seed, skip_broken=skip_broken or None), budget)
    space = config.load_space()
    settings = dict(data=config.data, test=test, budget=budget, seed=seed, runtime=runtime)
    load_runtime(runtime)
    stages.check_settings(out / SETTINGS, settings)
    check_room_for(9, out, space)  # the supernet and the chosen network

    say(f'1/6 images: {config.data}')
    data = load_data(
        config.data, stored_side(space), holdout=config.holdout, seed=seed, skip_broken=config.skip_broken, test=test)
    stages.say_remarks(data)
    write_text(out / SETTINGS, json.dumps(settings, indent=1))
    say(f'2/6 latency of this machine ({runtime}, 1 thread)')
    profile = stages.profiled(
        out / 'profile.json', space, data.num_classes, PROFILE_SECONDS, seed, runtime=runtime)
    limit_ms = max_latency_ms or stages.usual_limit_ms(space, profile)
    refuse_infeasible(space, profile, [Limit(profile, limit_ms)])
    say(f'3/6 supernet: {space.size():,} networks in one')
    supernet, training = stages.trained(config, data, out / 'supernet')
    source = Source(supernet, config.name, data, config.augment, training, seed)
    say('4/6 accuracy of sampled subnets')
    predictor = stages.predicted(out, source, profile, max(24, round(SUBNETS * budget)), seed)

    say(f'5/6 search: most accurate under {limit_ms:g} ms')
    result = search(space, predictor, profile, max_latency_ms=limit_ms, seed=seed)
    found = save_front(
        out / 'front.jsonl', result, space, predictor, profile, str(out / 'profile.json'), limit_ms, seed)
    timer = arch_timer(space, profile)
    found, chosen = stages.best_found(found, timer, max_latency_ms is not None)

    say('6/6 save, load again in a new process')
    compared = stages.references(space, predictor, profile, {
        'largest subnet': space.max_arch(), 'smallest subnet': space.min_arch(max(space.resolutions))})
    folder = out / arch_name(space, found.under, found.bound_ms)
    rows = [stages.saved(source, chosen, found, profile, compared, folder),
            *stages.compared_rows(source, compared, timer)]
    stages.write_summary(out, rows, [found.bound_ms], time.perf_counter() - began)
    return rows


def closing_words(rows: list[dict[str, Any]]) -> str:
    """The table for people, the place of the picture, and the lines that load the chosen network."""
    chosen, largest = rows[:2]
    return (
        f'{stages.rows_table(rows)}\n\n'
        f'{largest["measured_ms"] / chosen["measured_ms"]:.1f} times as fast as the largest subnet at '
        f'{chosen["top1_pct"] - largest["top1_pct"]:+.1f} points of top-1. Both have the weights of the supernet.\n'
        f'card, weights and front ({Path(chosen["folder"]) / "pareto.svg"}): {chosen["folder"]}\n\n'
        f'    import timm, timm_ofa\n'
        f"    model = timm.create_model('local-dir:{chosen['folder']}', pretrained=True)")
