"""Recipes: which subnets a step runs, and what each of them learns from."""
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from timm_ofa import load_space
from timm_ofa.spaces import space_names
from timm_ofa.training.recipes import RECIPES, Recipe, Targets, coupled

SPACES = ['ofa_mbv3_tiny', 'ofa_resnet_tiny', 'ofa_proxyless_w13']


def test_a_second_recipe_of_one_name_is_refused():
    plain = RECIPES['plain']
    with pytest.raises(ValueError, match="'plain' is there already"):
        type('Again', (Recipe,), {}, name='plain')
    assert RECIPES['plain'] is plain


def test_the_benchmark_offers_the_recipes_whose_phases_it_knows(monkeypatch, capsys):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / 'bench')
    monkeypatch.setitem(RECIPES, 'another', Recipe())
    import bench_recipes

    monkeypatch.setattr(sys, 'argv', ['bench_recipes.py', '--data', 'digits', '--recipes', 'another'])
    with pytest.raises(SystemExit):
        bench_recipes.main()
    assert "invalid choice: 'another' (choose from" in capsys.readouterr().err


@pytest.fixture
def batch():
    """(logits (4, 10) with gradient, labels, the teacher's and the largest net's logits)."""
    generator = torch.Generator().manual_seed(0)
    logits, teacher, largest = (2 * torch.randn(4, 10, generator=generator) for _ in range(3))
    return logits.requires_grad_(), torch.tensor([1, 2, 3, 4]), teacher, largest


@pytest.mark.parametrize('recipe', RECIPES)
@pytest.mark.parametrize('name', SPACES)
def test_a_step_draws_archs_of_the_space_at_one_resolution(recipe, name, rng):
    space, drawn = load_space(name), RECIPES[recipe]
    for done in (0.0, 0.4, 0.6, 1.0):
        archs = drawn.draw(space, 4, rng, done)
        assert len(archs) == (1 if recipe == 'largest' or (recipe == 'delayed' and done < 0.5) else 4)
        assert recipe != 'largest' or archs == [space.max_arch(archs[0].resolution)]
        assert len({arch.resolution for arch in archs}) == 1 and all(space.check(arch) for arch in archs)
    same = [drawn.draw(space, 3, np.random.default_rng(5), 0.9) for _ in range(2)]
    assert same[0] == same[1] != drawn.draw(space, 3, np.random.default_rng(6), 0.9)


@pytest.mark.parametrize('recipe', ['sandwich', 'divided', 'delayed'])
def test_a_sandwich_has_the_largest_first_and_the_smallest_last(recipe, rng):
    space = load_space('ofa_mbv3_tiny')
    for n in (3, 4):
        archs = RECIPES[recipe].draw(space, n, rng, 1.0)
        resolution = archs[0].resolution
        assert len(archs) == n and archs[0] == space.max_arch(resolution)
        assert archs[-1] == space.min_arch(resolution)


def test_random_subnets_are_drawn_at_every_resolution(rng):
    space = load_space('ofa_mbv3_tiny')
    assert {RECIPES['sandwich'].draw(space, 3, rng, 0)[0].resolution for _ in range(60)} == set(space.resolutions)


def test_coupled_subnets_are_as_wide_as_they_are_deep(rng):
    """CompOFA's space: three levels a stage of OFA-MobileNetV3, 3^5 networks for a kernel size and resolution."""
    space = load_space('ofa_mbv3_w12').restrict(kernel_sizes=[3], resolutions=[224])
    archs = {coupled(space, arch) for arch in space.sample(rng, 4000)}
    assert len(archs) == 3**5
    pairs = {(d, e) for arch in archs for d, ratios in zip(arch.depth, arch.expand_ratio) for e in ratios}
    assert pairs == {(2, 3), (3, 4), (4, 6)}
    assert {space.max_arch(), space.min_arch()} <= archs


@pytest.mark.parametrize('name', space_names())
def test_coupled_subnets_include_the_largest_and_the_smallest_of_every_space(name):
    space = load_space(name)
    for arch in (space.max_arch(), space.min_arch()):
        assert coupled(space, arch) == arch


