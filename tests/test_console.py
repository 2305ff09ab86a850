"""Progress bars: shown by default, and all turned off by one switch."""
import subprocess
import sys
from pathlib import Path

import pytest

import timm_ofa
from timm_ofa.console import PROGRESS_SWITCH, progress_bar


@pytest.mark.parametrize(
    'switch, shown, visible', [('', True, True), ('1', True, True), ('0', True, False), ('', False, False)])
def test_one_switch_turns_all_progress_bars_off(switch, shown, visible, monkeypatch, capsys):
    monkeypatch.setenv(PROGRESS_SWITCH, switch)
    with progress_bar(2, 'train', 'step', shown=shown) as bar:
        bar.update()
        bar.set_postfix_str('phase 1', refresh=False)
    out, err = capsys.readouterr()
    assert out == '' and ('train' in err) == visible


def test_the_console_imports_tqdm_only_when_a_bar_is_made():
    code = 'import console, sys; sys.exit("tqdm" in sys.modules)'
    folder = Path(timm_ofa.__file__).parent
    assert subprocess.run([sys.executable, '-c', code], cwd=folder, check=False).returncode == 0
