"""BatchNorm recalibration, accuracies, and records that survive interruptions."""
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from timm_ofa import Arch, InputError, load_space
from timm_ofa.accuracy import SubnetJudge, collect, evaluate, read_records, recalibrate_bn, supernet_digest
from timm_ofa.accuracy.records import subnets_to_judge
from timm_ofa.images import Augment, eval_batch, load_data
from timm_ofa.networks.supernet import new_supernet
from timm_ofa.training.config import Phase, TrainConfig
from timm_ofa.training.runs import save_supernet
from timm_ofa.training.supernets import train_supernet

AUGMENT = Augment(flip=False, shift=0.05)


@pytest.fixture(scope='module')
def space():
    return load_space('ofa_mbv3_tiny').restrict(resolutions=[20, 24])


@pytest.fixture(scope='module')
def digits():
    return load_data('digits', 24)


@pytest.fixture(scope='module')
def supernet(space):
    """Untrained: what a record says does not matter where it is used."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return new_supernet(space, num_classes=10).eval()


@pytest.fixture(scope='module')
def trained(digits, tmp_path_factory):
    """A supernet after some seconds of both ends of progressive shrinking."""
    config = TrainConfig(
        'test', 'ofa_mbv3_tiny', 'digits', resolutions=(20, 24), batch_size=64, augment=AUGMENT, phases=(
            Phase('largest', 3, 0.1, kd_weight=0, depths=(3,), kernel_sizes=(5,), expand_ratios=(4,)),
            Phase('all', 3, 0.05, subnets_per_step=1)))
    return train_supernet(config, digits, tmp_path_factory.mktemp('trained') / 'run').eval()


@pytest.fixture
def judge(supernet, digits):
    return SubnetJudge(supernet, digits.train, digits.holdout, augment=AUGMENT, calibration_images=64)


# ---- recalibration ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_recalibrated_statistics_are_averages_over_the_batches(supernet, space, rng):
    arch = space.sample(rng)
    subnet = supernet.extract(arch)
    first = subnet.bn1
    loader = [3 * torch.randn(16, 3, 24, 24) + 1 for _ in range(4)]
    stem = [subnet.conv_stem(x) for x in loader]
    mean = torch.stack([y.mean((0, 2, 3)) for y in stem]).mean(0)
    var = torch.stack([y.var((0, 2, 3)) for y in stem]).mean(0)
    returned = recalibrate_bn(subnet, loader)
    assert returned is subnet and not subnet.training
    torch.testing.assert_close(first.running_mean, mean)
    torch.testing.assert_close(first.running_var, var)
    assert first.momentum == 0.1


@torch.no_grad()
def test_recalibration_forgets_earlier_statistics_and_leaves_weights_alone(supernet, space):
    loader = [torch.randn(8, 3, 20, 20) for _ in range(2)]
    one, two = supernet.extract(space.min_arch()), supernet.extract(space.min_arch())
    for norm in (m for m in two.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.fill_(7)
    weights = {n: p.clone() for n, p in one.named_parameters()}
    recalibrate_bn(one, loader)
    recalibrate_bn(two, [(x, torch.zeros(8)) for x in loader])  # with labels, as loaders give them
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert all(torch.equal(p, weights[n]) for n, p in one.named_parameters())


def test_recalibrated_subnets_of_a_trained_supernet_are_far_better_than_chance(trained, digits):
    space = trained.space
    judge = SubnetJudge(trained, digits.train, digits.test, augment=AUGMENT, calibration_images=400)
    archs = [space.max_arch(), space.min_arch(24), *space.sample(np.random.default_rng(1), 2)]
    judged = [judge.top1_pct(arch) for arch in archs]
    plain = [evaluate(trained.extract(arch), digits.test, space, arch.resolution) for arch in archs]
    assert min(judged) > 60 and max(judged) > 75, judged
    assert np.mean(judged) > np.mean(plain)  # statistics of the supernet are those of no subnet


# ---- accuracies ------------------------------------------------------------------------------------------------------


class Guess(nn.Module):
    """Says the class whose number is the mean brightness of the image, in tenths."""

    def __init__(self):
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        assert not self.training and x.shape[1:] == (3, 20, 20)
        return nn.functional.one_hot((x.mean((1, 2, 3)).abs() * 1000 % 10).long(), 10)


def test_accuracy_is_the_share_of_hits_in_percent_whatever_the_batch(digits, space):
    model = Guess().train()
    x = eval_batch(digits.test.fetch(range(360)), space, 20)
    expected = 100 * (Guess().eval()(x).argmax(1) == digits.test.labels).float().mean().item()
    for batch_size in (7, 360, 1000):
        assert evaluate(model, digits.test, space, 20, batch_size) == pytest.approx(expected, abs=0.3)
    shares = [evaluate(model, digits.test, space, 20, top=top) for top in range(1, 11)]
    assert shares == sorted(shares) and shares[0] < shares[4] < shares[9] == 100
    assert model.training


def test_a_judge_gives_the_same_accuracy_each_time(supernet, digits, judge, space):
    arch = space.min_arch()
    first = judge.top1_pct(arch)
    judge.top1_pct(space.max_arch())
    other = SubnetJudge(supernet, digits.train, digits.holdout, augment=AUGMENT, calibration_images=64)
    assert judge.top1_pct(arch) == other.top1_pct(arch) == first
    assert list(judge._batches) == [20, 24]


def test_the_digest_names_the_weights(supernet, space):
    digest = supernet_digest(supernet)
    assert digest == supernet_digest(supernet) and len(digest) == 64
    other = new_supernet(space, num_classes=10)
    other.load_state_dict(supernet.state_dict())
    assert supernet_digest(other) == digest
    with torch.no_grad():
        other.classifier.bias[3] += 1e-6
    assert supernet_digest(other) != digest


def test_no_subnet_is_judged_twice_and_the_ends_come_first(space):
    archs = [arch for arch, _ in zip(subnets_to_judge(space, 0), range(300))]
    assert archs[:2] == [space.max_arch(), space.min_arch()] and len(set(archs)) == 300
    assert archs[:50] == [arch for arch, _ in zip(subnets_to_judge(space, 0), range(50))]
    assert archs[2:] != [arch for arch, _ in zip(subnets_to_judge(space, 1), range(300))][2:]


# ---- records ---------------------------------------------------------------------------------------------------------


def test_collecting_after_an_interruption_gives_the_file_of_an_uninterrupted_run(judge, digits, tmp_path):
    whole, torn = tmp_path / 'whole.jsonl', tmp_path / 'torn.jsonl'
    records = collect(judge, digits, 6, whole)
    assert len(records) == 6 and read_records(whole, judge.supernet.space) == records
    collect(judge, digits, 3, torn)
    with torn.open('a') as file:
        file.write(whole.read_text().splitlines()[3][:40])  # killed while it wrote
    assert collect(judge, digits, 6, torn) == records
    assert torn.read_bytes() == whole.read_bytes()
    before = whole.stat().st_mtime_ns
    assert collect(judge, digits, 4, whole) == records[:4]  # nothing to do
    assert whole.stat().st_mtime_ns == before
    line = json.loads(whole.read_text().splitlines()[0])
    assert list(line) == ['resolution', 'kernel_size', 'expand_ratio', 'top1_pct']


TWO = """
import os, sys
import torch
from timm_ofa.accuracy import SubnetJudge, collect, leave
from timm_ofa.data import Augment, load_data
from timm_ofa.supernet import load_supernet
supernet, digits, own = load_supernet('supernet').eval(), load_data('digits', 24), []
judge = SubnetJudge(
    supernet, digits.train, digits.holdout, augment=Augment(flip=False, shift=0.05), calibration_images=64)
