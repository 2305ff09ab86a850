"""Every key of a configuration changes the outcome, or is refused where it would do nothing, by its name."""
import hashlib
import json
from dataclasses import fields, replace

import pytest
import torch
import yaml
from accelerate import PartialState
from training_runs import as_written, events

from timm_ofa import InputError
from timm_ofa.fields import plain
from timm_ofa.hub.finishing import Source, _finetune
from timm_ofa.images import Augment, EpochBatches, load_data, stored_side
from timm_ofa.networks import new_supernet
from timm_ofa.training import FinetuneConfig, Phase, TrainConfig, load_config, load_finetune, supernets, train_supernet
from timm_ofa.training.supernets import _Run

BASE = TrainConfig(
    'base', 'ofa_mbv3_tiny', 'digits', resolutions=(20,), batch_size=8, limit=20, phases=(
        Phase('one', 1, 0.05, kd_weight=0), Phase('two', 1, 0.05)))
ONE = replace(BASE, phases=BASE.phases[:1])  # enough for keys that are not of the second phase
AREA = ['augment.crop=area']
RESNET = ['space=ofa_resnet_tiny']
# key: a value that changes the weights, after further settings that both runs have
WEIGHTS = {
    'data': ('fashion-mnist-12k', []), 'space': ('ofa_mbv3_32px', []),
    'resolutions': ('[24]', []),
    'batch_size': ('4', []), 'seed': ('1', []), 'momentum': ('0', []), 'weight_decay': ('0.1', []),
    'label_smoothing': ('0.5', []), 'drop_rate': ('0.5', []), 'clip_grad': ('0.01', []), 'holdout': ('0.5', []),
    'model_ema_decay': ('0.5', []), 'limit': ('30', []), 'precision': ('bf16', []), 'accumulate': ('2', []),
    'phases': ('[{name: a, epochs: 2, lr: 1}]', []), 'teacher': ('{teacher}', []),
    'initial_checkpoint': ('{initial}', []), 'augment': ('{flip: false}', []),
    'augment.crop': ('area', []), 'augment.shift': ('0.5', []), 'augment.scale': ('[0.9, 1]', AREA),
    'augment.flip': ('false', []), 'augment.brightness': ('0.5', []),
    'augment.saturation': ('0.5', ['data=fashion-mnist-12k']), 'augment.erase': ('1', []),
    'phases.1.epochs': ('2', []), 'phases.1.lr': ('0.01', []),
    'phases.1.warmup_epochs': ('1', []), 'phases.1.depths': ('[3]', []), 'phases.1.deepest': ('1', []),
    'phases.1.kernel_sizes': ('[5]', []), 'phases.1.expand_ratios': ('[4]', []), 'phases.1.widths': ('1', RESNET),
    'phases.1.subnets_per_step': ('2', []), 'phases.1.kd_weight': ('0.1', []), 'phases.1.sort_channels': ('true', []),
    'phases.1.recipe': ('plain', [])}
# what is seen elsewhere than in the weights: see `test_every_key_changes_the_outcome`
ELSEWHERE = ('name', 'phases.1.name', 'checkpoint_minutes', 'workers', 'decode', 'sync_bn', 'images_per_epoch',
             'skip_broken', 'test')
REFUSED = [  # settings, of which the last one does nothing
    (['phases.1.depths=[3]', 'phases.1.deepest=1'], 'phases.1.deepest does nothing beside depths'),
    (['phases.0.kd_weight=1'], 'phases.0.kd_weight does nothing in the first phase, which has no teacher'),
    *((['phases.1.subnets_per_step=3', f'phases.1.recipe={recipe}', f'phases.1.kd_weight={weight}'],
       f"phases.1.kd_weight does nothing with the recipe '{recipe}'")
      for recipe in ('plain', 'sandwich', 'divided', 'delayed') for weight in (0, 1)),
    (['phases.1.recipe=coupled', 'phases.1.expand_ratios=[4]'], "expand_ratios does nothing with the recipe 'coupled'"),
    (['phases.1.widths=1'], 'phases.1.widths does nothing in ofa_mbv3_tiny'),
    (['phases.1.kd_weight=0', 'teacher=resnet18'], 'teacher does nothing where no phase learns'),
    (['phases.1.recipe=plain', 'teacher=resnet18'], 'teacher does nothing where no phase learns'),
    (['augment.scale=[0.5, 1]'], "augment.scale does nothing unless augment.crop is 'area'"),
    (['augment.crop=area', 'augment.shift=0.1'], "augment.shift does nothing with augment.crop 'area'"),
    (['augment.crop=none', 'augment.shift=0.1'], "augment.shift does nothing with augment.crop 'none'"),
    (['data=stream:images', 'decode=once'], 'decode does nothing with a stream'),
    (['data=stream:images', 'skip_broken=true'], 'skip_broken does nothing with a stream'),
    (['clip_grad=0'], 'clip_grad: 0 is not'), (['augment.scale=[1.0, 0.08]'], 'augment.scale .1.0, 0.08. falls'),
    *(([f'phases.1.recipe={recipe}', f'phases.1.subnets_per_step={n}'], f'subnets_per_step {n} is too few for .*give 3')
      for recipe in ('sandwich', 'divided', 'delayed') for n in (1, 2))]
