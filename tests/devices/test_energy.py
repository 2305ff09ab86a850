"""Energy by counters that are files here; a real one is read where the platform has it."""
import pytest

from timm_ofa.devices.energy import cpu_counter, energy_mj
from timm_ofa.devices.profiler import measure_network
from timm_ofa.spaces.shelf import load_space


@pytest.fixture
def packages(tmp_path):
    """Two processor packages, a part of one of them, the whole platform, and what has no counter of a package."""
    for folder, name, microjoules in (
            ('intel-rapl:0', 'package-0', 3_000_000), ('intel-rapl:0:0', 'core', 7), ('intel-rapl:1', 'psys', 9_000),
            ('intel-rapl:2', 'package-1-die-0', 1_500_000), ('intel-rapl-mmio:0', 'package-0', 3_000_000),
            ('dtpm', 'package-2', 9)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'name').write_text(f'{name}\n')
        (tmp_path / folder / 'energy_uj').write_text(f'{microjoules}\n')
    return tmp_path


def test_packages_are_added_up_without_their_parts_and_without_the_platform(packages):
    assert cpu_counter(packages)() == 4500


@pytest.mark.parametrize('text', ['', 'zero', '0\n'])
def test_a_counter_that_tells_nothing_is_none(tmp_path, text):
    assert cpu_counter(tmp_path) is None
    (tmp_path / 'intel-rapl:0').mkdir()
    (tmp_path / 'intel-rapl:0' / 'name').write_text('package-0\n')
    (tmp_path / 'intel-rapl:0' / 'energy_uj').write_text(text)
    assert cpu_counter(tmp_path) is None


def test_energy_of_a_run_is_the_mean_over_all_runs(packages, monkeypatch):
    monkeypatch.setattr('timm_ofa.devices.energy.cpu_counter', lambda: cpu_counter(packages))
    file = packages / 'intel-rapl:0' / 'energy_uj'

    def run():  # takes 250 mJ
        file.write_text(str(int(file.read_text()) + 250_000))

    assert energy_mj(run, seconds=0.03) == pytest.approx(250, rel=1e-3)
    assert energy_mj(lambda: None, seconds=0.01) is None  # stands still


def test_a_measured_network_tells_its_energy_where_there_is_a_counter(monkeypatch):
    space = load_space('ofa_mbv3_tiny')
    monkeypatch.setattr('timm_ofa.devices.profiler.energy_mj', lambda run, processor: None)
    assert 'energy_mj' not in measure_network(space.rows(space.min_arch()), sweeps=2)
    monkeypatch.setattr('timm_ofa.devices.profiler.energy_mj', lambda run, processor: run() or 12.5)
    assert measure_network(space.rows(space.min_arch()), sweeps=2)['energy_mj'] == 12.5
