"""Supernets of spaces that were read off timm networks: the network itself, with its blocks elastic in place."""
from __future__ import annotations

from dataclasses import replace

import torch
from timm.models import build_model_with_cfg
from timm.models.byobnet import ByobNet
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.resnet import ResNet
from torch import nn

from ..errors import InputError
from ..spaces import Arch, Block, SearchSpace
from .flexible import make_elastic
from .frames import frame_of
from .narrowing import stock
from .reading import read_blocks, read_frame
from .supernet import Supernet


class Backbone(Supernet):
    """The supernet of a space that was read off a timm network. A network becomes one in place, see `supernet_from`."""

    def elastic_stages(self) -> list[nn.Sequential]:
        return [self.get_submodule(stage.blocks[0].place.rpartition('.')[0])  # type: ignore[misc]
                for stage in self.space.stages]

    def make_elastic(self) -> None:
        for stage, options in zip(self.elastic_stages(), self.space.stages):
            for block, facts in zip(stage, options.blocks):
                make_elastic(block, facts)

    def forward_after(self, x: torch.Tensor) -> torch.Tensor:
        return x


class EfficientNetBackbone(Backbone, EfficientNet):
    def forward_before(self, x: torch.Tensor, arch: Arch) -> torch.Tensor:
        return self.bn1(self.conv_stem(x))

    def forward_after(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn2(self.conv_head(x))


class MobileNetV3Backbone(Backbone, MobileNetV3):
    def forward_before(self, x: torch.Tensor, arch: Arch) -> torch.Tensor:
        return self.bn1(self.conv_stem(x))


class ResNetBackbone(Backbone, ResNet):
    def forward_before(self, x: torch.Tensor, arch: Arch) -> torch.Tensor:
        return self.maxpool(self.act1(self.bn1(self.conv1(x))))


class ByobBackbone(Backbone, ByobNet):
    def forward_before(self, x: torch.Tensor, arch: Arch) -> torch.Tensor:
        return self.stem(x)

    def forward_after(self, x: torch.Tensor) -> torch.Tensor:
        return self.final_conv(x)


BACKBONES: dict[type[nn.Module], type[Backbone]] = {kind.__bases__[1]: kind for kind in Backbone.__subclasses__()}


def supernet_from(network: nn.Module, space: SearchSpace) -> Backbone:
    """Let a stock network become the supernet of the space that was read off it, in place. Its weights stay.

    Raises `InputError` if the space is not of this network.
    """
    assert space.network
    found, eps = read_frame(network)
    wrong = None if (found, eps) == (space.network, space.bn_eps) else 'stem or head'
    stages = frame_of(network).stages
    if len(stages) != len(space.stages) or any(len(own) < len(s.blocks) for own, s in zip(stages, space.stages)):
        wrong = wrong or 'the number of stages or blocks'
    for stage, options in zip(stages, space.stages):
        del stage[len(options.blocks):]
        for own, given in zip(read_blocks(network, stage), options.blocks):
            if own != replace(given, kernel_sizes=own.kernel_sizes, expand_ratios=(1,)) or not _cut_from(given, own):
                wrong = wrong or given.place
    if wrong:
        raise InputError(f'{wrong} of the space {space.name} is not that of {found.name} in this timm; read the space '
                         'off it again')
    network.__class__ = BACKBONES[type(network)]
    assert isinstance(network, Backbone)
    network.become_elastic(space)
    return network


def _cut_from(block: Block, own: Block) -> bool:
    """Whether the kernels of a block can be cut out of its own one."""
    smaller = range(1, own.kernel_sizes[0], 2) if any(not layer.kernel_size for layer in own.layers) else ()
    return all(k in (*own.kernel_sizes, *smaller) for k in block.kernel_sizes)


def create_backbone(name: str, space: SearchSpace, pretrained: bool = False, **kwargs) -> Backbone:
    """The supernet of a space that was read off a network, built through timm's builder under a registered name."""
    def build(**given) -> Backbone:
        assert space.network
        return supernet_from(stock(space.network.name, **given), space)

    return build_model_with_cfg(build, name, pretrained, feature_cfg=dict(feature_cls='getter'), **kwargs)
