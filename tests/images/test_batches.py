"""Batches of an epoch: the same for any number of workers, processes and interruptions, from memory, disk or stream."""
import itertools
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from timm_ofa import InputError
from timm_ofa.images import Augment, EpochBatches, ImageSet, calibration_batches, calibration_set, load_data
from timm_ofa.images.batches import read_ahead
from timm_ofa.images.image_sets import StreamSet
from timm_ofa.images.splits import InMemory
from timm_ofa.spaces.shelf import load_space
from timm_ofa.training.config import Phase, TrainConfig
from timm_ofa.training.supernets import train_supernet

AREA = Augment(crop='area')


def accelerator(rank=0, world=1):
    return SimpleNamespace(process_index=rank, num_processes=world, device=torch.device('cpu'))


def pictures(n, seed=0):
    """Images of several sizes, each of its own blurred noise."""
    rng = np.random.default_rng(seed)
    for i in range(n):
        noise = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        yield noise.resize((40 + i % 5, 30 + i % 7), Image.Resampling.BILINEAR)


@pytest.fixture(scope='module')
def parquet(tmp_path_factory):
    """A folder of 3 + 1 parquet files, 90 training and 20 test images of 3 classes."""
    folder = tmp_path_factory.mktemp('parquet')
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=['a', 'b', 'c']))
    for seed, (name, n) in enumerate((('train-0', 30), ('train-1', 30), ('train-2', 30), ('test-0', 20))):
        images = list(pictures(n, seed))
        part = datasets.Dataset.from_dict(dict(image=images, label=[i % 3 for i in range(n)]), features=features)
        part.to_parquet(folder / f'{name}.parquet')
    return str(folder)


def data_of(kind, folder):
    """The three ways to get at the same images."""
    if kind == 'stream':
        return load_data(f'stream:{folder}', 32, images_per_epoch=80)
    return load_data(folder, 32, decode='once' if kind == 'memory' else 'always')


def batches_of(images, epoch=0, skip=0, workers=0, rank=0, world=1, augment=AREA, size=16, seed=0):
    batches = EpochBatches(images, size, seed, workers, accelerator(rank, world), augment)
    return list(batches(epoch, skip))


def same(one, two):
    return len(one) == len(two) and all(torch.equal(a, b) for x, y in zip(one, two) for a, b in zip(x, y))


@pytest.mark.parametrize('kind', ['memory', 'disk', 'stream'])
def test_batches_are_the_same_for_any_workers_processes_and_place_to_resume(kind, parquet):
    images = data_of(kind, parquet).train
    whole = batches_of(images, epoch=3)
    assert len(whole) == len(images) // 16 and whole[0][0].shape == (16, 3, 32, 32)
    assert not same(whole, batches_of(images, epoch=4)) and not same(whole, batches_of(images, epoch=3, seed=1))
    assert same(whole[2:], batches_of(images, epoch=3, skip=2))
    halves = [batches_of(images, epoch=3, rank=rank, world=2) for rank in (0, 1)]
    assert same(whole, [tuple(map(torch.cat, zip(*parts))) for parts in zip(*halves)])
    several = EpochBatches(images, 16, 0, 2, accelerator(), AREA)
    abandoned = several(1, 0)
    next(abandoned)
    workers = several._loader._iterator._workers
    assert same(whole[1:], list(several(3, 1))) and same(whole, list(several(3, 0)))
    assert several._loader._iterator._workers is workers  # they live on
    assert EpochBatches(images, 16, 0, 1, accelerator(), AREA)._loader.persistent_workers


