"""The supernet: each subnet of it is the network that `extract` gives, and nothing is state."""
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import timm
import torch
from supernet_makers import SPACES, calibrate, images, make, some_archs
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3

from timm_ofa import InputError, load_space
from timm_ofa.networks import ENTRY_POINTS, load_supernet, model_args
from timm_ofa.networks.elastic import ElasticBottleneck, ElasticInvertedResidual
from timm_ofa.networks.stock import OFAResNet
from timm_ofa.training.runs import save_supernet

STOCK = {'mobilenetv3': MobileNetV3, 'efficientnet': EfficientNet, 'byobnet': OFAResNet}


# ---- one network, two ways -------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize('name', SPACES)
def test_a_subnet_run_inside_equals_the_extracted_one_bit_for_bit(name, rng):
    supernet = make(name)
    archs = some_archs(supernet.space, rng, 4)
    for arch, size in zip(archs, [(64, 64), (33, 47), (65, 64), (50, 31), (96, 96), (37, 37)]):
        calibrate(supernet, arch)
        x = images(2, 3, *size)
        inside, extracted = supernet(x, arch), supernet.extract(arch)
        assert torch.equal(extracted(x), inside)
        assert (inside[0] - inside[1]).abs().max() > 0.01 * inside.abs().max()  # it sees its input


@torch.no_grad()
def test_without_an_arch_the_largest_network_runs(supernet):
    x = images(2, 3, 48, 48)
    torch.testing.assert_close(supernet(x), supernet(x, supernet.space.max_arch()), rtol=0, atol=0)


@torch.no_grad()
def test_archs_that_differ_in_one_choice_are_different_networks(supernet):
    outputs = [supernet(images(1, 3, 64, 64), arch) for arch in one_choice_apart(supernet.space)]
    assert all((a - b).abs().max() > 1e-4 * b.abs().max() for i, a in enumerate(outputs) for b in outputs[:i])


def one_choice_apart(space):
    """The largest arch, and some that differ from it in one choice each."""
    largest = space.max_arch()
    ratio = (*largest.expand_ratio[:-1], (*largest.expand_ratio[-1][:-1], min(space.stages[-1].expand_ratios)))
    i = max(i for i, s in enumerate(space.stages) if len(s.depths) > 1)

    def shorter(stages):
        return (*stages[:i], stages[i][:-1], *stages[i + 1:])
    archs = [largest, replace(largest, expand_ratio=ratio), replace(
        largest, kernel_size=shorter(largest.kernel_size), expand_ratio=shorter(largest.expand_ratio))]
    if space.elastic_widths:
        stem, width = largest.stem_width, largest.width
        stems = [stem[1:], (*stem[:2], space.stem_widths[0][-1]), (*space.stem_widths[1][:2], stem[-1])]
        widths = [(*width[:s], stage.widths[0], *width[s + 1:]) for s, stage in enumerate(space.stages)]
        archs += [replace(largest, stem_width=s) for s in stems] + [replace(largest, width=w) for w in widths]
        return [space.check(arch) for arch in archs]
    kernel = ((3, *largest.kernel_size[0][1:]), *largest.kernel_size[1:])
    return [*archs, replace(largest, kernel_size=kernel)]


def test_names_are_those_of_the_stock_network_plus_kernel_matrices(supernet):
    space = supernet.space
    stock = timm.create_model(
        ENTRY_POINTS[space.family], **model_args(space, space.max_arch()), num_classes=space.num_classes, device='meta')
    own = {k: v.shape for k, v in supernet.state_dict().items()}
    added = set(own) - set(stock.state_dict())
    assert {k: v for k, v in own.items() if k not in added} == {k: v.shape for k, v in stock.state_dict().items()}
    blocks = sum(max(s.depths) for s in space.stages)
    assert len(added) == blocks * (len(space.stages[0].kernel_sizes) - 1)
    assert all('.kernel_transform.k' in name for name in added)


