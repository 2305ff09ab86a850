"""Search spaces as data: what may vary in a family of networks, and the one walk over each network.

A `SearchSpace` says what may vary, an `Arch` is one choice, `rows(arch)` is the walk over the network it names.
Pricing, building, extraction, measuring and the card all read that walk; nothing here knows torch.

Legend: S stages, P positions (the largest depths of all stages added up), R resolutions, N networks, F frames. A frame
is what a network has besides its blocks: the resolution, and the widths where they are elastic.
"""
from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, listed
from ..fields import number, plain, read
from .arch import MAX_RESOLUTION, MAX_WIDTH, Arch
from .rows import (
    Row,
    bottleneck_mid_chs,
    bottleneck_row,
    conv_row,
    head_row,
    make_divisible,
    mobile_row,
    pool_row,
    residual_conv_row,
)

SPACES_DIR = Path(__file__).parent
ACTS = ('re', 'r6', 'hs')  # timm's arch-def names: ReLU, ReLU6, hard-swish
FAMILIES = ('mobilenetv3', 'efficientnet', 'byobnet')  # timm's modules
MAX_FRAMES = 100_000
BLOCKS = {'mobilenetv3': 'ir', 'efficientnet': 'ir', 'byobnet': 'bottle'}


@dataclass(frozen=True)
class Stage:
    """A stage of elastic blocks: what is fixed, and the choices. The first block carries the stride."""
    block: str  # 'ir': inverted residual; 'bottle': ResNet bottleneck
    widths: tuple[int, ...]  # output channels; more than one: elastic, shared by the blocks of the stage
    stride: int
    act: str  # one of ACTS
    se_ratio: float  # of the expanded channels; 0: no squeeze-excite
    depths: tuple[int, ...]
    kernel_sizes: tuple[int, ...]
    expand_ratios: tuple[int | float, ...]  # middle channels: of the input ('ir') or of the output ('bottle')

    def mid_chs(self, in_chs: int, out_chs: int, expand_ratio: float) -> int:
        """Middle channels of a block."""
        if self.block == 'bottle':
            return bottleneck_mid_chs(out_chs, expand_ratio)
        return make_divisible(in_chs * expand_ratio)


@dataclass(frozen=True)
class First:
    """The fixed first block: depthwise 3x3, then linear 1x1; identity shortcut where shapes allow."""
    width: int
    stride: int
    act: str


@dataclass(frozen=True)
class CostTable:
    """An additive cost of every network of a space: one constant a frame plus one entry a block.

    `const` (F,), `table` (F, P, C): C = 1 + the most choices of a block; entry 0 is 'inactive' and costs nothing.
    """
    const: np.ndarray
    table: np.ndarray

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """Codes (N, 1 + P) as `SearchSpace.encode` gives -> cost (N,), in the unit of the table."""
        frame = codes[:, 0]
        blocks = self.table[frame[:, None], np.arange(self.table.shape[1]), codes[:, 1:]]
        return self.const[frame] + blocks.sum(1)

    def changes(self, codes: np.ndarray) -> np.ndarray:
        """What networks (N, 1 + P) would cost (N, P, C) if one block had each choice."""
        blocks = self.table[codes[:, 0]]
        return self(codes)[:, None, None] + (blocks - np.take_along_axis(blocks, codes[:, 1:, None], 2))


