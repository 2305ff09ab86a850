"""The files of `hub_configs/`: what a wrong one says, and where one is found."""
import logging

import pytest
from named_models import NAME, SECOND, SUBNETS, SUPERNETS

from timm_ofa import InputError
from timm_ofa.hub import find_config, hub_configs, hub_configs_dir
from timm_ofa.hub.configs import read_folder, read_hub_config


def text_of(name):
    return (hub_configs_dir() / f'{name}.yaml').read_text()


def refused(folder, name, line, wrong, said):
    """The file of that name with one line written wrong is refused in one line that names file and field."""
    text = text_of(name)
    assert line in text
    path = folder / f'{name}.yaml'
    path.write_text(text.replace(line, wrong))
    with pytest.raises(InputError) as error:
        read_hub_config(path)
    assert path.name in str(error.value) and said in str(error.value) and '\n' not in str(error.value)


def test_a_file_that_cannot_be_read_is_not_called_wrong_yaml(tmp_path):
    with pytest.raises(InputError, match=r'hub config absent\.yaml cannot be read \(No such file or directory\)'):
        read_hub_config(tmp_path / 'absent.yaml')


@pytest.mark.parametrize('line, wrong, said', [
    ('family: mbv3', 'family: vit', 'family'),
    ('space: ofa_mbv3_w10', 'space: ofa_mbv3_w99', 'space'),
    ('space: ofa_mbv3_w10', 'space: ../ofa_mbv3_w10', 'space'),
    ('arch: r220', 'arch: r221', 'arch: resolution 221'),
    ('arch: r220:k3,3', 'arch: r220:k9,3', 'arch: kernel_size 9'),
    ('device: lg-g8\n', '', 'device and latency_ms'),
    ('device: lg-g8', 'device: LG G8', 'device'),
    ('latency_ms: 24', 'latency_ms: true', 'latency_ms'),
    ('top1_pct: 76.4', 'top1_pct: 764', 'top1_pct'),
    ('top1_pct: 76.4\n', '', "'top1_pct' is missing"),
    ('top1_pct: 76.4', 'top1_pct: null', 'needed where top1_pct is null'),
    ('top5_pct: 93.0', 'top5_pct: null', 'top1_pct and top5_pct belong together'),
    ('top5_pct: 93.0', 'top5_pct: 93.0\npredicted_top1_pct: 80', 'belong together'),
    ('latency_ms: 24', 'latency_ms: 24\nlatency_batch_size: 0', 'latency_batch_size'),
    ('drop_rate: 0.1', 'drop_rate: .nan', 'drop_rate'),
    ('tag: mit', 'tag: m.it', 'tag'),
    ('hub_id: timm-ofa/', 'hub_id: ', 'hub_id'),
    ('url: https:', 'url: file:', 'url'),
    ('url: https:', 'file: weights/x.safetensors\nurl: https:', 'file and sha256 belong together'),
    ('url: https:', 'file: ../x.safetensors\nurl: https:', 'file'),
    ('url: https:', 'file: /x.safetensors\nurl: https:', 'file'),
    ('url: https:', 'file: x.pth\nurl: https:', 'file'),
    ('url: https:', 'sha256: beef\nurl: https:', 'sha256'),
    ('source: https:', '# source: https:', "'source' is missing"),
    ('license: mit', 'license: mit\nextra: 1', "'extra' is unknown"),
    ('kind: subnet', 'kind: subnets', 'kind'),
    ('name: ofa', 'name: ofb', 'name'),
    (f'name: {NAME}\n', '', "'name' is missing"),
    ('name: ofa', 'name: [', 'YAML'),
])
def test_a_wrong_file_is_one_line_with_file_and_field(tmp_path, line, wrong, said):
    refused(tmp_path, NAME, line, wrong, said)


