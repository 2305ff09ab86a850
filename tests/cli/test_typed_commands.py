"""Commands in messages, helps and cards: each can be typed as it stands."""
import ast
import re
import shlex
from importlib.metadata import metadata
from pathlib import Path

import pytest
import timm
import torch
import yaml
from command_line import CONFIG, remarks, run
from packaging.requirements import Requirement

import timm_ofa
from timm_ofa.cli.command import VERBS
from timm_ofa.cli.verbs import parse

PACKAGE = Path(timm_ofa.__file__).parent
SAMPLES = {'ORG/NAME': 'acme/net', 'DIR': 'out/net', 'FILE': 'weights.pth', 'NAME': 'ofa_mbv3_w12_supernet'}
ELSEWHERE = {  # options of other programs
    '--max-width', '--seconds', '--runtime', '--out', '--provider', '--no-deps', '--force-reinstall', '--threads',
    '--benchmark'}


def sentences():
    """(file, text) of every text in the package, with X in place of what is put in, and of every template."""
    for path in sorted(PACKAGE.rglob('*.py')):
        inside = set()
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.JoinedStr):
                inside |= {id(part) for part in node.values}
                yield path, ''.join(part.value if isinstance(part, ast.Constant) else 'X' for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
                yield path, node.value
    for path in sorted((PACKAGE / 'hub' / 'templates').glob('*.md.j2')):
        text = path.read_text(encoding='utf-8').replace('{{ repeat | code }}', '')
        yield path, re.sub(r'\{\{.*?\}\}', '3', re.sub(r'\{%.*?%\}', '', text))


TYPED = sorted({(path.name, command.strip()) for path, text in sentences() for command in [
    *re.findall(r'`(timm-ofa [^`]*)`', text), *re.findall(r'^(timm-ofa .*)$', text, re.M),
    *re.findall(r': (timm-ofa [^`]*)$', text)]})
INSTALLED = sorted({(path.name, command) for path, text in sentences()
                    for command in re.findall(r"pip install [^;`]*", text)})


@pytest.mark.parametrize('file, command', TYPED, ids=lambda text: text)
def test_a_command_in_a_text_is_one_that_can_be_typed(file, command):
    words = [SAMPLES.get(word, word) for word in shlex.split(command)[1:]]
    if words in (['X', '-h'], ['X', 'X'], ['VERB', '-h']):  # of any verb
        return
    verb = VERBS[words[0]]
    known = {flag for name, option in verb.options.items() for flag in (option.flags or (verb.flag(name),))}
    assert {word for word in words if word.startswith('--')} <= known
    if len(words) > 1 and words[1:] != ['--out'] and words[1:] != ['--active']:
        assert parse(VERBS, ['3' if word == 'X' else word for word in words]).verb is verb


def test_every_option_that_a_message_names_is_one():
    known = {flag for verb in VERBS.values() for name, option in verb.options.items()
             for flag in (option.flags or (verb.flag(name),))} | {'--format', '--no-progress', '--version'}
    named = {(path.name, flag) for path, text in sentences() for flag in re.findall(r'(?<![\w-])--[a-z][a-z-]+', text)
             if path.name not in ('run_kit.py', 'run_android.py', 'measuring.py')}
    print(f'{len(TYPED)} commands, {len(INSTALLED)} of pip, {len(named)} options in messages, helps and cards')
    assert {(file, flag) for file, flag in named if flag not in known | ELSEWHERE} == set()
    assert len(TYPED) >= 15 and len(INSTALLED) >= 3


@pytest.mark.parametrize('file, command', INSTALLED, ids=lambda text: text)
def test_what_a_message_installs_exists(file, command):
    for word in shlex.split(command.replace('X', 'timm'))[2:]:
        if not word.startswith('-'):
            wanted = Requirement(word)
            if wanted.name == 'timm_ofa':
                assert wanted.extras <= set(metadata('timm_ofa').get_all('Provides-Extra'))


# ---- cures that are run as the message has them ----------------------------------------------------------------------


def cure(text, pattern):
    """The words of a command in a message."""
    return shlex.split(re.search(pattern, text)[1])


def test_the_import_that_an_error_proposes_writes_the_folder(capsys, monkeypatch, tmp_path):
    from timm_ofa.hub.checkpoints import weights_cure
    from timm_ofa.hub.configs import hub_configs

    name = 'ofa_mbv3_note10_lat8ms'
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(timm.create_model(name).state_dict(), 'FILE')
    words = cure(weights_cure(hub_configs()[name]), '`timm-ofa (.*)`')
    assert run(capsys, *words)[0] == 0
    assert timm.create_model(f'local-dir:{words[-1]}', pretrained=True).num_classes == 1000


def test_after_ctrl_c_in_the_last_table_of_training_resume_prints_it(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'digits_supernet.yaml').write_text(yaml.safe_dump(
        {**CONFIG, 'limit': 60, 'phases': CONFIG['phases'][:1]}))
    words = ['train', '--config', 'digits_supernet.yaml', '--output', 'run']

    def stop(*_):
        raise KeyboardInterrupt
    with monkeypatch.context() as pressed:
        pressed.setattr('timm_ofa.training.subnet_table', stop)
        status, out, err = run(capsys, *words)
    assert (status, out) == (130, '') and 'add --resume' in err
    status, out, err = run(capsys, *words, '--resume')
    assert status == 0 and 'largest' in out, err


@pytest.mark.parametrize('words, function, goes_on', [
    ('quickstart', 'timm_ofa.cli.quickstart.quickstart', True),
    ('profile --space ofa_mbv3_tiny --out p.json', 'timm_ofa.devices.profile_into', True),
    ('profile --space ofa_mbv3_tiny --few-shot 12 --out p.json', 'timm_ofa.devices.profile_by_networks', False),
    ('fit --space ofa_mbv3_tiny --records r --out p', 'timm_ofa.accuracy.read_records', False)])
def test_ctrl_c_says_that_a_command_goes_on_only_where_it_does(words, function, goes_on, capsys, monkeypatch, tmp_path):
    def stop(*_, **__):
        raise KeyboardInterrupt('stopped at step 3 of 9; add --resume to go on' if words == 'quickstart' else '')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(function, stop)
    status, _, err = run(capsys, *words.split())
    assert status == 130 and ('to go on' in err) == goes_on
    assert '--resume' not in err and 'run the same command again' in err


def test_records_of_another_space_name_it(capsys, tmp_path):
    (tmp_path / 'r.jsonl').write_text('')
    (tmp_path / 'r.jsonl.meta.json').write_text('{"space": "ofa_mbv3_w10"}')
    status, _, err = run(capsys, 'fit', '--space', 'ofa_mbv3_w12', '--records', tmp_path / 'r.jsonl', '--out',
                         tmp_path / 'p')
    assert status == 2 and re.search('are of .ofa_mbv3_w10., not of ofa_mbv3_w12; give --space ofa_mbv3_w10', err)
    assert cure(err, r'give (--space \w+)')[1] == 'ofa_mbv3_w10' and len(remarks(err)) == 1
