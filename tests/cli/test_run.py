"""The verb `run`: from images and a timm network to finished networks."""
import json
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from command_line import remarks, run
from hub_makers import save_made_front
from PIL import Image
from safetensors.torch import load_file
from timm.models._hub import save_for_hf

from timm_ofa.accuracy import active, judge
from timm_ofa.cli import pipeline, planning, stages
from timm_ofa.cli.planning import Plan, sides_for, usual_side
from timm_ofa.devices import DeviceProfile, measuring
from timm_ofa.errors import InputError
from timm_ofa.hub import NotWithin, finishing, training_cost
from timm_ofa.hub.folder import check_folder
from timm_ofa.images import load_data
from timm_ofa.networks import space_of, supernet_of
from timm_ofa.spaces import load_space


@pytest.fixture(scope='module')
def origin(tmp_path_factory):
    """A folder that timm loads, with random weights and 1,000 classes."""
    folder = tmp_path_factory.mktemp('origin') / 'network'
    torch.manual_seed(0)
    save_for_hf(timm.create_model('test_efficientnet'), folder, model_config={}, safe_serialization=True)
    return folder


@pytest.fixture
def quick(monkeypatch):
    """A run that takes seconds."""
    monkeypatch.setattr(pipeline, 'make_plan', lambda *_: Plan(1, 12, 1, 1.0, 1.0, 1.0))
    monkeypatch.setattr(finishing, 'REPAIR_IMAGES', 48)
    monkeypatch.setattr(judge, 'QUICK_REPAIR_IMAGES', 32)
    monkeypatch.setattr(pipeline, 'PROFILE_SECONDS', 1.0)
    monkeypatch.setattr(pipeline, 'arch_timer', partial(pipeline.arch_timer, seconds=0.2))
    monkeypatch.setattr(measuring, 'MIN_SWEEPS', 3)
    monkeypatch.setattr(stages, '_load_in_new_process', lambda folder: timm.create_model(  # a new one takes seconds
        f'local-dir:{folder}', pretrained=True))


def test_one_command_goes_from_images_to_networks_and_repeats_nothing(origin, quick, capsys, tmp_path, monkeypatch):
    words = ['run', '--data', 'digits', '--from', origin, '--resolutions', '32', '--out', tmp_path / 'out']
    status, out, err = run(capsys, *words, '--format', 'json')
    assert status == 0, err
    whole, *found = json.loads(out)
    assert whole['network'] == 'test_efficientnet at 32 px' and len(found) == 1
    assert found[0]['predicted_ms'] < whole['predicted_ms'] and found[0]['macs_m'] < whole['macs_m']
    model = timm.create_model(f'local-dir:{found[0]["folder"]}', pretrained=True).eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    card = (tmp_path / 'out' / found[0]['network'] / 'README.md').read_text()
    assert 'repaired in closed form, fine-tuned for 1 epoch ' in ' '.join(card.split())
    assert (tmp_path / 'out/index.html').is_file()

    monkeypatch.setattr(stages, 'train_supernet', lambda *_, **__: pytest.fail('trained again'))
    monkeypatch.setattr(stages, 'profile_into', lambda *_, **__: pytest.fail('measured again'))
    monkeypatch.setattr(stages, 'finish', lambda *_, **__: pytest.fail('finished again'))
    status, _, err = run(capsys, *words, '--minutes', '9')
    assert status == 0 and '    plan as before: 1 epochs' in err and 'for 9 minutes' not in err
    status, _, err = run(capsys, *words[:-1], tmp_path / 'out', '--seed', '1')
    assert status == 2 and '--seed is 1, the steps' in remarks(err)[-1]


def test_a_machine_that_became_slower_raises_only_a_limit_that_nobody_gave(tmp_path, capsys):
    found = save_made_front(tmp_path / 'front.jsonl')

    def timer(arch):
        return {'latency_ms': 10.03 * next(c.latency_ms for c in found.front if c.arch == arch)}

    with pytest.raises(NotWithin, match='no network of the front is measured within 4 ms'):
        stages.best_found(found, timer, limit_is_given=True)
    raised, chosen = stages.best_found(found, timer, limit_is_given=False)
    assert chosen.candidate == min(found.front, key=lambda c: c.latency_ms)
    assert raised == replace(found, max_latency_ms=11.0) and 'the limit becomes 11 ms' in capsys.readouterr().err
    assert stages.best_found(raised, None, True)[0] == raised


