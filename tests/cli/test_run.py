"""The verb `run`: from images and a timm network to finished networks."""
import json
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from command_line import remarks, run
from hub_makers import save_made_front
from timm.models._hub import save_for_hf

from timm_ofa.cli import pipeline, stages
from timm_ofa.cli.planning import Plan, sides_for, usual_side
from timm_ofa.devices import DeviceProfile, measuring
from timm_ofa.hub import NotWithin
from timm_ofa.images import load_data
from timm_ofa.networks import space_of


@pytest.fixture(scope='module')
def origin(tmp_path_factory):
    """A folder that timm loads, with random weights and 1,000 classes."""
    folder = tmp_path_factory.mktemp('origin') / 'network'
    torch.manual_seed(0)
    save_for_hf(timm.create_model('mobilenetv3_small_050'), folder, model_config={}, safe_serialization=True)
    return folder


@pytest.fixture
def quick(monkeypatch):
    """A run that takes seconds."""
    monkeypatch.setattr(pipeline, 'make_plan', lambda *_: Plan(1, 12, 1, 1.0, 1.0, 1.0))
    monkeypatch.setattr(pipeline, 'REPAIR_IMAGES', 32)
    monkeypatch.setattr(pipeline, 'QUICK_REPAIR_IMAGES', 32)
    monkeypatch.setattr(pipeline, 'PROFILE_SECONDS', 1.0)
    monkeypatch.setattr(measuring, 'MIN_SWEEPS', 3)
    monkeypatch.setattr(stages, '_load_in_new_process', lambda folder: timm.create_model(  # a new one takes seconds
        f'local-dir:{folder}', pretrained=True))


def test_one_command_goes_from_images_to_networks_and_repeats_nothing(origin, quick, capsys, tmp_path, monkeypatch):
    words = ['run', '--data', 'digits', '--from', origin, '--resolutions', '32', '--out', tmp_path / 'out']
    status, out, err = run(capsys, *words, '--format', 'json')
    assert status == 0, err
    whole, *found = json.loads(out)
    assert whole['network'] == 'mobilenetv3_small_050 at 32 px' and len(found) == 1
    assert found[0]['predicted_ms'] < whole['predicted_ms'] and found[0]['macs_m'] < whole['macs_m']
    model = timm.create_model(f'local-dir:{found[0]["folder"]}', pretrained=True).eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    card = (tmp_path / 'out' / found[0]['network'] / 'README.md').read_text()
    assert 'repaired in closed form, fine-tuned for 1 epochs' in ' '.join(card.split())
    assert (tmp_path / 'out/index.html').is_file()

    monkeypatch.setattr(stages, 'train_supernet', lambda *_, **__: pytest.fail('trained again'))
    monkeypatch.setattr(stages, 'profile_space', lambda *_, **__: pytest.fail('measured again'))
    monkeypatch.setattr(stages, 'finish', lambda *_, **__: pytest.fail('finished again'))
    assert run(capsys, *words)[0] == 0
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


def test_a_network_that_knows_the_classes_is_not_trained(quick, capsys, tmp_path, monkeypatch):
    torch.manual_seed(0)
    save_for_hf(timm.create_model('mobilenetv3_small_050', num_classes=10), tmp_path / 'own', model_config={})
    monkeypatch.setattr(pipeline, 'make_plan', lambda *args: Plan(0, 12, 0, 0.0, 1.0, 0.0) if args[-1] else None)
    monkeypatch.setattr(stages, 'trained', lambda *_: pytest.fail('trained'))
    status, out, err = run(capsys, 'run', '--data', 'digits', '--from', tmp_path / 'own', '--resolutions', '32',
                           '--out', tmp_path / 'out', '--profile', _profile(tmp_path), '--format', 'json')
    assert status == 0, err
    assert [row['measured_ms'] for row in json.loads(out)] == [None, None]


def _profile(folder):
    """A profile of the space of a small network at 32 px, with made-up latencies."""
    space = space_of('mobilenetv3_small_050', resolutions=(32,))
    archs = space.sample(np.random.default_rng(0), 20)
    DeviceProfile.fit(space, archs, [space.macs(arch) / 1e7 for arch in archs], device='toy', runtime='toy').save(
        folder / 'toy.json')
    return folder / 'toy.json'


def test_resolutions_suit_the_images():
    space = space_of('mobilenetv3_small_050')
    assert sides_for(space, 500) == [128, 160, 192, 224] and sides_for(space, 128) == [64, 96, 128]
    assert sides_for(space, 20) == [32, 64]
    assert usual_side(load_data('digits', 32).train) == 8


@pytest.mark.parametrize('words, naming', [
    (['--from', 'no_such_network'], "--from 'no_such_network' cannot be loaded"),
    (['--minutes', '0.001'], '--minutes 0.001 is too short'),
    (['--max-latency-ms', '1e-9'], 'no network of mobilenetv3_small_050 is within'),
    (['--resolutions', '4'], 'resolutions'),
    (['--data', 'no_such_folder'], 'no_such_folder'),
    (['--runtime', 'no'], "runtime 'no'"), (['--profile', 'no.json'], 'no.json')])
def test_mistakes_are_one_line(words, naming, origin, quick, capsys, tmp_path, monkeypatch):
    if '--minutes' in words:
        monkeypatch.undo()
    given = {'--data': 'digits', '--from': origin, '--resolutions': 32, '--out': tmp_path / 'out'}
    given.update(zip(words[::2], words[1::2]))
    status, out, err = run(capsys, 'run', *(word for pair in given.items() for word in pair))
    assert status == 2 and out == '' and naming in remarks(err)[-1], err
