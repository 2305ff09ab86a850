"""The command line: data on stdout, remarks on stderr, a wrong input in one line, and the chain of all verbs."""
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image

from timm_ofa import Arch, DeviceProfile, load_space
from timm_ofa.cli.command import VERBS, main
from timm_ofa.files import save_tensors
from timm_ofa.hub.folder import check_folder
from timm_ofa.networks.stock import model_args
from timm_ofa.networks.supernet import new_supernet
from timm_ofa.training.runs import save_supernet

ROOT = Path(__file__).resolve().parents[2]
CONFIG = {
    'kind': 'supernet', 'name': 'digits_supernet', 'space': 'ofa_mbv3_tiny', 'data': 'digits', 'resolutions': [20],
    'limit': 200, 'batch_size': 32, 'augment': {'flip': False},
    'phases': [
        {'name': 'largest', 'epochs': 1, 'lr': 0.05, 'kd_weight': 0, 'depths': [3], 'kernel_sizes': [5],
         'expand_ratios': [4]},
        {'name': 'all', 'epochs': 1, 'lr': 0.03}]}
ARCH = 'r20:k3/3/3:e2/2/2'
NAMED = {
    'kind': 'subnet', 'name': 'ofa_mbv3_tiny', 'family': 'mbv3', 'space': 'ofa_mbv3_tiny', 'arch': ARCH,
    'device': 'my-phone', 'latency_ms': 2, 'top1_pct': None, 'top5_pct': None, 'predicted_top1_pct': 91.5,
    'predicted_ms': 1.9, 'macs_m': 1, 'params_m': 0.1, 'drop_rate': 0, 'tag': 'search', 'hub_id': 'acme/tiny',
    'license': 'mit',
    'search': {'limit': 'latency <= 2 ms', 'seed': 3, 'predictor': 'that of a test', 'profile': 'my-phone'},
    'supernet': 'ofa_mbv3_tiny_supernet', 'source': 'https://example.com'}


def run(capsys, *args):
    """(exit status, stdout, stderr) of a verb."""
    try:
        status = main([str(a) for a in args])
    except SystemExit as stop:  # argparse after -h
        status = stop.code
    return status, *capsys.readouterr()


def remarks(err):
    """stderr without progress bars, which rewrite their line."""
    return [line for line in err.splitlines() if line and '\r' not in line and '%|' not in line and 'it/s' not in line]


# ---- help and shelves ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('verb', VERBS)
def test_every_verb_has_help_with_an_example(capsys, verb):
    status, out, err = run(capsys, verb, '-h')
    assert status == 0 and err == ''
    assert f'example: timm-ofa {verb}' in out and '--format {table,json}' in out


def test_the_command_itself_lists_its_verbs(capsys):
    assert {'quickstart', 'train', 'collect', 'fit', 'search', 'specialize', 'measure', 'publish'} <= set(VERBS)
    status, out, err = run(capsys, '-h')
    assert status == 0 and err == '' and all(f'\n    {verb}' in out for verb in VERBS)


@pytest.mark.parametrize('verb, field', [('spaces', 'space'), ('devices', 'profile'), ('models', 'name')])
def test_shelves_are_shown_as_tables_and_as_json(capsys, verb, field):
    status, text, err = run(capsys, verb)
    assert status == 0 and err == '' and text.splitlines()[1].startswith('---')
    status, out, err = run(capsys, verb, '--format', 'json')
    rows = json.loads(out)
    assert status == 0 and err == '' and rows and len(text.splitlines()) == len(rows) + 2
    assert all(row[field] in text for row in rows)


def test_this_machine_is_measured_by_few_whole_networks(capsys, tmp_path):
    status, out, _ = run(capsys, 'profile', '--space', 'ofa_mbv3_tiny', '--few-shot', 12, '--resolutions', 20,
                         '--seconds', 0.1, '--out', tmp_path / 'p.json', '--format', 'json')
    told, profile = json.loads(out)[0], json.loads((tmp_path / 'p.json').read_text())
    assert status == 0 and told['n'] == sum(map(len, profile['networks'].values())) - 12 > 20
    assert profile['protocol']['method'] == 'prices of units of work, fitted on whole networks'


def test_models_are_chosen_by_device_and_latency(capsys):
    rows = json.loads(run(capsys, 'models', '--format', 'json')[1])
    device = 'samsung-note10'
    chosen = json.loads(run(capsys, 'models', '--device', device, '--max-latency-ms', 25, '--format', 'json')[1])
    assert chosen and chosen == [r for r in rows if r['device'] == device and r['latency_ms'] <= 25]
    assert [r['latency_ms'] for r in chosen] == sorted(r['latency_ms'] for r in chosen)


