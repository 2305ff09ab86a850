"""Many networks at once: fifty that are found exactly, and families whose cards link each other."""
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hub_makers import SPACE, complete, items_of, like, measured, toy_profile

from timm_ofa.errors import InputError
from timm_ofa.hub.folder import CARD
from timm_ofa.hub.fronts import save_front
from timm_ofa.hub.listing import find
from timm_ofa.hub.metadata import RUNGS_MS
from timm_ofa.hub.publishing import publish_family
from timm_ofa.hub.saving import update_folder
from timm_ofa.networks import new_supernet
from timm_ofa.searching import Candidate, SearchResult
from timm_ofa.training import save_supernet

DEVICES = ('google-pixel-1', 'samsung-note10', 'amd-epyc')


def test_many_networks_are_found_exactly_and_publishing_again_changes_nothing(server, client, template, tmp_path):
    rng = np.random.default_rng(0)
    known = {}
    for i in range(24):
        devices = rng.choice(DEVICES, size=rng.integers(1, 4), replace=False)
        known[f'net{i}'] = {str(d): measured(d, rng.uniform(1, 60)) for d in devices}
        like(template, tmp_path / f'net{i}', f'net{i}', tuple(known[f'net{i}'].values()))
    publish = f'''
print(sum(hub.publish(f'{tmp_path}/net{{i}}', f'acme/net{{i}}', collection=True)['changed'] for i in range(24)))'''
    assert client(publish) == '24'
    commits = {name: len(repo.commits) for name, repo in server.repos.items()}
    notes = items_of(server)
    writes = len(server.requests)
    assert client(publish) == '0'
    assert {name: len(repo.commits) for name, repo in server.repos.items()} == commits and items_of(server) == notes
    written = ('PUT', 'PATCH')
    assert not [r for r in server.requests[writes:] if r.startswith(written) or '/commit/' in r or '/tag/' in r]

    asked = [(device, rung) for device in DEVICES for rung in (5, 10, 20, 50)]
    found = json.loads(client(f'''
from huggingface_hub import list_models
print(json.dumps([[m.id for m in list_models(filter=['timm_ofa', f'device:{{d}}', f'latency:{{d}}:le-{{n}}ms'])]
                  for d, n in {asked!r}]))'''))
    for (device, rung), ids in zip(asked, found):
        least = (0, 0, 0, *RUNGS_MS)[RUNGS_MS.index(rung)]  # faster networks have three lower rungs
        assert set(ids) == {
            f'acme/{n}' for n, m in known.items() if device in m and least < m[device].typical_ms <= rung}
        assert len(ids) == len(set(ids)) > 0
    exact = json.loads(client("print(json.dumps([f.id for f in find('acme', 'amd-epyc', 12.3)]))"))
    assert exact == sorted(f'acme/{n}' for n, m in known.items()
                           if 'amd-epyc' in m and m['amd-epyc'].typical_ms <= 12.3)

    name = next(n for n, m in known.items() if 'amd-epyc' in m and m['amd-epyc'].typical_ms > 20)
    before = server.repos[f'acme/{name}'].files('main')
    changed = tuple(measured('amd-epyc', 0.9) if m.device == 'amd-epyc' else m for m in known[name].values())
    update_folder(tmp_path / name, lambda record: replace(record, measurements=changed))
    assert client(f'print(hub.publish("{tmp_path}/{name}", "acme/{name}", collection=True)["changed"])') == 'True'
    after = server.repos[f'acme/{name}'].files('main')
    assert {path for path in {**before, **after} if before.get(path) != after.get(path)} == {'README.md', 'perf.json'}
    assert 'latency:amd-epyc:le-1ms' in server.info(f'acme/{name}')['tags']
    assert server.repos[f'acme/{name}'].tags['v2'] == server.repos[f'acme/{name}'].commits[-1][0]
    assert {n: len(r.commits) for n, r in server.repos.items()} == {**commits, f'acme/{name}': 3}
    differ = {(title, i) for title, items in items_of(server).items() for i in items if notes[title][i] != items[i]}
    assert differ == {('timm_ofa: networks for amd-epyc', f'acme/{name}')}


