"""Recipes: which subnets one training step runs, and what each of them learns from.

A recipe is one class. Its `name` registers it in RECIPES, and each phase of a configuration chooses one by that name.
All recipes share the loop of `loop`. The loss of a subnet is the mean over the batch; the gradients of the subnets of a
step are summed.

Legend: B images, K classes.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from ..spaces import Arch, SearchSpace


@dataclass(frozen=True)
class Targets:
    """What the subnets of one step may learn from."""
    labels: torch.Tensor  # (B,)
    label_smoothing: float
    teacher: torch.Tensor | None = None  # probabilities (B, K) of the recipe's teacher, no gradient; None: no teacher
    kd_weight: float = 1.0  # of the teacher
    largest: torch.Tensor | None = None  # logits (B, K) of the step's first subnet, no gradient; None: this is it
    done: float = 0.0  # share of the phase, 0 to 1


RECIPES: dict[str, Recipe] = {}


class Recipe:
    """The default recipe: uniform subnets of the phase's space, which learn from labels alone."""
    ignores: tuple[str, ...] = ('kd_weight',)  # keys of a phase that do nothing with it; kd_weight: it has no teacher
    least_subnets = 1  # of a step
    divides = False  # each subnet of a step learns from an equal share of the batch, not from the whole one

    def __init_subclass__(cls, name: str):
        if name in RECIPES:
            raise ValueError(f'recipe {name!r} is there already; choose another name')
        RECIPES[name] = cls()

    def draw(self, space: SearchSpace, n: int, rng: np.random.Generator, done: float,
             whole: SearchSpace | None = None) -> list[Arch]:
        """The subnets of a step, all at one resolution.

        Args:
            space: The choices of the phase; `whole`: those of the supernet, if they are more.
            done: Share of the phase, 0 to 1.
        """
        return same_resolution(space.sample(rng, n))

    def loss(self, logits: torch.Tensor, targets: Targets) -> torch.Tensor:
        """The loss of one subnet: cross entropy of its logits (B, K) with smoothed labels."""
        return F.cross_entropy(logits, targets.labels, label_smoothing=targets.label_smoothing)


def same_resolution(archs: Sequence[Arch]) -> list[Arch]:
    """The archs at the resolution of the first one, because a step has one batch of images."""
    return [replace(arch, resolution=archs[0].resolution) for arch in archs]


class ProgressiveShrinking(Recipe, name='progressive'):
    """Uniform subnets learn from labels and from the soft targets of a fixed teacher at temperature 1.

    Source: arXiv:1908.09791, section 3.4, and the released training script.
    """
    ignores: tuple[str, ...] = ()

    def loss(self, logits: torch.Tensor, targets: Targets) -> torch.Tensor:
        loss = super().loss(logits, targets)
        if targets.teacher is None or not targets.kd_weight:
            return loss
        return loss + targets.kd_weight * F.cross_entropy(logits, targets.teacher)


class PlainSampling(Recipe, name='plain'):
    """Uniform subnets, labels alone: the baseline of arXiv:1908.09791, figure 6."""


class LargestAlone(Recipe, name='largest'):
    """The largest subnet alone, labels alone: an ordinary training, at all resolutions of the space."""
    ignores = ('kd_weight', 'subnets_per_step')

    def draw(self, space: SearchSpace, n: int, rng: np.random.Generator, done: float,
             whole: SearchSpace | None = None) -> list[Arch]:
        return [space.max_arch(int(rng.choice(space.resolutions)))]


class Coupled(ProgressiveShrinking, name='coupled'):
    """In each stage, depth and expand ratio grow together; all blocks of a stage have the same ratio (CompOFA).

    Source: arXiv:2104.12642, section 3. Kernel sizes stay elastic ('elastic kernel' in that paper). A stage of one
    depth keeps its ratio elastic, so that the largest and the smallest subnet are trained.
    """
    ignores = ('expand_ratios',)

    def draw(self, space: SearchSpace, n: int, rng: np.random.Generator, done: float,
             whole: SearchSpace | None = None) -> list[Arch]:
        return same_resolution([coupled(whole or space, arch) for arch in space.sample(rng, n)])


def coupled(space: SearchSpace, arch: Arch) -> Arch:
    """The arch with the expand ratio that belongs to each stage's depth: the smallest to the smallest, and so on.

    In a stage that has one depth in the space, all blocks get the ratio of the first one.
    """
    ratios = []
    for stage, depth, own in zip(space.stages, arch.depth, arch.expand_ratio):
        level, levels = stage.depths.index(depth), len(stage.depths) - 1
        choices = [stage.at(j).expand_ratios for j in range(depth)]
        ratios.append(tuple(
            values[round(level / levels * (len(values) - 1))] if levels else min(values, key=lambda v: abs(v - own[0]))
            for values in choices))
    return replace(arch, expand_ratio=tuple(ratios))


class Sandwich(Recipe, name='sandwich'):
    """The largest subnet learns from labels; the smallest and random ones learn from its soft targets in that step.

    Source: arXiv:1903.05134 (sandwich rule, in-place distillation), arXiv:2003.11142 (BigNAS).
    """
    least_subnets = 3  # the largest, the smallest and a random one

    def draw(self, space: SearchSpace, n: int, rng: np.random.Generator, done: float,
             whole: SearchSpace | None = None) -> list[Arch]:
        archs = same_resolution(space.sample(rng, max(1, n)))
        resolution = archs[0].resolution
        return [space.max_arch(resolution), *archs[2:n], space.min_arch(resolution)][:max(1, n)]

    def loss(self, logits: torch.Tensor, targets: Targets) -> torch.Tensor:
        if targets.largest is None:
            return super().loss(logits, targets)
        return self.distill(logits, targets, targets.largest)

    def distill(self, logits: torch.Tensor, targets: Targets, largest: torch.Tensor) -> torch.Tensor:
        """The loss of a smaller subnet, from its logits and those of the largest one, both (B, K)."""
        return F.cross_entropy(logits, largest.softmax(1))


class Divided(Sandwich, name='divided'):
    """The largest, the smallest and random subnets divide the batch; each learns from its own images, labels alone.

    With four subnets a step costs a quarter of what a sandwich of the same batch costs, so the batch may be four times
    as large. What all subnets share then learns from four times as many images.
    """
    divides = True

    def loss(self, logits: torch.Tensor, targets: Targets) -> torch.Tensor:
        return Recipe.loss(self, logits, targets)


class Delayed(Sandwich, name='delayed'):
    """First the largest subnet alone; from half of the phase on a sandwich, whose smaller subnets weigh ever more.

    Source: arXiv:2407.06167 (DepS): shrinking starts when the largest subnet is half trained, and the rate of the
    smaller ones rises from a low one.
    """
    start, rise, least = 0.5, 0.25, 0.1  # start and length of the rise, shares of the phase; weight at its start

    def draw(self, space: SearchSpace, n: int, rng: np.random.Generator, done: float,
             whole: SearchSpace | None = None) -> list[Arch]:
        return super().draw(space, n if done >= self.start else 1, rng, done)

    def distill(self, logits: torch.Tensor, targets: Targets, largest: torch.Tensor) -> torch.Tensor:
        weight = self.least + (1 - self.least) * min(1.0, (targets.done - self.start) / self.rise)
        return weight * super().distill(logits, targets, largest)
