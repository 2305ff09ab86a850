"""Trainings as data: the phases and the configuration of a training run, and how one network is fine-tuned.

Source: arXiv:1908.09791, section 3.4 and appendix B; phases and hyper-parameters of the released training script.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError, listed
from ..fields import MAX_LONG_TEXT, choice, number, plain, read, text
from ..files import read_yaml, read_yaml_file
from ..images import DECODE, Augment
from ..spaces import SearchSpace, load_space, shelf_space, space_data
from .recipes import RECIPES


@dataclass(frozen=True)
class Phase:
    """One phase of a training: its choices (None: all of the space), its length, its rate, and what subnets learn."""
    name: str
    epochs: int = number()  # after the warm-up; 0 of both: the network is trained already
    lr: float = number(1e-12, 100)  # highest rate, for the batch of all processes together
    warmup_epochs: int = number(default=0)
    depths: tuple[int, ...] | None = None
    deepest: int | None = number(1, default=None)  # instead of depths: so many of the largest depths of each stage
    kernel_sizes: tuple[int, ...] | None = None
    expand_ratios: tuple[float, ...] | None = None
    widths: int | None = number(1, default=None)  # so many of the largest widths of each stage
    subnets_per_step: int = number(1, 64, default=1)
    kd_weight: float = number(default=1.0)  # weight of the teacher's soft targets; 0: no teacher
    sort_channels: bool = False  # order channels by importance before the phase
    recipe: str = choice(*RECIPES, default='progressive')  # which subnets a step runs and what they learn from

    @property
    def learns_from_teacher(self) -> bool:
        """Whether a fixed teacher is asked."""
        return bool(self.kd_weight) and 'kd_weight' not in RECIPES[self.recipe].ignores

    @property
    def shares(self) -> int:
        """In how many equal shares the subnets of a step divide a batch."""
        return self.subnets_per_step if RECIPES[self.recipe].divides else 1

    def subspace(self, space: SearchSpace) -> SearchSpace:
        """The space that this phase draws from."""
        return space.restrict(
            depths=self.depths, deepest=self.deepest, kernel_sizes=self.kernel_sizes, expand_ratios=self.expand_ratios,
            widths=self.widths)


@dataclass(frozen=True)
class TrainConfig:
    """A training run: one field for each thing that decides its result. Read from `hub_configs/*.yaml`."""
    name: str
    space: SearchSpace = field(metadata={'reader': shelf_space})  # may be given by its name on the shelf, or a path
    data: str = text(limit=MAX_LONG_TEXT)  # see `load_data`
    phases: tuple[Phase, ...] = field(kw_only=True)
    test: str | None = text(limit=MAX_LONG_TEXT, default=None)  # test images of another source; None: those of data
    resolutions: tuple[int, ...] | None = None  # px; None: all resolutions of the space
    batch_size: int = number(2, default=128)  # of all processes together
    seed: int = number(default=0)
    momentum: float = number(0, 0.9999, default=0.9)  # Nesterov
    weight_decay: float = number(default=3e-5)  # BatchNorm and biases do not decay
    label_smoothing: float = number(0, 1, default=0.1)
    drop_rate: float = number(0, 1, default=0.0)  # before the classifier
    clip_grad: float | None = number(1e-12, default=None)  # largest norm of the gradient; None: not clipped
    model_ema_decay: float | None = number(0, 0.999999, default=None)  # of the moving average of the weights, which is
    #                                                                    judged and saved; None: the last weights are
    holdout: float = number(1e-6, 0.9, default=0.1)  # share of training images kept back to compare subnets
    limit: int | None = number(1, default=None)  # at most so many training images
    decode: str = choice(*DECODE, default='auto')  # images once into memory, or each time; auto: once if they fit
    images_per_epoch: int | None = number(1, default=None)  # of a stream; None: as many as the data set says
    skip_broken: bool = False  # leave out images that cannot be decoded, instead of refusing the data
    precision: str = choice('no', 'bf16', 'fp16', default='no')  # Accelerate's mixed precision
    workers: int = number(default=0)  # loader processes
    accumulate: int = number(1, 4096, default=1)  # parts in which each process takes its share of a batch
    sync_bn: bool = True  # BatchNorm sees the images of all processes, so that n processes learn what one does
    teacher: str | None = text(limit=MAX_LONG_TEXT, default=None)  # a timm model or a folder; None: the largest subnet
    initial_checkpoint: str | None = text(limit=MAX_LONG_TEXT, default=None)  # see `initialize`; None: random weights,
    #                                        or those of the network that the space was read off
    checkpoint_minutes: float = number(1e-9, default=5.0)  # between checkpoints; each phase ends with one as well
    augment: Augment = field(default_factory=Augment)

    def __post_init__(self) -> None:
        object.__setattr__(self, 'space', load_space(self.space))

    @property
    def trains_subnets(self) -> bool:
        """Whether subnets besides the largest one are trained. Where they are not, they are repaired when judged."""
        return any(phase.recipe != 'largest' for phase in self.phases)

    def load_space(self) -> SearchSpace:
        """The search space at this run's resolutions."""
        return self.space.restrict(resolutions=self.resolutions)

    def to_dict(self) -> dict:
        """YAML-ready; the inverse of `from_dict`. A space that is not on the shelf is written in full.

        Keys that do nothing here are left out.
        """
        data = {**plain(self), 'space': space_data(self.space)}
        for place, key, idle, _ in _uses(self, data):
            if idle:
                del _inside(data, place)[key]
        return data

    @classmethod
    def from_dict(cls, data: Mapping, where: str = 'config') -> TrainConfig:
        """From YAML data, every field checked; raises `InputError` naming field, value and cure."""
        config = read(cls, data, where)
        space = config.load_space()
        if not config.phases:
            raise InputError(f'{where}: phases is empty; give at least one with name, epochs and lr')
        for phase in config.phases:
            phase.subspace(space)
        if config.augment.scale[0] > config.augment.scale[1]:
            raise InputError(f'{where}: augment.scale {list(config.augment.scale)} falls; write it rising')
        if len({phase.name for phase in config.phases}) < len(config.phases):
            raise InputError(f'{where}: phases {listed(p.name for p in config.phases)} repeat a name; rename one')
        return config


