"""Two processes that train together: they learn what one does, and resume exactly."""
import signal
from dataclasses import replace

import pytest
import torch
import yaml
from ranks import Ranks
from safetensors.torch import load_file
from training_runs import CONFIG, events

from timm_ofa.training import Phase

SMALL = replace(CONFIG, resolutions=(20,), batch_size=16, limit=40)  # 2 batches an epoch
TRAIN = """
import logging, os, signal, sys
from timm_ofa.accuracy import SubnetJudge, supernet_digest
from timm_ofa.images import load_data
from timm_ofa.training import load_config, supernets
from timm_ofa.training.loop import Loop
logging.basicConfig(level=logging.INFO, format='%(message)s')
config, die, original = load_config(sys.argv[1]), int(sys.argv[2]), Loop._step
def step(self, *args):
    if args[-2].total_steps == die:
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, *args)
if die:
    Loop._step = step
if sys.argv[3:] == ['double']:
    make, augment = supernets.new_supernet, type(config.augment).__call__
    supernets.new_supernet = lambda *args, **kwargs: make(*args, **kwargs).double()
    type(config.augment).__call__ = lambda *args: augment(*args).double()
    SubnetJudge.top1_pct = lambda *args: 0.0
data = load_data('digits', 24, limit=config.limit)
supernet = supernets.train_supernet(config, data, 'run', resume=os.path.exists('run/train.yaml'))
open('digest' + os.environ['RANK'], 'w').write(supernet_digest(supernet))
"""


@pytest.fixture(scope='module')
def ranks():
    found = Ranks()
    yield found
    found.close()


def launch(ranks, folder, config, die=0, *flags, processes=2):
    """Train in some processes, which are killed at step `die`; the digests of their supernets."""
    folder.mkdir(exist_ok=True)
    (folder / 'run.yaml').write_text(yaml.safe_dump({'kind': 'supernet', **config.to_dict()}))
    codes, told = ranks(folder, TRAIN, ['run.yaml', str(die), *flags], processes)
    assert set(codes) == {-signal.SIGKILL if die else 0}, told[0][-3000:]
    of = '1 process' if processes == 1 else f'{processes} processes'
    assert f'{of} on cpu, {config.batch_size // processes} images each' in told[0]
    return [path.read_text() for path in sorted(folder.glob('digest*'))]


def test_two_processes_learn_what_one_does(tmp_path, ranks):
    """The gradient of two processes is that of one on the whole batch; BatchNorm, augmentation and parts included.

    In double precision: in single, rounding alone moves some of these gradients by a percent.
    """
    config = replace(SMALL, batch_size=32, limit=80, drop_rate=0, clip_grad=None, accumulate=2, phases=(
        Phase('largest', 1, 0.03, kd_weight=0), Phase('taught', 1, 0.03, subnets_per_step=2),
        Phase('sandwich', 1, 0.03, recipe='sandwich', subnets_per_step=3),
        Phase('divided', 1, 0.03, recipe='divided', subnets_per_step=4)))
    first, second = launch(ranks, tmp_path / 'two', config, 0, 'double')
    assert first == second  # parameters and running statistics of both processes
    launch(ranks, tmp_path / 'one', config, 0, 'double', processes=1)
    together, alone = (load_file(tmp_path / name / 'run' / 'model.safetensors') for name in ('two', 'one'))
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-7, atol=1e-9, msg=name)
    logs = [events(tmp_path / name / 'run') for name in ('two', 'one')]
    assert [log[0]['processes'] for log in logs] == [2, 1]
    assert [{**e, 'processes': 0} for e in logs[0]] == [{**e, 'processes': 0} for e in logs[1]]


def test_two_processes_that_are_killed_and_resumed_equal_two_that_are_not(tmp_path, ranks):
    config = replace(SMALL, workers=1, phases=CONFIG.phases[1:], checkpoint_minutes=1e-6, accumulate=2)
    expected = launch(ranks, tmp_path / 'whole', config)
    launch(ranks, tmp_path / 'killed', config, die=3)
    assert launch(ranks, tmp_path / 'killed', replace(config, workers=0)) == expected and len(set(expected)) == 1
    logs = [(tmp_path / name / 'run' / 'log.jsonl').read_bytes() for name in ('whole', 'killed')]
    assert logs[0] == logs[1]
