"""The verbs that list: `spaces`, `devices` and `models`. None of them needs torch, but for networks and the Hub."""
from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, listed
from ..files import write_text
from .shared import check_files, options
from .verbs import Answer, Option, Verb, rows_answer, whole

if TYPE_CHECKING:
    from ..devices import DeviceProfile
    from ..hub import NamedSubnet, Weights
    from ..spaces import SearchSpace

SPACES = Verb(
    'spaces', 'List the search spaces that come with the package, or write one that is read off a network of timm.',
    '--from tf_efficientnet_lite0 --out lite0.json',
    dict(
        network=Option('write the space whose largest network is this one of timm', 'NAME', flags=('--from',)),
        resolutions=Option("resolutions in px; by default multiples of the network's stride, from half of its own "
                           'resolution to all of it', 'PX', whole(1), many=True),
        out=Option('file of the space, for `--space` and for `space:` of a training', 'FILE.json')))
SPACE_HEADER = ['space', 'networks', 'resolutions', 'mmacs', 'mparams']
DEVICES = Verb(
    'devices', 'List the device profiles that come with the package, or those that somebody published.',
    '--source acme --device pixel-9', dict(
        source=Option('list the profiles that this organization published on the Hub', 'ORG'),
        device=Option('list only profiles of this device, a name like samsung-note10', 'DEVICE')))
DEVICE_HEADER = ['profile', 'runtime', 'precision', 'threads', 'batch_size', 'space', 'mape_pct', 'within_5_pct',
                 'corners_mape_pct', 'skewed_mape_pct', 'kendall_tau']
MODELS = Verb(
    'models', 'List the named networks of the package, or the networks that somebody published.',
    '--device samsung-note10 --max-latency-ms 25',
    options(
        'max_latency_ms',
        source=Option('list what this organization published on the Hub, or what is in this folder', 'ORG|DIR'),
        supernets=Option('list the supernets of the source, in which you can search, not its networks'),
        device=Option('list only networks for this device, a name like samsung-note10', 'DEVICE')))


@SPACES.mode()
def list_spaces() -> Answer:
    """The search spaces with the range of their networks."""
    from ..spaces import load_space, space_names

    return rows_answer(SPACE_HEADER, [_space_row(load_space(name)) for name in space_names()])


@SPACES.mode('network')
def read_space(*, network: str, out: str, resolutions: Sequence[int] | None = None) -> Answer:
    """Write the space that is read off a network."""
    from ..networks import space_of

    check_files(out=out)
    if not out.endswith('.json'):
        raise InputError(f'--out {out!r:.120} is no name of a space; end it in .json')
    space = space_of(network, resolutions=resolutions)
    write_text(Path(out), json.dumps(space.to_dict(), indent=1) + '\n')
    return rows_answer(SPACE_HEADER, [_space_row(space)], f'the space is in {out}')


@DEVICES.mode()
def list_devices(*, device: str | None = None) -> Answer:
    """The device profiles with their errors on networks that they were not built from."""
    from ..devices import load_profile, profile_names

    profiles = {name: load_profile(name) for name in profile_names()}
    rows = [_profile_row(name, p) for name, p in profiles.items() if device in (None, p.device)]
    if not rows:
        raise InputError(f'no profile of device {device!r:.60} comes with the package; choose from '
                         f'{listed(sorted({p.device for p in profiles.values()}))}, or give --source ORG')
    return rows_answer(DEVICE_HEADER, rows)


@DEVICES.mode('source')
def list_published_devices(*, source: str, device: str | None = None) -> Answer:
    """The device profiles of an organization."""
    from ..hub import find_profiles

    return rows_answer(DEVICE_HEADER, [_profile_row(name, p) for name, p in find_profiles(source, device)])


@MODELS.mode()
def list_models(*, device: str | None = None, max_latency_ms: float | None = None) -> Answer:
    """The named networks; with neither a device nor a limit the released supernets too."""
    from ..hub import hub_configs, named_subnets
    from ..searching import within
    from ..spaces import load_space

    subnets = {
        name: s for name, s in named_subnets().items() if device in (None, s.device)
        and (max_latency_ms is None or (s.latency_ms is not None and within(s.latency_ms, max_latency_ms)))}
    if not subnets:
        devices = sorted({s.device for s in named_subnets().values() if s.device})
        asked = [f'device {device!r:.60}'] if device else []
        asked += [f'at most {max_latency_ms:g} ms'] if max_latency_ms else []
        cure = 'raise the limit, or choose from' if max_latency_ms else 'choose from'
        raise InputError(f'no model for {" and ".join(asked)}; {cure} {", ".join(devices)}')
    rows = [_model_row(name, s) for name, s in subnets.items()]
    rows.sort(key=lambda r: (r['family'], r['device'] or '', r['latency_ms'] or 0, r['macs_m']))
    if device is None and max_latency_ms is None:
        rows += [_supernet_row(c.name, load_space(c.data['space']), str(c.data['data']), c.weights)
                 for c in hub_configs().values() if c.kind == 'supernet' and c.weights]
    shown = [{**row, 'top-1 %': _shown_top1(row), 'limit': row['limit'] or row['kind'],
              'data': row['data'].split('/')[-1]} for row in rows]
    header = ['name', 'family', 'limit', 'top-1 %', 'data', 'resolution', 'macs_m', 'params_m']
    return Answer(rows, rows_answer(header, shown).text)


