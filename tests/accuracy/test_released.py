"""The released predictors give the published numbers, and refuse what they were not trained for."""
import hashlib
import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from timm_ofa.accuracy import load_predictor, load_upstream_predictor
from timm_ofa.errors import InputError
from timm_ofa.spaces.shelf import load_space

RELEASED = {  # space -> file, name of its reference networks
    'ofa_mbv3_w12': ('acc_predictor.pth', 'mbv3'), 'ofa_resnet50d': ('ofa_resnet50_acc_predictor.pth', 'resnet50')}


@pytest.fixture(params=RELEASED)
def released(request, shared):
    """A released predictor, and reference networks in the form of the original with their accuracies."""
    file, vectors = RELEASED[request.param]
    vectors = json.loads((shared / 'upstream' / 'parity' / f'ref_predictor_{vectors}.json').read_text())['vectors']
    for vector in vectors:
        if 'r' in vector['arch']:
            vector['arch']['r'] = [vector['arch']['r']]
    return load_upstream_predictor(shared / 'upstream' / file, request.param), vectors


def test_a_released_predictor_gives_the_published_numbers(released):
    predictor, vectors = released
    space, known = predictor.space, 0
    for vector in vectors:
        arch, expected = space.from_upstream(vector['arch']), 100 * vector['predicted_acc']
        if arch.resolution not in predictor.resolutions(space):
            with pytest.raises(InputError, match=f'resolution {arch.resolution} is '):
                predictor.predict([arch])
            continue
        same = predictor.predict_inputs(space.encode([arch]))[:, 0]  # inputs that are this network
        said = min(vector['arch']['w'][0], 1) if len(same) > 1 else 0
        assert same[said] == pytest.approx(expected, abs=1e-4)
        assert predictor.predict([arch])[0] == pytest.approx(expected, abs=1e-4 if len(same) == 1 else 0.002)
        known += 1
    assert known >= 20


def test_codes_of_a_restricted_space_mean_the_same_to_a_released_predictor(released, rng):
    predictor, _ = released
    space = predictor.space

    def known(field, values):
        return [v for v in values if any(v in getattr(stage, field) for stage in space.stages)]

    small = space.restrict(
        resolutions=predictor.resolutions(space)[2:], widths=2 if space.elastic_widths else None,
        depths=known('depths', [3, 4, 5]), expand_ratios=known('expand_ratios', [0.2, 0.35, 3, 6]),
        kernel_sizes=known('kernel_sizes', [3, 7]))
    archs = small.sample(rng, 40)
    np.testing.assert_allclose(
        predictor.predict_codes(small.encode(archs), small), predictor.predict(archs), atol=1e-4, rtol=0)
    assert small.resolutions == predictor.resolutions(small)


def test_a_released_predictor_is_kept_in_our_own_format(released, tmp_path, rng):
    predictor, _ = released
    space = predictor.space
    archs = space.restrict(resolutions=predictor.resolutions(space)).sample(rng, 20)
    predictor.save(tmp_path / 'p.safetensors')
    loaded = load_predictor(tmp_path / 'p.safetensors')
    np.testing.assert_array_equal(loaded.predict(archs), predictor.predict(archs))
    assert (loaded.space, loaded.ceiling_pct) == (space, predictor.ceiling_pct)
    with pytest.raises(InputError, match="not of 'ofa_mbv3_w10'"):
        load_predictor(tmp_path / 'p', load_space('ofa_mbv3_w10'))
    about = json.loads((tmp_path / 'p.json').read_text())
    other = next(name for name in RELEASED if name != space.name)
    for change in ({'space': other}, {'space': 'ofa_mbv3_w10'}, {'space': ['x']}, {'kind': 'fitted'}, {'format': 2}):
        (tmp_path / 'p.json').write_text(json.dumps({**about, **change}))
        with pytest.raises(InputError):
            load_predictor(tmp_path / 'p')


