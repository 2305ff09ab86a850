"""Where images come from: splits and columns that are named, timm's readers, and one line for each mistake."""
import tarfile

import numpy as np
import pytest
from image_makers import colors, write_folder, write_parquet
from PIL import Image

from timm_ofa import InputError
from timm_ofa.images import load_data
from timm_ofa.images.sources import open_source
from timm_ofa.images.splits import MAX_SHARDS, Stream

# ---- timm ------------------------------------------------------------------------------------------------------------


def test_a_folder_is_the_same_through_timm(tmp_path):
    folder = write_folder(tmp_path / 'folder')
    ours, timms = open_source(str(folder)), open_source(f'timm:{folder}')
    assert timms.class_names == ours.class_names == ('blue', 'red') and timms.name == 'folder'
    assert colors(timms.train) == colors(ours.train) and colors(timms.test) == colors(ours.test)
    assert len(timms.train.labels) == 12 and timms.train.split == 'train' and timms.test.split == 'validation'
    data = load_data(f'timm:{folder}', 16)
    assert (len(data.train), len(data.holdout), len(data.test)) == (11, 1, 12)


def test_a_folder_without_splits_has_no_test_part_through_timm(tmp_path):
    opened = open_source(f'timm:{write_folder(tmp_path) / "train"}')
    assert opened.test is None and opened.class_names == ('blue', 'red')


def test_splits_of_a_folder_may_be_named_to_timm(tmp_path):
    folder = write_folder(tmp_path, splits=['train', 'val', 'extra'])
    opened = open_source(f'timm:{folder}?train=extra&test=train')
    assert opened.train.split == 'extra' and colors(opened.test) == colors(open_source(str(folder)).train)
    for query in ('train=none', 'test=none'):
        with pytest.raises(InputError, match=r"timm opens no 'none' \(there is no such folder\)"):
            open_source(f'timm:{folder}?{query}')


@pytest.mark.parametrize('query, naming', [
    ('label=fine', "'label=fine' is not understood; write .* with train, test, root"),
    ('root=/else/where', 'root is for hfds/NAME and torch/NAME; leave it out')])
def test_what_timms_reader_of_folders_does_not_read_is_refused(tmp_path, query, naming):
    with pytest.raises(InputError, match=naming):
        open_source(f'timm:{write_folder(tmp_path)}?{query}')


def test_a_tar_file_is_read_through_timm(tmp_path):
    folder = write_folder(tmp_path / 'folder', splits=['all'])
    with tarfile.open(tmp_path / 'all.tar', 'w') as tar:
        tar.add(folder / 'all', arcname='all')
    opened = open_source(f'timm:{tmp_path / "all.tar"}')
    assert opened.class_names == ('blue', 'red') and opened.test is None
    assert colors(opened.train) == colors(open_source(f'timm:{folder}/all').train)


def test_a_data_set_of_the_hub_is_read_through_timm(tmp_path):
    write_parquet(tmp_path / 'p', [0, 1, 1, 0])
    write_parquet(tmp_path / 'p', [1, 0], split='test')
    opened, ours = open_source(f'timm:hfds/{tmp_path / "p"}'), open_source(str(tmp_path / 'p'))
    assert opened.train.labels == [0, 1, 1, 0] and opened.test.labels == [1, 0] and opened.class_names == ('a', 'b')
    assert colors(opened.train) == colors(ours.train)


def test_a_data_set_of_torchvision_is_read_through_timm(tmp_path):
    batches = tmp_path / 'cifar-10-batches-py'
    with pytest.raises(InputError, match=r"timm opens no 'train' \(.*; give a folder, a tar file"):
        open_source(f'timm:torch/cifar10?root={tmp_path}')
    assert not batches.exists()  # nothing is downloaded


@pytest.mark.parametrize('kind', ['wds', 'tfds', 'hfids'])
def test_readers_of_timm_that_only_stream_are_refused(kind, tmp_path):
    with pytest.raises(InputError, match=f"timm's {kind} reader gives no image by its index; take 'stream:'"):
        open_source(f'timm:{kind}/imagenet')


