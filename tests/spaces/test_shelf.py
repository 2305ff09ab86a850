"""Spaces are loaded from the shelf or from a file."""
import json
import re

import pytest
from refusals import one_line

from timm_ofa.errors import InputError, listed
from timm_ofa.spaces.shelf import load_space, space_names
from timm_ofa.spaces.space import SearchSpace


@pytest.mark.parametrize('name', space_names())
def test_a_space_of_the_shelf_has_the_name_of_its_file(name):
    assert load_space(name).name == name and name.startswith('ofa_')


def test_a_space_file_outside_the_shelf_loads_by_path(space, tmp_path):
    path = tmp_path / 'own.json'
    path.write_text(json.dumps(space.to_dict()))
    assert load_space(str(path)) == load_space(path) == load_space(space) == space
    assert SearchSpace.from_dict(space.to_dict()) == space


def test_unknown_spaces_are_refused_with_the_shelf(tmp_path):
    for name in ('ofa_mbv3_w99', '', str(tmp_path), str(tmp_path / 'none.json'), 'x' * 5000):
        with pytest.raises(InputError, match=re.escape(listed(space_names()))) as error:
            load_space(name)
        one_line(error)


@pytest.mark.parametrize('content', ['', '{', '[]', 'null', '"ofa_mbv3_tiny"', '{"name": "x"}', '\x00'])
def test_a_file_that_is_no_space_is_refused(content, tmp_path):
    path = tmp_path / 'own.json'
    path.write_text(content)
    with pytest.raises(InputError, match=r'own\.json') as error:
        load_space(path)
    one_line(error)


def test_a_space_file_that_was_changed_is_read_anew(w12, tmp_path):
    path = tmp_path / 'own.json'
    for resolutions in ([160], [160, 192]):
        path.write_text(json.dumps({**w12.to_dict(), 'name': 'own', 'resolutions': resolutions}))
        assert list(load_space(path).resolutions) == resolutions