def test_models_show_what_we_compute_beside_what_was_published(capsys):
    rows = json.loads(run(capsys, 'models', '--format', 'json')[1])
    subnets = [r for r in rows if r['kind'] == 'subnet' and r['published']]
    same = [r for r in subnets if r['published']['same_network']]
    others = [r for r in subnets if not r['published']['same_network'] and not r['device']]
    assert (len(same), len(others)) == (50, 8) and len([r for r in rows if r['kind'] == 'supernet']) == 5
    for row in same:
        assert row['macs_m'] == pytest.approx(row['published']['macs_m'], abs=0.6)
        assert row['params_m'] == pytest.approx(row['published']['params_m'], abs=0.056)
        assert row['top1_pct'] == row['published']['top1_pct'] and row['predicted_top1_pct'] is None
    assert all(r['macs_m'] <= r['published']['macs_m'] and r['top1_pct'] is None for r in others)
    text = run(capsys, 'models')[1]
    found = [line for line in text.splitlines() if 'predicted' in line]
    assert len(found) == 16 and all(re.search(r'\d\d\.\d predicted', line) for line in found)
    assert re.search(r'ofa_proxyless_v100_lat5ms .* 5 ms for 64 images on nvidia-v100 +71\.6 ', text)


def test_stdout_and_exit_status_of_the_installed_module():
    """Once as a program: what `python -m timm_ofa` and `train.py` do with a wrong verb and a wrong file."""
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    commands = [['-m', 'timm_ofa', 'serach'], [str(ROOT / 'train.py'), '--config', 'none.yaml']]
    started = [
        subprocess.Popen([sys.executable, *c], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for c in commands]
    for command, process in zip(commands, started):
        out, err = process.communicate()
        assert (process.returncode, out) == (2, '')
        assert len(err.splitlines()) == 1 and command[-1] in err


# ---- wrong inputs ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Good and bad files that wrong inputs are made of."""
    folder = tmp_path_factory.mktemp('files')
    (folder / 'config.yaml').write_text(yaml.safe_dump(CONFIG))
    (folder / 'bad.yaml').write_text(yaml.safe_dump({**CONFIG, 'batch_size': 'many'}))
    (folder / 'ofa_mbv3_tiny.yaml').write_text(yaml.safe_dump(NAMED))
    (folder / 'bad.json').write_text('{"name": "x"}')
    (folder / 'torn.json').write_text('{"name": ')
    (folder / 'bad.jsonl').write_text('{"ks": 3}\n')
    (folder / 'empty').mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, classes in (('supernet', 10), ('three', 3)):
            (folder / name).mkdir()
            save_supernet(new_supernet(load_space('ofa_mbv3_tiny'), num_classes=classes), folder / name, {})
    return folder


WRONG = [
    ('', 'VERB'), ('serach', 'serach'), ('search', '--space'), ('spaces --format xml', 'xml'),
    ('spaces --colour red', '--colour'),
    ('models --device my-phone', 'my-phone'), ('models --max-latency-ms 25ms', '25ms'),
    ('models --max-latency-ms -3', '-3'),
    ('models --max-latency-ms nan', 'nan'), ('train --config none.yaml', 'none.yaml'),
    ('train --config bad.yaml', 'batch_size.*many'),
    ('train --config bad.json', 'bad.json'), ('train --config config.yaml --set batch=3 --output OUT', "'batch'"),
    ('train --config config.yaml --set phases.9.lr=3 --output OUT', 'phases.9.lr'),
    ('train --config config.yaml --data no/such/folder/here --output OUT', 'no/such/folder/here'),
    ('train --config config.yaml --resume --output OUT', '--resume'),
    ('profile --space ofa_mbv3_none --out OUT.json', 'ofa_mbv3_none'),
    ('profile --space bad.json --out OUT.json', 'bad.json.*missing'),
    ('profile --space torn.json --out OUT.json', 'torn.json.*JSON'),
    ('profile --space ofa_mbv3_tiny --runtime tflight --out OUT.json', 'tflight'),
    ('profile --space ofa_mbv3_tiny --out nowhere/p.json', 'nowhere'),
    ('profile --space ofa_mbv3_tiny --resolutions 21 --out OUT.json', '21'),
    ('profile --space ofa_mbv3_tiny --threads 0 --out OUT.json', 'threads'),
    ('profile --space ofa_mbv3_tiny --device My_Phone --out OUT.json', 'My_Phone'),
    ('collect --supernet none --data digits --num 3 --out OUT', 'none'),
    ('collect --supernet empty --data digits --num 3 --out OUT', 'empty'),
    ('collect --supernet supernet --data no/such/folder/here --num 3 --out OUT', 'no/such/folder/here'),
    ('collect --supernet supernet --data empty --num 3 --out OUT', 'empty'),
    ('collect --supernet three --data digits --num 3 --out OUT', '3 classes.*10'),
    ('collect --supernet supernet --data digits --num 1 --out OUT', '--num 1'),
    ('collect --supernet supernet --data digits --num many --out OUT', 'many'),
    ('collect --supernet supernet --data digits --num 3 --out nowhere/r.jsonl', 'nowhere'),
    ('fit --space ofa_mbv3_tiny --records none.jsonl --out OUT', 'none.jsonl'),
    ('fit --space ofa_mbv3_tiny --records bad.jsonl --out OUT', 'bad.jsonl line 1'),
    ('fit --space ofa_mbv3_tiny --records bad.jsonl --out nowhere/p', 'nowhere'),
    ('search --space ofa_mbv3_tiny --predictor none --profile note10 --max-latency-ms 1', 'none'),
    ('search --space ofa_mbv3_tiny --predictor bad.json --profile none.json --max-latency-ms 1', 'none.json'),
    ('search --space ofa_mbv3_tiny --predictor bad.json --profile bad.json --max-latency-ms 1', 'bad.json'),
    ('search --space ofa_mbv3_w12 --predictor p --profile note10 --max-latency-ms 25ms', '25ms'),
    ('search --space ofa_mbv3_w12 --predictor p', '--max-macs-m'),
    ('search --space ofa_mbv3_w12 --predictor p --max-latency-ms 25', '--profile'),
    ('search --space ofa_mbv3_w12 --predictor p --max-macs-m 300 --out OUT', '--profile'),
    ('search --space ofa_mbv3_w12 --predictor p --max-macs-m 300M', '300M'),
    ('search --space ofa_mbv3_w12 --predictor . --max-macs-m 300', "predictor '.'"),
    ('search --space ofa_mbv3_w12 --predictor p --max-macs-m 300 --seed -1', "--seed: '-1'"),
    ('models --max-latency-ms 0.1', 'at most 0.1 ms'), ('models --device nokia', "'nokia'.*samsung-note10"),
    ('search --space ofa_mbv3_w10 --predictor released --max-macs-m 300', 'ofa_mbv3_w10'),
    ('specialize --supernet supernet --data digits --out OUT', '--arch'),
    ('specialize --arch r20:k3/3/3:e2/2/2 --data digits --out OUT', '--supernet'),
    ('specialize --supernet supernet --arch r20:k3/3/3:e2/2/2 --data digits', '--out'),
    ('specialize --config ofa_mbv3_note10_lat26ms --data digits --out OUT', 'ofa_mbv3_note10_lat26ms.*lat'),
    ('specialize --config bad.yaml --data digits --out OUT', 'bad.yaml'),
    ('specialize --config config.yaml --data digits --out OUT', 'config.yaml'),
    ('specialize --config ofa_mbv3_w12_supernet --data digits --out OUT', 'timm-ofa train'),
    ('specialize --config ofa_mbv3_note10_lat25ms --front f --data digits --out OUT', '--config'),
    ('specialize --config ofa_mbv3_note10_lat25ms --supernet supernet --data digits --out OUT',
     'is of ofa_mbv3_tiny, ofa_mbv3_note10_lat25ms is of ofa_mbv3_w12'),
    ('specialize --config ofa_mbv3_tiny.yaml --supernet three --data digits --out OUT', '3 classes.*10'),
    ('specialize --config ofa_mbv3_tiny.yaml --supernet supernet --data digits --num-calibration 1 --out OUT',
     "--num-calibration: '1'"),
    ('specialize --config ofa_mbv3_tiny.yaml --data digits --out OUT', 'ofa_mbv3_tiny_supernet'),
    ('specialize --supernet supernet --data digits --arch nonsense --out OUT', 'nonsense.*r20'),
    ('specialize --supernet supernet --data digits --arch r20:k9/3/3:e2/2/2 --out OUT', 'kernel_size 9'),
    ('specialize --supernet supernet --data digits --front bad.jsonl --out OUT', 'bad.jsonl'),
    ('specialize --supernet supernet --data digits --arch r20:k3/3/3:e2/2/2 --front f --out OUT', '--front'),
    ('specialize --supernet supernet --data digits --arch r20:k3/3/3:e2/2/2 --out nowhere/x/y', 'nowhere'),
    ('profile --space ofa_mbv3_tiny --out OUT', 'must end in .json'),
    ('profile --space ofa_mbv3_tiny --few-shot 9 --out OUT.json', 'fitted_nets 9 is too small; give 10 or more'),
    ('profile --space ofa_mbv3_tiny --few-shot 20 --fit none.csv --out OUT.json', 'not allowed with argument'),
    ('profile --fit none.csv --space ofa_mbv3_tiny --device my-phone --out OUT.json', 'none.csv'),
    ('profile --fit none.csv --space ofa_mbv3_tiny --out OUT.json', '--device is missing'),
    ('measure none', 'none'), ('measure empty', 'empty'), ('publish none --dry-run', 'none'),
    ('publish empty --repo acme/net --dry-run', 'empty'),
    ('import-upstream --name nobody --from x.pth --out OUT', 'nobody'),
    ('import-upstream --name ofa_mbv3_note10_lat22ms --from none.pth --out OUT', 'none.pth'),
]


@pytest.mark.parametrize('text, naming', WRONG, ids=[text or 'nothing' for text, _ in WRONG])
def test_a_wrong_input_is_one_line_and_leaves_nothing(capsys, files, monkeypatch, tmp_path, text, naming):
    monkeypatch.chdir(files)
    before = sorted(files.rglob('*'))
    status, out, err = run(capsys, *text.replace('OUT', str(tmp_path / 'out')).split())
    assert (status, out) == (2, ''), err
    assert len(remarks(err)) == 1 and err.startswith('timm-ofa: ') and re.search(naming, err), err
    assert 'Traceback' not in err and '_positive' not in err and len(err) < 500
    assert list(tmp_path.iterdir()) == [] and sorted(files.rglob('*')) == before


def test_a_named_network_is_made_from_a_supernet_in_a_folder(capsys, files, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(
        capsys, 'specialize', '--config', files / 'ofa_mbv3_tiny.yaml', '--supernet', files / 'supernet', '--data',
        'digits', '--num-calibration', 60, '--format', 'json')
    assert status == 0, err
    row, = json.loads(out)
    assert row['folder'] == 'out/ofa_mbv3_tiny' and row['arch'] == ARCH and row['predicted_top1_pct'] == 91.5
    assert 'timm-ofa publish out/ofa_mbv3_tiny --repo acme/tiny' in err
    record = check_folder(row['folder'])
    assert (record.device, record.limit_ms, record.predicted_ms, record.license) == ('my-phone', 2, 1.9, 'mit')
    assert (record.search.seed, record.search.predictor, record.calibration.images) == (3, 'that of a test', 60)
    assert record.top1_pct == row['top1_pct'] != 91.5 and record.accuracy.dataset == 'digits'
    card = Path(row['folder'], 'README.md').read_text()
    assert '| predicted top-1, not measured | 91.50 %' in card and '| predictor | that of a test |' in card
    status, out, err = run(capsys, 'publish', row['folder'], '--repo', 'acme/tiny', '--dry-run')
    assert status == 0, err


def test_the_command_in_the_error_makes_the_weights_from_the_released_supernet(capsys, monkeypatch, tmp_path):
    """With a made-up supernet in place of the released one, and a few images of a thousand classes."""
    datasets = pytest.importorskip('datasets')
    name, supernet = 'ofa_mbv3_note10_lat15ms', 'ofa_mbv3_w12_supernet'
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_tensors(tmp_path / 'released.safetensors', timm.create_model(supernet).state_dict())
    monkeypatch.setattr('timm_ofa.hub.ofa.fetch_weights', lambda config, *_: {
        supernet: tmp_path / 'released.safetensors'}[config.name])
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(num_classes=1000))
    noise = np.random.default_rng(0).integers(0, 256, (24, 60, 80, 3), dtype=np.uint8)
    rows = [{'image': Image.fromarray(pixels), 'label': 7 * i} for i, pixels in enumerate(noise)]
    (tmp_path / 'images').mkdir()
    for split, part in {'train': rows[:20], 'validation': rows[20:], 'test': [{**rows[0], 'label': -1}]}.items():
        datasets.Dataset.from_list(part, features=features).to_parquet(str(tmp_path / f'images/{split}.parquet'))
    monkeypatch.chdir(tmp_path)
    status, out, err = run(
        capsys, 'specialize', '--config', f'hub_configs/{name}.yaml', '--data', 'images', '--num-calibration', 8)
    assert status == 0 and name in out, err
    record = check_folder(f'out/{name}')
    assert (record.name, record.supernet.id) == (name, supernet)
    assert (record.accuracy.split, record.accuracy.n, record.calibration.images) == ('validation', 4, 8)
    assert record.predicted_top1_pct > 78 and record.search.limit == 'latency <= 15 ms on samsung-note10'
    model = timm.create_model(f'local-dir:out/{name}', pretrained=True)
    assert model.pretrained_cfg['input_size'] == (3, 160, 160) and model.num_classes == 1000


def test_ctrl_c_says_how_to_go_on(capsys, monkeypatch):
    def stop(args):
        raise KeyboardInterrupt
    monkeypatch.setitem(VERBS, 'spaces', stop)
    status, out, err = run(capsys, 'spaces')
    assert (status, out) == (130, '') and 'same command' in err


def test_the_quickstart_refuses_a_limit_that_nothing_meets_before_it_trains(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr('timm_ofa.cli.quickstart.PROFILE_SECONDS', 1.0)
    status, out, err = run(
        capsys, 'quickstart', '--data', 'digits', '--max-latency-ms', '0.000001', '--out', tmp_path / 'out')
    assert status == 2 and out == '' and 'no network of ofa_mbv3_tiny is within' in remarks(err)[-1]
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['profile.json']


def test_a_full_disk_is_one_line(capsys, files, monkeypatch, tmp_path):
    monkeypatch.chdir(files)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))  # bytes of a file
    try:
        status, out, err = run(capsys, 'train', '--config', 'config.yaml', '--output', tmp_path / 'run')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (status, out) == (2, '') and 'File too large' in err and 'free space' in err, err
    assert list((tmp_path / 'run').iterdir()) == []


