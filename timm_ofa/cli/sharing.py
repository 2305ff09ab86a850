"""The verbs between us and others: `publish`, `catalog` and `import-upstream`."""
from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..console import table
from ..errors import InputError
from .shared import check_files
from .verbs import Answer, Option, Verb

PUBLISH = Verb(
    'publish', 'Publish networks, a supernet or a profile on the Hub, with the token of `hf auth login` or HF_TOKEN.',
    'out/net --repo acme/net --dry-run',
    dict(
        folder=Option('folder of a network or supernet; several, or a folder of such, are networks of one search, '
                      'whose cards then link each other; or the .json file of a device profile', 'DIR', many=True,
                      flags=('folder',)),
        repo=Option('repository; by default your account and the name of the network', 'ORG/NAME'),
        owner=Option('owner of several repositories, or of a profile; by default your account', 'ORG'),
        private=Option('make the repository private'),
        dry_run=Option('check everything and say what would be published, but publish nothing'),
        onnx=Option('add model.onnx, which takes any number of images at a time'),
        pt2=Option('add model.pt2, a program of torch.export that runs with torch alone'),
        force=Option('also replace a repository that timm_ofa did not write, or that others have changed'),
        collection=Option('also list the network in the collections of the account, one for each device')))
CATALOG = Verb(
    'catalog', 'Write a page to choose a published network by device and latency.', '--source acme --out index.html',
    dict(
        source=Option('organization on the Hub, or a folder', 'ORG|DIR'),
        out=Option('file of the page', 'FILE.html'),
        space=Option('also publish the page as a static Space of the Hub', 'ORG/NAME'),
        private=Option('make that Space private'),
        force=Option('also replace a Space that timm_ofa did not write')))
IMPORT_UPSTREAM = Verb(
    'import-upstream', 'Convert what the authors of Once-for-All released to the formats of this package.',
    '--name ofa_mbv3_w12_supernet --out out/supernet',
    dict(
        name=Option('a named network or supernet from `timm-ofa models`, ofa_mbv3_w12_predictor, '
                    'ofa_resnet50d_predictor, or note10 (latency tables)', 'NAME'),
        source=Option("file or address to convert, or the folder of the latency tables; by default the authors' "
                      'address', 'FILE|URL', flags=('--from',)),
        out=Option('folder of the network or supernet, or file of the predictor or profile', 'DIR|FILE')))


@PUBLISH.mode()
def publish(*, folder: Sequence[str], repo: str | None = None, owner: str | None = None, private: bool = False,
            dry_run: bool = False, onnx: bool = False, pt2: bool = False, force: bool = False,
            collection: bool = False) -> Answer:
    """One network or supernet, the networks of one search, or a device profile."""
    from ..hub import PERF, add_onnx, add_pt2, check_token, is_supernet, publish_family
    from ..hub import publish as publish_folder
    from ..networks import CONFIG

    folders = [Path(path) for path in folder]
    if len(folders) == 1 and folders[0].suffix == '.json':
        return _publish_profile(folder[0], repo, owner, private, dry_run, force, onnx=onnx, pt2=pt2,
                                collection=collection)
    for path in filter(Path.is_file, folders):
        raise InputError(f'{str(path)!r:.120} is a file; give folders of networks, or one device profile alone')
    if len(folders) == 1 and not (folders[0] / CONFIG).exists():
        folders = [path.parent for path in sorted(folders[0].glob(f'*/{PERF}'))] or folders
    supernets = [path for path in folders if is_supernet(path)]
    for name, given in (('onnx', onnx), ('pt2', pt2), ('collection', collection)):
        if given and supernets:
            raise InputError(f'--{name} is for networks, {str(supernets[0])!r:.120} holds a supernet; leave it out')
    if len(folders) == 1 and owner:
        raise InputError(f'--owner {owner!r:.120} is for several folders, this is one; give --repo ORG/NAME')
    if len(folders) > 1 and repo:
        raise InputError(f'--repo {repo!r:.120} is one repository, the folders are {len(folders)}; give --owner')
    adders = [add for given, add in ((onnx, add_onnx), (pt2, add_pt2)) if given]
    if adders and not dry_run:
        check_token(repo.split('/')[0] if repo and repo.count('/') == 1 else owner)
    options = dict(private=private, dry_run=dry_run, force=force, collection=collection)
    with TemporaryDirectory() as copies:
        for i, path in enumerate(folders if adders else ()):
            if dry_run:  # changes no folder
                folders[i] = Path(shutil.copytree(path, Path(copies) / str(i) / path.name))
            for add in adders:
                add(folders[i])
        if len(folders) == 1:
            return _fields(publish_folder(folders[0], repo, **options))
        rows = publish_family(folders, owner, **options)
    return Answer(rows, table(['repository', 'version', 'new', 'address'], [
        [r['repo_id'], r.get('version', '-'), 'yes' if r.get('changed') else '-', r.get('url', '-')] for r in rows]))


def _publish_profile(path: str, repo: str | None, owner: str | None, private: bool, dry_run: bool, force: bool,
                     **others: bool) -> Answer:
    """A device profile."""
    from ..hub import publish_profile

    if repo and owner:
        raise InputError(f'--repo {repo!r:.120} and --owner {owner!r:.120} both say where; leave one out')
    for name in (name for name, given in others.items() if given):
        raise InputError(f'--{name} is for networks, {path!r:.120} is a device profile; leave it out')
    return _fields(publish_profile(path, owner, repo, private=private, dry_run=dry_run, force=force))


def _fields(row: dict[str, Any]) -> Answer:
    return Answer(row, table(['field', 'value'], [
        [k, ' '.join(v) if isinstance(v, list) else str(v)] for k, v in row.items()]))


@CATALOG.mode()
def catalog(*, source: str, out: str) -> Answer:
    """The page as a file."""
    from ..hub import catalog as write_page

    check_files(out=out)
    page = str(write_page(source, out))
    return Answer(dict(page=page), page)


@CATALOG.mode('space')
def catalog_on_hub(*, source: str, out: str, space: str, private: bool = False, force: bool = False) -> Answer:
    """The page as a file and on the Hub."""
    from ..hub import check_token, publish_page

    check_token(space.split('/')[0])
    address = publish_page(catalog(source=source, out=out).text, space, private=private, force=force)
    return Answer(dict(page=out, url=address), address)


@IMPORT_UPSTREAM.mode()
def import_upstream(*, name: str, out: str, source: str | None = None) -> Answer:
    """Weights, a predictor or latency tables."""
    from ..hub import import_upstream as convert

    path = str(convert(name, source, out))
    return Answer(dict(name=name, path=path), path)
