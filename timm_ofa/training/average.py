"""The moving average of the weights of a supernet in training."""
from __future__ import annotations

from timm.utils import ModelEmaV3
from torch.nn.modules.batchnorm import _BatchNorm

from ..networks import Supernet


class MovingAverage:
    """The exponential moving average of the weights, by timm's `ModelEmaV3`. In the first steps it follows faster."""

    def __init__(self, supernet: Supernet, decay: float):
        self._average = ModelEmaV3(
            supernet, decay, use_warmup=True, warmup_gamma=10, warmup_power=1, exclude_buffers=True)
        self.network: Supernet = self._average.module.requires_grad_(False)  # it teaches with statistics of the batch
        for module in self.network.modules():
            module.training = isinstance(module, _BatchNorm)

    def follow(self, supernet: Supernet, steps: int) -> None:
        """Move towards the weights, after so many steps of the run."""
        self._average.update(supernet, steps)

    def start_from(self, supernet: Supernet) -> None:
        """Forget the past, because the weights have changed their places."""
        self._average.set(supernet)
