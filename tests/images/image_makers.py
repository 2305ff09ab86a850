"""Folders of small images for the tests."""
import datasets
from PIL import Image

from timm_ofa.images.decoding import turned_rgb


def write_folder(root, splits=('train', 'val'), classes=('blue', 'red'), n=6):
    """Images by split and class; each has a color of its own."""
    for s, split in enumerate(splits):
        for c, label in enumerate(classes):
            (root / split / label).mkdir(parents=True)
            for i in range(n):
                Image.new('RGB', (20 + i, 24), (100 * c, 10 * i, 50 * s)).save(root / split / label / f'{i}.png')
    return root


def write_parquet(root, labels, columns=('label',), split='train', names=('a', 'b')):
    root.mkdir(exist_ok=True)
    features = {'image': datasets.Image(), **{c: datasets.ClassLabel(names=list(names)) for c in columns}}
    images = [Image.new('RGB', (8, 8), (i, i, i)) for i in range(len(labels))]
    rows = {'image': images, **{c: labels if c == columns[0] else [1 - x for x in labels] for c in columns}}
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet(root / f'{split}.parquet')
    return str(root)


def whole(image):
    """An opened image, decoded in full."""
    return turned_rgb(image, image.size)


def colors(part):
    """(label, color) of each image of a part."""
    return sorted((label, part.rows.see(i, whole).getpixel((5, 5))) for i, label in enumerate(part.labels))