@pytest.mark.parametrize('line, wrong, said', [
    ('tag: search', 'tag: other', 'make it ofa_mbv3_note10_lat30ms.search_in1k'),
    ('name: ofa_mbv3_note10_lat30ms', 'name: ofa_mbv3_note10_lat31ms', 'name'),
    ('supernet: ofa_mbv3_w12', 'supernet: ofa_mbv3_w10', 'write ofa_mbv3_w12_supernet'),
    ('supernet: ofa_mbv3_w12', 'supernet: ../w12', 'supernet'),
    ('  limit: latency <= 30 ms on samsung-note10\n', '', "search: field 'limit' is missing"),
    ('  limit: latency', '  limits: latency', "search: field 'limits' is unknown"),
    ('  top1_pct: 78.4', '  top1_pct: high', 'published: top1_pct'),
    ('predicted_top1_pct: ', 'predicted_top1_pct: 1', 'predicted_top1_pct'),
    ('latency_ms: 30', 'latency_ms: 1e400', 'latency_ms'),
])
def test_a_wrong_file_of_a_search_is_one_line_too(tmp_path, line, wrong, said):
    refused(tmp_path, SECOND, line, wrong, said)


@pytest.mark.parametrize('line, wrong', [
    ('tag: mit', 'tag: m.it'), ('license: mit\n  ', ''), ('url: https:', 'url: file:'), ('source:', 'sources:')])
def test_wrong_weights_of_a_supernet_are_one_line(tmp_path, line, wrong):
    path = tmp_path / f'{SUPERNETS[0]}.yaml'
    path.write_text(text_of(SUPERNETS[0]).replace(f'  {line}', f'  {wrong}'))
    with pytest.raises(InputError, match=f'{path.name}: weights'):
        read_hub_config(path)


def test_weights_of_our_own_need_no_source_wherever_they_are(tmp_path):
    name = 'ofa_mbv3_cifar10_epyc_lat0p6ms'
    path = tmp_path / f'{name}.yaml'
    path.write_text(''.join(line for line in text_of(name).splitlines(True) if line[:5] not in ('file:', 'sha25')))
    subnet = read_hub_config(path).subnet
    assert (subnet.file, subnet.url, subnet.source) == (None, None, None)


def test_a_file_is_found_by_path_by_name_and_as_it_lies_in_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in (SECOND, f'hub_configs/{SECOND}.yaml', hub_configs_dir() / f'{SECOND}.yaml'):
        assert find_config(text).subnet == SUBNETS[SECOND]
    for text in ('ofa_mbv3_note10_lat29ms', 'elsewhere/' + SECOND, '', 'x' * 5000, '\0'):
        with pytest.raises(InputError, match=r'is neither a file nor a name; give a file, or a name like \w+') as error:
            find_config(text)
        assert '\n' not in str(error.value)


def test_a_wrong_file_is_left_out_with_a_warning(tmp_path, caplog):
    (tmp_path / f'{NAME}.yaml').write_text(text_of(NAME))
    (tmp_path / 'ofa_mbv3_broken_lat1ms.yaml').write_text('kind: subnet\n')
    (tmp_path / 'binary.yaml').write_bytes(b'\xff\x00')
    with caplog.at_level(logging.WARNING):
        assert list(read_folder(tmp_path)) == [NAME]
    assert len(caplog.records) == 2
    assert 'binary.yaml' in caplog.text and 'ofa_mbv3_broken_lat1ms.yaml' in caplog.text


def test_files_of_supernets_are_kept_as_written(tmp_path):
    path = tmp_path / 'my_supernet.yaml'
    path.write_text('kind: supernet\nspace: anything\nphases: [1, 2]\n')
    config = read_hub_config(path)
    assert (config.name, config.kind, config.subnet) == ('my_supernet', 'supernet', None)
    assert config.data['phases'] == [1, 2]


def test_every_file_opens_with_what_it_is_and_is_on_the_shelf():
    folder = hub_configs_dir()
    assert sorted(hub_configs()) == sorted(p.stem for p in folder.glob('*.yaml'))
    assert all(path.read_text().startswith('# ') for path in folder.glob('ofa_*.yaml'))
