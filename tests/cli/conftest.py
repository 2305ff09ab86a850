"""Fixtures that the tests of the command share."""
import pytest
import torch
import yaml
from command_line import CONFIG, NAMED

from timm_ofa import load_space
from timm_ofa.networks.supernet import new_supernet
from timm_ofa.training.runs import save_supernet


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Good and bad files that wrong inputs are made of."""
    folder = tmp_path_factory.mktemp('files')
    (folder / 'config.yaml').write_text(yaml.safe_dump(CONFIG))
    (folder / 'bad.yaml').write_text(yaml.safe_dump({**CONFIG, 'batch_size': 'many'}))
    (folder / 'ofa_mbv3_tiny.yaml').write_text(yaml.safe_dump(NAMED))
    (folder / 'bad.json').write_text('{"name": "x"}')
    (folder / 'torn.json').write_text('{"name": ')
    (folder / 'bad.jsonl').write_text('{"ks": 3}\n')
    (folder / 'empty').mkdir()
    (folder / 'foreign').mkdir()
    (folder / 'foreign' / 'notes.txt').write_text('mine')
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, classes in (('supernet', 10), ('three', 3)):
            (folder / name).mkdir()
            save_supernet(new_supernet(load_space('ofa_mbv3_tiny'), num_classes=classes), folder / name, {})
    return folder