def test_a_broken_image_is_named_by_timms_readers_and_not_skipped(tmp_path):
    folder = write_folder(tmp_path)
    (folder / 'train' / 'red' / '2.png').write_bytes(b'\x89PNG\r\n\x1a\nnothing')
    data = load_data(f'timm:{folder}', 16)
    with pytest.raises(InputError, match=r'image \d+ of .* \(red/2.png\) cannot be decoded') as error:
        data.train.decode(), data.holdout.decode()
    assert '\n' not in str(error.value)


# ---- splits and columns ----------------------------------------------------------------------------------------------


def test_splits_and_the_label_may_be_named(tmp_path):
    for split, labels in (('train', [0, 1, 1]), ('validation', [1, 0]), ('extra', [0, 0, 1, 1])):
        folder = write_parquet(tmp_path / 'p', labels, columns=('fine', 'coarse'), split=split)
    opened = open_source(folder)
    assert (opened.train.labels, opened.test.labels) == ([0, 1, 1], [1, 0]) and opened.test.split == 'validation'
    opened = open_source(f'{folder}?train=validation&label=coarse')
    assert (opened.train.labels, opened.test) == ([0, 1], None) and opened.name == 'p'
    stream = open_source(f'stream:{folder}?train=validation&test=train&label=coarse')
    assert isinstance(stream.train, Stream) and [label for _, label in stream.test.items(0)] in ([1, 0, 0], [0, 1, 0], [
        0, 0, 1])


@pytest.mark.parametrize('query, naming', [
    ('?train=extra', "has the splits train; one must be called 'train', or be named"), ('?test=extra', 'the splits'),
    ('?label=depth', 'the columns image, label'), ('?split=train', "'split=train' is not understood; write"),
    ('?', 'is not understood'), ('?train', 'is not understood'),
    ('?train=train&test', 'is not understood'), ('?train=train&test=', 'is not understood'),
    ('?train=test&train=train', 'is not understood'), ('?root=x', 'with train, test, label')])
@pytest.mark.parametrize('prefix', ['', 'stream:'])
def test_what_is_asked_for_and_not_there_is_one_line(prefix, query, naming, tmp_path):
    with pytest.raises(InputError, match=naming.replace('?', r'\?')) as error:
        open_source(prefix + write_parquet(tmp_path / 'p', [0, 1]) + query)
    assert '\n' not in str(error.value)


def test_labels_of_a_test_split_that_lacks_a_class_are_those_of_training(tmp_path):
    write_folder(tmp_path, splits=['train'], classes=['blue', 'green', 'red'])
    write_folder(tmp_path, splits=['val'], classes=['green', 'red'])
    for source in (f'timm:{tmp_path}', str(tmp_path)):
        opened = open_source(source)
        assert opened.class_names == ('blue', 'green', 'red') and sorted(set(opened.test.labels)) == [1, 2]
    (tmp_path / 'val' / 'black').mkdir()
    Image.new('RGB', (8, 8)).save(tmp_path / 'val' / 'black' / '0.png')
    with pytest.raises(InputError, match='has classes without training images: black, and none of blue; remove them'):
        open_source(f'timm:{tmp_path}')


def test_a_test_split_that_is_the_training_split_or_has_no_labels_is_refused(tmp_path):
    folder = write_folder(tmp_path / 'f', splits=['train', 'val'])
    parquet = write_parquet(tmp_path / 'p', [0, 1])
    write_parquet(tmp_path / 'p', [0, -1], split='test')
    write_parquet(tmp_path / 'p', [0, None], split='validation')
    for source in (f'timm:{folder}?test=train', f'timm:{folder}?train=val&test=validation', f'{parquet}?test=train',
                   f'stream:{parquet}?test=train'):
        with pytest.raises(InputError, match=r'is the training split .*; choose another split, or leave out test='):
            open_source(source)
    for split in ('test', 'validation'):
        with pytest.raises(InputError, match=f"test images of '{split}' have no label; choose another split"):
            open_source(f'{parquet}?test={split}')
    assert open_source(parquet).test is None and open_source(f'timm:{folder}?train=val').test is None


# ---- mistakes --------------------------------------------------------------------------------------------------------


