"""The front of a search as files, and the candidate of it that is measured within the limit."""
import json
from dataclasses import replace

import pytest
from hub_makers import make_front, save_made_front, toy_profile

from timm_ofa.errors import InputError
from timm_ofa.hub.fronts import load_front
from timm_ofa.hub.timing import arch_timer, meet_limit, tighter_limit
from timm_ofa.spaces import load_space


@pytest.fixture(scope='module')
def space():
    return load_space('ofa_mbv3_tiny').restrict(resolutions=[20])


@pytest.fixture
def front():
    return make_front()


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / 'front.jsonl'
    return path, save_made_front(path)


# ---- meeting the limit ----------------------------------------------------------------------------------------------


class Timer:
    """A device on which every network takes `factor` times what was predicted."""

    def __init__(self, front, factor):
        self.ms = {c.arch: c.latency_ms * factor for c in front}
        self.asked = []

    def __call__(self, arch):
        self.asked.append(arch)
        return {'latency_ms': self.ms[arch]}


def test_a_network_within_its_limit_is_measured_once(front):
    timer = Timer(front, 1.0)
    attempts = meet_limit(front, 4.0, timer)
    assert [a.candidate for a in attempts] == [front[3]] and timer.asked == [front[3].arch]
    assert attempts[-1].measured == {'latency_ms': 4.0}


@pytest.mark.parametrize('factor, limit', [(1.3, 5.5), (2.0, 6.0), (1.01, 5.0), (5.9, 6.0)])
def test_the_limit_is_tightened_until_the_measured_latency_is_within(front, factor, limit):
    attempts = meet_limit(front, limit, Timer(front, factor))
    assert attempts[-1].measured['latency_ms'] <= limit
    assert all(a.measured['latency_ms'] > limit for a in attempts[:-1])
    predicted = [a.candidate.latency_ms for a in attempts]
    assert predicted == sorted(set(predicted), reverse=True)  # each is faster than the one before
    best = max((c for c in front if c.latency_ms * factor <= limit), key=lambda c: c.top1_pct)
    assert attempts[-1].candidate == best


@pytest.mark.parametrize('measured_ms, next_ms', [(5.0, 3.2), (4.0001, 3.996), (8.0, 2.0)])
def test_after_a_miss_predictions_are_expected_to_be_wrong_by_as_much_again(measured_ms, next_ms):
    assert tighter_limit(4.0, measured_ms, 4.0) == pytest.approx(next_ms)


def test_the_best_and_not_the_slowest_within_the_limit_is_taken(front):
    front[1] = replace(front[1], top1_pct=99.0)
    assert meet_limit(front, 4.0, Timer(front, 1.0))[0].candidate == front[1]


def test_when_nothing_fits_the_limit_and_the_last_measurement_are_named(front):
    with pytest.raises(InputError, match=r'within 0\.5 ms; raise the limit'):
        meet_limit(front, 0.5, Timer(front, 1.0))
    timer = Timer(front, 10.0)
    with pytest.raises(InputError, match=r'within 6 ms; the last of \d+ tried takes \d+ ms'):
        meet_limit(front, 6.0, timer)
    assert len(set(timer.asked)) == len(timer.asked)
    assert timer.asked[-1] == min(front, key=lambda c: c.latency_ms).arch


def test_attempts_are_bounded(front):
    timer = Timer(front, 1.0)
    timer.ms = dict.fromkeys(timer.ms, 6.0001)
    with pytest.raises(InputError, match='the last of 3 tried'):
        meet_limit(front, 6.0, timer, max_attempts=3)
    many = [replace(front[0], latency_ms=1 + i / 16, top1_pct=50 + i) for i in range(16)]
    with pytest.raises(InputError, match='the last of 10 tried'):
        meet_limit(many, 6.0, lambda arch: {'latency_ms': 6.0001})


def test_another_device_cannot_be_measured_here(space):
    with pytest.raises(InputError, match=r'toy-phone.*--no-measure'):
        arch_timer(space, toy_profile(space, 'toy-phone'))


# ---- the front as a file --------------------------------------------------------------------------------------------


def test_a_front_gives_the_same_values_back(saved, space, front):
    path, written = saved
    assert load_front(path, space) == written
    assert written.front == tuple(front)
    assert (written.max_latency_ms, written.seed, written.device, written.profile) == (4.0, 7, 'toy-phone', 'toy.json')
    assert (written.profile_error_pct, written.predictor_error_pct) == (2.5, 0.4)
    line = json.loads(path.read_text().splitlines()[0])
    assert list(line) == ['resolution', 'kernel_size', 'expand_ratio', 'top1_pct', 'latency_ms']


def test_latencies_are_kept_exactly_so_that_the_best_stays_within_its_limit(space, tmp_path):
    front = [replace(c, latency_ms=c.latency_ms / 3) for c in make_front()]
    file = save_made_front(tmp_path / 'front.jsonl', front, front[3].latency_ms)
    assert load_front(tmp_path / 'front.jsonl', space) == file and file.best() == front[3]
    assert meet_limit(file.front, file.bound_ms, Timer(front, 1.0))[-1].candidate == front[3]


