"""What the README tells people to type: Python is run, commands are read by the command's own parser."""
import re
import shlex
from importlib.metadata import metadata
from pathlib import Path

import pytest
import timm
import torch
from timm.models import save_for_hf

from timm_ofa.cli.options import parser
from timm_ofa.networks.supernet import new_supernet
from timm_ofa.spaces.space import load_space

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / 'README.md').read_text()
LAUNCH = 'accelerate launch train.py'


def blocks(language):
    return re.findall(rf'^```{language}\n(.*?)^```', README, re.M | re.S)


def commands():
    """Every command of the README, in blocks and in the text, without comments and their dots."""
    lines = [line for block in blocks('bash') for line in block.replace('\\\n', ' ').splitlines()]
    lines += [re.sub(r'\s+', ' ', text) for text in re.findall(r'(?<!`)`([^`]+)`(?!`)', README)]
    parts = [part.split(' #')[0].strip() for line in lines for part in line.split('&&')]
    return sorted({part.replace(LAUNCH, 'timm-ofa train') for part in parts
                   if part.startswith((f'{LAUNCH} ', 'timm-ofa ')) and '…' not in part})


@pytest.mark.parametrize('command', [c for c in commands() if len(c.split()) > 2])
def test_the_command_reads_what_the_readme_says(command):
    args = parser().parse_args(shlex.split(command)[1:])
    assert args.verb == command.split()[1]
    config = getattr(args, 'config', None)
    assert config is None or (ROOT / config).is_file()


def test_there_are_commands_in_it():
    assert {c.split()[1] for c in commands()} >= {
        'quickstart', 'train', 'collect', 'fit', 'profile', 'search', 'specialize', 'measure', 'publish', 'catalog',
        'models'}


def test_every_extra_it_names_can_be_installed():
    extras = metadata('timm_ofa').get_all('Provides-Extra')
    named = {name for names in re.findall(r"(?:timm_ofa|\.)\[([a-z,]+)\]'", README) for name in names.split(',')}
    assert named and named <= set(extras)


@pytest.mark.parametrize('code', blocks('python'))
def test_its_python_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = load_space('ofa_mbv3_tiny')
    for folder in re.findall(r"local-dir:([^']+)'", code):
        save_for_hf(new_supernet(space).extract(space.min_arch()), folder, safe_serialization=True)
    names: dict = {}
    exec(code, names)
    models = [value for value in names.values() if isinstance(value, torch.nn.Module)]
    assert models and names['timm'] is timm


def test_every_file_it_points_to_is_there():
    for target in re.findall(r'\]\((?!https?:)([^)#]+)\)', README):
        assert (ROOT / target).exists(), target
