"""Accuracy as a sum of what each part of the frame and each block contributes: ridge regression on judged networks.

Legend: N networks, P positions, C codes of a position, F frames, D weights.
"""
from __future__ import annotations

import numpy as np

from ..spaces import CostTable, SearchSpace

UNKNOWN_PCT = -1000.0  # for a choice that no judged network has, so that no search takes it


def features(space: SearchSpace, codes: np.ndarray) -> np.ndarray:
    """The choices of networks (N, D): 1 for the choice of each part of the frame and of each active block, else 0."""
    sizes = np.array(space.frame_sizes)
    width = 1 + space.choice_counts.max()
    x = np.zeros((len(codes), sizes.sum() + width * len(space.positions)), dtype=np.float32)
    row = np.arange(len(codes))[:, None]
    x[row, space.frames[codes[:, 0]] + np.cumsum([0, *sizes[:-1]])] = 1
    x[row, sizes.sum() + width * np.arange(len(space.positions)) + codes[:, 1:]] = codes[:, 1:] > 0
    return x


def fit_additive(space: SearchSpace, codes: np.ndarray, top1: np.ndarray, ridge: float, unknown_pct: float = 0.0,
                 ) -> CostTable:
    """The sum that fits the accuracies `top1` (N,) of networks (N, 1 + P) best, as a table in percent.

    `ridge` is the weight of the penalty, in networks. A choice that none of the networks has gets `unknown_pct`; that a
    block is absent is a choice, too.
    """
    x = features(space, codes)
    middle, level = x.mean(0), top1.mean()
    centered = x - middle
    products = (centered.T @ centered).astype(float) + ridge * np.eye(x.shape[1])
    weights = np.linalg.solve(products, centered.T @ (top1 - level))
    weights[~x.any(0)] = unknown_pct
    parts = sum(space.frame_sizes)
    starts = np.cumsum([0, *space.frame_sizes[:-1]])
    const = level - middle @ weights + weights[space.frames + starts].sum(1)
    blocks = weights[parts:].reshape(1, len(space.positions), -1)
    blocks[..., 0] = 0  # no block
    must = np.array([index < space.stages[stage].depths[0] for stage, index in space.positions])
    always = (codes[:, 1:] > 0).all(0) & ~must  # that there is no block is unknown: a block takes that back
    blocks[:, always, 1:] -= unknown_pct
    const = const + unknown_pct * always.sum()
    return CostTable(const, np.broadcast_to(blocks, (len(const), *blocks.shape[1:])))
