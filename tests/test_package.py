"""The house: who may import whom, what an import costs, and what the files do not say."""
import ast
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from timm_ofa.runtimes import runtime_names

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'timm_ofa'
GROUND = ('errors', 'fields', 'files', 'console')  # modules beside the packages; each may import those before it
PACKAGES = (  # a package may import the ground floor and the packages before it
    'spaces', 'networks', 'images', 'runtimes', 'devices', 'searching', 'accuracy', 'training', 'hub', 'cli')
HEAVY = {
    'onnx', 'onnxruntime', 'openvino', 'ai_edge_litert', 'ncnn', 'executorch', 'matplotlib', 'jinja2', 'datasets',
    'accelerate', 'sklearn', 'pandas', 'scipy'}
MODULES = sorted(PACKAGE.rglob('*.py'))
ENTRIES = {PACKAGE / '__init__.py', PACKAGE / '__main__.py'}  # they may import everything
STAND_ALONE = {PACKAGE / 'devices' / name for name in ('run_kit.py', 'run_android.py')}  # copied into kits


def imports_of(path):
    """(dotted name below timm_ofa, line) of every import of this package, those in functions and for types included."""
    here = path.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[:len(here) + 1 - node.level]
            names = [node.module] if node.module else [a.name for a in node.names]
            yield from (('.'.join([*base, name]), node.lineno) for name in names if name != '__version__')
        else:
            names = [node.module or ''] if isinstance(node, ast.ImportFrom) else (
                [a.name for a in node.names] if isinstance(node, ast.Import) else [])
            yield from ((name.removeprefix('timm_ofa.'), node.lineno) for name in names if name.startswith('timm_ofa'))


@pytest.mark.parametrize(
    'path', [p for p in MODULES if p not in ENTRIES], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_what_comes_before_its_package(path):
    order = (*GROUND, *PACKAGES)
    place = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
    assert place in order, f'say where {place} stands'
    for name, line in imports_of(path):
        top, _, inside = name.partition('.')
        if top == place:
            continue
        assert top in order[:order.index(place)], f'{path.name}:{line} imports {name}'
        assert not inside, f'{path.name}:{line} imports {name}; take it from the package {top}, whose names others use'


def test_every_package_has_its_place():
    assert {p.name for p in PACKAGE.iterdir() if (p / '__init__.py').is_file()} == set(PACKAGES)
    assert {p.stem for p in PACKAGE.glob('*.py')} == {*GROUND, '__init__', '__main__'}


@pytest.mark.parametrize('package', ['', *PACKAGES])
def test_the_names_of_a_package_are_there_and_are_used_by_others(package):
    module = import_module(f'timm_ofa.{package}'.rstrip('.'))
    folder = PACKAGE / package
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    clashes = {p.stem for p in folder.glob('*.py')} & set(module.__all__)
    assert not clashes, 'a module that has the name of what it exports would hide it'
    if package:
        others = [p.read_text() for p in MODULES if folder not in p.parents] + [(PACKAGE / '__init__.pyi').read_text()]
        unused = [name for name in module.__all__ if not any(re.search(rf'\b{name}\b', text) for text in others)]
        assert unused == []


def python(code, *flags, arguments=()):
    """stdout of a new process that sees this checkout."""
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(
        [sys.executable, *flags, '-c', code, *arguments], env=env, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


IMPORTS = """
import sys
import timm
before = set(sys.modules)
import timm_ofa
print(*(set(sys.modules) - before))
"""


def test_importing_the_package_imports_little_and_says_nothing():  # tests/bench/bench_start.py has the seconds
    modules = python(IMPORTS, '-W', 'error::UserWarning').split()
    others = {name.split('.')[0] for name in modules} - {'timm_ofa'}
    assert 'timm_ofa' in modules and not others & HEAVY
    assert others <= {'lazy_loader', 'tabulate', 'wcwidth'} and len(modules) <= 45


ASKED = """
import importlib.util, timm_ofa
assert importlib.util.find_spec('timm')  # as accelerate and transformers do
import timm
assert timm.is_model('ofa_byobnet')
"""


def test_whoever_asks_whether_timm_is_there_does_not_keep_the_models_from_it():
    python(ASKED)


FIRST = """
import os, sys
import accelerate, huggingface_hub
import timm  # in each child only timm's own __init__ runs again, and the models are registered at its end
sys.dont_write_bytecode, sys.pycache_prefix = False, sys.argv[1]  # a module is compiled in the first child alone
for name in sys.argv[2:]:
    if not os.fork():
        del sys.modules['timm']
        __import__(name)
        import timm
        assert timm.is_model('ofa_byobnet') and timm.is_model('ofa_mbv3_w12_supernet')
        os._exit(0)
    assert os.wait()[1] == 0, f'{name} cannot be imported first'
"""


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_any_module_that_imports_timm_can_be_imported_first(tmp_path):
    names = ['.'.join(path.relative_to(ROOT).with_suffix('').parts) for path in MODULES if imports_timm(path)]
    assert 'timm_ofa.networks.elastic' in names and 'timm_ofa.hub.ofa' in names
    python(FIRST, arguments=[str(tmp_path), *names])


def imports_timm(path):
    """Whether a module imports timm at its top."""
    for node in ast.parse(path.read_text()).body:
        modules = [a.name for a in node.names] if isinstance(node, ast.Import) else (
            [node.module or ''] if isinstance(node, ast.ImportFrom) and not node.level else [])
        if any(module.split('.')[0] == 'timm' for module in modules):
            return True
    return False


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


MAX_LINES, MAX_FUNCTION_LINES = 400, 60  # of a file, of a function


@pytest.mark.parametrize('path', MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_file_and_no_function_is_long(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    assert [f.name for f in functions if f.end_lineno - f.lineno >= MAX_FUNCTION_LINES] == []


def test_every_dataclass_but_the_state_of_a_training_is_a_value_that_does_not_change():
    changing = re.compile(r'^@dataclass(?!\(frozen=True).*\nclass (\w+)', re.M)
    assert [name for path in MODULES for name in changing.findall(path.read_text())] == ['Loop']


def test_no_loose_ends_in_the_sources():
    pattern = re.compile(r'\b(TODO|FIXME|XXX)\b|^\s*print\(|\beval\(\w|pickle\.load', re.M)
    allowed = {'command.py', 'console.py', 'measuring.py'}  # these speak
    found = [f'{p.name}: {m[0].strip()}' for p in MODULES for m in pattern.finditer(p.read_text())
             if not (p.name in allowed and 'print' in m[0])]
    assert found == []


def test_every_room_says_what_it_is_for():
    for path in MODULES:
        doc = ast.get_docstring(ast.parse(path.read_text()))
        assert doc and len(doc.splitlines()[0]) <= 120, path.name


@pytest.mark.parametrize('package', PACKAGES)
def test_a_package_says_what_each_of_its_modules_is_for(package):
    text = (PACKAGE / package / '__init__.py').read_text()
    names = {path.stem for path in (PACKAGE / package).glob('[!_]*.py')}
    if package == 'runtimes':
        names -= set(runtime_names())  # one file each
    assert {name for name in names if f'`{name}`' not in text} == set()


def test_the_linter_has_nothing_to_say():
    pytest.importorskip('ruff', reason='needs ruff')
    done = subprocess.run(
        [sys.executable, '-m', 'ruff', 'check', '--quiet', '.'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
