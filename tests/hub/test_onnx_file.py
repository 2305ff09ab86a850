"""The ONNX file of a finished folder: it computes what the network does, and belongs to its weights."""
import pytest
import torch
from runtime_makers import SMALL, logits, relative_error, run, stock_timm
from torch import nn

from timm_ofa.errors import InputError
from timm_ofa.hub.folder import ONNX, PERF, WEIGHTS, check_folder
from timm_ofa.hub.record import Record
from timm_ofa.hub.saving import add_onnx, save_folder
from timm_ofa.runtimes import to_onnx
from timm_ofa.runtimes.layers import random_input
from timm_ofa.spaces import load_space


def saved(folder, name, seed=0):
    """A published folder of the smallest network of a space, and that network."""
    space = load_space(name)
    record = Record(
        name='ofa_test', space=space, arch=space.min_arch(), num_classes=space.num_classes, code_version='0.1.0')
    model = stock_timm(space, record.arch)
    nn.init.normal_(model.get_classifier().weight, std=0.1, generator=torch.Generator().manual_seed(seed))
    return save_folder(folder, model, record), model


@pytest.mark.parametrize('name', SMALL.values())
def test_a_finished_folder_gets_an_onnx_file_with_its_logits(name, tmp_path):
    folder, model = saved(tmp_path / 'net', name)
    assert add_onnx(folder) == folder / ONNX
    check_folder(folder)
    x = random_input(load_space(name).rows(load_space(name).min_arch()), batch_size=3)
    assert relative_error(run((folder / ONNX).read_bytes(), x), logits(model, x)) < 1e-4
    first = (folder / ONNX).read_bytes(), (folder / PERF).read_bytes()
    add_onnx(folder)
    assert first == ((folder / ONNX).read_bytes(), (folder / PERF).read_bytes())


def test_an_onnx_file_of_other_weights_is_refused_and_made_anew(tmp_path):
    folder, _ = saved(tmp_path / 'net', SMALL['mobilenetv3'])
    other, _ = saved(tmp_path / 'other', SMALL['mobilenetv3'], seed=1)
    (folder / ONNX).write_bytes(add_onnx(other).read_bytes())
    for _ in range(2):  # there is no hash, then a wrong one
        with pytest.raises(InputError, match=r'model.onnx .* is not that which perf.json was written for; remove it'):
            check_folder(folder)
        add_onnx(folder)
        check_folder(folder)
        (folder / ONNX).write_bytes((other / ONNX).read_bytes())
    (folder / ONNX).unlink()
    check_folder(folder)
    (folder / WEIGHTS).write_bytes((other / WEIGHTS).read_bytes())
    with pytest.raises(InputError, match=r'model.safetensors .* is not that which perf.json was written for'):
        add_onnx(folder)
    assert not (folder / ONNX).exists()


def test_an_onnx_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    folder, _ = saved(tmp_path / 'net', SMALL['byobnet'])
    monkeypatch.setattr(
        'timm_ofa.hub.saving.to_onnx', lambda rows, **kwargs: to_onnx(rows, **{**kwargs, 'bn_eps': 0.1}))
    with pytest.raises(InputError, match=r'model.onnx of .* would differ'):
        add_onnx(folder)
    assert not (folder / ONNX).exists()
