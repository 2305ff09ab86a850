"""Any predictor by its name or file."""
from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from ..spaces import SearchSpace
from .additive import AdditivePredictor
from .gaussian import AccuracyPredictor
from .predictor_files import read_predictor
from .released import UpstreamPredictor, load_upstream_predictor

PREDICTORS_DIR = Path(__file__).parent / 'predictors'


def predictor_names() -> list[str]:
    """The predictors that ship with the package, each with the name of its supernet."""
    return sorted(path.stem for path in PREDICTORS_DIR.glob('*.safetensors'))


def load_predictor(path: str | Path, space: SearchSpace | None = None,
                   ) -> AccuracyPredictor | AdditivePredictor | UpstreamPredictor:
    """A predictor that ships with the package by its name, or a saved one by its path; raises `InputError`.

    With a `space` the predictor must be of that space, and the path may also be a released file (.pth).
    """
    if str(path) in predictor_names():
        path = PREDICTORS_DIR / f'{path}.safetensors'
    if Path(path).suffix == '.pth' and space:
        return load_upstream_predictor(path, space)
    about, arrays = read_predictor(path)
    kinds: dict[str, type[UpstreamPredictor] | type[AdditivePredictor]] = {
        'released': UpstreamPredictor, 'additive': AdditivePredictor}
    kind = kinds.get(str(about.get('kind')), AccuracyPredictor)
    predictor = kind.from_file(about, arrays, Path(path).name)
    if space and predictor.space.name != space.name:
        raise InputError(f'predictor {Path(path).name} is of {predictor.space.name!r}, not of {space.name!r}; fit one')
    return predictor
