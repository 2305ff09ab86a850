"""The verb `release`: every model of `hub_configs/` to the Hub."""
from __future__ import annotations

from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import stopped
from .shared import GO_ON, open_supernet, options
from .verbs import Answer, Option, Verb, rows_answer

if TYPE_CHECKING:
    from torch import nn

    from ..hub import NamedSubnet, Record
    from ..images import CalibrationImages, Data

SIDE = 224  # px, of test images until a network says what it needs

RELEASE = Verb(
    'release', 'Make every model of hub_configs/ and publish it on the Hub; what is there already is left as it is.',
    '--org acme --data ILSVRC/imagenet-1k --dry-run',
    options(
        'seed num_calibration',
        org=Option('owner of the repositories on the Hub', 'ORG'),
        only=Option("models whose name matches a pattern, like 'ofa_mbv3_note10_*'", 'PATTERN'),
        data=Option('images of any classes, for the BatchNorm statistics of the networks that our search found; by '
                    'default those in TIMM_OFA_CALIBRATION_DATA, else some of the Hub. Networks that were made from '
                    'others are made anew', 'DATA'),
        eval_data=Option('data set whose test part each network that learned it is evaluated on: its Hub id, or a copy '
                         'in a folder called like it, for example imagenet-1k; by default a network keeps the accuracy '
                         'that its authors published, or has none', 'DATA'),
        space=Option('static Space for the catalog; by default ORG/catalog', 'ORG/NAME'),
        private=Option('make the repositories private'),
        dry_run=Option('ask the Hub what is there and say what would be made, but write nothing'),
        out=Option('folder of the models; a run that was stopped goes on there', 'DIR')))


@RELEASE.mode()
def release(*, org: str, only: str = '*', data: str | None = None, eval_data: str | None = None,
            space: str | None = None, private: bool = False, dry_run: bool = False, seed: int | None = None,
            num_calibration: int | None = None, out: str = 'out/release') -> Answer:
    """All models, or those whose names match a pattern."""
    from ..accuracy import CALIBRATION_IMAGES
    from ..hub import Release, finish_unjudged, hub_configs, images_for
    from ..images import calibration_source, load_test, open_calibration, stored_side
    from ..training import load_config

    num_images, source = num_calibration or CALIBRATION_IMAGES, data or calibration_source('')
    kept = lru_cache(maxsize=1)(open_calibration)

    def calibration(subnet: NamedSubnet) -> CalibrationImages:
        training = load_config(hub_configs()[str(subnet.supernet)].path)
        return kept(source or images_for(subnet), stored_side(subnet.space, subnet.arch.resolution), num_images,
                    holdout=training.holdout, seed=training.seed)

    def find(supernet: str, name: str, subnet: NamedSubnet) -> tuple[nn.Module, Record]:
        opened = open_supernet(supernet, subnet)
        return finish_unjudged(opened.supernet, opened.id, calibration(subnet), opened.augment, name, subnet,
                               seed=seed or 0, num_images=num_images)

    def asked(subnet: NamedSubnet) -> dict[str, Any]:
        images = calibration(subnet) if source else None
        at_most = images.size if images and images.size else num_images
        wanted = dict(data=images and images.name, images=num_calibration and min(num_calibration, at_most), seed=seed)
        return {name: value for name, value in wanted.items() if value is not None}

    @cache
    def opened_test() -> Data:
        return load_test(str(eval_data), SIDE)

    @lru_cache(maxsize=1)
    def tested(side: int) -> Data:
        return opened_test().at(side)

    def images(subnet: NamedSubnet) -> Data:
        return tested(stored_side(subnet.space, subnet.arch.resolution))

    work = Release(org, Path(out), find, asked, images if eval_data else None, private)
    with stopped(GO_ON):
        rows = [outcome.row for outcome in work.run(only, space, dry_run)]
    failed = [row['name'] for row in rows if row['state'] == 'failed']
    answer = rows_answer(['name', 'way', 'state', 'top1_pct', 'version', 'why'], rows)
    hint = f'{len(failed)} of {len(rows)} failed; run the same command again, what is done stays done' if failed else ''
    return replace(answer, hint=hint, status=int(bool(failed)))
