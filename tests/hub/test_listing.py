"""Published networks are found in folders and on a Hub on localhost: exactly those that fit the question."""
import json
import re
import sys
from pathlib import Path

import pytest
from catalog_makers import DEVICES, data_of, latency_of, make_measured, write_record
from hub_makers import put_on

from timm_ofa.cli import main
from timm_ofa.errors import InputError
from timm_ofa.hub.card import render_card
from timm_ofa.hub.catalog_page import catalog
from timm_ofa.hub.folder import CONFIG, PERF
from timm_ofa.hub.listing import find, find_supernets, model_rows
from timm_ofa.spaces import SearchSpace

# ---- in a folder ----------------------------------------------------------------------------------------------------


def test_every_device_and_limit_gives_exactly_the_right_networks(records):
    folder, known = records
    for device in DEVICES:
        for limit in (8, 12.5, 30, 1000):
            expected = sorted((latency_of(r, device).typical_ms, r.name) for r in known
                              if latency_of(r, device).typical_ms <= limit)
            if expected:
                rows = model_rows(str(folder), device, limit)
                assert [(row['latency_ms'], Path(row['name']).name) for row in rows] == expected
            assert sorted(f.record.name for f in find(str(folder), device, limit)) == sorted(n for _, n in expected)
    assert len(model_rows(str(folder))) == 150 and len(find(str(folder))) == 50


def test_the_command_line_answers_with_a_table_and_writes_the_page(records, tmp_path, capsys):
    folder, known = records
    limit = min(latency_of(r, 'samsung-note10').typical_ms for r in known)
    ask = ['models', '--source', str(folder), '--device', 'samsung-note10', '--max-latency-ms']
    assert main([*ask, str(limit)]) == 0
    assert f'{limit:.4g}' in capsys.readouterr().out.splitlines()[2]
    assert main([*ask, str(limit - 0.001)]) == 2
    assert 'no network of' in capsys.readouterr().err
    assert main(['catalog', '--source', str(folder), '--out', str(tmp_path / 'index.html')]) == 0
    assert capsys.readouterr().out == f'{tmp_path / "index.html"}\n'
    text = (tmp_path / 'index.html').read_text()
    assert not re.findall(r'(src|href)=|@import|url\(', text)
    assert main(['catalog', '--source', str(folder), '--out', str(tmp_path / 'index.html' / 'x.html')]) == 2


def test_what_is_not_a_valid_record_is_left_out_and_named(tmp_path, rng, caplog):
    for name in ('good', 'nested/good', '.hidden', 'changed', 'not json', 'a\nb<script>'):
        write_record(tmp_path / name, make_measured(0, rng))
    changed = json.loads((tmp_path / 'changed' / PERF).read_text())
    changed['measurements'][0]['latency_ms'] = -1
    (tmp_path / 'changed' / PERF).write_text(json.dumps(changed))
    (tmp_path / 'not json' / CONFIG).write_text('{')
    assert [f.id for f in find(str(tmp_path))] == [str(tmp_path / 'good'), str(tmp_path / 'nested' / 'good')]
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3 and all(line.startswith('left out: ') and '\n' not in line for line in lines)
    assert sum(name in line for line, name in zip(lines, ('b<script>', 'changed', 'not json'))) == 3


@pytest.mark.parametrize(('source', 'device', 'message'), [
    ('a b/<script>', None, 'neither a folder nor a name'),
    ('../x', None, 'neither a folder nor a name'),
    ('x\ny', None, 'neither a folder nor a name'),
    ('{folder}', 'Google Pixel', 'is not a slug'),
    ('{folder}', 'nokia-3310', 'no network of'),
])
def test_a_wrong_source_or_device_is_one_line(records, source, device, message):
    with pytest.raises(InputError, match=message) as caught:
        model_rows(source.format(folder=records[0]), device)
    assert '\n' not in str(caught.value)


