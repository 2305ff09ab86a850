"""Search spaces as data, and the networks inside them as values.

A `SearchSpace` says what may vary, an `Arch` is one choice, `rows(arch)` is the one walk over the network it
names. Pricing, building, extraction, measuring and the card all read that walk; nothing here knows torch.

Legend: S stages, P positions (the largest depths of all stages added up), R resolutions, N networks.
"""
from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError, listed
from .fields import number, plain, read

SPACES_DIR = Path(__file__).parent / 'spaces'
ACTS = ('re', 'r6', 'hs')  # timm's arch-def names: ReLU, ReLU6, hard-swish
FAMILIES = ('mobilenetv3',)
MAX_RESOLUTION = 1024  # px; a border against nonsense, not a property of any network


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round to a multiple of `divisor`, never below 90 % of `value` (the MobileNet rule)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


@dataclass(frozen=True)
class Arch:
    """One network: the input side in px, and one tuple a stage with an entry for each *active* block.

    Equal archs are the same network. Depth is the length of a stage's tuple.
    """
    resolution: int  # px
    kernel_size: tuple[tuple[int, ...], ...]
    expand_ratio: tuple[tuple[float, ...], ...]

    @property
    def depth(self) -> tuple[int, ...]:
        return tuple(len(stage) for stage in self.kernel_size)

    def __str__(self) -> str:
        def join(stages: tuple[tuple[float, ...], ...]) -> str:
            return '/'.join(','.join(f'{v:g}' for v in stage) for stage in stages)
        return f'r{self.resolution}:k{join(self.kernel_size)}:e{join(self.expand_ratio)}'

    def to_dict(self) -> dict:
        """JSON-ready: resolution, kernel_size and expand_ratio, one list a stage."""
        return plain(self)

    @classmethod
    def from_dict(cls, data: Mapping) -> Arch:
        """The inverse of `to_dict`; raises `InputError` naming the field. Ranges are checked by `SearchSpace.check`."""
        names = [f.name for f in fields(cls)]
        if not isinstance(data, Mapping):
            raise InputError(f'arch {data!r:.80} is not an object; give the fields {listed(names)}')
        for name in data:
            if name not in names:
                raise InputError(f'arch field {name!r:.80} is unknown; give exactly {listed(names)}')
        for name in names:
            if name not in data:
                raise InputError(f'arch field {name!r} is missing; give exactly {listed(names)}')
        return cls(
            _integer(data['resolution'], 'resolution'),
            _stages(data['kernel_size'], 'kernel_size', _integer),
            _stages(data['expand_ratio'], 'expand_ratio', _ratio),
        )


