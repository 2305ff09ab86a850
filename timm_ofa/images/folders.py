"""Folders of images by class: which folder is a split, which is a class, and what is in the way."""
from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import InputError, listed

SPLITS = {  # what a folder of a split may be called
    'train': ('train', 'training'), 'test': ('test', 'testing', 'eval', 'evaluation'),
    'validation': ('validation', 'valid', 'val', 'dev')}
TABLES = ('.parquet', '.arrow', '.csv', '.tsv', '.json', '.jsonl', '.tar', '.zip', '.gz', '.zst', '.py')
Place = tuple[str, ...]  # names of folders, from the data folder on


def image_folders(source: str, root: Path) -> dict[str, Path] | None:
    """The folder of each split of a folder of images by class: FOLDER/CLASS/IMAGE or FOLDER/train/CLASS/IMAGE.

    None for a folder that holds tables (parquet and so on). Raises `InputError` for another order of folders, and names
    what is in the way.
    """
    images, tables, empty = _looked_through(root)
    if tables or not (images or empty):
        if not tables:
            raise InputError(f'data folder {source!r:.120} holds no images; put images by class or parquet files there')
        return None
    if empty:
        raise InputError(f'data {source!r:.120} has empty folders: {listed(sorted(empty))}; fill or remove them')
    base: Place = ()
    while base not in images and len(below := _children(images, base)) == 1 and not _is_split(below[0]):
        if (*base, below[0]) in images:
            break
        base = (*base, below[0])
    split_of = {word: split for split, words in SPLITS.items() for word in words}
    below = _children(images, base)
    splits = {name: split_of[name.lower()] for name in below if _is_split(name) and (*base, name) not in images}
    if not splits and below and base not in images and all(map(_is_split, below)):
        splits = {name: split_of[name.lower()] for name in below}
    found = {split: (*base, name) for name, split in splits.items()} or {'train': base}
    if len(found) < len(splits):
        several = [name for name, split in splits.items() if list(splits.values()).count(split) > 1]
        raise InputError(f'data {source!r:.120} has several folders of one split: {listed(several)}; put their images '
                         'together, or rename one')
    for place in found.values():
        _check_classes(source, place, images)
    return {split: root.joinpath(*place) for split, place in found.items()}


def folder_name(folder: Path) -> str:
    """What a folder of images is called; that of a split has the name of the folder around it too."""
    folder = folder.resolve()
    return f'{folder.parent.name} {folder.name}' if _is_split(folder.name) else folder.name


def class_names(folder: Path) -> set[str]:
    """The classes of a split."""
    return {entry.name for entry in os.scandir(folder) if entry.is_dir() and _is_seen(entry.name)}


def refuse_unknown_classes(source: str, split: str, names: Iterable[str], train_names: Iterable[str]) -> None:
    """Raise if a test split has classes of which there is no training image."""
    names, train_names = set(names), set(train_names)
    if unknown := sorted(names - train_names):
        untested = f', and none of {listed(sorted(train_names - names))}' if train_names - names else ''
        raise InputError(f'data {source!r:.120}: {split!r:.60} has classes without training images: {listed(unknown)}'
                         f'{untested}; remove them, or add such images')


def _looked_through(root: Path) -> tuple[dict[Place, str], bool, list[str]]:
    """(the first image in each folder that has one, whether there are tables, empty folders)."""
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    images: dict[Place, str] = {}
    tables, empty = False, []
    for path, folders, files in os.walk(root, followlinks=True):
        folders[:], files = ([name for name in names if _is_seen(name)] for names in (folders, files))
        place = Path(path).relative_to(root).parts
        if not files and not folders and place:
            empty.append('/'.join(place))
        suffixes = {name: os.path.splitext(name)[1].lower() for name in files}
        tables |= any(suffix in TABLES for suffix in suffixes.values()) or (not place and _is_configured(root))
        pictures = [name for name, suffix in suffixes.items() if suffix in ImageFolder.EXTENSIONS]
        if pictures:
            images[place] = min(pictures)
    return images, tables, empty


def _is_seen(name: str) -> bool:
    return not name.startswith(('.', '__'))


def _is_configured(root: Path) -> bool:
    """Whether a README says itself how the files are to be read."""
    readme = root / 'README.md'
    return readme.is_file() and 'configs:' in readme.read_text(encoding='utf-8', errors='replace')[:10_000]


def _is_split(name: str) -> bool:
    return any(name.lower() in words for words in SPLITS.values())


def _children(images: Mapping[Place, str], base: Place) -> list[str]:
    """The folders in a folder that hold images at any depth."""
    return sorted({place[len(base)] for place in images if len(place) > len(base) and place[:len(base)] == base})


def _check_classes(source: str, base: Place, images: Mapping[Place, str]) -> None:
    """Raise unless all images of a split lie in folders of classes."""
    depths: dict[int, list[Place]] = defaultdict(list)
    for place in images:
        if place[:len(base)] == base:
            depths[len(place) - len(base)].append(place)
    where = '/'.join(base) or 'the folder'
    order = f'images lie in {where}/CLASS/IMAGE' if base else (
        'images lie in FOLDER/CLASS/IMAGE or FOLDER/train/CLASS/IMAGE')
    if 0 in depths and len(depths) == 1:
        raise InputError(f'data {source!r:.120} has all images of {where} in one folder; give each class a folder of '
                         f'its own: {order}')
    if 0 in depths:
        raise InputError(f'data {source!r:.120} has {"/".join((*base, images[base]))!r:.120} beside the folders of '
                         f'classes; move or remove it: {order}')
    if deeper := sorted(place for depth in depths if depth > 1 for place in depths[depth]):
        raise InputError(f'data {source!r:.120} has images in {"/".join(deeper[0])!r:.120}, a folder deeper than that '
                         f'of a class; move them: {order}')