def test_images_of_one_class_are_refused(tmp_path):
    folder = write_folder(tmp_path / 'f', classes=['blue'])
    for source in (f'timm:{folder}', str(folder), write_parquet(tmp_path / 'p', [0, 0], names=['blue', 'red'])):
        with pytest.raises(InputError, match="has images of one class alone, 'blue'; give two"):
            open_source(source)


def test_training_images_without_a_label_are_refused(tmp_path):
    for i, label in enumerate((-1, None)):
        folder = write_parquet(tmp_path / f'p{i}', [0, label, 1])
        with pytest.raises(InputError, match='has training images without a label'):
            open_source(folder)
        with pytest.raises(InputError, match=f'p{i} train holds an image without a label'):
            list(open_source(f'stream:{folder}').train.items(0))


def test_an_empty_class_is_named(tmp_path):
    folder = write_folder(tmp_path)
    (folder / 'train' / 'green').mkdir()
    with pytest.raises(InputError, match='has empty folders: train/green; fill or remove'):
        open_source(str(folder))


def test_a_class_that_no_image_has_is_no_mistake(tmp_path):
    """A part of ImageNet serves for calibration."""
    assert open_source(write_parquet(tmp_path / 'p', [0, 2], names='abc')).class_names == ('a', 'b', 'c')


@pytest.mark.parametrize('source', ['timm:', 'timm:/no/where', 'stream:', 'stream:/no/where', 'stream:./x', 'timm:x'])
def test_wrong_places_are_one_line(source):
    with pytest.raises(InputError, match=source.replace('.', r'\.')) as error:
        open_source(source)
    assert '\n' not in str(error.value) and ('is not a folder' in str(error.value) or 'exist' in str(error.value))


def test_the_order_of_a_stream_is_a_function_of_its_seed(tmp_path, monkeypatch):
    monkeypatch.setattr('timm_ofa.images.splits.SHUFFLE_BUFFER', 5)
    folder = write_parquet(tmp_path / 'p', [i % 2 for i in range(40)])
    stream = open_source(f'stream:{folder}').train

    def order(seed):
        return [image['bytes'] for image, _ in stream.items(seed)]
    in_file = [row['image']['bytes'] for row in stream.dataset]
    assert order(0) == order(0) != order(1) and sorted(order(0)) == sorted(in_file) and order(0) != in_file
    moved = [abs(in_file.index(image) - i) for i, image in enumerate(order(0))]
    assert 2 < np.mean(moved) < 12


def test_a_stream_of_many_shards_is_read_in_groups_of_shards_that_lie_far_apart():
    import datasets

    def rows(shards):
        for shard in shards:
            yield from ({'image': {'bytes': f'{shard} {i}'.encode(), 'path': None}, 'label': shard} for i in range(3))

    stream = Stream(datasets.IterableDataset.from_generator(rows, gen_kwargs={'shards': list(range(2 * MAX_SHARDS))}),
                    ('image', 'label'), 'train', 'many', None)
    labels = [label for _, label in stream.read(np.random.default_rng(0))]
    assert sorted(labels) == sorted(3 * list(range(2 * MAX_SHARDS)))
    assert all(labels[i:i + 6] == 3 * [labels[i]] + 3 * [labels[i] + MAX_SHARDS] for i in range(0, len(labels), 6))


def test_the_first_images_of_a_stream_are_of_shards_that_lie_far_apart():
    """And no other shard is opened."""
    import itertools

    import datasets

    opened = []

    def rows(shards):
        for shard in shards:
            opened.append(shard)
            yield from ({'image': {'bytes': f'{shard} {i}'.encode(), 'path': None}, 'label': shard} for i in range(5))

    stream = Stream(datasets.IterableDataset.from_generator(rows, gen_kwargs={'shards': list(range(50))}),
                    ('image', 'label'), 'train', 'many', None)
    first = [label for _, label in itertools.islice(stream.spread(), 40)]
    assert first[:5] == [0, 2, 5, 7, 10] and first[19] == 47 and first[20:] == first[:20]
    assert sorted(opened) == sorted(set(first))
    everything = [image['bytes'] for image, _ in stream.spread()]
    assert len(everything) == len(set(everything)) == 250