@pytest.mark.parametrize('kind', ['disk', 'stream'])
def test_an_epoch_holds_every_image_once_with_its_label_and_none_that_is_held_out(kind, parquet):
    def seen(pixels, labels):
        return {(image.numpy().tobytes(), int(label)) for image, label in zip(pixels, labels)}
    data = data_of(kind, parquet)
    everything = load_data(parquet, 32, holdout=0.01)
    truth = set.union(*(seen(part.fetch(range(len(part))), part.labels) for part in (
        everything.train, everything.holdout)))
    n = len(truth) - len(data.holdout)
    if kind == 'stream':
        data.train.length = n  # all that there is
    trained = batches_of(data.train, augment=Augment(), size=n)[0]
    held = seen(data.holdout.fetch(range(len(data.holdout))), data.holdout.labels)
    assert len(truth) == 90 and len(held) == len(data.holdout) >= 8
    assert seen(*trained) | held == truth and not seen(*trained) & held
    assert {label for _, label in held} == {0, 1, 2} and len(data.test) == 20


def test_crops_of_images_on_disk_see_the_borders_that_the_stored_square_lost():
    picture = np.full((20, 80, 3), 100, dtype=np.uint8)
    picture[:, :25] = picture[:, 55:] = 200
    images = ImageSet(InMemory([Image.fromarray(picture)] * 64), [0] * 64, 20, 'wide', 'always')
    batches = EpochBatches(images, 64, 0, 0, accelerator(), replace(AREA, scale=(0.1, 0.2)))
    (pixels, _), = batches(0, 0)
    assert batches.augment.crop == 'done' and batches.augment.scale == (0.1, 0.2)
    assert images.fetch([0]).max() == 100 and (pixels.amax((1, 2, 3)) == 200).float().mean() > 0.5
    assert len({image.numpy().tobytes() for image in pixels}) > 20  # a box of its own for each


def test_crops_are_as_large_as_what_is_trained_at_most():
    picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    images = ImageSet(InMemory([Image.fromarray(picture)] * 16), [0] * 16, 40, 'noise', 'always')
    whole = replace(AREA, scale=(1.0, 1.0), flip=False)
    (pixels, _), = EpochBatches(images, 16, 0, 0, accelerator(), whole, largest=24)(0, 0)
    assert pixels.shape == (16, 3, 24, 24)
    box = whole.box(80, 60, np.random.default_rng(0))  # the center: nothing is left to draw
    expected = Image.fromarray(picture).resize((24, 24), Image.Resampling.BILINEAR, box=box)
    assert torch.equal(pixels[5], torch.from_numpy(np.array(expected)).permute(2, 0, 1))


def test_crops_of_images_in_memory_and_other_augmentations_are_left_to_the_device(parquet):
    memory, disk = data_of('memory', parquet).train, data_of('disk', parquet).train
    assert EpochBatches(memory, 16, 0, 0, accelerator(), AREA).augment == AREA
    assert EpochBatches(disk, 16, 0, 0, accelerator(), Augment()).augment == Augment()
    assert same(batches_of(memory, augment=AREA), batches_of(disk, augment=Augment()))  # centers, both


def test_batches_leave_global_randomness_alone(parquet):
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    batches_of(data_of('disk', parquet).train, workers=2)
    assert torch.equal(torch.get_rng_state(), states[0]) and (np.random.get_state()[1] == states[1]).all()


# ---- streams -------------------------------------------------------------------------------------------------------


def test_an_epoch_may_be_longer_than_the_stream(parquet):
    train = load_data(f'stream:{parquet}', 32, images_per_epoch=160).train
    assert isinstance(train, StreamSet) and len(train) == 160
    digests = [bytes(item[1]['bytes']) for item in itertools.islice(train.order(0, 0), 148)]
    assert len(set(digests[:74])) == len(set(digests[74:])) == 74 and digests[:74] != digests[74:]
    assert set(digests[:74]) == set(digests[74:])