def test_a_family_is_published_at_once_and_its_cards_link_each_other(server, client, family):
    code = f'''
from timm_ofa.__main__ import main
print(main(['publish', '--format', 'json', '--owner', 'acme-lab', '--collection', {str(family[0].parent)!r}]))'''
    out = client(code)
    assert out.endswith('\n0') and sorted(server.repos) == [f'acme-lab/{f.name}' for f in family]
    for folder in family:
        card = server.repos[f'acme-lab/{folder.name}'].files('main')[CARD].decode()
        links = {f'](https://huggingface.co/acme-lab/{other.name})' for other in family if other != folder}
        assert all(link in card for link in links) and f'acme-lab/{folder.name})' not in card
        assert card.index('**this one**') > card.index('| on the front |')
    assert client(code).count('"changed": false') == 3
    assert client(f'print(hub.publish({str(family[0])!r}, "acme-lab/{family[0].name}")["changed"])') == 'False'
    assert [f.id for f in find(str(family[0].parent))] == [str(f) for f in family]


@pytest.mark.parametrize(('token', 'owner', 'message'), [
    ('hf_read', None, 'may only read'), ('hf_write', 'google', "namespace 'google' is not open"),
    ('', 'acme', 'no Hub token'), ('hf_write', '../x y', "namespace '..' is not open")])
def test_a_token_that_cannot_publish_a_family_changes_nothing(server, client, family, token, owner, message):
    before = {path: path.read_bytes() for folder in family for path in folder.iterdir()}
    line = client(f'hub.publish_family({[str(f) for f in family]!r}, {owner!r})', token)
    assert line.startswith('InputError: ') and message in line and '\n' not in line and not server.repos
    assert {path: path.read_bytes() for folder in family for path in folder.iterdir()} == before


def test_one_command_takes_five_networks_of_a_front_to_the_hub(server, client, tmp_path):
    space, profile = SPACE.restrict(resolutions=[20]), toy_profile(SPACE, 'toy-phone')
    save_supernet(new_supernet(space, num_classes=10), tmp_path / 'supernet', {})
    profile.save(tmp_path / 'toy.json')
    by_ms = {profile.latency_ms(space, [arch])[0]: arch for arch in space.sample(np.random.default_rng(0), 60)}
    front = [Candidate(by_ms[ms], 70 + i, float(ms)) for i, ms in enumerate(sorted(by_ms))][-5:]
    result = SearchResult(best=front[-1], front=tuple(front), history=(), evaluated=5)
    limits = [c.latency_ms for c in front]
    save_front(tmp_path / 'front.jsonl', result, space, SimpleNamespace(check={}), profile, str(tmp_path / 'toy.json'),
               limits[-1], 0)
    out = client(f'''
from timm_ofa.__main__ import main
print(main(['specialize', '--supernet', {str(tmp_path / 'supernet')!r}, '--front', {str(tmp_path / 'front.jsonl')!r},
            '--data', 'digits', '--num-calibration', '64', '--no-measure', '--out', {str(tmp_path / 'family')!r},
            '--publish', 'acme', '--limits-ms', *map(str, {limits!r})]))''')
    assert out.endswith('\n0'), out
    names = [f'acme/ofa_mbv3_toy_phone_pytorch_lat{ms:g}ms' for ms in limits]  # of its runtime, too
    assert sorted(server.repos) == sorted(names) and all(complete(server, name) for name in names)
    for name in names:
        card = server.repos[name].files('main')[CARD].decode()
        assert card.count('](https://huggingface.co/acme/') == 4 and 'latency is predicted' in card
    assert client(f'print(*[f.id for f in find("acme", "toy-phone", {limits[1]})])').split() == sorted(names[:2])


def test_what_is_of_another_search_is_no_family(family, template, tmp_path):
    for folders, message in (
            ([*family, template], 'is not of the search'), ([family[0]] * 2, 'two of the folders hold')):
        with pytest.raises(InputError, match=message) as error:
            publish_family(folders, 'acme', dry_run=True)
        assert '\n' not in str(error.value)