def test_a_finished_network_is_made_again_only_if_its_folder_is_gone(tmp_path):
    (tmp_path / 'net').mkdir()
    row = {'folder': str(tmp_path / 'net'), 'arch': 'a'}
    assert stages.Finished(tmp_path / 'rows.json')('within 3 ms', lambda: row) == row
    assert stages.Finished(tmp_path / 'rows.json')('within 3 ms', lambda: pytest.fail('made again')) == row
    (tmp_path / 'net').rmdir()
    assert stages.Finished(tmp_path / 'rows.json')('within 3 ms', lambda: {**row, 'arch': 'b'})['arch'] == 'b'


def test_that_limits_share_a_network_is_not_remembered_for_a_run_with_other_limits(tmp_path):
    (tmp_path / 'net').mkdir()
    row = {'folder': str(tmp_path / 'net'), 'arch': 'a'}
    first = stages.Finished(tmp_path / 'rows.json')
    assert first('within 2 ms', lambda: row) == row and first('within 3 ms', lambda: None) is None
    assert stages.Finished(tmp_path / 'rows.json')('within 3 ms', lambda: row) == row


@pytest.mark.parametrize('least_ms, whole_ms, limit_ms', [
    (0.1, 0.4, 0.24), (0.7, 1.0, 0.85), (1.02, 1.04, 1.03), (99.0, 99.4, 99.0), (1.2341, 1.2345, 1.235)])
def test_a_limit_that_nobody_gave_can_be_met(least_ms, whole_ms, limit_ms):
    profile = SimpleNamespace(latency_ms=lambda space, archs: np.array([whole_ms, least_ms]))
    assert stages.usual_limit_ms(load_space('ofa_mbv3_tiny'), profile) == limit_ms >= least_ms


def test_a_profile_that_was_not_checked_says_no_error(tmp_path, capsys):
    space = load_space('ofa_mbv3_tiny')
    profile = DeviceProfile.fit(
        space, space.sample(np.random.default_rng(0), 10), [1.0] * 10, device='toy', runtime='toy')
    replace(profile, check=None).save(tmp_path / 'profile.json')
    assert stages.profiled(tmp_path / 'profile.json', space, 10, 1.0, 0).check is None
    assert capsys.readouterr().err == f'    {len(profile.table)} blocks\n'


def test_fewer_images_than_a_step_takes_are_refused(origin, capsys, tmp_path):
    _some_digits(tmp_path / 'few', load_data('digits', 8).train, 30, classes='01')
    status, _, err = run(capsys, 'run', '--data', tmp_path / 'few', '--from', origin, '--resolutions', '32',
                         '--profile', _profile(tmp_path), '--out', tmp_path / 'out')
    assert status == 2 and 'training images; give at least 8' in remarks(err)[-1] and not (tmp_path / 'out').exists()


def test_a_network_that_knows_the_classes_is_not_trained(quick, capsys, tmp_path, monkeypatch):
    torch.manual_seed(0)
    save_for_hf(timm.create_model('test_efficientnet', num_classes=10), tmp_path / 'own', model_config={},
                safe_serialization=True)
    monkeypatch.setattr(pipeline, 'make_plan', lambda *args: Plan(0, 12, 0, 0.0, 1.0, 0.0) if args[-1] else None)
    status, out, err = run(capsys, 'run', '--data', 'digits', '--from', tmp_path / 'own', '--resolutions', '32',
                           '--out', tmp_path / 'out', '--profile', _profile(tmp_path), '--format', 'json')
    assert status == 0, err
    assert [row['measured_ms'] for row in json.loads(out)] == [None, None]
    given, kept = (load_file(tmp_path / name / 'model.safetensors') for name in ('own', 'out/supernet'))
    assert all(torch.equal(tensor, kept[name]) for name, tensor in given.items())
    assert training_cost(tmp_path / 'out/supernet') is None  # which is of this run


def _profile(folder, device='toy', quantity='macs'):
    """A profile of the space of a small network at 32 px, with made-up latencies of 0.1 to 0.4 ms."""
    space = space_of('test_efficientnet', resolutions=(32,))
    archs, cost = space.sample(np.random.default_rng(0), 20), getattr(space, quantity)
    DeviceProfile.fit(space, archs, [cost(arch) / 1e7 for arch in archs], device=device, runtime='toy').save(
        folder / f'{device}.json')
    return folder / f'{device}.json'


def _some_digits(folder, images, n, classes='0123456789'):
    """Some images of digits, of some classes, as a folder by class."""
    for i, label in enumerate(images.labels[:n].tolist()):
        if str(label) in classes:
            (folder / str(label)).mkdir(parents=True, exist_ok=True)
            images.rows.see(i, partial(Image.Image.save, fp=folder / str(label) / f'{i}.png'))


