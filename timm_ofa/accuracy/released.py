"""The accuracy predictors that the authors of Once-for-All released.

Legend: N networks, P positions, F frames, C choices of a block, I inputs that are on, A names of the same network,
H outputs of the first layer.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import InputError, listed
from ..files import fetch
from ..spaces import SearchSpace, load_space
from .numbering import Predictor
from .predictor_files import write_predictor

RELEASED_URL = 'https://raw.githubusercontent.com/han-cai/files/master/ofa/'
LAYER = ('weight', 'bias')


@dataclass(frozen=True)
class Released:
    """A predictor that the authors of Once-for-All released: where it is and what is in it."""
    file: str
    sha256: str
    layers: tuple[tuple[str, str], ...]  # names of weight and bias, from the first layer to the last
    shapes: tuple[tuple[int, int], ...]  # of the weights
    resolutions: Mapping[int, int]  # px that it was trained for -> number of the input
    saturates: bool  # its last layers limit what it can say


RELEASED = {  # by search space
    'ofa_mbv3_w12': Released(
        'acc_predictor.pth', '48685122a3540636b06699af66cd816456b25f29b69563e2fda9bed4018eeba0',
        tuple((f'{i}.weight', f'{i}.bias') for i in (0, 2, 4, 6)), ((400, 128), (400, 400), (400, 400), (1, 400)),
        {r: 120 + (r - 112) // 16 for r in (160, 176, 192, 208, 224)}, saturates=False),
    'ofa_resnet50d': Released(
        'ofa_resnet50_acc_predictor.pth', '68912b4b4be38feb504c5b773dc847af23a637984d5eaabf548de72cd0f79529',
        (*((f'layers.{i}.0.weight', f'layers.{i}.0.bias') for i in range(3)), ('layers.3.weight', 'base_acc')),
        ((400, 82), (400, 400), (400, 400), (1, 400)),
        {r: i for i, r in enumerate((128, 144, 160, 176, 192, 224, 240, 256))}, saturates=True)}


class UpstreamPredictor(Predictor):
    """A released predictor, of MobileNetV3 of width 1.2 or of ResNet50D: an MLP over one-hot choices.

    It learned accuracies on 10,000 images held out of training, which are 4 to 5 points above validation accuracy. It
    refuses resolutions that it does not know: for MobileNetV3 it knows 160 to 224 px in steps of 16 (its inputs for 112
    to 144 px were never trained), for ResNet50D 128, 144, 160, 176, 192, 224, 240 and 256 px.

    For ResNet50D it says at most `ceiling_pct`, 82.987 %, which the best networks of 2.8 G MACs reach; a search above
    this is blind. Two of its inputs are the same network, if the stem has 24 channels inside; then it gives the mean of
    both, which differ by less than 0.003 points.
    """

    def __init__(self, space: SearchSpace, layers: Sequence[tuple[np.ndarray, np.ndarray]]):
        """`layers`: (weight (out, in), bias (out,)) from the first to the last; raises `InputError` for any others."""
        self.space, self.layers, self.released = load_space(space.name), layers, RELEASED[space.name]
        self.seen = self.released.resolutions
        self._check_layers()
        encode = _resnet_inputs if self.space.elastic_widths else _mobilenet_inputs
        self._frame_inputs, self._block_inputs = encode(self.space, self.released.resolutions)
        self._block_weights: tuple[SearchSpace, np.ndarray] | None = None  # what `_weights_of` gave last

    def _check_layers(self) -> None:
        shapes = [getattr(weight, 'shape', None) for weight, _ in self.layers]
        fits = shapes == list(self.released.shapes) and all(
            getattr(bias, 'shape', None) == weight.shape[:1] and weight.dtype == bias.dtype == np.float32
            and np.isfinite(weight).all() and np.isfinite(bias).all() for weight, bias in self.layers)
        if not fits:
            raise InputError(f'a predictor of {self.space.name} with layers of {shapes} was not released; '
                             f'give {self.released.file}')

    @property
    def ceiling_pct(self) -> float | None:
        """The most that it can say in percent if it saturates: what its last layers give when the others give 0."""
        (_, bias), (weight, last_bias) = self.layers[-2:]
        return 100 * float((weight @ np.maximum(bias, 0) + last_bias)[0]) if self.released.saturates else None

    def predict_codes(self, codes: np.ndarray, space: SearchSpace) -> np.ndarray:
        return self.predict_inputs(self.own_codes(codes, space)).mean(0)

    def predict_inputs(self, codes: np.ndarray) -> np.ndarray:
        """Top-1 (A, N) in percent of codes (N, 1 + P) of the own space, for each of the A inputs of a network."""
        for i in np.unique(self.space.frames[codes[:, 0], 0]):
            if self.space.resolutions[i] not in self.released.resolutions:
                raise InputError(f'resolution {self.space.resolutions[i]} is untrained in the released predictor; '
                                 f'choose {listed(self.released.resolutions)}')
        blocks = self._block_inputs[np.arange(codes.shape[1] - 1), codes[:, 1:]].reshape(len(codes), -1)
        return np.stack([self._infer(np.concatenate([f[codes[:, 0]], blocks], 1)) for f in self._frame_inputs])

    def block_slopes(self, codes: np.ndarray, space: SearchSpace) -> np.ndarray:
        """What each choice of each block adds (N, P, C) to top-1 in points, to first order at codes (N, 1 + P).

        This is the gradient of the MLP at the first input of a network. Choice 0 is no block, and adds nothing.
        """
        own = self.own_codes(codes, space)
        blocks = self._block_inputs[np.arange(own.shape[1] - 1), own[:, 1:]].reshape(len(own), -1)
        hidden = [self._first(np.concatenate([self._frame_inputs[0][own[:, 0]], blocks], 1))]
        for weight, bias in self.layers[1:-1]:
            hidden.append(np.maximum(hidden[-1], 0) @ weight.T)
            hidden[-1] += bias
        slopes = self.layers[-1][0]
        for x, (weight, _) in zip(hidden[:0:-1], self.layers[-2:0:-1]):
            slopes = (slopes * (x > 0)) @ weight
        slopes = slopes * (hidden[0] > 0)
        weights = self._weights_of(space)
        return (100 * slopes @ weights.reshape(-1, weights.shape[2]).T).reshape(len(own), *weights.shape[:2])

    def _weights_of(self, space: SearchSpace) -> np.ndarray:
        """Weights (P, C, H) of the first layer for each choice of each block of a restricted space."""
        if self._block_weights is None or self._block_weights[0] is not space:
            sizes = 1 + space.choice_counts
            own = np.zeros((len(sizes), sizes.max(), 1 + len(self.space.positions)), dtype=np.int64)
            for c in range(1, sizes.max()):
                codes = np.diag(np.minimum(c, sizes - 1))
                own[:, c] = self.own_codes(np.concatenate([np.zeros_like(codes[:, :1]), codes], 1), space)
            inputs = self._block_inputs[np.arange(own.shape[2] - 1), own[..., 1:]]
            self._block_weights = space, self._table[inputs].sum((2, 3))
        return self._block_weights[1]

    @cached_property
    def _table(self) -> np.ndarray:
        """What each input adds to the first layer (inputs + 1, H). The last row is zero, for no input."""
        weight = self.layers[0][0]
        return np.vstack([weight.T, np.zeros_like(weight.T[:1])])

    def _first(self, inputs: np.ndarray) -> np.ndarray:
        """The first layer (N, H) if these inputs (N, I) are on; -1: no input."""
        table = self._table
        x = np.zeros((len(inputs), len(table)), dtype=table.dtype)
        x[np.arange(len(inputs))[:, None], inputs] = 1
        x = x @ table
        x += self.layers[0][1]
        return x

    def _infer(self, inputs: np.ndarray) -> np.ndarray:
        """Top-1 (N,) in percent if these inputs (N, I) are on; -1: no input."""
        x = self._first(inputs)
        for weight, bias in self.layers[1:]:
            x = np.maximum(x, 0, out=x) @ weight.T
            x += bias
        return 100 * x[:, 0].astype(float)

    def save(self, path: str | Path) -> None:
        """Write `path` (.safetensors) and a readable .json beside it, for `load_predictor`."""
        arrays = {f'{i}.{name}': a for i, layer in enumerate(self.layers) for name, a in zip(LAYER, layer)}
        write_predictor(path, arrays, {
            'kind': 'released', 'space': self.space.name, 'source': RELEASED_URL + self.released.file,
            'ceiling_pct': self.ceiling_pct})

    @classmethod
    def from_file(cls, about: Mapping, arrays: Mapping[str, np.ndarray], name: str) -> UpstreamPredictor:
        """The predictor of a file with this name, if `save` would have written it."""
        space = about.get('space')
        if not isinstance(space, str) or space not in RELEASED:
            raise InputError(f'predictor {name!r:.120}: no predictor of {space!r:.60} was released; import it again')
        missing = np.empty(0)  # has the shape of no layer
        layers = [(arrays.get(f'{i}.{LAYER[0]}', missing), arrays.get(f'{i}.{LAYER[1]}', missing))
                  for i in range(len(RELEASED[space].layers))]
        return cls(load_space(space), layers)


def _mobilenet_inputs(space: SearchSpace, slots: Mapping[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of a frame (1, F, 1) and of a block (P, C, 2): resolutions; kernel sizes and expand ratios; -1: none."""
    frames = np.array([[[slots.get(r, -1)] for r in space.resolutions]])
    position, choice = np.arange(len(space.positions))[:, None], np.arange(9)
    blocks = np.full((len(position), 10, 2), -1)
    blocks[:, 1:, 0], blocks[:, 1:, 1] = 3 * position + choice // 3, 60 + 3 * position + choice % 3
    return frames, blocks


