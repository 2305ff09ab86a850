"""Fixtures that several packages' tests share."""
import os
from pathlib import Path

import numpy as np
import pytest
from hub_client import Client
from hub_server import HubServer


def pytest_configure() -> None:
    """Set one thread before torch is imported: on a busy machine several threads wait for each other."""
    os.environ.setdefault('OMP_NUM_THREADS', '1')


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
