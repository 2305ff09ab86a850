"""Fixtures that several packages' tests share."""
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from hub_client import Client
from hub_server import HubServer

# the files whose tests take longest, the longest first: begun last, they would keep one process busy at the end
LONG = ('training/test_supernets', 'networks/test_timm_suite', 'training/test_processes', 'training/test_keys',
        'cli/test_faults', 'cli/test_run', 'hub/test_named_weights', 'accuracy/test_judge', 'hub/test_publish_faults',
        'training/test_cures', 'training/test_resuming', 'runtimes/test_processors', 'runtimes/test_runtimes',
        'cli/test_chain', 'hub/test_families', 'training/test_loop')
SLOW = (  # further files that take more than some seconds; `pytest -m 'not slow'` leaves out these and the longest
    'accuracy/test_active', 'accuracy/test_records', 'cli/test_command', 'cli/test_preflight',
    'cli/test_quickstart', 'cli/test_specialize_verb', 'cli/test_typed_commands', 'devices/test_kit',
    'devices/test_profiler', 'hub/test_catalog_page', 'hub/test_clients', 'hub/test_import_upstream',
    'hub/test_onnx_file', 'hub/test_published_supernet', 'hub/test_publishing', 'hub/test_specialize',
    'hub/test_strangers', 'hub/test_wheel', 'networks/test_detection', 'networks/test_initial',
    'networks/test_models', 'networks/test_repairing', 'networks/test_sorting', 'networks/test_space_of',
    'networks/test_subnet_training', 'networks/test_supernet_folders', 'runtimes/test_onnx_export',
    'searching/test_anneal', 'searching/test_exact_full', 'searching/test_strategy', 'tests/test_distribution',
    'tests/test_fuzzing', 'tests/test_package', 'training/test_average', 'training/test_recipes',
    'training/test_stacked', 'training/test_teachers')


def pytest_configure(config: pytest.Config) -> None:
    """Set one thread before torch is imported: on a busy machine several threads wait for each other.

    Python ignores Ctrl-C where its parent does, as behind '&' in a script. Tests of Ctrl-C would then wait for ever.
    pytest-xdist is to take files in the order of `pytest_collection_modifyitems`, not by their number of tests.
    """
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config.option, 'loadscopereorder'):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, and mark the slow ones."""
    places = {name: place for place, name in enumerate(LONG)}

    def place(item: pytest.Item) -> int:
        return places.get(_name(item), len(LONG))

    items.sort(key=place)
    for item in items:
        if _name(item) in (*LONG, *SLOW):
            item.add_marker('slow')


def _name(item: pytest.Item) -> str:
    """The file of a test, like 'cli/test_run'."""
    return f'{item.path.parent.name}/{item.path.stem}'


@pytest.fixture(scope='session')
def shared() -> Path:
    """The folder of reference data beside the checkout; tests that need it are skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / 'shared'
    if not (folder / 'upstream').is_dir():
        pytest.skip('the folder of reference data (../shared) is not beside this checkout')
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope='module')
def running_server():
    with HubServer() as found:
        yield found


@pytest.fixture
def server(running_server) -> HubServer:
    running_server.reset()
    return running_server


@pytest.fixture(scope='module')
def client(running_server, tmp_path_factory):
    found = Client(running_server, tmp_path_factory.mktemp('home'))
    yield found
    found.close()
