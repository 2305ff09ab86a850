"""The supernet: the largest stock timm network of a search space, with elastic blocks under the same tensor names.

A subnet is an argument: `supernet(x, arch)`. `extract(arch)` gives the same network as a stock timm model.
Source: arXiv:1908.09791, section 3.3.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import timm
import torch
from timm.layers import ConvNormAct, SelectAdaptivePool2d, set_scriptable
from timm.models import build_model_with_cfg
from timm.models._efficientnet_blocks import InvertedResidual
from timm.models.byobnet import BottleneckBlock
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from torch import fx, nn
from torch.utils.checkpoint import checkpoint

from ..errors import InputError
from ..spaces import Arch, SearchSpace, load_space, space_names
from .blank import without_weights
from .depthwise import ElasticKernel
from .elastic import ElasticBottleneck, ElasticInvertedResidual, Importance, l1_norm
from .energy import energy
from .layers import first_channels_conv_norm_act
from .ofa import ENTRY_POINTS
from .stock import (
    OFAResNet,
    all_levels,
    byobnet_kwargs,
    data_cfg,
    efficientnet_kwargs,
    mobilenetv3_kwargs,
    model_args,
    set_stem_stride,
)
from .streams import checked_batches, in_mode
from .weights import OTHER_ARGS


@fx.wrap
def largest_only(x: torch.Tensor, arch: Arch | None) -> torch.Tensor:
    """A trace by `torch.fx` is that of the largest network. It refuses the argument `arch`."""
    if arch is not None:
        raise InputError(f'arch {arch!s:.120} is given to a trace of the largest network; trace supernet.extract(arch)')
    return x


class Supernet(nn.Module):
    """A timm network at the largest arch of `space`; `forward(x, arch)` runs any subnet of it.

    It is mixed into timm's class. The subclass of a family says which stages are elastic, what is before them and what
    is after them.
    """
    if TYPE_CHECKING:  # of timm's class
        num_classes: int
        in_chans: int
        drop_rate: float
        grad_checkpointing: bool
        forward_head: Callable[..., torch.Tensor]

    def __init__(self, space: SearchSpace, **kwargs):
        super().__init__(**kwargs)
        self.become_elastic(space)

    def become_elastic(self, space: SearchSpace) -> None:
        """Become the supernet of a space, from a stock network of it."""
        self.space = space
        self.make_elastic()
        for module in self.modules():
            if isinstance(module, nn.Hardswish):
                module.inplace = False  # in place, it would first copy its input, which the backward pass needs

    def make_elastic(self) -> None:
        """Replace the stock blocks by elastic ones."""
        raise NotImplementedError

    def elastic_stages(self) -> list[nn.Sequential]:
        """The stages of elastic blocks."""
        raise NotImplementedError

    def choices(self, arch: Arch) -> list[list[tuple]]:
        """The arguments of each active block, without its input; one list a stage."""
        return [list(zip(kernels, ratios)) for kernels, ratios in zip(arch.kernel_size, arch.expand_ratio)]

    def forward_before(self, x: torch.Tensor, arch: Arch) -> torch.Tensor:
        """The layers before the elastic stages, for x (N, channels, H, W)."""
        raise NotImplementedError

    def forward_after(self, x: torch.Tensor) -> torch.Tensor:
        """The layers between the elastic stages and the head, for x (N, C, H, W)."""
        raise NotImplementedError

    def forward_features(self, x: torch.Tensor, arch: Arch | None = None) -> torch.Tensor:
        """x (N, channels, H, W) -> features (N, last width, h, w) before the pool."""
        if arch is None:
            return super().forward_features(x)  # type: ignore[misc] # of timm's class
        self.space.check(arch)
        x = self.forward_before(x, arch)
        for stage, choices in zip(self.elastic_stages(), self.choices(arch)):
            for block, choice in zip(stage, choices):
                if self.grad_checkpointing and self.training:
                    x = checkpoint(block, x, *choice, use_reentrant=False)
                else:
                    x = block(x, *choice)
        return self.forward_after(x)

    def forward(self, x: torch.Tensor, arch: Arch | None = None) -> torch.Tensor:
        """Logits (N, classes) of the given subnet, or of the largest.

        x (N, channels, H, W) may have any side, and is not resized: the caller uses `arch.resolution`.
        """
        if isinstance(arch, fx.Proxy):
            x, arch = largest_only(x, arch), None
        x = self.forward_features(x, arch)
        return self.forward_head(x) if arch is None else self.forward_classifier(x)

    def forward_classifier(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) from features (N, C, H, W) of any active width."""
        return self.forward_head(x)

    def own_names(self, names: Sequence[str], arch: Arch) -> Iterator[tuple[str, str]]:
        """(name in the subnet, name in the supernet) for each of these names of a subnet's tensors."""
        return ((name, name) for name in names)

    def extract(self, arch: Arch) -> nn.Module:
        """A stock timm model with its own copy of this subnet's weights. It computes what `supernet(x, arch)` does.

        Each tensor is the leading slice of the supernet's tensor, except depthwise kernels, which go through their
        matrices. BatchNorm statistics are copied as they are: recalibrate them before use (`timm_ofa.recalibrate_bn`).
        """
        given = {key: value for key, value in vars(self).get('_model_args', {}).items() if key in OTHER_ARGS}  # by timm
        pool = next(layer for layer in self.modules() if isinstance(layer, SelectAdaptivePool2d))
        with without_weights():
            subnet = timm.create_model(ENTRY_POINTS[self.space.family], **{
                **model_args(self.space, arch), **given, 'num_classes': self.num_classes, 'in_chans': self.in_chans,
                'drop_rate': self.drop_rate, 'global_pool': pool.pool_type,
                'pretrained_cfg_overlay': data_cfg(self.space, arch.resolution)})
        with torch.no_grad():
            own, shapes, kernels = self.state_dict(), subnet.state_dict(), self.kernels(arch)
            state = {
                name: kernels.get(name, own[own_name][tuple(map(slice, shapes[name].shape))])
                for name, own_name in self.own_names(list(shapes), arch)}
            plain = torch.contiguous_format  # also where the supernet is in channels-last order
            state = {name: tensor.detach().clone(memory_format=plain) for name, tensor in state.items()}
        subnet.load_state_dict(state, assign=True)
        return subnet.train(self.training)

    def kernels(self, arch: Arch) -> dict[str, torch.Tensor]:
        """The tensors of a subnet that are not leading slices, by name."""
        found, names = {}, {module: name for name, module in self.named_modules()}
        for stage, choices in zip(self.elastic_stages(), self.choices(arch)):
            for block, choice in zip(stage, choices):
                if isinstance(block, ElasticKernel):
                    found.update({f'{names[block]}.{name}': own for name, own in block.kernels(*choice).items()})
        return found

    def __prepare_scriptable__(self) -> nn.Module:
        """What `torch.jit.script` compiles: the largest network, as a stock model with a copy of the weights."""
        with set_scriptable(True):
            largest = self.extract(self.space.max_arch())
        return largest

    @torch.no_grad()
    def sort_channels(
            self, images: torch.Tensor | Iterable | None = None, *, keep: Sequence[SearchSpace] = ()) -> None:
        """Order each block's middle channels by importance, the most important first.

        The largest subnet computes the same as before, and so do those of the spaces in `keep`.

        Args:
            images: Some hundred training images, normalized: one tensor (N, channels, H, W), batches of them, or
                (images, labels) pairs. With them a channel counts as much as the energy that it carries to its reader:
                its variance times the squared norm of the weights that read it. Without, by the L1 norm of these.
            keep: Spaces whose subnets are trained already.
        """
        importance: Importance = l1_norm
        if images is not None:
            batches = checked_batches(images, self)
            with in_mode(self):
                importance = energy(self, batches)
        for i, stage in enumerate(self.elastic_stages()):
            for j, block in enumerate(stage):
                block.sort_channels(  # type: ignore[operator] # each class of elastic blocks has it
                    [space.stages[i].at(j) for space in keep if j < space.stages[i].depths[-1]], importance)


