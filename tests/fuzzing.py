"""A fuzz of all that reads what others wrote: valid examples, changed at random, are read or refused in one line.

`python tests/fuzzing.py --inputs 1000000` is the long run; `tests/test_fuzzing.py` runs it for seconds.
"""
from __future__ import annotations

import argparse
import contextlib
import copy
import io
import itertools
import json
import random
import re
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

from timm_ofa.errors import InputError  # noqa: E402

if TYPE_CHECKING:
    from timm_ofa.hub.record import Record
    from timm_ofa.spaces import SearchSpace

MAX_SECONDS = 2.0
REPORT_EVERY = 20_000  # inputs
MAX_BYTES = 2 * 10**9  # of memory, all inputs together
ODD = [
    None, True, False, 0, -1, 1, 0.5, 1e-320, 1e308, float('nan'), float('inf'), -float('inf'), 2**53 + 1, 2**80,
    -2**80,
    10**400, '', ' ', 'x', '0', '1e3', 'x' * 10_000, '\ud800', '\x00', '\n', 'ü', '../..', '/etc/passwd', 'hf-hub:a/b',
    'r20', [], {}, [[]], [None], ['a'], [1, 2, 3], [1] * 5000, {'a': 1}, {'': None}, {'name': {'name': {}}}]
TOKENS = [b'', b'-', b'nan', b'inf', b'1e999', b'"', b"'", b'{', b'}', b'[', b']', b'\x00', b'\xff', b'\r', b'\n',
          b'\t', b':', b'&a', b'*a', b'!!python/object:os.system', b'<<', b'%', b'#', b'|', b'>', b',,', b'9' * 400,
          b'\xed\xa0\x80']


@dataclass(frozen=True)
class Reader:
    """Something that reads files: valid ones, and how it reads the folder in which they lie."""
    name: str
    files: dict[str, bytes]
    read: Callable[[Path], object]
    every: int = 1  # rounds; one that takes long is read in fewer of them


# ---- changes ---------------------------------------------------------------------------------------------------------


