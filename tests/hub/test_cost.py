"""What a training took, from the times and emissions that its folder notes."""
import json

import pytest
from hub_makers import make_record

from timm_ofa.errors import InputError
from timm_ofa.hub.card import render_card
from timm_ofa.hub.cost import training_cost
from timm_ofa.hub.record import Training


def cost_of(folder, *events):
    (folder / 'times.jsonl').write_text(''.join(json.dumps(event) + '\n' for event in events))
    return training_cost(folder)


def begun(kind, at, device='cpu', processes=1, **more):
    return dict(event=kind, date=at, device=device, processes=processes, **more)


def test_sessions_on_different_hardware_are_told_apart(tmp_path):
    cost = cost_of(
        tmp_path, begun('start', '2026-03-01T10:00:00+00:00', 'cuda:0', 8, device_name='H200', session_s=1.0),
        dict(event='stop', date='2026-03-03T10:00:00+00:00', session_s=172800.0),
        begun('resume', '2026-03-09T10:00:00+00:00', device_name='EPYC', session_s=0.5),
        dict(event='end', date='2026-03-09T10:01:00+00:00', session_s=60.0))
    assert [(s.seconds, s.hardware, s.processes) for s in cost.sessions] == [(172800, 'H200', 8), (60, 'EPYC', 1)]
    assert (cost.seconds, cost.hardware, cost.processes, cost.gpu_hours) == (172860, 'H200', 8, 384)

    card = render_card(make_record(training=cost))
    assert '48 hours on H200, 8 processes, 60 seconds on EPYC, 384 GPU-hours' in card


def test_sessions_on_the_same_hardware_add_up_to_their_last_line(tmp_path):
    cost = cost_of(
        tmp_path, begun('start', '2026-03-01T10:00:00+00:00', session_s=1.0),
        dict(event='checkpoint', date='2026-03-01T10:01:00+00:00', session_s=61.5),
        dict(event='stop', date='2026-03-01T10:02:00+00:00', session_s=119.5),
        begun('resume', '2026-03-02T10:00:00+00:00', session_s=2.0),
        dict(event='end', date='2026-03-02T10:00:30+00:00', session_s=30.5))
    assert cost == Training(seconds=150.0, hardware='cpu', processes=1)


def test_an_older_file_of_local_times_survives_the_end_of_summer_time(tmp_path):
    cost = cost_of(
        tmp_path, begun('start', '2026-10-25T02:50:00'), dict(event='phase', date='2026-10-25T02:10:00'),
        dict(event='end', date='2026-10-25T02:20:00'))
    assert cost.seconds == 600


@pytest.mark.parametrize('lines', [['1,0.1', '1,0.2', '1,0.3'], ['1,0.1', '1,0.25', '2,0.05']])
def test_emissions_of_a_run_are_what_its_last_line_says(tmp_path, lines):
    (tmp_path / 'emissions.csv').write_text('\n'.join(['run_id,emissions', *lines]))
    cost = cost_of(tmp_path, begun('start', '2026-03-01T10:00:00'))
    assert (cost.co2_g, cost.co2_source) == (300, 'codecarbon')


def test_what_training_did_not_write_is_refused_and_none_is_none(tmp_path):
    assert training_cost(tmp_path) is None
    for event in (dict(event='start', date='yesterday'), dict(event='start', date=5)):
        with pytest.raises(InputError, match='is not what training wrote'):
            cost_of(tmp_path, event, dict(event='end', date='2026-03-01T10:00:00'))


@pytest.mark.parametrize('change', [
    dict(processes=float('inf')), dict(processes=10**400), dict(processes=0), dict(device_name='a\nb'),
    dict(session_s=float('inf'))])
def test_times_of_a_stranger_that_cannot_be_are_refused(tmp_path, change):
    event = begun('start', '2026-03-01T10:00:00', 'cuda', session_s=1.0)
    assert cost_of(tmp_path, event).seconds == 1
    with pytest.raises(InputError, match='is not what training wrote'):
        cost_of(tmp_path, {**event, **change})


@pytest.mark.parametrize('kg', ['nan', 'inf', '-1'])
def test_emissions_that_cannot_be_are_refused(tmp_path, kg):
    (tmp_path / 'emissions.csv').write_text(f'run_id,emissions\n1,{kg}\n')
    with pytest.raises(InputError, match='is not what codecarbon writes'):
        cost_of(tmp_path, begun('start', '2026-03-01T10:00:00'))


def test_a_long_training_is_told_without_an_exponent():
    cost = Training(seconds=99.9 * 3600, hardware='H200', gpu_hours=1234.4, co2_g=1.5e6)
    assert '100 hours on H200, 1234 GPU-hours, 1500 kg CO2' in render_card(make_record(training=cost))


@pytest.mark.parametrize('warmup_epochs', [0, 1])
def test_a_training_of_warm_up_alone_took_time(tmp_path, warmup_epochs):
    phase = dict(name='largest', epochs=0, warmup_epochs=warmup_epochs, lr=0.1)
    training = dict(name='x', space='ofa_mbv3_tiny', data='digits', phases=[phase])
    (tmp_path / 'config.json').write_text(json.dumps({'timm_ofa': dict(kind='supernet', training=training)}))
    assert (cost_of(tmp_path, begun('start', '2026-03-01T10:00:00', session_s=9.0)) is None) == (warmup_epochs == 0)
