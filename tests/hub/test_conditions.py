"""Two devices, two runtimes, two providers, two batches: no figure of one ever stands under those of another."""
import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hub_makers import SPACE, make_front, make_record, toy_profile

from timm_ofa.devices import Conditions, load_profile
from timm_ofa.errors import InputError
from timm_ofa.hub.card import render_card
from timm_ofa.hub.catalog_page import render_catalog
from timm_ofa.hub.finishing import arch_name
from timm_ofa.hub.fronts import load_front, save_front
from timm_ofa.hub.listing import Found
from timm_ofa.hub.measurements import beside_limit, measurement, prediction, with_measured
from timm_ofa.hub.record import Record
from timm_ofa.hub.timing import arch_timer
from timm_ofa.searching import SearchResult

SETTINGS = list(itertools.product(
    ('amd-epyc', 'my-phone'), ('onnxruntime', 'ncnn'), ('cpu', 'XnnpackExecutionProvider'), (1, 8)))


def profile_of(setting, **changes):
    device, runtime, provider, batch_size = setting
    profile = replace(
        toy_profile(SPACE, device), runtime=runtime, batch_size=batch_size, protocol={'processor': provider}, **changes)
    return replace(profile, name=profile.conditions.profile_name(SPACE))


@pytest.fixture(scope='module')
def profiles(tmp_path_factory):
    """Setting -> profile, as it is read from its file."""
    folder, found = tmp_path_factory.mktemp('profiles'), {}
    for setting in SETTINGS:
        profile = profile_of(setting)
        profile.save(folder / f'{profile.name}.json')
        found[setting] = load_profile(folder / f'{profile.name}.json')
    assert len(list(folder.iterdir())) == len(SETTINGS)
    return found


def test_profiles_and_networks_have_names_of_their_own(profiles):
    names = {arch_name(SPACE, profile.conditions, 2.0) for profile in profiles.values()}
    assert len({profile.name for profile in profiles.values()}) == len(names) == len(SETTINGS)
    assert {'ofa_mbv3_amd_epyc_lat2ms', 'ofa_mbv3_amd_epyc_ncnn_b8_lat2ms',
            'ofa_mbv3_my_phone_xnnpackexecutionprovider_lat2ms'} <= names


def test_a_front_takes_no_profile_of_other_conditions(profiles, tmp_path):
    candidates = make_front()
    result = SearchResult(best=candidates[3], front=tuple(candidates), history=(), evaluated=6)
    for setting, profile in profiles.items():
        path = tmp_path / f'{profile.name}.jsonl'
        save_front(path, result, SPACE, SimpleNamespace(check=None), profile, profile.name, 4.0, 0)
        found = load_front(path, SPACE)
        assert found.conditions == profile.conditions and found.load_profile(SPACE, profile) is profile
        for other in profiles.values():
            if other is not profile:
                with pytest.raises(InputError, match='is not that of the front: '):
                    found.load_profile(SPACE, other)
        with pytest.raises(InputError, match='threads 4, not 1'):
            found.load_profile(SPACE, profile_of(setting, threads=4))
        with pytest.raises(InputError, match='num_classes 7, not 10'):
            found.load_profile(SPACE, profile_of(setting, num_classes=7))
        assert found.load_profile(SPACE, profile_of(setting, runtime_version='2'))
        with pytest.raises(InputError, match='prices ofa_mbv3_w10, not ofa_mbv3_tiny'):
            found.load_profile(SPACE, profile_of(setting, space='ofa_mbv3_w10'))


def test_an_older_front_knows_its_device(profiles, tmp_path):
    candidates, path = make_front(), tmp_path / 'front.jsonl'
    result = SearchResult(best=candidates[3], front=tuple(candidates), history=(), evaluated=6)
    save_front(path, result, SPACE, SimpleNamespace(check=None), profiles[SETTINGS[0]], 'cpu.json', 4.0, 0)
    meta = json.loads((tmp_path / 'front.jsonl.meta.json').read_text())
    (tmp_path / 'front.jsonl.meta.json').write_text(json.dumps(
        {k: v for k, v in meta.items() if k not in ('conditions', 'limits')}))
    found = load_front(path, SPACE)
    assert found.load_profile(SPACE, profiles[SETTINGS[1]]) and found.under.device == 'amd-epyc'
    assert arch_name(SPACE, found.under, 2.0) == 'ofa_mbv3_amd_epyc_lat2ms'
    with pytest.raises(InputError, match='device my-phone, not amd-epyc'):
        found.load_profile(SPACE, profiles[SETTINGS[-1]])


def told(profile, ms):
    """What measuring under the conditions of a profile gives."""
    under = profile.conditions
    return {
        'latency_ms': ms, 'statistic': 'median', 'n': 9, **{name: getattr(under, name) for name in (
            'runtime', 'runtime_version', 'provider', 'precision', 'threads', 'batch_size')}}


@pytest.fixture(scope='module')
def record(profiles):
    """A record with a latency of its own, in ms, for each setting, measured twice; the second time counts."""
    record = make_record(num_classes=10, class_names=(), measurements=(), device=None, limit_ms=None)
    for again, (place, profile) in itertools.product((False, True), enumerate(profiles.values())):
        new = measurement(told(profile, 100 + place if again else 50), profile.device, profile.device, record.arch)
        record = replace(record, measurements=tuple(with_measured(record, new)))
    return record.check()


