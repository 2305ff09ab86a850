"""Closed-form repair: a subnet of a trained network, with weights for which it computes nearly what the network does.

No labels, no gradients, no training: some hundred images go through both networks, block by block, the input side
first. What a block loses when it is cut is made up for, as far as the layers that read what is left can do it:

- a smaller depthwise kernel becomes, channel by channel, the one whose output is nearest to that of the large one;
- a convolution that reads fewer channels becomes the linear map of them that is nearest to what the network has there.
  For a block's last one this is the network's output, after blocks that the subnet skips, less the subnet's shortcut.
  So each block also corrects the errors of those before it. The constant goes into the BatchNorm after it;
- squeeze-and-excite with fewer channels likewise, in both of its layers;
- all other BatchNorm statistics move by as much as their inputs do.

Where nothing is cut, nothing changes. Subnets that were trained together with the network need no repair: their
BatchNorm statistics are recalibrated (`recalibrate_bn`). Related: GRAIL (CPAL 2026), He et al. (arXiv:1707.06168).
"""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise, takewhile

import torch
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import nn

from ..spaces import Arch
from .chain import Chain, Link, chain_of
from .least_squares import Moments, Spread, inputs_of, patches, points
from .streams import Pair, Stream, checked_batches, in_mode
from .supernet import Supernet

KERNEL_RIDGES = (1e-3,)  # so few unknowns need no choice
KERNEL_ROWS = 1 << 16  # points of the output that decide a small kernel
MAX_BYTES = 1 << 30  # of activations that are kept between two passes
TINY = 1e-8
Layer = Callable[[torch.Tensor], torch.Tensor]


@torch.no_grad()
def repair(supernet: Supernet, arch: Arch, images: torch.Tensor | Iterable) -> nn.Module:
    """A subnet as a stock timm network in evaluation mode, repaired in closed form, without labels.

    It is for a network that was trained as a whole, with channels that are sorted (`supernet.sort_channels(images)`).
    For subnets that were trained too, recalibrate BatchNorm instead (`recalibrate_bn`).

    Args:
        supernet: Its largest subnet is the network to come close to. It stays as it is.
        arch: The subnet.
        images: 250 to 1,000 training images as the network is judged on, without augmentation: normalized, one tensor
            (N, channels, R, R), or batches of them, or (images, labels) pairs of which the labels are not used. R is
            the arch's resolution (px). With more images it is better and slower.

    Raises:
        InputError: The arch is not of this space, or the images do not fit.
    """
    supernet.space.check(arch)
    subnet, batches = supernet.extract(arch).eval(), checked_batches(images, supernet, arch.resolution)
    stream = Stream([Pair(batch, batch, batch, batch) for batch in batches], MAX_BYTES)
    with in_mode(supernet):
        _repair(stream, supernet, subnet, arch)
    return subnet


def _repair(stream: Stream, supernet: Supernet, subnet: nn.Module, arch: Arch) -> None:
    """Repair all blocks, the first one first. Both networks are in evaluation mode."""
    names = {block: name for name, block in supernet.named_modules()}
    same = _start(stream, supernet, arch)
    for stage, choices in zip(supernet.elastic_stages(), supernet.choices(arch)):
        blocks, active = list(stage), len(choices)
        for i, block in enumerate(blocks[:active]):
            skipped = [chain_of(b, b) for b in blocks[active:]] if i == active - 1 else []
            own, small = chain_of(block, block), chain_of(block, subnet.get_submodule(names[block]))
            same = _repair_block(stream, own, small, skipped, same)
    if not same:
        _follow(stream, supernet, subnet)


def _start(stream: Stream, supernet: Supernet, arch: Arch) -> bool:
    """Take the layers before the first block. Returns whether both networks are still the same there."""
    before, few, largest = supernet.forward_before, next(iter(stream)).whole[:2], supernet.space.max_arch()
    same = torch.equal(before(few, largest), before(few, arch))

    def step(pair: Pair) -> Pair:
        whole = before(pair.whole, largest)
        return Pair(whole, whole if same else before(pair.subnet, arch), whole, whole)

    stream.then(step)
    return same


