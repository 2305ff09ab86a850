"""Device profiles on the Hub: one person publishes, another finds, loads and searches; hostile ones are refused."""
import json
import logging
import re
from dataclasses import replace

import pytest
from hub_makers import SPACE, put_on, toy_profile
from toy_search import ToyPredictor

from timm_ofa import InputError, load_profile, search
from timm_ofa.cli.command import main
from timm_ofa.devices import DeviceProfile

NAME, REPO = 'hf-hub:acme/pixel-9-litert', 'datasets/acme/pixel-9-litert'
SPACE_20 = SPACE.restrict(resolutions=[20])
SECRETS = {'owner': 'Zoe', 'folder': '/home/zoe/secret'}


def made() -> DeviceProfile:
    """A profile of a phone at 20 px, whose maker noted more than is anybody's affair."""
    return replace(
        toy_profile(SPACE, 'pixel-9'), name='pixel-9-litert', protocol={'statistic': 'median', 'sweeps': 9, **SECRETS},
        networks={'random': {str(SPACE.min_arch(20)): 5.0, str(SPACE.max_arch(20)): 13.0}})


def command(capsys, *words):
    """(status, stdout, stderr)"""
    return main([str(word) for word in words]), *capsys.readouterr()


def test_one_publishes_and_another_finds_loads_and_searches(here, capsys, monkeypatch, tmp_path):
    file = tmp_path / 'phone.json'
    made().save(file)
    for changed in ('True', 'False'):  # publishing again makes no commit
        status, out, err = command(capsys, 'publish', file, '--owner', 'acme')
        assert status == 0 and re.search(rf'^changed +{changed}$', out, re.M), err
    published = here.repos[REPO].files('main')
    assert len(here.repos[REPO].commits) == 2 and set(published) == {'.gitattributes', 'README.md', 'profile.json'}
    assert not re.search(b'Zoe|/home', b''.join(published.values()))
    tags = {'timm_ofa-profile', 'device:pixel-9', 'runtime:pytorch', 'space:ofa-mbv3-tiny'}
    assert tags <= set(here.info(REPO)['tags'])

    monkeypatch.setenv('HF_TOKEN', 'hf_other')
    status, out, err = command(capsys, 'devices', '--source', 'acme', '--device', 'pixel-9', '--format', 'json')
    row, = json.loads(out)
    assert (row['profile'], row['device'], row['mape_pct'], row['errors']['random']['n']) == (NAME, 'pixel-9', 2.5, 2)
    profile = load_profile(row['profile'])
    assert replace(profile, protocol={**profile.protocol, **SECRETS}) == made()
    found, own = (search(SPACE_20, ToyPredictor(), p, max_latency_ms=9, seed=0).front for p in (profile, made()))
    assert found == own
    assert command(capsys, 'devices', '--source', 'acme', '--device', 'pixel-8')[0] == 2
    assert command(capsys, 'publish', file, '--owner', 'acme')[0] == 2  # of another user
    status, _, err = command(capsys, 'publish', file, '--owner', 'zoe', '--repo', 'zoe/mine', '--dry-run')
    assert status == 2 and "--repo 'zoe/mine' and --owner 'zoe' both say where; leave one out" in err


def test_a_profile_is_published_by_the_verb_that_makes_it(here, capsys, tmp_path):
    csv = tmp_path / 'rows.csv'
    csv.write_text('row,ms\n' + ''.join(f'{row.key},1\n' for row in dict.fromkeys(SPACE.all_rows(20))))
    words = ('profile', '--import-csv', csv, '--space', 'ofa_mbv3_tiny', '--resolutions', 20, '--device', 'pixel-9',
             '--runtime', 'litert', '--out', tmp_path / 'p.json', '--publish')
    status, _, err = command(capsys, *words, 'acme')
    assert status == 0 and 'with --profile hf-hub:acme/pixel-9-litert' in err
    assert command(capsys, *words, 'zoe')[0] == 2  # before any work
    here.fault, here.fault_at = 'drop', len(here.requests) + 5
    status, _, err = command(capsys, *words, 'acme-lab')
    later = re.search(r'later: timm-ofa (publish .*)', err)
    assert status == 2 and command(capsys, *later[1].split())[0] == 0


def edited(**fields):
    return json.dumps({**made().to_dict(), **fields}).encode()


