"""What is built and published: the wheel, its metadata, and what it asks to be installed."""
import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
NAMES = {'PIL': 'pillow', 'yaml': 'pyyaml', 'sklearn': 'scikit-learn', 'ai_edge_litert': 'ai-edge-litert',
         'pynvml': 'nvidia-ml-py'}  # of a module -> of its package

COME_ALONG = {'torchao', 'flatbuffers', 'markupsafe', 'measuring'}  # with executorch, LiteRT, jinja2, in a kit


@pytest.fixture(scope='module')
def metadata(tmp_path_factory):
    for module in ('hatchling', 'hatch_fancy_pypi_readme'):
        pytest.importorskip(module, reason='building a wheel needs it')
    folder = tmp_path_factory.mktemp('dist')
    subprocess.run([sys.executable, '-m', 'hatchling', 'build', '-t', 'wheel', '-d', str(folder)], cwd=ROOT, check=True,
                   capture_output=True)
    wheel, = folder.glob('*.whl')
    with ZipFile(wheel) as archive:
        names = archive.namelist()
        text = archive.read(next(name for name in names if name.endswith('/METADATA'))).decode()
    return importlib.metadata.PathDistribution.metadata.fget(_Text(text)), names


class _Text:
    """A distribution of which only the metadata are known."""

    def __init__(self, text):
        self.text = text

    def read_text(self, name):
        return self.text if name == 'METADATA' else None


def requirements(metadata):
    return [Requirement(text) for text in metadata.get_all('Requires-Dist')]


def test_the_licenses_are_named_and_lie_in_the_wheel(metadata):
    told, names = metadata
    assert told['License-Expression'] == 'Apache-2.0 AND MIT' and told['Project-URL']
    files = told.get_all('License-File')
    assert len(files) == 3 and all(any(name.endswith(f'licenses/{file}') for name in names) for file in files)
    assert 'Copyright (c) 2021 Han Cai' in (ROOT / 'LICENSE-MIT').read_text()


def test_an_index_shows_no_link_to_a_file_that_it_does_not_have(metadata):
    text = metadata[0].get_payload()
    assert text.count('](') >= 2 and not re.findall(r'\]\((?!https?:)[^)]*\)', text)
    assert '`hub_configs/README.md` in the source' in text and text.startswith('# timm_ofa')


def test_every_dependency_has_a_lower_bound(metadata):
    development = {'test', 'clients'}  # of extras that users do not need
    for requirement in requirements(metadata[0]):
        extra = re.search(r"extra == ['\"](\w+)", str(requirement.marker or ''))
        if not (extra and extra[1] in development):
            assert any(s.operator == '>=' for s in requirement.specifier), requirement


def test_no_choice_of_extras_installs_two_packages_over_each_other(metadata):
    asked = {requirement.name for requirement in requirements(metadata[0])}
    assert 'onnxruntime' in asked and not {name for name in asked if name.startswith('onnxruntime-')}


def test_what_is_imported_is_asked_for_and_what_is_asked_for_is_imported(metadata):
    imported = set()
    for path in (ROOT / 'timm_ofa').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split('.')[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split('.')[0])
    imported = {NAMES.get(name, name) for name in imported - set(sys.stdlib_module_names)}
    asked = {r.name.replace('-', '_') if r.name in ('huggingface-hub', 'lazy-loader') else r.name
             for r in requirements(metadata[0])
             if not re.search(r"extra == ['\"](test|clients|bench)", str(r.marker or ''))}
    assert imported - COME_ALONG == asked, imported ^ asked
