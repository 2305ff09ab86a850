"""The `timm-ofa` command. Data goes to stdout, remarks and progress to stderr; a wrong input is one line, status 2."""
from __future__ import annotations

import argparse
import errno
import json
import logging
import sys
from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..console import say, table
from ..errors import InputError, one_line
from .options import RELEASED, parser

if TYPE_CHECKING:
    from ..devices import DeviceProfile
    from ..hub import FrontFile, NamedSubnet, Source, Weights
    from ..networks import Supernet
    from ..searching import Candidate
    from ..spaces import SearchSpace
    from ..training import FinetuneConfig

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what an error of a full disk, or of a limit on it, may be


def _show(args: argparse.Namespace, header: Sequence[str], rows: Sequence[dict]) -> None:
    """Rows as a table, or as JSON with all their fields."""
    if args.format == 'json':
        print(json.dumps(list(rows), indent=1))
    else:
        print(table(header, [[row[name] for name in header] for row in rows]))


# ---- verbs -----------------------------------------------------------------------------------------------------------

def _quickstart(args: argparse.Namespace) -> None:
    from .quickstart import closing_words, quickstart

    rows = quickstart(
        args.out, data_source=args.data, max_latency_ms=args.max_latency_ms, budget=args.budget, seed=args.seed,
        runtime=args.runtime)
    print(json.dumps(rows, indent=1) if args.format == 'json' else closing_words(rows))


def _train(args: argparse.Namespace) -> None:
    from ..accuracy import SubnetJudge, launched
    from ..images import load_data, stored_side
    from ..training import load_config, subnet_table, train_supernet

    config = load_config(args.config, args.set, data=args.data)
    output = Path(args.output or f'out/{config.name}')
    data = load_data(
        config.data, stored_side(config.load_space()), holdout=config.holdout, limit=config.limit, seed=config.seed,
        decode=config.decode, images_per_epoch=config.images_per_epoch)
    rows = []

    def judge_some(supernet: Supernet) -> None:
        judge = SubnetJudge(supernet, data.train, data.test, augment=config.augment, seed=config.seed)
        rows.extend(subnet_table(judge, output / 'log.jsonl'))

    train_supernet(config, data, output, resume=args.resume, tensorboard=args.tensorboard, at_end=judge_some)
    if launched().is_main_process:
        _show(args, ['subnet', 'top1_pct', 'macs_m', 'params_k', 'arch'], rows)
        say(f'supernet: {output}')


def _spaces(args: argparse.Namespace) -> None:
    from ..spaces import load_space, space_names

    rows = []
    for space in map(load_space, space_names()):
        low, high = space.min_arch(), space.max_arch()
        rows.append(dict(
            space=space.name, family=space.family, networks=float(space.size()),
            resolutions=f'{min(space.resolutions)}..{max(space.resolutions)}',
            mmacs=f'{space.macs(low) / 1e6:.1f}..{space.macs(high) / 1e6:.1f}',
            mparams=f'{space.params(low) / 1e6:.2f}..{space.params(high) / 1e6:.2f}', source=space.source))
    _show(args, ['space', 'networks', 'resolutions', 'mmacs', 'mparams'], rows)


def _devices(args: argparse.Namespace) -> None:
    from ..devices import load_profile, profile_names
    from ..spaces import load_space

    rows = []
    for name, p in ((name, load_profile(name)) for name in profile_names()):
        check, errors = p.check or {}, p.errors(load_space(p.space)) if p.networks else {}
        rows.append(dict(
            profile=name, device=p.device, device_name=p.device_name, runtime=p.runtime, precision=p.precision,
            threads=p.threads, batch_size=p.batch_size, space=p.space, rows=len(p.table), errors=errors,
            mape_pct=check.get('mape_pct'), within_5_pct=check.get('within_5_pct'),
            corners_mape_pct=errors.get('corners', {}).get('mape_pct'),
            skewed_mape_pct=errors.get('skewed', {}).get('mape_pct'), kendall_tau=check.get('kendall_tau'),
            measured_on=p.measured_on, source=p.source))
    header = ['profile', 'runtime', 'precision', 'threads', 'batch_size', 'space', 'mape_pct', 'within_5_pct',
              'corners_mape_pct', 'skewed_mape_pct', 'kendall_tau']
    _show(args, header, rows)


