"""Small networks, records, folders and repositories for the tests of the Hub."""
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import safetensors.torch
import timm
import torch
from hub_repos import Repo
from hub_server import HubServer

from timm_ofa.devices.profile import DeviceProfile, RowCost
from timm_ofa.hub.folder import CARD, PERF
from timm_ofa.hub.fronts import FrontFile, save_front
from timm_ofa.hub.record import Accuracy, FrontPoint, Measurement, Record, Search, Supernet
from timm_ofa.hub.saving import update_folder
from timm_ofa.networks import model_args
from timm_ofa.searching import Candidate, SearchResult
from timm_ofa.spaces import SearchSpace, load_space

NAME = 'ofa_mbv3_mycpu_lat2ms'
REPO = f'acme/{NAME}'
SPACE = load_space('ofa_mbv3_tiny')


def make_record(**changes) -> Record:
    """A network of four classes, chosen from a front of four, with a measured and a predicted latency."""
    archs = SPACE.sample(np.random.default_rng(1), 4)
    front = tuple(
        FrontPoint(arch=str(a), top1_pct=80 + i, latency_ms=1.0 + i / 2, chosen=i == 2) for i, a in enumerate(archs))
    measurement = Measurement(
        device='my-cpu', device_name='My CPU', runtime='onnxruntime-cpu', runtime_version='1.23', precision='fp32',
        threads=1, resolution=archs[2].resolution, latency_ms=1.9, statistic='median', p50_ms=1.9, p90_ms=2.2, n=100,
        source='measured')
    predicted = replace(measurement, latency_ms=0.9, p50_ms=None, p90_ms=None, n=None, source='predicted')
    return Record(**{
        'name': NAME, 'space': SPACE, 'arch': archs[2], 'num_classes': 4, 'class_names': tuple('abcd'),
        'device': 'my-cpu', 'device_name': 'My CPU', 'limit_ms': 2.0, 'predicted_ms': 1.4,
        'measurements': (measurement, predicted), 'top1_pct': 82.5, 'front': front, 'code_version': '0.1.0',
        'accuracy': Accuracy(dataset='digits', split='test', n=360, protocol='Center crop.'),
        'supernet': Supernet(id='acme/ofa_mbv3_tiny', sha256='0' * 64), 'search': Search(limit='2 ms', seed=0),
        **changes})


def make_model(record: Record, seed: int = 0) -> torch.nn.Module:
    """A subnet whose every weight and statistic is random, so that nothing is equal by default."""
    model = timm.create_model(
        'ofa_mobilenetv3', num_classes=record.num_classes, **model_args(record.space, record.arch)).eval()
    rng = torch.Generator().manual_seed(seed)
    for value in (v for v in model.state_dict().values() if v.is_floating_point()):
        value.copy_(torch.rand(value.shape, generator=rng) * 0.4 + 0.1)
    return model


def like(template: Path, folder: Path, name: str, measurements: tuple[Measurement, ...] = ()) -> Path:
    """The same network under another name, with other latencies."""
    shutil.copytree(template, folder)
    edit(folder / 'config.json', lambda d: d['timm_ofa'].update(name=name))
    edit(folder / PERF, lambda d: d.update(name=name))
    (folder / CARD).unlink()
    update_folder(folder, lambda record: replace(record, measurements=measurements))
    return folder


def measured(device: str, ms: float) -> Measurement:
    ms = round(float(ms), 3)
    return replace(make_record().measurements[0], device=device, device_name=device.title(), latency_ms=ms, p50_ms=ms,
                   p90_ms=round(ms * 1.1, 3))


def make_front() -> list[Candidate]:
    """Six networks of 20 px, the slower the better: 1 to 6 ms, 51 to 56 %."""
    archs = SPACE.restrict(resolutions=[20]).sample(np.random.default_rng(0), 6)
    return [Candidate(arch, 50.0 + i, float(i)) for i, arch in enumerate(archs, 1)]


def save_made_front(path: Path, front: Sequence[Candidate] | None = None, limit_ms: float | None = 4.0,
                    limits: Sequence[str] = ()) -> FrontFile:
    """The file of these networks, found on a phone under a limit of 4 ms."""
    front = make_front() if front is None else front
    result = SearchResult(best=front[3], front=tuple(front), history=(), evaluated=6)
    predictor = SimpleNamespace(check={'rmse_pct': 0.4})
    return save_front(
        path, result, SPACE, predictor, toy_profile(SPACE, 'toy-phone'), 'toy.json', limit_ms, 7, limits)


def toy_profile(space: SearchSpace, device: str) -> DeviceProfile:
    """A profile of 20 px on which every row takes 1 ms."""
    return DeviceProfile(
        name='toy', space=space.name, device=device, device_name='Toy', runtime='pytorch', runtime_version='1',
        precision='fp32', threads=1, batch_size=1, measured_on='2024-05-31', num_classes=10, overhead_ms=0.0, scale=1.0,
        table={row.key: RowCost(1.0, None, 3) for row in space.all_rows(20)}, protocol={'statistic': 'none'},
        check=dict(mape_pct=2.5, within_5_pct=90.0, within_10_pct=100.0, kendall_tau=0.9, n=12), source='a test')


def weights_bytes(model: torch.nn.Module) -> bytes:
    """What a safetensors file of the network holds."""
    return safetensors.torch.save({k: v.contiguous() for k, v in model.state_dict().items()}, {'format': 'pt'})


def edit(path: Path, change) -> None:
    """Change what a JSON file holds."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def read_lines(path: Path) -> list[dict]:
    """The entries of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def put_on(server: HubServer, repo_id: str, files: dict[str, bytes]) -> Repo:
    """A repository with these files, as anybody may have published it."""
    repo = server.repos[repo_id] = Repo(private=False)
    repo.commit({'.gitattributes': b'', **files}, 'published')
    return repo


def complete(server: HubServer, repo_id: str) -> bool:
    """Whether a repository holds exactly one commit of ours, with its version tag."""
    repo = server.repos[repo_id]
    return len(repo.commits) == 2 and repo.tags == {'v1': repo.commits[-1][0]}


def items_of(server: HubServer) -> dict[str, dict[str, str]]:
    """Title of each collection -> repository -> its note."""
    return {c['title']: {i['id']: i['note']['text'] for i in c['items']} for c in server.collections.values()}