def test_a_latency_takes_the_place_of_none_under_other_conditions(record, profiles):
    assert len(record.measurements) == len(SETTINGS)
    assert {record.conditions_of(m): m.latency_ms for m in record.measurements} == {
        profile.conditions: 100 + place for place, profile in enumerate(profiles.values())}
    newer = replace(record.measurements[0], runtime_version='2')
    assert len(with_measured(record, newer)) == len(SETTINGS) + 1


def test_card_and_catalog_tell_each_latency_under_its_conditions(record, profiles):
    card = [line for line in render_card(record).splitlines() if line.startswith('|') and '| measured |' in line]
    assert len(card) == len(set(card)) == len(SETTINGS)
    page = render_catalog('title', [Found('net', record)])
    for place, ((device, runtime, provider, batch), line) in enumerate(zip(SETTINGS, card)):
        special = provider != 'cpu'
        assert device in line and runtime in line and f' {100 + place} ' in line and f'batch {batch},' in line
        assert (provider in line) == special
        words = ', '.join([runtime, *([provider] if special else []), 'fp32', '1 thread',
                           *([f'batch {batch}'] if batch > 1 else [])])
        assert f'"device":"{device}","setting":"{words}","ms":{100 + place}' in page


def test_a_latency_is_judged_under_the_conditions_of_the_limit_alone(profiles):
    for setting, profile in profiles.items():
        record = make_record(
            num_classes=10, class_names=(), device=profile.device, limit_ms=2.0, predicted_ms=1.9,
            limit_conditions=profile.conditions)
        assert Record.from_dict(json.loads(json.dumps(record.to_dict()))) == record
        for other, ms in itertools.product(profiles, (1.0, 4.0)):
            new = measurement(told(profiles[other], ms), profiles[other].device, 'x', record.arch)
            words = beside_limit(record, new)
            if other != setting:
                assert words.startswith('not compared with the limit of 2 ms for ') and ', not ' in words
            else:
                assert words == ('' if ms == 1 else 'over the limit of 2 ms; search again with --max-latency-ms 0.95')
        other_classes = replace(record, num_classes=9)
        assert 'num_classes 9, not 10' in beside_limit(
            other_classes, measurement(told(profile, 1.0), profile.device, 'x', record.arch))


def test_a_price_says_its_classes_where_they_are_not_those_of_the_network(profiles):
    profile, candidate = profiles[SETTINGS[0]], make_front()[0]
    assert prediction(candidate, profile, 10).num_classes is None
    told = prediction(candidate, profile, 7)
    assert told.num_classes == 10 and told.conditions.setting()[-1] == '10 classes'
    assert '10 classes' in render_card(make_record(num_classes=7, class_names=(), measurements=(told,)))


@pytest.mark.parametrize('changes, message', [
    (dict(threads=None), 'does not tell its threads; make it again'),
    (dict(precision='unknown'), 'does not tell its precision'),
    (dict(protocol={'processor': 'XnnpackExecutionProvider'}), 'is of XnnpackExecutionProvider, which is')])
def test_a_profile_whose_conditions_cannot_be_repeated_here_times_nothing(monkeypatch, changes, message):
    monkeypatch.setattr('timm_ofa.hub.timing.this_device', lambda processor: ('amd-epyc', ''))
    with pytest.raises(InputError, match=message):
        arch_timer(SPACE, replace(toy_profile(SPACE, 'amd-epyc'), **changes))


def test_a_network_is_timed_under_the_conditions_of_the_profile(monkeypatch):
    asked = []
    monkeypatch.setattr('timm_ofa.hub.timing.this_device', lambda processor: ('amd-epyc', 'EPYC'))
    monkeypatch.setattr('timm_ofa.hub.timing.measure_network', lambda *args, **told: asked.append((*args, told)))
    profile = profile_of(('amd-epyc', 'ncnn', 'cpu', 8), precision='int8', threads=3)
    arch_timer(SPACE, profile, 7, seconds=0.5)(SPACE.min_arch())
    arch_timer(SPACE, replace(profile, protocol={}))(SPACE.min_arch())
    told = dict(warm=True, precision='int8', threads=3, batch_size=8, processor='cpu', seconds=0.5)
    assert asked == [(SPACE.rows(SPACE.min_arch(), classes), 'ncnn', {**told, 'seconds': seconds})
                     for classes, seconds in ((7, 0.5), (profile.num_classes, 2.0))]


def test_conditions_in_words_leave_out_what_nobody_told():
    assert Conditions(device='a', runtime='tflite').setting() == ['tflite', 'batch 1']
    unknown = Conditions(device='a', runtime='tflite').unknown_fields()
    assert unknown == ['provider', 'precision', 'threads', 'num_classes']
    usual = Conditions(device='a', runtime='ncnn', runtime_version='1', provider='cuda', threads=2, num_classes=10)
    assert usual.setting(10) == ['ncnn 1', '2 threads', 'batch 1'] and usual.variant(10) == ['2t']
    assert usual.differences(replace(usual, runtime_version='2')) == []
    assert usual.differences(replace(usual, runtime_version='2'), ()) == ['runtime_version 1, not 2']
