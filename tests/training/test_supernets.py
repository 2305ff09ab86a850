"""A whole training run: what it writes, what it begins with, and that it depends on its settings alone."""
import json
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
import timm
import torch
from training_runs import CONFIG, STEPS, events, same_weights

from timm_ofa import InputError, load_space
from timm_ofa.accuracy import SubnetJudge
from timm_ofa.images import Augment, load_data
from timm_ofa.networks import load_supernet
from timm_ofa.training import Phase, TrainConfig, load_config, subnet_table, supernet_config, train_supernet


def test_the_log_tells_every_phase_and_setting(run):
    log = events(run[0])
    assert [e['event'] for e in log] == ['start', *['train', 'train', 'phase'], *['train', 'phase'] * 2]
    assert [e['phase'] for e in log if e['event'] == 'phase'] == ['largest', 'narrow', 'all']
    start = log[0]
    assert start['steps'] == STEPS and start['images'] == len(load_data('digits', 24, limit=CONFIG.limit).train)
    assert TrainConfig.from_dict(start['config']) == CONFIG
    times = events(run[0], 'times.jsonl')
    assert [e['event'] for e in times] == ['start', *['phase', 'checkpoint'] * 3, 'end']
    assert times[0]['versions']['torch'] == torch.__version__ and times[0]['processes'] == 1
    assert all(e['session_s'] >= 0 and datetime.fromisoformat(e['date']).utcoffset() == timedelta(0) for e in times)
    assert times[0]['device'] == 'cpu' and times[0]['device_name']
    assert [e['step'] for e in log if e['event'] == 'train'] == [3, 6, 9, 12]
    assert all(0 < e['loss'] < 20 and e['lr'] > 0 for e in log if e['event'] == 'train')
    judged = [e[k] for e in log if e['event'] == 'phase' for k in ('largest_top1_pct', 'smallest_top1_pct')]
    assert len(judged) == 6 and all(0 <= top1_pct <= 100 for top1_pct in judged)


def small_proxyless(folder):
    """A space of the family 'efficientnet' for small images, as a file."""
    data = load_space('ofa_mbv3_tiny').to_dict()
    stages = [{**s, 'se_ratio': 0, 'act': 'r6'} for s in data['stages']]
    data |= {'name': 'small_proxyless', 'family': 'efficientnet', 'num_features': 0, 'act': 'r6', 'stages': stages}
    path = folder / 'small_proxyless.json'
    path.write_text(json.dumps(data))
    return str(path)


@pytest.mark.parametrize('family, last_phases', [
    ('byobnet', (Phase('narrow', 1, 0.03, widths=2, expand_ratios=(0.25, 0.35), sort_channels=True),
                 Phase('all', 2, 0.03, subnets_per_step=2, sort_channels=True))),
    ('efficientnet', (Phase('all', 2, 0.03, subnets_per_step=2, sort_channels=True),))])
def test_supernets_of_every_family_learn(family, last_phases, tmp_path):
    space = 'ofa_resnet_tiny' if family == 'byobnet' else small_proxyless(tmp_path)
    largest = Phase('largest', 6, 0.05, kd_weight=0, widths=1 if family == 'byobnet' else None, depths=(3,))
    config = replace(
        CONFIG, space=space, resolutions=(20,), limit=160 if family == 'byobnet' else 240, batch_size=16, drop_rate=0,
        augment=Augment(flip=False), phases=(largest, *last_phases))
    digits = load_data('digits', 20, limit=config.limit)
    supernet = train_supernet(config, digits, tmp_path / 'run')
    losses = [e['loss'] for e in events(tmp_path / 'run') if e['event'] == 'train' and e['phase'] == 'largest']
    assert losses[-1] < 0.8 * losses[0]
    judge = SubnetJudge(supernet, digits.train, digits.train, augment=config.augment)
    for arch in (supernet.space.max_arch(), supernet.space.min_arch()):
        assert judge.top1_pct(arch) > 30  # chance is 10
    loaded = load_supernet(str(tmp_path / 'run'))
    assert loaded.space.family == family and same_weights(loaded, supernet)


def test_a_run_leaves_a_folder_that_timm_loads(run):
    folder, supernet = run
    loaded = timm.create_model(f'local-dir:{folder}', pretrained=True)
    assert same_weights(loaded, supernet) and same_weights(load_supernet(str(folder)), supernet)
    assert loaded.space == CONFIG.load_space() and loaded.drop_rate == CONFIG.drop_rate
    about = json.loads((folder / 'config.json').read_text())['timm_ofa']
    assert about['class_names'] == [str(i) for i in range(10)] and about['data'] == 'digits'
    assert supernet_config(folder) == CONFIG
    assert load_config(folder / 'train.yaml') == CONFIG


