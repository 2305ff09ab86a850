"""Search spaces as data: what may vary in a family of networks, and what is fixed.

A `SearchSpace` says what may vary, and an `Arch` is one choice. This package does not import torch.

Legend: S stages, P positions (the largest depths of all stages added up), R resolutions, N networks, F frames. A frame
is what a network has besides its blocks: the resolution, and the widths if they are elastic.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter
from typing import Any, ClassVar, overload

import numpy as np

from ..errors import InputError, listed
from ..fields import choice, number, plain, read
from . import walk
from .arch import MAX_RESOLUTION, Arch, is_number, is_whole
from .blocks import ACTS, Block, Network
from .checking import BLOCKS, check_space
from .codes import decode_archs, encode_archs
from .pricing import CostTable, tabulate
from .rows import Row, bottleneck_mid_chs, make_divisible


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of elastic blocks: its fixed properties, and its choices. The first block has the stride.

    In a space that was read off a network the blocks differ. Each has its own choices then, and the stage has all of
    them together.
    """
    brief: ClassVar[bool] = True
    block: str  # 'ir': inverted residual; 'bottle': ResNet bottleneck; 'timm': see `blocks`
    widths: tuple[int, ...]  # output channels of all blocks of the stage; elastic if there are several
    stride: int = number(1, 2)
    act: str = choice(*ACTS)
    se_ratio: float = number(0, 1)  # of the expanded channels; 0: no squeeze-excite
    depths: tuple[int, ...]
    kernel_sizes: tuple[int, ...]
    expand_ratios: tuple[int | float, ...]  # middle channels, relative to the input ('ir'), the output ('bottle') or
    #                                         the block's own ('timm')
    blocks: tuple[Block, ...] = ()  # of the network that the space was read off

    def at(self, index: int) -> Block | Stage:
        """What holds the `kernel_sizes` and `expand_ratios` of a block: the block itself, or the stage for all."""
        return self.blocks[index] if self.blocks else self

    def choices(self, index: int) -> list[tuple[int, float]]:
        """(kernel_size, expand_ratio) of the codes 1, 2, ... of a block."""
        return [(k, e) for k in self.at(index).kernel_sizes for e in self.at(index).expand_ratios]

    def mid_chs(self, in_chs: int, out_chs: int, expand_ratio: float) -> int:
        """The middle channels of a block."""
        if self.block == 'bottle':
            return bottleneck_mid_chs(out_chs, expand_ratio)
        return make_divisible(in_chs * expand_ratio)


def of_blocks(stage: Stage, blocks: Sequence[Block]) -> Stage:
    """The stage with these blocks, and all of their choices together."""
    kernels, ratios = ({v for b in blocks for v in values(b)} for values in (
        attrgetter('kernel_sizes'), attrgetter('expand_ratios')))
    return replace(
        stage, blocks=tuple(blocks), kernel_sizes=tuple(sorted(kernels)), expand_ratios=tuple(sorted(ratios)))


