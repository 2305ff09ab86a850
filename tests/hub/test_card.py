"""Cards: what they say, their tags and results, and that no text of a record breaks them."""
import re
from dataclasses import replace

import pytest
import yaml
from hub_makers import REPO, SPACE, like, make_model, make_record, measured, toy_profile

from timm_ofa.errors import InputError
from timm_ofa.hub.card import render_card, render_profile
from timm_ofa.hub.folder import CARD
from timm_ofa.hub.metadata import card_data, tags
from timm_ofa.hub.publishing import publish
from timm_ofa.hub.record import Accuracy, Record, SupernetRecord
from timm_ofa.hub.saving import save_folder
from timm_ofa.training import Phase

HOSTILE = 'a|b `c` <img src=x> [d](javascript:e) *f* \\'


def test_tags_name_the_three_rungs_above_the_measured_latency():
    found = tags(make_record())
    assert {'timm_ofa', 'device:my-cpu', 'runtime:onnxruntime-cpu', 'supernet:ofa-mbv3-tiny'} <= set(found)
    rungs = [int(t.split('le-')[1][:-2]) for t in found if t.startswith('latency:my-cpu:')]
    assert rungs == [2, 5, 10]
    assert len(found) == len(set(found)) and not [t for t in found if ',' in t or ' ' in t]


def test_a_slow_second_device_gets_no_rung_of_the_fast_one():
    fast = make_record().measurements[0]
    found = tags(make_record(measurements=(fast, replace(fast, device='slow', latency_ms=60, p50_ms=60))))
    assert 'latency:my-cpu:le-2ms' in found and 'latency:slow:le-75ms' in found
    assert 'latency:slow:le-50ms' not in found


def test_the_tags_of_a_card_are_those_that_are_looked_for():
    record = make_record()
    assert yaml.safe_load(render_card(record).split('---\n')[1])['tags'] == tags(record)


def test_the_card_opens_with_the_import_and_carries_both_results():
    front, body = render_card(make_record(dataset_id='acme/digits'), REPO).split('\n---\n', 1)
    assert f"import timm, timm_ofa\n\nmodel = timm.create_model('hf-hub:{REPO}', pretrained=True)" in body
    assert body.index('```') < body.index('import timm, timm_ofa') < body.index('## Latency')
    data = yaml.safe_load(front.removeprefix('---\n'))
    metrics = data['model-index'][0]['results'][0]['metrics']
    assert [m['type'] for m in metrics] == ['accuracy', 'latency', 'latency']
    assert [m['value'] for m in metrics] == [82.5, 1.9, 0.9]
    assert 'my-cpu' in metrics[1]['name'] and (data['library_name'], data['license']) == ('timm', 'apache-2.0')


def test_a_record_without_accuracy_names_no_data_set():
    known = card_data(make_record(accuracy=None, top1_pct=None, dataset_id=None))
    assert not known.eval_results and known.datasets is None
    judged = card_data(make_record(accuracy=None, top1_pct=None, dataset_id='acme/flowers'))
    assert {r.dataset_name for r in judged.eval_results} == {'acme/flowers'}


@pytest.mark.parametrize('change', [
    {'n': 5}, {'top1_pct': 51.0}, {'taken_for': {'z': 2}}, {'taken_for': {'a': 2}}, {'taken_for': {'b': 5}},
    {'name': 'b'}])
def test_accuracies_of_classes_that_do_not_add_up_are_refused(change):
    told = [dict(name=name, n=4, top1_pct=50.0, taken_for={'b' if name == 'a' else 'a': 2}) for name in 'abcd']
    record = Record.from_dict({**make_record().to_dict(), 'per_class': told})
    assert [c.hits for c in record.per_class] == [2] * 4 and '| a | 4 | 50.0 | b |' in render_card(record)
    with pytest.raises(InputError, match=r'record: per_class.* leave'):
        Record.from_dict({**make_record().to_dict(), 'per_class': [{**told[0], **change}, *told[1:]]})


def test_a_data_set_that_is_not_on_the_hub_is_not_in_the_front_matter():
    for name in ('digits', None):
        front = yaml.safe_load(render_card(make_record(dataset_id=name)).split('---\n')[1])
        assert not {'datasets', 'model-index'} & set(front)


