"""How much each channel counts on given images: the energy that it carries into the convolution that reads it."""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

from .chain import chain_of
from .elastic import Importance
from .least_squares import Spread

if TYPE_CHECKING:
    from .supernet import Supernet


@torch.no_grad()
def energy(supernet: Supernet, batches: Iterable[torch.Tensor]) -> Importance:
    """Variance of each channel in the largest subnet, times the squared norm of the weights that read it.

    It is what the layer's output loses if the channel becomes a constant and others do not make up for it.

    Args:
        supernet: In evaluation mode.
        batches: Normalized images (N, channels, H, W).
    """
    largest, spreads = supernet.space.max_arch(), defaultdict[nn.Module, Spread](Spread)
    blocks = [block for stage in supernet.elastic_stages() for block in stage]
    readers = {
        conv for block in blocks for conv in block.modules() if isinstance(conv, nn.Conv2d) and conv.groups == 1}
    hooks = [conv.register_forward_pre_hook(lambda conv, inputs: spreads[conv].add(inputs[0])) for conv in readers]
    for batch in batches:
        x = supernet.forward_before(batch, largest)
        for block in blocks:
            x = chain_of(block, block)(x)
    for hook in hooks:
        hook.remove()
    return lambda conv: spreads[conv].variance * conv.weight.double().square().sum((0, 2, 3))