@dataclass(frozen=True)
class SearchSpace:
    """What may vary in a family of networks, and everything that may not. Read from `spaces/*.json`."""
    name: str
    family: str  # which timm class builds it, one of FAMILIES
    stem_widths: tuple[tuple[int, ...], ...]  # choices; channels of each 3x3 convolution, of three the middle one is
    stem_stride: int  # of the first convolution                                          residual (dropped by others)
    stem_pool: bool  # max-pool of stride 2 behind the stem
    first: First | None
    stages: tuple[Stage, ...]
    last_width: int  # 1x1 conv before the pool; 0: none
    num_features: int  # 1x1 conv after the pool; 0: none
    act: str  # of stem, last conv and head
    bn_eps: float = number(1e-12, 1)
    num_classes: int = number(1)  # default
    resolutions: tuple[int, ...]  # px; trained and searched
    extra_resolutions: tuple[int, ...]  # px; accepted for single networks, never drawn
    mean: tuple[float, float, float]
    std: tuple[float, float, float] = number(1e-6)
    crop_pct: float  # share of the image that evaluation sees
    source: str

    # ---- networks -------------------------------------------------------------------------------------------------

    @property
    def elastic_widths(self) -> bool:
        """Whether an arch of this family says its widths."""
        return self.family == 'byobnet'

    @property
    def reduction(self) -> int:
        """How many times the side of an image shrinks."""
        strides = (self.stem_stride, 1 + self.stem_pool, *(b.stride for b in (self.first, *self.stages) if b))
        return math.prod(strides)

    def size(self) -> int:
        """The exact number of distinct networks. Resolution does not count: it changes the input, not the network."""
        return len(self.stem_widths) * math.prod(
            len(s.widths) * sum((len(s.kernel_sizes) * len(s.expand_ratios)) ** depth for depth in s.depths)
            for s in self.stages)

    def max_arch(self, resolution: int | None = None) -> Arch:
        """The largest network, at the largest resolution unless given (px)."""
        return self._uniform_arch(max, resolution)

    def min_arch(self, resolution: int | None = None) -> Arch:
        """The smallest network, at the smallest resolution unless given (px)."""
        return self._uniform_arch(min, resolution)

    def _uniform_arch(self, pick: Callable, resolution: int | None) -> Arch:
        return self.check(Arch(
            pick(self.resolutions) if resolution is None else resolution,
            tuple((pick(s.kernel_sizes),) * pick(s.depths) for s in self.stages),
            tuple((pick(s.expand_ratios),) * pick(s.depths) for s in self.stages),
            *self._said_widths(pick(self.stem_widths, key=sum), [pick(s.widths) for s in self.stages])))

    def _said_widths(self, stem: Sequence[int], widths: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The fields `width` and `stem_width` of an arch: empty where nothing of it is elastic."""
        return (tuple(widths), tuple(stem)) if self.elastic_widths else ((), ())

    def widths(self, arch: Arch) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Channels of the stem's convolutions, and of each stage."""
        if self.elastic_widths:
            return arch.stem_width, arch.width
        return self.stem_widths[0], tuple(s.widths[0] for s in self.stages)

    def sample(self, rng: np.random.Generator, n: int | None = None) -> Arch | list[Arch]:
        """Random networks: resolution, each width and depth, and each active block's choices drawn uniformly."""
        archs = []
        for _ in range(1 if n is None else n):
            resolution = int(rng.choice(self.resolutions))
            depths = [int(rng.choice(s.depths)) for s in self.stages]
            kernels = tuple(tuple(rng.choice(s.kernel_sizes, d).tolist()) for s, d in zip(self.stages, depths))
            ratios = tuple(tuple(rng.choice(s.expand_ratios, d).tolist()) for s, d in zip(self.stages, depths))
            widths = ((), ())
            if self.elastic_widths:
                stem = self.stem_widths[rng.integers(len(self.stem_widths))]
                widths = self._said_widths(stem, [int(rng.choice(s.widths)) for s in self.stages])
            archs.append(Arch(resolution, kernels, ratios, *widths))
        return archs[0] if n is None else archs

    def check(self, arch: Arch) -> Arch:
        """The arch itself if it lies in this space; else `InputError` naming the field, the value and the choices."""
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
                choices = getattr(stage, f'{field}s')
                if len(values) not in stage.depths:
                    raise InputError(
                        f'{field} in stage {i} has {len(values)} blocks; {self.name} allows {listed(stage.depths)}')
                for value in values:
                    if value not in choices:
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
        """The inverse of `str(arch)`, e.g. 'r32:k3,3/5/3:e2,4/3/2'; the arch is checked."""
        return self.check(Arch.parse(text, example=str(self.min_arch())))

    def from_upstream(self, data: Mapping) -> Arch:
        """An arch of the original code; inactive positions are dropped.

        Args:
            data: 'e' (a value or one a position), 'd' (a value or one a stage) and 'r' ([px]) or 'image_size' (px).
                MobileNetV3 and ProxylessNAS: 'ks' as 'e'; 'wid' must be None. ResNet: 'd' counts blocks beyond the
                least and begins with the stem's (2 keeps its residual convolution); 'w' are indices of the widths of
                the stem's two convolutions and of the stages.
        """
        if self.name in space_names() and self.stages != load_space(self.name).stages:  # positions of the whole space
            return self.check(load_space(self.name).from_upstream(data))
        needed, known = ({'d', 'e', 'w'}, {'image_size'}) if self.elastic_widths else (
            {'d', 'e', 'ks'}, {'r', 'image_size', 'wid'})
        if not isinstance(data, Mapping):
            raise InputError(f'upstream arch {data!r:.120} is not an object; give the keys {listed(sorted(needed))}')
        for key in data:
            if key not in needed | known or (key == 'wid' and data['wid'] is not None):
                raise InputError(f'upstream {key!r:.40} ({data[key]!r:.60}) is no choice of {self.name}; '
                                 f'give the keys {listed(sorted(needed))}')
        for key in sorted(needed - set(data)):
            raise InputError(f'upstream {key!r} is missing; {self.name} needs the keys {listed(sorted(needed))}')
        resolution = data.get('r', data.get('image_size', max(self.resolutions)))
        if isinstance(resolution, (list, tuple)) and len(resolution) == 1:
            resolution = resolution[0]

        def spread(key: str, n: int) -> list:
            value = data[key]
            value = list(value) if isinstance(value, (list, tuple)) else [value] * n
            if len(value) != n:
                raise InputError(f'upstream {key!r} has {len(value)} entries; {self.name} needs {n}')
            return value

        slots = [max(s.depths) for s in self.stages]
        ratios, widths = spread('e', sum(slots)), ((), ())
        if self.elastic_widths:
            stem_depth, *depths = spread('d', 1 + len(slots))
            widths = self._upstream_widths(spread('w', 2 + len(slots)), keeps_residual=stem_depth == 2)
            depths = [d + s.depths[0] if _whole(d) else d for d, s in zip(depths, self.stages)]
            kernels = [s.kernel_sizes[0] for s in self.stages for _ in range(max(s.depths))]
        else:
            depths, kernels = spread('d', len(slots)), spread('ks', sum(slots))
        for depth, stage in zip(depths, self.stages):
            if not _whole(depth) or depth not in stage.depths:
                raise InputError(f"upstream 'd' {data['d']!r:.40} is not a depth of {self.name}: "
                                 f'{depth!r:.40} blocks, choose from {listed(stage.depths)}')
        starts = np.cumsum([0, *slots]).tolist()
        return self.check(Arch.from_dict({
            'resolution': resolution,
            'kernel_size': [kernels[a:a + d] for a, d in zip(starts, depths)],
            'expand_ratio': [ratios[a:a + d] for a, d in zip(starts, depths)],
            'width': widths[0], 'stem_width': widths[1]}))

    def _upstream_widths(self, index: list, keeps_residual: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
        inner, outer = (sorted({stem[end] for stem in self.stem_widths}) for end in (0, -1))
        inner = [inner[0]] * (len(outer) - len(inner)) + inner  # of the original's widths the smallest may coincide
        for i, choices in zip(index, (inner, outer, *(s.widths for s in self.stages))):
            if not _whole(i) or not 0 <= i < len(choices):
                raise InputError(f"upstream 'w' {i!r:.40} is not the index of a width; give 0 to {len(choices) - 1}")
        mid, out = inner[index[0]], outer[index[1]]
        return self._said_widths(
            (mid, mid, out) if keeps_residual else (mid, out), [s.widths[i] for s, i in zip(self.stages, index[2:])])

    def restrict(self, *, depths: Sequence[int] | None = None, deepest: int | None = None,
                 kernel_sizes: Sequence[int] | None = None, expand_ratios: Sequence[float] | None = None,
                 resolutions: Sequence[int] | None = None, widths: int | None = None) -> SearchSpace:
        """The same networks with fewer choices: what a phase of progressive shrinking, or a search, may draw.

        Each stage keeps the choices that are named, the `deepest` largest of its depths and the `widths` largest of its
        widths; a dimension in which a stage has no choice anyway is left alone. With a single depth an elastic stem
        keeps its residual convolution.
        """
        def keep(have: tuple, wanted: Sequence | None, name: str) -> tuple:
            if wanted is None or len(have) == 1:
                return have
            if isinstance(wanted, str) or not isinstance(wanted, Iterable):
                raise InputError(f'{name} {wanted!r:.40} is not a list; write it like {list(have[:2])}')
            kept = tuple(v for v in have if v in wanted)
            if not kept:
                raise InputError(f'{name} {listed(wanted)}: none is in {self.name}; choose from {listed(have)}')
            return kept

        for name, count in (('widths', widths), ('deepest', deepest)):
            if count is not None and (not _whole(count) or count < 1):
                raise InputError(f'{name} {count!r:.40} is not how many of the largest to keep; give 1 or more')
        stages = tuple(
            replace(
                s, depths=keep(s.depths, depths, 'depths')[-(deepest or len(s.depths)):],
                widths=s.widths[-(widths or len(s.widths)):],
                kernel_sizes=keep(s.kernel_sizes, kernel_sizes, 'kernel_sizes'),
                expand_ratios=keep(s.expand_ratios, expand_ratios, 'expand_ratios'))
            for s in self.stages)
        return replace(
            self, stages=stages, resolutions=keep(self.resolutions, resolutions, 'resolutions'),
            stem_widths=self._kept_stems(widths, all(len(s.depths) == 1 for s in stages)))

    def _kept_stems(self, widths: int | None, deepest: bool) -> tuple[tuple[int, ...], ...]:
        """The stems of the `widths` largest choices of each convolution, only the deepest ones if wished."""
        stems = self.stem_widths
        if deepest:
            stems = tuple(s for s in stems if len(s) == max(map(len, stems)))
        for end in (0, -1) if widths else ():
            kept = sorted({s[end] for s in stems})[-widths:]
            stems = tuple(s for s in stems if s[end] in kept)
        return stems

    # ---- the walk over a network ----------------------------------------------------------------------------------

    def rows(self, arch: Arch, num_classes: int | None = None) -> list[Row]:
        """The network line by line: stem, first block, every active block, last conv, head."""
        stem, widths = self.widths(arch)
        inputs = (self._block_input(stem), *widths)
        blocks = [
            self._elastic_row(arch.resolution, i, j > 0, inputs[i], widths[i], k, e)
            for i, (kernels, ratios) in enumerate(zip(arch.kernel_size, arch.expand_ratio))
            for j, (k, e) in enumerate(zip(kernels, ratios))]
        return [
            *self._rows_before(arch.resolution, stem), *blocks,
            *self._rows_after(arch.resolution, widths[-1], num_classes or self.num_classes)]

    def all_rows(self, resolution: int, num_classes: int | None = None) -> list[Row]:
        """Every distinct row that a network of this space can have at one resolution (px), in network order."""
        rows = [row for stem in self.stem_widths for row in self._rows_before(resolution, stem)]
        for i, s in enumerate(self.stages):
            later = [False, True] if max(s.depths) > 1 else [False]
            rows += [
                self._elastic_row(resolution, i, *choice)
                for choice in itertools.product(later, self._inputs(i), s.widths, s.kernel_sizes, s.expand_ratios)]
        for width in self.stages[-1].widths:
            rows += self._rows_after(resolution, width, num_classes or self.num_classes)
        return list(dict.fromkeys(rows))

    def macs(self, arch: Arch, num_classes: int | None = None) -> int:
        """Multiply-accumulates of convolutions and linear layers for one image, exact."""
        return sum(row.macs for row in self.rows(arch, num_classes))

    def params(self, arch: Arch, num_classes: int | None = None) -> int:
        """Parameters, exact (what `sum(p.numel() for p in model.parameters())` gives on the built network)."""
        return sum(row.params for row in self.rows(arch, num_classes))

    def arch_def(self, arch: Arch) -> list[list[str]]:
        """timm's architecture strings, one list a stage: what builds the stock network.

        MobileNetV3 begins with the fixed first block and ends with the last convolution, EfficientNet has that
        convolution elsewhere; for ResNets the strings go beyond what timm decodes.
        """
        rows = self.rows(arch)
        blocks = iter(row.block for row in rows if row.kind == BLOCKS[self.family])
        stages = [[next(blocks) for _ in range(depth)] for depth in arch.depth]
        first = [[row.block] for row in rows if row.kind == 'ds']
        return [*first, *stages, *([[rows[-2].block]] if self.family == 'mobilenetv3' else [])]

    def _sides(self, resolution: int) -> tuple[int, ...]:
        """Sides (px) that see: the stem, its pool, the first block, each stage, the rows behind them."""
        sides = [resolution]
        first_stride = self.first.stride if self.first else 1
        for stride in (self.stem_stride, 1 + self.stem_pool, first_stride, *(s.stride for s in self.stages)):
            sides.append(-(-sides[-1] // stride))
        return tuple(sides)

    def _block_input(self, stem: tuple[int, ...]) -> int:
        """Channels that the first stage sees behind a stem."""
        return self.first.width if self.first else stem[-1]

    def _inputs(self, stage: int) -> tuple[int, ...]:
        """Channels that a stage may see."""
        return self.stages[stage - 1].widths if stage else tuple(
            dict.fromkeys(self._block_input(stem) for stem in self.stem_widths))

    @cached_property
    def _row_cache(self) -> dict[tuple, Row]:
        return {}

    def _rows_before(self, resolution: int, stem: tuple[int, ...]) -> list[Row]:
        image, full, pooled, *_ = self._sides(resolution)
        rows = [conv_row(image, 3, stem[0], 3, self.stem_stride, self.act)]
        if len(stem) == 3:
            rows.append(residual_conv_row(full, stem[0], self.act))
        if len(stem) > 1:
            rows.append(conv_row(full, stem[-2], stem[-1], 3, 1, self.act))
        if self.stem_pool:
            rows.append(pool_row(full, stem[-1]))
        if self.first:
            rows.append(mobile_row(
                'ds', pooled, stem[-1], self.first.width, 3, self.first.stride, 1, self.first.act, 0))
        return rows

    def _rows_after(self, resolution: int, width: int, num_classes: int) -> list[Row]:
        side, rows = self._sides(resolution)[-1], []
        if self.last_width:
            rows.append(conv_row(side, width, self.last_width, 1, 1, self.act))
        return [*rows, head_row(side, self.last_width or width, self.num_features, num_classes, self.act)]

    def _elastic_row(self, resolution: int, stage: int, later: bool, in_chs: int, out_chs: int, kernel_size: int,
                     expand_ratio: float) -> Row:
        key = (resolution, stage, later, in_chs, out_chs, kernel_size, expand_ratio)
        cached = self._row_cache.get(key)
        if cached:
            return cached
        s, side = self.stages[stage], self._sides(resolution)[stage + (4 if later else 3)]
        stride, in_chs = (1, out_chs) if later else (s.stride, in_chs)
        shape = (side, in_chs, out_chs, kernel_size, stride, expand_ratio, s.act)
        row = bottleneck_row(*shape) if s.block == 'bottle' else mobile_row(s.block, *shape, s.se_ratio)
        self._row_cache[key] = row
        return row

    # ---- integer codes: what search and predictor work on ---------------------------------------------------------

    @cached_property
    def positions(self) -> tuple[tuple[int, int], ...]:
        """(stage, index in the stage) of each of the P positions."""
        return tuple((i, j) for i, s in enumerate(self.stages) for j in range(max(s.depths)))

    def choices(self, stage: int) -> list[tuple[int, float]]:
        """(kernel_size, expand_ratio) of the codes 1, 2, ... of a block in this stage."""
        s = self.stages[stage]
        return [(k, e) for k in s.kernel_sizes for e in s.expand_ratios]

    @cached_property
    def frame_sizes(self) -> tuple[int, ...]:
        """How many choices each part of a frame has: resolution, stem, width of each stage."""
        return (len(self.resolutions), len(self.stem_widths), *(len(s.widths) for s in self.stages))

    @cached_property
    def frames(self) -> np.ndarray:
        """Every frame (F, 2 + S): indices of the resolution, of the stem and of each stage's width."""
        return np.indices(self.frame_sizes).reshape(len(self.frame_sizes), -1).T

    def encode(self, archs: Iterable[Arch]) -> np.ndarray:
        """Archs -> codes (N, 1 + P) int64: index of the frame, then one code a position (0: inactive)."""
        archs = list(archs)
        resolution_code = {r: i for i, r in enumerate(self.resolutions)}
        block_codes = [{choice: c for c, choice in enumerate(self.choices(i), 1)} for i in range(len(self.stages))]
        codes = np.zeros((len(archs), 1 + len(self.positions)), dtype=np.int64)
        for n, arch in enumerate(archs):
            self.check(arch)
            if arch.resolution not in resolution_code:
                raise InputError(
                    f'resolution {arch.resolution} is outside what {self.name} searches: {listed(self.resolutions)}')
            stem, widths = self.widths(arch)
            codes[n, 0] = np.ravel_multi_index(
                (resolution_code[arch.resolution], self.stem_widths.index(stem),
                 *(s.widths.index(width) for s, width in zip(self.stages, widths))), self.frame_sizes)
            for p, (i, j) in enumerate(self.positions, 1):
                if j < len(arch.kernel_size[i]):
                    codes[n, p] = block_codes[i][arch.kernel_size[i][j], arch.expand_ratio[i][j]]
        return codes

    def decode(self, codes: np.ndarray) -> list[Arch]:
        """The inverse of `encode`."""
        choices = [[(0, 0), *self.choices(i)] for i in range(len(self.stages))]
        archs = []
        for row in np.asarray(codes).tolist():
            stages: list[list] = [[] for _ in self.stages]
            for code, (i, _) in zip(row[1:], self.positions):
                if code:
                    stages[i].append(choices[i][code])
            resolution, stem, *widths = (int(i) for i in np.unravel_index(row[0], self.frame_sizes))
            archs.append(Arch(
                self.resolutions[resolution],
                tuple(tuple(k for k, _ in stage) for stage in stages),
                tuple(tuple(e for _, e in stage) for stage in stages),
                *self._said_widths(self.stem_widths[stem], [s.widths[w] for s, w in zip(self.stages, widths)])))
        return archs

    def cost_table(self, price: Callable[[Row], float], num_classes: int | None = None,
                   total: Callable[[Iterable[float]], float] = sum) -> CostTable:
        """Tabulate a price of rows, so that thousands of networks are priced at once; `total` is of the constants."""
        resolution, stem, *widths = self.frames.T
        before = np.array([
            [total(map(price, self._rows_before(r, s))) for s in self.stem_widths] for r in self.resolutions])
        after = np.array([
            [total(map(price, self._rows_after(r, w, num_classes or self.num_classes))) for w in self.stages[-1].widths]
            for r in self.resolutions])
        most = max(len(self.choices(i)) for i in range(len(self.stages)))
        table = np.zeros((len(self.frames), len(self.positions), 1 + most))
        block_inputs = [self._inputs(0).index(self._block_input(s)) for s in self.stem_widths]
        for p, (i, j) in enumerate(self.positions):
            if j > 1:
                table[:, p] = table[:, p - 1]
                continue
            inputs = (np.array(block_inputs)[stem], *widths)[i]
            prices = self._block_prices(price, i, j > 0)
            table[:, p, 1:1 + prices.shape[-1]] = prices[resolution, 0 if j else inputs, widths[i]]
        ends = before[resolution, stem], after[resolution, widths[-1]]
        return CostTable(np.array([total(pair) for pair in zip(*ends)]), table)

    def _block_prices(self, price: Callable[[Row], float], stage: int, later: bool) -> np.ndarray:
        """Prices (R, inputs, widths, choices) of a block; a later one does not depend on the stage's input."""
        s, inputs = self.stages[stage], self._inputs(stage)
        return np.array([
            [[[price(self._elastic_row(r, stage, later, i, w, k, e)) for k, e in self.choices(stage)] for w in s.widths]
             for i in (inputs[:1] if later else inputs)] for r in self.resolutions], dtype=float)

    # ---- files ----------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict:
        """JSON-ready; the inverse of `from_dict`."""
        return plain(self)

    @classmethod
    def from_dict(cls, data: Mapping, where: str = 'space') -> SearchSpace:
        """A space from JSON data, every field checked; raises `InputError` naming the field."""
        space = read(cls, data, where)
        if space.family not in FAMILIES:
            raise InputError(f'{where}: family {space.family!r:.40} is unknown; choose from {listed(FAMILIES)}')
        if not space.stages or not space.resolutions:
            raise InputError(f'{where}: stages and resolutions must not be empty; add at least one each')
        space._check_form(where)
        fixed = [w for w in (space.first and space.first.width, space.last_width, space.num_features) if w]
        for width in (*fixed, *itertools.chain(*space.stem_widths, *(s.widths for s in space.stages))):
            if width % 8 or not 8 <= width <= MAX_WIDTH:
                raise InputError(
                    f'{where}: width {width} is not a multiple of 8 from 8 to {MAX_WIDTH}; round it to one')
        blocks = [b for b in (space.first, *space.stages) if b]
        for act in (space.act, *(b.act for b in blocks)):
            if act not in ACTS:
                raise InputError(f'{where}: act {act!r:.40} is unknown; choose from {listed(ACTS)}')
        for stride in (space.stem_stride, *(b.stride for b in blocks)):
            if stride not in (1, 2):
                raise InputError(f'{where}: stride {stride} is not 1 or 2; change it')
        if not 0.5 <= space.crop_pct <= 1:
            raise InputError(f'{where}: crop_pct {space.crop_pct} is not within 0.5 to 1; change it')
        for i, s in enumerate(space.stages, 1):
            s_block = BLOCKS[space.family]
            for name in ('widths', 'depths', 'kernel_sizes', 'expand_ratios'):
                values, limit = getattr(s, name), MAX_WIDTH if name == 'widths' else 16
                if not values or list(values) != sorted(set(values)) or not 0 < values[0] <= values[-1] <= limit:
                    raise InputError(f'{where}: {name} {list(values)} of stage {i} must ascend within 1 to {limit}')
            if s.block != s_block:
                raise InputError(f'{where}: block {s.block!r:.40} of stage {i} is unknown; use {s_block!r}')
            if any(k % 2 == 0 for k in s.kernel_sizes):
                raise InputError(f'{where}: kernel_sizes {list(s.kernel_sizes)} of stage {i} must be odd; change them')
            if not 0 <= s.se_ratio <= 1:
                raise InputError(f'{where}: se_ratio {s.se_ratio} of stage {i} is not within 0 to 1; change it')
        for resolution in (*space.resolutions, *space.extra_resolutions):
            if not 8 <= resolution <= MAX_RESOLUTION:
                raise InputError(f'{where}: resolution {resolution} is not within 8 to {MAX_RESOLUTION} px; change it')
        if list(space.resolutions) != sorted(set(space.resolutions)):
            raise InputError(f'{where}: resolutions {listed(space.resolutions)} must ascend; sort them')
        return space

    def _check_form(self, where: str) -> None:
        """What the family's class can build: raises `InputError` naming the field."""
        def refuse(field: str, value: object, cure: str) -> None:
            raise InputError(f'{where}: {field} {value!r:.80} does not fit the family {self.family}; {cure}')

        stems = self.stem_widths
        if self.family == 'byobnet':
            if not stems or len(set(stems)) < len(stems) or any(
                    len(s) not in (2, 3) or (len(s) == 3 and s[0] != s[1]) for s in stems):
                refuse('stem_widths', stems, 'give choices [mid, out] and [mid, mid, out], each once')
            combinations = math.prod(self.frame_sizes)
            if combinations > MAX_FRAMES:
                refuse('combinations of resolutions and widths', combinations, f'give at most {MAX_FRAMES}')
            for field in ('first', 'last_width', 'num_features'):
                if getattr(self, field):
                    refuse(field, getattr(self, field), 'give null or 0')
            for i, s in enumerate(self.stages):
                if s.se_ratio or len(s.kernel_sizes) > 1:
                    refuse(f'stage {i + 1}', (s.se_ratio, s.kernel_sizes), 'give se_ratio 0 and one kernel size')
                if s.stride == 1 and set(self._inputs(i)) & set(s.widths):
                    refuse('widths', s.widths, f'of stage {i + 1} some equal its input; its first block changes width')
            return
        if len(stems) != 1 or len(stems[0]) != 1:
            refuse('stem_widths', stems, 'give one choice of one convolution, [[16]]')
        if self.first is None or not self.last_width:
            refuse('first, last_width', (self.first, self.last_width), 'give both')
        if bool(self.num_features) != (self.family == 'mobilenetv3') or self.stem_pool:
            refuse('num_features, stem_pool', (self.num_features, self.stem_pool),
                   'MobileNetV3 has features behind the pool, EfficientNet has not, neither has a stem_pool')
        for i, s in enumerate(self.stages, 1):
            if len(s.widths) != 1:
                refuse('widths', s.widths, f'give one for stage {i}')


def _whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


@cache
def space_names() -> tuple[str, ...]:
    """The spaces on the shelf."""
    return tuple(sorted(path.stem for path in SPACES_DIR.glob('*.json')))


def load_space(name: str | Path | SearchSpace) -> SearchSpace:
    """A search space from the shelf by name, or from a JSON file by path; raises `InputError`."""
    if isinstance(name, SearchSpace):
        return name
    if str(name) in space_names():
        return _shelf_space(str(name))
    path = Path(str(name))
    if path.suffix != '.json' or not os.path.isfile(path):  # False for what can be no path
        raise InputError(
            f'search space {str(name)!r:.120} is not known; choose from {listed(space_names())}, or give a .json file')
    return _read_space(path)


def shelf_space(value: Any, where: str) -> SearchSpace:
    """A search space from untrusted data: the name of one on the shelf, or all of its fields."""
    if not isinstance(value, str):
        return SearchSpace.from_dict(value, where)
    if value not in space_names():  # a path would be followed otherwise
        raise InputError(f'{where}: {value!r:.60} is not known; give a whole space, or one of {listed(space_names())}')
    return load_space(value)


@cache
def _shelf_space(name: str) -> SearchSpace:
    return _read_space(SPACES_DIR / f'{name}.json')


def _read_space(path: Path) -> SearchSpace:
    try:
        data = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f'search space {str(path)!r:.120} is not JSON ({error}); mend the file') from None
    return SearchSpace.from_dict(data, f'search space {path.name}')
