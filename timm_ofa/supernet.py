"""The supernet: the largest stock timm network of a search space, its blocks made elastic, tensor names unchanged.

Every subnet is an argument: `supernet(x, arch)`. `extract(arch)` gives the same network as a stock timm model.
Source: arXiv:1908.09791, section 3.3.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import timm
import torch
from safetensors import SafetensorError
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._efficientnet_blocks import InvertedResidual
from timm.models.mobilenetv3 import MobileNetV3
from torch import nn
from torch.utils.checkpoint import checkpoint

from .elastic import ElasticInvertedResidual
from .errors import InputError
from .models import PAPER, data_cfg, model_args, network_kwargs, set_stem_stride
from .space import Arch, SearchSpace, load_space, space_names

__all__: list[str] = []  # the model registry adds each entry-point


class MobileNetV3Supernet(MobileNetV3):
    """timm's `MobileNetV3` at the largest arch of `space`; `forward(x, arch)` runs any subnet of it."""

    def __init__(self, space: SearchSpace, **kwargs):
        super().__init__(**kwargs)
        self.space = space
        set_stem_stride(self, space.stem_stride)
        for stage, options in zip(self.elastic_stages(), space.stages):
            for i, block in enumerate(stage):
                assert isinstance(block, InvertedResidual)
                stage[i] = ElasticInvertedResidual(block, options.kernel_sizes, options.se_ratio)

    def elastic_stages(self) -> list[nn.Sequential]:
        """The stages whose blocks vary: all but the fixed first block and the last convolution."""
        return list(self.blocks)[1:-1]

    def forward_features(self, x: torch.Tensor, arch: Arch | None = None) -> torch.Tensor:
        """x (N, 3, H, W) -> (N, last width, h, w), before the pool."""
        if arch is None:
            return super().forward_features(x)
        self.space.check(arch)
        x = self.bn1(self.conv_stem(x))
        x = self.blocks[0](x)
        for stage, kernel_sizes, expand_ratios in zip(self.elastic_stages(), arch.kernel_size, arch.expand_ratio):
            for block, kernel_size, expand_ratio in zip(stage, kernel_sizes, expand_ratios):
                if self.grad_checkpointing and self.training:
                    x = checkpoint(block, x, kernel_size, expand_ratio, use_reentrant=False)
                else:
                    x = block(x, kernel_size, expand_ratio)
        return self.blocks[-1](x)

    def forward(self, x: torch.Tensor, arch: Arch | None = None) -> torch.Tensor:
        """Logits (N, classes) of the given subnet, or of the largest. x (N, 3, H, W) may have any side:
        `arch.resolution` says which one the caller should have used, it does not resize."""
        return self.forward_head(self.forward_features(x, arch))

    @torch.no_grad()
    def subnet_state_dict(self, arch: Arch) -> dict[str, torch.Tensor]:
        """The tensors of a subnet under the same names: leading slices, kernels through their matrices."""
        self.space.check(arch)
        state = {k: v for k, v in self.state_dict().items() if '.kernel_transform.' not in k}
        choices = zip(self.elastic_stages(), arch.kernel_size, arch.expand_ratio)
        for s, (stage, kernels, ratios) in enumerate(choices, 1):
            for b, block in enumerate(stage):
                prefix = f'blocks.{s}.{b}.'
                names = [name for name in state if name.startswith(prefix)]
                if b >= len(kernels):
                    for name in names:
                        del state[name]
                    continue
                mid = block.mid_chs(ratios[b])
                hidden = block.hidden_chs(mid)
                for name in names:
                    state[name] = _subnet_tensor(state[name], name.removeprefix(prefix), mid, hidden)
                state[f'{prefix}conv_dw.weight'] = block.kernel(kernels[b], mid)
        plain = torch.contiguous_format  # a supernet may be in channels-last order; its subnets are saved in this one
        return {name: tensor.detach().clone(memory_format=plain) for name, tensor in state.items()}

    def extract(self, arch: Arch) -> MobileNetV3:
        """A stock timm `MobileNetV3` with its own copy of this subnet's weights; equal to `supernet(x, arch)`.

        BatchNorm statistics are copied as they are: recalibrate them before use (`timm_ofa.recalibrate_bn`).
        """
        with torch.device('meta'):  # no weights are drawn only to be replaced
            subnet = timm.create_model(
                'ofa_mobilenetv3', **model_args(self.space, arch), num_classes=self.num_classes, in_chans=self.in_chans,
                drop_rate=self.drop_rate, pretrained_cfg_overlay=data_cfg(self.space, arch.resolution))
        subnet.load_state_dict(self.subnet_state_dict(arch), assign=True)
        return subnet.train(self.training)

    @torch.no_grad()
    def sort_channels(self, keep: Sequence[float] = ()) -> None:
        """Order every block's middle channels by importance, keeping the subnets of the expand ratios in `keep`."""
        for stage in self.elastic_stages():
            for block in stage:
                block.sort_channels(keep)


