"""What `search` shows of its front."""
import json

import numpy as np
import pytest
from command_line import run

from timm_ofa.accuracy import AccuracyPredictor, AdditivePredictor
from timm_ofa.spaces.shelf import load_space


@pytest.mark.parametrize('kind', [AccuracyPredictor, AdditivePredictor])
def test_a_front_says_how_unsure_its_accuracies_are_if_the_predictor_knows(kind, capsys, tmp_path):
    space = load_space('ofa_mbv3_tiny').restrict(resolutions=[24])
    archs = space.sample(np.random.default_rng(0), 30)
    predictor = kind.fit(space, archs, [60 + 5 * np.log(space.macs(arch) / 1e6) for arch in archs])
    predictor.save(tmp_path / 'predictor.safetensors')
    words = ['search', '--space', 'ofa_mbv3_tiny', '--predictor', tmp_path / 'predictor.safetensors',
             '--max-macs-m', 4, '--resolutions', 24]
    status, out, _ = run(capsys, *words)
    lines = out.splitlines()
    answer = json.loads(run(capsys, *words, '--format', 'json')[1])
    best = space.parse(answer['best']['text'])
    assert status == 0 and answer['best'] == {**answer['front'][-1], 'text': str(best)}
    if kind is AdditivePredictor:
        assert '±' not in lines[0] and 'top1_spread_pct' not in answer['best']
    else:
        assert lines[0].split()[:5] == ['top-1', '%', '±', '2', 'std']
        spread_pct, = predictor.spread([best])
        assert answer['best']['top1_spread_pct'] == pytest.approx(spread_pct, abs=1e-4) and spread_pct > 0
        assert float(lines[2].split()[1]) == pytest.approx(2 * spread_pct, abs=0.01)


def test_folders_that_are_missing_are_made_with_the_files(capsys, tmp_path):
    out, plot = tmp_path / 'out' / 'front.jsonl', tmp_path / 'plots' / 'new' / 'front.svg'
    status, _, told = run(
        capsys, 'search', '--space', 'ofa_mbv3_32px', '--predictor', 'ofa_mbv3_cifar10_supernet', '--profile',
        'amd-epyc-onnxruntime-ofa-mbv3-32px', '--max-latency-ms', 0.5, '--out', out, '--plot', plot)
    assert status == 0, told
    assert out.is_file() and plot.is_file()