def test_training_begins_with_the_weights_of_a_supernet(run, digits, tmp_path, monkeypatch):
    still = replace(
        CONFIG, initial_checkpoint=str(run[0]), drop_rate=0.0, phases=(Phase('still', 1, 1e-12, kd_weight=0),))
    again = replace(still, phases=(Phase('sorted', 1, 0.1, sort_channels=True),))
    with pytest.raises(InputError, match="sort_channels in phase 'sorted' would change the trained subnets"):
        train_supernet(again, digits, tmp_path / 'sorted')
    begun = train_supernet(still, digits, tmp_path / 'begun').state_dict()
    for name, weight in run[1].state_dict().items():  # the rate is next to nothing; statistics of BatchNorm do move
        assert 'running' in name or 'num_batches' in name or torch.allclose(begun[name], weight, atol=1e-6), name
    for images in (digits.train, digits.holdout):
        monkeypatch.setattr(images, 'labels', images.labels % 2)
    other = train_supernet(still, replace(digits, class_names=('even', 'odd')), tmp_path / 'other')
    assert other.num_classes == 2
    assert torch.allclose(other.conv_stem.weight, run[1].conv_stem.weight, atol=1e-6)


@pytest.mark.parametrize('source, naming', [
    ('nowhere', "initial_checkpoint 'nowhere' cannot be loaded"),
    ('ofa_mbv3_cifar10_supernet', 'supernet of ofa_mbv3_32px, not of ofa_mbv3_tiny')])
def test_what_training_cannot_begin_with_is_one_line(source, naming, digits, tmp_path):
    with pytest.raises(InputError, match=naming) as error:
        train_supernet(replace(CONFIG, initial_checkpoint=source), digits, tmp_path / 'run')
    assert '\n' not in str(error.value) and not (tmp_path / 'run').exists()


def test_training_twice_gives_the_same_weights_and_another_seed_others(run, digits, tmp_path):
    torch.manual_seed(999)  # global randomness does not matter
    assert same_weights(train_supernet(CONFIG, digits, tmp_path / 'again'), run[1])
    short = replace(CONFIG, phases=CONFIG.phases[:1])
    assert not same_weights(
        train_supernet(short, digits, tmp_path / 'a'), train_supernet(replace(short, seed=1), digits, tmp_path / 'b'))


def test_one_checkpoint_remains_and_nothing_half_written(run):
    assert [p.name for p in (run[0] / 'checkpoints').iterdir()] == [f'step-{STEPS:08d}-phase-03']
    assert not [p for p in run[0].rglob('*.part')] and sorted(p.name for p in run[0].iterdir()) == [
        'checkpoints', 'config.json', 'log.jsonl', 'model.safetensors', 'teacher.safetensors', 'times.jsonl',
        'train.yaml']


def test_more_images_a_batch_than_there_are_is_refused(digits, tmp_path):
    with pytest.raises(InputError, match='batch_size 5000 is more than the 51 training images'):
        train_supernet(replace(CONFIG, batch_size=5000), digits, tmp_path / 'run')


@pytest.mark.parametrize('batch_size, accumulate, cure', [(16, 3, '3, 6 or more'), (16, 16, '16, 32 or more')])
def test_a_batch_that_does_not_divide_is_refused_with_sizes_that_do(batch_size, accumulate, cure, digits, tmp_path):
    config = replace(CONFIG, batch_size=batch_size, accumulate=accumulate)
    with pytest.raises(InputError, match=f'batch_size {batch_size} does not .*; make it a multiple of {cure}'):
        train_supernet(config, digits, tmp_path / 'run')


def test_the_table_of_subnets_is_shown_and_logged(run, digits, tmp_path):
    judge = SubnetJudge(run[1], digits.train, digits.test, calibration_images=32)
    rows = subnet_table(judge, tmp_path / 'log.jsonl', n=2)
    assert [r['subnet'] for r in rows] == ['largest', 'smallest', 'smallest, small images', 'random 1', 'random 2']
    assert [{k: e[k] for k in rows[0]} for e in events(tmp_path)] == rows
    space = run[1].space
    assert rows[0]['macs_m'] == round(space.macs(space.max_arch(), 10) / 1e6, 2) and rows[1]['arch'].startswith('r24')
