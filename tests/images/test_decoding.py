"""Every kind of pixel becomes 8 bits by its own range; what cannot be read is named, all of it at once."""
import io
import warnings

import numpy as np
import pytest
from image_makers import write_folder
from PIL import Image

from timm_ofa import InputError
from timm_ofa.images import check_data, load_data
from timm_ofa.images.decoding import decode_image, to_rgb

RAMP = np.linspace(0, 1, 256).reshape(16, 16)  # from black to white
GRAY = np.rint(RAMP * 255)


def decoded(image, kind='TIFF', **kwargs):
    """What is read of an image that was written to a file."""
    file = io.BytesIO()
    image.save(file, kind, **kwargs)
    return np.array(decode_image({'bytes': file.getvalue(), 'path': None}, 'image'), dtype=float)


def tiff(samples):
    """A TIFF file of 16 bits and three or four samples a pixel, which Pillow does not write itself."""
    height, width, depth = samples.shape
    data = samples.astype('<u2').tobytes()
    extra = 8 + len(data)
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, depth, extra), (259, 3, 1, 1), (262, 3, 1, 2),
            (273, 4, 1, 8), (277, 3, 1, depth), (278, 3, 1, height), (279, 4, 1, len(data)), (284, 3, 1, 1)]
    tags += [(338, 3, 1, 2)] * (depth == 4)
    entries = b''.join(np.array([tag, kind], '<u2').tobytes() + np.array([n, value], '<u4').tobytes()
                       for tag, kind, n, value in tags)
    at = extra + 2 * depth
    return (b'II*\0' + np.uint32(at).tobytes() + data + np.full(depth, 16, '<u2').tobytes()
            + np.uint16(len(tags)).tobytes() + entries + b'\0' * 4)


@pytest.mark.parametrize('kind', ['PNG', 'TIFF'])
def test_16_bits_are_scaled(kind):
    image = Image.fromarray(np.rint(RAMP * 65535).astype(np.uint16))
    assert np.abs(decoded(image, kind) - GRAY[..., None]).max() <= 1


def test_16_bits_of_a_portable_gray_map_are_scaled():
    data = b'P5 16 16 65535\n' + np.rint(RAMP * 65535).astype('>u2').tobytes()
    found = np.array(decode_image({'bytes': data, 'path': None}, 'image'), dtype=float)
    assert np.abs(found - GRAY[..., None]).max() <= 1


@pytest.mark.parametrize('channels', [3, 4])
def test_16_bits_of_three_and_four_channels_are_scaled(channels):
    samples = np.rint(np.repeat(RAMP[..., None], channels, 2) * 65535)
    found = np.array(decode_image({'bytes': tiff(samples), 'path': None}, 'image'), dtype=float)
    assert found.shape == (16, 16, 3) and np.abs(found - GRAY[..., None]).max() <= 1


@pytest.mark.parametrize('dtype, white', [
    (np.float32, 1), (np.float32, 255), (np.int32, 255), (np.int32, 65535), (np.int32, 2**31 - 1)])
def test_32_bits_are_scaled_by_the_range_that_holds_them(dtype, white):
    image = Image.fromarray((RAMP * white).astype(dtype))
    assert image.mode in 'IF' and np.abs(decoded(image) - GRAY[..., None]).max() <= 1


@pytest.mark.parametrize('mode, value', [('F', 256.0), ('F', -0.1), ('F', np.nan), ('F', np.inf), ('I', -1)])
def test_numbers_that_no_range_holds_are_refused(mode, value):
    pixels = np.zeros((4, 4), np.float32 if mode == 'F' else np.int32)
    pixels[1, 1] = value
    with pytest.raises(InputError, match=f"image cannot be decoded .its values of mode '{mode}' go from"):
        decoded(Image.fromarray(pixels))


def test_a_palette_with_transparency_is_read_without_a_warning():
    image = Image.new('P', (4, 4), 1)
    image.putpalette([0, 0, 0, 9, 8, 7])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert decoded(image, 'PNG', transparency=b'\x80\x40').tolist() == [[[9, 8, 7]] * 4] * 4
        assert to_rgb(Image.new('CMYK', (2, 2))).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize('prefix', ['', 'timm:', 'timm:torch/image_folder?root='])