def test_the_released_predictors_refuse_what_they_were_not_trained_for(shared):
    space, path = load_space('ofa_mbv3_w12'), shared / 'upstream' / 'acc_predictor.pth'
    predictor = load_upstream_predictor(path, space)
    assert predictor.resolutions(space) == (160, 176, 192, 208, 224) and predictor.ceiling_pct is None
    with pytest.raises(InputError, match='resolution 164 is untrained'):
        predictor.predict([space.max_arch(164)])
    with pytest.raises(InputError, match='are of ofa_mbv3_w12, ofa_resnet50d, not of'):
        load_upstream_predictor(path, load_space('ofa_mbv3_w10'))
    with pytest.raises(InputError, match=r'is not the released ofa_resnet50_acc_predictor\.pth'):
        load_upstream_predictor(path, 'ofa_resnet50d')


def test_the_released_predictor_of_resnet_has_a_ceiling_and_no_208_px(shared):
    space = load_space('ofa_resnet50d')
    predictor = load_upstream_predictor(shared / 'upstream' / 'ofa_resnet50_acc_predictor.pth', space)
    assert predictor.resolutions(space) == (128, 144, 160, 176, 192, 224, 240, 256)
    assert predictor.ceiling_pct == pytest.approx(82.9870, abs=1e-4)
    largest = predictor.predict([space.max_arch(r) for r in (176, 192, 224, 240, 256)])
    np.testing.assert_allclose(largest, predictor.ceiling_pct, atol=1e-4)
    random = space.restrict(resolutions=[224, 256]).sample(np.random.default_rng(0), 1000)
    assert predictor.predict(random).max() <= predictor.ceiling_pct + 1e-4
    with pytest.raises(InputError, match='resolution 208 is untrained'):
        predictor.predict([space.max_arch(208)])


def test_the_two_inputs_of_one_stem_hardly_differ(shared, rng):
    space = load_space('ofa_resnet50d')
    predictor = load_upstream_predictor(shared / 'upstream' / 'ofa_resnet50_acc_predictor.pth', space)
    archs = space.restrict(resolutions=predictor.resolutions(space)).sample(rng, 500)
    first, second = predictor.predict_inputs(space.encode(archs))
    narrow = np.array([arch.stem_width[0] == 24 for arch in archs])
    assert (first[~narrow] == second[~narrow]).all() and (first[narrow] != second[narrow]).mean() > 0.9
    assert np.abs(first - second).max() < 0.003
    np.testing.assert_allclose(predictor.predict(archs), (first + second) / 2, atol=1e-4)


@pytest.mark.parametrize('content', [b'junk', {}, {'0.weight': torch.zeros(2, 2)}, [1, 2]])
@pytest.mark.parametrize('space', RELEASED)
def test_any_other_checkpoint_is_not_taken_for_a_released_predictor(tmp_path, content, space):
    path = tmp_path / 'acc_predictor.pth'
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(InputError, match=f'released {RELEASED[space][0]}'):
        load_upstream_predictor(path, space)


@pytest.fixture
def authors(shared, tmp_path, monkeypatch):
    """A server in the place of the authors' one with a folder of its own; timm's cache is empty."""
    folder = tmp_path / 'served'
    folder.mkdir()
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr('timm_ofa.accuracy.released.RELEASED_URL', f'http://127.0.0.1:{server.server_port}/')
        monkeypatch.setattr('timm.models._hub.get_cache_dir', lambda: str(tmp_path / 'cache'))
        yield folder
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.mark.parametrize('space', RELEASED)
def test_without_a_path_the_released_file_is_fetched_once(authors, shared, tmp_path, space):
    file = RELEASED[space][0]
    with pytest.raises(InputError, match=r'cannot be fetched .*get the file elsewhere and give its path'):
        load_upstream_predictor(None, space)
    (authors / file).write_bytes(b'something else')
    with pytest.raises(InputError, match='has the SHA-256 ') as error:
        load_upstream_predictor(None, space)
    assert '\n' not in str(error.value) and list((tmp_path / 'cache').iterdir()) == []
    (authors / file).write_bytes((shared / 'upstream' / file).read_bytes())
    predictor = load_upstream_predictor(None, space)
    (authors / file).unlink()
    assert load_upstream_predictor(None, space).ceiling_pct == predictor.ceiling_pct
    cached, = (tmp_path / 'cache').iterdir()
    digest = hashlib.sha256(cached.read_bytes()).hexdigest()
    assert cached.name == f'{space}-{file[:-4]}-{digest[:12]}.pth'
