"""A fuzz of all that reads what others wrote: valid examples, changed at random, are read or refused in one line.

`python tests/fuzzing.py --inputs 1000000` is the long run; `tests/test_fuzzing.py` runs it for seconds.
"""
from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import random
import re
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

from timm_ofa.errors import InputError  # noqa: E402

MAX_SECONDS = 2.0
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
        except (RecursionError, ValueError):  # nested too deep to be written
            return b'[' * 100_000
    return changed_bytes(data, rng)


# ---- readers ---------------------------------------------------------------------------------------------------------


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
    from timm_ofa.hub.supernets import read_supernet
    from timm_ofa.networks import check_shapes, new_supernet, read_json
    from timm_ofa.training import load_config, load_finetune, save_supernet

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
                               if p.suffix in ('.json', '.safetensors')}, check_folder),
            Reader('supernet', {p.name: p.read_bytes() for p in (folder / 'super').iterdir()}, read_supernet),
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
            Reader('command line', {'s': b'search\n--space\nofa_mbv3_tiny\n--predictor\np\n--max-macs-m\n5'},
                   lambda f: parse(VERBS, (f / 's').read_bytes().decode(errors='replace').split('\n'))),
        ]
    return found


# ---- the run ---------------------------------------------------------------------------------------------------------


def fault_of(reader: Reader, folder: Path) -> str | None:
    """What is wrong with how a reader takes the files of a folder."""
    began = time.process_time()
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
    seconds = time.process_time() - began
    return f'{seconds:.1f} s' if seconds > MAX_SECONDS else None


def _peak_bytes() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1000


def fuzz(inputs: int, seed: int = 0, only: str = '', tell: Callable[[str], None] = len) -> tuple[int, list[str]]:
    """Read so many changed inputs; gives how many were refused or read, and the faults, which `tell` gets at once."""
    faults, done, before = list[str](), 0, _peak_bytes()
    with tempfile.TemporaryDirectory() as place:
        prepared = []
        for i, reader in enumerate(r for r in readers() if only in r.name):
            folder = Path(place) / str(i)
            folder.mkdir()
            for name, data in reader.files.items():
                (folder / name).write_bytes(data)
            if fault := fault_of(reader, folder):
                faults.append(f'{reader.name}, unchanged: {fault}')
            prepared.append((reader, folder))
        for i in range(inputs):
            reader, folder = prepared[i % len(prepared)]
            rng = random.Random(f'{seed} {i}')
            name = rng.choice(list(reader.files))
            data = changed(reader.files[name], rng)
            (folder / name).write_bytes(data)
            if fault := fault_of(reader, folder):
                faults.append(f'{reader.name}, seed {seed}, input {i}: {fault}\n  of {data[:300]!r}')
                tell(faults[-1])
            (folder / name).write_bytes(reader.files[name])
            done += 1
    peak = _peak_bytes()
    if peak > max(MAX_BYTES, before):  # this process may have done other things
        faults.append(f'{peak / 1e9:.1f} GB of memory')
    return done, faults


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--inputs', type=int, default=100_000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--only', default='', help='readers whose name holds this')
    options = parser.parse_args()
    count, found_faults = fuzz(options.inputs, options.seed, options.only, lambda fault: print(fault, flush=True))
    print(f'{count:,} inputs, {len(found_faults)} faults')
    sys.exit(bool(found_faults))