def test_animated_and_16_bit_images_of_a_folder_are_read_and_closed(prefix, tmp_path):
    folder = write_folder(tmp_path, splits=['all']) / 'all'
    Image.new('P', (20, 20)).save(folder / 'blue/9.gif', save_all=True, append_images=[Image.new('P', (20, 20), 3)])
    Image.fromarray(np.full((20, 20), 32768, np.uint16)).save(folder / 'red/9.png')
    data = load_data(f'{prefix}{folder}', 16)
    means = [images.fetch([i]).float().mean().item()
             for images in (data.train, data.holdout, data.test) for i in range(len(images))]
    assert 128 in means and 255 not in means


# ---- broken images ---------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path):
    """A folder with a text file and half an image among 28 images."""
    folder = write_folder(tmp_path, n=7)
    (folder / 'train/red/x.jpg').write_text('no image')
    (folder / 'val/blue/3.png').write_bytes((folder / 'val/blue/3.png').read_bytes()[:50])
    return folder


@pytest.mark.parametrize('prefix', ['', 'timm:'])
@pytest.mark.parametrize('decode', ['once', 'always'])
def test_all_broken_images_are_named_before_training(prefix, decode, broken):
    with pytest.raises(InputError) as error:
        check_data(load_data(f'{prefix}{broken}', 16, decode=decode))
    text = str(error.value)
    assert text.startswith('2 images cannot be decoded: ') and 'red/x.jpg' in text and 'blue/3.png' in text
    assert 'object at' not in text and text.endswith('or leave them out with --skip-broken') and '\n' not in text


@pytest.mark.parametrize('decode', ['once', 'always'])
def test_broken_images_are_left_out_where_that_is_asked(decode, broken):
    data = load_data(str(broken), 16, decode=decode, skip_broken=True)
    assert data.skipped == 2 and len(data.train) + len(data.holdout) == 14 and len(data.test) == 13
    assert check_data(data)[0] == '2 broken images are left out'
    assert len(data.train.fetch(range(len(data.train)))) == len(data.train.labels)
    whole = load_data(str(broken), 16, decode=decode)
    assert {len(data.train), len(data.holdout)} == {len(whole.train) - 1, len(whole.holdout)} or len(
        data.holdout) == len(whole.holdout) - 1  # no image has changed its part
    with pytest.raises(InputError, match='is not searched for broken images'):
        load_data(f'stream:{broken}', 16, skip_broken=True)


def test_a_set_of_broken_images_alone_is_refused(tmp_path):
    folder = write_folder(tmp_path, splits=['train', 'val'])
    for path in (folder / 'val').rglob('*.png'):
        path.write_bytes(b'nothing')
    with pytest.raises(InputError, match=r'no image of .* validation can be decoded'):
        load_data(str(folder), 16, skip_broken=True)


# ---- what is said of a data set -------------------------------------------------------------------------------------


def test_classes_and_duplicates_are_told_before_training(tmp_path):
    folder = write_folder(tmp_path, n=20)
    (folder / 'train/green').mkdir()
    Image.new('RGB', (9, 9), 'green').save(folder / 'train/green/0.png')
    (folder / 'train/red/copy.png').write_bytes((folder / 'val/blue/3.png').read_bytes())
    remarks = check_data(load_data(str(folder), 16, holdout=1e-6, seed=3))
    assert len(remarks) == 4
    assert remarks[0] == '41 training images of 3 classes: red 21, blue 19, green 1, 21 times as many'
    assert remarks[1] == 'classes with few training images: green 1; add some, or merge classes'
    assert remarks[2].startswith('classes without test images: green;')
    assert remarks[3].startswith(f'1 of the 40 images of {tmp_path.name} validation are in {tmp_path.name} train too;')


def test_many_classes_are_told_by_their_ends(digits):
    assert check_data(digits)[0].startswith('1,293 training images of 10 classes: ')
    stream_free = check_data(load_data('fashion-mnist-12k', 16, limit=200))
    assert 'classes with few training images' not in ' '.join(check_data(digits)) and stream_free
