"""The shelf of runtimes: what is there, and what is said where something is not."""
import dis
import re
import sys
from pathlib import Path

import pytest
import torch

from timm_ofa.errors import InputError, listed
from timm_ofa.runtimes import DEFAULT, load_runtime, runtime_names
from timm_ofa.runtimes.registry import Runtime, import_module


@pytest.mark.parametrize('name', runtime_names())
def test_a_runtime_has_the_name_of_its_file_and_all_of_the_protocol(name):
    found = vars(import_module(f'timm_ofa.runtimes.{name}'))
    assert {*Runtime.__annotations__, 'version', 'load'} <= found.keys(), 'add what is no runtime to SHARED'
    assert found['NAME'] == name


@pytest.mark.parametrize('name', runtime_names())
def test_what_a_runtime_cannot_do_is_refused_with_what_it_can(name):
    with pytest.raises(InputError, match=f"precision 'fp7' is not one of {name}; choose from fp32"):
        load_runtime(name, 'fp7')
    with pytest.raises(InputError, match=f"processor 'abacus' is not one of {name}; choose from cpu"):
        load_runtime(name, processor='abacus')


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU here')
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="'cuda' is not on this machine"):
        load_runtime('pytorch', processor='cuda')


def test_an_unknown_runtime_lists_the_shelf():
    assert DEFAULT in runtime_names()
    with pytest.raises(InputError, match=re.escape(f"'tensorrt' is not known; choose from {listed(runtime_names())}")):
        load_runtime('tensorrt')


@pytest.mark.parametrize('name', runtime_names())
def test_an_absent_package_says_what_to_install(monkeypatch, name):
    version = import_module(f'timm_ofa.runtimes.{name}').version
    imported = {i.argval.partition('.')[0] for i in dis.get_instructions(version) if i.opname == 'IMPORT_NAME'}
    package, = imported - sys.stdlib_module_names or {'torch'}
    if package == 'torch':
        pytest.skip('timm_ofa itself needs torch')
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"runtime '{name}' is not installed; run: pip install '"):
        load_runtime(name)


@pytest.mark.parametrize('name', runtime_names())
def test_a_version_below_the_oldest_that_runs_is_refused(monkeypatch, name):
    runtime = import_module(f'timm_ofa.runtimes.{name}')
    monkeypatch.setattr(runtime, 'version', lambda: '0.1')
    with pytest.raises(InputError, match=f"runtime '{name}' 0.1 is too old; run: pip install '{runtime.REQUIRES}'"):
        load_runtime(name)


@pytest.mark.parametrize('name', runtime_names())
def test_an_extra_of_the_package_asks_for_the_same_version(name):
    requires = import_module(f'timm_ofa.runtimes.{name}').REQUIRES
    assert f'"{requires}' in (Path(__file__).resolve().parents[2] / 'pyproject.toml').read_text()
