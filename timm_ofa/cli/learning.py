"""The verbs that train and learn: `quickstart`, `train`, `collect` and `fit`."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, stopped
from ..files import locked
from .shared import (
    COMMON,
    GO_ON,
    check_files,
    check_room_for,
    config_path,
    open_supernet,
    options,
    say_memory,
)
from .verbs import Answer, Option, Verb, positive, rows_answer, whole

if TYPE_CHECKING:
    from ..networks import Supernet

QUICKSTART = Verb(
    'quickstart', 'Do the whole job, from training to a finished network, on images that come with the package.',
    '--out out/quickstart',
    options(
        'test seed runtime skip_broken',
        out=Option('folder of all results; given again, finished steps are not repeated', 'DIR'),
        data=Option(f'other {COMMON["data"].help}', 'DATA'),
        max_latency_ms=Option(
            'largest latency in ms; by default 60 % of the latency of the largest subnet', 'MS', positive),
        budget=Option('factor on the number of training epochs and of evaluated subnets', 'FACTOR', positive)))
TRAIN = Verb(
    'train', 'Train a supernet as a configuration says, like train.py.', '--config hub_configs/NAME.yaml',
    options(
        'test skip_broken',
        config=Option("a YAML file with 'kind: supernet'", 'YAML'),
        data=Option(f'other images than those of the config: {COMMON["data"].help.removeprefix("images: ")}', 'DATA'),
        output=Option('folder of the run; by default out/NAME, with the name in the config', 'DIR'),
        resume=Option('continue from the last checkpoint in the output folder'),
        overrides=Option(
            'replace a value of the config, for example phases.0.epochs=2', 'KEY=VALUE', many=True, flags=('--set',)),
        log_with=Option('also send losses, learning rates and accuracies to these trackers of Accelerate, for example '
                        'tensorboard or wandb', 'NAME', many=True)))
COLLECT = Verb(
    'collect', 'Evaluate sampled subnets of a supernet, and add them to a file of records.',
    '--supernet out/supernet --data fashion-mnist-12k --num 100 --out records.jsonl',
    options(
        'supernet data test seed num_calibration skip_broken',
        num=Option('number of records that the file holds at the end; behind torchrun, which takes --num for the '
                   'beginning of an option of its own, write --num-subnets', 'N', whole(1),
                   flags=('--num', '--num-subnets')),
        num_images=Option('number of held-out images to evaluate on, random ones of each class; by default all', 'N',
                          whole(1)),
        active=Option('after 20 random subnets, choose those that may enlarge the front of accuracy and cost most'),
        profile=Option('device profile whose latency is that cost; by default the cost is MACs (only with --active)',
                       'PROFILE'),
        out=Option('file of records; records that are there are kept', 'FILE.jsonl')))
FIT = Verb(
    'fit', 'Fit an accuracy predictor to records.',
    '--space ofa_mbv3_tiny --records records.jsonl --out predictor.safetensors',
    options(
        'space seed',
        records=Option('file of records that `timm-ofa collect` wrote', 'FILE.jsonl'),
        additive=Option('fit a sum over blocks: less exact, but a search under one limit proves its result'),
        plot=Option('draw predictions on held-out records against measurements, as .svg or .png', 'FILE.svg'),
        out=Option('file of the predictor', 'FILE')))


@QUICKSTART.mode()
def quickstart(*, seed: int = 0, out: str = 'timm_ofa_quickstart', data: str | None = None, test: str | None = None,
               max_latency_ms: float | None = None, budget: float = 1.0, runtime: str = 'onnxruntime',
               skip_broken: bool = False) -> Answer:
    """The whole job."""
    from .quickstart import closing_words
    from .quickstart import quickstart as run_all

    with stopped(GO_ON), locked(out, wait=False):
        rows = run_all(
            out, data_source=data, test=test, max_latency_ms=max_latency_ms, budget=budget, seed=seed, runtime=runtime,
            skip_broken=skip_broken)
    return Answer(rows, closing_words(rows))


@TRAIN.mode()
def train(*, config: str, data: str | None = None, test: str | None = None, output: str | None = None,
          resume: bool = False, overrides: tuple[str, ...] = (), log_with: Sequence[str] = (),
          skip_broken: bool = False) -> Answer | None:
    """A training run from its beginning, or from its last checkpoint."""
    from ..accuracy import SubnetJudge, launched
    from ..images import check_data, load_data, stored_side
    from ..training import LOG, check_run, load_config, subnet_table, train_supernet

    settings = load_config(
        config_path(config, 'supernet'), overrides, data=data, test=test, skip_broken=skip_broken or None)
    folder = Path(output or f'out/{settings.name}')
    check_run(settings, folder, resume)
    space = settings.load_space()
    check_room_for(6, folder, space)  # weights, momentum, two checkpoints
    images = load_data(
        settings.data, stored_side(space), holdout=settings.holdout, limit=settings.limit, seed=settings.seed,
        decode=settings.decode, images_per_epoch=settings.images_per_epoch, skip_broken=settings.skip_broken,
        test=settings.test)
    remarks = [] if resume else check_data(images)
    rows: list[dict[str, Any]] = []

    def judge_some(supernet: Supernet) -> None:
        judge = SubnetJudge(
            supernet, images.train, images.test, augment=settings.augment, seed=settings.seed,
            repairs=not settings.trains_subnets)
        say_memory(judge)
        rows.extend(subnet_table(judge, folder / LOG))

    train_supernet(settings, images, folder, resume=resume, log_with=log_with, remarks=remarks, at_end=judge_some)
    if not launched().is_main_process:
        return None
    return rows_answer(['subnet', 'top1_pct', 'macs_m', 'params_k', 'arch'], rows, hint=f'supernet: {folder}')


@COLLECT.mode()
def collect(*, supernet: str, data: str, num: int, out: str, seed: int = 0, test: str | None = None,
            num_images: int | None = None, num_calibration: int | None = None, active: bool = False,
            profile: str | None = None, skip_broken: bool = False) -> Answer | None:
    """Records of subnets sampled at random, or of those that may enlarge the front."""
    from ..accuracy import Active, check_num, collect, launched, leave
    from ..devices import load_profile

    if profile and not active:
        raise InputError('--profile is read only with --active; add that, or leave it out')
    check_files(out=out)
    prices = load_profile(profile) if profile else None
    opened = open_supernet(supernet)
    check_num(num, opened.space)
    propose = Active(opened.space, prices, seed) if active else None
    source, state = opened.with_images(
        data, seed=seed, test=test, num_calibration=num_calibration, skip_broken=skip_broken), launched()
    source.supernet.to(state.device)
    images = source.data.holdout
    if num_images:
        images = images.part(num_images, seed)
    judge = source.judge(images, quick=True)
    say_memory(judge)
    with stopped(GO_ON):
        records = collect(
            judge, source.data, num, out, seed=seed, propose=propose,
            proposer=propose.name if propose else '')
    leave()
    if not state.is_main_process:
        return None
    tops = sorted(top1 for _, top1 in records)
    return rows_answer(['records', 'subnets', 'worst_pct', 'median_pct', 'best_pct'], [dict(
        records=out, subnets=len(records), worst_pct=tops[0], median_pct=tops[len(tops) // 2], best_pct=tops[-1])])


@FIT.mode()
def fit(*, space: str, records: str, out: str, seed: int = 0, additive: bool = False,
        plot: str | None = None) -> Answer:
    """A predictor, with its error on records held out of the fit."""
    from ..accuracy import AccuracyPredictor, AdditivePredictor, check_records, read_records
    from ..hub import check_picture, plot_fit
    from ..spaces import load_space

    check_files(out=out, plot=plot)
    if plot:
        check_picture(plot)
    search_space = load_space(space)
    check_records(records, search_space)
    pairs = read_records(records, search_space)
    archs, top1_pct = [arch for arch, _ in pairs], [top1 for _, top1 in pairs]
    kind = AdditivePredictor if additive else AccuracyPredictor
    predictor = kind.fit(search_space, archs, top1_pct, seed=seed)
    predictor.save(out)
    check = predictor.check or {}
    if plot and predictor.held_out_pct is not None:
        plot_fit(predictor.held_out_pct.tolist(), top1_pct, plot, check)
    return rows_answer(['predictor', 'n', 'kendall_tau', 'rmse_pct'], [dict(predictor=out, **check)])
