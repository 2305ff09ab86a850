"""The verb `search`: the most accurate network under limits."""
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..console import say, table
from ..errors import InputError
from .shared import COMMON, check_files, options
from .verbs import Answer, Option, Verb, positive

if TYPE_CHECKING:
    from ..accuracy import Predictor
    from ..searching import Candidate, SearchResult
    from ..spaces import SearchSpace

RELEASED = 'released'  # instead of the path of a predictor
SEARCH = Verb(
    'search', 'Find the most accurate network under limits, and the front of the best networks.',
    '--space ofa_mbv3_tiny --predictor predictor.safetensors --profile cpu.json --max-latency-ms 0.5 --out front.jsonl',
    options(
        'space seed resolutions also',
        predictor=Option(
            'accuracy predictor: a file that `timm-ofa fit` wrote, the name of a supernet that comes with one, a .pth '
            f"file of the authors, or '{RELEASED}', the one that the authors released for this space", 'PREDICTOR'),
        profile=Option('device profile: a file that `timm-ofa profile` wrote, or a name from `timm-ofa devices`',
                       'PROFILE'),
        max_latency_ms=Option(f'{COMMON["max_latency_ms"].help} on the device of --profile', 'MS', positive),
        max_macs_m=Option('largest number of multiply-accumulates, in millions', 'N', positive),
        max_params_m=Option('largest number of parameters, in millions', 'N', positive),
        max_memory_mb=Option('largest memory of weights and activations in float32, in MB', 'MB', positive),
        plot=Option('draw the front and the progress of the search, as .svg or .png', 'FILE.svg'),
        out=Option('file of the front, which `timm-ofa specialize` reads', 'FILE.jsonl')))


@SEARCH.mode()
def search(*, space: str, predictor: str, seed: int = 0, also: Sequence[tuple[str, float]] = (),
           max_macs_m: float | None = None, max_params_m: float | None = None, max_memory_mb: float | None = None,
           resolutions: Sequence[int] | None = None, plot: str | None = None) -> Answer:
    """A search without a latency of its own."""
    limits = _limits(also, max_macs_m, max_params_m, max_memory_mb)
    if not limits:
        raise InputError('no limit is given; add --max-latency-ms with --profile, --max-macs-m, --max-params-m, '
                         '--max-memory-mb or --also')
    return _search(space, predictor, None, None, limits, resolutions, seed, plot, None, max_macs_m)


@SEARCH.mode('profile')
def search_for_device(
        *, space: str, predictor: str, profile: str, seed: int = 0, max_latency_ms: float | None = None,
        also: Sequence[tuple[str, float]] = (), max_macs_m: float | None = None, max_params_m: float | None = None,
        max_memory_mb: float | None = None, resolutions: Sequence[int] | None = None, plot: str | None = None,
        out: str | None = None) -> Answer:
    """A search for the device of a profile."""
    limits = _limits(also, max_macs_m, max_params_m, max_memory_mb)
    if max_latency_ms is None and not limits:
        raise InputError('no limit is given; add --max-latency-ms, --max-macs-m, --max-params-m, --max-memory-mb or '
                         '--also')
    return _search(space, predictor, profile, max_latency_ms, limits, resolutions, seed, plot, out, max_latency_ms)


def _limits(also: Sequence[tuple[str, float]], max_macs_m: float | None, max_params_m: float | None,
            max_memory_mb: float | None) -> list[Any]:
    """The limits besides that on the latency of --profile."""
    from ..devices import load_profile
    from ..searching import Limit, MaxMacs, MaxMemory, MaxParams

    limits: list[Any] = [Limit(load_profile(name), limit_ms) for name, limit_ms in also]
    limits += [MaxMacs(1e6 * max_macs_m)] if max_macs_m else []
    limits += [MaxParams(1e6 * max_params_m)] if max_params_m else []
    return limits + ([MaxMemory(max_memory_mb)] if max_memory_mb else [])


def _search(space: str, predictor: str, profile: str | None, max_latency_ms: float | None, limits: list[Any],
            resolutions: Sequence[int] | None, seed: int, plot: str | None, out: str | None,
            shown_limit: float | None) -> Answer:
    from ..accuracy import load_predictor, load_upstream_predictor
    from ..devices import load_profile
    from ..hub import check_picture, plot_search, save_front
    from ..searching import search, searched_with
    from ..spaces import load_space

    check_files(out=out, plot=plot)
    if plot:
        check_picture(plot)
    search_space = load_space(space)
    device = load_profile(profile) if profile else None
    judge = (load_upstream_predictor(None, search_space) if predictor == RELEASED
             else load_predictor(predictor, search_space))
    result = search(search_space, judge, device, max_latency_ms=max_latency_ms, limits=limits, resolutions=resolutions,
                    seed=seed)
    num_classes, _ = searched_with(device, limits)
    if out and device and profile:
        save_front(out, result, search_space, judge, device, profile, max_latency_ms, seed,
                   [limit.text() for limit in limits])
        say(f'front of {len(result.front)} networks: {out}')
    if plot:
        cost = 'M MACs' if device is None else f'predicted latency on {device.device_name} (ms)'
        plot_search([(_cost(c, search_space, num_classes), c.top1_pct) for c in result.front], result.history, plot,
                    cost=cost, limit=shown_limit)
        say(f'picture: {plot}')
    if result.proven:
        say('proven: no network beats this front, as the predictor and the profile have it')
    return _front_answer(result, search_space, num_classes, judge)


def _cost(candidate: Candidate, space: SearchSpace, num_classes: int | None) -> float:
    """The latency in ms, or millions of MACs if the search had no device."""
    return space.macs(candidate.arch, num_classes) / 1e6 if candidate.latency_ms is None else candidate.latency_ms


def _front_answer(result: SearchResult, space: SearchSpace, num_classes: int | None, judge: Predictor) -> Answer:
    """The front; the table shows about ten of its networks, the best one first.

    If the predictor knows how unsure it is, the table has two standard deviations of each accuracy.
    """
    spreads = judge.spread([c.arch for c in result.front])
    head, rows = ['top-1 %', 'M MACs' if result.best.latency_ms is None else 'latency ms', 'arch'], [
        [round(c.top1_pct, 2), round(_cost(c, space, num_classes), 4), str(c.arch)] for c in result.front]
    if spreads is not None:
        head.insert(1, '± 2 std')
        for row, spread in zip(rows, spreads):
            row.insert(1, round(2 * float(spread), 2))
    told = [None] * len(result.front) if spreads is None else spreads
    front = [_about(c, spread) for c, spread in zip(result.front, told)]
    best = {**_about(result.best, told[-1]), 'text': str(result.best.arch)}
    return Answer(dict(best=best, proven=result.proven, evaluated=result.evaluated, front=front),
                  table(head, rows[::-1][::max(1, len(rows) // 10)]))


def _about(candidate: Candidate, spread: float | None) -> dict[str, Any]:
    """A candidate as JSON data, with the standard deviation of its accuracy if that is known."""
    from ..hub import candidate_dict

    return {**candidate_dict(candidate), **({} if spread is None else {'top1_spread_pct': round(float(spread), 4)})}
