"""Teachers: named ones and the largest subnet after the first phase."""
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from training_runs import CONFIG, events, same_weights

from timm_ofa import InputError, load_space
from timm_ofa.networks import model_args, new_supernet
from timm_ofa.training import Phase, TrainConfig, finetune, load_teacher, specialization, train_supernet
from timm_ofa.training.loop import Loop, accelerated
from timm_ofa.training.teachers import PhaseTeachers, Teacher


def test_a_folder_can_teach(run, digits, tmp_path):
    from timm.models._hub import save_for_hf

    space = CONFIG.load_space()
    save_for_hf(run[1].extract(space.max_arch()), str(tmp_path / 'teacher'), model_args={
        **model_args(space, space.max_arch()), 'num_classes': 10}, safe_serialization=True)
    phase = Phase('taught', 1, 0.05, kd_weight=5.0)
    taught = train_supernet(
        replace(CONFIG, teacher=str(tmp_path / 'teacher'), phases=(phase,)), digits, tmp_path / 'taught')
    alone = train_supernet(replace(CONFIG, phases=(replace(phase, kd_weight=0.0),)), digits, tmp_path / 'alone')
    assert not same_weights(taught, alone)
    losses = [[e['loss'] for e in events(tmp_path / name) if e['event'] == 'train'] for name in ('taught', 'alone')]
    assert losses[0][0] > 2 * losses[1][0]  # five times the teacher's loss is in it


def test_a_teacher_sees_images_normalized_its_own_way(run):
    model = run[1].extract(CONFIG.load_space().max_arch()).eval()
    expected = model(torch.zeros(1, 3, 24, 24))
    model.pretrained_cfg = {**model.pretrained_cfg, 'mean': (0.1, 0.2, 0.3), 'std': (0.5, 0.4, 0.3)}
    space = CONFIG.load_space()
    x = (torch.tensor([0.1, 0.2, 0.3]) - torch.tensor(space.mean)) / torch.tensor(space.std)
    seen = Teacher(model, space)(x.view(1, 3, 1, 1).expand(1, 3, 24, 24))
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('source, naming', [
    ('no_such_model', "teacher 'no_such_model' cannot be loaded"),
    ('ofa_mbv3_tiny_supernet', 'cannot be loaded|classes')])
def test_what_cannot_teach_is_one_line(run, source, naming):
    with pytest.raises(InputError, match=naming) as error:
        load_teacher(source, run[1])
    assert '\n' not in str(error.value)


def test_the_teacher_is_the_largest_net_after_the_first_phase(run, digits, tmp_path):
    folder, _ = run
    teacher = load_file(folder / 'teacher.safetensors')
    first = train_supernet(replace(CONFIG, phases=CONFIG.phases[:1]), digits, tmp_path / 'first')
    expected = first.extract(first.space.max_arch()).state_dict()
    assert set(teacher) == set(expected) and all(torch.equal(teacher[k], v) for k, v in expected.items())
    assert not (tmp_path / 'first' / 'teacher.safetensors').exists()  # nobody to teach


@pytest.mark.parametrize('name', ['ofa_mbv3_tiny', 'ofa_resnet_tiny'])
def test_the_largest_net_teaches_without_dropout_by_the_statistics_of_the_batch(name, tmp_path):
    space = load_space(name)
    supernet = new_supernet(space, num_classes=10, drop_rate=0.5)
    phases = (Phase('largest', 1, 0.1, kd_weight=0), Phase('all', 1, 0.1))
    config = TrainConfig('test', name, 'digits', phases=phases, drop_rate=0.5)
    with accelerated('no') as accelerator:
        teachers = PhaseTeachers(config, supernet, tmp_path / 'teacher.safetensors', accelerator)
        teachers.keep()
        teacher = teachers.of_phase(1)
    x = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = supernet.extract(space.max_arch()).train()
    for module in expected.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    expected.drop_rate = 0.0
    with torch.no_grad():
        assert torch.equal(teacher(x), teacher(x))
        torch.testing.assert_close(teacher(x), expected(x), rtol=1e-4, atol=1e-5)


def test_a_teacher_of_fine_tuning_goes_where_the_network_is(monkeypatch):
    """On the device 'meta', which computes nothing, but refuses to mix with another one."""
    class Meta:
        device = torch.device('meta')

        def prepare(self, *parts):
            return parts

        def unwrap_model(self, model, keep_fp32_wrapper):
            return model
    monkeypatch.setattr(specialization, 'accelerated', lambda precision: nullcontext(Meta()))
    seen = []

    def run_phase(self, phase, draw, teacher, start):
        images = next(iter(self.batches(0, 0, 1)))[0]
        seen.append((self.model(images).device, teacher(images).device))
    monkeypatch.setattr(Loop, 'run_phase', run_phase)
    supernet = new_supernet(load_space('ofa_mbv3_tiny'), num_classes=10)
    teacher, model = (supernet.extract(supernet.space.max_arch()) for _ in range(2))
    finetune(model, lambda epoch, skip: [(torch.zeros(2, 3, 24, 24), torch.zeros(2))], steps_per_epoch=1,
             phase=Phase('one', 1, 0.1), teacher=teacher)
    assert seen == [(torch.device('meta'), torch.device('meta'))]