def test_what_only_rounding_puts_above_the_limit_is_within(space, front, tmp_path):
    limit_ms = front[3].latency_ms * (1 - 1e-14)
    assert front[3].latency_ms > limit_ms
    file = save_made_front(tmp_path / 'front.jsonl', front, limit_ms)
    assert load_front(tmp_path / 'front.jsonl', space).best() == file.within(front[3].latency_ms).best() == front[3]
    attempts = meet_limit(file.front, limit_ms, Timer(front, 1.0))
    assert [attempt.candidate for attempt in attempts] == [front[3]]


def test_a_front_without_a_limit_invents_none(space, front, tmp_path):
    found = save_made_front(tmp_path / 'front.jsonl', front, None, ['300 M MACs'])
    assert load_front(tmp_path / 'front.jsonl', space) == found
    assert (found.max_latency_ms, found.limit_words, found.best()) == (None, '300 M MACs', front[-1])
    assert len(meet_limit(found.front, found.bound_ms, Timer(front, 7.0))) == 1
    assert save_made_front(tmp_path / 'front.jsonl').limit_words == 'latency <= 4 ms'


def test_a_limit_above_that_of_the_search_is_refused(saved, front):
    _, found = saved
    assert found.within(2.5).best() == front[1] and found.within(4.0) == found
    with pytest.raises(InputError, match=r'5 ms is above the limit of the search, 4 ms; search again with --max-lat'):
        found.within(5.0)
    with pytest.raises(InputError, match=r'within 0\.5 ms; the least is 1 ms'):
        found.within(0.5)


@pytest.mark.parametrize('limit, match', [
    (1e-6, 'no network within its limit'), ('fast', "max_latency_ms: 'fast' is not a number")])
def test_a_front_without_a_network_under_its_limit_is_refused(saved, space, limit, match):
    path, _ = saved
    meta = path.with_name(f'{path.name}.meta.json')
    meta.write_text(json.dumps({**json.loads(meta.read_text()), 'max_latency_ms': limit}))
    with pytest.raises(InputError, match=match):
        load_front(path, space)


@pytest.mark.parametrize('how', ['torn line', 'no meta', 'torn meta', 'no file', 'no latency', 'list', 'list meta'])
def test_a_front_that_cannot_be_read_is_refused(saved, space, how):
    path, _ = saved
    meta = path.with_name(f'{path.name}.meta.json')
    lines = path.read_text().splitlines()
    if how == 'torn line':
        path.write_text('\n'.join([*lines[:3], lines[3][:30]]))
    elif how == 'no latency':
        path.write_text(lines[0].replace('latency_ms', 'latency'))
    elif how == 'list':
        path.write_text('[]')
    elif how == 'list meta':
        meta.write_text('[]')
    elif how == 'torn meta':
        meta.write_text(meta.read_text()[:20])
    else:
        (meta if how == 'no meta' else path).unlink()
    with pytest.raises(InputError, match=r'front.*timm-ofa search --out') as error:
        load_front(path, space)
    assert '\n' not in str(error.value)


def test_a_network_outside_the_space_is_refused_naming_its_line(saved, space):
    path, _ = saved
    lines = path.read_text().splitlines()
    path.write_text('\n'.join([lines[0], lines[1].replace('"resolution": 20', '"resolution": 21')]))
    with pytest.raises(InputError, match=r'front\.jsonl line 2: resolution 21'):
        load_front(path, space)


@pytest.mark.parametrize('top1_pct', ['NaN', '1e999', '"high"'])
def test_an_accuracy_that_is_no_number_is_refused_naming_its_line(saved, space, top1_pct):
    path, _ = saved
    lines = path.read_text().splitlines()
    path.write_text('\n'.join([lines[0], lines[1].replace('"top1_pct": 52.0', f'"top1_pct": {top1_pct}')]))
    with pytest.raises(InputError, match=r'front\.jsonl line 2: top1_pct: .* is not a number'):
        load_front(path, space)


@pytest.mark.parametrize('change', [{'seed': 'x'}, {'device': None}, {'profile_error_pct': []}, {'more': 1}])
def test_what_was_noted_of_the_search_is_checked_before_the_work(saved, space, change):
    path, _ = saved
    meta = path.with_name(f'{path.name}.meta.json')
    meta.write_text(json.dumps({**json.loads(meta.read_text()), **change}))
    with pytest.raises(InputError, match=rf'front front\.jsonl: .*{next(iter(change))}') as error:
        load_front(path, space)
    assert '\n' not in str(error.value)


def test_the_front_of_another_space_is_refused(saved, space):
    path, _ = saved
    meta = path.with_name(f'{path.name}.meta.json')
    meta.write_text(meta.read_text().replace('ofa_mbv3_tiny', 'ofa_mbv3_w10'))
    with pytest.raises(InputError, match="is of 'ofa_mbv3_w10', the supernet of ofa_mbv3_tiny"):
        load_front(path, space)
