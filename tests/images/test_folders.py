"""How a folder of images by class may look, and what is said where it looks otherwise."""
import shutil

import pytest
from image_makers import colors, write_folder
from PIL import Image

from timm_ofa import InputError
from timm_ofa.images.sources import open_source


def refused(folder, prefix=''):
    with pytest.raises(InputError) as error:
        open_source(f'{prefix}{folder}')
    assert '\n' not in str(error.value) and '; ' in str(error.value)
    return str(error.value)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / 'x', splits=['all']) / 'all'


@pytest.mark.parametrize('prefix', ['', 'stream:'])
def test_an_image_beside_the_classes_is_named(folder, prefix):
    Image.new('RGB', (8, 8)).save(folder / 'loose.png')
    assert "has 'loose.png' beside the folders of classes; move or remove it: images lie in FOLDER/CLASS" in refused(
        folder, prefix)
    (folder.parent / 'two').mkdir()
    shutil.move(folder, folder.parent / 'two' / 'train')
    assert "has 'train/loose.png' beside" in refused(folder.parent / 'two', prefix)


def test_images_a_folder_deeper_are_named(folder):
    (folder / 'red/photos').mkdir()
    (folder / 'red/1.png').rename(folder / 'red/photos/1.png')
    assert "has images in 'red/photos', a folder deeper than that of a class" in refused(folder)
    shutil.rmtree(folder / 'blue')
    for path in list((folder / 'red').glob('*.png')):
        path.rename(folder / 'red/photos' / path.name)
    (folder / 'blue/camera').mkdir(parents=True)
    Image.new('RGB', (8, 8)).save(folder / 'blue/camera/0.png')
    assert 'a folder deeper' in refused(folder)  # never classes called photos and camera


@pytest.mark.parametrize('place, where', [('', 'the folder'), ('train', 'train')])
def test_images_of_all_classes_in_one_folder_are_refused(tmp_path, place, where):
    (tmp_path / 'x' / place).mkdir(parents=True)
    for i in range(3):
        Image.new('RGB', (8, 8)).save(tmp_path / 'x' / place / f'{i}.png')
    assert f'has all images of {where} in one folder; give each class a folder of its own' in refused(tmp_path / 'x')
    if place:
        shutil.copytree(tmp_path / 'x/train', tmp_path / 'x/test')
        assert 'has all images of t' in refused(tmp_path / 'x')  # train and test are no classes


def test_names_of_files_are_no_splits_and_classes_may_be_called_so(folder):
    (folder / 'red/1.png').rename(folder / 'red/my_test_1.png')
    (folder / 'train').mkdir()
    Image.new('RGB', (8, 8)).save(folder / 'train/train.png')
    opened = open_source(str(folder))
    assert opened.class_names == ('blue', 'red', 'train') and len(opened.train.labels) == 13 and opened.test is None


def test_the_classes_may_lie_in_a_folder_of_their_own_and_what_is_no_image_is_not_read(tmp_path):
    folder = write_folder(tmp_path / 'x/flowers', splits=['training', 'Test', 'spare'])
    (folder / 'training/red/notes.txt').write_text('a note')
    (folder / '__MACOSX/red').mkdir(parents=True)
    (folder / '__MACOSX/red/._1.png').write_text('none')
    (folder / '.cache').mkdir()
    opened = open_source(str(tmp_path / 'x'))
    assert opened.class_names == ('blue', 'red') and len(opened.train.labels) == len(opened.test.labels) == 12
    assert colors(opened.train) != colors(opened.test)


@pytest.mark.parametrize('splits, several', [
    (['train', 'Training', 'val'], 'Training, train'),
    (['train', 'test', 'eval', 'val', 'dev'], 'dev, eval, test, val')])
def test_several_folders_of_one_split_are_refused(tmp_path, splits, several):
    """All but one would be left out."""
    assert f'has several folders of one split: {several}; put' in refused(write_folder(tmp_path, splits=splits))


@pytest.mark.parametrize('prefix', ['', 'stream:', 'timm:'])
def test_classes_that_only_one_part_has_are_named(tmp_path, prefix):
    folder = write_folder(tmp_path, classes=['daisy', 'rose'])
    (folder / 'val/rose').rename(folder / 'val/tulip')
    assert 'has classes without training images: tulip, and none of rose; remove them' in refused(folder, prefix)


@pytest.mark.parametrize('name', ['[x] *y', 'Ü b'])
def test_a_folder_may_have_any_name(tmp_path, name):
    assert len(open_source(str(write_folder(tmp_path / name))).train.labels) == 12