def test_the_verbs_that_a_run_prints_make_the_same_networks(origin, quick, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, 'make_plan', lambda *_: Plan(2, 12, 1, 1.0, 1.0, 1.0))
    monkeypatch.setattr(active, 'FIRST', 10)  # the last two are chosen for the device
    monkeypatch.setattr(stages, '_load_in_new_process', lambda folder: None)
    _profile(tmp_path), _profile(tmp_path, 'other', 'params')
    digits = load_data('digits', 8)
    _some_digits(tmp_path / 'digits/train', digits.train, 160)
    _some_digits(tmp_path / 'digits/test', digits.test, 40, classes='0123456')
    words = ['--data', 'digits/train', '--test', 'digits/test', '--from', origin, '--resolutions', '32', '--profile',
             'toy.json', '--max-latency-ms', '0.22', '--also', 'other.json=0.034', '--seed', '3', '--out', 'out']
    status, out, err = run(capsys, 'run', *words, '--format', 'json')
    assert status == 0, err
    _, row = json.loads(out)
    assert max(row['also_ms'].values()) <= 0.034 < row['predicted_ms'] <= 0.22
    script = (tmp_path / 'out/commands.sh').read_text().splitlines()[1:]
    assert remarks(err)[-len(script):] == script and script[0] == 'mkdir -p out/verbs'
    (tmp_path / 'out/verbs').mkdir()
    for line in script[1:]:
        name, *typed = shlex.split(line)
        status, _, err = run(capsys, *typed)
        assert (name, status) == ('timm-ofa', 0), (line, err)
    folders = [Path(row['folder']), Path('out/verbs', row['network'])]
    own, again = (load_file(folder / 'model.safetensors') for folder in folders)
    assert all(torch.equal(tensor, again[key]) for key, tensor in own.items())
    own, again = map(check_folder, folders)
    assert replace(again, training=own.training, front=own.front) == own
    assert (own.accuracy.dataset, own.accuracy.split) == ('digits test', 'all')
    assert '0.034 ms on ' in own.search.limit and 'training images: digits train' in own.accuracy.protocol
    assert [c.name for c in own.per_class if not c.n] == ['7', '8', '9']


@pytest.mark.parametrize('trained, words', [
    (False, 'an epoch of the whole network takes .* minutes, judging 24 subnets takes 0.4 minutes; give about 9'),
    (True, 'is too short: judging 24 subnets takes 0.4 minutes; give about 3, or smaller --resolutions')])
def test_minutes_that_are_too_short_are_refused_with_what_suffices(trained, words, monkeypatch):
    seconds = iter([9.0, 1.0, 1.0, 0.0])  # of a step, of a repair with few and with many images, of judging
    monkeypatch.setattr(planning, '_seconds', lambda work: next(seconds))
    supernet = supernet_of(timm.create_model('test_efficientnet'), resolutions=(32,))
    with pytest.raises(InputError, match=words):
        planning.make_plan(supernet, load_data('digits', 32, limit=200), 0.1, 1, 8, trained)


def test_resolutions_suit_the_images():
    space = space_of('mobilenetv3_small_050')
    assert sides_for(space, 500) == [128, 160, 192, 224] and sides_for(space, 128) == [64, 96, 128]
    assert sides_for(space, 20) == [32, 64]
    assert usual_side(load_data('digits', 32).train) == 8


@pytest.mark.parametrize('words, naming', [
    (['--from', 'no_such_network'], "--from 'no_such_network' cannot be loaded"),
    (['--minutes', '0.001'], '--minutes 0.001 is too short'),
    (['--max-latency-ms', '1e-9'], 'no network of test_efficientnet is within'),
    (['--resolutions', '4'], 'resolutions'),
    (['--data', 'no_such_folder'], 'no_such_folder'),
    (['--runtime', 'no'], "runtime 'no'"), (['--profile', 'no.json'], 'no.json'), (['--also', 'no.json=3'], 'no.json'),
    (['--also', 'note10=3'], 'profile note10 prices ofa_mbv3_w12, not test_efficientnet'),
    (['--test', 'no/such/test'], "data 'no/such/test' is not a folder")])
def test_mistakes_are_one_line(words, naming, origin, quick, capsys, tmp_path, monkeypatch):
    if '--minutes' in words:
        monkeypatch.undo()
    given = {'--data': 'digits', '--from': origin, '--resolutions': 32, '--out': tmp_path / 'out'}
    given.update(zip(words[::2], words[1::2]))
    status, out, err = run(capsys, 'run', *(word for pair in given.items() for word in pair))
    assert status == 2 and out == '' and naming in remarks(err)[-1], err
    assert (tmp_path / 'out').exists() == ('--max-latency-ms' in words)  # which is known only after a step was done
