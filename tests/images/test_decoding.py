"""Every kind of pixel becomes 8 bits by its own range; what cannot be read is named, all of it at once."""
import io
import warnings
from functools import partial

import numpy as np
import pytest
from image_makers import whole, write_folder
from PIL import ExifTags, Image

from timm_ofa import InputError
from timm_ofa.images import check_data, load_data
from timm_ofa.images.decoding import decode_image, to_rgb
from timm_ofa.images.image_sets import square

RAMP = np.linspace(0, 1, 256).reshape(16, 16)  # from black to white
GRAY = np.rint(RAMP * 255)


def decoded(image, kind='TIFF', **kwargs):
    """What is read of an image that was written to a file."""
    file = io.BytesIO()
    image.save(file, kind, **kwargs)
    return np.array(decode_image({'bytes': file.getvalue(), 'path': None}, 'image', whole), dtype=float)


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
    found = np.array(decode_image({'bytes': data, 'path': None}, 'image', whole), dtype=float)
    assert np.abs(found - GRAY[..., None]).max() <= 1


@pytest.mark.parametrize('channels', [3, 4])
def test_16_bits_of_three_and_four_channels_are_scaled(channels):
    samples = np.rint(np.repeat(RAMP[..., None], channels, 2) * 65535)
    found = np.array(decode_image({'bytes': tiff(samples), 'path': None}, 'image', whole), dtype=float)
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


# ---- large photos ----------------------------------------------------------------------------------------------------


def photo(width, height):
    """Smooth colors, other ones at each end."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return Image.fromarray(np.rint(255 * np.stack([x, y, (1 + np.sin(6 * x * y)) / 2], 2)).astype(np.uint8))


def encoded(image, kind, orientation=1):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = io.BytesIO()
    image.save(file, kind, exif=exif, **({'quality': 95} if kind == 'JPEG' else {}))
    return {'bytes': file.getvalue(), 'path': None}


def top_right(place, width, height):
    return 0.5 * width, 0.0, float(width), 0.5 * height


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('size', [(900, 600), (901, 603)])
@pytest.mark.parametrize('crop', [None, top_right])
def test_a_large_photo_is_decoded_in_fewer_px_and_looks_the_same(orientation, size, crop):
    decoded_px = []

    def look(image):
        found = square(image, 48, crop and partial(crop, 0))
        decoded_px.append(image.size)
        return found.int()
    small, exact = (decode_image(encoded(photo(*size), kind, orientation), 'image', look) for kind in ('JPEG', 'PNG'))
    assert decoded_px == [tuple(-(-px // (2 if crop else 4)) for px in size), size]
    difference = (small - exact).abs()
    assert difference.float().mean() < 1 and difference.max() <= 6


def test_a_photo_that_is_not_much_larger_is_decoded_whole():
    image = encoded(photo(190, 150), 'JPEG')
    assert decode_image(image, 'image', lambda opened: square(opened, 48) is not None and opened.size) == (190, 150)


@pytest.mark.parametrize('prefix, upper_half', [('', True), ('timm:', False)])
def test_a_photo_is_turned_as_its_camera_says_but_not_by_the_readers_of_timm(prefix, upper_half, tmp_path):
    folder = write_folder(tmp_path, splits=['all']) / 'all'
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32] = 255
    turned = encoded(Image.fromarray(pixels), 'JPEG', 6)  # a quarter clockwise: the left half is then the upper one
    (folder / 'blue/9.jpg').write_bytes(turned['bytes'])
    data = load_data(f'{prefix}{folder}', 64)
    found = [image for images in (data.train, data.holdout, data.test) for image in images.fetch(range(len(images)))
             if image.float().std() > 100]
    assert len(found) == 1
    lower_left, upper_right = found[0][0, 60, 3].item(), found[0][0, 3, 60].item()
    assert (upper_right > 200, lower_left > 200) == (upper_half, not upper_half)


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


def test_duplicates_are_told_of_parts_that_are_called_the_same(tmp_path):
    ours, theirs = (write_folder(tmp_path / name / 'photos', splits=['train', 'test']) for name in 'ab')
    remarks = check_data(load_data(str(ours), 16, test=f'{theirs}?train=test&test=train'))
    assert remarks[-2].startswith('11 of the 12 images of photos train are in photos train too;')
    assert remarks[-1].startswith('1 of the 12 images of photos train are in photos holdout too;')


def test_many_classes_are_told_by_their_ends(digits):
    assert check_data(digits)[0].startswith('1,293 training images of 10 classes: ')
    stream_free = check_data(load_data('fashion-mnist-12k', 16, limit=200))
    assert 'classes with few training images' not in ' '.join(check_data(digits)) and stream_free
