"""What breaks while a verb writes: files are whole or absent, statuses are those of other tools, and it goes on.

A table of verbs and faults. Each verb runs in a fork, and the fault comes at chosen changes of its files.
"""
import hashlib
import itertools
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
import yaml
from faulty import REFUSED
from hub_server import HubServer
from ranks import Ranks
from safetensors import safe_open

TESTS = Path(__file__).resolve().parents[1]
PREPARE = f'''
import sys
sys.path[:0] = [{str(TESTS)!r}, {str(TESTS / 'cli')!r}]
import json
from pathlib import Path
import faulty
faulty.prepare(Path(sys.argv[1]), json.loads(sys.argv[2]))
'''
RUN = 'import faulty, sys; faulty.run(sys.argv[3:], sys.argv[1], int(sys.argv[2]))'
VERBS = {  # command line; READY is the folder of what the verbs read
    'quickstart': 'quickstart --data digits --budget 0.01 --out out',
    'run': 'run --data digits --from READY/own --resolutions 32 --profile READY/own.json --out out',
    'train': 'train --config READY/config.yaml --output run',
    'collect': 'collect --supernet READY/supernet --data digits --num 4 --out records.jsonl',
    'fit': 'fit --space READY/space.json --records READY/records.jsonl --out p.safetensors --plot fit.svg',
    'spaces': 'spaces --from mobilenetv3_small_050 --out space.json',
    'profile': 'profile --space READY/space.json --seconds 0.01 --out profile.json',
    'measure': 'measure net --save',
    'measure, a kit': 'measure net --export-kit kit',
    'search': 'search --space READY/space.json --predictor READY/predictor.safetensors --profile READY/toy.json '
              '--max-latency-ms 12 --out front.jsonl --plot front.svg',
    'specialize': 'specialize --supernet READY/supernet --data digits --front READY/front.jsonl --profile '
                  'READY/toy.json --no-measure --num-calibration 2 --out net',
    'publish': 'publish net --onnx --repo acme/net',
    'catalog': 'catalog --source READY --out index.html',
    'import-upstream': 'import-upstream --name ofa_mbv3_tiny_supernet --from READY/checkpoint.pth --out supernet'}
FAULTS = {  # exit status; 'cut' is a sudden end in the middle of a file
    'SIGKILL': -9, 'cut': -25, 'SIGTERM': 143, 'SIGHUP': 129, 'full disk': 2, 'read-only folder': 2,
    'closed stdout': 141, 'two at once': 0}
CHANGING = ('times.jsonl', 'summary.json', 'quickstart.json')  # files that hold dates and seconds


@dataclass
class Run:
    """How a verb ended."""
    status: int
    stderr: str
    here: Path  # the folder in which it ran
    changes: int | None = None  # of files, if it came to its end

    def files(self) -> dict[str, str]:
        """The hashes of its results, without those that are never the same."""
        return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in _files(self.here).items()
                if path.name not in CHANGING and 'checkpoints/' not in name}


def _files(folder: Path) -> dict[str, Path]:
    """All files that are not hidden, nor lie in hidden folders."""
    found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob('*')) if path.is_file()}
    return {name: path for name, path in found.items()
            if not any(part.startswith('.') for part in Path(name).parts) and not name.endswith('.part')}


def check_whole(folder: Path) -> None:
    """Read every file to its end."""
    for name, path in _files(folder).items():
        if path.suffix == '.safetensors':
            with safe_open(path, 'pt') as file:
                assert list(file.keys())
        elif path.suffix == '.onnx':
            onnx.load(path, load_external_data=False)
        elif path.suffix == '.jsonl':
            assert all(isinstance(json.loads(line), dict) for line in path.read_text().splitlines()), name
        elif path.suffix in ('.json', '.partial'):
            json.loads(path.read_text())
        elif path.suffix == '.yaml':
            yaml.safe_load(path.read_text())
        elif path.suffix in ('.svg', '.html', '.md', '.py'):
            assert path.read_text().endswith('\n'), name


@pytest.fixture(scope='module')
def hub():
    with HubServer() as found:
        yield found


@pytest.fixture(scope='module')
def forks(tmp_path_factory, hub):
    """(a function that runs code in a fork, the folder in which all was prepared)."""
    folder = tmp_path_factory.mktemp('faults')
    found = Ranks(PREPARE, [str(folder), json.dumps(VERBS)], {**hub.env(folder / 'home'), 'TIMM_OFA_PROGRESS': '0'})
    assert found(folder, '', processes=1)[0] == [0]
    hub.reset()
    yield found, folder
    found.close()


@pytest.fixture(scope='module')
def verb(forks):
    """A function that runs a verb in a folder of its own, or in that of an earlier run."""
    fork, folder = forks
    ready, numbers = folder / 'ready', itertools.count()

    def run(name: str, fault: str = 'none', at: int = -1, after: Run | None = None) -> Run:
        here = after.here if after else folder / str(next(numbers)) / 'here'
        if after is None:
            here.mkdir(parents=True)
            if ' net ' in VERBS[name]:
                shutil.copytree(ready / 'net', here / 'net')
        words = VERBS[name].replace('READY', str(ready)).split()
        if name == 'train' and (here / 'run' / 'train.yaml').exists():
            words.append('--resume')
        (status,), (stderr,) = fork(here.parent, RUN, [fault, str(at), *words], processes=1)
        return Run(status, stderr, here)
    return run


@pytest.fixture(scope='module')
def whole(forks):
    """A function that gives a run of a verb in which nothing breaks."""
    def find(name: str) -> Run:
        work = forks[1] / 'whole' / name
        return Run(0, '', work / 'here', int((work / 'counted').read_text()))
    return find


@pytest.fixture(scope='module')
def gone_on(verb):
    """A function that runs a verb again after a fault; once for each state that faults leave."""
    known: dict[str, Run] = {}

    def go_on(name: str, after: Run) -> Run:
        hidden = {re.sub(r'\.[0-9a-z_]{8,12}\b', '', path.name) for path in after.here.rglob('.*')}
        state = f'{name} {sorted(after.files().items())} {sorted(hidden)}'
        if state not in known:
            known[state] = verb(name, after=after)
        return known[state]
    return go_on


def place_of(run: Run, fault: str) -> int:
    """Where a fault comes: at which change of files, or for limits of the size of a file, after how many bytes."""
    if fault in ('full disk', 'cut'):
        return 300
    if fault in ('read-only folder', 'closed stdout'):
        return 0 if fault == 'read-only folder' else -1
    return max(1, run.changes // 2 + (fault == 'SIGKILL'))


@pytest.mark.parametrize('fault', FAULTS)
@pytest.mark.parametrize('name', VERBS)
def test_files_are_whole_or_absent_and_the_verb_goes_on(name, fault, verb, whole, gone_on):
    expected = whole(name)
    found = verb(name, fault, place_of(expected, fault))
    assert 'Traceback' not in found.stderr and found.status == FAULTS[fault], found
    check_whole(found.here)
    if fault == 'two at once':
        status, said = ((found.here.parent / name).read_text() for name in ('second', 'second.stderr'))
        if name.partition(',')[0] in REFUSED:
            assert status == '2' and ('by another process' in said or 'already holds a run' in said), said
        else:
            assert status == '0' or 'is not an empty folder' in said, said
    if fault in ('closed stdout', 'two at once'):
        assert found.files() == expected.files()
        return
    if found.status > 0:
        assert found.stderr.strip() and not list(found.here.rglob('.*')), found
    again = gone_on(name, found)
    assert again.status == 0 and again.files() == expected.files(), (found, again)