def changed_data(data: object, rng: random.Random) -> object:
    """JSON data with one to three changes at random places."""
    data = copy.deepcopy(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        parent, key = None, None
        node = data
        while isinstance(node, (dict, list)) and node and (parent is None or rng.random() < 0.8):
            parent, key = node, rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
            node = parent[key]
        if parent is None:
            return rng.choice(ODD)
        kind = rng.random()
        if kind < 0.55:
            parent[key] = copy.deepcopy(rng.choice(ODD))
        elif kind < 0.65:
            del parent[key]
        elif kind < 0.72 and isinstance(node, (int, float)):
            parent[key] = rng.choice([str(node), -node, node * 10**6, node + 0.5, [node]])
        elif kind < 0.8 and isinstance(parent, list):
            parent.insert(rng.randrange(len(parent) + 1), copy.deepcopy(node))
        elif kind < 0.9 and isinstance(parent, dict):
            parent[rng.choice(['', 'x', 'name', '__class__', 'ü', *parent])] = copy.deepcopy(rng.choice(ODD))
        else:
            for _ in range(rng.choice((1, 50, 2000))):
                node = [node]
            parent[key] = node
    return data


def changed_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes with one to four changes at random places."""
    parts = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(parts) + 1)
        kind = rng.random()
        if kind < 0.3:
            parts[at:at + 1] = bytes([rng.randrange(256)])
        elif kind < 0.55:
            parts[at:at + rng.choice((0, 1, 5))] = rng.choice(TOKENS)
        elif kind < 0.7:
            del parts[at:at + rng.choice((1, 10, 1000))]
        elif kind < 0.8:
            del parts[at:]
        else:
            lines = bytes(parts).split(b'\n')
            i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines[i] = lines[j] if kind < 0.9 else re.sub(rb'\d+', lambda _: rng.choice(TOKENS), lines[i], count=1)
            parts = bytearray(b'\n'.join(lines))
    return bytes(parts)


def changed(data: bytes, rng: random.Random) -> bytes:
    """A valid file, changed as data where it is JSON (or JSON lines), else as bytes."""
    if rng.random() < 0.7:
        try:
            lines = data.decode().splitlines()
            whole = len(lines) == 1 or (data[:1] in b'{[' and data.rstrip()[-1:] in b'}]' and lines[0] in ('{', '['))
            parts = [json.loads(data)] if whole else [json.loads(line) for line in lines]
        except ValueError:
            return changed_bytes(data, rng)
        i = rng.randrange(len(parts))
        try:
            parts[i] = changed_data(parts[i], rng)
            return '\n'.join(json.dumps(part) for part in parts).encode()
        except (RecursionError, ValueError, OverflowError):  # nested too deep to be written, or too large for sums
            return b'[' * 100_000
    return changed_bytes(data, rng)


# ---- readers ---------------------------------------------------------------------------------------------------------


def kit_readers(space: SearchSpace) -> list[Reader]:
    """Of what a kit of this space, or of its largest network, measured."""
    from timm_ofa.devices.kit import NETWORK, Graph, _network_task, import_kit, import_network_kit
    from timm_ofa.devices.measuring import FORMAT
    from timm_ofa.devices.plan import make_plan, network_graphs

    def results(task: dict, groups: Mapping[str, Sequence[Graph]]) -> bytes:
        return json.dumps({
            'format': FORMAT, 'measured_on': '2026-01-02', 'task': {
                **task, 'runtime': 'onnxruntime', 'runtime_version': '1.23.0', 'processor': 'cpu', 'threads': 1,
                'wall': False, 'host': 'a test'},
            'groups': {name: {
                'low_ms': [0.1 + i / 100 for i in range(len(graphs))], 'p50_ms': [1.0 + i for i in range(len(graphs))],
                'n': 20, 'noise_pct': 1.0, 'reference_ms': [1.0, 1.1]} for name, graphs in groups.items()}}).encode()

    rows, plan = space.rows(space.max_arch()), make_plan(space, check_nets=1)
    return [
        Reader('results of a kit', {'r.json': results(plan.task('fp32', 1), plan.groups)},
               lambda f: import_kit(f / 'r.json', device='a', space=space)),
        Reader('results of the kit of a network', {'n.json': results(
            _network_task(rows, 'fp32', 1, 0, True), {NETWORK: network_graphs(rows)})},
            lambda f: import_network_kit(f / 'n.json', rows))]


def hub_reader(files: dict[str, bytes], record: Record) -> Reader:
    """Of what the Hub answers: who somebody is, which repositories there are, what is in one, and who changed it."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.errors import HTTPError
    from huggingface_hub.utils._http import default_client_factory

    from timm_ofa.hub import check_token, client, listing, publishing

    info = {'id': 'acme/net', 'sha': '0' * 40, 'private': False, 'tags': ['timm_ofa'], 'siblings': [
        {'rfilename': name} for name in files]}
    answers = {
        'whoami-v2': {'type': 'user', 'name': 'acme', 'orgs': [{'name': 'lab'}],
                      'auth': {'accessToken': {'role': 'write'}}},
        'models': [info, {**info, 'id': 'acme/other'}], 'models/acme/net': info,
        'models/acme/net/commits/main': [
            {'id': '0' * 40, 'title': 'New (timm_ofa 0.1.0)', 'message': '', 'date': '2026-01-02T03:04:05.000Z',
             'authors': [{'user': 'acme'}]}] * 2,
        'models/acme/net/refs': {'branches': [], 'converts': [], 'tags': [
            {'name': 'v1', 'ref': 'refs/tags/v1', 'targetCommit': '0' * 40}]}}
    names = {path: f'{i}.json' for i, path in enumerate(answers)}
    http = import_module(HTTPError.__module__.partition('.')[0])  # httpx, or what newer clients of the Hub use

    def ask(folder: Path) -> None:
        def answer(request):
            content = (folder / names[request.url.path.removeprefix('/api/')]).read_bytes()
            return http.Response(200, content=content, headers={'Content-Type': 'application/json'})

        set_client_factory(lambda: http.Client(transport=http.MockTransport(answer)))
        try:
            ask_all(folder)
        finally:
            set_client_factory(default_client_factory)

    def ask_all(folder: Path) -> None:
        with patch.object(client, 'refuse_unreachable'), patch.object(publishing, '_block_on_hub', lambda *_: {}), \
                patch.object(listing, 'hf_hub_download', lambda repo, name, revision: folder / name):
            check_token('acme')
            listing.find('acme')
            with client.hub_errors('acme/net'):
                api = client.hub_api()
                publishing._check_ours(api, api.model_info('acme/net'), record, False, False)
                publishing._refuse_changed(api, 'acme/net')
                publishing._tag_version(api, 'acme/net', '0' * 40)

    return Reader('answers of the Hub', {
        **files, **{names[path]: json.dumps(data).encode() for path, data in answers.items()}}, ask)


def readers() -> list[Reader]:
    """All of them, with small valid files."""
    import numpy as np
    import torch
    import yaml
    from hub_makers import make_front, make_model, make_record, save_made_front, toy_profile

    from timm_ofa import Arch, load_space
    from timm_ofa.accuracy import AccuracyPredictor, AdditivePredictor, load_predictor, read_records
    from timm_ofa.cli.command import VERBS
    from timm_ofa.cli.verbs import parse
    from timm_ofa.devices import import_csv, load_profile, read_networks
    from timm_ofa.hub import check_folder, load_front, save_folder
    from timm_ofa.hub.checkpoints import read_upstream
    from timm_ofa.hub.configs import hub_configs_dir, read_hub_config
    from timm_ofa.hub.outgoing import public_emissions
    from timm_ofa.hub.supernets import read_supernet
    from timm_ofa.networks import check_shapes, new_supernet, read_json
    from timm_ofa.training import load_config, load_finetune, run_events, save_supernet

    space, rng = load_space('ofa_mbv3_tiny').restrict(resolutions=[20]), np.random.default_rng(0)
    archs = space.sample(rng, 24)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)

        def written(make: Callable[[Path], object], *names: str) -> dict[str, bytes]:
            make(folder / names[0])
            return {name: (folder / name).read_bytes() for name in names}

        record = make_record()
        network = save_folder(folder / 'net', make_model(record), record)
        save_supernet(new_supernet(space, num_classes=3), folder / 'super', {'data': 'none'})
        torch.save({'state_dict': {'a': torch.ones(2)}}, folder / 'checkpoint')
        top1 = [50 + space.macs(arch) / 1e6 for arch in archs]
        found = [
            Reader('space', {'a.json': json.dumps(space.to_dict()).encode()},
                   lambda f: load_space(f / 'a.json')),
            Reader('arch', {'a.json': json.dumps(archs[0].to_dict()).encode()},
                   lambda f: space.check(Arch.from_dict(read_json(f / 'a.json')))),
            Reader('arch as text', {'a': str(archs[0]).encode()},
                   lambda f: space.parse((f / 'a').read_bytes().decode(errors='replace'))),
            Reader('profile', written(toy_profile(load_space('ofa_mbv3_tiny'), 'a').save, 'p.json'),
                   lambda f: load_profile(f / 'p.json')),
            Reader('records', {'r.jsonl': '\n'.join(
                json.dumps({**a.to_dict(), 'top1_pct': t}) for a, t in zip(archs, top1)).encode()},
                lambda f: read_records(f / 'r.jsonl', space)),
            Reader('front', written(lambda p: save_made_front(p, make_front()), 'f.jsonl', 'f.jsonl.meta.json'),
                   lambda f: load_front(f / 'f.jsonl', load_space('ofa_mbv3_tiny'))),
            Reader('networks as CSV', {'n.csv': ('arch,latency_ms\n' + ''.join(
                f'"{a}",{i + 1.5}\n' for i, a in enumerate(archs))).encode()},
                lambda f: read_networks(f / 'n.csv', space)),
            Reader('networks as JSON lines', {'n.jsonl': '\n'.join(
                json.dumps({'arch': str(a), 'latency_ms': 1.5}) for a in archs).encode()},
                lambda f: read_networks(f / 'n.jsonl', space)),
            Reader('rows as CSV', {'b.csv': ('row,ms\n' + ''.join(
                f'{key},0.1\n' for key in dict.fromkeys(r.key for r in space.all_rows(20)))).encode()},
                lambda f: import_csv(f / 'b.csv', space, device='a', runtime='b')),
            Reader('predictor', written(AccuracyPredictor.fit(space, archs, top1, seed=0).save, 'p.safetensors'),
                   lambda f: load_predictor(f / 'p.safetensors')),
            Reader('additive predictor',
                   written(AdditivePredictor.fit(space, archs, top1, seed=0).save, 'q.safetensors'),
                   lambda f: load_predictor(f / 'q.safetensors')),
            Reader('network', {p.name: p.read_bytes() for p in network.iterdir()
                               if p.suffix in ('.json', '.safetensors')}, check_folder, every=10),
            Reader('supernet', {p.name: p.read_bytes() for p in (folder / 'super').iterdir()}, read_supernet,
                   every=10),
            Reader('header of weights', {'w.safetensors': (network / 'model.safetensors').read_bytes()},
                   lambda f: check_shapes(f / 'w.safetensors', torch.nn.Linear(2, 2), 'w')),
            Reader('checkpoint', {'c': (folder / 'checkpoint').read_bytes()},
                   lambda f: read_upstream(f / 'c', torch.nn.Linear(2, 2))),
            *(Reader(f'{kind} as YAML', {'c.yaml': (hub_configs_dir() / f'{name}.yaml').read_bytes()}, read)
              for kind, name, read in (
                  ('training', 'ofa_mbv3_fashion_supernet', lambda f: load_config(f / 'c.yaml')),
                  ('fine-tuning', 'finetune_imagenet_25', lambda f: load_finetune(f / 'c.yaml')))),
            Reader('named network as YAML', {'ofa_mbv3_note10_lat22ms.yaml': (
                hub_configs_dir() / 'ofa_mbv3_note10_lat22ms.yaml').read_bytes()},
                lambda f: read_hub_config(f / 'ofa_mbv3_note10_lat22ms.yaml')),
            Reader('training as data', {'c.yaml': json.dumps(yaml.safe_load(
                (hub_configs_dir() / 'ofa_mbv3_fashion_supernet.yaml').read_text())).encode()},
                lambda f: load_config(f / 'c.yaml')),
            Reader('setting', {'s': b'phases.0.epochs=2'}, lambda f: load_config(
                hub_configs_dir() / 'ofa_mbv3_fashion_supernet.yaml',
                [(f / 's').read_bytes().decode(errors='replace')])),
            Reader('log of a training', {'log.jsonl': b'{"event": "start", "steps": 3}\n{"event": "end"}\n'},
                   lambda f: run_events(f, 'log.jsonl')),
            Reader('emissions', {'e.csv': b'timestamp,run_id,duration,emissions\n2026-01-02,x,3.5,0.1\n'},
                   lambda f: public_emissions((f / 'e.csv').read_text(encoding='utf-8', errors='replace'))),
            *kit_readers(space.restrict(depths=[1, 2], kernel_sizes=[3], expand_ratios=[2, 4])),
            hub_reader({name: (network / name).read_bytes() for name in ('config.json', 'perf.json')}, record),
            Reader('command line', {'s': b'search\n--space\nofa_mbv3_tiny\n--predictor\np\n--max-macs-m\n5'},
                   lambda f: parse(VERBS, (f / 's').read_bytes().decode(errors='replace').split('\n'))),
        ]
    return found