@dataclass(frozen=True)
class FinetuneConfig:
    """How one network is fine-tuned. Read from a file with `kind: finetune`."""
    epochs: int = number(1)  # after the warm-up; the rate follows a cosine to 0
    lr: float = number(1e-12, 100, default=0.01)
    warmup_epochs: int = number(default=0)
    batch_size: int = number(2, default=64)  # of all processes together
    momentum: float = number(0, 0.9999, default=0.9)  # Nesterov
    weight_decay: float = number(default=3e-5)  # BatchNorm and biases do not decay
    label_smoothing: float = number(0, 1, default=0.1)
    kd_weight: float = number(default=1.0)  # weight of the teacher's soft targets, if there is one
    teacher: str | None = text(limit=MAX_LONG_TEXT, default=None)  # 'largest' of the supernet, a timm model, a folder
    workers: int = number(default=0)  # loader processes

    @property
    def phase(self) -> Phase:
        """The fine-tuning as the only phase of a training."""
        kd_weight = self.kd_weight if self.teacher else 0.0
        return Phase('finetune', self.epochs, self.lr, self.warmup_epochs, kd_weight=kd_weight)


def load_config(path: str | Path, overrides: Sequence[str] = (), **replacements) -> TrainConfig:
    """A training configuration from a YAML file.

    Args:
        path: The file; `kind: supernet`.
        overrides: `key=value` texts; the value is YAML, the key may reach inside: `phases.0.epochs=2`.
        replacements: Fields to replace where the value is not None.
    """
    path, data = Path(path), _fields(path, 'supernet', 'a training configuration')
    data.pop('weights', None)  # where released weights are; the package hub reads it
    for override in overrides:
        _override(data, override)
    data.update({k: v for k, v in replacements.items() if v is not None})
    if str(data.get('space')).endswith('.json'):  # a path of the user's own; what is stored holds the space itself
        data['space'] = load_space(data['space']).to_dict()
    if data.get('precision') is False:  # which is what YAML makes of: no
        data['precision'] = 'no'
    config = TrainConfig.from_dict(data, path.name)
    refuse_idle(config, data, path.name)
    return config


def load_finetune(path: str | Path) -> FinetuneConfig:
    """How to fine-tune, from a YAML file; raises `InputError` naming file and field."""
    path, data = Path(path), _fields(path, 'finetune', 'how to fine-tune')
    config = read(FinetuneConfig, data, path.name)
    if config.teacher and not config.kd_weight:
        raise InputError(f'{path.name}: teacher does nothing with kd_weight 0; leave it out')
    if data.get('kd_weight') is not None and not config.teacher:
        raise InputError(f'{path.name}: kd_weight does nothing without a teacher; leave it out, or name a teacher')
    return config


def _fields(path: str | Path, kind: str, what: str) -> dict:
    """The fields of a file of that kind, without the kind."""
    data = read_yaml_file(path, f'config {str(path)!r:.120}')
    if not isinstance(data, dict) or data.pop('kind', None) != kind:
        raise InputError(f"config {Path(path).name!r:.120} is not {what}; give one with 'kind: {kind}'")
    return data


