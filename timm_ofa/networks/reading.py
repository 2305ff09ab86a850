"""A search space read off a timm network: `space_of`. That very network is the largest subnet of the space.

What cannot be described is refused in one line that names the layer. Nothing is fixed by the name of a network: its
layers are looked at.
"""
from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import timm
from timm.layers import BatchNormAct2d, Conv2dSame, DropPath, SelectAdaptivePool2d, SEModule
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models.byobnet import DownsampleAvg
from torch import nn

from ..errors import InputError, one_line
from ..fields import read_value
from ..spaces import Block, Layer, Network, SearchSpace, Stage, make_divisible, of_blocks
from .blank import without_weights
from .chain import Chain
from .flexible import KINDS, kernel_link, middle
from .frames import frame_of

RATIOS = (1, 2 / 3, 1 / 2, 1 / 3)
KERNEL_SIZES = (3, 5, 7)
ACTS = {'relu': 're', 'relu6': 'r6', 'hardswish': 'hs', 'silu': 'sw', 'swish': 'sw', 'sigmoid': 'sigmoid',
        'hardsigmoid': 'hard_sigmoid', 'identity': ''}  # name of a class -> ours
SILENT = (nn.Identity, nn.Dropout, nn.Flatten, DropPath, SelectAdaptivePool2d, nn.AdaptiveAvgPool2d)


