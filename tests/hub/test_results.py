"""What a card says of its origin, the Hub's own file of results, and names that the Hub takes."""
import json
import os
import re
import subprocess
import sys

import pytest
import yaml
from hub_makers import SPACE, complete, make_model, make_record

from timm_ofa.errors import InputError
from timm_ofa.hub.client import check_repo_id
from timm_ofa.hub.folder import RESULTS
from timm_ofa.hub.metadata import card_data, eval_results
from timm_ofa.hub.record import SupernetRecord
from timm_ofa.hub.saving import save_folder


@pytest.fixture(scope='module')
def on_flowers(tmp_path_factory):
    """A network that was judged on a data set of the Hub."""
    record = make_record(dataset_id='acme/flowers', name='ofa_mbv3_flowers', arch=SPACE.min_arch(), front=())
    return save_folder(tmp_path_factory.mktemp('out') / record.name, make_model(record), record)


def entries(text):
    """The entries as the Hub's client reads them; newer ones have a reader for them."""
    import huggingface_hub

    data = yaml.safe_load(text)
    if hasattr(huggingface_hub, 'parse_eval_result_entries'):
        return [(e.dataset_id, e.task_id, e.value, e.notes) for e in huggingface_hub.parse_eval_result_entries(data)]
    return [(e['dataset']['id'], e['dataset']['task_id'], e['value'], e['notes']) for e in data]


def test_an_accuracy_on_a_data_set_of_the_hub_is_in_its_file_of_results(on_flowers):
    assert entries((on_flowers / RESULTS).read_text()) == [
        ('acme/flowers', 'default', 82.5, 'Top-1 (%), split test, Center crop.')]
    for changes in (dict(dataset_id=None), dict(dataset_id='flowers'), dict(accuracy=None, top1_pct=None)):
        assert eval_results(make_record(**{'dataset_id': 'acme/flowers', **changes})) is None


def test_a_supernet_tells_the_result_of_its_largest_network():
    arch, known = str(SPACE.max_arch()), dict(name='a', space='ofa_mbv3_tiny', num_classes=3, code_version='1')
    judged = [dict(subnet=subnet, top1_pct=top1_pct, macs_m=1, params_k=1, arch=arch, images='flowers test')
              for subnet, top1_pct in (('smallest', 70), ('largest', 80))]
    assert [e[2] for e in entries(eval_results(SupernetRecord.from_dict(
        {**known, 'judged': judged, 'dataset_id': 'acme/flowers'})))] == [80]
    assert eval_results(SupernetRecord.from_dict({**known, 'dataset_id': 'acme/flowers'})) is None


def test_the_file_of_results_is_published_and_pulled(server, client, on_flowers):
    shown = client(f'''
done = hub.publish({str(on_flowers)!r})
path = hub.pull(done['repo_id'])
print(json.dumps([done, (path / {RESULTS!r}).read_text(), hub.publish(path)['changed']]))''')
    done, text, changed = json.loads(shown)
    assert RESULTS in done['files'] and text == (on_flowers / RESULTS).read_text() and not changed
    assert complete(server, done['repo_id'])


WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(['timm_ofa', 'timm']))  # cannot be imported
for block in sys.argv[1:]:
    names = {}
    exec(block, names)
    print(*names['logits'][0].tolist())
"""


def test_the_three_ways_to_load_that_a_card_shows_give_the_same_logits(server, client, on_flowers, tmp_path):
    """Two of them where this package and timm cannot be imported."""
    client(f'''
from timm_ofa.__main__ import main
assert main(['publish', {str(on_flowers)!r}, '--repo', 'acme/three', '--onnx', '--pt2']) == 0''')
    card = server.repos['acme/three'].files('main')['README.md'].decode()
    own, *others = re.findall('```python\n(.*?)```', card, re.DOTALL)
    assert ['model.onnx' in block for block in others] == [True, False] and len(others) == 2
    resolution = SPACE.min_arch().resolution
    shown = [client(f'{own}\nprint(*model(torch.zeros(1, 3, {resolution}, {resolution}))[0].tolist())')]
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT, *others], env={**os.environ, **server.env(tmp_path)}, capture_output=True,
        text=True)
    shown += done.stdout.splitlines()
    logits = [list(map(float, line.split())) for line in shown]
    assert len(logits) == 3, done.stderr
    assert logits[0] == logits[2] and logits[1] == pytest.approx(logits[0], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize('epochs, relation', [(None, None), (0, None), (3, 'finetune')])
def test_a_card_says_fine_tuned_only_where_that_is_so(epochs, relation):
    data = card_data(make_record(finetune_epochs=epochs)).to_dict()
    assert data['base_model'] == 'acme/ofa_mbv3_tiny' and data.get('base_model_relation') == relation


@pytest.mark.parametrize('name', [
    'acme/ünïcode', 'acme/网络', 'acme/a b', 'acme/a\n', 'acme/a/b', 'acme', '/a', 'acme/', 'acme/.a', 'acme/ａ', ''])
def test_names_that_the_hub_refuses_are_refused_with_every_version_of_its_client(name, monkeypatch):
    monkeypatch.setattr('timm_ofa.hub.client.validate_repo_id', lambda name: None)
    with pytest.raises(InputError, match='is not a valid name; write it like'):
        check_repo_id(name)


@pytest.mark.parametrize('name', ['acme/-a', 'acme/a--b', 'acme/a..b', 'acme/a.git', f'acme/{"a" * 97}'])
def test_names_that_all_clients_refuse_are_refused(name):
    with pytest.raises(InputError, match='is not a valid name; write it like'):
        check_repo_id(name)


def test_names_of_the_hub_are_taken():
    for name in ('acme/ofa_mbv3_lat22ms', 'A-b.c/d', '1/2', 'acme/_a'):
        check_repo_id(name)
