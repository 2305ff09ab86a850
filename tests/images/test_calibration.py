"""Images to calibrate on: the first of a stream or all of a folder, and whether they have changed."""
import pytest
from image_makers import write_folder

from timm_ofa import InputError
from timm_ofa.images import files_stamp, open_calibration


@pytest.mark.parametrize('source', ['{}', '{}?train=val', 'stream:{}', 'timm:{}', 'timm:{}?train=val'])
def test_the_stamp_of_a_folder_changes_with_any_of_its_files(tmp_path, source):
    folder = write_folder(tmp_path / 'x')
    before = files_stamp(source.format(folder))
    assert before and before == files_stamp(source.format(folder))
    (folder / 'val/red/1.png').write_bytes(b'changed')
    changed = files_stamp(source.format(folder))
    (folder / 'val/red/none.png').symlink_to('nothing')
    assert before != changed == files_stamp(source.format(folder))


def test_the_stamp_of_a_file_changes_with_it(tmp_path):
    path = tmp_path / 'a.tar'
    path.write_bytes(b'a')
    before = files_stamp(f'timm:{path}')
    path.write_bytes(b'changed')
    assert before != files_stamp(f'timm:{path}') != ''


@pytest.mark.parametrize('source', ['digits', 'acme/flowers', 'stream:acme/flowers', 'timm:hfds/acme/flowers'])
def test_what_is_no_folder_has_no_stamp(source):
    assert files_stamp(source) == ''


@pytest.mark.parametrize('prefix, n', [('', 10), ('stream:', 11)])  # of a folder, a tenth is held out
def test_broken_images_are_left_out_where_that_is_wished(tmp_path, prefix, n):
    (write_folder(tmp_path) / 'train/red/2.png').write_bytes(b'broken')
    images, _ = open_calibration(f'{prefix}{tmp_path}', 16, 100, skip_broken=True).fetch()
    assert images.decode().fetch(range(n)).shape == (n, 3, 16, 16) and len(images) == n
    with pytest.raises(InputError, match=r'2.png\) cannot be decoded'):
        open_calibration(f'{prefix}{tmp_path}', 16, 100).fetch()[0].decode()


@pytest.mark.parametrize('place', ['', 'photos'])
def test_a_folder_of_photos_without_classes_is_enough(tmp_path, place):
    write_folder(tmp_path / 'classes', splits=['train'], n=3)
    folder = tmp_path / 'mine' / place
    folder.mkdir(parents=True)
    for path in (tmp_path / 'classes').rglob('*.png'):
        path.rename(folder / f'{path.parent.name}{path.name}')
    (folder / 'notes.txt').write_text('no image')
    (folder / 'broken.png').write_bytes(b'broken')
    images, megabytes = open_calibration(str(tmp_path / 'mine'), 16, 100, skip_broken=True).fetch()
    assert len(images) == len([*folder.glob('*.png')]) - 1 and not megabytes
    assert images.fetch(range(len(images))).shape == (len(images), 3, 16, 16)
    (tmp_path / 'mine/more').mkdir()
    with pytest.raises(InputError, match='mine'):
        open_calibration(str(tmp_path / 'mine' / 'more'), 16, 100)


def test_a_stream_of_one_image_is_refused(tmp_path):
    write_folder(tmp_path, splits=['train'], n=1)
    (tmp_path / 'train/red/0.png').write_bytes(b'broken')
    with pytest.raises(InputError, match='has 1 images; give a source of two or more'):
        open_calibration(f'stream:{tmp_path}', 16, 100, skip_broken=True).fetch()