# ---- the whole chain -------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def chain(tmp_path_factory):
    folder = tmp_path_factory.mktemp('chain')
    (folder / 'digits_supernet.yaml').write_text(yaml.safe_dump(CONFIG))
    return folder


def test_the_chain_from_a_config_to_a_published_folder(capsys, chain, monkeypatch):
    monkeypatch.chdir(chain)

    def rows(*args):
        status, out, err = run(capsys, *args, '--format', 'json')
        assert status == 0, err
        return json.loads(out)

    table = rows('train', '--config', 'digits_supernet.yaml', '--output', 'supernet')
    assert table[0]['subnet'] == 'largest' and len(table) == 11
    records, = rows('collect', '--supernet', 'supernet', '--data', 'digits', '--num', 14, '--out', 'records.jsonl')
    assert records['subnets'] == 14 and records['worst_pct'] <= records['median_pct'] <= records['best_pct']

    # the supernet was trained at one resolution of its space
    space = load_space('ofa_mbv3_tiny').restrict(resolutions=[20])
    (chain / 'space.json').write_text(json.dumps(space.to_dict()))
    fitted, = rows('fit', '--space', 'space.json', '--records', 'records.jsonl', '--out', 'predictor.safetensors',
                   '--plot', 'fit.png')
    assert -1 <= fitted['kendall_tau'] <= 1 and fitted['rmse_pct'] >= 0
    measured, = rows('profile', '--space', 'space.json', '--num-classes', 10, '--seconds', 1, '--out', 'profile.json')
    profile = DeviceProfile.from_dict(json.loads((chain / 'profile.json').read_text()))
    assert measured['rows'] == len(profile.table) and measured['profile'] == 'profile.json'

    limit = float(profile.latency_ms(space, [space.max_arch()])[0])
    found = rows('search', '--space', 'space.json', '--predictor', 'predictor.safetensors', '--profile', 'profile.json',
                 '--max-latency-ms', limit, '--also', f'profile.json={2 * limit}', '--max-memory-mb', 50,
                 '--max-params-m', 5, '--max-macs-m', 99, '--resolutions', 20, '--plot', 'front.svg',
                 '--out', 'front.jsonl')
    assert (chain / 'fit.png').stat().st_size > 5000 and '<svg' in (chain / 'front.svg').read_text()
    assert Arch.from_dict({k: found['best'][k] for k in ('resolution', 'kernel_size', 'expand_ratio')})
    assert len((chain / 'front.jsonl').read_text().splitlines()) == len(found['front'])
    done, = rows('specialize', '--supernet', 'supernet', '--data', 'digits', '--front', 'front.jsonl', '--no-measure',
                 '--out', 'net')
    assert done['folder'] == 'net' and done['predicted_ms'] <= limit * 1.0001 and 0 <= done['top1_pct'] <= 100
    told = json.loads((chain / 'net/perf.json').read_text())['measurements']
    assert [(m['source'], m['latency_ms']) for m in told] == [('predicted', pytest.approx(done['predicted_ms']))]
    for _ in range(2):
        timed, = rows('measure', 'net', '--seconds', 0.2, '--save')
    assert timed['latency_ms'] > 0 and timed['predicted_ms'] == done['predicted_ms']
    told = json.loads((chain / 'net/perf.json').read_text())['measurements']
    assert [m['source'] for m in told] == ['predicted', 'measured'] and told[1]['latency_ms'] == timed['latency_ms']
    rows('measure', 'net', '--export-kit', 'kit')
    subprocess.run([sys.executable, 'kit/run_kit.py', '--seconds', '0.2'], check=True, capture_output=True)
    phone, = rows('measure', 'net', '--import-kit', 'kit/results.json', '--device', 'my-phone', '--save')
    told = json.loads((chain / 'net/perf.json').read_text())['measurements']
    assert (told[2]['device'], told[2]['latency_ms']) == ('my-phone', phone['latency_ms'])
    family = rows('specialize', '--supernet', 'supernet', '--data', 'digits', '--front', 'front.jsonl', '--no-measure',
                  '--limits-ms', limit, limit * 1.01, limit * 0.6, '--out', 'family')
    assert len(family) == 2 and all(row['predicted_ms'] <= row['limit_ms'] * 1.0001 for row in family)
    told = rows('publish', 'family', '--owner', 'acme', '--dry-run')
    assert [t['repo_id'] for t in told] == sorted(f'acme/{Path(row["folder"]).name}' for row in family)
    told = rows('publish', 'supernet', '--dry-run')
    assert told['repo_id'] == 'OWNER/digits_supernet' and 'log.jsonl' in told['files']
    told = rows('publish', 'net', '--repo', 'acme/net', '--dry-run')
    assert told and 'acme/net' in json.dumps(told)
    model = timm.create_model('local-dir:net', pretrained=True).eval()
    assert model(torch.zeros(1, 3, 20, 20)).shape == (1, 10)

    for args in (
            ['search', '--space', 'space.json', '--predictor', 'predictor.safetensors', '--profile', 'profile.json',
             '--max-latency-ms', limit],
            ['measure', 'net', '--seconds', 0.2], ['publish', 'net', '--dry-run', '--repo', 'acme/net']):
        status, out, err = run(capsys, *args)
        assert status == 0 and '---' in out, err


