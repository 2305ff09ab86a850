"""Files of measured networks, as CSV and as JSON lines: what is read, and which line is named when it is wrong."""
import json

import numpy as np
import pytest

from timm_ofa.devices.netfiles import read_networks
from timm_ofa.errors import InputError
from timm_ofa.spaces.shelf import load_space


@pytest.fixture(scope='module')
def space():
    return load_space('ofa_mbv3_w10')


@pytest.fixture(scope='module')
def archs(space):
    return space.sample(np.random.default_rng(0), 12)


def lines_of(archs, kind):
    if kind == 'csv':
        return ['arch,latency_ms', *(f'"{arch}",{i + 1.5}' for i, arch in enumerate(archs))]
    if kind == 'text':
        return [json.dumps({'arch': str(arch), 'latency_ms': i + 1.5}) for i, arch in enumerate(archs)]
    return [json.dumps({**arch.to_dict(), 'latency_ms': i + 1.5}) for i, arch in enumerate(archs)]


@pytest.mark.parametrize('name', ['ofa_mbv3_w10', 'ofa_resnet_tiny'])
@pytest.mark.parametrize('kind', ['csv', 'text', 'fields'])
def test_measured_networks_are_read_from_csv_and_json_lines(tmp_path, name, kind):
    space = load_space(name)
    archs = space.sample(np.random.default_rng(0), 12)
    path = tmp_path / ('nets.csv' if kind == 'csv' else 'nets.jsonl')
    path.write_text('\n'.join(lines_of(archs, kind)) + '\n\n')
    assert read_networks(path, space) == (archs, [i + 1.5 for i in range(12)])
    assert read_networks(path.rename(tmp_path / path.name.upper()), space)[0] == archs


@pytest.mark.parametrize('line, message', [
    ('"r192:k3/3:e3/3",5', 'line 4: kernel_size has 2 stages'),
    ('"ARCH",-5', "line 4: latency_ms '-5' is not within 1e-06"),
    ('"ARCH",nan', "line 4: latency_ms 'nan' is not within 1e-06"), ('"ARCH",inf', "latency_ms 'inf'"),
    ('"ARCH",fast', "line 4: latency_ms 'fast' is not a number"), ('"ARCH",', "line 4: latency_ms '' is not a number"),
    ('ARCH,5', 'line 4 does not have 2 values; put those with commas in quotes'),
    ('"ARCH"', 'line 4 does not have 2 values'),
    ('"hello",5', "line 4: arch 'hello' cannot be read"), ('"ARCH"x,5', 'line 4 is not CSV')])
def test_a_bad_line_of_csv_is_named(tmp_path, space, archs, line, message):
    lines = lines_of(archs[:12], 'csv')
    lines[3] = line.replace('ARCH', str(archs[0]))
    path = tmp_path / 'nets.csv'
    path.write_text('\n'.join(lines))
    with pytest.raises(InputError, match=message) as error:
        read_networks(path, space)
    assert 'nets.csv' in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('change, message', [
    ({'latency_ms': None}, 'line 2: latency_ms None is not a number'), ({'latency_ms': True}, 'latency_ms True'),
    ({'latency_ms': {'gpu': 1.0}}, 'line 2: latency_ms .* is not a number'), ({'latency_ms': 1e9}, 'is not within'),
    ({'latency_ms': 10**400}, 'latency_ms 1000.* is not a number'),
    ({'resolution': 190}, 'line 2: resolution 190 is not in'), ({'speed': 3}, "line 2: arch: field 'speed' is unknown"),
    ('latency_ms', 'line 2: .* has no latency_ms'), ('resolution', "line 2: arch: field 'resolution' is missing")])
def test_a_bad_line_of_json_is_named(tmp_path, space, archs, change, message):
    lines = lines_of(archs[:12], 'fields')
    entry = json.loads(lines[1])
    entry = {k: v for k, v in entry.items() if k != change} if isinstance(change, str) else entry | change
    lines[1] = json.dumps(entry)
    path = tmp_path / 'nets.jsonl'
    path.write_text('\n'.join(lines))
    with pytest.raises(InputError, match=message):
        read_networks(path, space)


@pytest.mark.parametrize('name, text, message', [
    ('a.csv', 'net,ms\n', 'line 1: .*net, ms.* are not the columns; write arch,latency_ms'), ('a.csv', '', 'line 1'),
    ('a.jsonl', '{', 'line 1 is not JSON'), ('a.jsonl', '[' * 10**5, 'line 1 is not JSON'),
    ('a.jsonl', '[1]', 'line 1: .* has no latency_ms')])
def test_a_file_of_something_else_is_refused(tmp_path, space, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_networks(tmp_path / name, space)
    with pytest.raises(InputError, match=r'cannot be read; give a \.csv'):
        read_networks(tmp_path / 'none.csv', space)
    (tmp_path / name).write_bytes(b'\xff\xfe\x00')
    with pytest.raises(InputError, match='cannot be read'):
        read_networks(tmp_path / name, space)
