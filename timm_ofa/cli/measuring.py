"""The verbs that measure latency: `profile`, of a search space, and `measure`, of a finished network."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, stopped
from ..files import check_writable
from .shared import ANDROID_HINT, GO_ON, KIT_HINT, check_files, options
from .verbs import Answer, Option, Verb, rows_answer, whole

if TYPE_CHECKING:
    from ..devices import DeviceProfile
    from ..hub import Record

PROFILE = Verb(
    'profile', 'Measure the blocks of a search space on this machine, or read what was measured elsewhere.',
    '--space ofa_mbv3_tiny --runtime onnxruntime --out cpu.json',
    options(
        'space runtime precision threads batch_size processor seed resolutions seconds export_kit android import_kit',
        device=Option('name of the device, like my-phone; by default from the name of the processor', 'DEVICE'),
        num_classes=Option('number of classes; by default that of the search space', 'N', whole(1)),
        few_shot=Option('measure N whole networks, and some more to check, but not every block; less exact, for '
                        'devices that take long to load a network, like a GPU, and for phones', 'N', whole(10)),
        fit=Option('read latencies of 10 to 50 whole networks, measured anywhere: a CSV of arch,latency_ms, or JSON '
                   'lines', 'FILE'),
        import_csv=Option('read latencies of all blocks, measured anywhere: a CSV of row,ms', 'FILE.csv'),
        publish=Option('afterwards publish the profile on the Hub, for everybody to search with', 'ORG'),
        out=Option('file of the profile; an interrupted measurement continues from FILE.json.partial', 'FILE.json')))
MEASURE = Verb(
    'measure', 'Measure the latency of a finished network on this machine or on another one.',
    'out/net --runtime onnxruntime',
    options(
        'runtime precision threads batch_size processor seconds export_kit android import_kit',
        folder=Option('folder of the network, or hf-hub:ORG/NAME', 'DIR', flags=('folder',)),
        save=Option('write the latency into the card and perf.json; it replaces the last one in the same setting'),
        device=Option('name of the device on which the kit ran; by default that of the search', 'DEVICE')))


# ---- profile ---------------------------------------------------------------------------------------------------------


@PROFILE.mode()
def profile(*, space: str, out: str, runtime: str = 'onnxruntime', precision: str = 'fp32', threads: int = 1,
            batch_size: int = 1, processor: str = 'cpu', seed: int = 0, device: str | None = None,
            num_classes: int | None = None, resolutions: Sequence[int] | None = None, seconds: float = 20.0,
            few_shot: int | None = None, publish: str | None = None) -> Answer:
    """A profile of this machine."""
    from ..devices import profile_by_networks, profile_into

    _check_out(out, publish)
    options: dict[str, Any] = dict(
        runtime=runtime, precision=precision, threads=threads, batch_size=batch_size, processor=processor,
        device=device, num_classes=num_classes, resolutions=resolutions, seconds=seconds, seed=seed)
    if few_shot:
        return _saved(out, profile_by_networks(space, few_shot, **options), publish)
    with stopped(GO_ON):
        found = profile_into(out, space, **options)
    return _published(out, found, publish)


@PROFILE.mode('export_kit')
def export_profile_kit(*, export_kit: str, space: str, android: bool = False, runtime: str | None = None,
                       precision: str = 'fp32', batch_size: int = 1, seed: int = 0, num_classes: int | None = None,
                       resolutions: Sequence[int] | None = None, few_shot: int | None = None) -> Answer:
    """A folder that measures another device."""
    from ..devices import export_kit as export

    _check_kit_runtime(android, runtime)
    return _exported(export(
        export_kit, space, android=android, precision=precision, batch_size=batch_size, num_classes=num_classes,
        resolutions=resolutions, fitted_nets=few_shot, seed=seed), android)


def _check_kit_runtime(android: bool, runtime: str | None) -> None:
    if runtime is not None and not (android and runtime == 'litert'):
        raise InputError(f'--runtime {runtime!r:.60} does not fit the kit: with --android it is litert, otherwise the '
                         'script takes it on the device; leave it out')


def _exported(kit: Path, android: bool) -> Answer:
    files = [path.stat().st_size for path in (kit / 'networks').iterdir()]
    row = dict(kit=str(kit), files=len(files), mb=round(sum(files) / 1e6, 1))
    return rows_answer([*row], [row], hint=ANDROID_HINT if android else KIT_HINT)


@PROFILE.mode('import_kit')
def import_profile_kit(*, import_kit: str, device: str, out: str, space: str | None = None,
                       publish: str | None = None) -> Answer:
    """A profile from the results of a kit; a search space that does not come with the package must be given."""
    from ..devices import import_kit as read_results

    _check_out(out, publish)
    return _saved(out, read_results(import_kit, device=device, space=space), publish)


@PROFILE.mode('fit')
def fit_profile(*, fit: str, space: str, device: str, runtime: str, out: str, precision: str = 'unknown',
                threads: int | None = None, batch_size: int = 1, processor: str | None = None, seed: int = 0,
                num_classes: int | None = None, resolutions: Sequence[int] | None = None,
                publish: str | None = None) -> Answer:
    """A profile fitted to latencies of whole networks."""
    from ..devices import DeviceProfile, read_networks
    from ..spaces import load_space

    _check_out(out, publish)
    search_space = load_space(space)
    archs, latency_ms = read_networks(fit, search_space)
    return _saved(out, DeviceProfile.fit(
        search_space, archs, latency_ms, device=device, runtime=runtime, precision=precision, threads=threads,
        batch_size=batch_size, processor=processor, num_classes=num_classes, resolutions=resolutions, seed=seed),
        publish)


@PROFILE.mode('import_csv')
def import_latencies(*, import_csv: str, space: str, device: str, runtime: str, out: str, precision: str = 'unknown',
                     threads: int | None = None, batch_size: int = 1, processor: str | None = None,
                     num_classes: int | None = None, resolutions: Sequence[int] | None = None,
                     publish: str | None = None) -> Answer:
    """A profile from latencies of every block."""
    from ..devices import import_csv as read_csv
    from ..spaces import load_space

    _check_out(out, publish)
    return _saved(out, read_csv(import_csv, load_space(space), device=device, runtime=runtime, precision=precision,
                                threads=threads, batch_size=batch_size, processor=processor, num_classes=num_classes,
                                resolutions=resolutions), publish)


def _check_out(out: str, publish: str | None) -> None:
    if not out.endswith('.json'):
        raise InputError(f'--out {out!r:.160} must end in .json, by which profiles are known; add it')
    check_files(out=out)
    if publish:
        from ..hub import check_token

        check_token(publish)


def _saved(out: str, found: DeviceProfile, publish: str | None) -> Answer:
    """Save a profile, and publish it if that is wished; its row."""
    found.save(out)
    return _published(out, found, publish)


def _published(out: str, found: DeviceProfile, publish: str | None) -> Answer:
    """The row of a saved profile, which is published if that is wished."""
    hint = ''
    if publish:
        from ..hub import publish_profile

        try:
            done = publish_profile(found, publish)
        except InputError as error:
            raise InputError(f'{error}; the profile is in {out}, so later: timm-ofa publish {out} --owner {publish}'
                             ) from None
        hint = f'published: {done["url"]}; everybody can search with --profile hf-hub:{done["repo_id"]}'
    header = ['profile', 'device', 'runtime', 'precision', 'threads', 'batch_size', 'rows', 'mape_pct', 'kendall_tau']
    return rows_answer(header, [dict(
        profile=out, device=found.device, runtime=found.runtime, precision=found.precision, threads=found.threads,
        batch_size=found.batch_size, rows=len(found.table), **found.check or {})], hint)


# ---- measure ---------------------------------------------------------------------------------------------------------


@MEASURE.mode()
def measure(*, folder: str, save: bool = False, runtime: str = 'onnxruntime', precision: str = 'fp32',
            threads: int = 1, batch_size: int = 1, processor: str = 'cpu', seconds: float = 3.0) -> Answer:
    """The latency on this machine."""
    from ..devices import measure_network, this_device

    path, record = _open_network(folder, save)
    measured = measure_network(
        _rows(record), runtime, threads=threads, processor=processor, seconds=seconds, precision=precision,
        batch_size=batch_size, **_weights(path, record))
    return _told(path, record, measured, this_device(processor), save)


@MEASURE.mode('export_kit')
def export_network(*, folder: str, export_kit: str, android: bool = False, runtime: str | None = None,
                   precision: str = 'fp32', batch_size: int = 1) -> Answer:
    """A folder that measures this network on another device."""
    from ..devices import export_network_kit

    _check_kit_runtime(android, runtime)
    path, record = _open_network(folder)
    return _exported(export_network_kit(
        export_kit, _rows(record), android=android, precision=precision, batch_size=batch_size,
        **_weights(path, record)), android)


@MEASURE.mode('import_kit')
def import_network(*, folder: str, import_kit: str, device: str | None = None, save: bool = False) -> Answer:
    """The latency that a kit measured."""
    from ..devices import import_network_kit

    path, record = _open_network(folder, save)
    measured = import_network_kit(import_kit, _rows(record))
    slug = device or record.device
    if slug is None:
        raise InputError('--device is missing; give the slug of the device on which the kit ran, like my-phone')
    name = record.device_name if slug == record.device else None
    return _told(path, record, measured, (slug, name or slug), save)


def _open_network(folder: str, save: bool = False) -> tuple[Path, Record]:
    """The folder of a finished network, fetched from the Hub if it lies there, and its record."""
    from ..hub import check_folder, pull

    is_remote = folder.startswith('hf-hub:')
    if is_remote and save:
        raise InputError(f'--save writes into a folder, not to {folder!r:.120}; fetch it with timm_ofa.pull first')
    if save and Path(folder).is_dir():
        check_writable(folder)
    path = pull(*folder.removeprefix('hf-hub:').split('@', 1)) if is_remote else Path(folder)
    return path, check_folder(path)


def _rows(record: Record) -> Sequence[Any]:
    return record.space.rows(record.arch, record.num_classes)


def _weights(path: Path, record: Record) -> dict[str, Any]:
    """What a runtime needs to know of a finished network besides its rows."""
    from safetensors.torch import load_file

    from ..devices import times_warm
    from ..hub import WEIGHTS

    return dict(weights=load_file(path / WEIGHTS), bn_eps=record.space.bn_eps,
                warm=times_warm(record.space, record.num_classes))


def _told(path: Path, record: Record, measured: dict[str, Any], device: tuple[str, str], save: bool) -> Answer:
    """The measured latency beside the limit and the prediction; written into the folder if that is wished."""
    from ..hub import beside_limit, measurement, update_folder, with_measured

    new = measurement(measured, *device, record.arch)
    if save:
        update_folder(path, lambda now: replace(now, measurements=tuple(with_measured(now, new))))
    header = ['name', 'runtime', 'threads', 'latency_ms', 'p50_ms', 'p90_ms', 'predicted_ms', 'limit_ms']
    row = dict(name=record.name, predicted_ms=record.predicted_ms, limit_ms=record.limit_ms, **measured)
    return rows_answer(header, [row], beside_limit(record, new))
