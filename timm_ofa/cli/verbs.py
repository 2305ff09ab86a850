"""What a verb of the `timm-ofa` command is: its options, its modes and its help.

A mode is a function, and its parameters are the options that it reads. So the functions are the table from which the
parser and `-h` come: what no parameter takes is refused, and a parameter without a default must be given.
"""
from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn

from .. import __version__
from ..console import table
from ..errors import InputError

DESCRIPTION = (
    'Once-for-All as a timm plug-in: train one elastic network, then pick the best sub-network for each device.')
EXAMPLE = 'timm-ofa quickstart --out out/quickstart'
MOST = 2**31  # of a whole number


# ---- how values are read -------------------------------------------------------------------------------------------


def positive(text: str) -> float:
    """Read a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float('inf'):
        raise argparse.ArgumentTypeError(f'{text!r:.40} is not a number above 0; write it without a unit, like 25')
    return value


def whole(least: int) -> Callable[[str], int]:
    """A function that reads a whole number of at least `least`."""
    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= MOST:
            raise argparse.ArgumentTypeError(f'{text!r:.40} is not a whole number from {least} to {MOST}; write one')
        return value
    return read


def one_of(*values: str) -> Callable[[str], str]:
    """A function that reads one of these words."""
    def read(text: str) -> str:
        if text not in values:
            raise argparse.ArgumentTypeError(f'{text!r:.40} is unknown; choose from {", ".join(values)}')
        return text
    return read


def profile_limit(text: str) -> tuple[str, float]:
    """Read a profile and a limit in ms, like cpu.json=25."""
    name, equals, limit_ms = text.rpartition('=')
    if not equals or not name:
        raise argparse.ArgumentTypeError(f'{text!r:.60} is not a profile and its limit; write it like cpu.json=25')
    return name, positive(limit_ms)


# ---- what a verb is --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Option:
    """An option: what it does, with its unit, and how its value is read. An option without a `metavar` is a switch."""
    help: str
    metavar: str = ''
    read: Callable[[str], Any] = str
    many: bool = False  # takes several values
    flags: tuple[str, ...] = ()  # by default the name with dashes; a name without dashes is a positional argument


@dataclass(frozen=True)
class Answer:
    """What a mode found: `data` for programs, as JSON, and `text` for people; `hint` is said on stderr after it.

    `status` is the exit status: 1 if a part of the work failed, of which `data` tells.
    """
    data: Any
    text: str
    hint: str = ''
    status: int = 0

    def shown(self, output_format: str) -> str:
        return json.dumps(self.data, indent=1) if output_format == 'json' else self.text


def rows_answer(header: Sequence[str], rows: Sequence[Mapping[str, Any]], hint: str = '') -> Answer:
    """Rows, of which a table shows the columns in `header` ('-' where a row has none), and JSON shows all."""
    return Answer(list(rows), table(header, [[row.get(name) for name in header] for row in rows]), hint)


@dataclass(frozen=True)
class Mode:
    """One way to use a verb: the options that choose it, and the function that does the work."""
    selectors: tuple[str, ...]
    run: Callable[..., Answer | None]  # None from all processes but the first

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The options that the function reads with their defaults; a needed option has `inspect.Parameter.empty`."""
        return {name: p.default for name, p in inspect.signature(self.run).parameters.items()}

    @cached_property
    def reads(self) -> set[str]:
        """The options that this mode reads; a switch that chooses it says no more than that."""
        return {*self.selectors, *self.defaults}

    @cached_property
    def needs(self) -> list[str]:
        """The options that this mode cannot do without."""
        return [name for name, default in self.defaults.items() if default is inspect.Parameter.empty]


