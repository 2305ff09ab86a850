"""Accuracies of many subnets, collected in a file that survives interruptions: the samples of a predictor."""
from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..console import progress_bar
from ..errors import InputError
from ..files import drop_torn_line, locked, write_text
from ..images import Data
from ..spaces import Arch, SearchSpace
from .judge import SubnetJudge, judge_together, launched

Records = list[tuple[Arch, float]]  # networks and their top-1, percent
Propose = Callable[[Records, int], list[Arch]]  # (records so far, n) -> up to n networks to judge next


def supernet_digest(supernet: nn.Module) -> str:
    """SHA-256 of all tensors with their names, in hex: which supernet a record belongs to."""
    digest = hashlib.sha256()
    for name, tensor in sorted(supernet.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def subnets_to_judge(space: SearchSpace, seed: int) -> Iterator[Arch]:
    """The endless list of networks that `collect` judges: the largest, the smallest, then random ones, none twice."""
    seen = {space.max_arch(): None, space.min_arch(): None}
    yield from list(seen)
    rng = np.random.default_rng(seed)
    while True:
        arch = space.sample(rng)
        if arch not in seen:
            seen[arch] = None
            yield arch


def collect(judge: SubnetJudge, data: Data, num: int, path: str | Path, *, seed: int = 0,
            propose: Propose | None = None, proposer: str = '') -> Records:
    """Judge `num` subnets and append each to `path` (JSON lines: the fields of `arch.to_dict()`, and `top1_pct`).

    Records that the file already holds are kept, so an interrupted collection goes on. `path` + '.meta.json' says which
    supernet and data the records belong to; records of others are refused. Several processes (`accelerate launch`)
    share the subnets. The main one writes the file, with the same bytes as a single process. While it does, a second
    collection into the same file is refused.

    `propose` gives the next subnets to judge instead of `subnets_to_judge`; `proposer` names it in the meta file.
    """
    with locked(path, wait=False) if launched().is_main_process else nullcontext():
        return _collect(judge, data, num, Path(path), seed, propose, proposer)


def _collect(judge: SubnetJudge, data: Data, num: int, path: Path, seed: int, propose: Propose | None, proposer: str,
             ) -> Records:
    space, state = judge.supernet.space, launched()
    check_num(num, space)
    meta_path = Path(f'{path}.meta.json')
    meta = dict(
        space=space.name, resolutions=list(space.resolutions), supernet_sha256=supernet_digest(judge.supernet),
        data=data.name, images=len(judge.images), images_sha256=judge.images.digest(),
        calibration_images=judge.calibration_images, seed=seed, **({'repairs': True} if judge.repairs else {}),
        **({'proposer': proposer} if propose else {}))
    _check_meta(path, meta_path, meta)
    state.wait_for_everyone()  # all have looked
    if state.is_main_process:
        path.parent.mkdir(parents=True, exist_ok=True)
        drop_torn_line(path)
        write_text(meta_path, json.dumps(meta, indent=1))
        if not path.exists():
            path.touch()
    state.wait_for_everyone()
    records = read_records(path, space)
    done = {arch for arch, _ in records}
    todo = (arch for arch in subnets_to_judge(space, seed) if arch not in done)
    propose = propose or (lambda _, n: list(islice(todo, n)))
    with progress_bar(num, 'collect', 'subnet', shown=state.is_main_process, initial=len(records)) as bar:
        while len(records) < num and (archs := propose(records, min(state.num_processes, num - len(records)))):
            judged = [(arch, round(top1_pct, 4)) for arch, top1_pct in zip(archs, judge_together(judge, archs))]
            if state.is_main_process:
                with path.open('a') as file:
                    file.writelines(json.dumps({**arch.to_dict(), 'top1_pct': top1}) + '\n' for arch, top1 in judged)
            records += judged
            bar.update(len(judged))
    return records[:num]


def check_num(num: int, space: SearchSpace) -> None:
    """Raise `InputError` unless a space has so many networks to judge, or for fewer than two."""
    most = space.count()
    if not 2 <= num <= most:
        raise InputError(f'--num {num} is out of range; give 2 to {min(10**6, most)}')


def check_records(path: str | Path, space: SearchSpace) -> None:
    """Raise `InputError` if a file of records says that it is of another search space."""
    meta_path = Path(f'{path}.meta.json')
    of = _read_meta(meta_path).get('space', space.name) if meta_path.exists() else space.name
    if of != space.name:
        raise InputError(f'records {Path(path).name} are of {of!r:.80}, not of {space.name}; give --space {of}')


def _check_meta(path: Path, meta_path: Path, meta: dict) -> None:
    """Refuse a file that holds records of something else."""
    if meta_path.exists():
        before = _read_meta(meta_path)
        for name in {**meta, **before}:
            known, value = before.get(name), meta.get(name)
            if known != value:
                raise InputError(
                    f'{path.name} holds records of {name} {known!r:.80}, not {value!r:.80}; use another --out')
    elif path.exists() and path.stat().st_size:
        raise InputError(
            f'{str(path)!r:.120} holds records of an unknown supernet (no {meta_path.name}); use another --out')


def _read_meta(path: Path) -> dict:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        raise InputError(f'{path.name} cannot be read; use another --out') from None


def read_records(path: str | Path, space: SearchSpace) -> Records:
    """Accuracy records (arch, top-1 percent) of a JSON-lines file, checked; raises `InputError` naming the line."""
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        raise InputError(
            f'records {str(path)!r:.120} cannot be read; give the file that `timm-ofa collect` wrote') from None
    records = []
    for number, line in enumerate(lines, 1):
        try:
            fields = json.loads(line)
            top1_pct = fields.pop('top1_pct')
            arch = space.check(Arch.from_dict(fields))
            if not 0 <= top1_pct <= 100:
                raise InputError(f'top1_pct {top1_pct} is not a percentage')
        except InputError as error:
            raise InputError(f'records {Path(path).name} line {number}: {error}') from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(
                f'records {Path(path).name} line {number} is not an arch with top1_pct; remove it') from None
        records.append((arch, float(top1_pct)))
    return records
