"""Fixtures that several packages' tests share."""
import os
from pathlib import Path

import numpy as np
import pytest
from hub_client import Client
from hub_server import HubServer

# the files whose tests take longest, the longest first: begun last, they would keep one process busy at the end
LONG = ('training/test_supernets', 'networks/test_timm_suite', 'training/test_processes', 'training/test_keys',
        'cli/test_run', 'hub/test_named_weights', 'accuracy/test_judge', 'hub/test_publish_faults',
        'training/test_cures', 'training/test_resuming', 'runtimes/test_processors', 'runtimes/test_runtimes',
        'cli/test_chain', 'hub/test_families', 'training/test_loop')


def pytest_configure(config: pytest.Config) -> None:
    """Set one thread before torch is imported: on a busy machine several threads wait for each other.

    pytest-xdist is to take files in the order of `pytest_collection_modifyitems`, not by their number of tests.
    """
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    if hasattr(config.option, 'loadscopereorder'):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    places = {f'{name}.py': place for place, name in enumerate(LONG)}

    def place(item: pytest.Item) -> int:
        return places.get(f'{item.path.parent.name}/{item.path.name}', len(LONG))

    items.sort(key=place)


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
