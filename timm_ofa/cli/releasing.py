"""The verb `release`: every model of `hub_configs/` to the Hub."""
from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import stopped
from .shared import GO_ON, open_supernet, options
from .verbs import Answer, Option, Verb, rows_answer

if TYPE_CHECKING:
    from torch import nn

    from ..hub import NamedSubnet, Record
    from ..images import Data

RELEASE = Verb(
    'release', 'Make every model of hub_configs/ and publish it on the Hub; what is there already is left as it is.',
    '--org acme --data ILSVRC/imagenet-1k --dry-run',
    options(
        'seed num_calibration',
        org=Option('owner of the repositories on the Hub', 'ORG'),
        only=Option("models whose name matches a pattern, like 'ofa_mbv3_note10_*'", 'PATTERN'),
        data=Option('images of any classes, for the BatchNorm statistics of the networks that our search found; by '
                    'default those in TIMM_OFA_CALIBRATION_DATA, else some of the Hub', 'DATA'),
        eval_data=Option('images whose test part each network with these classes is evaluated on; by default a network '
                         'keeps the accuracy that its authors published, or has none', 'DATA'),
        space=Option('static Space for the catalog; by default ORG/catalog', 'ORG/NAME'),
        private=Option('make the repositories private'),
        dry_run=Option('ask the Hub what is there and say what would be made, but write nothing'),
        out=Option('folder of the models; a run that was stopped goes on there', 'DIR')))


@RELEASE.mode()
def release(*, org: str, only: str = '*', data: str | None = None, eval_data: str | None = None,
            space: str | None = None, private: bool = False, dry_run: bool = False, seed: int = 0,
            num_calibration: int | None = None, out: str = 'out/release') -> Answer:
    """All models, or those whose names match a pattern."""
    from ..accuracy import CALIBRATION_IMAGES
    from ..hub import Release, finish_unjudged, images_for
    from ..images import load_data, stored_side

    num_images = num_calibration or CALIBRATION_IMAGES

    def find(supernet: str, name: str, subnet: NamedSubnet) -> tuple[nn.Module, Record]:
        opened = open_supernet(supernet, subnet)
        images = opened.calibration_images(data or images_for(subnet), num_images)
        return finish_unjudged(opened.supernet, opened.id, images, opened.augment, name, subnet, seed=seed,
                               num_images=num_images)

    def images(subnet: NamedSubnet) -> Data:
        return images_at(stored_side(subnet.space, subnet.arch.resolution))

    @lru_cache(maxsize=1)
    def images_at(side: int) -> Data:
        return load_data(str(eval_data), side, seed=seed)

    work = Release(org, Path(out), find, images if eval_data else None, private)
    with stopped(GO_ON):
        rows = [outcome.row for outcome in work.run(only, space, dry_run)]
    failed = [row['name'] for row in rows if row['state'] == 'failed']
    answer = rows_answer(['name', 'way', 'state', 'top1_pct', 'version', 'why'], rows)
    hint = f'{len(failed)} of {len(rows)} failed; run the same command again, what is done stays done' if failed else ''
    return replace(answer, hint=hint, status=int(bool(failed)))