# ---- the run ---------------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What became of all inputs."""
    faults: list[str]
    inputs: int = 0  # that were read, or refused in one line
    slowest: tuple[float, str] = 0.0, ''  # processor seconds, and of which input
    peak_bytes: int = 0  # the most memory that this process has had

    def __str__(self) -> str:
        return (f'{self.inputs:,} inputs, {len(self.faults)} faults; the slowest took {self.slowest[0]:.2f} s '
                f'({self.slowest[1]}); at most {self.peak_bytes / 1e9:.2f} GB of memory')


def fault_of(reader: Reader, folder: Path) -> str | None:
    """What is wrong with how a reader takes the files of a folder."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # -h of the command
            reader.read(folder)
    except InputError as error:
        if '\n' in str(error) or len(str(error)) > 1500:
            return f'not one short line: {str(error)[:300]!r}'
    except SystemExit:  # likewise
        pass
    except BaseException:
        return traceback.format_exc(limit=-3)
    return None


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1000


def fuzz(inputs: int, seed: int = 0, only: str = '', tell: Callable[[str], None] = len) -> Outcome:
    """Read so many changed inputs. `tell` gets each fault at once."""
    found, before = Outcome([]), _peak_bytes()
    with tempfile.TemporaryDirectory() as place:
        prepared = []
        for i, reader in enumerate(r for r in readers() if only in r.name):
            folder = Path(place) / str(i)
            folder.mkdir()
            for name, data in reader.files.items():
                (folder / name).write_bytes(data)
            if fault := fault_of(reader, folder):
                found.faults.append(f'{reader.name}, unchanged: {fault}')
            prepared.append((reader, folder))
        turns = (place for number in itertools.count() for place in prepared if number % place[0].every == 0)
        for i, (reader, folder) in enumerate(itertools.islice(turns, inputs)):
            rng = random.Random(f'{seed} {i}')
            name = rng.choice(list(reader.files))
            data = changed(reader.files[name], rng)
            (folder / name).write_bytes(data)
            began = time.process_time()
            fault = fault_of(reader, folder)
            seconds = time.process_time() - began
            found.slowest = max(found.slowest, (seconds, f'{reader.name}, seed {seed}, input {i}'))
            if seconds > MAX_SECONDS:
                fault = f'{fault or ""} {seconds:.1f} s'
            if fault:
                found.faults.append(f'{reader.name}, seed {seed}, input {i}: {fault}\n  of {data[:300]!r}')
                tell(found.faults[-1])
            (folder / name).write_bytes(reader.files[name])
            found.inputs += 1
            if found.inputs % REPORT_EVERY == 0:
                found.peak_bytes = _peak_bytes()
                tell(str(found))
    found.peak_bytes = _peak_bytes()
    if found.peak_bytes > max(MAX_BYTES, before):  # this process may have done other things
        found.faults.append(f'{found.peak_bytes / 1e9:.1f} GB of memory')
    return found


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--inputs', type=int, default=100_000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--only', default='', help='readers whose name holds this')
    options = parser.parse_args()
    warnings.simplefilter('ignore')  # of torch and numpy, about what they are given
    outcome = fuzz(options.inputs, options.seed, options.only, lambda fault: print(fault, flush=True))
    print(outcome)
    sys.exit(bool(outcome.faults))
