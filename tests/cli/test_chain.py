"""All verbs, one after the other: from a configuration to a published folder."""
import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import timm
import torch
import yaml
from command_line import CONFIG, remarks, run

from timm_ofa import Arch, load_profile, load_space
from timm_ofa.cli import main
from timm_ofa.devices import measuring
from timm_ofa.networks.stock import model_args


def rows_of(*args):
    """What a verb tells programs."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main([*map(str, args), '--format', 'json'])
    assert status == 0, err.getvalue()
    return json.loads(out.getvalue())


@pytest.fixture(scope='module')
def chain(tmp_path_factory):
    """A folder with what each verb wrote, from a configuration to the folder of a network."""
    folder = tmp_path_factory.mktemp('chain')
    (folder / 'digits_supernet.yaml').write_text(yaml.safe_dump(CONFIG))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(measuring, 'MIN_SWEEPS', 5)  # of a profile that need not be exact
        table = rows_of('train', '--config', 'digits_supernet.yaml', '--output', 'supernet')
        assert table[0]['subnet'] == 'largest' and len(table) == 11
        records, = rows_of('collect', '--supernet', 'supernet', '--data', 'digits', '--num', 14, '--out',
                           'records.jsonl')
        assert records['subnets'] == 14 and records['worst_pct'] <= records['median_pct'] <= records['best_pct']
        rise_with_size(folder / 'records.jsonl')

        # the supernet was trained at one resolution of its space
        space = load_space('ofa_mbv3_tiny').restrict(resolutions=[20])
        (folder / 'space.json').write_text(json.dumps(space.to_dict()))
        fitted, = rows_of('fit', '--space', 'space.json', '--records', 'records.jsonl', '--out',
                          'predictor.safetensors', '--plot', 'fit.png')
        assert -1 <= fitted['kendall_tau'] <= 1 and fitted['rmse_pct'] >= 0
        measured, = rows_of('profile', '--space', 'space.json', '--num-classes', 10, '--seconds', 1, '--out',
                            'profile.json')
        profile = load_profile(folder / 'profile.json')
        assert measured['rows'] == len(profile.table) and measured['profile'] == 'profile.json'

        limit = largest_ms(folder)
        found = rows_of(
            'search', '--space', 'space.json', '--predictor', 'predictor.safetensors', '--profile', 'profile.json',
            '--max-latency-ms', 1.01 * limit, '--also', f'profile.json={2 * limit}', '--max-memory-mb', 50,
            '--max-params-m', 5, '--max-macs-m', 99, '--resolutions', 20, '--plot', 'front.svg', '--out',
            'front.jsonl')
        assert (folder / 'fit.png').stat().st_size > 5000 and '<svg' in (folder / 'front.svg').read_text()
        assert Arch.from_dict({k: found['best'][k] for k in ('resolution', 'kernel_size', 'expand_ratio')})
        assert len((folder / 'front.jsonl').read_text().splitlines()) == len(found['front'])
        done, = rows_of('specialize', '--supernet', 'supernet', '--data', 'digits', '--front', 'front.jsonl',
                        '--no-measure', '--out', 'net')
        assert done['folder'] == 'net' and done['predicted_ms'] <= limit * 1.0001 and 0 <= done['top1_pct'] <= 100
    return folder


def rise_with_size(records):
    """Let the accuracies of a hardly trained supernet rise with the MACs: then each limit has a best network."""
    space, rows = load_space('ofa_mbv3_tiny'), [json.loads(line) for line in records.read_text().splitlines()]
    for row in rows:
        arch = Arch.from_dict({key: value for key, value in row.items() if key != 'top1_pct'})
        row['top1_pct'] = round(20 + 60 * space.macs(arch) / space.macs(space.max_arch()), 2)
    records.write_text(''.join(json.dumps(row) + '\n' for row in rows))


def largest_ms(folder):
    """The latency of the largest network of the chain's space."""
    space = load_space(str(folder / 'space.json'))
    return float(load_profile(folder / 'profile.json').latency_ms(space, [space.max_arch()])[0])


def test_the_network_of_the_chain_is_measured_here_and_elsewhere(capsys, chain, monkeypatch):
    monkeypatch.chdir(chain)
    predicted, = json.loads((chain / 'net/perf.json').read_text())['measurements']
    assert predicted['source'] == 'predicted'
    for _ in range(2):
        timed, = rows_of('measure', 'net', '--seconds', 0.2, '--save')
    status, _, err = run(capsys, 'measure', 'net', '--seconds', 0.2, '--batch-size', 64)
    assert status == 0 and 'not compared with the limit of ' in err and 'batch_size 64, not 1' in err
    assert timed['latency_ms'] > 0 and predicted['latency_ms'] == round(timed['predicted_ms'], 6)
    told = json.loads((chain / 'net/perf.json').read_text())['measurements']
    assert [m['source'] for m in told] == ['predicted', 'measured'] and told[1]['latency_ms'] == timed['latency_ms']
    rows_of('measure', 'net', '--export-kit', 'kit')
    subprocess.run([sys.executable, 'kit/run_kit.py', '--seconds', '0.2'], check=True, capture_output=True)
    phone, = rows_of('measure', 'net', '--import-kit', 'kit/results.json', '--device', 'my-phone', '--save')
    told = json.loads((chain / 'net/perf.json').read_text())['measurements']
    assert (told[2]['device'], told[2]['latency_ms']) == ('my-phone', phone['latency_ms'])


