"""Stored images: squares of one side, decoded once or each time, and those that calibrate."""
import numpy as np
import pytest
import torch
from PIL import Image

from timm_ofa.images import Augment, ImageSet, calibration_batches, calibration_set, load_data
from timm_ofa.images.splits import InMemory


def test_wide_images_are_scaled_and_cropped_to_their_center():
    picture = np.zeros((10, 30, 3), dtype=np.uint8)
    picture[:, 10:20] = 255
    images = ImageSet(InMemory([Image.fromarray(picture)]), [0], 20, 'one')
    assert images.fetch([0]).float().mean() > 240
    assert ImageSet(InMemory([Image.fromarray(picture)]), [0], 10, 'one').fetch([0]).float().mean() == 255


def test_gray_and_transparent_images_become_three_channels():
    for mode in ('L', 'LA', 'RGBA', 'P', '1', 'I;16'):
        assert ImageSet(InMemory([Image.new(mode, (9, 7))]), [0], 8, mode).fetch([0]).shape == (1, 3, 8, 8)


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


def test_calibration_batches_are_the_same_for_a_seed_and_never_a_single_image(digits, space):
    def make(n, seed=0):
        some = calibration_set(digits.train, n, seed)
        return list(calibration_batches(some, space, 20, augment=Augment(), seed=seed))
    batches = make(n=401)
    assert [b.shape for b in batches] == [(200, 3, 20, 20)] * 2
    assert all(torch.equal(a, b) for a, b in zip(batches, make(n=401), strict=True))
    assert not torch.equal(batches[0], make(n=401, seed=1)[0])
    assert sum(len(b) for b in make(n=10**6)) == len(digits.train)


def test_calibration_decodes_its_own_images_alone(digits):
    seen = []

    class Rows:
        def see(self, i, look):
            seen.append(i)
            return look(Image.new('L', (8, 8), i))

    images = ImageSet(Rows(), [0] * 200, 8, 'gray')
    some = calibration_set(images, 30, seed=1)
    values = some.fetch(range(30))[:, 0, 0, 0].tolist()
    some.fetch(range(30))
    assert sorted(seen) == sorted(values) and len(set(seen)) == 30 and images._pixels is None
    assert values == calibration_set(images.decode(), 30, seed=1).fetch(range(30))[:, 0, 0, 0].tolist()