@pytest.mark.parametrize('known', [True, False])
def test_an_epoch_goes_on_where_the_one_before_ended(parquet, known):
    found = load_data(f'stream:{parquet}', 32, images_per_epoch=80).train
    train = StreamSet(replace(found.stream, length=90 if known else None), 24, 32, found.held)
    epochs = [[bytes(image['bytes']) for _, image, _ in train.order(0, epoch)] for epoch in range(12)]
    assert [len(epoch) for epoch in epochs] == [24] * 12 and len(found.held) == 8
    assert all(len(set(epoch)) >= 23 for epoch in epochs[:3])
    seen = [image for epoch in epochs[:4] for image in epoch]  # 96 places, 82 images
    times = np.bincount(np.unique(seen, return_inverse=True)[1])
    assert len(times) >= (75 if known else 82) and times.max() <= (3 if known else 2)  # shards differ
    again = [bytes(image['bytes']) for _, image, _ in train.order(0, 7)]
    assert again == epochs[7] and [place for place, *_ in train.order(0, 7, 20)] == [20, 21, 22, 23]
    assert [bytes(image['bytes']) for _, image, _ in train.order(0, 7, 20)] == epochs[7][20:]
    many = np.unique([image for epoch in epochs for image in epoch], return_counts=True)[1]
    assert len(many) == 82 and many.min() >= 2 and many.max() <= 5  # 3.5 times each


def test_a_stream_is_calibrated_on_images_that_it_trains_on(parquet):
    data, space = data_of('stream', parquet), replace(load_space('ofa_mbv3_tiny'), resolutions=(20,))
    one, two = (
        list(calibration_batches(calibration_set(data.train, 40), space, 20, augment=Augment()))
        for _ in range(2))
    assert [b.shape for b in one] == [(40, 3, 20, 20)] and all(map(torch.equal, one, two))
    sample = data.train.sample(40)
    held = {image.numpy().tobytes() for image in data.holdout.fetch(range(8))}
    assert len(sample) == 40 and not held & {image.numpy().tobytes() for image in sample.fetch(range(40))}


def test_a_stream_without_a_test_split_gives_held_out_images_for_both(parquet, tmp_path):
    for file in Path(parquet).glob('train*'):
        (tmp_path / file.name).symlink_to(file)
    data = load_data(f'stream:{tmp_path}', 32, images_per_epoch=80)
    assert (len(data.holdout), len(data.test)) == (8, 8) and data.split == 'test'
    keys = [{image.numpy().tobytes() for image in part.fetch(range(8))} for part in (data.holdout, data.test)]
    assert not keys[0] & keys[1] and len(data.train.held) == 16


@pytest.mark.parametrize('kwargs, naming', [
    ({}, 'the length of the stream .* is not known; --set images_per_epoch'), ({'limit': 3}, 'limit 3 does not go'),
    ({'images_per_epoch': 2000}, 'has only 90 images')])
def test_streams_of_unknown_or_wrong_length_are_refused(kwargs, naming, parquet, tmp_path):
    shutil.copytree(parquet, tmp_path / 'copy')  # what was loaded already has a known length
    with pytest.raises(InputError, match=naming):
        load_data(f'stream:{tmp_path / "copy"}', 32, **kwargs)


def test_a_stream_that_is_held_out_as_a_whole_is_refused(parquet, tmp_path):
    (Path(shutil.copytree(parquet, tmp_path / 'copy')) / 'test-0.parquet').unlink()
    load_data(str(tmp_path / 'copy'), 32)  # from now on the length is known
    with pytest.raises(InputError, match='has only 90 images; lower holdout'):
        load_data(f'stream:{tmp_path / "copy"}', 32, holdout=0.5)


def test_test_images_of_a_stream_without_any_are_refused(parquet, tmp_path):
    folder = Path(shutil.copytree(parquet, tmp_path / 'empty'))
    datasets.Dataset.from_parquet(str(folder / 'test-0.parquet')).select([]).to_parquet(folder / 'test-0.parquet')
    for source, test in ((f'stream:{folder}', None), (parquet, f'stream:{folder}')):
        with pytest.raises(InputError, match="'empty test' has no images; give test images of another source"):
            load_data(source, 32, images_per_epoch=80 if test is None else None, test=test)