class _MobileSupernet(Supernet):
    """What MobileNetV3 and EfficientNet share: a fixed first block, then inverted residuals."""
    first_stage = 1  # index in `blocks` of the first elastic stage
    if TYPE_CHECKING:
        conv_stem: nn.Conv2d
        bn1: nn.Module
        blocks: nn.Sequential
        feature_info: list[dict]

    def make_elastic(self) -> None:
        set_stem_stride(self, self.space.stem_stride)
        for stage, options in zip(self.elastic_stages(), self.space.stages):
            for i, block in enumerate(stage):
                assert isinstance(block, InvertedResidual)
                stage[i] = ElasticInvertedResidual(block, options.kernel_sizes, options.se_ratio)

    def elastic_stages(self) -> list[nn.Sequential]:
        return list(self.blocks)[self.first_stage:][:len(self.space.stages)]  # type: ignore[return-value]

    def forward_before(self, x: torch.Tensor, arch: Arch) -> torch.Tensor:
        return self.blocks[0](self.bn1(self.conv_stem(x)))


class MobileNetV3Supernet(_MobileSupernet, MobileNetV3):
    """timm's `MobileNetV3`, elastic. Its last convolution is the last of `blocks`."""

    def forward_after(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks[-1](x)


class EfficientNetSupernet(_MobileSupernet, EfficientNet):
    """timm's `EfficientNet`, elastic, for ProxylessNAS."""

    def forward_after(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn2(self.conv_head(x))


class ByobSupernet(Supernet, OFAResNet):
    """timm's `ByobNet`, elastic, for ResNet50D with elastic depth, expand ratio, widths and stem."""

    def make_elastic(self) -> None:
        for stage in self.stages:
            for i, block in enumerate(stage):
                assert isinstance(block, BottleneckBlock)
                stage[i] = ElasticBottleneck(block)

    def elastic_stages(self) -> list[nn.Sequential]:
        return list(self.stages)

    def choices(self, arch: Arch) -> list[list[tuple]]:
        return [[(ratio, width) for ratio in ratios] for ratios, width in zip(arch.expand_ratio, arch.width)]

    def stem_convs(self, arch: Arch) -> list[str]:
        """Names of the active convolutions of the stem. Without the residual one they are the first and the last."""
        names = [name for name, layer in self.stem.named_children() if isinstance(layer, ConvNormAct)]
        return names if len(arch.stem_width) == len(names) else [names[0], names[-1]]

    def forward_before(self, x: torch.Tensor, arch: Arch) -> torch.Tensor:
        names = self.stem_convs(arch)
        for name, width in zip(names, arch.stem_width):
            y = first_channels_conv_norm_act(getattr(self.stem, name), x, width)
            x = y + x if len(names) == 3 and name == names[1] else y
        return self.stem.pool(x) if self.space.stem_pool else x

    def forward_after(self, x: torch.Tensor) -> torch.Tensor:
        return self.final_conv(x)

    def forward_classifier(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head.drop(self.head.global_pool(x))
        if isinstance(self.head.fc, nn.Linear):
            x = nn.functional.linear(x, self.head.fc.weight[:, :x.shape[1]], self.head.fc.bias)
        return self.head.flatten(x)

    def own_names(self, names: Sequence[str], arch: Arch) -> Iterator[tuple[str, str]]:
        stem = {f'stem.conv{i}': f'stem.{name}' for i, name in enumerate(self.stem_convs(arch), 1)}
        for name in names:
            layer = '.'.join(name.split('.')[:2])
            yield name, name.replace(layer, stem.get(layer, layer), 1)


NETWORKS: dict[str, tuple[type[Supernet], Callable[..., dict[str, Any]]]] = {  # family -> class, its arguments
    'mobilenetv3': (MobileNetV3Supernet, mobilenetv3_kwargs),
    'efficientnet': (EfficientNetSupernet, efficientnet_kwargs),
    'byobnet': (ByobSupernet, byobnet_kwargs),
}


def create_supernet(name: str, space: SearchSpace, pretrained: bool = False, **kwargs) -> Supernet:
    """Build the supernet of a space through timm's builder, under a name that is registered with timm."""
    if kwargs.get('output_stride') not in (None, 32):
        raise InputError(f'output_stride {kwargs["output_stride"]!r:.40} is not for the supernet {name}; make a folder '
                         'of a subnet (timm-ofa specialize), and build that with output_stride')
    kwargs.pop('output_stride', None)
    if space.network:
        from .backbones import create_backbone  # it makes supernets of this module

        return create_backbone(name, space, pretrained, **kwargs)
    network, network_kwargs = NETWORKS[space.family]
    args = model_args(space, space.max_arch())
    stem_stride = args.pop('stem_stride')
    if kwargs.get('features_only'):
        kwargs.setdefault('out_indices', all_levels(args['arch_def']))
    if space.family == 'byobnet':
        kwargs['stem_stride'] = stem_stride
    return build_model_with_cfg(
        network, name, pretrained, space=space, feature_cfg=dict(feature_cls='getter'),
        **network_kwargs(**args, kwargs=kwargs))


def new_supernet(space: SearchSpace, **kwargs) -> Supernet:
    """A supernet of a space with random weights. Its saved folder can be loaded, also if the space is on no shelf."""
    on_shelf = space.name in space_names() and load_space(space.name) == replace(
        space, resolutions=load_space(space.name).resolutions)
    if on_shelf:
        model = timm.create_model(f'{space.name}_supernet', resolutions=list(space.resolutions), **kwargs)
    else:
        model = timm.create_model('ofa_supernet', space=space.to_dict(), **kwargs)
    assert isinstance(model, Supernet)
    return model