top1_pct = judge.top1_pct
judge.top1_pct = lambda arch: own.append(arch) or top1_pct(arch)
records = collect(judge, digits, 5, 'records.jsonl')
leave()
open('judged' + os.environ['RANK'], 'w').write(f'{len(own)} of {len(records)}')
"""


def test_two_processes_share_the_subnets_and_leave_the_file_of_one(judge, digits, tmp_path):
    collect(judge, digits, 5, tmp_path / 'alone.jsonl')
    save_supernet(judge.supernet, tmp_path / 'supernet', {})
    (tmp_path / 'two.py').write_text(TWO)
    env = {**os.environ, 'ACCELERATE_USE_CPU': 'true', 'OMP_NUM_THREADS': '1',
           'PYTHONPATH': str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', 'two.py'],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240)
    assert not done.returncode, done.stderr[-3000:]
    for ending in ('', '.meta.json'):
        assert (tmp_path / f'records.jsonl{ending}').read_bytes() == (tmp_path / f'alone.jsonl{ending}').read_bytes()
    assert [(tmp_path / f'judged{rank}').read_text() for rank in (0, 1)] == ['3 of 5', '2 of 5']


def test_records_of_another_supernet_data_or_seed_are_refused(judge, digits, tmp_path):
    path = tmp_path / 'records.jsonl'
    collect(judge, digits, 2, path)
    other = new_supernet(judge.supernet.space, num_classes=10)
    with pytest.raises(InputError, match=r'records\.jsonl holds records of supernet_sha256'):
        collect(SubnetJudge(other, digits.train, digits.holdout, calibration_images=64), digits, 3, path)
    with pytest.raises(InputError, match='seed'):
        collect(judge, digits, 3, path, seed=1)
    with pytest.raises(InputError, match="data 'digits'"):
        collect(judge, replace(digits, name='numbers'), 3, path)
    (tmp_path / 'records.jsonl.meta.json').unlink()
    with pytest.raises(InputError, match='unknown supernet'):
        collect(judge, digits, 3, path)
    assert len(path.read_text().splitlines()) == 2


def test_a_broken_note_beside_the_records_is_one_line(judge, digits, tmp_path):
    path = tmp_path / 'records.jsonl'
    collect(judge, digits, 2, path)
    for text in ('', '{', '[]'):
        (tmp_path / 'records.jsonl.meta.json').write_text(text)
        with pytest.raises(InputError, match=r'records\.jsonl'):
            collect(judge, digits, 2, path)


@pytest.mark.parametrize('num', [0, 1, -5, 10**30])
def test_a_wrong_number_of_records_is_refused_before_anything_is_written(judge, digits, num, tmp_path):
    with pytest.raises(InputError, match=f'--num {num}'):
        collect(judge, digits, num, tmp_path / 'records.jsonl')
    assert list(tmp_path.iterdir()) == []


GOOD = Arch(20, ((3,),) * 3, ((2,),) * 3).to_dict()


@pytest.mark.parametrize('line, naming', [
    ({**GOOD}, 'top1_pct'), ({**GOOD, 'top1_pct': 101}, 'top1_pct 101'), ({**GOOD, 'top1_pct': -1}, 'top1_pct -1'),
    ({**GOOD, 'top1_pct': float('nan')}, 'top1_pct nan'), ({**GOOD, 'top1_pct': 'high'}, 'top1_pct'),
    ({**GOOD, 'top1_pct': None}, 'top1_pct'), ({**GOOD, 'resolution': 28, 'top1_pct': 50}, 'resolution 28'),
    ({**GOOD, 'kernel_size': [[7], [3], [3]], 'top1_pct': 50}, 'kernel_size 7'), ({'top1_pct': 50}, 'resolution'),
    ({**GOOD, 'top1_pct': 50, 'colour': 1}, "'colour'"), ('nonsense', 'top1_pct'), ('', 'top1_pct'), ('[]', 'top1_pct'),
    ('null', 'top1_pct'), ('7', 'top1_pct'), ({'ks': 3, 'e': 2, 'd': 1, 'top1_pct': 50}, "'ks'")])
def test_a_wrong_record_is_refused_naming_its_line(space, line, naming, tmp_path):
    path = tmp_path / 'records.jsonl'
    bad = line if isinstance(line, str) else json.dumps(line)
    path.write_text(f'{json.dumps({**GOOD, "top1_pct": 50})}\n{bad}\n')
    with pytest.raises(InputError, match=rf'records\.jsonl line 2.*{naming}') as error:
        read_records(path, space)
    assert '\n' not in str(error.value)


def test_a_file_that_cannot_be_read_is_refused(space, tmp_path):
    (tmp_path / 'image.jsonl').write_bytes(b'\xff\xd8\xff')
    for name in ('none.jsonl', 'image.jsonl', ''):
        with pytest.raises(InputError, match='timm-ofa collect'):
            read_records(tmp_path / name, space)