def _integer(value, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise InputError(f'{name} {value!r:.80} is not a whole number; write it like 3')
    if not 0 < value <= MAX_RESOLUTION:
        raise InputError(f'{name} {value!r:.80} is out of range; give 1 to {MAX_RESOLUTION}')
    return int(value)


def _ratio(value, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise InputError(f'{name} {value!r:.80} is not a number; write it like 4')
    if not 0 < value <= 64:
        raise InputError(f'{name} {value!r:.80} is out of range; give a ratio above 0 and up to 64')
    return int(value) if value == int(value) else float(value)


def _stages(value, name: str, convert: Callable) -> tuple:
    if not isinstance(value, (list, tuple)) or not all(isinstance(stage, (list, tuple)) for stage in value):
        raise InputError(f'{name} {value!r:.80} is not a list of lists; give one list a stage, an entry a block')
    return tuple(tuple(convert(v, f'{name} in stage {i + 1}') for v in stage) for i, stage in enumerate(value))


@dataclass(frozen=True)
class Stage:
    """A stage of elastic blocks: what is fixed, and the choices. The first block carries the stride."""
    block: str  # timm block type; 'ir' is the inverted residual
    width: int  # output channels
    stride: int
    act: str  # one of ACTS
    se_ratio: float  # of the expanded channels; 0: no squeeze-excite
    depths: tuple[int, ...]
    kernel_sizes: tuple[int, ...]
    expand_ratios: tuple[int | float, ...]


@dataclass(frozen=True)
class First:
    """The fixed first block: depthwise 3x3, then linear 1x1; identity shortcut where shapes allow."""
    width: int
    stride: int
    act: str


@dataclass(frozen=True)
class Row:
    """One line of a network: `block` in timm's arch-def grammar, at a given input shape.

    `kind` is 'conv' (conv, BN, act), 'ds' (depthwise separable), 'ir' (inverted residual) or 'head'
    (global pool, 1x1 conv without bias, act, linear).
    """
    kind: str
    block: str
    size: int  # input side, px
    in_chs: int
    out_size: int
    out_chs: int  # 'head': the classes
    kernel_size: int
    stride: int
    mid_chs: int  # depthwise channels; 'head': features; 'conv': 0
    se_chs: int  # 0: none
    act: str
    skip: bool
    macs: int
    params: int

    @property
    def key(self) -> str:
        """The name under which a device profile prices this row, e.g. '56x56x24/ir_r1_k5_s2_e3_c40_se0.25_nre'."""
        return f'{self.size}x{self.size}x{self.in_chs}/{self.block}'


def _conv_row(size: int, in_chs: int, out_chs: int, kernel_size: int, stride: int, act: str) -> Row:
    out = -(-size // stride)
    return Row(
        'conv', f'cn_r1_k{kernel_size}_s{stride}_c{out_chs}_n{act}', size, in_chs, out, out_chs, kernel_size, stride,
        0, 0, act, False,
        macs=in_chs * out_chs * kernel_size**2 * out**2,
        params=in_chs * out_chs * kernel_size**2 + 2 * out_chs)


def _block_row(kind: str, size: int, in_chs: int, out_chs: int, kernel_size: int, stride: int, expand_ratio: float,
               act: str, se_ratio: float) -> Row:
    out = -(-size // stride)
    expands = kind == 'ir'
    mid = make_divisible(in_chs * expand_ratio)
    se = make_divisible(mid * se_ratio) if se_ratio else 0
    se_part = f'_se{se_ratio:g}' if se else ''
    macs = (in_chs * mid * size**2 if expands else 0) + (kernel_size**2 * mid + mid * out_chs) * out**2 + 2 * mid * se
    params = (in_chs * mid + 2 * mid if expands else 0) + (kernel_size**2 + 2) * mid + (mid + 2) * out_chs
    return Row(
        kind, f'{kind}_r1_k{kernel_size}_s{stride}_e{expand_ratio:g}_c{out_chs}{se_part}_n{act}', size, in_chs, out,
        out_chs, kernel_size, stride, mid, se, act, stride == 1 and in_chs == out_chs,
        macs=macs, params=params + (2 * mid * se + mid + se if se else 0))


def _head_row(size: int, in_chs: int, num_features: int, num_classes: int, act: str) -> Row:
    return Row(
        'head', f'head_c{num_features}_n{act}_{num_classes}', size, in_chs, 1, num_classes, 1, 1, num_features, 0, act,
        False, macs=num_features * (in_chs + num_classes), params=num_features * (in_chs + num_classes) + num_classes)


@dataclass(frozen=True)
class CostTable:
    """An additive cost of every network of a space: one constant a resolution plus one entry a block.

    `const` (R,), `table` (R, P, C): C = 1 + the most choices of a block; entry 0 is 'inactive' and costs nothing.
    """
    const: np.ndarray
    table: np.ndarray

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """Codes (N, 1 + P) as `SearchSpace.encode` gives -> cost (N,), in the unit of the table."""
        resolution = codes[:, 0]
        blocks = self.table[resolution[:, None], np.arange(self.table.shape[1]), codes[:, 1:]]
        return self.const[resolution] + blocks.sum(1)


@dataclass(frozen=True)
class SearchSpace:
    """What may vary in a family of networks, and everything that may not. Read from `spaces/*.json`."""
    name: str
    family: str  # which timm class builds it, one of FAMILIES
    stem_width: int
    stem_stride: int
    first: First
    stages: tuple[Stage, ...]
    last_width: int  # 1x1 conv before the pool
    num_features: int  # 1x1 conv after the pool
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

    def size(self) -> int:
        """The exact number of distinct networks. Resolution does not count: it changes the input, not the network."""
        return math.prod(
            sum((len(s.kernel_sizes) * len(s.expand_ratios)) ** depth for depth in s.depths) for s in self.stages)

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
            tuple((pick(s.expand_ratios),) * pick(s.depths) for s in self.stages)))

    def sample(self, rng: np.random.Generator, n: int | None = None) -> Arch | list[Arch]:
        """Random networks: resolution, each depth and each active block's choices drawn uniformly, as the original."""
        archs = []
        for _ in range(1 if n is None else n):
            resolution = int(rng.choice(self.resolutions))
            depths = [int(rng.choice(s.depths)) for s in self.stages]
            archs.append(Arch(
                resolution,
                tuple(tuple(rng.choice(s.kernel_sizes, d).tolist()) for s, d in zip(self.stages, depths)),
                tuple(tuple(rng.choice(s.expand_ratios, d).tolist()) for s, d in zip(self.stages, depths))))
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
        return arch

    def parse(self, text: str) -> Arch:
        """The inverse of `str(arch)`, e.g. 'r32:k3,3/5/3:e2,4/3/2'; the arch is checked."""
        example = str(self.min_arch())
        try:
            resolution, kernels, ratios = str(text).strip().split(':')
            if (resolution[0], kernels[0], ratios[0]) != ('r', 'k', 'e'):
                raise ValueError
            arch = Arch(
                int(resolution[1:]),
                tuple(tuple(int(v) for v in stage.split(',')) for stage in kernels[1:].split('/')),
                tuple(
                    tuple(_ratio(float(v), 'expand_ratio') for v in stage.split(','))
                    for stage in ratios[1:].split('/')))
        except InputError:
            raise
        except (ValueError, IndexError):
            raise InputError(f'arch {text!r:.120} cannot be read; write it like {example}') from None
        return self.check(arch)

    def from_upstream(self, data: Mapping) -> Arch:
        """An arch of the original code: 'ks', 'e' (a value or one a position), 'd' (a value or one a stage) and
        'r' ([px]) or 'image_size' (px); inactive positions are dropped. 'wid' must be None."""
        known = {'ks', 'e', 'd', 'r', 'image_size', 'wid'}
        if not isinstance(data, Mapping) or not {'ks', 'e', 'd'} <= set(data) <= known or data.get('wid') is not None:
            raise InputError(f"upstream arch {str(data)!r:.120} needs the keys 'ks', 'e', 'd' and 'r' or 'image_size'")
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
        depths, kernels, ratios = spread('d', len(slots)), spread('ks', sum(slots)), spread('e', sum(slots))
        starts = np.cumsum([0, *slots]).tolist()
        for depth, stage in zip(depths, self.stages):
            if depth not in stage.depths:
                raise InputError(f"upstream 'd' {depth!r:.40} is not a depth of {self.name}: {listed(stage.depths)}")
        return self.check(Arch.from_dict({
            'resolution': resolution,
            'kernel_size': [kernels[a:a + d] for a, d in zip(starts, depths)],
            'expand_ratio': [ratios[a:a + d] for a, d in zip(starts, depths)]}))

    def restrict(self, *, depths: Sequence[int] | None = None, kernel_sizes: Sequence[int] | None = None,
                 expand_ratios: Sequence[float] | None = None, resolutions: Sequence[int] | None = None) -> SearchSpace:
        """The same networks with fewer choices: what a phase of progressive shrinking, or a search, may draw.

        Each stage keeps the choices that are named; a dimension in which a stage has no choice anyway is left alone.
        """
        def keep(have: tuple, wanted: Sequence | None, name: str) -> tuple:
            if wanted is None or len(have) == 1:
                return have
            kept = tuple(v for v in have if v in wanted)
            if not kept:
                raise InputError(f'{name} {listed(wanted)}: none is in {self.name}; choose from {listed(have)}')
            return kept

        stages = tuple(
            replace(
                s, depths=keep(s.depths, depths, 'depths'),
                kernel_sizes=keep(s.kernel_sizes, kernel_sizes, 'kernel_sizes'),
                expand_ratios=keep(s.expand_ratios, expand_ratios, 'expand_ratios'))
            for s in self.stages)
        return replace(self, stages=stages, resolutions=keep(self.resolutions, resolutions, 'resolutions'))

    # ---- the walk over a network ----------------------------------------------------------------------------------

    def rows(self, arch: Arch, num_classes: int | None = None) -> list[Row]:
        """The network line by line: stem, first block, every active block, last conv, head."""
        before, after = self._fixed_rows(arch.resolution, num_classes or self.num_classes)
        blocks = [
            self._elastic_row(arch.resolution, i, j > 0, k, e)
            for i, (kernels, ratios) in enumerate(zip(arch.kernel_size, arch.expand_ratio))
            for j, (k, e) in enumerate(zip(kernels, ratios))]
        return [*before, *blocks, *after]

    def all_rows(self, resolution: int, num_classes: int | None = None) -> list[Row]:
        """Every distinct row that a network of this space can have at one resolution (px), in network order."""
        before, after = self._fixed_rows(resolution, num_classes or self.num_classes)
        blocks = [
            self._elastic_row(resolution, i, later, k, e)
            for i, s in enumerate(self.stages) for later in ([False, True] if max(s.depths) > 1 else [False])
            for k in s.kernel_sizes for e in s.expand_ratios]
        return list(dict.fromkeys([*before, *blocks, *after]))

    def macs(self, arch: Arch, num_classes: int | None = None) -> int:
        """Multiply-accumulates of convolutions and linear layers for one image, exact."""
        return sum(row.macs for row in self.rows(arch, num_classes))

    def params(self, arch: Arch, num_classes: int | None = None) -> int:
        """Parameters, exact (what `sum(p.numel() for p in model.parameters())` gives on the built network)."""
        return sum(row.params for row in self.rows(arch, num_classes))

    def arch_def(self, arch: Arch) -> list[list[str]]:
        """timm's architecture strings, one list a stage: what builds the stock network."""
        rows = self.rows(arch)
        blocks = iter(rows[2:-2])
        stages = [[next(blocks).block for _ in range(depth)] for depth in arch.depth]
        return [[rows[1].block], *stages, [rows[-2].block]]

    def _sides(self, resolution: int) -> tuple[int, ...]:
        """Input sides (px) of: stem, first block, each stage; then the side that the last conv sees."""
        sides = [resolution]
        for stride in (self.stem_stride, self.first.stride, *(s.stride for s in self.stages)):
            sides.append(-(-sides[-1] // stride))
        return tuple(sides)

    @cached_property
    def _row_cache(self) -> dict[tuple, Row | tuple]:
        return {}

    def _fixed_rows(self, resolution: int, num_classes: int) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
        cached = self._row_cache.get((resolution, num_classes))
        if cached:
            return cached
        sides = self._sides(resolution)
        before = (
            _conv_row(resolution, 3, self.stem_width, 3, self.stem_stride, self.act),
            _block_row('ds', sides[1], self.stem_width, self.first.width, 3, self.first.stride, 1, self.first.act, 0))
        after = (
            _conv_row(sides[-1], self.stages[-1].width, self.last_width, 1, 1, self.act),
            _head_row(sides[-1], self.last_width, self.num_features, num_classes, self.act))
        self._row_cache[resolution, num_classes] = before, after
        return before, after

    def _elastic_row(self, resolution: int, stage: int, later: bool, kernel_size: int, expand_ratio: float) -> Row:
        key = (resolution, stage, later, kernel_size, expand_ratio)
        cached = self._row_cache.get(key)
        if cached:
            return cached
        s, sides = self.stages[stage], self._sides(resolution)
        in_chs = s.width if later else (self.stages[stage - 1].width if stage else self.first.width)
        self._row_cache[key] = row = _block_row(
            s.block, sides[stage + (3 if later else 2)], in_chs, s.width, kernel_size, 1 if later else s.stride,
            expand_ratio, s.act, s.se_ratio)
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

    def encode(self, archs: Iterable[Arch]) -> np.ndarray:
        """Archs -> codes (N, 1 + P) int64: index of the resolution, then one code a position (0: inactive)."""
        archs = list(archs)
        resolution_code = {r: i for i, r in enumerate(self.resolutions)}
        block_codes = [{choice: c for c, choice in enumerate(self.choices(i), 1)} for i in range(len(self.stages))]
        codes = np.zeros((len(archs), 1 + len(self.positions)), dtype=np.int64)
        for n, arch in enumerate(archs):
            self.check(arch)
            if arch.resolution not in resolution_code:
                raise InputError(
                    f'resolution {arch.resolution} is outside what {self.name} searches: {listed(self.resolutions)}')
            codes[n, 0] = resolution_code[arch.resolution]
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
            archs.append(Arch(
                self.resolutions[row[0]],
                tuple(tuple(k for k, _ in stage) for stage in stages),
                tuple(tuple(e for _, e in stage) for stage in stages)))
        return archs

    def cost_table(self, price: Callable[[Row], float], num_classes: int | None = None) -> CostTable:
        """Tabulate a price of rows, so that thousands of networks are priced at once."""
        most = max(len(self.choices(i)) for i in range(len(self.stages)))
        const = np.zeros(len(self.resolutions))
        table = np.zeros((len(self.resolutions), len(self.positions), 1 + most))
        for r, resolution in enumerate(self.resolutions):
            before, after = self._fixed_rows(resolution, num_classes or self.num_classes)
            const[r] = sum(price(row) for row in (*before, *after))
            for p, (i, j) in enumerate(self.positions):
                if j > 1:
                    table[r, p] = table[r, p - 1]
                    continue
                for c, (k, e) in enumerate(self.choices(i), 1):
                    table[r, p, c] = price(self._elastic_row(resolution, i, j > 0, k, e))
        return CostTable(const, table)

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
        ends = (space.stem_width, space.first.width, space.last_width, space.num_features)
        for width in (*ends, *(s.width for s in space.stages)):
            if width % 8 or not 8 <= width <= 8192:
                raise InputError(f'{where}: width {width} is not a multiple of 8 from 8 to 8192; round it to one')
        for act in (space.act, space.first.act, *(s.act for s in space.stages)):
            if act not in ACTS:
                raise InputError(f'{where}: act {act!r:.40} is unknown; choose from {listed(ACTS)}')
        for stride in (space.stem_stride, space.first.stride, *(s.stride for s in space.stages)):
            if stride not in (1, 2):
                raise InputError(f'{where}: stride {stride} is not 1 or 2; change it')
        if not 0.5 <= space.crop_pct <= 1:
            raise InputError(f'{where}: crop_pct {space.crop_pct} is not within 0.5 to 1; change it')
        for i, s in enumerate(space.stages, 1):
            for name in ('depths', 'kernel_sizes', 'expand_ratios'):
                values = getattr(s, name)
                if not values or list(values) != sorted(set(values)) or not 0 < values[0] <= values[-1] <= 16:
                    raise InputError(f'{where}: {name} {list(values)} of stage {i} must ascend within 1 to 16')
            if s.block != 'ir':
                raise InputError(f"{where}: block {s.block!r:.40} of stage {i} is unknown; use 'ir'")
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


def space_names() -> list[str]:
    """The spaces on the shelf."""
    return sorted(path.stem for path in SPACES_DIR.glob('*.json'))


def load_space(name: str | Path | SearchSpace) -> SearchSpace:
    """A search space from the shelf by name, or from a JSON file by path; raises `InputError`."""
    if isinstance(name, SearchSpace):
        return name
    return _load_space(str(name))


def shelf_space(value: Any, where: str) -> SearchSpace:
    """A search space from untrusted data: the name of one on the shelf, or all of its fields."""
    if not isinstance(value, str):
        return SearchSpace.from_dict(value, where)
    if value not in space_names():  # a path would be followed otherwise
        raise InputError(f'{where}: {value!r:.60} is not known; give a whole space, or one of {listed(space_names())}')
    return load_space(value)


@lru_cache(maxsize=64)
def _load_space(name: str) -> SearchSpace:
    path = SPACES_DIR / f'{name}.json' if name in space_names() else Path(name)
    if path.suffix != '.json' or not path.is_file():
        raise InputError(
            f'search space {name!r:.120} is not known; choose from {listed(space_names())}, or give a .json file')
    try:
        data = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f'search space {name!r:.120} is not JSON ({error}); mend the file') from None
    return SearchSpace.from_dict(data, f'search space {path.name}')