def test_networks_of_the_chain_are_made_for_several_limits_and_published(capsys, chain, monkeypatch):
    monkeypatch.chdir(chain)
    limit = largest_ms(chain)
    family = rows_of(
        'specialize', '--supernet', 'supernet', '--data', 'digits', '--front', 'front.jsonl', '--no-measure',
        '--limits-ms', limit, limit * 1.01, limit * 0.6, '--out', 'family')
    assert len(family) == 2 and all(row['predicted_ms'] <= row['limit_ms'] * 1.0001 for row in family)
    status, out, err = run(capsys, 'specialize', '--supernet', 'supernet', '--data', 'digits', '--front', 'front.jsonl',
                           '--no-measure', '--limits-ms', 3 * limit, '--out', 'wide')
    assert (status, out) == (2, '') and 'search again with --max-latency-ms' in err and not Path('wide').exists()
    told = rows_of('publish', 'family', '--owner', 'acme', '--dry-run')
    assert [t['repo_id'] for t in told] == sorted(f'acme/{Path(row["folder"]).name}' for row in family)
    told = rows_of('publish', 'supernet', '--dry-run')
    assert told['repo_id'] == 'OWNER/digits_supernet' and 'log.jsonl' in told['files']
    told = rows_of('publish', 'net', '--repo', 'acme/net', '--dry-run')
    assert told and 'acme/net' in json.dumps(told)
    model = timm.create_model('local-dir:net', pretrained=True).eval()
    assert model(torch.zeros(1, 3, 20, 20)).shape == (1, 10)


def test_the_verbs_of_the_chain_show_tables_to_people(capsys, chain, monkeypatch):
    monkeypatch.chdir(chain)
    for args in (
            ['search', '--space', 'space.json', '--predictor', 'predictor.safetensors', '--profile', 'profile.json',
             '--max-latency-ms', largest_ms(chain)],
            ['measure', 'net', '--seconds', 0.2], ['publish', 'net', '--dry-run', '--repo', 'acme/net']):
        status, out, err = run(capsys, *args)
        assert status == 0 and '---' in out, err


def test_going_on_with_records_and_runs_that_are_there(capsys, chain, monkeypatch):
    """A second collect adds, a second train is refused, a limit in seconds is infeasible."""
    monkeypatch.chdir(chain)
    status, _, err = run(
        capsys, 'collect', '--supernet', 'supernet', '--data', 'digits', '--num', 15, '--out', 'records.jsonl')
    assert status == 0 and len((chain / 'records.jsonl').read_text().splitlines()) == 15
    status, _, err = run(
        capsys, 'collect', '--supernet', 'supernet', '--data', 'digits', '--num', 16, '--num-images', 9, '--out',
        'records.jsonl')
    assert status == 2 and "not 9; use another --out" in err  # percentages of other images
    status, out, err = run(capsys, 'train', '--config', 'digits_supernet.yaml', '--output', 'supernet')
    assert (status, out) == (2, '') and 'add --resume' in err
    status, out, err = run(
        capsys, 'search', '--space', 'space.json', '--predictor', 'predictor.safetensors', '--profile', 'profile.json',
        '--max-latency-ms', 0.000025)
    assert (status, out) == (2, '') and len(remarks(err)) == 1 and 'ms' in err


def test_a_front_of_another_device_needs_no_measure(capsys, chain, monkeypatch, tmp_path):
    monkeypatch.chdir(chain)
    text = (chain / 'profile.json').read_text()
    device = json.loads(text)['device']
    (chain / 'other.json').write_text(text.replace(f'"{device}"', '"my-phone"'))
    (chain / 'other.jsonl').write_text((chain / 'front.jsonl').read_text())
    meta = (chain / 'front.jsonl.meta.json').read_text().replace('"profile.json"', '"other.json"')
    (chain / 'other.jsonl.meta.json').write_text(meta.replace(f'"{device}"', '"my-phone"'))
    words = 'specialize', '--supernet', 'supernet', '--data', 'digits', '--out', tmp_path / 'net', '--front'
    status, out, err = run(capsys, *words, 'other.jsonl')
    assert (status, out) == (2, '') and 'my-phone' in err and '--no-measure' in err
    for front, profile, why in (('front', 'other', f'device my-phone, not {device}'),
                                ('other', 'profile', f'device {device}, not my-phone')):
        status, out, err = run(capsys, *words, f'{front}.jsonl', '--profile', f'{profile}.json', '--no-measure')
        assert (status, out) == (2, '') and f'is not that of the front: {why}' in err
    assert not (tmp_path / 'net').exists()


def test_model_args_of_a_specialized_folder_name_its_arch(chain):
    config = json.loads((chain / 'net' / 'config.json').read_text())
    space = load_space('ofa_mbv3_tiny')
    fields = config['timm_ofa']['arch']
    arch = space.parse(fields) if isinstance(fields, str) else Arch.from_dict(fields)
    expected = model_args(space, arch)
    assert {k: v for k, v in config['model_args'].items() if k in expected} == expected