def space_of(model: str | nn.Module, *, ratios: Sequence[float] = RATIOS, kernel_sizes: Sequence[int] = KERNEL_SIZES,
             least_depth: float = 0.5, resolutions: Sequence[int] | None = None) -> SearchSpace:
    """The search space of a timm network, which is its largest subnet.

    In each stage the last blocks may be left out, if they have a shortcut. Each block may have a smaller depthwise
    kernel and fewer middle channels. What is between the blocks stays as it is.

    Args:
        model: A network of timm's, or its name. What it has been trained for does not matter.
        ratios: Shares of each block's own middle channels, rounded as timm rounds; all of them is always a choice.
        kernel_sizes: Smaller depthwise kernels; a block's own is always a choice.
        least_depth: The share of the blocks of a stage that stay.
        resolutions: px; None: multiples of the network's strides, from half of its own resolution up to it.

    Raises:
        InputError: The network has a layer that a space cannot hold; the message names it. Or a rule is wrong.
    """
    ratios = read_value(tuple[float, ...], tuple(ratios), 'ratios', low=0.01, high=1)
    kernel_sizes = read_value(tuple[int, ...], tuple(kernel_sizes), 'kernel_sizes', low=1, high=31)
    read_value(float, least_depth, 'least_depth', low=0, high=1)
    network = stock_network(model)
    cfg, (frame, bn_eps) = vars(network)['pretrained_cfg'], read_frame(network)
    reduction = frame.stem_reduction
    width = [layer.width for layer in frame.stem if layer.width][-1]
    stages = [_stage([_with_choices(block, ratios, kernel_sizes) for block in read_blocks(network, stage)], least_depth)
              for stage in frame_of(network).stages]
    space = SearchSpace(
        name=frame.name, family='timm', stem_widths=((width,),), stem_stride=min(2, reduction),
        stem_pool=reduction == 4, first=None, stages=tuple(stages), last_width=0, num_features=0,
        act=frame.stem[0].act or 're', bn_eps=bn_eps, num_classes=cfg['num_classes'],
        resolutions=tuple(resolutions or ()), extra_resolutions=(), mean=tuple(cfg['mean']), std=tuple(cfg['std']),
        crop_pct=max(0.5, min(1.0, cfg['crop_pct'])), network=frame,
        source=f'read off {frame.name} of timm {timm.__version__}')
    if resolutions is None:
        own, step = cfg['input_size'][-1], space.reduction
        space = replace(space, resolutions=tuple(range(-(-own // 2 // step) * step, own + 1, step)) or (own,))
    return SearchSpace.from_dict(space.to_dict(), f'space of {frame.name}')


def stock_network(model: str | nn.Module) -> nn.Module:
    """The network of timm's that a name or a model stands for, without storage for weights."""
    name = model if isinstance(model, str) else vars(model).get('pretrained_cfg', {}).get('architecture', '')
    if not isinstance(name, str) or not timm.is_model(name.split('.')[0]) or name.startswith('ofa_'):
        what = repr(model)[:80] if isinstance(model, str) else f'a {type(model).__name__}'
        raise InputError(f'{what} is no network that timm knows; give a name of timm.list_models()')
    name = name.split('.')[0]
    given: dict[str, Any] = {} if isinstance(model, str) else {'num_classes': model.num_classes, 'in_chans': 3}
    try:
        with without_weights():
            network = timm.create_model(name, **given)
    except Exception as error:  # timm raises what it likes
        raise InputError(f'{name} cannot be built ({one_line(error):.200}); give another network') from None
    if not isinstance(model, str) and (place := _difference(model, network)):
        raise InputError(f'{place} of this network is not as in {name} of timm; give the network as timm builds it')
    return network


def _difference(model: nn.Module, network: nn.Module) -> str | None:
    """The first layer in which two networks differ."""
    def told(net: nn.Module) -> dict[str, str]:
        return {name: f'{type(layer).__name__} {layer.extra_repr()}' for name, layer in net.named_modules()
                if _is_layer(layer) and not isinstance(layer, (nn.Dropout, DropPath, nn.Identity))}

    own, theirs = told(model), told(network)
    return next((name for name in {**theirs, **own} if own.get(name) != theirs.get(name)), None)


def _is_layer(module: nn.Module) -> bool:
    """Whether a module computes something itself."""
    return next(module.children(), None) is None or next(module.parameters(recurse=False), None) is not None


def read_frame(network: nn.Module) -> tuple[Network, float]:
    """What a network has besides its stages, and the epsilon of its BatchNorm. All of its layers are looked at."""
    reader, frame = _Reader(network), frame_of(network)
    stem = reader.layers(frame.stem)
    last, features = (reader.layers(layers) for layers in (frame.last, frame.features))
    reader.seen.add(frame.classifier)
    for stage in frame.stages:
        for block in stage.children():
            if type(block) not in KINDS:
                raise InputError(f'{reader.where(block)} is a {type(block).__name__}, which no space holds yet; '
                                 'give another network')
            reader.block(block, KINDS[type(block)].chain(block))
    reader.refuse_unseen()
    eps = {norm.eps for norm in network.modules() if isinstance(norm, nn.BatchNorm2d)}
    if len(eps) != 1:
        raise InputError(f'the epsilons of BatchNorm are {sorted(eps)}; a space holds one')
    if not isinstance(frame.classifier, (nn.Linear, nn.Identity)):
        raise InputError(f'the classifier is a {type(frame.classifier).__name__}; give a network with a linear one')
    return Network(
        name=vars(network)['pretrained_cfg']['architecture'], stem=tuple(stem), last=last[0] if last else None,
        features=features[0] if features else None, classifier=reader.names[frame.classifier]), eps.pop()


def read_blocks(network: nn.Module, stage: nn.Module) -> list[Block]:
    """The blocks of a stage, with no choices but their own."""
    reader = _Reader(network)
    return [reader.block(block, KINDS[type(block)].chain(block)) for block in stage.children()]


def _stage(blocks: Sequence[Block], least_depth: float) -> Stage:
    needed = max([0, *(i for i, b in enumerate(blocks) if not b.skip)]) + 1
    least = max(needed, math.ceil(least_depth * len(blocks)))
    acts = [layer.act for layer in blocks[0].layers if layer.kind == 'conv' and layer.act]
    return of_blocks(Stage(
        block='timm', widths=(blocks[-1].width,), stride=blocks[0].stride, act=acts[0] if acts else blocks[0].last_act,
        se_ratio=0, depths=tuple(range(least, len(blocks) + 1)), kernel_sizes=(), expand_ratios=()), blocks)


def _with_choices(block: Block, ratios: Sequence[float], kernel_sizes: Sequence[int]) -> Block:
    own = block.kernel_sizes[-1]
    if any(layer.kernel_size == 0 for layer in block.layers):
        block = replace(block, kernel_sizes=tuple(sorted({own, *(k for k in kernel_sizes if k < own and k % 2)})))
    if block.mid_chs:
        found: dict[int, float] = {block.mid_chs: 1}
        for ratio in sorted((r for r in ratios if r < 1), reverse=True):
            chs = make_divisible(block.mid_chs * round(ratio, 4))
            if chs < block.mid_chs:
                found.setdefault(chs, round(ratio, 4))
        block = replace(block, expand_ratios=tuple(sorted(found.values())))
    return block


class _Reader:
    """Describes layers of a network, and remembers which ones it has seen."""

    def __init__(self, network: nn.Module) -> None:
        self.names = {module: name for name, module in network.named_modules()}
        self.seen: set[nn.Module] = set()

    def where(self, layer: nn.Module) -> str:
        return self.names[layer]

    def refuse_unseen(self) -> None:
        for layer, name in self.names.items():
            if _is_layer(layer) and layer not in self.seen and not isinstance(layer, SILENT):
                raise InputError(f'{name} is a {type(layer).__name__}, which no space holds yet; give another network')

    def layers(self, modules: Sequence[nn.Module]) -> list[Layer]:
        """Layers that follow each other: convolutions with BatchNorm and activation, pools, squeeze-and-excite."""
        found: list[Layer] = []
        for module in modules:
            self.seen.add(module)
            if isinstance(module, nn.Conv2d):
                found.append(self._conv(module))
            elif type(module) in (nn.BatchNorm2d, BatchNormAct2d):
                act = self._act(module.act) if isinstance(module, BatchNormAct2d) else ''
                found[-1] = replace(found[-1], norm=self.names[module], act=act)
            elif isinstance(module, nn.MaxPool2d) and (module.kernel_size, module.stride, module.padding) == (3, 2, 1):
                found.append(Layer(kind='max'))
            elif isinstance(module, nn.AvgPool2d) and module.ceil_mode and not module.count_include_pad:
                found.append(Layer(kind='average', stride=2))
            elif isinstance(module, (SqueezeExcite, SEModule)):
                found.append(self._squeeze(module))
            elif type(module).__name__.lower() in ACTS and found:
                found[-1] = replace(found[-1], act=self._act(module) or found[-1].act)
            elif not isinstance(module, SILENT):
                raise InputError(f'{self.where(module)} is a {type(module).__name__}, which no space holds yet; '
                                 'give another network')
        return found

    def _act(self, act: nn.Module) -> str:
        self.seen.add(act)
        name = ACTS.get(type(act).__name__.lower())
        if name is None:
            raise InputError(f'{self.where(act)} is a {type(act).__name__}, for which there is no ONNX form here; '
                             'give another network')
        return name

    def _conv(self, conv: nn.Conv2d) -> Layer:
        side, stride = conv.kernel_size[0], conv.stride[0]
        same, depthwise = isinstance(conv, Conv2dSame), conv.groups == conv.in_channels == conv.out_channels > 1
        plain = type(conv) in (nn.Conv2d, Conv2dSame) and conv.kernel_size == (side, side) and conv.dilation == (1, 1)
        if not plain or (conv.groups > 1 and not depthwise) or not (same or conv.padding == (side // 2, side // 2)):
            raise InputError(f'{self.where(conv)} is {type(conv).__name__}({conv.extra_repr()}), which no space holds '
                             'yet; give another network')
        return Layer(name=self.names[conv], width=conv.out_channels, kernel_size=side, stride=stride,
                     depthwise=depthwise, bias=conv.bias is not None, same=same)

    def _squeeze(self, se: SqueezeExcite | SEModule) -> Layer:
        if isinstance(se, SEModule) and (se.add_maxpool or not isinstance(se.bn, nn.Identity)):
            raise InputError(f'{self.where(se)} has more than two convolutions; give another network')
        layers: list[Any] = [se.fc1, se.act, se.fc2, se.gate] if isinstance(se, SEModule) else [
            se.conv_reduce, se.act1, se.conv_expand, se.gate]
        first, act, second, gate = layers
        self.seen |= {first, second}
        return Layer(kind='se', name=self.names[first], second=self.names[second], hidden=first.out_channels,
                     act=self._act(act), gate=self._act(gate))

    def block(self, block: nn.Module, chain: Chain) -> Block:
        """The facts of a block, with no choices but its own."""
        place = self.names[block]
        described = [self._local(self.layers([link.conv, link.norm, *link.then]), place) for link in chain.links]
        inside, smaller, sides = middle(chain), kernel_link(chain), [link.conv.kernel_size[0] for link in chain.links]
        layers, mid = [], 0
        for i, (conv, *more) in enumerate(described):
            if i in inside:
                mid = conv.width
                conv = replace(conv, width=0 if not conv.depthwise else conv.width)
            layers += [replace(conv, kernel_size=0) if i == smaller else conv, *more]
        shortcut = [] if chain.shortcut is None else self._local(self.layers(_shortcut(chain.shortcut)), place)
        widths = {link.conv.out_channels for i, link in enumerate(chain.links) if i in inside}
        if len(widths) > 1:
            raise InputError(f'{place} has middle channels {sorted(widths)}, which differ; give another network')
        return Block(
            kind=KINDS[type(block)].kind, place=place, width=chain.links[-1].conv.out_channels, mid_chs=mid,
            kernel_sizes=(max(sides) if smaller is None else sides[smaller],), expand_ratios=(1,), layers=tuple(layers),
            skip=isinstance(chain.shortcut, nn.Identity), shortcut=tuple(shortcut), last_act=self._act(chain.act)
            if chain.act in self.names else '')

    def _local(self, layers: Sequence[Layer], place: str) -> Iterator[Layer]:
        """The layers with their names within the block."""
        def name(text: str) -> str:
            return text.removeprefix(f'{place}.')

        return (replace(layer, name=name(layer.name), norm=name(layer.norm), second=name(layer.second))
                for layer in layers)


def _shortcut(shortcut: Any) -> list[nn.Module]:
    if isinstance(shortcut, DownsampleAvg):
        layer: Any = shortcut.conv
        return [shortcut.pool, layer.conv, layer.bn]
    if hasattr(shortcut, 'bn'):
        return [shortcut.conv, shortcut.bn]
    return list(shortcut.children()) if isinstance(shortcut, nn.Sequential) else []
