"""The programs of a finished folder, for ONNX Runtime and for torch alone: they compute what the network does, and
belong to its weights."""
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import pytest
import timm
import torch
from hub_makers import make_record
from runtime_makers import SMALL, logits, relative_error, run, stock_timm
from torch import nn

from timm_ofa.errors import InputError
from timm_ofa.hub.folder import CARD, ONNX, PERF, PT2, WEIGHTS, check_folder
from timm_ofa.hub.record import Record
from timm_ofa.hub.saving import add_onnx, add_pt2, save_folder, stage_folder, update_folder
from timm_ofa.networks import read_json
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


def test_a_latency_that_is_written_meanwhile_is_on_the_card(tmp_path, monkeypatch):
    folder, _ = saved(tmp_path / 'net', SMALL['mobilenetv3'])
    new = make_record().measurements

    def slow(rows, **kwargs):
        update_folder(folder, lambda record: replace(record, measurements=new))
        return to_onnx(rows, **kwargs)

    monkeypatch.setattr('timm_ofa.hub.saving.to_onnx', slow)
    add_onnx(folder)
    stage_folder(folder, tmp_path)  # which compares the card with its record
    assert 'My CPU' in (folder / CARD).read_text()


# ---- a program of torch alone ----------------------------------------------------------------------------------------


def test_a_finished_folder_gets_a_program_of_torch_with_its_logits(tmp_path):
    folder, model = saved(tmp_path / 'net', SMALL['mobilenetv3'])
    add_pt2(add_onnx(folder).parent)
    check_folder(folder)
    space, first = load_space(SMALL['mobilenetv3']), (folder / PT2).read_bytes()
    for n in (1, 3):
        x = torch.from_numpy(random_input(space.rows(space.min_arch()), batch_size=n))
        with torch.no_grad():
            assert torch.equal(torch.export.load(folder / PT2).module()(x), model(x))
    with ZipFile(folder / PT2) as archive:
        told = b''.join(map(archive.read, archive.namelist()))
    assert str(Path(timm.__file__).parents[1]).encode() not in told and str(tmp_path).encode() not in told
    assert read_json(folder / PERF)['pt2_torch'] in torch.__version__
    assert [name in (folder / CARD).read_text() for name in (ONNX, PT2)] == [True, True]
    assert add_pt2(folder).read_bytes() == first


def test_a_program_of_other_weights_or_other_logits_is_refused(tmp_path, monkeypatch):
    folder, _ = saved(tmp_path / 'net', SMALL['mobilenetv3'])
    export = torch.export.export
    monkeypatch.setattr('torch.export.export', lambda model, *args, **kwargs: export(
        nn.Sequential(model, nn.Softmax(1)), *args, **kwargs))
    with pytest.raises(InputError, match=r'model.pt2 of .* would not give the logits of the network'):
        add_pt2(folder)
    assert not (folder / PT2).exists()
    (folder / PT2).write_bytes(b'another')
    with pytest.raises(InputError, match=r'model.pt2 .* is not that which perf.json was written for; .* \(--pt2\)'):
        check_folder(folder)
