"""A data set in three parts: from anywhere, split by a seed, and one line for each mistake."""
import shutil

import numpy as np
import pytest
import torch
from image_makers import write_parquet
from PIL import Image

from timm_ofa import InputError
from timm_ofa.images import load_data, load_test


def keys(images):
    """The pixels of every image as one hashable value."""
    return [row.numpy().tobytes() for row in images.fetch(range(len(images)))]


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


def test_a_limit_takes_random_images_of_each_class_with_its_share(tmp_path, digits):
    from timm_ofa.images.image_sets import stratified
    labels = np.repeat([0, 1, 2], [600, 300, 100])  # sorted by class
    some = stratified(labels, 50, 0)
    assert np.bincount(labels[some]).tolist() == [30, 15, 5] and some == sorted(set(some))
    assert some == stratified(labels, 50, 0) != stratified(labels, 50, 1) and max(some[:30]) > 500
    assert sorted(stratified(labels, 1000, 0)) == list(range(1000))
    many = np.sum([np.bincount(labels[stratified(labels, 3, seed)], minlength=3) for seed in range(500)], 0) / 1500
    np.testing.assert_allclose(many, [0.6, 0.3, 0.1], atol=0.02)  # no class is preferred
    counts = np.bincount(load_data('digits', 24, limit=200).train.labels, minlength=10)
    assert counts.min() >= 13 and keys(load_data('digits', 24, limit=10**6).train) == keys(digits.train)
    assert len(digits.train.part(50, 0)) == 50 and digits.train.part(10**6, 0) is digits.train


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


def test_test_images_from_another_source_are_known_by_the_names_of_their_classes(tmp_path):
    train = folder_of_images(tmp_path / 'colors', splits=['train'], n=10)
    mine = folder_of_images(tmp_path / 'mine', splits=['test'])
    shutil.rmtree(tmp_path / 'mine/test/blue')
    for source, told in ((mine, ('mine', 'test')), (f'{mine}/test', ('mine test', 'all')),
                         (f'stream:{mine}', ('mine', 'test')), (f'timm:{mine}/test', ('test', 'all'))):
        data = load_data(train, 16, test=source)
        assert (len(data.train), len(data.holdout), data.test.labels.tolist()) == (18, 2, [1] * 6)
        assert (data.name, data.test_name, data.split) == ('colors', *told)
        assert data.test.at(8).fetch([5])[0, :, 4, 4].argmax() == 0  # red
    both = folder_of_images(tmp_path / 'both', n=2)
    assert load_data(train, 16, test=both).test.title == 'both test'
    (tmp_path / 'mine/test/red').rename(tmp_path / 'mine/test/Red')
    for source, naming in (mine, "'test' has classes without training images: Red, and none of blue, red; remove"), (
            train, 'are the training images; give others'), ('no/such/test', "'no/such/test' is not a folder"):
        with pytest.raises(InputError, match=naming) as error:
            load_data(train, 16, test=source)
        assert '\n' not in str(error.value)


def test_only_the_test_images_are_opened_where_they_alone_are_wanted(tmp_path):
    folder = write_parquet(tmp_path / 'colors', [0, 1] * 5, split='validation')
    write_parquet(tmp_path / 'colors', [-1] * 4, split='test')  # as ImageNet's, whose labels are kept back
    (tmp_path / 'colors/train.parquet').write_bytes(b'PAR1')  # cannot be read
    for source in (folder, f'{folder}?test=validation', f'{folder}?train=validation'):
        data = load_test(source, 16)
        assert (data.name, data.split, data.class_names) == ('colors', 'validation', ('a', 'b'))
        assert data.test.labels.tolist() == [0, 1] * 5 and not len(data.train) and len(data.at(8).test.fetch([9])) == 1
    same = write_parquet(tmp_path / 'same', [0, 1] * 10)
    assert load_data(same, 16, test=folder).split == 'validation'
    alone = folder_of_images(tmp_path / 'alone', splits=['val'])
    for source, split in (alone, 'validation'), (f'{alone}/val', 'all'), (f'stream:{alone}', 'validation'):
        data = load_test(source, 16)
        assert (data.split, sorted(data.test.labels.tolist())) == (split, [0] * 6 + [1] * 6)
    for query, naming in (('test=test', "'test' have no label"), ('test=none', 'has the splits'),
                          ('test=train', 'is the training split'), ('label=none', 'has the columns')):
        with pytest.raises(InputError, match=naming):
            load_test(f'{folder}?{query}', 16)


def test_the_built_in_images_are_a_folder_of_parquet_files():
    data = load_data('fashion-mnist-12k', 28, limit=200)
    assert data.name == 'fashion-mnist-12k' and data.num_classes == 10 and 'Sneaker' in data.class_names
    assert (len(data.train), len(data.holdout), len(data.test)) == (180, 20, 2000)
    assert torch.bincount(data.test.labels).tolist() == [200] * 10
    assert data.train.fetch([0, 5]).shape == (2, 3, 28, 28)


@pytest.mark.parametrize('prepare, naming', [
    (lambda p: 'no/such/folder/anywhere', 'no/such/folder/anywhere'), (lambda p: str(p / 'none'), 'none'),
    (lambda p: '', "''"), (lambda p: str(p), 'holds no images'), (lambda p: './x', "'./x'"),
    (lambda p: (p / 'notes.txt').write_text('hello') and str(p), 'holds no images'),
    (lambda p: (p / 'train.parquet').write_bytes(b'PAR1') and str(p), 'cannot be loaded'),
    (lambda p: (p / 'train.csv').write_text('a,b\n1,2\n') and str(p), "columns a, b")])
def test_data_that_cannot_be_used_is_one_line(prepare, naming, tmp_path):
    with pytest.raises(InputError, match=naming) as error:
        load_data(prepare(tmp_path), 24)
    assert '\n' not in str(error.value)


def test_a_name_is_asked_of_a_hub_that_answers_or_read_from_the_cache(tmp_path, monkeypatch):
    import datasets

    def load_dataset(name, **_):
        raise ValueError(f'{name} asked')

    monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', 'http://127.0.0.1:9')
    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', str(tmp_path))
    monkeypatch.setattr(datasets, 'load_dataset', load_dataset)
    (tmp_path / 'acme___my_flowers').mkdir()
    for name, reason in ('flowers', 'the Hub at .* cannot be reached'), ('acme/my-flowers', 'acme/my-flowers asked'):
        with pytest.raises(InputError, match=f"data '{name}' cannot be loaded .*{reason}"):
            load_data(name, 24)


def test_too_few_images_are_refused(tmp_path):
    for limit in (0, 1):
        with pytest.raises(InputError, match=rf'has only {limit} training images; .*, or raise limit {limit}'):
            load_data('digits', 24, limit=limit)
    with pytest.raises(InputError, match=r"the splits test; one must be called 'train'"):
        load_data(folder_of_images(tmp_path / 'colors', splits=['test']), 24)