HOSTILE = {
    'huge': (b' ' * (16 * 2**20 + 1), 'has 16777217 bytes'),
    'text': (b'<html>', 'is not JSON'),
    'deep': (b'[' * 10**5, 'is not JSON'),
    'twins': (edited()[:-1] + b', "space": "other"}', "'space' is given twice"),
    'endless': (edited(overhead_ms=float('inf')), 'overhead_ms: inf'),
    'negative': (edited(table={'20x20x3/conv_k3_s1_c8': [-1, None, 1]}), 'ms: -1'),
    'strange row': (edited(table={'../../row': [1, None, 1]}), 'is no row key'),
    'code': (edited(hook='os.system'), "field 'hook' is unknown"),
    'path': (edited(device='../../etc'), 'is not a slug'),
    'escapes': (edited(device_name='\x1b[2J'), 'characters that cannot be shown'),
    'escapes in its protocol': (edited(protocol={'statistic': '\x1b]0;'}), 'characters that cannot be shown'),
    'no error': (edited(check={**made().check, 'kendall_tau': 7}), 'kendall_tau: 7'),
    'list': (b'[]', 'is not an object'),
}


def test_hostile_profiles_are_refused_in_one_line_each(here, caplog, capsys):
    put_on(here, REPO, {'README.md': b'---\ntags: [timm_ofa-profile]\n---', 'profile.json': edited()})
    for kind, (content, said) in HOSTILE.items():
        repo = f'acme/{re.sub("[^a-z]", "-", kind)}'
        put_on(here, f'datasets/{repo}', {'README.md': b'---\ntags: [timm_ofa-profile]\n---', 'profile.json': content})
        with pytest.raises(InputError) as error:
            load_profile(f'hf-hub:{repo}')
        assert said in str(error.value) and repo in str(error.value), (kind, str(error.value))
        assert '\n' not in str(error.value) and str(error.value).isprintable() and len(str(error.value)) < 400
    assert not [r for r in here.requests if r == 'GET /datasets/acme/huge/resolve/main/profile.json']

    for kind, files in {'foreign-archs': {'profile.json': edited(networks={'random': {'r20:k3': 1.0}})},
                        'empty': {'weights.bin': b'x'}}.items():
        put_on(here, f'datasets/acme/{kind}', {'README.md': b'---\ntags: [timm_ofa-profile]\n---', **files})
    with caplog.at_level(logging.WARNING):
        status, out, _ = command(capsys, 'devices', '--source', 'acme')
    assert status == 0 and re.findall(r'hf-hub:\S+', out) == [NAME]
    assert len(caplog.messages) == len(HOSTILE) + 2 and all('\n' not in line for line in caplog.messages)


def test_a_profile_that_grows_between_question_and_download_is_not_read(here, monkeypatch):
    import huggingface_hub

    put_on(here, REPO, {'profile.json': edited()})
    ask = huggingface_hub.get_hf_file_metadata

    def grow(url):
        found = ask(url)
        put_on(here, REPO, {'profile.json': HOSTILE['huge'][0]})
        return found
    monkeypatch.setattr(huggingface_hub, 'get_hf_file_metadata', grow)
    with pytest.raises(InputError, match='is larger than the 16777216 bytes that are read'):
        load_profile(NAME)


def test_a_profile_that_is_not_the_listed_one_is_refused_and_the_cache_serves_offline(here, monkeypatch):
    put_on(here, REPO, {'profile.json': edited()})
    here.tamper = lambda path, data: data.replace(b'Toy', b'Tox')
    with pytest.raises(InputError, match='does not have the hash that the Hub lists; delete'):
        load_profile(NAME)
    here.tamper = lambda path, data: data
    put_on(here, REPO, {'profile.json': edited(device_name='Pixel')})
    assert load_profile(NAME).device_name == 'Pixel'
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    asked = len(here.requests)
    assert load_profile(NAME).device_name == 'Pixel' and len(here.requests) == asked
    for name, said in {'hf-hub:acme/other': 'is not in the cache', 'hf-hub:acme': 'is not a valid name'}.items():
        with pytest.raises(InputError, match=said):
            load_profile(name)


def test_a_repository_of_somebody_else_is_not_overwritten(here, capsys, tmp_path):
    file = tmp_path / 'phone.json'
    made().save(file)
    put_on(here, REPO, {'README.md': b'---\ntags: [mine]\n---', 'photos.zip': b'x'}).commit({}, 'more')
    status, _, err = command(capsys, 'publish', file, '--owner', 'acme')
    assert status == 2 and 'was not written by timm_ofa' in err
    del here.repos[REPO]
    assert command(capsys, 'publish', file, '--owner', 'acme')[0] == 0
    here.repos[REPO].commit({**here.repos[REPO].files('main'), 'note.txt': b'mine'}, 'A note')
    status, _, err = command(capsys, 'publish', file, '--owner', 'acme')
    assert status == 2 and 'was changed on the Hub since' in err