def _models(args: argparse.Namespace) -> None:
    from ..hub import hub_configs, named_subnets
    from ..spaces import load_space

    if args.supernets:
        return _published_supernets(args)
    if args.source:
        return _published_models(args)
    subnets = {
        name: s for name, s in named_subnets().items() if args.device in (None, s.device)
        and (args.max_latency_ms is None or (s.latency_ms is not None and s.latency_ms <= args.max_latency_ms))}
    if not subnets:
        devices = sorted({s.device for s in named_subnets().values() if s.device})
        asked = [f'device {args.device!r:.60}'] if args.device else []
        asked += [f'at most {args.max_latency_ms:g} ms'] if args.max_latency_ms else []
        raise InputError(f'no model for {" and ".join(asked)}; raise the limit, or choose from {", ".join(devices)}')
    rows = [_model_row(name, s) for name, s in subnets.items()]
    rows.sort(key=lambda r: (r['family'], r['device'] or '', r['latency_ms'] or 0, r['macs_m']))
    if args.device is None and args.max_latency_ms is None:
        released = [c for c in hub_configs().values() if c.kind == 'supernet' and c.weights]
        rows += [_supernet_row(c.name, load_space(c.data['space']), str(c.data['data']), c.weights) for c in released]
    if args.format == 'table':
        rows = [{
            **row, 'top-1 %': _shown_top1(row), 'limit': row['limit'] or row['kind'],
            'data': row['data'].split('/')[-1]} for row in rows]
    _show(args, ['name', 'family', 'limit', 'top-1 %', 'data', 'resolution', 'macs_m', 'params_m'], rows)


def _published_supernets(args: argparse.Namespace) -> None:
    from ..hub import find_supernets

    if not args.source or args.device or args.max_latency_ms:
        raise InputError('--supernets goes with --source alone: a supernet is of no device')
    header = ['name', 'space', 'networks', 'resolutions', 'data', 'largest_top1_pct']
    _show(args, header, find_supernets(args.source))


def _published_models(args: argparse.Namespace) -> None:
    from ..hub import model_rows

    rows = model_rows(args.source, args.device, args.max_latency_ms)
    if args.format == 'table':
        rows = [{**row, 'top-1 %': _shown_top1(row)} for row in rows]
    header = ['name', 'device', 'latency_ms', 'p90_ms', 'latency_source', 'runtime', 'top-1 %', 'resolution', 'macs_m']
    _show(args, header, rows)


def _model_row(name: str, subnet: NamedSubnet) -> dict:
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


def _supernet_row(name: str, space: SearchSpace, data: str, weights: Weights) -> dict:
    arch = space.max_arch()
    return dict(
        name=name, kind='supernet', family=name.split('_')[1], device=None, latency_ms=None, latency_batch_size=None,
        limit=None, top1_pct=None, predicted_top1_pct=None, data=data, resolution=arch.resolution,
        macs_m=round(space.macs(arch) / 1e6, 1), params_m=round(space.params(arch) / 1e6, 2), published=None,
        space=space.name, arch=str(arch), hub_id=weights.hub_id, source=weights.source)


def _shown_top1(row: dict) -> str:
    if row['top1_pct'] is not None or row['predicted_top1_pct'] is None:
        return '-' if row['top1_pct'] is None else f'{row["top1_pct"]:g}'
    return f'{row["predicted_top1_pct"]:.1f} predicted'