def test_an_empty_folder_gives_no_page(tmp_path):
    with pytest.raises(InputError, match='none with a latency was found'):
        catalog(str(tmp_path), tmp_path / 'index.html')
    assert not list(tmp_path.iterdir())


def test_the_network_of_the_folder_one_is_in_has_a_name(tmp_path, monkeypatch, rng):
    record = make_measured(0, rng)
    write_record(tmp_path / 'here', record)
    monkeypatch.chdir(tmp_path / 'here')
    shown, = data_of(catalog('.', 'index.html').read_text())['models']
    assert (shown['id'], shown['name']) == ('.', record.name)


def test_a_supernet_of_more_networks_than_a_float_holds_is_listed(supernet, monkeypatch):
    monkeypatch.setattr(SearchSpace, 'size', lambda self: 10**400)
    assert [row['networks'] for row in find_supernets(str(supernet.parent))] == [sys.float_info.max]


# ---- on the Hub -----------------------------------------------------------------------------------------------------


def test_an_organization_is_searched_by_tags_and_answered_with_exact_figures(server, client, records, tmp_path):
    folder, known = records
    for record in known:
        files = {name: (folder / record.name / name).read_bytes() for name in (CONFIG, PERF)}
        put_on(server, f'acme/{record.name}', {**files, 'README.md': render_card(record).encode()})
    some = server.repos[f'acme/{known[0].name}'].files('main')
    put_on(server, 'other/net', some)
    put_on(server, 'acme/no-perf', {k: v for k, v in some.items() if k != PERF})
    put_on(server, 'acme/not-json', {**some, CONFIG: b'<'})
    ask = '''
import logging
from timm_ofa.__main__ import main
handler = logging.StreamHandler(sys.stdout)
logging.getLogger('timm_ofa').addHandler(handler)
try:
    print(main(['models', '--format', 'json', '--source', 'acme', *{args!r}]))
finally:
    logging.getLogger('timm_ofa').removeHandler(handler)'''
    for device, limit in (('google-pixel-1', 12.5), ('samsung-note10', 7), ('raspberry-pi-4', 100)):
        server.requests.clear()
        out = client(ask.format(args=['--device', device, '--max-latency-ms', str(limit)]), token='')
        warnings, rows = re.fullmatch(r'(.*?)^(\[.*\])\n0', out, re.DOTALL | re.MULTILINE).groups()
        expected = {f'acme/{r.name}': latency_of(r, device).typical_ms for r in known
                    if latency_of(r, device).typical_ms <= limit}
        assert {row['name']: row['latency_ms'] for row in json.loads(rows)} == expected and len(expected) > 5
        named = [line for line in warnings.splitlines() if line.startswith('left out: ')]
        assert len(named) == len(warnings.splitlines()) and all('no-perf' in x or 'not-json' in x for x in named)
        assert len([r for r in server.requests if r.startswith('GET') and '/resolve/' in r]) <= 2 * len(expected) + 4
    out = tmp_path / 'index.html'
    client(f"hub.catalog('acme', {str(out)!r})")
    shown = data_of(out.read_text())['models']
    assert [m['name'] for m in shown] == sorted(r.name for r in known)
    load = f"import timm, timm_ofa; timm.create_model('hf-hub:acme/{shown[0]['name']}', pretrained=True)"
    assert (shown[0]['load'], shown[0]['url']) == (load, f'{server.url}/acme/{shown[0]["name"]}')
    server.requests.clear()
    assert client(ask.format(args=['--device', 'google-pixel-1', '--max-latency-ms', '12.5']), token='')
    assert not [r for r in server.requests if r.startswith('GET') and '/resolve/' in r and 'no-perf' not in r]


