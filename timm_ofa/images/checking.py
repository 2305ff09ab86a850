"""What is said of a data set before a training: its classes, images that are in two parts, broken images."""
from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

from ..errors import listed
from .data import Data
from .image_sets import ImageSet, Inspection, refuse_broken

FEW = 10  # training images of a class, below which it is named
UNEVEN = 10  # times as many images of the largest class as of the smallest one, from which on that is said


def check_data(data: Data) -> list[str]:
    """Decode every image, and give remarks on what the data holds. Raises `InputError` that lists all broken images.

    Nothing is known ahead of the training images of a stream.
    """
    parts = [images for images in (data.train, data.holdout, data.test) if isinstance(images, ImageSet)]
    found = [(images.title, images.inspect()) for images in parts]
    refuse_broken(error for _, inspection in found for error in inspection.broken.values())
    remarks = [f'{data.skipped:,} broken images are left out'] if data.skipped else []
    if isinstance(data.train, ImageSet):
        remarks += _class_remarks(data, data.train)
    return remarks + _duplicate_remarks(found)


def _class_remarks(data: Data, train: ImageSet) -> list[str]:
    """How many images the classes have, and which are few."""
    counts, tests = (Counter({data.class_names[label]: n for label, n in Counter(images.labels.tolist()).items()})
                     for images in (train, data.test))
    ranked = counts.most_common()
    (most, high), (least, low) = ranked[0], ranked[-1]
    uneven = f', {high // low} times as many' if high >= UNEVEN * low else ''
    told = listed((f'{name} {n:,}' for name, n in ranked), 12) if len(ranked) <= 12 else (
        f'from {low:,} of {least} to {high:,} of {most}')
    remarks = [f'{len(train):,} training images of {len(ranked)} classes: {told}{uneven}']
    if few := [f'{name} {n}' for name, n in reversed(ranked) if n < FEW]:
        remarks.append(f'classes with few training images: {listed(few)}; add some, or merge classes')
    if untested := sorted(set(counts) - set(tests)):
        remarks.append(f'classes without test images: {listed(untested)}; the accuracy does not tell how good they are')
    return remarks


def _duplicate_remarks(found: Sequence[tuple[str, Inspection]]) -> list[str]:
    """Which parts, by their titles, hold images of an earlier part."""
    remarks = []
    for (earlier, first), (title, second) in itertools.combinations(found, 2):
        known = set(first.digests)
        if n := sum(digest in known for digest in second.digests):
            remarks.append(f'{n:,} of the {len(second.digests):,} images of {title} are in {earlier} too; the accuracy '
                           'on them says little')
    return remarks