@MODELS.mode('source')
def list_published(*, source: str, device: str | None = None, max_latency_ms: float | None = None) -> Answer:
    """The networks of an organization or a folder, one row for each device."""
    from ..hub import model_rows

    rows = model_rows(source, device, max_latency_ms)
    header = ['name', 'device', 'latency_ms', 'p90_ms', 'latency_source', 'runtime', 'top-1 %', 'resolution', 'macs_m']
    return Answer(rows, rows_answer(header, [{**row, 'top-1 %': _shown_top1(row)} for row in rows]).text)


@MODELS.mode('source', 'supernets')
def list_supernets(*, source: str) -> Answer:
    """The supernets of an organization or a folder."""
    from ..hub import find_supernets

    header = ['name', 'space', 'networks', 'resolutions', 'data', 'largest_top1_pct']
    return rows_answer(header, find_supernets(source))


def _profile_row(name: str, p: DeviceProfile) -> dict[str, Any]:
    """A profile, which may be of a space that this package does not know."""
    from ..spaces import load_space, space_names

    check = p.check or {}
    errors = p.errors(load_space(p.space)) if p.networks and p.space in space_names() else {}
    return dict(
        profile=name, device=p.device, device_name=p.device_name, runtime=p.runtime, precision=p.precision,
        threads=p.threads, batch_size=p.batch_size, space=p.space, rows=len(p.table), errors=errors,
        mape_pct=check.get('mape_pct'), within_5_pct=check.get('within_5_pct'),
        corners_mape_pct=errors.get('corners', {}).get('mape_pct'),
        skewed_mape_pct=errors.get('skewed', {}).get('mape_pct'), kendall_tau=check.get('kendall_tau'),
        measured_on=p.measured_on, source=p.source)


def _space_row(space: SearchSpace) -> dict[str, Any]:
    low, high = space.min_arch(), space.max_arch()
    return dict(
        space=space.name, family=space.family, networks=float(space.size()),
        resolutions=f'{min(space.resolutions)}..{max(space.resolutions)}',
        mmacs=f'{space.macs(low) / 1e6:.1f}..{space.macs(high) / 1e6:.1f}',
        mparams=f'{space.params(low) / 1e6:.2f}..{space.params(high) / 1e6:.2f}', source=space.source)


def _model_row(name: str, subnet: NamedSubnet) -> dict[str, Any]:
    """Computed figures, and beside them the published ones: of this very network, or of one under the same limit."""
    space, arch, published = subnet.space, subnet.arch, subnet.published or subnet
    told = published if subnet.published or not subnet.search else None
    return dict(
        name=name, kind='subnet', family=subnet.family, device=subnet.device, latency_ms=subnet.latency_ms,
        latency_batch_size=subnet.latency_batch_size, limit=subnet.limit, top1_pct=subnet.top1_pct,
        predicted_top1_pct=subnet.predicted_top1_pct, data=subnet.data, resolution=arch.resolution,
        macs_m=round(space.macs(arch) / 1e6, 1), params_m=round(space.params(arch) / 1e6, 2),
        published=told and dict(
            top1_pct=told.top1_pct, macs_m=told.macs_m, params_m=told.params_m, same_network=not subnet.search),
        space=space.name, arch=str(arch), hub_id=subnet.hub_id, source=subnet.source)


def _supernet_row(name: str, space: SearchSpace, data: str, weights: Weights) -> dict[str, Any]:
    arch = space.max_arch()
    return dict(
        name=name, kind='supernet', family=name.split('_')[1], device=None, latency_ms=None, latency_batch_size=None,
        limit=None, top1_pct=None, predicted_top1_pct=None, data=data, resolution=arch.resolution,
        macs_m=round(space.macs(arch) / 1e6, 1), params_m=round(space.params(arch) / 1e6, 2), published=None,
        space=space.name, arch=str(arch), hub_id=weights.hub_id, source=weights.source)


def _shown_top1(row: dict[str, Any]) -> str:
    if row['top1_pct'] is not None or row['predicted_top1_pct'] is None:
        return '-' if row['top1_pct'] is None else f'{row["top1_pct"]:g}'
    return f'{row["predicted_top1_pct"]:.1f} predicted'
