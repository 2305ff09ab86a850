"""The house: who may import whom, what an import costs, and what the files do not say."""
import ast
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'timm_ofa'
ORDER = [  # a room imports only rooms above it
    'errors', 'files', 'fields', 'tables', 'arch', 'rows', 'space', 'memory',
    'sources', 'data', 'batches', 'weights',
    'models', 'elastic', 'supernet', 'initial',
    'recipes', 'shrink', 'accuracy', 'runs', 'engine', 'convert',
    'fewshot', 'heldout', 'latency', 'note10', 'csvtables',
    'layers', 'export', 'runtimes', 'measuring', 'energy', 'profiler', 'kit',
    'additive', 'predictor', 'released', 'knapsack', 'limits', 'pool', 'anneal', 'exact', 'search', 'active',
    'record', 'configs', 'specialize', 'finish',
    'card', 'plots', 'folder', 'supernets', 'hub', 'catalog', 'named', 'upstream',
    'quickstart', 'options', '__main__']
EXCEPTIONS: dict[tuple[str, str], str] = {}  # (room, what it imports against the order): why
HEAVY = {
    'onnx', 'onnxruntime', 'openvino', 'ai_edge_litert', 'ncnn', 'executorch', 'matplotlib', 'jinja2', 'datasets',
    'accelerate', 'sklearn', 'pandas', 'scipy'}
ROOMS = sorted([*PACKAGE.glob('*.py'), *(PACKAGE / 'runtimes').glob('*.py')])


def room_of(path):
    return 'runtimes' if path.parent.name == 'runtimes' else path.stem


def imports_of(path):
    """(room, line) of every import of this package in a file, those inside functions and for types included."""
    depth_of_package = 1 if path.parent == PACKAGE else 2
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth_of_package:
            names = [node.module.split('.')[0]] if node.module else [a.name for a in node.names]
            yield from ((name, node.lineno) for name in names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith('timm_ofa'):
            yield node.module.partition('.')[2].split('.')[0], node.lineno


@pytest.mark.parametrize(
    'path', [p for p in ROOMS if p != PACKAGE / '__init__.py'], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_rooms_above_it(path):
    room = room_of(path)
    assert room in ORDER, f'say where {room} stands'
    for name, line in imports_of(path):
        if name == '__version__' or (room, name) in EXCEPTIONS or (name == room == 'runtimes'):
            continue
        assert name in ORDER[:ORDER.index(room)], f'{path.name}:{line} imports {name}'


def test_every_exception_and_every_place_in_the_order_is_used():
    there = {room_of(p) for p in ROOMS} - {'__init__'}
    assert there <= set(ORDER) and len(set(ORDER)) == len(ORDER)
    assert set(EXCEPTIONS) <= {(room_of(p), name) for p in ROOMS for name, _ in imports_of(p)}


def python(code, *flags):
    """stdout of a new process that sees this checkout."""
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run([sys.executable, *flags, '-c', code], env=env, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


IMPORTS = """
import sys, time
start = time.process_time()
import timm
middle, before = time.process_time(), set(sys.modules)
import timm_ofa
print(middle - start, time.process_time() - middle, *(set(sys.modules) - before))
"""


@pytest.fixture(scope='module')
def imported():
    """Of three new processes: CPU seconds of `import timm`, those of `import timm_ofa` after it, modules it adds."""
    outputs = [python(IMPORTS, '-W', 'error::UserWarning').split() for _ in range(3)]
    return [(float(alone), float(added), modules) for alone, added, *modules in outputs]


def test_importing_the_package_imports_nothing_heavy_and_says_nothing(imported):
    for _, _, modules in imported:
        names = {name.split('.')[0] for name in modules}
        assert 'timm_ofa' in names and not names & HEAVY


def test_importing_the_package_adds_at_most_a_fifth_to_importing_timm(imported):
    assert statistics.median(added / alone for alone, added, _ in imported) < 0.2, [t[:2] for t in imported]


def test_public_names_are_there():
    import timm_ofa

    names = ['load_space', 'Arch', 'SearchSpace', 'recalibrate_bn', 'convert_upstream', 'load_profile', 'DeviceProfile',
             'AccuracyPredictor', 'load_upstream_predictor', 'search', 'Limit', 'MaxMacs', 'MaxParams', 'specialize',
             'publish']
    assert [name for name in names if not hasattr(timm_ofa, name)] == []


def text_files():
    folders = [PACKAGE, ROOT / 'hub_configs']
    for path in [*ROOT.glob('*.py'), *ROOT.glob('*.md'), *(p for f in folders for p in sorted(f.rglob('*')))]:
        if path.suffix in ('.py', '.yaml', '.json', '.j2', '.md', '.toml') and '__pycache__' not in path.parts:
            yield path


def test_no_file_names_a_place_of_the_machine_it_was_written_on():
    pattern = re.compile(r'/work\b|/root\b|/home/|/tmp/|\.\./shared|/venv/')
    found = [f'{p.relative_to(ROOT)}: {m[0]}' for p in text_files() for m in [pattern.search(p.read_text())] if m]
    assert found == []


def test_no_loose_ends_in_the_sources():
    pattern = re.compile(r'\b(TODO|FIXME|XXX)\b|^\s*print\(|\beval\(\w|pickle\.load', re.M)
    allowed = {'__main__.py', 'tables.py'}  # these speak
    found = [f'{p.name}: {m[0].strip()}' for p in ROOMS for m in pattern.finditer(p.read_text())
             if not (p.name in allowed and 'print' in m[0])]
    assert found == []


def test_every_room_says_what_it_is_for():
    for path in ROOMS:
        doc = ast.get_docstring(ast.parse(path.read_text()))
        assert doc and len(doc.splitlines()[0]) <= 120, path.name


def test_the_linter_has_nothing_to_say():
    pytest.importorskip('ruff', reason='needs ruff')
    done = subprocess.run(
        [sys.executable, '-m', 'ruff', 'check', '--quiet', '.'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
