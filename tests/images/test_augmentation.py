"""From bytes to what a network reads: like Pillow and torchvision, and random by a generator alone."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from timm_ofa import load_space
from timm_ofa.images import Augment, eval_batch, stored_side
from timm_ofa.images.augmentation import _scaled_side, normalize, resize

PLAIN = Augment(shift=0, flip=False)


def noise(n, side, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, 3, side, side), dtype=np.uint8))


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
    assert stored_side(load_space('ofa_mbv3_w10'), 236) == 270 and stored_side(space, 24) == 32


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


@pytest.mark.parametrize('resolution', [224, 160, 128])
@pytest.mark.parametrize('crop', ['shift', 'none'])
def test_training_sees_objects_as_large_as_evaluation_does(space, crop, resolution):
    """A ramp tells by its slope how large a pixel of the stored image becomes."""
    large = replace(space, crop_pct=0.875, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    ramp = torch.arange(256, dtype=torch.uint8).expand(4, 3, 256, 256).contiguous()
    judged = eval_batch(ramp, large, resolution)
    trained = Augment(crop=crop, shift=0.05, flip=False)(ramp, large, resolution, np.random.default_rng(0))
    slopes = [(x[:, 0, 64, 100] - x[:, 0, 64, 20]) / 80 for x in (judged, trained)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=0.01, atol=0)
    if crop == 'none':
        torch.testing.assert_close(judged, trained, rtol=0, atol=2.0)  # of 255, which is about a pixel
    whole = Augment(crop='done', flip=False)(ramp, large, resolution, np.random.default_rng(0))
    assert whole[0, 0, 0, -1] - whole[0, 0, 0, 0] > 250  # what a loader worker cut out is seen whole


@pytest.mark.parametrize('resolution, colors, most', [(48, 0.5, 0.01), (32, 0, 1.01), (20, 0, 1.01)])
def test_what_a_loader_worker_cut_out_is_scaled_flipped_and_recolored(space, resolution, colors, most):
    """As floats would be; bytes are rounded once more, which changes less than a level of 255."""
    pixels, cut = noise(64, 48), Augment(crop='done', brightness=colors, saturation=colors)
    exact = replace(cut, crop='none')(pixels, replace(space, crop_pct=1.0), resolution, np.random.default_rng(0))
    found = cut(pixels, space, resolution, np.random.default_rng(0))
    assert ((found - exact).abs() * torch.tensor(space.std).view(1, 3, 1, 1) * 255).max() < most


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
    ratio = (right - left) / (bottom - top)
    assert width < 40 or (ratio.min() > 0.72 and ratio.max() < 1.39)
    if width == 500:
        share = (right - left) * (bottom - top) / (width * height)
        assert 0.07 < share.min() < 0.15 and share.max() > 0.9 and ratio.min() > 0.74 and ratio.max() < 1.35
        assert len(set(left)) > 100 and len(set(top)) > 100


@pytest.mark.parametrize('width, height, box', [
    (40, 300, (0, 123, 40, 176)), (300, 40, (123, 0, 176, 40)), (41, 300, (0, 122, 41, 177)), (40, 50, (0, 0, 40, 50))])
def test_where_no_box_of_the_wanted_area_fits_the_largest_one_in_the_middle_is_taken(width, height, box):
    assert Augment(crop='area', scale=(1.0, 1.0)).box(width, height, np.random.default_rng(0)) == box


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


@pytest.mark.parametrize('mean, std', [((0.0,) * 3, (1.0,) * 3), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
def test_brightness_and_saturation_change_colors_from_0_to_255_as_torchvision_does(space, mean, std):
    from torchvision.transforms.functional import adjust_brightness, adjust_saturation
    pixels, augment = noise(64, 8), replace(PLAIN, brightness=0.4, saturation=0.5)
    drawn = augment._draw(64, 8, np.random.default_rng(0))
    x = augment(pixels, replace(space, mean=mean, std=std), 8, np.random.default_rng(0))
    ours = x * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    for image, source, brightness, saturation in zip(ours, pixels / 255, drawn['brightness'], drawn['saturation']):
        theirs = adjust_saturation(adjust_brightness(source, 1 + brightness), 1 + saturation)
        torch.testing.assert_close(image, theirs, atol=2e-4, rtol=0)
    assert ours.min() > -1e-4 and ours.max() < 1 + 1e-4


def test_brightness_scales_toward_black_and_saturation_toward_gray(space):
    pixels = torch.tensor([200, 100, 50], dtype=torch.uint8).view(1, 3, 1, 1).expand(300, 3, 8, 8).contiguous()
    plain = replace(PLAIN, shift=0)
    unit = replace(space, mean=(0.0,) * 3, std=(1.0,) * 3)
    bright = 255 * replace(plain, brightness=0.125)(pixels, unit, 8, np.random.default_rng(0))[:, :, 4, 4]
    factors = bright / torch.tensor([200.0, 100, 50])
    torch.testing.assert_close(factors, factors[:, :1].expand(-1, 3))
    assert 0.87 < factors.min() < 0.9 and 1.1 < factors.max() < 1.13
    color = 255 * replace(plain, saturation=0.5)(pixels, unit, 8, np.random.default_rng(0))[:, :, 4, 4]
    luma = torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(color @ luma, (torch.tensor([200.0, 100, 50]) @ luma).expand(300))
    spread = (color[:, 0] - color[:, 2]) / 150
    assert 0.5 <= spread.min() < 0.55 and 1.45 < spread.max() <= 1.5


def test_no_color_is_scaled_by_less_than_nothing(space):
    """As torchvision draws it: from 0 where 1 - b is below."""
    drawn = Augment(brightness=2.0, saturation=3.0)._draw(10_000, 8, np.random.default_rng(0))
    for name, most in (('brightness', 2), ('saturation', 3)):
        factors = 1 + drawn[name]
        assert 0 <= factors.min() < 0.01 and most + 0.99 < factors.max() <= most + 1
        assert factors.mean() == pytest.approx((most + 1) / 2, abs=0.05)  # even


def test_erasing_fills_a_rectangle_of_some_images_with_the_mean_color(space):
    pixels = torch.full((200, 3, 32, 32), 255, dtype=torch.uint8)
    x = replace(PLAIN, erase=0.5)(pixels, space, 32, np.random.default_rng(0))
    erased = (x == 0).all(1)
    share = erased.float().mean((1, 2))
    assert 70 < (share > 0).sum() < 130 and share.max() < 0.45
    ratios, tops, lefts = [], [], []
    for mask in erased[share > 0]:
        rows, columns = mask.any(1), mask.any(0)
        assert mask.sum() == rows.sum() * columns.sum()
        ratios.append(float(rows.sum() / columns.sum()))
        tops.append(float(rows.int().argmax() / (33 - rows.sum())))
        lefts.append(float(columns.int().argmax() / (33 - columns.sum())))
    for place in tops, lefts:  # anywhere, evenly
        assert np.mean(place) == pytest.approx(0.48, abs=0.1) and min(place) < 0.1 and max(place) > 0.85
    assert 0.25 < min(ratios) < 0.4 and 2.5 < max(ratios) < 4  # 0.3 to 1 / 0.3, in whole pixels
    assert 0.01 < share[share > 0].min() < 0.04 and share.max() > 0.28


@pytest.mark.parametrize('resolution, side', [(160, 183), (128, 147), (224, 256), (176, 202)])
def test_evaluation_scales_to_the_next_whole_side(resolution, side):
    """As the original does: 160 / 0.875 = 182.9 px are 183."""
    assert _scaled_side(resolution, load_space('ofa_mbv3_w10')) == side