def _subnet_tensor(tensor: torch.Tensor, name: str, mid: int, hidden: int) -> torch.Tensor:
    """The leading slice of one tensor of a block; `name` is relative to the block."""
    layer, kind = name.rsplit('.', 1)
    if not tensor.ndim or layer == 'bn3':
        return tensor
    if layer == 'conv_pwl':
        return tensor[:, :mid]
    if layer == 'se.conv_reduce':
        return tensor[:hidden, :mid] if kind == 'weight' else tensor[:hidden]
    if layer == 'se.conv_expand' and kind == 'weight':
        return tensor[:mid, :hidden]
    return tensor[:mid]


def create_supernet(name: str, space: SearchSpace, pretrained: bool = False, **kwargs) -> MobileNetV3Supernet:
    """Build the supernet of a space through timm's builder, under a registered name."""
    if kwargs.pop('features_only', False):
        raise InputError(f'features_only is not for the supernet {name}; take them from supernet.extract(arch)')
    max_arch = space.max_arch()
    return build_model_with_cfg(
        MobileNetV3Supernet, name, pretrained, space=space,
        **network_kwargs(
            space.arch_def(max_arch), space.stem_width, space.num_features, space.act, space.bn_eps, kwargs))


def supernet_cfg(space: SearchSpace) -> dict:
    """timm's pretrained cfg of a supernet without weights."""
    return dict(url='', num_classes=space.num_classes, **data_cfg(space), license='apache-2.0', **PAPER)


default_cfgs = generate_default_cfgs({
    'ofa_supernet': supernet_cfg(load_space('ofa_mbv3_tiny')),
    **{f'{name}_supernet': supernet_cfg(load_space(name)) for name in space_names()},
})


def _register(name: str, default_space: str) -> None:
    def entry_point(
            pretrained: bool = False,
            space: str | Mapping | None = None,
            resolutions: Sequence[int] | None = None,
            **kwargs,
    ) -> MobileNetV3Supernet:
        chosen = SearchSpace.from_dict(space) if isinstance(space, Mapping) else load_space(space or default_space)
        return create_supernet(name, chosen.restrict(resolutions=resolutions), pretrained, **kwargs)

    entry_point.__name__ = entry_point.__qualname__ = name
    entry_point.__doc__ = (
        f'The elastic supernet of the search space `{default_space}` (or another: a name, or its JSON content), if '
        'wished at fewer resolutions (px). Source: arXiv:1908.09791.')
    globals()[name] = register_model(entry_point)


_register('ofa_supernet', 'ofa_mbv3_tiny')
for _space_name in space_names():
    _register(f'{_space_name}_supernet', _space_name)


def new_supernet(space: SearchSpace, **kwargs) -> MobileNetV3Supernet:
    """A supernet with fresh weights of a space, on the shelf or not, such that its saved folder can be loaded again."""
    on_shelf = space.name in space_names() and load_space(space.name) == replace(
        space, resolutions=load_space(space.name).resolutions)
    if on_shelf:
        return timm.create_model(f'{space.name}_supernet', resolutions=list(space.resolutions), **kwargs)
    return timm.create_model('ofa_supernet', space=space.to_dict(), **kwargs)


def load_supernet(source: str, **kwargs) -> MobileNetV3Supernet:
    """A trained supernet: a folder that training wrote, or `hf-hub:ORG/NAME`."""
    name = source if ':' in source else f'local-dir:{source}'
    try:
        model = timm.create_model(name, pretrained=True, **kwargs)
    except (RuntimeError, OSError, ValueError, KeyError, AssertionError, SafetensorError) as error:
        raise InputError(
            f'supernet {source!r:.120} cannot be loaded ({str(error).splitlines()[0]:.160}); '
            'give a folder that train.py wrote, or hf-hub:ORG/NAME') from None
    if not isinstance(model, MobileNetV3Supernet):
        raise InputError(f'{source!r:.120} is a {type(model).__name__}, not a supernet; give one that train.py wrote')
    return model
