"""How good a subnet is: recalibrate its BatchNorm statistics, count its hits; collect such records for a predictor."""
from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import update_bn
from tqdm import tqdm

from ..errors import InputError
from ..files import write_text
from ..images import Augment, Data, ImageSet, calibration_batches, calibration_set, eval_batch
from ..networks import Supernet
from ..spaces import Arch, SearchSpace

if TYPE_CHECKING:
    from accelerate import PartialState

CALIBRATION_IMAGES = 2000


def recalibrate_bn(subnet: nn.Module, loader: Iterable) -> nn.Module:
    """Give a subnet BatchNorm statistics of its own: averages over the batches of `loader`.

    A supernet's running statistics mix all its subnets; without this step a subnet is near chance.

    Args:
        subnet: What `supernet.extract(arch)` gave; changed in place and returned.
        loader: Batches of *training* images (B, 3, R, R), normalized, or (images, labels) pairs.
    """
    update_bn(loader, subnet, device=next(subnet.parameters()).device)
    return subnet


@torch.inference_mode()
def evaluate(model: nn.Module, images: ImageSet, space: SearchSpace, resolution: int, batch_size: int = 500, *,
             top: int = 1) -> float:
    """Accuracy in percent of a model at a resolution (px): how often the label is among its `top` first answers."""
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    hits = 0
    for start in range(0, len(images), batch_size):
        indices = torch.arange(start, min(start + batch_size, len(images)))
        x = eval_batch(images.fetch(indices).to(device), space, resolution)
        hits += (model(x).topk(top).indices.cpu() == images.labels[indices][:, None]).sum().item()
    model.train(was_training)
    return 100 * hits / len(images)


class SubnetJudge:
    """Accuracy of subnets of one supernet on one set of images, calibration batches kept for each resolution."""

    def __init__(self, supernet: Supernet, calibration: ImageSet, images: ImageSet, *,
                 augment: Augment | None = None, calibration_images: int = CALIBRATION_IMAGES, seed: int = 0):
        self.supernet, self.calibration, self.images = supernet, calibration, images
        self.augment = augment or Augment()
        self.calibration_images, self.seed = calibration_images, seed
        self._batches: dict[int, list[torch.Tensor]] = {}

    @cached_property
    def _calibration_set(self) -> ImageSet:
        return calibration_set(self.calibration, self.calibration_images, self.seed)

    def batches(self, resolution: int) -> list[torch.Tensor]:
        """Calibration batches at a resolution (px), the same ones each time."""
        if resolution not in self._batches:
            device = next(self.supernet.parameters()).device
            self._batches[resolution] = [batch.to(device) for batch in calibration_batches(
                self._calibration_set, self.supernet.space, resolution, augment=self.augment, seed=self.seed)]
        return self._batches[resolution]

    def subnet(self, arch: Arch) -> nn.Module:
        """The stock network of an arch, recalibrated, in evaluation mode."""
        return recalibrate_bn(self.supernet.extract(arch), self.batches(arch.resolution)).eval()

    def top1_pct(self, arch: Arch) -> float:
        """Top-1 accuracy of an arch, percent."""
        return evaluate(self.subnet(arch), self.images, self.supernet.space, arch.resolution)


def launched() -> PartialState:
    """The place of this process among those of `accelerate launch` or `torchrun`; alone it is the first of one."""
    import accelerate
    from accelerate.utils import parse_flag_from_env

    return accelerate.PartialState(cpu=parse_flag_from_env('ACCELERATE_USE_CPU'))


def leave() -> None:
    """Wait for the other processes, then take leave of them: one that just ends can take another down with it."""
    state = launched()
    state.wait_for_everyone()
    state.destroy_process_group()


def judge_together(judge: SubnetJudge, archs: Sequence[Arch]) -> list[float]:
    """Top-1 accuracy of each arch, percent: the processes of a launch share the archs, and each gets all results."""
    from accelerate.utils import gather_object

    rank, world = launched().process_index, launched().num_processes
    told = gather_object([(i, judge.top1_pct(archs[i])) for i in range(rank, len(archs), world)])
    return [top1_pct for _, top1_pct in sorted(told)]


