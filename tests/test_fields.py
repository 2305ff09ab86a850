"""The strict reader: kinds, bounds, and errors that name field and value."""
import math
import re
from dataclasses import dataclass, field

import numpy as np
import pytest

from timm_ofa.errors import InputError, one_line
from timm_ofa.fields import MAX_ITEMS, SLUG, check_slug, choice, number, plain, read, read_value, slug, text
from timm_ofa.files import read_yaml


def upper(value, where):
    if value == 'no':
        raise InputError(f'{where}: {value!r} is refused; say yes')
    return value.upper()


@dataclass(frozen=True)
class Inner:
    side: int = number(1, 9)
    label: str = ''


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str = text('[a-z]+', 5)
    ratio: int | float
    share: float = number(0, 1, default=0.5)
    on: bool = False
    color: str = choice('red', 'blue', default='red')
    notes: str | None = text(limit=300, default=None)
    sides: tuple[int, ...] = number(1, 9, default=())
    mean: tuple[float, float] = (0.0, 1.0)
    inner: Inner | None = None
    inners: tuple[Inner, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    loud: str | None = field(default=None, metadata={'reader': upper})


GOOD = {
    'name': 'abc', 'ratio': 4.0, 'share': 1, 'on': True, 'color': 'blue', 'notes': 'two\nlines', 'sides': [1, 2.0],
    'mean': [0, 1], 'inner': {'side': 3}, 'inners': [{'side': 1, 'label': 'é'}], 'versions': {'torch': '2'},
    'loud': 'yes'}


def test_kinds_follow_the_annotations():
    value = read(Outer, GOOD, 'x')
    assert value == Outer(
        name='abc', ratio=4, share=1.0, on=True, color='blue', notes='two\nlines', sides=(1, 2), mean=(0.0, 1.0),
        inner=Inner(3), inners=(Inner(1, 'é'),), versions={'torch': '2'}, loud='YES')
    kinds = [type(v) for v in (value.ratio, value.share, *value.sides, *value.mean)]
    assert kinds == [int, float, int, int, float, float]
    assert read(Outer, {'name': 'a', 'ratio': 0.5}, 'x') == Outer(name='a', ratio=0.5)


def test_numpy_numbers_are_numbers():
    value = read(Outer, {'name': 'a', 'ratio': np.int64(4), 'share': np.float32(0.25)}, 'x')
    assert (value.ratio, type(value.ratio), value.share, type(value.share)) == (4, int, 0.25, float)


def test_plain_is_the_inverse():
    data = plain(read(Outer, GOOD, 'x'))
    assert data['sides'] == [1, 2] and data['inner'] == {'side': 3, 'label': ''}
    assert read(Outer, {**data, 'loud': None}, 'x') == read(Outer, {**GOOD, 'loud': None}, 'x')
    assert list(plain({'b': (1,), 'a': {}})) == ['a', 'b']


@pytest.mark.parametrize('change, message', [
    ({'name': 'ABC'}, r"x: name: 'ABC' does not match \[a-z\]\+"), ({'name': 'abcdef'}, 'name: .* up to 5 characters'),
    ({'name': 'abc\n'}, 'name: .*cannot be shown'), ({'name': 5}, 'name: 5 is not a text'),
    ({'name': None}, 'name: None'),
    ({'notes': 'a\x1b[31m'}, 'notes: .*cannot be shown'), ({'ratio': 'x'}, "ratio: 'x' is not a number"),
    ({'share': 1.5}, r'share: 1\.5 is not a number from 0 to 1: out of range'),
    ({'share': True}, 'share: True is not a number'),
    ({'share': math.nan}, 'share: nan'), ({'ratio': math.inf}, 'ratio: inf'), ({'ratio': -(10**400)}, 'ratio: -1000'),
    ({'sides': [1, 2.5]}, r'sides: 2\.5 is not a whole number'), ({'sides': [0]}, 'sides: 0 .*out of range'),
    ({'sides': '12'}, "sides: '12' is not a list"), ({'sides': [1] * (MAX_ITEMS + 1)}, 'sides: .*up to 30000'),
    ({'on': 1}, 'on: 1 is not true or false'), ({'color': 'green'}, "color: 'green' is unknown; choose from red, blue"),
    ({'mean': [0.5]}, r'mean: \[0\.5\] needs 2 entries'), ({'inner': []}, r'inner: \[\] is not an object'),
    ({'inners': [{'side': 1}, {'side': 10}]}, r'inners\[1\]: side: 10'),
    ({'versions': {'a': 1}}, 'versions: a: 1'),
    ({'versions': {'a\nb': 'c'}}, 'versions: .*cannot be shown'),
    ({'versions': []}, r'versions: \[\] is not an object'),
    ({'loud': 'no'}, "loud: 'no' is refused"), ({'colour': 1}, "'colour' is unknown; choose from name, ratio"),
    ({'inner': {}}, "inner: field 'side' is missing"), ({1: 2}, 'field 1 is unknown'),
], ids=lambda value: ','.join(map(str, value)) if isinstance(value, dict) else None)
def test_what_does_not_fit_is_one_line_with_field_and_value(change, message):
    with pytest.raises(InputError, match=message) as error:
        read(Outer, {**GOOD, **change}, 'x')
    assert '\n' not in str(error.value) and str(error.value).startswith('x') and len(str(error.value)) < 300


def test_what_is_no_object_is_refused_with_the_fields():
    for data in (None, [], 'name', 3):
        with pytest.raises(InputError, match=r'x: .* is not an object; give the fields name, ratio'):
            read(Outer, data, 'x')


def test_a_value_that_python_cannot_show_is_one_line_too():
    deep = []
    for _ in range(5000):
        deep = [deep]
    for value in (read_yaml('0x' + 'f' * 5000), deep):
        for change in ({'ratio': value}, {'name': value}, {'on': value}, {'inner': value}, {'mean': [value]}):
            with pytest.raises(InputError, match=r'x: .* too large to be shown|x: mean: .* needs 2') as error:
                read(Outer, {**GOOD, **change}, 'x')
            assert len(str(error.value)) < 300


@pytest.mark.parametrize('address', ['http://hub', 'http://u:secret@hub', 'http://u:se@cr:et@hub', 'http://secret@hub'])
def test_an_address_is_shown_without_its_password(address):
    assert one_line(InputError(f'{address}/a is not there,\n b@c neither')) == 'http://hub/a is not there, b@c neither'


def test_a_single_value_is_read_within_bounds():
    assert read_value(float | None, None, 'ms', low=0) is None
    with pytest.raises(InputError, match='ms: -1 is not a number from 0'):
        read_value(float | None, -1, 'ms', low=0)


@pytest.mark.parametrize('words, expected', [
    ('AMD EPYC 7B13', 'amd-epyc-7b13'), ('ofa_mbv3_w10', 'ofa-mbv3-w10'), ('Redmi 4.5 (x)', 'redmi-4.5-x'),
    ('..a..b.', 'a-b'), ('.-', 'unknown'), ('é', 'unknown')])
def test_a_slug_is_made_of_any_words(words, expected):
    assert slug(words) == expected and SLUG.fullmatch(slug(words)) and check_slug(slug(words), 'x') == expected


@pytest.mark.parametrize('value', ['', 'My Phone', '-a', 'a-', 'a_b', 'é', 'a\n', 5, None, 'a' * 201])
def test_what_is_no_slug_is_refused(value):
    with pytest.raises(InputError, match=f'device: {re.escape(repr(value)[:50])}.* is not a slug'):
        check_slug(value, 'device')
