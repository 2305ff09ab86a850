"""Images: from anywhere to batches, every random choice a function of its seed."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from timm_ofa import InputError, load_space
from timm_ofa.images import Augment, ImageSet, calibration_batches, calibration_set, eval_batch, load_data, stored_side
from timm_ofa.images.augmentation import normalize, resize

PLAIN = Augment(shift=0, flip=False)


@pytest.fixture(scope='module')
def space():
    return load_space('ofa_mbv3_tiny')


@pytest.fixture(scope='module')
def digits():
    return load_data('digits', 24)


def keys(images):
    """The pixels of every image as one hashable value."""
    return [row.numpy().tobytes() for row in images.fetch(range(len(images)))]


def noise(n, side, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, 3, side, side), dtype=np.uint8))


def folder_of_images(root, splits=('train', 'test'), n=6):
    """Classes 'blue' and 'red', images of several sizes and modes."""
    for split in splits:
        for label, color in (('blue', (0, 0, 255)), ('red', (255, 0, 0))):
            folder = root / split / label
            folder.mkdir(parents=True)
            for i in range(n):
                image = Image.new('RGB', (20 + i, 30 - i), color)
                image.putpixel((10, 10), (i, i, len(split)))
                image.save(folder / f'{i}.png')
    return str(root)


# ---- where images come from ------------------------------------------------------------------------------------------


def test_digits_are_split_into_three_disjoint_parts(digits):
    assert (len(digits.train), len(digits.holdout), len(digits.test)) == (1293, 144, 360)
    assert digits.num_classes == 10 and digits.class_names[3] == '3'
    parts = [set(keys(part)) for part in (digits.train, digits.holdout, digits.test)]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]


def test_labels_stay_with_their_images(digits):
    from sklearn.datasets import load_digits
    source = load_digits()
    truth = {}
    for image, label in zip(source.images, source.target):
        small = Image.fromarray((image * 255 / 16).astype(np.uint8)).convert('RGB').resize((24, 24), Image.BILINEAR)
        truth[np.array(small).transpose(2, 0, 1).tobytes()] = label
    for part in (digits.train, digits.holdout, digits.test):
        assert [truth[key] for key in keys(part)] == part.labels.tolist()


def test_the_same_seed_holds_out_the_same_images(digits):
    assert keys(load_data('digits', 24).holdout) == keys(digits.holdout)
    other = load_data('digits', 24, seed=1)
    assert keys(other.holdout) != keys(digits.holdout) and keys(other.test) == keys(digits.test)


def test_limit_and_holdout_are_counts_and_shares_of_training_images(digits):
    data = load_data('digits', 24, limit=100, holdout=0.25)
    assert (len(data.train), len(data.holdout), len(data.test)) == (75, 25, 360)
    assert len(set(keys(data.train)) | set(keys(data.holdout))) == 100


def test_a_folder_of_images_by_class_is_read(tmp_path):
    data = load_data(folder_of_images(tmp_path / 'colors'), 16)
    assert data.name == 'colors' and data.class_names == ('blue', 'red')
    assert (len(data.train), len(data.holdout), len(data.test)) == (11, 1, 12)
    pixels = data.test.fetch(range(12))
    assert pixels.shape == (12, 3, 16, 16) and pixels.dtype == torch.uint8
    brightest = pixels.flatten(2).float().mean(2).argmax(1)  # channel 2: blue, 0: red
    assert brightest.tolist() == [{0: 2, 1: 0}[label] for label in data.test.labels.tolist()]


def test_without_a_test_part_a_fifth_of_the_images_serves(tmp_path):
    data = load_data(folder_of_images(tmp_path / 'colors', splits=['train'], n=10), 16)
    assert (len(data.test), len(data.holdout), len(data.train)) == (4, 2, 14)
    everything = keys(data.train) + keys(data.holdout) + keys(data.test)
    assert len(set(everything)) == 20


def test_the_built_in_images_are_a_folder_of_parquet_files():
    data = load_data('fashion-mnist-12k', 28, limit=200)
    assert data.name == 'fashion-mnist-12k' and data.num_classes == 10 and 'Sneaker' in data.class_names
    assert (len(data.train), len(data.holdout), len(data.test)) == (180, 20, 2000)
    assert torch.bincount(data.test.labels).tolist() == [200] * 10
    assert data.train.fetch([0, 5]).shape == (2, 3, 28, 28)


def test_wide_images_are_scaled_and_cropped_to_their_center():
    picture = np.zeros((10, 30, 3), dtype=np.uint8)
    picture[:, 10:20] = 255
    images = ImageSet([Image.fromarray(picture)], [0], 20, 'one')
    assert images.fetch([0]).float().mean() > 240
    assert ImageSet([Image.fromarray(picture)], [0], 10, 'one').fetch([0]).float().mean() == 255


def test_gray_and_transparent_images_become_three_channels():
    for mode in ('L', 'LA', 'RGBA', 'P', '1', 'I;16'):
        assert ImageSet([Image.new(mode, (9, 7))], [0], 8, mode).fetch([0]).shape == (1, 3, 8, 8)


def test_images_too_many_for_memory_are_decoded_each_time(digits, monkeypatch):
    monkeypatch.setattr('timm_ofa.images.image_sets.MEMORY_LIMIT', 0)
    again = load_data('digits', 24)
    assert torch.equal(again.train.fetch([3, 1, 7]), digits.train.fetch([3, 1, 7]))
    pixels, labels = again.train.load([3, 1])
    assert torch.equal(pixels, digits.train.fetch([3, 1])) and labels.tolist() == digits.train.labels[[3, 1]].tolist()
    assert not again.train.in_memory and again.train._pixels is None


@pytest.mark.parametrize('decode, in_memory', [('once', True), ('always', False), ('auto', True)])
def test_when_images_are_decoded_is_a_choice(digits, decode, in_memory):
    data = load_data('digits', 24, decode=decode)
    assert torch.equal(data.train.fetch([3, 1]), digits.train.fetch([3, 1]))
    assert data.train.in_memory == data.holdout.in_memory == (data.train._pixels is not None) == in_memory


@pytest.mark.parametrize('prepare, naming', [
    (lambda p: 'no/such/folder/anywhere', 'no/such/folder/anywhere'), (lambda p: str(p / 'none'), 'none'),
    (lambda p: '', "''"), (lambda p: str(p), 'holds no files'), (lambda p: './x', "'./x'"),
    (lambda p: (p / 'notes.txt').write_text('hello') and str(p), 'label'),
    (lambda p: (p / 'train.parquet').write_bytes(b'PAR1') and str(p), 'cannot be loaded'),
    (lambda p: (p / 'train.csv').write_text('a,b\n1,2\n') and str(p), "columns a, b")])
def test_data_that_cannot_be_used_is_one_line(prepare, naming, tmp_path):
    with pytest.raises(InputError, match=naming) as error:
        load_data(prepare(tmp_path), 24)
    assert '\n' not in str(error.value)


def test_images_without_classes_are_refused_naming_the_columns(tmp_path):
    for i in range(3):
        Image.new('RGB', (8, 8)).save(tmp_path / f'{i}.png')
    with pytest.raises(InputError, match='class-label'):
        load_data(str(tmp_path), 24)


def test_too_few_images_are_refused(tmp_path):
    with pytest.raises(InputError, match=r'has only 1 training'):
        load_data('digits', 24, limit=1)
    with pytest.raises(InputError, match=r"the splits test; one must be called 'train'"):
        load_data(folder_of_images(tmp_path / 'colors', splits=['test']), 24)


# ---- batches ---------------------------------------------------------------------------------------------------------


def test_normalizing_is_per_channel(space):
    space = replace(space, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
    x = normalize(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8), space)
    torch.testing.assert_close(x[0, :, 0, 0], torch.tensor([0.9 / 0.5, 0.8, 0.35]))


@pytest.mark.parametrize('side, resolution', [(32, 20), (32, 31), (28, 28), (40, 64)])
def test_evaluation_resizes_as_pillow_does(space, side, resolution):
    pixels = noise(2, side)
    plain = replace(space, mean=(0.0,) * 3, std=(1.0,) * 3)
    x = 255 * eval_batch(pixels, plain, resolution)
    for ours, source in zip(x, pixels):
        theirs = Image.fromarray(source.permute(1, 2, 0).numpy()).resize((resolution, resolution), Image.BILINEAR)
        assert np.abs(ours.permute(1, 2, 0).numpy() - np.array(theirs, dtype=float)).max() < 1.01  # Pillow rounds twice


def test_evaluation_sees_the_center(space):
    large = replace(space, crop_pct=0.875)
    pixels = torch.zeros(1, 3, 256, 256, dtype=torch.uint8)
    pixels[..., 16:240, 16:240] = 255
    x = eval_batch(pixels, replace(large, mean=(0.0,) * 3, std=(1.0,) * 3), 224)
    assert x.shape == (1, 3, 224, 224) and x.min() == 1
    assert stored_side(load_space('ofa_mbv3_w10')) == 256 and stored_side(space) == 32


def test_resizing_keeps_what_has_the_side_already():
    x = torch.randn(1, 3, 8, 8)
    assert resize(x, 8) is x


AUGMENTS = [
    Augment(), Augment(crop='area'), Augment(erase=1.0), Augment(crop='area', scale=(0.5, 1.0), brightness=0.125,
    saturation=0.5, erase=0.25)]


@pytest.mark.parametrize('augment', AUGMENTS, ids=['shift', 'area', 'erase', 'all'])
@pytest.mark.parametrize('resolution', [20, 32])
def test_augmented_batches_are_a_function_of_their_generator(space, augment, resolution):
    pixels = noise(16, 32)
    one, two, other = (augment(pixels, space, resolution, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert one.shape == (16, 3, resolution, resolution) and one.dtype == torch.float32 and one.isfinite().all()
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_augmenting_leaves_bytes_and_global_randomness_alone(space):
    pixels = noise(4, 32)
    before, state = pixels.clone(), torch.get_rng_state()
    AUGMENTS[-1](pixels, space, 24, np.random.default_rng(0))
    assert torch.equal(pixels, before) and torch.equal(torch.get_rng_state(), state)


def test_without_any_augmentation_a_batch_is_the_evaluation_batch(space):
    pixels = noise(4, 32)
    for resolution in (20, 32):
        torch.testing.assert_close(
            PLAIN(pixels, space, resolution, np.random.default_rng(0)), eval_batch(pixels, space, resolution),
            rtol=1e-4, atol=1e-4)


def test_flipping_mirrors_about_half_of_the_images_and_nothing_else(space):
    pixels = noise(64, 32)
    plain, x = eval_batch(pixels, space, 32), Augment(shift=0)(pixels, space, 32, np.random.default_rng(0))
    same = ((x - plain).abs().amax((1, 2, 3)) < 1e-3)
    mirrored = ((x - plain.flip(3)).abs().amax((1, 2, 3)) < 1e-3)
    assert (same | mirrored).all() and 20 < mirrored.sum() < 44


def test_shifting_moves_whole_pixels_up_to_its_reach_and_fills_with_the_mean(space):
    plain, moves = eval_batch(noise(200, 32), space, 32), set()
    x = Augment(shift=0.1, flip=False)(noise(200, 32), space, 32, np.random.default_rng(0))
    for image, source in zip(x, plain):
        found = [
            (dy, dx) for dy in range(-3, 4) for dx in range(-3, 4)
            if torch.allclose(image[:, 8:24, 8:24], source[:, 8 + dy:24 + dy, 8 + dx:24 + dx], atol=1e-3)]
        assert len(found) == 1
        moves.add(found[0])
        if found[0][0] == 3:
            assert image[:, -2:].abs().max() < 1e-3
    assert {dy for dy, _ in moves} == {dx for _, dx in moves} == set(range(-3, 4))


def test_area_crops_show_the_share_that_they_are_told(space):
    """On a ramp the range of the values that are seen is the width that is seen."""
    ramp = torch.arange(32, dtype=torch.uint8).mul(8).expand(256, 3, 32, 32).contiguous()
    x = Augment(crop='area', scale=(0.25, 0.25), flip=False)(ramp, space, 32, np.random.default_rng(0))
    width = (x[:, 0, 16, 24] - x[:, 0, 16, 8]) * space.std[0] * 255 / 8 / 16
    assert 0.5 * np.sqrt(3 / 4) - 1e-3 < width.min() < 0.45 and 0.55 < width.max() < 0.5 * np.sqrt(4 / 3) + 1e-3


@pytest.mark.parametrize('width, height', [(500, 375), (40, 300), (3, 2), (1, 1)])
def test_boxes_of_random_crops_lie_within_the_image_and_are_as_large_as_told(width, height):
    boxes = np.array([Augment(crop='area').box(width, height, np.random.default_rng([i, 1])) for i in range(500)])
    left, top, right, bottom = boxes.T
    assert (left >= 0).all() and (top >= 0).all() and (right <= width).all() and (bottom <= height).all()
    assert (right > left).all() and (bottom > top).all() and (boxes == boxes.round()).all()
    if width == 500:
        share, ratio = (right - left) * (bottom - top) / (width * height), (right - left) / (bottom - top)
        assert 0.07 < share.min() < 0.15 and share.max() > 0.9 and ratio.min() > 0.74 and ratio.max() < 1.35
        assert len(set(left)) > 100 and len(set(top)) > 100


def test_boxes_are_drawn_as_torchvision_draws_them():
    from torchvision.transforms import RandomResizedCrop
    torch.manual_seed(0)
    theirs = np.array([RandomResizedCrop.get_params(torch.empty(3, 375, 500), (0.08, 1), (3 / 4, 4 / 3))
                       for _ in range(2000)]).T  # top, left, height, width
    boxes = (Augment(crop='area').box(500, 375, np.random.default_rng([i, 1])) for i in range(2000))
    ours = np.array([(top, left, bottom - top, right - left) for left, top, right, bottom in boxes]).T
    np.testing.assert_allclose(ours.mean(1), theirs.mean(1), atol=8)  # three standard errors
    np.testing.assert_allclose(ours.std(1), theirs.std(1), atol=8)


def test_without_a_crop_only_the_rest_is_done(space):
    pixels = noise(64, 32)
    plain, x = eval_batch(pixels, space, 32), Augment(crop='none')(pixels, space, 32, np.random.default_rng(0))
    same, mirrored = ((x - y).abs().amax((1, 2, 3)) < 1e-3 for y in (plain, plain.flip(3)))
    assert (same | mirrored).all() and 20 < mirrored.sum() < 44


def test_brightness_scales_towards_black_and_saturation_towards_gray(space):
    pixels = torch.tensor([200, 100, 50], dtype=torch.uint8).view(1, 3, 1, 1).expand(300, 3, 8, 8).contiguous()
    plain = replace(PLAIN, shift=0)
    unit = replace(space, mean=(0.0,) * 3, std=(1.0,) * 3)
    bright = 255 * replace(plain, brightness=0.125)(pixels, unit, 8, np.random.default_rng(0))[:, :, 4, 4]
    factors = bright / torch.tensor([200.0, 100, 50])
    torch.testing.assert_close(factors, factors[:, :1].expand(-1, 3))
    assert 0.87 < factors.min() < 0.9 and 1.1 < factors.max() < 1.13
    color = 255 * replace(plain, saturation=0.5)(pixels, unit, 8, np.random.default_rng(0))[:, :, 4, 4]
    torch.testing.assert_close(color.mean(1), torch.full((300,), 350 / 3))
    spread = (color[:, 0] - color[:, 2]) / 150
    assert 0.5 <= spread.min() < 0.55 and 1.45 < spread.max() <= 1.5


def test_erasing_fills_a_rectangle_of_some_images_with_the_mean_color(space):
    pixels = torch.full((200, 3, 32, 32), 255, dtype=torch.uint8)
    x = replace(PLAIN, erase=0.5)(pixels, space, 32, np.random.default_rng(0))
    erased = (x == 0).all(1)
    share = erased.float().mean((1, 2))
    assert 70 < (share > 0).sum() < 130 and share.max() < 0.45
    for mask in erased[share > 0]:
        rows, columns = mask.any(1), mask.any(0)
        assert mask.sum() == rows.sum() * columns.sum()


def test_calibration_batches_are_the_same_for_a_seed_and_never_a_single_image(digits, space):
    def make(n, batch_size=200, seed=0):
        some = calibration_set(digits.train, n, seed)
        return calibration_batches(some, space, 20, augment=Augment(), batch_size=batch_size, seed=seed)
    batches = make(n=101, batch_size=50)
    assert [b.shape for b in batches] == [(50, 3, 20, 20)] * 2
    assert all(torch.equal(a, b) for a, b in zip(batches, make(n=101, batch_size=50), strict=True))
    assert not torch.equal(batches[0], make(n=101, batch_size=50, seed=1)[0])
    assert sum(len(b) for b in make(n=10**6)) == len(digits.train)


def test_calibration_decodes_its_own_images_alone(digits):
    seen = []

    class Rows:
        def __getitem__(self, i):
            seen.append(i)
            return Image.new('L', (8, 8), i)
    images = ImageSet(Rows(), [0] * 200, 8, 'gray')
    some = calibration_set(images, 30, seed=1)
    values = some.fetch(range(30))[:, 0, 0, 0].tolist()
    some.fetch(range(30))
    assert sorted(seen) == sorted(values) and len(set(seen)) == 30 and images._pixels is None
    assert values == calibration_set(images.decode(), 30, seed=1).fetch(range(30))[:, 0, 0, 0].tolist()
