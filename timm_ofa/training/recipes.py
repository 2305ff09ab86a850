"""Ways to train a supernet, one small object each: which subnets a step runs, and what each of them learns from.

All share the loop of `engine`. A subnet's loss is a mean over the batch, the step's gradient a sum over its subnets.

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
    teacher: torch.Tensor | None = None  # probabilities (B, K) of the teacher, without gradient; None: none
    kd_weight: float = 1.0  # of the teacher
    largest: torch.Tensor | None = None  # logits (B, K) of the step's first subnet, without gradient; None: this is it
    done: float = 0.0  # share of the phase, 0 to 1


def label_loss(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Cross entropy of logits (B, K) with smoothed labels."""
    return F.cross_entropy(logits, targets.labels, label_smoothing=targets.label_smoothing)


def same_resolution(archs: Sequence[Arch]) -> list[Arch]:
    """All at the resolution of the first: a step has one batch of images."""
    return [replace(arch, resolution=archs[0].resolution) for arch in archs]


class ProgressiveShrinking:
    """Uniform subnets of the phase's space; labels, and the soft targets of a fixed teacher at temperature 1.

    Source: arXiv:1908.09791, section 3.4, and the released training script.
    """
    asks_teacher = True

    def draw(self, space: SearchSpace, n: int, rng: np.random.Generator, done: float) -> list[Arch]:
        """The step's subnets, all at one resolution; `done` is the share of the phase, 0 to 1."""
        return same_resolution(space.sample(rng, n))

    def loss(self, logits: torch.Tensor, targets: Targets) -> torch.Tensor:
        """The loss of one subnet, logits (B, K)."""
        loss = label_loss(logits, targets)
        if targets.teacher is None or not targets.kd_weight:
            return loss
        return loss + targets.kd_weight * F.cross_entropy(logits, targets.teacher)


class PlainSampling(ProgressiveShrinking):
    """Uniform subnets, labels alone: what progressive shrinking is compared with in arXiv:1908.09791, figure 6."""
    asks_teacher = False

    def loss(self, logits: torch.Tensor, targets: Targets) -> torch.Tensor:
        return label_loss(logits, targets)


class Coupled(ProgressiveShrinking):
    """Deep stages are wide ones: depth and expansion rise together, the same in all blocks of a stage (CompOFA).

    Source: arXiv:2104.12642, section 3; kernel sizes stay elastic ('elastic kernel' there).
    """

    def draw(self, space: SearchSpace, n: int, rng: np.random.Generator, done: float) -> list[Arch]:
        return same_resolution([coupled(space, arch) for arch in space.sample(rng, n)])


def coupled(space: SearchSpace, arch: Arch) -> Arch:
    """The arch with the expand ratio of each stage that goes with its depth: shallowest and narrowest, and so on."""
    ratios = []
    for stage, depth in zip(space.stages, arch.depth):
        level = stage.depths.index(depth) / max(1, len(stage.depths) - 1)
        ratios.append((stage.expand_ratios[round(level * (len(stage.expand_ratios) - 1))],) * depth)
    return replace(arch, expand_ratio=tuple(ratios))


class Sandwich(ProgressiveShrinking):
    """The largest, the smallest and random subnets; all but the largest learn from its soft targets in the same step.

    Source: arXiv:1903.05134 (sandwich rule, in-place distillation), arXiv:2003.11142 (BigNAS).
    """
    asks_teacher = False

    def draw(self, space: SearchSpace, n: int, rng: np.random.Generator, done: float) -> list[Arch]:
        archs = same_resolution(space.sample(rng, max(1, n)))
        resolution = archs[0].resolution
        return [space.max_arch(resolution), *archs[2:n], space.min_arch(resolution)][:max(1, n)]

    def loss(self, logits: torch.Tensor, targets: Targets) -> torch.Tensor:
        return label_loss(logits, targets) if targets.largest is None else self.distill(logits, targets)

    def distill(self, logits: torch.Tensor, targets: Targets) -> torch.Tensor:
        """What the smaller subnets learn from the largest."""
        return F.cross_entropy(logits, targets.largest.softmax(1))


class AlphaDivergence(Sandwich):
    """The sandwich rule with a divergence that punishes both over- and underestimating the largest net's uncertainty.

    Per image the larger of two alpha-divergences, importance weights clipped. Source: arXiv:2102.07954, section 3.
    """
    alphas = (-1.0, 1.0)
    clip = 5.0  # of importance weights

    def distill(self, logits: torch.Tensor, targets: Targets) -> torch.Tensor:
        student, teacher = logits.log_softmax(1), targets.largest.log_softmax(1)
        losses = torch.stack([self._surrogate(student, teacher, alpha) for alpha in self.alphas])
        with torch.no_grad():
            larger = torch.stack([self._divergence(student, teacher, alpha) for alpha in self.alphas]).argmax(0)
        return losses.gather(0, larger[None]).mean()

    def _divergence(self, student: torch.Tensor, teacher: torch.Tensor, alpha: float) -> torch.Tensor:
        """Alpha-divergence (B,) of log-probabilities (B, K) from the teacher's."""
        log_ratio = teacher - student
        if alpha == 1.0:
            return (teacher.exp() * log_ratio).sum(1)
        ratio = (alpha * log_ratio).exp().clamp(max=self.clip)
        return (student.exp() * (ratio - 1)).sum(1) / (alpha * (alpha - 1))

    def _surrogate(self, student: torch.Tensor, teacher: torch.Tensor, alpha: float) -> torch.Tensor:
        """A loss (B,) with the divergence's gradient: weights without gradient times the student's log-probability."""
        if alpha == 1.0:
            return (teacher.exp() * (teacher - student)).sum(1)
        weight = (student.exp() * (alpha * (teacher - student)).exp().clamp(max=self.clip)).detach()
        return -(weight * student).sum(1) / alpha


class Delayed(Sandwich):
    """The largest net alone at first; from half of the phase on the sandwich rule, its smaller subnets ever heavier.

    Source: arXiv:2407.06167 (DepS): shrinking starts when the largest net is half trained, and the subnets' rate
    rises from a small one.
    """
    start, rise, least = 0.5, 0.25, 0.1  # shares of the phase; weight at the start

    def draw(self, space: SearchSpace, n: int, rng: np.random.Generator, done: float) -> list[Arch]:
        return super().draw(space, n if done >= self.start else 1, rng, done)

    def distill(self, logits: torch.Tensor, targets: Targets) -> torch.Tensor:
        weight = self.least + (1 - self.least) * min(1.0, (targets.done - self.start) / self.rise)
        return weight * super().distill(logits, targets)


RECIPES = {
    'progressive': ProgressiveShrinking(), 'plain': PlainSampling(), 'coupled': Coupled(), 'sandwich': Sandwich(),
    'alpha': AlphaDivergence(), 'delayed': Delayed()}