@dataclass(frozen=True)
class Verb:
    """A verb of the command. `@VERB.mode(...)` makes a function one of its modes."""
    name: str
    help: str
    example: str
    options: Mapping[str, Option] = field(default_factory=dict)
    modes: list[Mode] = field(default_factory=list)

    def mode(self, *selectors: str) -> Callable:
        """The decorated function runs where these options are given."""
        def add(run: Callable[..., Answer | None]) -> Callable:
            self.modes.append(Mode(selectors, run))
            return run
        return add

    def flag(self, name: str) -> str:
        """How an option is written."""
        return (self.options[name].flags or ('--' + name.replace('_', '-'),))[0]

    def flags(self, names: Iterable[str]) -> str:
        return ', '.join(map(self.flag, names))

    def chosen(self, given: Mapping[str, Any]) -> Mode:
        """The mode for the options that were given; raises `InputError` for an option that it does not read."""
        for name, value in given.items():
            if value == '' or (isinstance(value, list) and '' in value):
                raise InputError(f"{self.flag(name)} '' is empty; give a value, or leave it out")
        fitting = [mode for mode in self.modes if given.keys() >= set(mode.selectors)]
        if not fitting:
            flags = ', '.join(sorted({self.flag(mode.selectors[0]) for mode in self.modes}))
            raise InputError(f'give one of {flags}; see `timm-ofa {self.name} -h`')
        mode = max(fitting, key=lambda mode: len(mode.selectors))
        for name in given:
            if name not in mode.reads:
                raise InputError(f'{self.flag(name)} {self._refusal(name, mode)}')
        missing = [name for name in mode.needs if name not in given]
        if missing:
            where = f' with {self.flags(mode.selectors)}' if mode.selectors else ''
            raise InputError(f'{self.flags(missing)} is missing{where}: {self.options[missing[0]].help}; '
                             f'see `timm-ofa {self.name} -h`')
        return mode

    def _refusal(self, name: str, mode: Mode) -> str:
        """Why a mode does not read an option, and what to do."""
        further = [set(other.selectors) - set(mode.selectors) for other in self.modes
                   if name in other.reads and set(other.selectors) > set(mode.selectors)]
        if further:
            return f'is read only with {" or ".join(self.flags(sorted(s)) for s in further)}; add that, or leave it out'
        return f'is not read with {self.flags(mode.selectors)}; leave one of them out'

    def about(self, name: str) -> str:
        """The help of an option: what it does, its default, and the modes that read it."""
        reading = [mode for mode in self.modes if name in mode.reads]
        needing = [mode for mode in reading if name in mode.needs]
        remarks = self._defaults(name, [mode for mode in reading if mode not in needing])
        if not all(name in mode.selectors for mode in reading):
            others = [mode for mode in self.modes if mode not in reading and not any(  # it leads to another mode
                {*mode.selectors} < {*other.selectors} <= {*mode.selectors, name} for other in reading)]
            plain = [mode for mode in self.modes if not mode.selectors]
            free = [mode for mode in self.modes if mode not in (*needing, *others)]
            if needing:
                with_it = [mode for mode in needing if name not in mode.selectors]
                remarks.append('needed' if not free else f'needed, but not with {self._named(free)}'
                               if plain and plain[0] in needing else f'needed with {self._named(with_it)}')
            remarks += self._exceptions(reading, others)
        return self.options[name].help.replace('%', '%%') + (f' ({"; ".join(remarks)})' if remarks else '')

    def _defaults(self, name: str, modes: Sequence[Mode]) -> list[str]:
        """The default of an option in these modes: that of the first one, and where another one holds."""
        values = dict.fromkeys(mode.defaults.get(name) for mode in modes)
        first, *others = values or [None]
        if first is None or first is False or first == ():
            return []
        apart = [f', with {self._named([mode for mode in modes if mode.defaults.get(name) == other])} '
                 f'{"none" if other is None else other}' for other in others]
        return [f'default {first:g}' if isinstance(first, float) else f'default {first}{"".join(apart)}']

    def _exceptions(self, reading: Sequence[Mode], others: Sequence[Mode]) -> list[str]:
        """The modes that do not read an option, or, where that is shorter, those that read it."""
        narrower = {mode.selectors: [set(other.selectors) - set(mode.selectors) for other in reading
                                     if set(other.selectors) > set(mode.selectors)] for mode in others}
        if narrower.get(()) or (len(reading) == 1 and any(narrower.values())):
            return [f'only with {self._named(reading)}']
        never = [mode for mode in others if not narrower[mode.selectors]]
        return [*([f'not with {self._named(never)}'] if never else []), *(
            f'with {self.flags(selectors)} only beside {self.flags(sorted(further[0]))}'
            for selectors, further in narrower.items() if further)]

    def _named(self, modes: Sequence[Mode]) -> str:
        """Modes by the options that choose them; one that narrows another of these goes without saying."""
        outer = [mode for mode in modes
                 if not any(set(other.selectors) < set(mode.selectors) for other in modes)]
        return ', '.join(' '.join(map(self.flag, mode.selectors)) for mode in outer)

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        for name, option in self.options.items():
            flags = option.flags or (self.flag(name),)
            how: dict[str, Any] = dict(help=self.about(name), default=argparse.SUPPRESS)
            if flags[0].startswith('-'):
                how['dest'] = name
            if not option.metavar:
                how['action'] = 'store_true'
            else:
                how.update(metavar=option.metavar, type=option.read)
                how.update(dict(nargs='+', action='extend') if option.many else {})
            parser.add_argument(*flags, **how)


# ---- the parser ------------------------------------------------------------------------------------------------------


class _OneLineParser(argparse.ArgumentParser):
    """argparse without the usage block: the error is one line that names the value and the cure."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f'{message}; see `{self.prog} -h`')


@dataclass(frozen=True)
class Call:
    """What somebody typed."""
    verb: Verb
    mode: Mode
    given: Mapping[str, Any]
    format: str = 'table'
    no_progress: bool = False

    def run(self) -> Answer | None:
        return self.mode.run(**{name: value for name, value in self.given.items() if name in self.mode.defaults})


def parse(verbs: Mapping[str, Verb], argv: Sequence[str] | None = None) -> Call:
    """Read a command line; raises `InputError` where it cannot be read, and `SystemExit` after `-h`."""
    command = _OneLineParser(
        prog='timm-ofa', description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f'example: {EXAMPLE}')
    command.add_argument('--version', action='version', version=f'timm_ofa {__version__}')
    subparsers = command.add_subparsers(dest='verb', metavar='VERB', required=True, parser_class=_OneLineParser)
    for verb in verbs.values():
        sub = subparsers.add_parser(
            verb.name, help=verb.help, description=verb.help, epilog=f'example: timm-ofa {verb.name} {verb.example}',
            formatter_class=argparse.RawDescriptionHelpFormatter)
        sub.add_argument('--format', choices=['table', 'json'], default='table',
                         help='print a table for people, or JSON for programs (default table)')
        sub.add_argument('--no-progress', action='store_true',
                         help='draw no progress bars, like the environment variable TIMM_OFA_PROGRESS=0')
        verb.add_to(sub)
    given = vars(command.parse_args(argv))
    verb = verbs[given.pop('verb')]
    output_format, no_progress = given.pop('format'), given.pop('no_progress')
    return Call(verb, verb.chosen(given), given, output_format, no_progress)