def test_an_extracted_network_is_stock_owns_its_weights_and_knows_its_resolution(supernet, rng):
    arch = supernet.space.sample(rng)
    subnet = supernet.extract(arch)
    assert type(subnet) is STOCK[supernet.space.family]
    assert not any(isinstance(m, (ElasticInvertedResidual, ElasticBottleneck)) for m in subnet.modules())
    assert not ({t.data_ptr() for t in subnet.state_dict().values()}
                & {t.data_ptr() for t in supernet.state_dict().values()})
    assert all(p.requires_grad and p.is_leaf and not p.is_meta for p in subnet.parameters())
    assert sum(p.numel() for p in subnet.parameters()) == supernet.space.params(arch)
    assert subnet.pretrained_cfg['input_size'] == (3, arch.resolution, arch.resolution)


def test_extracting_keeps_mode_classes_channels_and_dropout():
    supernet = timm.create_model('ofa_mbv3_tiny_supernet', num_classes=3, in_chans=1, drop_rate=0.3)
    for training in (True, False):
        subnet = supernet.train(training).extract(supernet.space.min_arch())
        assert subnet.training is training and subnet.num_classes == 3 and subnet.drop_rate == 0.3
        assert subnet.conv_stem.in_channels == 1


@torch.no_grad()
@pytest.mark.parametrize('name', ['ofa_mbv3_tiny', 'ofa_resnet_tiny', 'ofa_proxyless_w13'])
@pytest.mark.parametrize('given', [{'global_pool': 'max'}, {'global_pool': 'avgmax'}, {'act_layer': 'silu'}, {
    'bn_eps': 0.1, 'drop_path_rate': 0.1, 'drop_rate': 0.2}], ids=lambda given: next(iter(given)))
def test_extracting_keeps_what_was_given_to_the_supernet(name, given, rng, tmp_path):
    """And so does a folder: timm records what was given, `save_supernet` the rate of dropout too."""
    supernet = make(name, num_classes=5, **given)
    arch, x = supernet.space.sample(rng), images(2, 3, 64, 64)
    subnet, expected = supernet.extract(arch), supernet(x, arch)
    assert torch.equal(subnet(x), expected) and subnet.drop_rate == supernet.drop_rate
    save_supernet(supernet, tmp_path, {})
    loaded = load_supernet(str(tmp_path)).eval()
    assert torch.equal(loaded(x, arch), expected) and torch.equal(loaded.extract(arch)(x), expected)
    assert loaded.drop_rate == supernet.drop_rate == given.get('drop_rate', 0)


@torch.no_grad()
def test_drop_rate_acts_in_training_alone():
    supernet = timm.create_model('ofa_mbv3_tiny_supernet', drop_rate=0.5)
    arch, features = supernet.space.min_arch(), images(2, supernet.space.last_width, 2, 2)
    assert not torch.equal(supernet.forward_head(features), supernet.forward_head(features))
    x = images(2, 3, 24, 24)
    assert torch.equal(supernet.eval()(x, arch), supernet(x, arch))


def test_an_arch_of_another_space_is_refused(supernet):
    other = load_space('ofa_mbv3_w10' if supernet.space.name == 'ofa_mbv3_tiny' else 'ofa_mbv3_tiny').max_arch()
    for use in (lambda: supernet(images(1, 3, 32, 32), other), lambda: supernet.extract(other)):
        with pytest.raises(InputError, match=supernet.space.name):
            use()
    with pytest.raises(InputError, match=r'Arch\.from_dict'):
        supernet.extract({'ks': 3})


# ---- no hidden state -------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_archs_can_alternate_and_run_in_threads(tiny, rng):
    before = {k: v.clone() for k, v in tiny.state_dict().items()}
    archs, x = some_archs(tiny.space, rng, 4), images(2, 3, 24, 24)
    expected = [tiny(x, arch) for arch in archs]
    assert all(torch.equal(tiny(x, arch), y) for arch, y in reversed(list(zip(archs, expected))))

    @torch.no_grad()
    def run(i):
        return torch.equal(tiny(x, archs[i % 6]), expected[i % 6])
    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(run, range(30)))
    assert all(torch.equal(v, before[k]) for k, v in tiny.state_dict().items())