def _profile(args: argparse.Namespace) -> None:
    from ..devices import profile_by_networks, profile_space
    from ..spaces import load_space

    if args.export_kit:
        return _export_kit(args)
    if args.out is None:
        raise InputError('--out is missing; say where the profile goes, or give --export-kit DIR')
    if not args.out.endswith('.json'):
        raise InputError(f'--out {args.out!r:.160} must end in .json, by which profiles are known; add it')
    _refuse_missing_folder(args.out)
    if args.fit or args.import_csv:
        profile = _profile_from_file(args, load_space)
    elif args.import_kit:
        from ..devices import import_kit

        if args.device is None:
            raise InputError('--device is missing; give the slug of the device on which the kit ran, like my-phone')
        profile = import_kit(args.import_kit, device=args.device, space=args.space)
    else:
        if args.space is None:
            raise InputError('--space is missing; see timm-ofa spaces')
        options = dict(
            runtime=args.runtime, precision=args.precision, threads=args.threads, batch_size=args.batch_size,
            processor=args.processor, device=args.device, num_classes=args.num_classes, resolutions=args.resolutions,
            seconds=args.seconds, seed=args.seed)
        profile = (
            profile_by_networks(args.space, args.few_shot, **options) if args.few_shot else
            profile_space(args.space, partial_results=f'{args.out}.partial', **options))
    profile.save(args.out)
    check = profile.check or {}
    header = ['profile', 'device', 'runtime', 'precision', 'threads', 'batch_size', 'rows', 'mape_pct', 'kendall_tau']
    _show(args, header, [dict(
        profile=str(args.out), device=profile.device, runtime=profile.runtime, precision=profile.precision,
        threads=profile.threads, batch_size=profile.batch_size, rows=len(profile.table), **check)])


def _profile_from_file(args: argparse.Namespace, load_space: Callable) -> DeviceProfile:
    """A profile from latencies that somebody else measured: of whole networks, or of every row."""
    from ..devices import DeviceProfile, import_csv, read_networks

    for option in ('space', 'device'):
        if getattr(args, option) is None:
            raise InputError(f'--{option} is missing; latencies from a file say neither space nor device')
    space = load_space(args.space)
    known = dict(device=args.device, runtime=args.runtime, precision=args.precision, batch_size=args.batch_size)
    if args.import_csv:
        return import_csv(args.import_csv, space, **known)
    archs, latency_ms = read_networks(args.fit, space)
    return DeviceProfile.fit(space, archs, latency_ms, num_classes=args.num_classes, seed=args.seed, **known)


def _export_kit(args: argparse.Namespace) -> None:
    from ..devices import export_kit

    if args.space is None:
        raise InputError('--space is missing; see timm-ofa spaces')
    if args.runtime != 'onnxruntime':
        raise InputError(f'--runtime {args.runtime!r:.60} does not go with --export-kit; leave it out, '
                         'and choose on the device: run_kit.py --runtime')
    folder = export_kit(
        args.export_kit, args.space, precision=args.precision, batch_size=args.batch_size,
        num_classes=args.num_classes, resolutions=args.resolutions, seed=args.seed)
    _show(args, ['kit'], [dict(kit=str(folder))])
    say('on the device, with numpy and onnxruntime: python run_kit.py; then bring back results.json')