def supernet_digest(supernet: nn.Module) -> str:
    """SHA-256 of all tensors with their names, in hex: which supernet a record belongs to."""
    digest = hashlib.sha256()
    for name, tensor in sorted(supernet.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def subnets_to_judge(space: SearchSpace, seed: int) -> Iterator[Arch]:
    """The endless list that `collect` works through: largest and smallest first, then random ones, none twice."""
    seen = set()
    yield from (arch for arch in (space.max_arch(), space.min_arch()) if not (arch in seen or seen.add(arch)))
    rng = np.random.default_rng(seed)
    while True:
        arch = space.sample(rng)
        if arch not in seen:
            seen.add(arch)
            yield arch


Propose = Callable[[list[tuple[Arch, float]], int], list[Arch]]


def collect(judge: SubnetJudge, data: Data, num: int, path: str | Path, *, seed: int = 0,
            propose: Propose | None = None, proposer: str = '') -> list[tuple[Arch, float]]:
    """Judge `num` subnets and append each to `path` (JSON lines: the fields of `arch.to_dict()` plus `top1_pct`).

    What the file already holds is kept: calling again goes on. `path` + '.meta.json' says which supernet and data the
    records belong to; records of another one are refused. Several processes (`accelerate launch`) share the subnets;
    the main one writes, the same file as one alone.

    `propose(records, n)` gives the next subnets to judge, up to n, instead of `subnets_to_judge`; `proposer` says how,
    for the meta file.
    """
    path, space, state = Path(path), judge.supernet.space, launched()
    if num < 2 or num > space.size() * len(space.resolutions):
        raise InputError(f'--num {num} is out of range; give 2 to {min(10**6, space.size() * len(space.resolutions))}')
    meta_path = Path(f'{path}.meta.json')
    meta = dict(
        space=space.name, resolutions=list(space.resolutions), supernet_sha256=supernet_digest(judge.supernet),
        data=data.name, images=len(judge.images), calibration_images=judge.calibration_images, seed=seed,
        **({'proposer': proposer} if propose else {}))
    _check_meta(path, meta_path, meta)
    state.wait_for_everyone()  # all have looked
    if state.is_main_process:
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_torn_line(path)
        write_text(meta_path, json.dumps(meta, indent=1))
        if not path.exists():
            path.touch()
    state.wait_for_everyone()
    records = read_records(path, space)
    done = {arch for arch, _ in records}
    todo = (arch for arch in subnets_to_judge(space, seed) if arch not in done)
    propose = propose or (lambda _, n: list(islice(todo, n)))
    with tqdm(total=num, initial=len(records), desc='collect', unit='subnet', disable=not state.is_main_process) as bar:
        while len(records) < num:
            archs = propose(records, min(state.num_processes, num - len(records)))
            judged = [(arch, round(top1_pct, 4)) for arch, top1_pct in zip(archs, judge_together(judge, archs))]
            if state.is_main_process:
                with path.open('a') as file:
                    file.writelines(json.dumps({**arch.to_dict(), 'top1_pct': top1}) + '\n' for arch, top1 in judged)
            records += judged
            bar.update(len(judged))
    return records[:num]


def _check_meta(path: Path, meta_path: Path, meta: dict) -> None:
    """Refuse a file with records of something else."""
    if meta_path.exists():
        before = _read_meta(meta_path)
        for name, value in meta.items():
            if before.get(name) != value:
                raise InputError(
                    f'{path.name} holds records of {name} {before.get(name)!r:.80}, not {value!r:.80}; '
                    'use another --out')
    elif path.exists() and path.stat().st_size:
        raise InputError(
            f'{str(path)!r:.120} holds records of an unknown supernet (no {meta_path.name}); use another --out')


def _read_meta(path: Path) -> dict:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        raise InputError(f'{path.name} cannot be read; use another --out') from None


def _drop_torn_line(path: Path) -> None:
    """Cut off a last line that an interruption left unfinished."""
    if path.exists():
        text = path.read_text()
        whole = text[:text.rfind('\n') + 1]
        if whole != text:
            write_text(path, whole)


def read_records(path: str | Path, space: SearchSpace) -> list[tuple[Arch, float]]:
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
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(
                f'records {Path(path).name} line {number} is not an arch with top1_pct; remove it') from None
        records.append((arch, float(top1_pct)))
    return records