def test_hostile_text_stays_text_in_the_card():
    measurement = replace(make_record().measurements[0], device_name=HOSTILE, runtime_version='x: {[')
    card = render_card(make_record(
        device_name=HOSTILE, measurements=(measurement,), citation='```\n# out\n```',
        dataset_id='acme/flowers', accuracy=Accuracy(dataset='- a: b\n# c', split='yes', n=1, protocol=HOSTILE)))
    front, body = card.split('\n---\n', 1)
    assert yaml.safe_load(front.removeprefix('---\n'))['model-index'][0]['results'][0]['dataset']['split'] == 'yes'
    assert '<img' not in body and '[d](' not in body and body.count('```') == 8
    header, row = re.search(r'(\| device \|.*)\n\|.*\n(\| a.*)', body).groups()
    assert len(re.findall(r'(?<!\\)\|', row)) == header.count('|')


@pytest.mark.parametrize('text', ['https://evil.example/a', 'HTTP://x.y', 'www.evil.example', 'WWW.x.y', 'me@x.org'])
def test_an_address_in_a_record_is_no_link(text):
    body = render_card(make_record(device_name=text)).split('\n---\n', 1)[1]
    assert text not in body and text in body.replace('<!-- -->', '')


def test_a_formula_in_a_record_is_text():
    body = render_card(make_record(device_name='$$\\frac{a}{b}$$ $x$')).split('\n---\n', 1)[1]
    assert '\\$\\$' in body and not re.search(r'(?<!\\)\$', body)


def test_a_record_of_the_bare_minimum_has_a_card(tmp_path):
    arch = SPACE.min_arch()
    record = Record(name='tiny', space='ofa_mbv3_tiny', arch=arch, num_classes=3, code_version='0.1.0')
    save_folder(tmp_path / 'tiny', make_model(record), record)
    assert 'An image classifier.' in (tmp_path / 'tiny' / 'README.md').read_text()
    assert not (tmp_path / 'tiny' / 'pareto.svg').exists()


@pytest.mark.parametrize('change', [
    lambda text: text + 'By hand.\n', lambda text: text.replace('le-5ms', 'le-1ms'), lambda text: '',
    lambda text: '---\n['])
def test_a_card_that_was_edited_by_hand_is_one_line(template, tmp_path, change):
    folder = like(template, tmp_path / 'net', 'net', (measured('amd-epyc', 3),))
    publish(folder, 'acme/net', dry_run=True)
    card = folder / CARD
    card.write_text(change(card.read_text()))
    with pytest.raises(InputError, match='is not the card of its record from line') as error:
        publish(folder, 'acme/net', dry_run=True)
    assert '\n' not in str(error.value)
    card.unlink()
    publish(folder, 'acme/net', dry_run=True)


@pytest.mark.parametrize('runtime, precision, said', [
    ('tflite', 'unknown', ''), ('openvino', 'unknown', ' --runtime openvino --threads 4'),
    ('onnxruntime', 'int8', ' --runtime onnxruntime --precision int8 --threads 4')])
def test_the_card_repeats_a_latency_only_with_a_runtime_that_this_package_has(runtime, precision, said):
    first = make_record().measurements[0]
    record = replace(make_record(), measurements=(replace(
        first, runtime=runtime, precision=precision, threads=4),))
    assert f'\ntimm-ofa measure hf-hub:acme/net{said}\n' in render_card(record, 'acme/net')


def test_the_card_of_a_profile_that_prices_no_whole_network_names_a_limit():
    profile = toy_profile(SPACE, 'pixel-9')
    assert '--max-latency-ms 123\n' in render_profile(replace(profile, overhead_ms=110.0), REPO)
    few = dict(list(profile.table.items())[:2])
    assert '--max-latency-ms 25\n' in render_profile(replace(profile, table=few), REPO)


@pytest.mark.parametrize('choices, said', [
    ({}, 'all'), (dict(depths=(3,)), 'depths 3'),
    (dict(deepest=1, widths=2), 'the largest depth; the 2 largest widths')])
def test_the_card_of_a_supernet_says_what_its_phases_draw_from(choices, said):
    record = SupernetRecord(name='x', space=SPACE, num_classes=3, code_version='0.1.0')
    card = render_card(record, phases=[Phase(name='a', epochs=1, lr=0.1, **choices)])
    assert f'| 1 | {said} |' in card


def test_the_card_of_a_supernet_tells_any_number_of_networks(monkeypatch):
    record = SupernetRecord(name='x', space=SPACE, num_classes=3, code_version='0.1.0')
    monkeypatch.setattr(type(SPACE), 'size', lambda self: 2 * 10**400)
    assert '**2.0·10<sup>400</sup> networks in one**' in render_card(record)
