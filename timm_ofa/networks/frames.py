"""Where timm's classes have their stem, stages and head: what a space may be read off.

A further class of timm's is one `Frame` here and one supernet in `backbones`.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from timm.layers import ClassifierHead, ConvNormAct
from timm.models.byobnet import ByobNet
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.resnet import ResNet
from torch import nn

from ..errors import InputError


@dataclass(frozen=True)
class Frame:
    """The layers of a network outside of its blocks, in order, and its stages."""
    stem: Sequence[nn.Module]
    stages: Sequence[nn.Sequential]
    last: Sequence[nn.Module]  # convolution, BatchNorm and activation between the last stage and the pool, or nothing
    features: Sequence[nn.Module]  # the same between the pool and the classifier
    classifier: nn.Module


def frame_of(model: Any) -> Frame:
    """The frame of a timm network; raises `InputError` if its class is not known here."""
    kind = type(model)
    if kind is EfficientNet:
        return Frame([model.conv_stem, model.bn1], list(model.blocks), [model.conv_head, model.bn2], [],
                     model.classifier)
    if kind is MobileNetV3:
        return Frame([model.conv_stem, model.bn1], list(model.blocks), [],
                     [model.conv_head, model.norm_head, model.act2], model.classifier)
    if kind is ResNet:
        return Frame(_flat([model.conv1, model.bn1, model.act1, model.maxpool]),
                     [model.layer1, model.layer2, model.layer3, model.layer4], [], [], model.fc)
    if kind is ByobNet and isinstance(model.head, ClassifierHead):
        return Frame(_flat([model.stem]), list(model.stages), _flat([model.final_conv]), [], model.head.fc)
    head = f' with a {type(model.head).__name__}' if kind is ByobNet else ''
    raise InputError(f'a {kind.__name__}{head} is no class that a space is read off; give an EfficientNet, '
                     'MobileNetV3, ResNet or ByobNet of timm')


def _flat(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """The layers, with what containers hold in their place."""
    found: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.Sequential):
            found += _flat(list(layer))
        elif type(layer) is ConvNormAct:
            found += [layer.conv, layer.bn]
        elif not isinstance(layer, nn.Identity):
            found.append(layer)
    return found
