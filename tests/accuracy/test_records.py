"""Records of judged subnets: the same after an interruption and from several processes; others are refused."""
import json
from dataclasses import replace

import pytest
import torch
from ranks import Ranks

from timm_ofa import Arch, InputError
from timm_ofa.accuracy import SubnetJudge, collect, read_records, supernet_digest
from timm_ofa.accuracy.records import subnets_to_judge
from timm_ofa.networks.supernet import new_supernet
from timm_ofa.training.runs import save_supernet


@pytest.fixture(scope='module')
def space(supernet):
    return supernet.space


def test_no_subnet_is_judged_twice_and_the_ends_come_first(space):
    archs = [arch for arch, _ in zip(subnets_to_judge(space, 0), range(300))]
    assert archs[:2] == [space.max_arch(), space.min_arch()] and len(set(archs)) == 300
    assert archs[:50] == [arch for arch, _ in zip(subnets_to_judge(space, 0), range(50))]
    assert archs[2:] != [arch for arch, _ in zip(subnets_to_judge(space, 1), range(300))][2:]


def test_the_digest_names_the_weights(supernet, space):
    digest = supernet_digest(supernet)
    assert digest == supernet_digest(supernet) and len(digest) == 64
    other = new_supernet(space, num_classes=10)
    other.load_state_dict(supernet.state_dict())
    assert supernet_digest(other) == digest
    with torch.no_grad():
        other.classifier.bias[3] += 1e-6
    assert supernet_digest(other) != digest


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
from timm_ofa.images import Augment, load_data
from timm_ofa.networks import load_supernet
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
    ranks = Ranks()
    codes, told = ranks(tmp_path, TWO)
    ranks.close()
    assert codes == [0, 0], told[0][-3000:]
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
    last, same = digits.holdout.subset(range(len(digits.holdout)), 'one pixel differs'), digits.holdout
    last._pixels = digits.holdout.decode()._pixels.clone()
    last._pixels[77, 0, 3, 3] += 1  # of the same name and size
    assert last.digest() != same.digest() == digits.holdout.subset(range(len(same)), 'a copy').digest()
    with pytest.raises(InputError, match='images_sha256'):
        collect(SubnetJudge(judge.supernet, digits.train, last, calibration_images=64), digits, 3, path)
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
