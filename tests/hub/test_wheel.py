"""What ships with the package: configs, and weights that are checked."""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import timm
from named_models import NAMES, SHIPPED, SUBNETS

import timm_ofa
from timm_ofa.accuracy import load_predictor
from timm_ofa.accuracy.judge import evaluate
from timm_ofa.hub import hub_configs, hub_configs_dir
from timm_ofa.images import load_data

ROOT = Path(__file__).resolve().parents[2]
SHIPPED_SUBNET = """# weights in the package
kind: subnet
name: ofa_mbv3_test_lat1ms
family: mbv3
space: ofa_mbv3_tiny
arch: '{arch}'
device: my-cpu
latency_ms: 1
data: uoft-cs/cifar10
split: test
images: 10000
top1_pct: 80.5
top5_pct: 99.0
macs_m: 1
params_m: 0.1
drop_rate: 0
{weights}
"""
SHIPPED_SUPERNET = """# weights in the package
kind: supernet
name: ofa_mbv3_test_supernet
space: ofa_mbv3_tiny
data: uoft-cs/cifar10
weights: {{{weights}}}
"""


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    """As in the wheel: the configs lie in the package, none beside it, and two of them name weights in there."""
    from timm_ofa.files import save_tensors, sha256_of

    root = tmp_path_factory.mktemp('installed')
    shutil.copytree(ROOT / 'timm_ofa', root / 'timm_ofa', ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copytree(hub_configs_dir(), root / 'timm_ofa/hub_configs')
    supernet = timm.create_model('ofa_mbv3_tiny_supernet')
    arch = supernet.space.min_arch()
    for text, model in ((SHIPPED_SUPERNET, supernet), (SHIPPED_SUBNET, supernet.extract(arch))):
        name = re.search(r'name: (\S+)', text)[1]
        path = root / f'timm_ofa/hub/weights/{name}.safetensors'
        save_tensors(path, {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()})
        weights = [f'file: weights/{path.name}', f'sha256: {sha256_of(path)}', f'hub_id: timm-ofa/{name}',
                   'tag: test_cifar10', 'license: apache-2.0']
        weights = ('\n' if 'subnet' in text else ', ').join(weights)
        (root / f'timm_ofa/hub_configs/{name}.yaml').write_text(text.format(weights=weights, arch=arch))

    def python(code):
        code = f'import socket, timm, timm_ofa.hub as c\nsocket.socket.connect = None  # no network\n{code}'
        environment = {**os.environ, 'PYTHONPATH': str(root)}
        return subprocess.run(
            [sys.executable, '-c', code], cwd=root, env=environment, capture_output=True, text=True, timeout=120)
    return root / 'timm_ofa', supernet, python


def test_an_installed_package_brings_weights_that_ship_with_it_and_checks_them(installed):
    package, supernet, python = installed
    done = python("""
print(c.hub_configs_dir(), len(timm.list_models('ofa_*lat*ms')))
print(*[name for name in timm.list_pretrained('ofa_*') if 'test' in name])
supernet = timm.create_model('ofa_mbv3_test_supernet', pretrained=True)
subnet = timm.create_model('ofa_mbv3_test_lat1ms', pretrained=True)
print(supernet.conv_stem.weight.double().sum().item(), subnet.classifier.weight.double().sum().item())
print(timm.create_model('ofa_mbv3_test_lat1ms', pretrained=True, num_classes=7).classifier.out_features)
weights = c.hub_configs()['ofa_mbv3_test_lat1ms'].weights.path
weights.write_bytes(weights.read_bytes()[:-1] + b'!')
timm.create_model('ofa_mbv3_test_lat1ms', pretrained=True)""")
    sums = [supernet.conv_stem.weight, supernet.extract(supernet.space.min_arch()).classifier.weight]
    lines = done.stdout.splitlines()
    known = {s.name for s in SUBNETS.values() if s.device}
    assert lines[0] == f'{package / "hub_configs"} {len(known) + 1}', done.stderr
    assert lines[1] == 'ofa_mbv3_test_lat1ms.test_cifar10 ofa_mbv3_test_supernet.test_cifar10'
    assert lines[2] == ' '.join(str(v.half().double().sum().item()) for v in sums) and lines[3] == '7'
    assert done.stderr.splitlines()[-1].endswith(
        "InputError: weights of 'ofa_mbv3_test_lat1ms': weights/ofa_mbv3_test_lat1ms.safetensors does not have the "
        'SHA-256 that ofa_mbv3_test_lat1ms.yaml names; install timm_ofa again, or use pretrained=False')


@pytest.fixture(scope='module')
def cifar10(shared):
    """The first 500 test images."""
    return load_data(str(shared / 'data/cifar10'), 32, limit=10).test.subset(range(500), 'first').decode()


@pytest.mark.parametrize('name', sorted(SHIPPED))
def test_what_ships_is_as_accurate_as_said_and_found_by_what_ships(name, cifar10, monkeypatch):
    """The predictor, the profile and the weights all are of this package."""
    monkeypatch.setattr('socket.socket.connect', None)
    s = SHIPPED[name]
    model = timm.create_model(name, pretrained=True)
    assert evaluate(model, cifar10, s.space, s.arch.resolution) == pytest.approx(s.top1_pct, abs=5)
    predicted = load_predictor(s.search.predictor, s.space).predict([s.arch])[0]
    assert predicted == pytest.approx(s.predicted_top1_pct, abs=0.006)
    latency_ms = timm_ofa.load_profile(s.search.profile).latency_ms(s.space, [s.arch])[0]
    assert latency_ms == pytest.approx(s.predicted_ms, rel=1e-3) and latency_ms <= s.latency_ms
    assert hub_configs()[s.supernet].weights.path.stat().st_size < 8e6


def test_the_wheel_carries_the_files(tmp_path):
    pytest.importorskip('hatchling', reason='building a wheel needs hatchling')
    subprocess.run(
        [sys.executable, '-m', 'hatchling', 'build', '-t', 'wheel', '-d', str(tmp_path)], cwd=ROOT, check=True,
        capture_output=True, timeout=120)
    names = ZipFile(next(tmp_path.glob('*.whl'))).namelist()
    assert {f'timm_ofa/hub_configs/{name}.yaml' for name in NAMES} <= set(names)
    assert {f'timm_ofa/hub/{s.file}' for s in SHIPPED.values()} <= set(names)