def test_going_on_with_records_and_runs_that_are_there(capsys, chain, monkeypatch):
    """After the chain: a second collect adds, a second train is refused, a limit in seconds is infeasible."""
    monkeypatch.chdir(chain)
    if not (chain / 'net').exists():
        pytest.skip('the chain did not get so far')
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
    if not (chain / 'net').exists():
        pytest.skip('the chain did not get so far')
    text = (chain / 'profile.json').read_text()
    device = json.loads(text)['device']
    (chain / 'other.json').write_text(text.replace(f'"{device}"', '"my-phone"'))
    status, out, err = run(
        capsys, 'specialize', '--supernet', 'supernet', '--data', 'digits', '--front', 'front.jsonl', '--profile',
        'other.json', '--out', tmp_path / 'net')
    assert (status, out) == (2, '') and 'my-phone' in err and '--no-measure' in err
    assert not (tmp_path / 'net').exists()


def test_model_args_of_a_specialized_folder_name_its_arch(chain):
    if not (chain / 'net').exists():
        pytest.skip('the chain did not get so far')
    config = json.loads((chain / 'net' / 'config.json').read_text())
    space = load_space('ofa_mbv3_tiny')
    fields = config['timm_ofa']['arch']
    arch = space.parse(fields) if isinstance(fields, str) else Arch.from_dict(fields)
    expected = model_args(space, arch)
    assert {k: v for k, v in config['model_args'].items() if k in expected} == expected
