"""`timm-ofa release` of all of hub_configs/ to a local Hub: as it is, again, and with faults and SIGKILLs.

    python tests/bench/release_rehearsal.py --data DIR --keys DIR --kills 10 > tests/bench/results/release.txt

The checkpoints have random weights, under the names and in the shapes of the authors' files, and come from a local
server in the authors' place. `--keys` is a folder of lists of tensors of their files. Each run is
the command in a process of its own, forked from this one, which only imports. In the second part both servers fail at
random: they answer with an error, hang up before or after the work; and runs are killed at random moments. What the Hub
holds then must be equal to what it holds after the undisturbed run, file by file, with one commit of ours in each
repository.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import partial
from http.client import HTTPException
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hub_client import constants
from hub_repos import Repo
from hub_server import HubServer
from named_models import upstream_checkpoint

from timm_ofa.cli.command import main as command
from timm_ofa.hub import checkpoints, hub_configs
from timm_ofa.hub.releasing import way

FORK = multiprocessing.get_context('fork')
ORG = 'acme'
KEY_LISTS = {  # model -> list of the tensors of the authors' file
    'ofa_mbv3_w10_supernet': 'checkpointfile_ofa_mbv3_d234_e346_k357_w1.0',
    'ofa_mbv3_w12_supernet': 'checkpointfile_ofa_mbv3_d234_e346_k357_w1.2',
    'ofa_proxyless_w13_supernet': 'checkpointfile_ofa_proxyless_d234_e346_k357_w1.3',
    'ofa_mbv3_note10_lat22ms': 'specialized_mbv3_w1.0_note10_lat-22ms'}
PATIENCE = 12  # runs until the faults let one through


# ---- the servers -----------------------------------------------------------------------------------------------------


class FaultyHub(HubServer):
    """A Hub on which a share of the requests goes wrong."""
    share, rng = 0.0, random.Random(0)

    @property
    def fault_at(self) -> int:
        return len(self.requests) if self.rng.random() < self.share else -1

    @fault_at.setter
    def fault_at(self, number: int) -> None:
        """Nothing: requests go wrong at random."""

    @property
    def fault(self):
        return self.rng.choice([500, 503, 429, 'drop', 'lose'])

    @fault.setter
    def fault(self, kind) -> None:
        """Nothing: faults are random."""


class Authors(SimpleHTTPRequestHandler):
    """The files of the authors; a share of the requests gets an error or half of the file."""
    share, rng = 0.0, random.Random(1)

    def log_message(self, *args) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        if self.rng.random() >= self.share:
            return super().do_GET()
        if self.rng.random() < 0.5:
            return self.send_error(503)
        content = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        self.wfile.write(content[:len(content) // 2])
        self.close_connection = True


def serve(files: Path, share: float, seed: int, addresses) -> None:
    """Both servers, until this process is ended."""
    FaultyHub.share = Authors.share = share
    FaultyHub.rng, Authors.rng = random.Random(seed), random.Random(seed + 1)
    authors = ThreadingHTTPServer(('127.0.0.1', 0), partial(Authors, directory=str(files)))
    with FaultyHub() as hub:
        for path in (files / 'huggingface.co').rglob('*'):
            if path.is_file():  # ORG/NAME/resolve/REVISION/FILE
                parts = path.relative_to(files / 'huggingface.co').parts
                repo = hub.repos.setdefault('/'.join(parts[:2]), Repo(private=False))
                before = repo.commits[-1][1] if repo.commits else {}
                repo.commit({**before, '/'.join(parts[4:]): path.read_bytes()}, 'released')
        addresses.put((hub.url, f'http://127.0.0.1:{authors.server_port}'))
        authors.serve_forever()


@contextlib.contextmanager
def servers(files: Path, share: float, seed: int):
    addresses = FORK.Queue()
    process = FORK.Process(target=serve, args=(files, share, seed, addresses))
    process.start()
    try:
        yield addresses.get()
    finally:
        process.kill()
        process.join()


def write_checkpoints(folder: Path, only: str, keys: Path | None) -> str:
    """Write the file of each model that the authors released, and say what was written."""
    files, size, listed = 0, 0, []
    for seed, config in enumerate(hub_configs().values()):
        if way(config) != 'converted' or not fnmatchcase(config.name, only):
            continue
        list_ = keys / f'{KEY_LISTS[config.name]}.txt' if keys and config.name in KEY_LISTS else None
        listed += [config.name] if list_ else []
        url = urlsplit(config.weights.url)
        path = folder / url.netloc / url.path.lstrip('/')
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(from_list(list_, seed) if list_ else upstream_checkpoint(config.name, seed), path)
        files, size = files + 1, size + path.stat().st_size
    return (f'{files} checkpoints, {size / 1e6:.0f} MB; tensors of {", ".join(listed) or "none"} from the lists of the '
            "authors' files, of the others from the names and shapes that the authors' code gives")


def from_list(path: Path, seed: int) -> dict:
    """A checkpoint with exactly the tensors of a list: name, shape and kind on each line."""
    rng = torch.Generator().manual_seed(seed)
    lines = [line.split('\t') for line in path.read_text().splitlines() if line[0] != '#']
    return {'state_dict': {
        key: torch.zeros((), dtype=torch.int64) if kind == 'int64' else torch.rand(json.loads(shape), generator=rng) / 9
        for key, shape, kind in lines}}


# ---- the runs --------------------------------------------------------------------------------------------------------


def release(hub: str, authors: str, home: Path, words: list[str]) -> None:
    """What a forked process does: the command, with the Hub and the authors at local addresses."""
    import huggingface_hub.constants

    os.environ |= dict(HF_TOKEN='hf_write', TIMM_OFA_PROGRESS='0')
    vars(huggingface_hub.constants).update(constants(hub, home / 'cache'))
    fetch = checkpoints.fetch
    checkpoints.fetch = lambda url, path: fetch(url.replace('https:/', authors, 1), path)
    with open(home / 'said.txt', 'a') as errors, open(home / 'table.json', 'w') as out:
        os.dup2(errors.fileno(), 2)
        os.dup2(out.fileno(), 1)
        status = command(['release', '--org', ORG, '--out', str(home / 'out'), '--format', 'json', *words])
    os._exit(status)


def start(addresses: tuple[str, str], home: Path, words: list[str]):
    home.mkdir(parents=True, exist_ok=True)
    process = FORK.Process(target=release, args=(*addresses, home, words))
    process.start()
    return process


def finish(addresses: tuple[str, str], home: Path, words: list[str]) -> tuple[int, float, list[dict]]:
    """Run to the end: exit status, seconds, the table, which is empty where a fault met the run before its work."""
    began = time.perf_counter()
    process = start(addresses, home, words)
    process.join()
    said = (home / 'said.txt').read_text()
    if process.exitcode not in (0, 1, 2) or 'Traceback' in said:
        raise SystemExit(f'the run in {home} ended with {process.exitcode}:\n{said[-2000:]}')
    return process.exitcode, time.perf_counter() - began, json.loads((home / 'table.json').read_text() or '[]')


def kill_once(addresses: tuple[str, str], home: Path, words: list[str], moment_s: float) -> str:
    """Start a run and kill it after so many seconds."""
    process, began = start(addresses, home, words), time.perf_counter()
    process.join(moment_s)
    ended = not process.is_alive()
    process.kill()
    process.join()
    torn = [path.name for path in (home / 'out').glob('.*')]
    made = len([path for path in (home / 'out').glob('[!.]*') if path.is_dir()])
    return (f'{"ended" if ended else "killed"} after {time.perf_counter() - began:5.1f} s, {made} folders whole'
            f'{f", torn: {len(torn)}" if torn else ""}, {len(held(addresses[0]))} repositories')


def held(hub: str) -> dict[str, dict]:
    """What the Hub holds of the owner: the files of each repository with their hashes, its commits and its tags."""
    found = {}
    for repo_id in [model['id'] for model in ask_all(hub, f'api/models?author={ORG}')]:
        files, commits, refs = (
            json.loads(ask(hub, f'api/models/{repo_id}/{part}')[0]) for part in ('tree/main', 'commits/main', 'refs'))
        found[repo_id] = dict(
            files={file['path']: file['oid'] for file in files}, commits=len(commits),
            tags=[tag['name'] for tag in refs['tags'] if tag['targetCommit'] == commits[0]['id']])
    return found


def page_and_collections(hub: str) -> tuple[str, dict[str, int]]:
    """The catalog's page, without the address of the Hub, and the number of items of each collection."""
    page = ask(hub, f'spaces/{ORG}/catalog/resolve/main/index.html')[0].replace(hub, 'HUB')
    counts = {}
    for one in ask_all(hub, f'api/collections?owner={ORG}'):
        counts[one['title']] = len(json.loads(ask(hub, f'api/collections/{one["slug"]}')[0])['items'])
    return page, counts