def _collect(args: argparse.Namespace) -> None:
    from ..accuracy import Active, collect, launched, leave
    from ..devices import load_profile

    if args.profile and not args.active:
        raise InputError('--profile is for --active; add that, or leave it out')
    profile = load_profile(args.profile) if args.profile else None
    source, state = _source(args), launched()
    source.supernet.to(state.device)
    active = Active(source.supernet.space, profile, args.seed) if args.active else None
    images = source.data.holdout
    if args.num_images:
        images = images.subset(range(min(args.num_images, len(images))), images.title)
    records = collect(
        source.judge(images), source.data, args.num, args.out, seed=args.seed, propose=active,
        proposer=active.name if active else '')
    leave()
    if not state.is_main_process:
        return
    tops = sorted(top1 for _, top1 in records)
    _show(args, ['records', 'subnets', 'worst_pct', 'median_pct', 'best_pct'], [dict(
        records=str(args.out), subnets=len(records), worst_pct=tops[0], median_pct=tops[len(tops) // 2],
        best_pct=tops[-1])])


def _fit(args: argparse.Namespace) -> None:
    from ..accuracy import AccuracyPredictor, AdditivePredictor, read_records
    from ..hub import check_picture, plot_fit
    from ..spaces import load_space

    for path in filter(None, (args.out, args.plot)):
        _refuse_missing_folder(path)
    if args.plot:
        check_picture(args.plot)
    space = load_space(args.space)
    records = read_records(args.records, space)
    archs, top1_pct = [a for a, _ in records], [t for _, t in records]
    kind = AdditivePredictor if args.additive else AccuracyPredictor
    predictor = kind.fit(space, archs, top1_pct, seed=args.seed)
    predictor.save(args.out)
    if args.plot:
        plot_fit(predictor.held_out_pct, top1_pct, args.plot, predictor.check)
    _show(args, ['predictor', 'n', 'kendall_tau', 'rmse_pct'], [dict(predictor=str(args.out), **predictor.check)])


def _limits(args: argparse.Namespace) -> list:
    """The limits besides that on --profile."""
    from ..devices import load_profile
    from ..searching import Limit, MaxMacs, MaxMemory, MaxParams

    limits: list = [Limit(load_profile(name), limit_ms) for name, limit_ms in args.also]
    for kind, maximum in ((MaxMacs, args.max_macs_m), (MaxParams, args.max_params_m)):
        limits += [kind(1e6 * maximum)] if maximum else []
    return limits + ([MaxMemory(args.max_memory_mb)] if args.max_memory_mb else [])


def _search(args: argparse.Namespace) -> None:
    from ..accuracy import load_predictor, load_upstream_predictor
    from ..devices import load_profile
    from ..hub import candidate_dict, check_picture, plot_search, save_front
    from ..searching import search
    from ..spaces import load_space

    limits = _limits(args)
    if args.max_latency_ms is None and not limits:
        raise InputError('no limit is given; add --max-latency-ms with --profile, --max-macs-m, --max-params-m, '
                         '--max-memory-mb or --also')
    if args.profile is None and (args.max_latency_ms or args.out):
        raise InputError('--profile is missing: --max-latency-ms and --out are about a device; see timm-ofa devices')
    space = load_space(args.space)
    profile = load_profile(args.profile) if args.profile else None
    predictor = (load_upstream_predictor(None, space) if args.predictor == RELEASED
                 else load_predictor(args.predictor, space))
    for path in filter(None, (args.out, args.plot)):
        _refuse_missing_folder(path)
    if args.plot:
        check_picture(args.plot)
    result = search(space, predictor, profile, max_latency_ms=args.max_latency_ms, limits=limits,
                    resolutions=args.resolutions, seed=args.seed)

    def cost(candidate: Candidate) -> float:
        return space.macs(candidate.arch) / 1e6 if profile is None else candidate.latency_ms
    if args.out:
        limit_ms = args.max_latency_ms or result.best.latency_ms
        save_front(args.out, result, space, predictor, profile, args.profile, limit_ms, args.seed)
        say(f'front of {len(result.front)} networks: {args.out}')
    if args.plot:
        name, limit = ('M MACs', args.max_macs_m) if profile is None else (
            f'predicted latency on {profile.device_name} (ms)', args.max_latency_ms)
        plot_search([(cost(c), c.top1_pct) for c in result.front], result.history, args.plot, cost=name, limit=limit)
        say(f'picture: {args.plot}')
    if result.proven:
        say('proven: no network beats this front, as the predictor and the profile have it')
    if args.format == 'json':
        print(json.dumps(dict(
            best={**candidate_dict(result.best), 'text': str(result.best.arch)}, proven=result.proven,
            evaluated=result.evaluated, front=[candidate_dict(c) for c in result.front]), indent=1))
        return
    shown = result.front[::-1]
    print(table(['top-1 %', 'M MACs' if profile is None else 'latency ms', 'arch'], [
        [round(c.top1_pct, 2), round(cost(c), 4), str(c.arch)] for c in shown[::max(1, len(shown) // 10)]]))


def _specialize(args: argparse.Namespace) -> None:
    from ..hub import load_front
    from ..searching import Candidate

    if bool(args.arch) + bool(args.front) + bool(args.config) != 1:
        raise InputError('give one of --arch, --front and --config: a text, the file that `timm-ofa search --out` '
                         'wrote, or a named network')
    if args.config:
        return _specialize_named(args)
    for option in ('supernet', 'out'):
        if getattr(args, option) is None:
            raise InputError(f'--{option} is missing; only --config needs none')
    source = _source(args)
    if args.limits_ms:
        return _specialize_family(args, source)
    if args.publish:
        raise InputError('--publish goes with --limits-ms; publish one network with timm-ofa publish')
    if args.arch:
        folder, row = _finish_candidate(args, source, Candidate(source.supernet.space.parse(args.arch), 0.0, 0.0))
    else:
        folder, row = _finish_front(args, source, load_front(args.front, source.supernet.space))
    _show(args, list(row), [row])
    say(f"load it: import timm, timm_ofa; timm.create_model('local-dir:{folder}', pretrained=True)")


def _specialize_family(args: argparse.Namespace, source: Source) -> None:
    """A network of the front for each limit; limits that one network meets best share it."""
    from ..hub import arch_name, load_front, publish_family

    if not args.front or args.name:
        raise InputError('--limits-ms goes with --front, and names come from device and limit; leave out the others')
    found = load_front(args.front, source.supernet.space)
    shown: dict[str, dict] = {}
    for limit_ms in sorted(set(args.limits_ms)):
        name = arch_name(source.supernet.space, found.device, limit_ms)
        folder, row = _finish_front(
            args, source, replace(found, max_latency_ms=limit_ms), name=name, out=Path(args.out) / name,
            skip=shown)
        if folder is None:
            say(f'{limit_ms:g} ms: the same network as within less; left out')
        else:
            shown[row['arch']] = row
    if args.publish:
        for done in publish_family([row['folder'] for row in shown.values()], args.publish):
            say(f'published: {done["url"]} ({done["version"]})')
    rows = list(shown.values())
    _show(args, list(rows[0]), rows)


def _finish_front(args: argparse.Namespace, source: Source, found: FrontFile, name: str | None = None,
                  out: Path | None = None, skip: Container[str] = ()) -> tuple[Path | None, dict]:
    """The best network of a front that is measured within its limit; no folder where its arch is one to skip."""
    from ..devices import load_profile
    from ..hub import arch_timer, meet_limit

    profile = load_profile(args.profile or found.profile)
    if args.no_measure:
        within = [c for c in found.front if c.latency_ms <= found.max_latency_ms]
        if not within:
            raise InputError(f'no network of the front is within {found.max_latency_ms:g} ms; raise the limit')
        candidate, measured = max(within, key=lambda c: c.top1_pct), []
    else:
        timer = arch_timer(source.supernet.space, profile)
        attempts = meet_limit(found.front, found.max_latency_ms, timer)
        for attempt in attempts[:-1]:
            say(f'measured {attempt.measured["latency_ms"]:.4g} ms is over the limit; next')
        candidate, measured = attempts[-1].candidate, [attempts[-1].measured]
    if str(candidate.arch) in skip:
        return None, {}
    return _finish_candidate(args, source, candidate, found, measured, profile, name, out)


def _finish_candidate(args: argparse.Namespace, source: Source, candidate: Candidate, found: FrontFile | None = None,
                      measured: Sequence[dict] = (), profile: DeviceProfile | None = None, name: str | None = None,
                      out: Path | None = None) -> tuple[Path, dict]:
    """The folder of a candidate, and its row for the table."""
    from ..hub import finish, save_folder

    model, record = finish(
        source, candidate, name=name or args.name, found=found, measured=measured, training=_finetuning(args),
        profile=profile)
    folder = save_folder(out or args.out, model, record)
    return folder, dict(
        folder=str(folder), top1_pct=record.top1_pct, limit_ms=record.limit_ms, predicted_ms=record.predicted_ms,
        measured_ms=measured[-1]['latency_ms'] if measured else None, arch=str(record.arch))


def _finetuning(args: argparse.Namespace) -> FinetuneConfig | None:
    """How the network is trained on, if at all."""
    from ..hub import find_config
    from ..training import FinetuneConfig, load_finetune

    if args.finetune:
        return load_finetune(find_config(args.finetune).path)
    return FinetuneConfig(args.finetune_epochs) if args.finetune_epochs else None


def _specialize_named(args: argparse.Namespace) -> None:
    """The weights of a named network, from the released supernet of its space unless another one is given."""
    from ..hub import find_config, finish_named, save_folder

    config = find_config(args.config)
    if config.subnet is None:
        raise InputError(f"config {config.path.name!r:.120} is not of 'kind: subnet'; to train it: timm-ofa train")
    source = _source(args, config.subnet)
    name = args.name or config.name
    model, record = finish_named(source, name, config.subnet, training=_finetuning(args))
    folder = save_folder(args.out or f'out/{name}', model, record)
    _show(args, ['folder', 'top1_pct', 'predicted_top1_pct', 'limit', 'arch'], [dict(
        folder=str(folder), top1_pct=record.top1_pct, predicted_top1_pct=record.predicted_top1_pct,
        limit=config.subnet.limit, arch=str(record.arch))])
    say(f'publish it: timm-ofa publish {folder} --repo {config.subnet.hub_id}')


def _measure(args: argparse.Namespace) -> None:
    from safetensors.torch import load_file

    from ..devices import export_network_kit, import_network_kit, measure_network, this_device, times_warm
    from ..hub import WEIGHTS, check_folder, pull, tighter_limit, update_folder, with_measured

    is_remote = args.folder.startswith('hf-hub:')
    if is_remote and args.save:
        raise InputError(f'--save writes into a folder, not to {args.folder!r:.120}; fetch it with timm_ofa.pull first')
    folder = pull(*args.folder.removeprefix('hf-hub:').split('@', 1)) if is_remote else Path(args.folder)
    record = check_folder(folder)
    rows = record.space.rows(record.arch, record.num_classes)
    how = dict(
        weights=load_file(folder / WEIGHTS), bn_eps=record.space.bn_eps, precision=args.precision,
        batch_size=args.batch_size, warm=times_warm(record.space, record.num_classes))
    if args.export_kit:
        kit = export_network_kit(args.export_kit, rows, **how)
        _show(args, ['kit'], [dict(kit=str(kit))])
        return say('on the device, with numpy and onnxruntime: python run_kit.py; then bring back results.json')
    if args.import_kit:
        measured = import_network_kit(args.import_kit, rows)
        if not (args.device or record.device):
            raise InputError('--device is missing; give the slug of the device on which the kit ran, like my-phone')
        device = (args.device, args.device) if args.device else (record.device, record.device_name)
    else:
        measured = measure_network(
            rows, args.runtime, threads=args.threads, processor=args.processor, seconds=args.seconds, **how)
        device = this_device(args.processor)
    if args.save:
        update_folder(folder, measurements=with_measured(record, measured, *device))
    _show(args, ['name', 'runtime', 'threads', 'latency_ms', 'p50_ms', 'p90_ms', 'predicted_ms', 'limit_ms'], [dict(
        name=record.name, predicted_ms=record.predicted_ms, limit_ms=record.limit_ms, **measured)])
    if record.limit_ms and record.predicted_ms and measured['latency_ms'] > record.limit_ms:
        bound_ms = tighter_limit(record.predicted_ms, measured['latency_ms'], record.limit_ms)
        say(f'over the limit of {record.limit_ms:g} ms; search again with --max-latency-ms {bound_ms:.4g}')


def _publish(args: argparse.Namespace) -> None:
    from ..hub import PERF, add_onnx, publish, publish_family

    folders = [Path(folder) for folder in args.folder]
    if len(folders) == 1 and not (folders[0] / 'config.json').exists():
        folders = [path.parent for path in sorted(folders[0].glob(f'*/{PERF}'))] or folders
    for folder in folders if args.onnx else ():
        add_onnx(folder)
    options = dict(private=args.private, dry_run=args.dry_run, force=args.force, collection=args.collection)
    if len(folders) == 1:
        if args.owner:
            raise InputError('--owner goes with several folders; give --repo ORG/NAME')
        rows = [publish(folders[0], args.repo, **options)]
    elif args.repo:
        raise InputError(f'--repo {args.repo!r:.120} is one repository, the folders are {len(folders)}; give --owner')
    else:
        rows = publish_family(folders, args.owner, **options)
    if args.format == 'json':
        print(json.dumps(rows if len(folders) > 1 else rows[0], indent=1))
    elif len(folders) > 1:
        print(table(['repository', 'version', 'new', 'address'], [
            [r['repo_id'], r.get('version', '-'), 'yes' if r.get('changed') else '-', r.get('url', '-')]
            for r in rows]))
    else:
        print(table(['field', 'value'], [
            [k, ' '.join(v) if isinstance(v, list) else str(v)] for k, v in rows[0].items()]))


def _catalog(args: argparse.Namespace) -> None:
    from ..hub import catalog, publish_page

    _refuse_missing_folder(args.out)
    page = catalog(args.source, args.out)
    print(publish_page(page, args.space, private=args.private, force=args.force) if args.space else page)


def _import_upstream(args: argparse.Namespace) -> None:
    from ..hub import import_upstream

    print(import_upstream(args.name, args.source, args.out))


# ---- shared by verbs ----------------------------------------------------------------------------------------------

def _source(args: argparse.Namespace, subnet: NamedSubnet | None = None) -> Source:
    """The supernet and the data of a verb's arguments; for a named network its own supernet if none is given.

    `--supernet` may be the name of a released supernet, whose weights ship with the package or are then downloaded.
    """
    from ..accuracy import CALIBRATION_IMAGES
    from ..hub import Source, hub_configs, training_cost
    from ..images import Augment, load_data, stored_side
    from ..networks import load_supernet
    from ..training import load_config, supernet_config, supernet_folder

    if args.out is not None:
        _refuse_missing_folder(args.out)
    own = subnet and (subnet.supernet or f'{subnet.space.name}_supernet')
    supernet_id = args.supernet or own
    released = [name for name in (supernet_id, own) if name in hub_configs() and hub_configs()[name].weights]
    is_released = supernet_id in released
    supernet = load_supernet(supernet_id)
    if subnet:
        _check_supernet_of(subnet, supernet_id, supernet.space)
    folder = None if is_released else supernet_folder(supernet_id)
    config = folder and supernet_config(folder)
    if config is None and released:
        config = load_config(hub_configs()[released[0]].path)
    side = stored_side(supernet.space)
    if subnet:
        side = max(side, stored_side(subnet.space.restrict(resolutions=[subnet.arch.resolution])))
    data = load_data(
        args.data, side, holdout=config.holdout if config else 0.1, limit=config.limit if config else None,
        seed=config.seed if config else 0, decode=config.decode if config else 'auto',
        images_per_epoch=config.images_per_epoch if config and args.data.startswith('stream:') else None)
    if supernet.num_classes != data.num_classes:
        cure = 'give images of the same classes' if is_released else 'train a supernet on this data'
        raise InputError(
            f'supernet {supernet_id!r:.100} has {supernet.num_classes} classes, data {data.name!r:.60} has '
            f'{data.num_classes}; {cure}')
    return Source(
        supernet, supernet_id, data, config.augment if config else Augment(), folder and training_cost(folder),
        seed=args.seed, calibration_images=getattr(args, 'num_calibration', CALIBRATION_IMAGES))


def _check_supernet_of(subnet: NamedSubnet, supernet_id: str, space: SearchSpace) -> None:
    if space.name != subnet.space.name:
        raise InputError(f'supernet {supernet_id!r:.100} is of {space.name}, {subnet.name} is of {subnet.space.name}; '
                         f'give one of that space, or leave out --supernet')
    space.check(subnet.arch)


def _refuse_missing_folder(out: str | Path) -> None:
    """Say that a result cannot be written before the work, not after it."""
    parent = Path(out).absolute().parent
    if not parent.is_dir():
        raise InputError(f'--out {str(out)!r:.120}: the folder {str(parent)!r:.120} does not exist; make it first')


VERBS: dict[str, Callable[[argparse.Namespace], None]] = {
    'quickstart': _quickstart, 'train': _train, 'spaces': _spaces, 'devices': _devices, 'models': _models,
    'profile': _profile, 'collect': _collect, 'fit': _fit, 'search': _search, 'specialize': _specialize,
    'measure': _measure, 'publish': _publish, 'catalog': _catalog, 'import-upstream': _import_upstream}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit status: 0, 2 for a wrong input or a full disk, 130 after Ctrl-C."""
    logging.basicConfig(level=logging.WARNING, format='%(message)s')
    try:
        args = parser().parse_args(argv)
        VERBS[args.verb](args)
    except InputError as error:
        say(f'timm-ofa: {error}')
        return 2
    except OSError as error:
        if error.errno not in FULL:
            raise
        say(f'timm-ofa: the disk takes no more ({one_line(error)}); free space, then run the same command again, train '
            'with --resume')
        return 2
    except KeyboardInterrupt as stop:
        say(f'\ntimm-ofa: {str(stop) or "stopped; run the same command again to go on"}')
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