def test_a_phase_of_some_depths_couples_over_the_whole_space(rng):
    whole = load_space('ofa_mbv3_w12')
    archs = RECIPES['coupled'].draw(whole.restrict(depths=[3, 4]), 200, rng, 0.0, whole)
    pairs = {(d, e) for arch in archs for d, ratios in zip(arch.depth, arch.expand_ratio) for e in ratios}
    assert pairs == {(3, 4), (4, 6)}


def test_the_loss_of_progressive_shrinking_is_the_published_one(batch):
    logits, labels, teacher, _ = batch
    smooth = torch.full((4, 10), 0.1 / 10).scatter_(1, labels[:, None], 0.9 + 0.1 / 10)
    hard = -(smooth * logits.log_softmax(1)).sum(1).mean()
    soft = -(teacher.softmax(1) * logits.log_softmax(1)).sum(1).mean()
    for recipe in ('progressive', 'coupled'):
        loss = RECIPES[recipe].loss
        torch.testing.assert_close(loss(logits, Targets(labels, 0.1, teacher.softmax(1), 0.5)), hard + 0.5 * soft)
        torch.testing.assert_close(loss(logits, Targets(labels, 0.1, teacher.softmax(1), 0.0)), hard)
        torch.testing.assert_close(loss(logits, Targets(labels, 0.1)), hard)
    torch.testing.assert_close(RECIPES['plain'].loss(logits, Targets(labels, 0.1, teacher.softmax(1))), hard)


@pytest.mark.parametrize('recipe', ['sandwich', 'delayed'])
def test_the_largest_net_of_a_sandwich_learns_from_labels_and_the_others_from_it(batch, recipe):
    logits, labels, teacher, largest = batch
    loss = RECIPES[recipe].loss
    torch.testing.assert_close(
        loss(logits, Targets(labels, 0.1, teacher.softmax(1))), F.cross_entropy(logits, labels, label_smoothing=0.1))
    targets = Targets(labels, 0.1, largest=largest, done=1.0)
    gradient, = torch.autograd.grad(loss(logits, targets), logits)
    other = Targets(labels.flip(0), 0.5, teacher.softmax(1), largest=largest, done=1.0)
    torch.testing.assert_close(torch.autograd.grad(loss(logits, other), logits)[0], gradient)
    at_the_goal, = torch.autograd.grad(loss((perfect := largest.clone().requires_grad_()), targets), perfect)
    assert at_the_goal.abs().max() < 1e-6 < gradient.abs().max()


def test_subnets_that_divide_the_batch_learn_from_labels_alone(batch):
    logits, labels, teacher, largest = batch
    loss = RECIPES['divided'].loss(logits, Targets(labels, 0.1, teacher.softmax(1), largest=largest))
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels, label_smoothing=0.1))


def test_the_gradient_of_a_sandwich_is_that_of_soft_labels(batch):
    logits, labels, _, largest = batch
    gradient, = torch.autograd.grad(RECIPES['sandwich'].loss(logits, Targets(labels, 0.1, largest=largest)), logits)
    torch.testing.assert_close(gradient, (logits.softmax(1) - largest.softmax(1)).detach() / 4)


def test_delayed_subnets_come_as_soon_as_half_of_the_phase_is_done(rng):
    space = load_space('ofa_mbv3_tiny')
    assert [len(RECIPES['delayed'].draw(space, 3, rng, done)) for done in (0.0, 0.4999, 0.5, 1.0)] == [1, 1, 3, 3]


def test_delayed_subnets_become_heavier(batch):
    logits, labels, _, largest = batch
    weights = [
        (RECIPES['delayed'].loss(logits, Targets(labels, 0.1, largest=largest, done=done))
         / RECIPES['sandwich'].loss(logits, Targets(labels, 0.1, largest=largest))).item()
        for done in (0.5, 0.625, 0.75, 1.0)]
    assert weights == pytest.approx([0.1, 0.55, 1.0, 1.0])