def test_images_to_calibrate_on_do_not_depend_on_those_that_were_asked_for_before(parquet):
    def calibrating(n, *before):
        train = load_data(f'stream:{parquet}', 32, images_per_epoch=60).train
        for earlier in before:
            calibration_set(train, earlier)
        return calibration_set(train, n).digest()
    assert calibrating(20) == calibrating(20, 50) == calibrating(20, 10, 2000)
    assert calibrating(2000) == calibrating(60, 2000)


def test_a_length_for_what_is_no_stream_is_refused(parquet):
    with pytest.raises(InputError, match='images_per_epoch 80 is for streams'):
        load_data(parquet, 32, images_per_epoch=80)


def test_training_on_a_stream_resumes_within_an_epoch(parquet, tmp_path, monkeypatch):
    config = TrainConfig(
        'stream', 'ofa_mbv3_tiny', f'stream:{parquet}', phases=(Phase('all', 2, 0.01, kd_weight=0),), resolutions=(20,),
        batch_size=20, workers=2, augment=AREA, checkpoint_minutes=1e-6)
    data, original = data_of('stream', parquet), EpochBatches.__call__
    whole = train_supernet(config, data, tmp_path / 'whole')

    def interrupted(self, epoch, skip):
        yield from itertools.islice(original(self, epoch, skip), 3)
        raise KeyboardInterrupt
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(EpochBatches, '__call__', lambda self, epoch, skip, pieces: (
            interrupted(self, epoch, skip) if epoch else original(self, epoch, skip)))
        train_supernet(config, data, tmp_path / 'parts')
    resumed = train_supernet(config, data, tmp_path / 'parts', resume=True)
    assert (tmp_path / 'parts' / 'log.jsonl').read_bytes() == (tmp_path / 'whole' / 'log.jsonl').read_bytes()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


# ---- what goes wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('kind', ['disk', 'stream'])
def test_a_broken_image_is_one_line_that_names_it(kind, workers, tmp_path):
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=['a', 'b']))
    rows = [dict(path='good.png', bytes=None) for _ in range(30)]
    for row, picture in zip(rows, pictures(30)):
        picture.save(tmp_path / 'good.png')
        row['bytes'] = (tmp_path / 'good.png').read_bytes()
    rows[17] = dict(path='torn.png', bytes=rows[17]['bytes'][:200])
    folder = tmp_path / 'torn'
    folder.mkdir()
    datasets.Dataset.from_dict(
        dict(image=rows, label=[i % 2 for i in range(30)]), features=features).to_parquet(folder / 'train.parquet')
    if kind == 'stream':
        stream = load_data(f'stream:{folder}', 32, images_per_epoch=10).train
        images = StreamSet(stream.stream, 30, 32, frozenset())
    else:
        images = load_data(str(folder), 32, decode='always').train
        images = ImageSet(images.rows.rows.rows if hasattr(images.rows.rows, 'rows') else images.rows.rows,
                          [0] * 30, 32, 'all', 'always')
    with pytest.raises(InputError, match=r'torn.png.* cannot be decoded \(.*; replace or remove it') as error:
        batches_of(images, workers=workers, size=10)
    assert '\n' not in str(error.value) and (kind == 'stream' or 'image 17 of torn train' in str(error.value))
    assert ('--skip-broken' in str(error.value)) == (kind == 'disk')  # streams do not take it


def test_reading_ahead_keeps_order_stops_when_closed_and_passes_errors_on():
    read = []

    def items(n, fail):
        for i in range(n):
            read.append(i)
            yield i
        if fail:
            raise InputError('the wire is cut')
    threads = threading.active_count()
    assert list(read_ahead(items(100, False), 4)) == list(range(100))
    with pytest.raises(InputError, match='the wire is cut'):
        list(read_ahead(items(5, True), 4))
    read.clear()
    endless = read_ahead(items(10**9, False), 4)
    assert list(itertools.islice(endless, 10)) == list(range(10))
    endless.close()
    for _ in range(100):  # the thread ends after the item that it is reading
        if threading.active_count() > threads:
            time.sleep(0.05)
    assert len(read) < 20 and threading.active_count() <= threads