def _resnet_inputs(space: SearchSpace, slots: Mapping[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of a frame (2, F, 8) and of a block (P, C, 1); -1: none. Of a frame: resolutions, whether the stem has its
    residual convolution, widths; of a block: expand ratios. Inputs 10 and 11 are the same width inside the stem."""
    resolution, stem, *widths = space.frames.T
    inner, outer = (sorted({s[end] for s in space.stem_widths}) for end in (0, -1))
    stems = np.array([(8 + len(s) - 2, 11 + inner.index(s[0]), 13 + outer.index(s[-1])) for s in space.stem_widths])
    stages = np.stack(widths, 1) + 16 + 3 * np.arange(len(widths))
    slot = np.array([slots.get(r, -1) for r in space.resolutions])[resolution]
    frames = np.concatenate([slot[:, None], stems[stem], stages], 1)
    twin = np.where(frames == 11, 10, frames)
    blocks = np.full((len(space.positions), 4, 1), -1)
    blocks[:, 1:, 0] = 28 + 3 * np.arange(len(space.positions))[:, None] + np.arange(3)
    return np.stack([twin, frames]), blocks


def load_upstream_predictor(path: str | Path | None, space: str | SearchSpace) -> UpstreamPredictor:
    """A released predictor: `acc_predictor.pth` for ofa_mbv3_w12, `ofa_resnet50_acc_predictor.pth` for ofa_resnet50d.

    Only tensors are read; any other file or space is an `InputError`. Without a path the file is fetched once from the
    authors' address into timm's cache.
    """
    import torch

    space = load_space(space)
    if space.name not in RELEASED:
        raise InputError(
            f'the released predictors are of {listed(RELEASED)}, not of {space.name!r:.60}; fit one for it')
    released = RELEASED[space.name]
    path = path or _fetch_released(space.name)
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
        layers = [(state[weight].numpy(), state[bias].numpy()) for weight, bias in released.layers]
    except Exception as error:  # unpickling what is no checkpoint raises nearly anything
        raise InputError(f'predictor {str(path)!r:.120} is not the released {released.file} '
                         f'({type(error).__name__}); download it again') from None
    if len(state) != 2 * len(layers):
        raise InputError(f'predictor {str(path)!r:.120} has {len(state)} tensors; give the released {released.file}')
    return UpstreamPredictor(space, layers)


def _fetch_released(space: str) -> Path:
    """The path of the released predictor of a space in timm's cache."""
    from timm.models._hub import get_cache_dir

    released = RELEASED[space]
    name = f'{space}-{Path(released.file).stem}-{released.sha256[:12]}.pth'
    path = Path(get_cache_dir()) / name
    return path if path.is_file() else fetch(RELEASED_URL + released.file, path, released.sha256)
