"""Training configurations: phases as data, every field checked, the shipped ones loadable."""
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from timm_ofa import InputError, load_space
from timm_ofa.hub.configs import hub_configs_dir
from timm_ofa.training.config import Phase, TrainConfig, load_config, load_finetune, scaled, trained_before

SHIPPED = sorted(p for p in hub_configs_dir().glob('*.yaml') if 'kind: supernet' in p.read_text())
MINIMAL = {
    'kind': 'supernet', 'name': 'test', 'space': 'ofa_mbv3_tiny', 'data': 'digits',
    'phases': [{'name': 'largest', 'epochs': 1, 'lr': 0.1, 'kd_weight': 0}, {'name': 'all', 'epochs': 3, 'lr': 0.01}]}


def write(folder, data):
    path = folder / 'own.yaml'
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return path


# ---- the shelf -------------------------------------------------------------------------------------------------------


def test_supernet_configs_are_shipped():
    assert len(SHIPPED) >= 2


@pytest.mark.parametrize('path', SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_training_config_loads(path):
    config = load_config(path)
    assert config.name == path.stem
    assert f'--config hub_configs/{path.name}' in path.read_text()  # the command that it opens with
    assert TrainConfig.from_dict(yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config


@pytest.mark.parametrize('path', SHIPPED, ids=lambda path: path.stem)
def test_shipped_phases_go_from_the_largest_net_to_the_whole_space(path):
    config = load_config(path)
    space = config.load_space()
    first, last = config.phases[0].subspace(space), config.phases[-1].subspace(space)
    assert first.max_arch() == space.max_arch() and last == space
    if config.phases[0].recipe == 'progressive':  # others have all of the space and the largest net in each step
        assert first.size() == 1 and config.phases[0].kd_weight == 0
    sizes = [phase.subspace(space).size() for phase in config.phases]
    assert sizes == sorted(sizes)
    for i, phase in list(enumerate(config.phases))[1:]:
        narrower = ratios(trained_before(space, config.phases, i + 1)) - ratios(trained_before(space, config.phases, i))
        assert phase.sort_channels == bool(narrower)


def ratios(spaces):
    return {ratio for space in spaces for stage in space.stages for ratio in stage.expand_ratios}


# ---- reading ---------------------------------------------------------------------------------------------------------


def test_a_minimal_config_takes_the_published_defaults(tmp_path):
    config = load_config(write(tmp_path, MINIMAL))
    assert (config.momentum, config.weight_decay, config.label_smoothing, config.seed) == (0.9, 3e-5, 0.1, 0)
    assert config.phases[1] == Phase('all', 3, 0.01) and config.phases[1].kd_weight == 1
    assert config.load_space() == load_space('ofa_mbv3_tiny')


def test_overrides_reach_inside_and_win_over_the_file(tmp_path):
    config = load_config(write(tmp_path, MINIMAL), [
        'phases.0.epochs=2', 'phases.1.lr=1e-3', 'batch_size=64', 'resolutions=[20, 24]', 'augment.flip=false',
        'phases.1.expand_ratios=[3,4]', 'clip_grad=5', 'name=a=b'])
    assert [p.epochs for p in config.phases] == [2, 3] and config.phases[1].lr == 0.001
    assert config.batch_size == 64 and config.resolutions == (20, 24) and config.augment.flip is False
    assert config.phases[1].expand_ratios == (3, 4) and config.clip_grad == 5.0 and config.name == 'a=b'


def test_replacements_count_where_they_are_given(tmp_path):
    config = load_config(write(tmp_path, MINIMAL), data='fashion-mnist-12k', seed=None)
    assert config.data == 'fashion-mnist-12k' and config.seed == 0


@pytest.mark.parametrize('text', ['1e-3', '1.0e-3', '0.001', '1E-3'])
def test_yaml_exponents_are_numbers(text, tmp_path):
    text = yaml.safe_dump(MINIMAL).replace('lr: 0.01', f'lr: {text}')
    assert load_config(write(tmp_path, text)).phases[1].lr == 0.001


def test_phases_draw_what_they_name(tmp_path):
    space = load_space('ofa_mbv3_tiny')
    sub = Phase('x', 1, 0.1, depths=(2, 3), kernel_sizes=(5,), expand_ratios=(4,)).subspace(space)
    assert sub.stages[0].depths == (2, 3) and sub.size() == (1 + 1) ** 3
    assert Phase('x', 1, 0.1).subspace(space) == space


def test_sorting_keeps_every_ratio_that_was_trained_before():
    space = load_space('ofa_mbv3_w12')
    phases = [Phase('a', 1, 1, expand_ratios=r) for r in ((6,), (4, 6), (6,), None, (6,))]
    kept = [ratios(trained_before(space, phases, i)) for i in range(5)]
    assert kept == [set(), {6}, {4, 6}, {4, 6}, {3, 4, 6}]
    sandwiches = [Phase(name, 1, 1, recipe='sandwich', subnets_per_step=3) for name in 'ab']
    assert trained_before(space, sandwiches, 1) == [space]  # None is all of the space


def test_scaling_changes_epochs_alone_and_leaves_one_at_least(tmp_path):
    config = load_config(write(tmp_path, MINIMAL), ['phases.1.warmup_epochs=2', 'phases.1.epochs=20'])
    assert [(p.epochs, p.warmup_epochs) for p in scaled(config, 0.1).phases] == [(1, 0), (2, 0)]
    assert [(p.epochs, p.warmup_epochs) for p in scaled(config, 2).phases] == [(2, 0), (40, 2)]
    assert scaled(config, 1) == config
    trained = replace(config, phases=(replace(config.phases[0], epochs=0), config.phases[1]))
    assert [p.epochs for p in scaled(trained, 3).phases] == [0, 60]  # what is trained already stays so


# ---- refusing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('override, naming', [
    ('batch_size=none', "batch_size.*'none'"), ('batch_size=1', 'batch_size 1'),
    ('batch_size=64.5', 'batch_size.*64.5'),
    ('batch_size=true', 'batch_size.*True'), ('epochs=3', "'epochs'"), ('phases=[]', 'phases'),
    ('phases=3', 'phases.*3'),
    ('phases.0.epochs=x', 'epochs.*x'), ('phases.0.epochs=-1', 'epochs -1'), ('phases.0.lr=0', 'lr 0'),
    ('phases.0.lr=.nan', 'lr nan'), ('phases.0.lr=fast', "lr.*'fast'"), ('phases.0.name=all', 'phases all, all'),
    ('phases.0.expand_ratios=[6]', 'expand_ratios 6'), ('phases.0.depths=3', 'depths.*3'),
    ('phases.0.depth=[3]', "'depth'"),
    ('resolutions=[20, 25]', 'resolutions 25 .*nearest is 24'),
    ('phases.1.expand_ratios=[4, 9]', 'expand_ratios 9 .*nearest is 4'),
    ('phases.0.kernel_sizes=[7]', 'kernel_sizes 7'), ('phases.1.subnets_per_step=0', 'subnets_per_step 0'),
    ('phases.1.kd_weight=-1', 'kd_weight -1'), ('phases.1.warmup_epochs=-1', 'warmup_epochs -1'),
    ('phases.1.sort_channels=3', 'sort_channels.*3'), ('space=ofa_mbv3_none', 'ofa_mbv3_none'),
    ('resolutions=[100]', 'resolutions 100'), ('holdout=1', 'holdout 1'), ('seed=-1', 'seed -1'),
    ('precision=fp8', "precision 'fp8'"), ('momentum=1', 'momentum 1'), ('workers=-1', 'workers -1'),
    ('checkpoint_minutes=0', 'checkpoint_minutes 0'), ('augment.crop=9', 'crop.*9'), ('augment.colour=1', "'colour'"),
    ('augment=3', 'augment'), ('augment.scale=[1]', 'scale.*2'), ('data=null', 'data.*None'),
    ('limit=x', "limit.*'x'")])