@dataclass(frozen=True, kw_only=True)
class First:
    """The fixed first block: depthwise 3x3, then linear 1x1. It has an identity shortcut if the shapes allow one."""
    width: int
    stride: int = number(1, 2)
    act: str = choice(*ACTS)


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """What may vary in a family of networks, and everything that is fixed. Files `spaces/*.json` hold the fields."""
    brief: ClassVar[bool] = True
    name: str
    family: str = choice(*BLOCKS)  # timm's module that builds the networks; 'timm': see `network`
    stem_widths: tuple[tuple[int, ...], ...]  # choices: the channels of each 3x3 convolution of the stem; if there are
    #                                           three convolutions, the middle one is residual
    stem_stride: int = number(1, 2)  # of the first convolution
    stem_pool: bool  # whether a max-pool of stride 2 follows the stem
    first: First | None
    stages: tuple[Stage, ...]
    last_width: int  # of the 1x1 convolution before the pool; 0: none
    num_features: int  # of the 1x1 convolution after the pool; 0: none
    act: str = choice(*ACTS)  # of the stem, the last convolution and the head
    bn_eps: float = number(1e-12, 1)
    num_classes: int = number(1)  # default
    resolutions: tuple[int, ...] = number(8, MAX_RESOLUTION)  # px; used in training and search
    extra_resolutions: tuple[int, ...] = number(8, MAX_RESOLUTION)  # px; allowed in a single network, never sampled
    mean: tuple[float, float, float]
    std: tuple[float, float, float] = number(1e-6)
    crop_pct: float = number(0.5, 1)  # the share of the image that evaluation sees
    source: str
    network: Network | None = None  # that the space was read off

    # ---- networks -------------------------------------------------------------------------------------------------

    @property
    def elastic_widths(self) -> bool:
        """Whether the archs of this family have widths."""
        return self.family == 'byobnet'

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides after the first convolution: of the stem's pool, the first block, and each stage."""
        return 1 + self.stem_pool, self.first.stride if self.first else 1, *(s.stride for s in self.stages)

    @property
    def reduction(self) -> int:
        """The factor by which the side of an image shrinks."""
        return self.stem_stride * math.prod(self.strides)

    def size(self) -> int:
        """The exact number of distinct networks. A resolution changes the input, not the network: it does not count."""
        return len(self.stem_widths) * math.prod(
            len(s.widths) * sum(math.prod(len(s.choices(j)) for j in range(depth)) for depth in s.depths)
            for s in self.stages)

    def count(self) -> int:
        """The number of networks where each resolution counts."""
        return self.size() * len(self.resolutions)

    def max_arch(self, resolution: int | None = None) -> Arch:
        """The largest network, at `resolution` px; default: the largest resolution."""
        return self._uniform_arch(max, resolution)

    def min_arch(self, resolution: int | None = None) -> Arch:
        """The smallest network, at `resolution` px; default: the smallest resolution."""
        return self._uniform_arch(min, resolution)

    def _uniform_arch(self, pick: Callable[..., Any], resolution: int | None) -> Arch:
        return self.check(Arch(
            pick(self.resolutions) if resolution is None else resolution,
            tuple(tuple(pick(s.at(j).kernel_sizes) for j in range(pick(s.depths))) for s in self.stages),
            tuple(tuple(pick(s.at(j).expand_ratios) for j in range(pick(s.depths))) for s in self.stages),
            *self.width_fields(pick(self.stem_widths, key=sum), [pick(s.widths) for s in self.stages])))

    def width_fields(self, stem: Sequence[int], widths: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The fields `width` and `stem_width` of an arch with these channels: empty if no width is elastic."""
        return (tuple(widths), tuple(stem)) if self.elastic_widths else ((), ())

    def widths(self, arch: Arch) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The channels of the stem's convolutions, and of each stage."""
        if self.elastic_widths:
            return arch.stem_width, arch.width
        return self.stem_widths[0], tuple(s.widths[0] for s in self.stages)

    @overload
    def sample(self, rng: np.random.Generator, n: None = None) -> Arch: ...
    @overload
    def sample(self, rng: np.random.Generator, n: int) -> list[Arch]: ...
    def sample(self, rng: np.random.Generator, n: int | None = None) -> Arch | list[Arch]:
        """One random network, or a list of `n`. Resolution, widths, depths and the choices of blocks are uniform."""
        return self._draw(rng) if n is None else [self._draw(rng) for _ in range(n)]

    def _draw(self, rng: np.random.Generator) -> Arch:
        resolution = int(rng.choice(self.resolutions))
        depths = [int(rng.choice(s.depths)) for s in self.stages]
        blocks = [[s.at(j) for j in range(depth)] for s, depth in zip(self.stages, depths)]
        kernels, ratios = (
            tuple(tuple(values[rng.integers(len(values))] for values in map(field, stage)) for stage in blocks)
            for field in (attrgetter('kernel_sizes'), attrgetter('expand_ratios')))
        if not self.elastic_widths:
            return Arch(resolution, kernels, ratios)
        stem = self.stem_widths[rng.integers(len(self.stem_widths))]
        return Arch(resolution, kernels, ratios, tuple(int(rng.choice(s.widths)) for s in self.stages), stem)

    def check(self, arch: Arch) -> Arch:
        """Return the arch if it is in this space; else raise `InputError` with the field, the value and the choices."""
        if not isinstance(arch, Arch):
            raise InputError(f'arch {arch!r:.80} is a {type(arch).__name__}; use Arch.from_dict or space.parse')
        if arch.resolution not in self.resolutions and arch.resolution not in self.extra_resolutions:
            raise InputError(
                f'resolution {arch.resolution!r:.40} is not in {self.name}; choose one of {listed(self.resolutions)}')
        for field in ('kernel_size', 'expand_ratio'):
            stages = getattr(arch, field)
            if len(stages) != len(self.stages):
                raise InputError(
                    f'{field} has {len(stages)} stages, {self.name} has {len(self.stages)}; one list a stage')
            for i, (values, stage) in enumerate(zip(stages, self.stages), 1):
                if len(values) not in stage.depths:
                    raise InputError(
                        f'{field} in stage {i} has {len(values)} blocks; {self.name} allows {listed(stage.depths)}')
                for j, value in enumerate(values):
                    if value not in (choices := getattr(stage.at(j), f'{field}s')):
                        raise InputError(
                            f'{field} {value!r:.40} in stage {i} is not in {self.name}; choose from {listed(choices)}')
        if [len(s) for s in arch.kernel_size] != [len(s) for s in arch.expand_ratio]:
            raise InputError('kernel_size and expand_ratio differ in length; give both one entry for each active block')
        self._check_widths(arch)
        return arch

    def _check_widths(self, arch: Arch) -> None:
        if not self.elastic_widths:
            if arch.width or arch.stem_width:
                raise InputError(f'width {arch.width or arch.stem_width} is given, but {self.name} has no elastic '
                                 'widths; leave it out')
            return
        if len(arch.width) != len(self.stages):
            raise InputError(
                f'width has {len(arch.width)} entries, {self.name} has {len(self.stages)} stages; one each')
        for i, (width, stage) in enumerate(zip(arch.width, self.stages), 1):
            if width not in stage.widths:
                raise InputError(
                    f'width {width!r:.40} of stage {i} is not in {self.name}; choose from {listed(stage.widths)}')
        if arch.stem_width not in self.stem_widths:
            raise InputError(
                f'stem_width {list(arch.stem_width)} is not in {self.name}; '
                f'choose from {listed(map(list, self.stem_widths))}')

    def parse(self, text: str) -> Arch:
        """The inverse of `str(arch)`, e.g. 'r32:k3,3/5/3:e2,4/3/2'. The arch is checked."""
        return self.check(Arch.parse(text, example=str(self.min_arch())))

    def from_upstream(self, data: Mapping[str, Any]) -> Arch:
        """Read an arch of the original code. Its entries for inactive positions are dropped.

        Args:
            data: 'e' (one value, or one for each position), 'd' (one value, or one for each stage) and 'r' ([px]) or
                'image_size' (px). MobileNetV3 and ProxylessNAS: also 'ks', like 'e'; 'wid' must be None.
                ResNet: 'd' counts blocks above the least depth, and its first entry is the stem's (2 keeps the
                residual convolution); 'w' are indices of the widths of the two stem convolutions and of the stages.
        """
        from .upstream import read_upstream

        return read_upstream(self, data)

    # ---- fewer choices --------------------------------------------------------------------------------------------

    def restrict(self, *, depths: Sequence[int] | None = None, deepest: int | None = None,
                 kernel_sizes: Sequence[int] | None = None, expand_ratios: Sequence[float] | None = None,
                 resolutions: Sequence[int] | None = None, widths: int | None = None) -> SearchSpace:
        """The same space with fewer choices, for a phase of progressive shrinking or for a search.

        Each stage keeps the choices that are given, the `deepest` largest of its depths and the `widths` largest of its
        widths. Where a stage has one choice only, it keeps that one. A block of a network that the space was read off
        keeps the nearest choice, if none of its own is given. If every stage has a single depth, an elastic stem
        keeps its residual convolution.

        Raises:
            InputError: A value is not a choice of any stage, or a stage has none of the values.
        """
        def keep(have: tuple[Any, ...], wanted: Sequence[float] | None, name: str) -> tuple[Any, ...]:
            if wanted is None or len(have) == 1:
                return have
            kept = tuple(v for v in have if v in wanted)
            if not kept:
                raise InputError(f'{name} {listed(wanted)}: none is in {self.name}; choose from {listed(have)}')
            return kept

        def nearest(have: tuple[Any, ...], wanted: Sequence[float] | None) -> tuple[Any, ...]:
            kept = have if wanted is None else tuple(v for v in have if v in wanted)
            return kept or (min(have, key=lambda v: min(abs(v - w) for w in wanted or have)),)

        for name, values in (('depths', depths), ('kernel_sizes', kernel_sizes), ('expand_ratios', expand_ratios)):
            self._refuse_unknown(name, values, sorted({v for s in self.stages for v in getattr(s, name)}))
        self._refuse_unknown('resolutions', resolutions, list(self.resolutions))
        for name, count in (('widths', widths), ('deepest', deepest)):
            if count is not None and (not is_whole(count) or count < 1):
                raise InputError(f'{name} {count!r:.40} is not how many of the largest to keep; give 1 or more')
        def kept_stage(s: Stage) -> Stage:
            own = replace(s, depths=keep(s.depths, depths, 'depths')[-(deepest or len(s.depths)):])
            if s.blocks:
                return of_blocks(own, [replace(
                    b, kernel_sizes=nearest(b.kernel_sizes, kernel_sizes),
                    expand_ratios=nearest(b.expand_ratios, expand_ratios)) for b in s.blocks[:own.depths[-1]]])
            return replace(
                own, widths=s.widths[-(widths or len(s.widths)):],
                kernel_sizes=keep(s.kernel_sizes, kernel_sizes, 'kernel_sizes'),
                expand_ratios=keep(s.expand_ratios, expand_ratios, 'expand_ratios'))

        stages = tuple(map(kept_stage, self.stages))
        return replace(
            self, stages=stages, resolutions=keep(self.resolutions, resolutions, 'resolutions'),
            stem_widths=self._kept_stems(widths, all(len(s.depths) == 1 for s in stages)))

    def _refuse_unknown(self, name: str, wanted: Sequence[float] | None, known: list[Any]) -> None:
        if wanted is None:
            return
        if isinstance(wanted, str) or not isinstance(wanted, Iterable):
            raise InputError(f'{name} {wanted!r:.40} is not a list; write it like {known[:2]}')
        if not len(list(wanted)):
            raise InputError(f'{name} [] leave nothing of {self.name}; choose from {listed(known)}')
        for value in wanted:
            if value not in known:
                near = f'the nearest is {min(known, key=lambda v: abs(v - value))}, ' if is_number(value) else ''
                raise InputError(f'{name} {value!r:.40} is not in {self.name}; {near}choose from {listed(known)}')

    def _kept_stems(self, widths: int | None, deepest: bool) -> tuple[tuple[int, ...], ...]:
        """The stems with the `widths` largest widths of both convolutions; if `deepest`, only the deepest of them."""
        stems = self.stem_widths
        if deepest:
            stems = tuple(s for s in stems if len(s) == max(map(len, stems)))
        if widths:
            for end in (0, -1):
                kept = sorted({s[end] for s in stems})[-widths:]
                stems = tuple(s for s in stems if s[end] in kept)
        return stems

    # ---- rows and costs -------------------------------------------------------------------------------------------

    def rows(self, arch: Arch, num_classes: int | None = None) -> list[Row]:
        """The network line by line: stem, first block, every active block, last convolution, head."""
        return walk.rows(self, arch, num_classes or self.num_classes)

    def all_rows(self, resolution: int, num_classes: int | None = None) -> list[Row]:
        """Every distinct row that a network of this space can have at one resolution (px), in network order."""
        return walk.all_rows(self, resolution, num_classes or self.num_classes)

    @cached_property
    def row_cache(self) -> dict[tuple[Any, ...], Row]:
        """Rows of blocks that were made before."""
        return {}

    def macs(self, arch: Arch, num_classes: int | None = None) -> int:
        """Multiply-accumulates of all convolutions and linear layers for one image, exact."""
        return sum(row.macs for row in self.rows(arch, num_classes))

    def params(self, arch: Arch, num_classes: int | None = None) -> int:
        """The number of parameters, exact: `sum(p.numel() for p in model.parameters())` of the built network."""
        return sum(row.params for row in self.rows(arch, num_classes))

    def cost_table(self, price: Callable[[Row], float], num_classes: int | None = None,
                   total: Callable[[Iterable[float]], float] = sum) -> CostTable:
        """A table of the prices of rows, for thousands of networks at once. `total` joins the prices of a frame."""
        return tabulate(self, price, num_classes or self.num_classes, total)

    def arch_def(self, arch: Arch) -> list[list[str]]:
        """timm's architecture strings, one list for each stage, from which timm builds the stock network.

        MobileNetV3 lists the fixed first block and the last convolution too; EfficientNet lists only the first block.
        timm cannot decode the strings of ResNets and of spaces that were read off a network.
        """
        rows = self.rows(arch)
        if self.network:
            blocks = iter(row.block for row in rows[len(self.network.stem):])
            return [[next(blocks) for _ in range(depth)] for depth in arch.depth]
        blocks = iter(row.block for row in rows if row.kind == BLOCKS[self.family])
        stages = [[next(blocks) for _ in range(depth)] for depth in arch.depth]
        first = [[row.block] for row in rows if row.kind == 'ds']
        return [*first, *stages, *([[rows[-2].block]] if self.family == 'mobilenetv3' else [])]

    # ---- integer codes, which search and predictors use -------------------------------------------------------

    @cached_property
    def positions(self) -> tuple[tuple[int, int], ...]:
        """(stage, index in the stage) of each of the P positions."""
        return tuple((i, j) for i, s in enumerate(self.stages) for j in range(max(s.depths)))

    def choices(self, position: int) -> list[tuple[int, float]]:
        """(kernel_size, expand_ratio) of the codes 1, 2, ... of a block at this position."""
        stage, index = self.positions[position]
        return self.stages[stage].choices(index)

    @cached_property
    def choice_counts(self) -> np.ndarray:
        """The number of choices of a block at each position (P,)."""
        return np.array([len(self.choices(p)) for p in range(len(self.positions))])

    @cached_property
    def frame_sizes(self) -> tuple[int, ...]:
        """The number of choices of each part of a frame: resolution, stem, and the width of each stage."""
        return (len(self.resolutions), len(self.stem_widths), *(len(s.widths) for s in self.stages))

    @cached_property
    def frames(self) -> np.ndarray:
        """All frames (F, 2 + S): indices of the resolution, of the stem, and of the width of each stage."""
        return np.indices(self.frame_sizes).reshape(len(self.frame_sizes), -1).T

    def encode(self, archs: Iterable[Arch]) -> np.ndarray:
        """Archs -> codes (N, 1 + P) int64: the index of the frame, then one code for each position (0: inactive)."""
        return encode_archs(self, archs)

    def decode(self, codes: np.ndarray) -> list[Arch]:
        """The inverse of `encode`."""
        return decode_archs(self, codes)

    # ---- files ----------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The inverse of `from_dict`, ready for JSON."""
        return plain(self)

    @classmethod
    def from_dict(cls, data: object, where: str = 'space') -> SearchSpace:
        """A space from JSON data. Every field is checked; raises `InputError`, which begins with `where`."""
        return check_space(read(cls, data, where), where)
