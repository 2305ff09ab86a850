"""One small run that the tests of training share; none of them may change its folder."""
import pytest
from training_runs import CONFIG

from timm_ofa.images import load_data
from timm_ofa.training import train_supernet


@pytest.fixture(scope='session')
def digits():
    return load_data('digits', 24, limit=CONFIG.limit)


@pytest.fixture(scope='session')
def run(digits, tmp_path_factory):
    """(folder, supernet) of an uninterrupted run."""
    folder = tmp_path_factory.mktemp('training') / 'run'
    return folder, train_supernet(CONFIG, digits, folder)