def test_a_wrong_value_is_refused_naming_file_field_and_value(override, naming, tmp_path):
    with pytest.raises(InputError, match=naming.replace(' ', '.*')) as error:
        load_config(write(tmp_path, MINIMAL), [override])
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('override, naming', [
    ('augment.crop=middle', "crop.*'middle'"), ('augment.erase=2', 'erase'), ('limit=0', 'limit'),
    ('weight_decay=-1', 'weight_decay'), ('label_smoothing=2', 'label_smoothing'), ('drop_rate=1.5', 'drop_rate'),
    ('clip_grad=-1', 'clip_grad'), ('weight_decay=.nan', 'weight_decay')])
def test_a_value_out_of_range_is_refused(override, naming, tmp_path):
    with pytest.raises(InputError, match=naming):
        load_config(write(tmp_path, MINIMAL), [override])


@pytest.mark.parametrize('text', [
    'batch_size', 'phases.7.epochs=2', 'phases.x.epochs=2', 'phases.0.epochs.x=1', 'limit=[', ''])
def test_an_override_that_cannot_be_applied_shows_how_to_write_it(text, tmp_path):
    with pytest.raises(InputError, match=r'--set.*phases\.0\.epochs=2'):
        load_config(write(tmp_path, MINIMAL), [text])


@pytest.mark.parametrize('name', ['name', 'space', 'data', 'phases'])
def test_a_missing_field_is_named(name, tmp_path):
    with pytest.raises(InputError, match=f"'{name}' is missing"):
        load_config(write(tmp_path, {k: v for k, v in MINIMAL.items() if k != name}))


@pytest.mark.parametrize('content, naming', [
    ('', "kind: supernet"), ('[]', 'kind: supernet'), ('kind: subnet', 'kind: supernet'), ('{', 'not YAML'),
    ('kind: supernet', 'missing'), ('!!python/object/apply:os.getcwd []', 'not YAML')])
def test_a_file_that_is_no_training_config_is_refused(content, naming, tmp_path):
    with pytest.raises(InputError, match=f'own.yaml.*{naming}') as error:
        load_config(write(tmp_path, content))
    assert '\n' not in str(error.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / 'none.yaml', tmp_path):
        with pytest.raises(InputError, match=Path(path).name):
            load_config(path)


def test_the_shipped_ways_to_fine_tune_are_read():
    for n in (25, 75):
        config = load_finetune(hub_configs_dir() / f'finetune_imagenet_{n}.yaml')
        assert config.epochs == config.phase.epochs == n and config.phase.learns_from_teacher
    alone = replace(config, teacher=None)
    assert not alone.phase.learns_from_teacher and alone.phase.lr == config.lr


@pytest.mark.parametrize('content, naming', [
    ('', "kind: finetune"), ('kind: supernet', 'kind: finetune'), ('{', 'not YAML'),
    ('kind: finetune', "'epochs' is missing"),
    ('{kind: finetune, epochs: 0}', 'epochs'), ('{kind: finetune, epochs: 1, colour: 2}', "'colour'"),
    ('{kind: finetune, epochs: 1, lr: -1}', 'lr'), ('{kind: finetune, epochs: 1, teacher: [a]}', 'teacher')])
def test_a_file_that_does_not_say_how_to_fine_tune_is_refused(content, naming, tmp_path):
    with pytest.raises(InputError, match=f'own.yaml.*{naming}') as error:
        load_finetune(write(tmp_path, content))
    assert '\n' not in str(error.value)
