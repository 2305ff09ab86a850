"""The moving average of the weights of a supernet in training."""
from __future__ import annotations

from timm.utils import ModelEmaV3

from ..networks import Supernet


class MovingAverage:
    """The exponential moving average of the weights, by timm's `ModelEmaV3`. In the first steps it follows faster."""

    def __init__(self, supernet: Supernet, decay: float):
        self._followed = supernet
        self._average = ModelEmaV3(
            supernet, decay, use_warmup=True, warmup_gamma=10, warmup_power=1, exclude_buffers=True)
        self.network: Supernet = self._average.module.requires_grad_(False)

    def follow(self, steps: int) -> None:
        """Move toward the weights, after so many steps of the run."""
        self._average.update(self._followed, steps)

    def start_anew(self) -> None:
        """Forget the past, because the weights have changed their places."""
        self._average.set(self._followed)
