"""What the documents tell people to type: Python is run, commands are read by the parsers of those commands."""
import argparse
import re
import runpy
import shlex
import sys
from dataclasses import fields
from importlib.metadata import metadata
from pathlib import Path

import pytest
import timm
import torch
import yaml
from accelerate.commands.launch import launch_command_parser
from timm.models import save_for_hf

from timm_ofa.cli.command import VERBS
from timm_ofa.cli.verbs import parse
from timm_ofa.networks.supernet import new_supernet
from timm_ofa.spaces import load_space
from timm_ofa.training import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
NAMES = ('README.md', 'timm_ofa/README.md', 'hub_configs/README.md', 'tests/bench/README.md', '.github/CONTRIBUTING.md',
         '.github/CHANGELOG.md')
TEXTS = {name: (ROOT / name).read_text(encoding='utf-8') for name in NAMES}
LAUNCH = 'accelerate launch train.py'
TOOLS = ('pip ', 'python -m venv', '. .venv/bin/activate', 'pre-commit ', 'ruff ', 'mypy', 'bash .ci/run')


def blocks(language):
    return [block for text in TEXTS.values() for block in re.findall(rf'^```{language}\n(.*?)^```', text, re.M | re.S)]


def commands():
    """Every command of the documents, in blocks and in the text, without comments and their dots."""
    lines = [line for block in blocks('bash') for line in block.replace('\\\n', ' ').splitlines()]
    for text in TEXTS.values():
        prose = re.sub(r'^```.*?^```', '', text, flags=re.M | re.S)
        inline = [re.sub(r'\s+', ' ', code) for code in re.findall(r'(?<!`)`([^`]+)`(?!`)', prose)]
        lines += [code for code in inline if code.startswith((LAUNCH, 'timm-ofa ')) and '…' not in code]
    parts = [part.split(' #')[0].strip() for line in lines for part in line.split('&&')]
    return sorted({_launched(part) for part in parts if part})


def _launched(command):
    """The verb that a launch by Accelerate starts, also on the nodes of a cluster. Accelerate reads its own options."""
    for inside in re.findall(r"^srun bash -c '(.*)'$", command):
        command = re.sub(r'\$\(\(.*?\)\)|\$SLURM_\w+', '16', re.sub(r'\$\(scontrol .*?\)', '10.0.0.1', inside))
    if not command.startswith('accelerate launch -'):
        return command.replace(LAUNCH, 'timm-ofa train')
    launch = launch_command_parser().parse_args(shlex.split(command)[2:])
    assert launch.training_script == 'train.py' and launch.num_processes
    return shlex.join(['timm-ofa', 'train', *launch.training_script_args])


COMMANDS = [c for c in commands() if c.startswith('timm-ofa ') and len(c.split()) > 2]
BENCHMARKS = [c for c in commands() if c.startswith('python tests/')]
TESTS = [c for c in commands() if c.startswith('pytest')]


@pytest.mark.parametrize('command', COMMANDS)
def test_the_command_reads_what_a_document_says(command):
    call = parse(VERBS, shlex.split(command)[1:])
    assert call.verb.name == command.split()[1]
    config = call.given.get('config')
    assert config is None or (ROOT / config).is_file()


class ReadError(Exception):
    """Raised once the options of a benchmark were read."""


@pytest.mark.parametrize('command', BENCHMARKS)
def test_the_benchmark_reads_what_a_document_says(command, monkeypatch):
    script, *options = shlex.split(command.split(' > ')[0])[1:]
    text = (ROOT / script).read_text(encoding='utf-8')
    if 'argparse' not in text:
        assert options == []
        return
    read = argparse.ArgumentParser.parse_args

    def parse_args(self, args=None, namespace=None):
        read(self, options)
        raise ReadError

    for folder in ('tests/bench', 'tests/networks'):
        monkeypatch.syspath_prepend(ROOT / folder)
    monkeypatch.setattr(sys, 'argv', [script, *options])
    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', parse_args)
    with pytest.raises(ReadError):
        runpy.run_path(str(ROOT / script), run_name='__main__')


@pytest.mark.parametrize('command', TESTS)
def test_the_tests_that_a_document_names_are_there(command):
    paths = [word for word in shlex.split(command)[1:] if word.startswith('tests/')]
    assert all((ROOT / path).exists() for path in paths)


def test_no_command_is_left_out():
    assert {c.split()[1] for c in COMMANDS} >= {
        'quickstart', 'train', 'collect', 'fit', 'profile', 'search', 'specialize', 'measure', 'publish', 'catalog',
        'models'}
    others = set(commands()) - {*COMMANDS, *BENCHMARKS, *TESTS}
    unknown = [c for c in others if not c.startswith((*TOOLS, 'timm-ofa '))]
    assert unknown == [], 'no test reads these'


def test_every_extra_that_a_document_names_can_be_installed():
    extras = metadata('timm_ofa').get_all('Provides-Extra')
    named = {name for text in TEXTS.values() for names in re.findall(r"(?:timm_ofa|\.)\[([a-z,]+)\]'", text)
             for name in names.split(',')}
    assert named and named <= set(extras)


@pytest.mark.parametrize('code', blocks('python'))
def test_the_python_of_a_document_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = load_space('ofa_mbv3_tiny')
    for folder in re.findall(r"local-dir:([^']+)'", code):
        save_for_hf(new_supernet(space).extract(space.min_arch()), folder, safe_serialization=True)
    names: dict = {}
    exec(code, names)
    models = [value for value in names.values() if isinstance(value, torch.nn.Module)]
    assert models and names['timm'] is timm


@pytest.mark.parametrize('name', NAMES)
def test_every_file_that_a_document_points_to_is_there(name):
    folder = (ROOT / name).parent
    targets = re.findall(r'\]\((?!https?:)([^)#]+)\)', TEXTS[name])
    assert [t for t in targets if not (folder / t).resolve().exists()] == []


def test_every_key_of_a_training_is_in_its_table():
    table = TEXTS['hub_configs/README.md'].partition('## Keys of a training')[2].partition('\n## ')[0]
    keys = {key for line in re.findall(r'^\|(.*?)\|', table, re.MULTILINE) for key in re.findall('`([a-z_]+)`', line)}
    assert {field.name for field in fields(TrainConfig)} - {'name'} <= keys


def test_the_readme_is_short():
    assert len(TEXTS['README.md'].splitlines()) <= 160


@pytest.mark.parametrize(
    'path', ['.pre-commit-config.yaml', '.github/workflows/ci.yml', '.github/workflows/release.yml'])
def test_the_files_of_the_services_are_yaml(path):
    assert yaml.safe_load((ROOT / path).read_text())


def test_the_workflow_that_releases_types_a_command_that_there_is():
    *_, step = yaml.safe_load((ROOT / '.github/workflows/release.yml').read_text())['jobs']['release']['steps']
    command = step['run'].splitlines()[-1].replace(' "${options[@]}"', '')
    options = ' '.join(re.findall(r'options\+=\((.*?)\)', step['run']))
    call = parse(VERBS, shlex.split(f'{command} {options}')[1:])
    assert call.verb.name == 'release' and call.given['dry_run']
    assert {value.strip('$') for value in call.given.values() if str(value).startswith('$')} <= set(step['env'])