def ask(hub: str, path: str) -> tuple[str, str]:
    """What the Hub answers, and the path of the next page. It may fail at random."""
    for _ in range(100):
        with contextlib.suppress(OSError, HTTPException), urllib.request.urlopen(f'{hub}/{path}', timeout=60) as answer:
            return answer.read().decode(), answer.headers.get('Link', '').partition(f'{hub}/')[2].partition('>')[0]
    raise SystemExit(f'{hub}/{path} does not answer')


def ask_all(hub: str, path: str) -> Iterator[dict]:
    """The entries of all pages of a list."""
    while path:
        text, path = ask(hub, path)
        yield from json.loads(text)


def states(rows: list[dict]) -> str:
    counts = Counter(row['state'] for row in rows)
    return ', '.join(f'{number} {state}' for state, number in counts.items())


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', required=True, help='images of 1000 classes, for BatchNorm statistics')
    parser.add_argument('--keys', type=Path, help="folder of lists of the authors' tensors")
    parser.add_argument('--kills', type=int, default=10)
    parser.add_argument('--faults', type=float, default=0.01, help='share of requests that go wrong in the second part')
    parser.add_argument('--only', default='*', help='models, as in timm-ofa release')
    parser.add_argument('--num-calibration', default='64', help='images for BatchNorm statistics')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    words = ['--data', args.data, '--num-calibration', args.num_calibration, '--only', args.only]
    folder = Path(tempfile.mkdtemp(prefix='release_rehearsal'))
    say(f'{write_checkpoints(folder / "files", args.only, args.keys)}; seed {args.seed}')
    expected, usual_s = undisturbed(folder, words)
    equal = disturbed(folder, words, args, expected, usual_s)
    shutil.rmtree(folder)
    sys.exit(not equal)