def test_tags_that_promise_too_much_are_not_believed(server, client, records):
    folder, known = records
    fast = min(known, key=lambda r: latency_of(r, 'google-pixel-1').typical_ms)
    slow = max(known, key=lambda r: latency_of(r, 'google-pixel-1').typical_ms)
    files = {name: (folder / slow.name / name).read_bytes() for name in (CONFIG, PERF)}
    put_on(server, 'edited/by-hand', {**files, 'README.md': render_card(fast).encode()})
    ask = 'print([f.id for f in find("edited", "google-pixel-1", {})])'
    assert client(ask.format(10)) == '[]'
    assert client(ask.format(1000)) == "['edited/by-hand']"


def test_a_hub_that_breaks_off_is_one_line_and_not_a_shorter_list(server, client, records):
    folder, known = records
    for record in known[:3]:
        files = {name: (folder / record.name / name).read_bytes() for name in (CONFIG, PERF)}
        put_on(server, f'broken/{record.name}', {**files, 'README.md': render_card(record).encode()})
    answers = []
    for step in (0, 4):  # the list of the owner's networks, and a file of one of them
        server.fault, server.fault_at = 'drop', len(server.requests) + step
        answers.append(client('print(len(find("broken")))'))
    for line in answers:
        assert line == '3' or (  # the client asks again for a file, and then nothing is missing
            line.startswith('InputError: ') and ('cannot be reached' in line or 'failed' in line) and '\n' not in line)
    assert answers[0] != '3'


def test_a_repository_that_is_disabled_or_closed_is_left_out_and_the_others_are_listed(server, client, records):
    folder, known = records
    for record in known[:4]:
        files = {name: (folder / record.name / name).read_bytes() for name in (CONFIG, PERF)}
        put_on(server, f'closed/{record.name}', {**files, 'README.md': render_card(record).encode()})
    server.forbid, server.gated = f'/closed/{known[1].name}/resolve', f'/closed/{known[3].name}/resolve'
    assert client('print([f.id for f in find("closed")])') == str(sorted(
        f'closed/{record.name}' for record in (known[0], known[2])))


def test_a_space_that_broke_off_may_be_published_again_but_not_the_work_of_others(server, client, tmp_path):
    (tmp_path / 'index.html').write_text('a page')
    publish = f"print(hub.publish_page({str(tmp_path / 'index.html')!r}, 'acme/{{}}'))"
    server.forbid = '/api/spaces/acme/half/commit'
    assert 'the Hub answered 403' in client(publish.format('half'))
    server.forbid = '(?!)'
    assert client(publish.format('half')) == f'{server.url}/spaces/acme/half'
    assert server.repos['spaces/acme/half'].files('main')['index.html'] == b'a page'
    put_on(server, 'spaces/acme/copy', {}).commits[0] = ('f' * 40, {'index.html': b'x'}, 'Duplicate from other/game')
    assert 'was not written by timm_ofa' in client(publish.format('copy'))


def test_the_page_becomes_a_static_space_once(server, client, records, tmp_path):
    run = f"""
from timm_ofa.__main__ import main
print(main(['catalog', '--source', {str(records[0])!r}, '--out', {str(tmp_path / 'index.html')!r}, '--space', {{}}]))"""
    for _ in range(2):
        assert client(run.format('"acme/catalog"')).splitlines() == [f'{server.url}/spaces/acme/catalog', '0']
    repo = server.repos['spaces/acme/catalog']
    files = repo.files('main')
    assert len(repo.commits) == 2 and set(files) == {'.gitattributes', 'README.md', 'index.html'}
    assert files['index.html'] == (tmp_path / 'index.html').read_bytes()
    assert server.info('spaces/acme/catalog')['cardData']['sdk'] == 'static'
    put_on(server, 'spaces/acme/game', {'index.html': b'the work of somebody else'})
    for space in ('acme/game', 'google/catalog', 'a b/c'):
        assert client(run.format(repr(space))) == '2'
    assert len(server.repos['spaces/acme/game'].commits) == 1
    server.lose_answers = 1
    assert client(run.format('"acme/lost"')).splitlines()[1] == '0'
    assert len(server.repos['spaces/acme/lost'].commits) == 2
