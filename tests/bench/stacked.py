"""Many trainings of one small MobileNetV3 supernet at once: S runs are one stacked network.

A small supernet keeps a GPU waiting for the next kernel. Here S runs, which differ in seed and settings, share each
kernel. Nothing is read from the host during a step, so that it can be one CUDA graph. A random subnet is the largest
network with zeros in the places of what it leaves out, which gives the same outputs and gradients;
`tests/training/test_stacked.py` compares them with `supernet(x, arch)`.

Legend: S runs, N images, C channels, D parameters of one run, K classes. Activations lie as (S, C, N, H, W).
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from timm_ofa.networks import Supernet
from timm_ofa.networks.elastic import ElasticInvertedResidual
from timm_ofa.spaces import Arch

ACTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    'ReLU': F.relu, 'Hardswish': F.hardswish, 'Identity': lambda x: x}


@dataclass
class Statistics:
    """BatchNorm statistics by layer: those of each batch (None), collected from several batches, or fixed."""
    collect: bool = True
    found: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = field(default_factory=dict)

    def normalize(
            self, name: str, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
        """x (1, S C, N H, W) in evaluation mode with averages, or in training mode, which adds to them."""
        if not self.collect:
            mean, var = (torch.stack(parts).mean(0) for parts in zip(*self.found[name]))
            return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)
        mean, var = torch.zeros_like(weight), torch.zeros_like(weight)
        y = F.batch_norm(x, mean, var, weight, bias, True, 1.0, eps)
        self.found.setdefault(name, []).append((mean, var))
        return y


class _Take(torch.autograd.Function):
    """Some of D values (S, D), each at most once."""

    @staticmethod
    def forward(ctx, flat: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(index)
        ctx.shape = flat.shape
        return flat[:, index]

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        index, = ctx.saved_tensors
        whole = grad.new_zeros(ctx.shape)
        whole[:, index] = grad
        return whole, None


class Stacked:
    """The network of one arch of a supernet, for S runs; parameters are rows (S, D), in the order of `names`."""

    def __init__(self, model: nn.Module):
        """`model`: a supernet, or a stock network of one."""
        self.shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        self.sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.blocks = [block for stage in model.blocks[1:-1] for block in stage]
        self.first, self.last = model.blocks[0][0], model.blocks[-1][0]
        self.stem_act, self.head_act = (type(a).__name__ for a in (model.bn1.act, model.act2))
        self.stem_stride = model.conv_stem.stride[0]
        self.names = {
            id(block): f'blocks.{s}.{b}' for s, stage in enumerate(model.blocks) for b, block in enumerate(stage)}
        self.kernel_pairs = [getattr(block, 'kernel_pairs', []) for block in self.blocks]
        self.eps = model.bn1.eps

    def logits(self, flat: torch.Tensor, x: torch.Tensor, *, one_hot: Sequence[torch.Tensor] | None = None,
               kernels: Sequence[int] | None = None, statistics: Statistics | None = None,
               dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Logits (S, K, N) of x (S, 3, N, H, W).

        Args:
            flat: Parameters (S, D), float32.
            one_hot: For each block (S, sizes): which kernel size each run uses; None: `kernels`.
            kernels: The kernel size of each block; None: the largest.
            dtype: Of activations and of the weights of convolutions.
        """
        runs = len(flat)
        weights = dict(zip(self.shapes, flat.split(self.sizes, 1)))
        typed = weights if dtype is torch.float32 else dict(zip(self.shapes, flat.to(dtype).split(self.sizes, 1)))

        def norm(name: str, y: torch.Tensor, act: str = 'Identity') -> torch.Tensor:
            n = y.shape[2]
            flat_y = y.reshape(1, -1, n * y.shape[3], y.shape[4])
            scale, shift = weights[f'{name}.weight'].reshape(-1), weights[f'{name}.bias'].reshape(-1)
            if statistics is None:
                out = F.batch_norm(flat_y, None, None, scale, shift, True, 0.0, self.eps)
            else:
                out = statistics.normalize(name, flat_y, scale, shift, self.eps)
            return ACTS[act](out).view(y.shape)

        def point(name: str, y: torch.Tensor) -> torch.Tensor:
            shape = self.shapes[f'{name}.weight']
            w = typed[f'{name}.weight'].view(runs, shape[0], shape[1])
            return torch.bmm(w, y.reshape(runs, shape[1], -1)).view(runs, shape[0], *y.shape[2:])

        def depthwise(weight: torch.Tensor, y: torch.Tensor, stride: int) -> torch.Tensor:
            s, c, n, h, w = y.shape
            k = weight.shape[-1]
            out = F.conv2d(
                y.reshape(s * c, n, h, w).transpose(0, 1).contiguous(), weight.reshape(s * c, 1, k, k), stride=stride,
                padding=k // 2, groups=s * c)
            return out.transpose(0, 1).reshape(s, c, n, *out.shape[2:])

        def linear(name: str, y: torch.Tensor) -> torch.Tensor:  # y (S, C, N)
            shape = self.shapes[f'{name}.weight']
            w = typed[f'{name}.weight'].view(runs, shape[0], shape[1])
            return torch.baddbmm(typed[f'{name}.bias'][:, :, None], w, y)

        x = norm('bn1', self._stem(typed['conv_stem.weight'], x.to(dtype)), self.stem_act)
        name = self.names[id(self.first)]
        shape = self.shapes[f'{name}.conv_dw.weight']
        y = depthwise(typed[f'{name}.conv_dw.weight'].view(runs, *shape), x, self.first.conv_dw.stride[0])
        y = norm(f'{name}.bn1', y, type(self.first.bn1.act).__name__)
        y = norm(f'{name}.bn2', point(f'{name}.conv_pw', y), type(self.first.bn2.act).__name__)
        x = x + y if self.first.has_skip else y
        for i, block in enumerate(self.blocks):
            name = self.names[id(block)]
            y = norm(f'{name}.bn1', point(f'{name}.conv_pw', x), type(block.bn1.act).__name__)
            weight = self._kernel(name, self.kernel_pairs[i], typed, one_hot and one_hot[i], kernels and kernels[i])
            y = norm(f'{name}.bn2', depthwise(weight, y, block.conv_dw.stride[0]), type(block.bn2.act).__name__)
            if f'{name}.se.conv_reduce.weight' in self.shapes:
                gate = F.relu(linear(f'{name}.se.conv_reduce', y.mean((3, 4))))
                gate = F.hardsigmoid(linear(f'{name}.se.conv_expand', gate))
                y = y * gate[..., None, None]
            y = norm(f'{name}.bn3', point(f'{name}.conv_pwl', y))
            x = x + y if block.has_skip else y
        name = self.names[id(self.last)]
        x = norm(f'{name}.bn1', point(f'{name}.conv', x), type(self.last.bn1.act).__name__).mean((3, 4))
        shape = self.shapes['conv_head.weight']
        x = ACTS[self.head_act](torch.bmm(typed['conv_head.weight'].view(runs, *shape[:2]), x))
        return linear('classifier', x).float()

    def _stem(self, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """3x3 convolution of x (S, 3, N, H, W), as a product with its patches."""
        out, channels = self.shapes['conv_stem.weight'][:2]
        side, stride = x.shape[-1], self.stem_stride
        x = F.pad(x, (1, 1, 1, 1))
        patches = torch.stack(
            [x[..., i:i + side:stride, j:j + side:stride] for i in range(3) for j in range(3)], 2)
        y = torch.bmm(weight.view(len(x), out, channels * 9), patches.reshape(len(x), channels * 9, -1))
        return y.view(len(x), out, *patches.shape[3:])

    def _kernel(self, name: str, pairs: Sequence[tuple[int, int]], weights: dict[str, torch.Tensor],
                one_hot: torch.Tensor | None, size: int | None) -> torch.Tensor:
        """Depthwise weights (S, C, 1, k, k): of one size, or, padded with zeros, of the size that each run uses."""
        shape = self.shapes[f'{name}.conv_dw.weight']
        weight = weights[f'{name}.conv_dw.weight'].view(-1, shape[0], *shape[2:])
        largest, found = shape[-1], None
        for i, small in enumerate([largest, *(small for _, small in pairs)]):
            if i:
                margin = (weight.shape[-1] - small) // 2
                center = weight[..., margin:margin + small, margin:margin + small].reshape(len(weight), shape[0], -1)
                matrix = weights[f'{name}.kernel_transform.k{pairs[i - 1][0]}to{small}'].view(-1, small**2, small**2)
                weight = torch.bmm(center, matrix.transpose(1, 2)).view(-1, shape[0], small, small)
            if one_hot is None:
                if size in (None, small):
                    return weight
                continue
            part = weight * one_hot[:, i, None, None, None].to(weight.dtype)
            found = part if found is None else found + F.pad(part, ((largest - small) // 2,) * 4)
        assert found is not None
        return found


class StackedSupernet(Stacked):
    """The supernet for S runs: its largest subnet, random subnets by zeros, and any subnet by its places."""

    def __init__(self, supernet: Supernet, device: torch.device):
        super().__init__(supernet)
        self.supernet, self.space, self.device = supernet, supernet.space, device
        self.offsets = dict(zip(self.shapes, np.cumsum([0, *self.sizes])))
        self.limits = self._limits()

    def _limits(self) -> torch.Tensor:
        """For each parameter the number (D,) of the limit that must be above its channel, times 2^16, plus the channel.

        Limit 0 is always above. Block b has the limits 3b + 1 (middle channels), 3b + 2 (hidden units of
        squeeze-excite) and 3b + 3 (whether it is active).
        """
        codes = np.zeros(sum(self.sizes), dtype=np.int64)
        for b, block in enumerate(self.blocks):
            name = self.names[id(block)]
            parts = {'bn1.weight': 1, 'bn1.bias': 1, 'bn2.weight': 1, 'bn2.bias': 1, 'se.conv_reduce.weight': 2,
                     'se.conv_reduce.bias': 2, 'bn3.weight': 3, 'bn3.bias': 3}
            for part, kind in parts.items():
                if (key := f'{name}.{part}') in self.shapes:
                    shape = self.shapes[key]
                    channel = np.zeros(shape[0], dtype=np.int64) if kind == 3 else np.arange(shape[0])
                    code = (3 * b + kind) * 2**16 + channel
                    start = self.offsets[key]
                    codes[start:start + math.prod(shape)] = np.repeat(code, math.prod(shape[1:]))
        return torch.from_numpy(codes).to(self.device)

    def mask(self, limits: torch.Tensor) -> torch.Tensor:
        """Which parameters (S, D) are in use; limits (S, 1 + 3 blocks), see `_limits`."""
        return limits[:, self.limits >> 16] > (self.limits & 0xffff)

    def codes(self, archs: Sequence[Arch]) -> tuple[torch.Tensor, torch.Tensor]:
        """Limits (len, 1 + 3 blocks) and kernel sizes as one-hot rows (len, blocks, sizes) of archs."""
        limits = np.ones((len(archs), 1 + 3 * len(self.blocks)), dtype=np.int32)
        kinds = max(len(s.kernel_sizes) for s in self.space.stages)
        one_hot = np.zeros((len(archs), len(self.blocks), kinds), dtype=np.float32)
        for n, arch in enumerate(archs):
            for b, (stage, i) in enumerate(self.space.positions):
                block = self.blocks[b]
                assert isinstance(block, ElasticInvertedResidual)
                active = i < arch.depth[stage]
                sizes = sorted(self.space.stages[stage].kernel_sizes, reverse=True)
                ratio = arch.expand_ratio[stage][i] if active else min(self.space.stages[stage].expand_ratios)
                mid = block.mid_chs(ratio)
                limits[n, 3 * b + 1:3 * b + 4] = mid, block.hidden_chs(mid), active
                one_hot[n, b, sizes.index(arch.kernel_size[stage][i]) if active else 0] = 1
        return torch.from_numpy(limits), torch.from_numpy(one_hot)

    def random_codes(self, n: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """The same for `n` random archs, drawn as `SearchSpace.sample` draws them (depths, kernels, ratios uniform)."""
        limits = np.ones((n, 1 + 3 * len(self.blocks)), dtype=np.int32)
        kinds = max(len(s.kernel_sizes) for s in self.space.stages)
        one_hot = np.zeros((n, len(self.blocks), kinds), dtype=np.float32)
        depths = [rng.choice(s.depths, n) for s in self.space.stages]
        for b, (stage, i) in enumerate(self.space.positions):
            block, options = self.blocks[b], self.space.stages[stage]
            assert isinstance(block, ElasticInvertedResidual)
            mids = np.array([block.mid_chs(ratio) for ratio in options.expand_ratios])
            hidden = np.array([block.hidden_chs(mid) for mid in mids.tolist()])
            which = rng.integers(len(mids), size=n)
            limits[:, 3 * b + 1:3 * b + 4] = np.stack([mids[which], hidden[which], depths[stage] > i], 1)
            one_hot[np.arange(n), b, rng.integers(len(options.kernel_sizes), size=n)] = 1
        return torch.from_numpy(limits), torch.from_numpy(one_hot)

    def random_logits(self, flat: torch.Tensor, x: torch.Tensor, limits: torch.Tensor, one_hot: torch.Tensor,
                      dtype: torch.dtype) -> torch.Tensor:
        """Logits (S, K, N), each run with an arch of its own; limits (S, ...), one_hot (S, blocks, sizes)."""
        return self.logits(flat * self.mask(limits), x, one_hot=list(one_hot.unbind(1)), dtype=dtype)

    def subnet(self, arch: Arch) -> Subnet:
        """One arch at its own size, for all runs."""
        return Subnet(self, arch)

    def rows(self, model: nn.Module) -> torch.Tensor:
        """The parameters (D,) of a network of this shape."""
        return torch.cat([p.detach().flatten() for p in model.parameters()]).float()

    def load(self, row: torch.Tensor, model: nn.Module) -> None:
        """Write the parameters (D,) of one run into a network of this shape."""
        with torch.no_grad():
            for p, values in zip(model.parameters(), row.split(self.sizes)):
                p.copy_(values.view(p.shape))


class Subnet(Stacked):
    """A subnet at its own size. Its parameters are some of the supernet's; its kernels go through their matrices."""

    def __init__(self, whole: StackedSupernet, arch: Arch):
        super().__init__(whole.supernet.extract(arch))
        own_names = dict(whole.supernet.own_names(list(self.shapes), arch))
        active = [b for b, (stage, i) in enumerate(whole.space.positions) if i < arch.depth[stage]]
        self.kernels = [k for stage in arch.kernel_size for k in stage]
        self.kernel_pairs = [whole.kernel_pairs[b] for b in active]
        for b in active:
            name = whole.names[id(whole.blocks[b])]
            kernel = f'{name}.conv_dw.weight'
            self.shapes[kernel] = (self.shapes[kernel][0], *whole.shapes[kernel][1:])
            matrices = [key for key in whole.shapes if key.startswith(f'{name}.kernel_transform')]
            self.shapes |= {key: whole.shapes[key] for key in matrices}
            own_names |= {key: key for key in matrices}
        places = [
            whole.offsets[own] + np.arange(math.prod(whole.shapes[own])).reshape(whole.shapes[own])[
                tuple(map(slice, self.shapes[name]))].ravel() for name, own in own_names.items()]
        self.sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.index = torch.from_numpy(np.concatenate(places)).to(whole.device)

    def logits_of(self, flat: torch.Tensor, x: torch.Tensor, **kwargs) -> torch.Tensor:
        """Logits (S, K, N) from the parameters (S, D) of supernets."""
        return self.logits(_Take.apply(flat, self.index), x, kernels=self.kernels, **kwargs)