def undisturbed(folder: Path, words: list[str]) -> tuple[tuple, float]:
    """The whole release, and again; what the Hub holds then, and the seconds of the first run."""
    home = folder / 'undisturbed'
    with servers(folder / 'files', 0.0, 0) as addresses:
        status, _, rows = finish(addresses, home, [*words, '--dry-run'])
        say(f'dry run: status {status}, {states(rows)}; {len(held(addresses[0]))} repositories')
        status, usual_s, rows = finish(addresses, home, words)
        say(f'undisturbed: status {status}, {usual_s:.0f} s, {states(rows)}')
        for way_, count in Counter((row['way'], row['state'], row['why'][:60]) for row in rows).items():
            say(f'  {count:3} {" ".join(way_)}')
        found = held(addresses[0])
        once = sum(repo['commits'] == 2 and repo['tags'] == ['v1'] for repo in found.values())
        page, collections = page_and_collections(addresses[0])
        listed = ', '.join(f'{title.split()[-1]} {number}' for title, number in sorted(collections.items()))
        say(f'  {len(found)} repositories, {once} of them with one commit of ours and v1; collections: {listed}')
        status, again_s, rows = finish(addresses, home, words)
        same = held(addresses[0]) == found and page_and_collections(addresses[0]) == (page, collections)
        say(f'again: status {status}, {again_s:.0f} s, {states(rows)}; {"no commit" if same else "NOT the same"}')
        shutil.rmtree(home / 'out')
        shutil.rmtree(home / 'cache')
        status, again_s, rows = finish(addresses, home, words)
        same &= held(addresses[0]) == found
        say(f'again, on another computer: status {status}, {again_s:.0f} s, {states(rows)}; '
            f'{"no commit" if same else "NOT the same"}')
    return (found, page, collections), usual_s


def disturbed(folder: Path, words: list[str], args: argparse.Namespace, expected: tuple, usual_s: float) -> bool:
    """The release with faults, killed at random moments, then run until it says that all is done."""
    home, rng = folder / 'disturbed', random.Random(args.seed)
    with servers(folder / 'files', args.faults, args.seed) as addresses:
        for i in range(args.kills):
            told = kill_once(addresses, home, words, rng.uniform(0, 2 * usual_s / (args.kills + 1)))
            say(f'{i + 1:3} {told}')
        for run in range(PATIENCE):
            status, seconds, rows = finish(addresses, home, words)
            say(f'run {run + 1}: status {status}, {seconds:.0f} s, {states(rows)}')
            for row in rows:
                if row['state'] == 'failed':
                    say(f'  {row["name"]}: {row["why"][:160]}')
            if not status:
                break
        found = held(addresses[0])
        torn = [path.name for path in (home / 'out').glob('.*')]
        page, collections = page_and_collections(addresses[0])
    wrong = [name for name in {**expected[0], **found} if expected[0].get(name) != found.get(name)]
    equal = not wrong and (page, collections) == expected[1:] and not status and not torn
    say(f'{len(found)} repositories, {len(found) - len(wrong)} equal file by file with one commit each; page and '
        f'collections {"equal" if (page, collections) == expected[1:] else "NOT equal"}; nothing torn in the folder: '
        f'{not torn}')
    say('complete and equal' if equal else f'NOT equal: {wrong[:5]} {torn[:5]}')
    return equal


if __name__ == '__main__':
    main()