def _override(data: dict, text: str) -> None:
    key, equals, value = text.partition('=')
    path = key.split('.')
    try:
        if not equals:
            raise KeyError
        target = _inside(data, path[:-1])
        if isinstance(target, list):
            target[int(path[-1])] = read_yaml(value)  # an entry that exists
        else:
            target[path[-1]] = read_yaml(value)
    except (KeyError, IndexError, ValueError, TypeError, AttributeError, yaml.YAMLError):
        raise InputError(
            f'--set {text!r:.120} cannot be applied; write it like batch_size=64 or phases.0.epochs=2') from None


def _inside(data: Any, place: Sequence[str]) -> Any:
    """What is at a place like `phases.0` inside nested data; objects that are missing are added."""
    for part in place:
        data = data[int(part)] if isinstance(data, list) else data.setdefault(part, {})
    return data


def refuse_idle(config: TrainConfig, given: Mapping, where: str) -> None:
    """Raise `InputError` if a key that is given would do nothing, or a step would not train what its recipe says.

    Args:
        given: The keys that somebody wrote, of which the configuration was read; None: not written.
    """
    for place, key, idle, why in _uses(config, given):
        if idle:
            raise InputError(f'{where}: {".".join([*place, key])} does nothing {why}; leave it out')
    for i, phase in enumerate(config.phases):
        least = RECIPES[phase.recipe].least_subnets
        if phase.subnets_per_step < least:
            raise InputError(
                f'{where}: phases.{i}.subnets_per_step {phase.subnets_per_step} is too few for the recipe '
                f'{phase.recipe!r}; give {least} or more')


def _uses(config: TrainConfig, given: Mapping) -> Iterator[tuple[tuple[str, ...], str, bool, str]]:
    """(place, key, whether it is written in vain, why) of each key that some settings do without."""
    def written(keys: Any, name: str) -> bool:
        return isinstance(keys, Mapping) and keys.get(name) is not None

    for i, (phase, keys) in enumerate(zip(config.phases, given['phases'])):
        at = 'phases', str(i)
        for key in RECIPES[phase.recipe].ignores:
            yield at, key, written(keys, key), f'with the recipe {phase.recipe!r}'
        yield at, 'warmup_epochs', written(keys, 'warmup_epochs') and not phase.epochs, 'with epochs 0'
        yield at, 'deepest', written(keys, 'deepest') and written(keys, 'depths'), 'beside depths'
        fixed = not config.space.elastic_widths
        yield at, 'widths', written(keys, 'widths') and fixed, f'in {config.space.name}: its widths are fixed'
        early = i == 0 and config.teacher is None and phase.learns_from_teacher
        yield at, 'kd_weight', written(keys, 'kd_weight') and early, 'in the first phase, which has no teacher yet'
    nobody = not any(phase.learns_from_teacher for phase in config.phases)
    yield (), 'teacher', written(given, 'teacher') and nobody, 'where no phase learns from a teacher'
    for key in ('decode', 'skip_broken'):
        yield (), key, written(given, key) and config.data.startswith('stream:'), 'with a stream'
    augment, crop = given.get('augment'), config.augment.crop
    yield ('augment',), 'scale', written(augment, 'scale') and crop != 'area', "unless augment.crop is 'area'"
    yield ('augment',), 'shift', written(augment, 'shift') and crop != 'shift', f'with augment.crop {crop!r}'


def differing(value: Any) -> dict[str, Any]:
    """The fields of a configuration that differ from their defaults, as somebody would have written them."""
    found = {}
    for f in fields(value):
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        own = getattr(value, f.name)
        if own != default:
            found[f.name] = differing(own) if is_dataclass(default) else own
    if 'phases' in found:
        found['phases'] = [differing(phase) for phase in found['phases']]
    return found


def by_key(value: Any, at: str = '') -> dict[str, Any]:
    """Settings by their keys, as `--set` takes them, such as 'phases.0.lr'."""
    if isinstance(value, Mapping):
        inside = list(value.items())
    elif isinstance(value, (list, tuple)) and any(isinstance(v, Mapping) for v in value):
        inside = list(enumerate(value))
    else:
        return {at: value}
    return {name: v for key, part in inside for name, v in by_key(part, f'{at}.{key}' if at else str(key)).items()}


def trained_before(space: SearchSpace, phases: Sequence[Phase], i: int) -> list[SearchSpace]:
    """The spaces of the phases before the i-th one. Sorting must not move the channels of their subnets."""
    return [phase.subspace(space) for phase in phases[:i]]


def scaled(config: TrainConfig, factor: float) -> TrainConfig:
    """The same run with all epochs multiplied by `factor`; a phase that has epochs keeps at least one."""
    return replace(config, phases=tuple(
        replace(
            p, epochs=max(min(1, p.epochs), round(p.epochs * factor)),
            warmup_epochs=min(p.warmup_epochs, round(p.warmup_epochs * factor))) for p in config.phases))
