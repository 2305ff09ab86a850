"""Images to calibrate on: whether they have changed."""
import pytest
from image_makers import write_folder

from timm_ofa.images import files_stamp


@pytest.mark.parametrize('source', ['{}', '{}?train=val', 'stream:{}', 'timm:{}', 'timm:{}?train=val'])
def test_the_stamp_of_a_folder_changes_with_any_of_its_files(tmp_path, source):
    folder = write_folder(tmp_path / 'x')
    before = files_stamp(source.format(folder))
    assert before and before == files_stamp(source.format(folder))
    (folder / 'val/red/1.png').write_bytes(b'changed')
    changed = files_stamp(source.format(folder))
    (folder / 'val/red/none.png').symlink_to('nothing')
    assert before != changed == files_stamp(source.format(folder))


@pytest.mark.parametrize('source', ['digits', 'acme/flowers', 'stream:acme/flowers', 'timm:hfds/acme/flowers'])
def test_what_is_no_folder_has_no_stamp(source):
    assert files_stamp(source) == ''
