"""`-h` of the command and of every verb, and how quickly the command starts."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import run

from timm_ofa.accuracy import judge
from timm_ofa.cli import shared
from timm_ofa.cli.command import VERBS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize('verb', VERBS)
def test_every_verb_has_help_with_an_example(capsys, verb):
    status, out, err = run(capsys, verb, '-h')
    assert status == 0 and err == ''
    assert f'example: timm-ofa {verb}' in out and '--format {table,json}' in out


def test_the_command_itself_lists_its_verbs(capsys):
    assert {'quickstart', 'train', 'collect', 'fit', 'search', 'specialize', 'measure', 'publish'} <= set(VERBS)
    status, out, err = run(capsys, '-h')
    assert status == 0 and err == '' and all(f'\n    {verb}' in out for verb in VERBS)


@pytest.mark.parametrize('verb', VERBS.values(), ids=lambda verb: verb.name)
def test_every_option_says_what_it_does_and_the_modes_that_read_it(verb):
    read = {name for mode in verb.modes for name in mode.reads}
    assert read == set(verb.options)
    for name, option in verb.options.items():
        assert len(option.help.split()) >= 3 and not option.help.endswith('.')
        assert option.metavar or all(mode.defaults.get(name, False) is False for mode in verb.modes)
    assert all(mode.run.__doc__ for mode in verb.modes)


@pytest.mark.parametrize('verb, option, remarks', [
    ('specialize', 'data', 'needed with --arch, --front'), ('specialize', 'test', 'with --config only beside --data'),
    ('specialize', 'finetune_epochs', 'default 0; with --config only beside --data'),
    ('specialize', 'publish', 'only with --front --limits-ms'), ('specialize', 'name', 'not with --front --limits-ms'),
    ('profile', 'precision', 'default fp32, with --fit, --import-csv unknown; not with --import-kit'),
    ('profile', 'threads', 'default 1, with --fit, --import-csv none; not with --export-kit, --import-kit'),
    ('profile', 'space', 'needed, but not with --import-kit'), ('profile', 'android', 'only with --export-kit'),
    ('search', 'out', 'only with --profile'), ('models', 'device', 'not with --source --supernets')])
def test_help_says_in_which_modes_an_option_is_read_and_its_default_holds(verb, option, remarks):
    assert VERBS[verb].about(option) == f'{VERBS[verb].options[option].help} ({remarks})'


def test_help_does_not_promise_known_resolutions_where_a_network_is_read_off():
    assert 'that are known' in VERBS['search'].options['resolutions'].help
    for verb in ('run', 'spaces'):
        assert "by default multiples of the network's stride" in VERBS[verb].options['resolutions'].help


START = """
import sys
from timm_ofa.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print('torch' in sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize('words', [['-h'], ['profile', '-h'], ['spaces'], ['devices'], ['models']], ids=' '.join)
def test_help_and_shelves_start_without_torch(words):  # tests/bench/bench_start.py has the seconds
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run([sys.executable, '-c', START, *words], env=env, capture_output=True, text=True, check=True)
    assert done.stderr.split()[-1] == 'False'


def test_the_default_that_help_shows_without_torch_is_the_one_that_judging_has():
    repair = f'{judge.REPAIR_IMAGES} ({judge.QUICK_REPAIR_IMAGES} in collect)'
    assert shared.COMMON['num_calibration'].help.endswith(
        f'by default {judge.CALIBRATION_IMAGES}, but for repair {repair}')
