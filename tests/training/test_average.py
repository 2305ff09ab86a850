"""The moving average of the weights: what it is, that it is what is saved, and that a resumed run goes on with it."""
from dataclasses import replace

import pytest
import torch
from training_runs import CONFIG, same_weights, stop_at

from timm_ofa.errors import Interrupted
from timm_ofa.images import load_data
from timm_ofa.networks import load_supernet, new_supernet
from timm_ofa.training import Phase, train_supernet
from timm_ofa.training.average import MovingAverage

AVERAGED = replace(CONFIG, drop_rate=0.5, model_ema_decay=0.9, phases=(
    Phase('one', 1, 0.05, recipe='divided', subnets_per_step=4, expand_ratios=(3, 4)),
    Phase('two', 1, 0.05, recipe='divided', subnets_per_step=4, sort_channels=True)))


@pytest.fixture(scope='module')
def digits():
    return load_data('digits', 24, limit=CONFIG.limit)


def test_the_average_of_the_weights_forgets_as_told():
    supernet = new_supernet(CONFIG.load_space(), num_classes=2)
    average, weight = MovingAverage(supernet, 0.8), supernet.classifier.weight
    expected = weight.detach().clone()
    for step in range(1, 60):
        with torch.no_grad():
            weight.add_(1)
        average.follow(step)
        keep = min(0.8, (step - 1) / (step + 9))  # at first it follows faster
        expected = keep * expected + (1 - keep) * weight.detach()
        torch.testing.assert_close(average.network.classifier.weight, expected)
    assert not average.network.classifier.weight.requires_grad


def test_what_is_saved_is_the_average_of_the_steps(digits, tmp_path, monkeypatch):
    seen, follow = [], MovingAverage.follow

    def record(self, steps):
        follow(self, steps)
        seen.append((steps, self._followed.classifier.bias.detach().clone()))
    monkeypatch.setattr(MovingAverage, 'follow', record)
    plain = replace(CONFIG, model_ema_decay=0.9, phases=(Phase('all', 2, 0.05, subnets_per_step=2, kd_weight=0),))
    returned = train_supernet(plain, digits, tmp_path)
    saved = load_supernet(str(tmp_path))
    assert same_weights(saved, returned) and [steps for steps, _ in seen] == list(range(1, 7))
    average = torch.zeros(10)
    for steps, bias in seen:
        keep = (steps - 1) / (steps + 9)
        average = keep * average + (1 - keep) * bias
    torch.testing.assert_close(saved.classifier.bias.detach(), average)
    assert not torch.equal(saved.classifier.bias, seen[-1][1])


@pytest.mark.parametrize('step', [2, 3, 5])
def test_a_resumed_run_goes_on_with_the_average(digits, tmp_path, monkeypatch, step):
    whole = train_supernet(AVERAGED, digits, tmp_path / 'whole')
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_at(patch, step)
        train_supernet(AVERAGED, digits, tmp_path / 'parts')
    resumed = train_supernet(AVERAGED, digits, tmp_path / 'parts', resume=True)
    assert same_weights(whole, resumed)
    assert (tmp_path / 'whole/log.jsonl').read_bytes() == (tmp_path / 'parts/log.jsonl').read_bytes()