def _repair_block(stream: Stream, whole: Chain, subnet: Chain, skipped: Sequence[Chain], same: bool) -> bool:
    """Repair one block, and take it. Returns whether both networks are still the same behind it.

    `skipped` are the blocks behind it that only the whole network has.
    """
    links = list(zip(whole.links, subnet.links))
    if same and not skipped and all(big.conv.weight.shape == small.conv.weight.shape for big, small in links):
        stream.then(lambda pair: Pair(out := whole(pair.whole), out, out, out))
        return True
    stream.then(lambda pair: Pair(pair.whole, pair.subnet, pair.whole, pair.subnet))
    for i, (big, small) in enumerate(links[:-1]):
        _repair_link(stream, big, small, changed=i > 0 or not same)
    big, small = links[-1]
    if small.linear and not small.depthwise:
        _repair_last(stream, whole, subnet, skipped)
    else:
        _repair_link(stream, big, small, changed=True)
        stream.then(partial(_leave, whole, subnet, skipped))
    return False


def _repair_link(stream: Stream, whole: Link, subnet: Link, changed: bool) -> None:
    """Repair one convolution and what follows it, and take them. `changed`: its input is not the whole network's."""
    stream.then(partial(_step, whole.conv, None))
    fitted = False
    if subnet.depthwise:
        if subnet.conv.kernel_size != whole.conv.kernel_size:
            _fit_kernel(stream, subnet)
    elif subnet.conv.in_channels < whole.conv.in_channels:
        scale, shift = (t.to(whole.conv.weight)[:subnet.conv.out_channels, None, None] for t in whole.scale_and_shift())
        _fit(stream, subnet, lambda pair: pair.whole[:, :len(scale)] * scale + shift)
        fitted = True
    stream.then(partial(_step, None, subnet.conv))
    if changed and not fitted:
        _match_statistics(stream, subnet.norm)
    for big, small in zip(whole.then, subnet.then):
        if isinstance(big, SqueezeExcite) and isinstance(small, SqueezeExcite):
            _fit_squeeze_excite(stream, whole, subnet, big, small)
    stream.then(partial(_step, whole.finish, subnet.finish))


def _step(whole: Layer | None, subnet: Layer | None, pair: Pair) -> Pair:
    """Take a layer of each network, or of one of them."""
    return pair._replace(
        whole=whole(pair.whole) if whole else pair.whole, subnet=subnet(pair.subnet) if subnet else pair.subnet)


def _leave(whole: Chain, subnet: Chain, skipped: Sequence[Chain], pair: Pair) -> Pair:
    """Take what is behind the last link of a block, and the blocks that the subnet skips."""
    out = whole.end(whole.add(pair.whole, pair.whole_input))
    for block in skipped:
        out = block(out)
    return pair._replace(whole=out, subnet=subnet.end(subnet.add(pair.subnet, pair.subnet_input)))


def _repair_last(stream: Stream, whole: Chain, subnet: Chain, skipped: Sequence[Chain]) -> None:
    """Repair the last convolution of a block, and take it and the blocks that the subnet skips."""
    (big, small), ends = (whole.links[-1], subnet.links[-1]), [whole, *skipped]

    def target(pair: Pair) -> Pair:
        out = whole.add(big.finish(big.conv(pair.whole)), pair.whole_input)
        for before, block in pairwise(ends):
            out = block.before_act(before.end(out))
        return pair._replace(whole=out)

    def left(pair: Pair) -> torch.Tensor:
        out = pair.whole[:, :small.conv.out_channels]
        return out if subnet.shortcut is None else out - subnet.shortcut(pair.subnet_input)

    def end(pair: Pair) -> Pair:
        out = subnet.add(small.finish(small.conv(pair.subnet)), pair.subnet_input)
        return pair._replace(whole=ends[-1].end(pair.whole), subnet=subnet.end(out))

    stream.then(target)
    _fit(stream, small, left)
    stream.then(end)


