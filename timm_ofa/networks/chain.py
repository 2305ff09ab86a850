"""A block as the chain of its convolutions: what closed-form repair and sorting by energy need to know of a block.

Each block class has one static method `chain(block)`. It describes an elastic block, and the stock block with the same
layers, so that both can be walked side by side.
"""
from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn


@dataclass(frozen=True)
class Link:
    """One convolution of a block, its BatchNorm, and the layers between that and the next convolution."""
    conv: nn.Conv2d
    norm: nn.BatchNorm2d  # timm's has its activation in it
    then: tuple[nn.Module, ...] = ()  # such as squeeze-and-excite

    def finish(self, z: torch.Tensor) -> torch.Tensor:
        """What the next convolution gets, from what this one gives: z (N, C, H, W)."""
        z = self.norm(z)
        for layer in self.then:
            z = layer(z)
        return z

    @property
    def depthwise(self) -> bool:
        return self.conv.groups == self.conv.in_channels == self.conv.out_channels

    @property
    def linear(self) -> bool:
        """Whether convolution and BatchNorm are all there is."""
        return not self.then and isinstance(getattr(self.norm, 'act', None), (nn.Identity, type(None)))

    def scale_and_shift(self) -> tuple[torch.Tensor, torch.Tensor]:
        """BatchNorm in evaluation mode, without its activation, as z · scale + shift; (C,) each, float64."""
        norm = self.norm
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        return scale, norm.bias.double() - norm.running_mean.double() * scale

    def become(self, weight: torch.Tensor, outputs: torch.Tensor, inputs: torch.Tensor, spread: torch.Tensor) -> None:
        """Let convolution and BatchNorm compute another linear map; float64.

        BatchNorm has the statistics that the convolution then gives, and takes the constant and the scale. So the
        weights keep their magnitude, and training may go on from here.

        Args:
            weight: (O, C·K·K), of the map from what the convolution reads to what BatchNorm gives.
            outputs: (O,) mean of what BatchNorm gives.
            inputs: (C·K·K,) mean of what the convolution reads.
            spread: (C·K·K, C·K·K) covariance of that.
        """
        norm, (scale, _) = self.norm, self.scale_and_shift()
        assert norm.running_mean is not None and norm.running_var is not None
        floor = 1e-3 * float(scale.abs().max()) or 1.0  # also where BatchNorm ignores a channel, or all
        scale = scale.abs().clamp(min=floor).copysign(scale)
        weight = weight / scale[:, None]
        variance = ((weight @ spread) * weight).sum(1).clamp(min=0)
        self.conv.weight.copy_(weight.view_as(self.conv.weight))
        norm.running_mean.copy_(weight @ inputs)
        norm.running_var.copy_(variance)
        norm.weight.copy_(scale * (variance + norm.eps).sqrt())
        norm.bias.copy_(outputs)


@dataclass(frozen=True)
class Chain:
    """act(links(x) + shortcut(x)). The last link has no activation of its own if there is a shortcut."""
    links: tuple[Link, ...]
    shortcut: nn.Module | None  # `nn.Identity` for the input itself, None where nothing is added
    act: nn.Module = field(default_factory=nn.Identity)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output for x (N, C, H, W)."""
        return self.end(self.before_act(x))

    def before_act(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output before `act`, for x (N, C, H, W)."""
        z = x
        for link in self.links:
            z = link.finish(link.conv(z))
        return self.add(z, x)

    def add(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The same, from what the last link gives and the block's input x (N, C, H, W)."""
        return z if self.shortcut is None else z + self.shortcut(x)

    def end(self, z: torch.Tensor) -> torch.Tensor:
        """`act`, which may work in place, of a copy."""
        return z if isinstance(self.act, nn.Identity) else self.act(z.clone())


def chain_of(block: nn.Module, layers: nn.Module) -> Chain:
    """The chain of `layers`: an elastic block itself, or the stock block that stands for it in a subnet."""
    return type(block).chain(layers)  # type: ignore[attr-defined] # each class of elastic blocks has it