FINETUNE = {
    'epochs': 2, 'lr': 0.5, 'warmup_epochs': 1, 'batch_size': 4, 'momentum': 0, 'weight_decay': 0.5,
    'label_smoothing': 0.5, 'kd_weight': 0.1, 'teacher': None}  # and `workers`, which is seen elsewhere


def all_keys():
    """Every key that a configuration may have, with those inside."""
    inside = {'augment': Augment, 'phases.1': Phase}
    return {f.name for f in fields(TrainConfig)} | {
        f'{at}.{f.name}' for at, kind in inside.items() for f in fields(kind)}


def load(folder, settings, base=BASE):
    """A base configuration with some settings, read as the command reads it."""
    path = folder / 'base.yaml'
    path.write_text(yaml.safe_dump({'kind': 'supernet', **as_written(base), 'holdout': 0.2}))
    return load_config(path, settings)


@pytest.fixture
def outcome(tmp_path, monkeypatch):
    """(settings, base) -> (hash of the weights, folder, configuration) of a short run."""
    monkeypatch.setattr(supernets, 'judge_ends', lambda *args: None)
    known = {}

    def train(settings, base):
        key = base, tuple(settings)
        if key not in known:
            config, folder = load(tmp_path, settings, base), tmp_path / str(len(known))
            data = load_data(
                config.data, stored_side(config.load_space()), holdout=config.holdout, limit=config.limit,
                decode=config.decode, images_per_epoch=config.images_per_epoch)
            train_supernet(config, data, folder)
            digest = hashlib.sha256((folder / 'model.safetensors').read_bytes()).hexdigest()
            known[key] = digest, folder, config
        return known[key]
    return train


def test_every_key_changes_the_outcome(outcome, tmp_path, capsys, monkeypatch):
    assert {*WEIGHTS, *ELSEWHERE} == all_keys()
    _, folder, _ = outcome([], BASE)
    sources = {'initial': str(folder), 'teacher': str(folder)}
    changed = []
    for key, (value, common) in WEIGHTS.items():
        for name, source in sources.items():
            value = value.replace(f'{{{name}}}', source)
        base = BASE if key == 'teacher' or key.startswith('phases.1.') else ONE
        assert outcome(common, base)[0] != outcome([*common, f'{key}={value}'], base)[0], key
        changed.append(key)
    shown = {
        'name': lambda folder: json.loads((folder / 'config.json').read_text())['timm_ofa']['training']['name'],
        'phases.1.name': lambda folder: [e['phase'] for e in events(folder) if e['event'] == 'train'],
        'checkpoint_minutes': lambda folder: len(
            [e for e in events(folder, 'times.jsonl') if e['event'] == 'checkpoint'])}
    for key, value in (('name', 'other'), ('phases.1.name', 'other'), ('checkpoint_minutes', '1e-6')):
        assert shown[key](folder) != shown[key](outcome([f'{key}={value}'], BASE)[1]), key
        changed.append(key)
    changed += loader_keys(tmp_path)
    with pytest.raises(InputError, match='images_per_epoch 8 is for streams'):
        outcome(['images_per_epoch=8'], ONE)
    with capsys.disabled():
        print(f'\n{len(changed)} configuration keys change the outcome: {" ".join(sorted(changed))}')
    assert {*changed, 'images_per_epoch', 'skip_broken', 'test'} == all_keys()  # which are tested with the images


def loader_keys(folder):
    """How images are decoded and by how many processes, and what several processes share: checked without training."""
    data = load_data('digits', 24, limit=BASE.limit)
    PartialState()

    class Two:
        num_processes, process_index, is_main_process, device = 2, 0, True, torch.device('cpu')

        def wait_for_everyone(self):
            pass
    layers = {}
    for sync_bn in (True, False):
        run = _Run(replace(BASE, sync_bn=sync_bn), data, folder / 'none', Two(), False)
        layers[sync_bn] = {type(module).__name__ for module in run.supernet.modules()}
    assert 'SynchronizedBatchNormAct2d' in layers[True] - layers[False]
    loaders = [EpochBatches(data.train, 8, 0, workers, Two())._loader.num_workers for workers in (0, 1)]
    assert loaders == [0, 1]
    assert load_data('digits', 24).train.in_memory and not load_data('digits', 24, decode='always').train.in_memory
    return ['sync_bn', 'workers', 'decode']