def _fit(stream: Stream, link: Link, target: Callable[[Pair], torch.Tensor]) -> None:
    """Let a full convolution and its BatchNorm come as near as they can to targets (N, C, H, W)."""
    moments = Moments()
    for pair in stream:
        moments.add(inputs_of(link.conv, pair.subnet), points(target(pair)), len(pair.subnet))
    kept, found = link.conv.weight.double().flatten(1) * link.scale_and_shift()[0][:, None], moments.covariances()
    link.become(moments.nearest(kept), found.target_means, found.input_means, found.inputs)


def _fit_kernel(stream: Stream, link: Link) -> None:
    """Let a depthwise kernel come as near as it can, channel by channel, to the whole network's larger one."""
    moments, weight = Moments(), link.conv.weight
    for pair in stream:
        wanted = pair.whole[:, :len(weight)].transpose(0, 1).flatten(1)[:, :, None]
        moments.add(patches(link.conv, pair.subnet), wanted, len(pair.subnet))
        if sum(moments.rows) >= KERNEL_ROWS:
            break
    weight.copy_(moments.nearest(weight.double().flatten(2), KERNEL_RIDGES).view_as(weight))


def _fit_squeeze_excite(stream: Stream, whole: Link, subnet: Link, big: SqueezeExcite, small: SqueezeExcite) -> None:
    """Let both layers of squeeze-and-excite come as near as they can to the whole network's."""
    pooled = [(_squeezed(whole, pair.whole), _squeezed(subnet, pair.subnet)) for pair in stream]
    wanted, given = (torch.cat(part) for part in zip(*pooled))
    for before, name in ((None, 'conv_reduce'), ('act1', 'conv_expand')):
        if before:
            wanted, given = getattr(big, before)(wanted), getattr(small, before)(given)
        layer, moments = getattr(small, name), Moments()
        wanted = getattr(big, name)(wanted)
        moments.add(given.flatten(1), wanted[:, :layer.out_channels].flatten(1), len(given))
        found, weight = moments.covariances(), moments.nearest(layer.weight.double().flatten(1))
        layer.weight.copy_(weight.view_as(layer.weight))
        layer.bias.copy_(found.target_means - weight @ found.input_means)
        given = layer(given)


def _squeezed(link: Link, x: torch.Tensor) -> torch.Tensor:
    """Mean (N, C, 1, 1) of what squeeze-and-excite gets, from what the link's convolution gives: x (N, C, H, W)."""
    x = link.norm(x)
    for layer in takewhile(lambda layer: not isinstance(layer, SqueezeExcite), link.then):
        x = layer(x)
    return x.mean((2, 3), keepdim=True)


def _match_statistics(stream: Stream, norm: nn.BatchNorm2d) -> None:
    """Move BatchNorm's statistics by as much as its inputs differ from the whole network's."""
    own, whole = Spread(), Spread()
    for pair in stream:
        own.add(pair.subnet)
        whole.add(pair.whole[:, :norm.num_features])
    _move(norm, own, whole)


def _move(norm: nn.BatchNorm2d, own: Spread, whole: Spread) -> None:
    """The same, from what the spread of the inputs is in both."""
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean += own.mean - whole.mean
    norm.running_var *= (own.variance + TINY) / (whole.variance + TINY)


def _follow(stream: Stream, supernet: Supernet, subnet: nn.Module) -> None:
    """Let BatchNorm behind the last block follow the change of its inputs."""
    own, whole = defaultdict[str, Spread](Spread), defaultdict[str, Spread](Spread)
    norms = [(name, layer) for name, layer in supernet.named_modules() if isinstance(layer, nn.BatchNorm2d)]

    def look(seen: dict[str, Spread], x: torch.Tensor) -> None:
        hooks = [norm.register_forward_pre_hook(lambda _, inputs, name=name: seen[name].add(inputs[0]))
                 for name, norm in norms]
        supernet.forward_classifier(supernet.forward_after(x))
        for hook in hooks:
            hook.remove()

    for pair in stream:
        look(own, pair.subnet)
        look(whole, pair.whole)
    for name, spread in own.items():
        norm = subnet.get_submodule(name)
        assert isinstance(norm, nn.BatchNorm2d)
        _move(norm, spread, whole[name])