def test_keys_that_do_nothing_are_refused(tmp_path, capsys):
    refused = set()
    for settings, naming in REFUSED:
        with pytest.raises(InputError, match=naming) as error:
            load(tmp_path, settings)
        assert '\n' not in str(error.value) and 'base.yaml' in str(error.value)
        key = settings[-1].partition('=')[0]
        refused.add(key)
    with capsys.disabled():
        print(f'\n{len(REFUSED)} settings that would do nothing are refused, of {len(refused)} keys: '
              f'{" ".join(sorted(refused))}')


@pytest.mark.parametrize('change, naming', [
    (dict(phases=(Phase('one', 1, 0.1, recipe='plain', kd_weight=0.5),)), 'kd_weight does nothing'),
    (dict(phases=(Phase('one', 1, 0.1, recipe='sandwich'),)), 'too few'),
    (dict(teacher='resnet18', phases=BASE.phases[:1]), 'teacher does nothing'),
    (dict(augment=Augment(scale=(0.5, 1.0))), 'augment.scale does nothing')])
def test_a_configuration_made_in_python_is_held_to_the_same(change, naming, digits, tmp_path):
    with pytest.raises(InputError, match=naming):
        train_supernet(replace(BASE, **change), digits, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_a_finished_folder_with_such_keys_still_is_read():
    written = replace(BASE, phases=(Phase('one', 1, 0.1, recipe='sandwich', subnets_per_step=1),)).to_dict()
    assert TrainConfig.from_dict(plain(BASE) | {'space': 'ofa_mbv3_tiny'}) == BASE and 'scale' in plain(BASE)['augment']
    assert TrainConfig.from_dict(written).phases[0].recipe == 'sandwich'


def test_what_a_run_writes_of_its_settings_is_a_configuration(tmp_path):
    more = Phase('three', 1, 0.1, recipe='sandwich', subnets_per_step=3), Phase('four', 1, 0.1, recipe='coupled')
    config = replace(BASE, phases=(*BASE.phases, *more))
    (tmp_path / 'own.yaml').write_text(yaml.safe_dump({'kind': 'supernet', **config.to_dict()}))
    assert load_config(tmp_path / 'own.yaml') == config


def test_yaml_no_is_a_precision(tmp_path):
    assert load(tmp_path, ['precision=no']).precision == load(tmp_path, ["precision='no'"]).precision == 'no'


# ---- fine-tuning -----------------------------------------------------------------------------------------------------


def finetuning(folder, **keys):
    path = folder / 'finetune.yaml'
    path.write_text(yaml.safe_dump({'kind': 'finetune', 'epochs': 1, 'batch_size': 8, **keys}))
    return load_finetune(path)


def test_every_key_of_a_fine_tuning_changes_the_outcome(tmp_path, capsys):
    space = BASE.load_space()
    torch.manual_seed(0)
    supernet = new_supernet(space, num_classes=10)
    source = Source(supernet, 'none', load_data('digits', 24, limit=20), Augment(), calibration_images=16)
    judge, arch = source.judge(source.data.test), space.min_arch()

    def weights(**keys):
        model = _finetune(source, judge, arch, judge.subnet(arch), finetuning(tmp_path, **keys))
        return torch.cat([p.detach().flatten() for p in model.parameters()])
    taught = {'teacher': 'largest'}
    base = weights(**taught)
    assert torch.equal(base, weights(**taught))
    for key, value in FINETUNE.items():
        assert not torch.equal(base, weights(**{**taught, key: value})), key
    assert {*FINETUNE, 'workers'} == {f.name for f in fields(FinetuneConfig)}
    assert finetuning(tmp_path, workers=2).workers == 2  # as in training
    with capsys.disabled():
        print(f'\n{len(FINETUNE) + 1} keys of a fine-tuning: {" ".join([*FINETUNE, "workers"])}')


@pytest.mark.parametrize('keys, naming', [
    (dict(kd_weight=0.5), 'kd_weight does nothing without a teacher'), (dict(kd_weight=0), 'kd_weight does nothing'),
    (dict(teacher='largest', kd_weight=0), 'teacher does nothing with kd_weight 0')])
def test_keys_of_a_fine_tuning_that_do_nothing_are_refused(keys, naming, tmp_path):
    with pytest.raises(InputError, match=f'finetune.yaml: {naming}'):
        finetuning(tmp_path, **keys)
