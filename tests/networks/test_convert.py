"""Released checkpoints under timm's names: equal to the original code where it is installed."""
import pytest
import timm
import torch

import timm_ofa
from timm_ofa import Arch, InputError, load_space
from timm_ofa.networks import ENTRY_POINTS, model_args
from timm_ofa.networks.convert import convert_upstream

OLD, NEW = '.mobile_inverted_conv.', '.conv.'
WRAPPINGS = [dict, lambda t: {'state_dict': t}, lambda t: {f'module.{k}': v for k, v in t.items()}]


def build(space, arch, device=None, **kwargs):
    return timm.create_model(ENTRY_POINTS[space.family], **model_args(space, arch), device=device, **kwargs).eval()


def randomize(model, seed=0):
    """Biases, affine parameters and kernel matrices off their defaults."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith('_matrix'):
            tensor += 0.05 * torch.randn(tensor.shape, generator=generator)
        elif name.endswith('bn.weight'):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.ndim == 1:
            tensor.normal_(0, 0.1, generator=generator)
        elif tensor.ndim == 4:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
    return model.eval()


@torch.no_grad()
def activate(theirs, space, arch):
    """Set the original's active subnet, with BatchNorm statistics near its own, so that it still sees its input."""
    theirs.set_active_subnet(**upstream_arch(space, arch))
    norms = [m for m in theirs.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    theirs.train()(torch.randn(8, 3, 96, 96))
    for norm in norms:
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.25)
        norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
    return theirs.eval()


MOBILE = dict(ks_list=[3, 5, 7], expand_ratio_list=[3, 4, 6], depth_list=[2, 3, 4])
ORIGINALS = {  # space -> class of the original code and its arguments
    'ofa_mbv3_w10': ('OFAMobileNetV3', dict(width_mult=1.0, **MOBILE)),
    'ofa_mbv3_w12': ('OFAMobileNetV3', dict(width_mult=1.2, **MOBILE)),
    'ofa_proxyless_w13': ('OFAProxylessNASNets', dict(width_mult=1.3, **MOBILE)),
    'ofa_resnet50d': ('OFAResNets', dict(
        depth_list=[0, 1, 2], expand_ratio_list=[0.2, 0.25, 0.35], width_mult_list=[0.65, 0.8, 1.0])),
}


@pytest.fixture(scope='module', params=ORIGINALS)
def pair(request):
    """(space, randomized supernet of the original code, our supernet, empty)."""
    networks = pytest.importorskip('ofa.imagenet_classification.elastic_nn.networks', reason='needs the package ofa')
    space, (kind, args) = load_space(request.param), ORIGINALS[request.param]
    return space, randomize(getattr(networks, kind)(**args)), timm.create_model(f'{space.name}_supernet').eval()


def upstream_arch(space, arch):
    """Per-position lists as the original wants them; what is inactive is filled with the smallest choice."""
    pad = [max(s.depths) for s in space.stages]

    def positions(stages, least):
        return [v for values, n in zip(stages, pad) for v in (*values, *[least] * (n - len(values)))]
    if not space.elastic_widths:
        return {'ks': positions(arch.kernel_size, 3), 'e': positions(arch.expand_ratio, 3), 'd': list(arch.depth)}
    mids, outs = [24, 24, 32], [40, 48, 64]
    return {
        'd': [2 * (len(arch.stem_width) == 3), *(d - s.depths[0] for d, s in zip(arch.depth, space.stages))],
        'e': positions(arch.expand_ratio, 0.2),
        'w': [mids.index(arch.stem_width[0]), outs.index(arch.stem_width[-1]),
              *(s.widths.index(w) for s, w in zip(space.stages, arch.width))]}


def test_archs_of_the_original_are_the_same_archs_here(rng):
    for name in ORIGINALS:
        space = load_space(name)
        for arch in sampled(space, rng):
            assert space.from_upstream({**upstream_arch(space, arch), 'image_size': arch.resolution}) == arch


def relative_difference(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def sampled(space, rng):
    return [space.max_arch(), space.min_arch(), *space.sample(rng, 3)]


@torch.no_grad()
def test_supernet_subnet_and_original_agree_on_sampled_archs(pair, rng):
    space, theirs, ours = pair
    for arch, shape in zip(sampled(space, rng), [(96, 96), (97, 97), (131, 75), (64, 65), (64, 64)]):
        ours.load_state_dict(convert_upstream(activate(theirs, space, arch).state_dict(), ours), strict=True)
        x = torch.randn(2, 3, *shape)
        expected = theirs(x)
        assert relative_difference(expected[0], expected[1]) > 0.1  # it sees its input
        assert relative_difference(ours(x, arch), expected) < 1e-5
        assert relative_difference(ours.extract(arch).eval()(x), expected) < 1e-5


@torch.no_grad()
def test_static_networks_of_the_original_agree_in_double_precision(pair, rng):
    space, theirs, _ = pair
    for arch in sampled(space, rng)[:3]:
        static = activate(theirs, space, arch).get_active_subnet(preserve_weight=True).eval().double()
        model = build(space, arch).double()
        model.load_state_dict(convert_upstream({'state_dict': static.state_dict()}, model), strict=True)
        x = torch.randn(1, 3, 67, 67, dtype=torch.float64)
        assert relative_difference(model(x), static(x)) < 1e-11


@torch.no_grad()
def test_the_kernel_matrices_of_the_checkpoint_are_used(pair):
    space, theirs, ours = pair
    if space.elastic_widths:
        assert not any('kernel_transform' in name for name in ours.state_dict())
        return
    arch, x = space.min_arch(), torch.randn(1, 3, 96, 96)
    ours.load_state_dict(convert_upstream(activate(theirs, space, arch).state_dict(), ours))
    expected = ours(x, arch)
    for name, tensor in ours.state_dict().items():
        if 'kernel_transform' in name:
            tensor.copy_(torch.eye(len(tensor)))
    assert relative_difference(ours(x, arch), expected) > 0.01


def released_keys(path):
    """{name: empty tensor of that shape} from a list of 'name<TAB>shape<TAB>dtype'."""
    lines = [line.split('\t') for line in path.read_text().splitlines() if line and not line.startswith('#')]
    return {name: torch.empty([int(n) for n in shape.strip('[]').split(',') if n.strip()]) for name, shape, _ in lines}


@pytest.mark.parametrize('space, file', [
    *((f'ofa_mbv3_{w}', f'{kind}_ofa_mbv3_d234_e346_k357_w{w[1]}.{w[2]}') for w in ('w10', 'w12')
      for kind in ('checkpointfile', 'supernet')),
    *(('ofa_proxyless_w13', f'{kind}_ofa_proxyless_d234_e346_k357_w1.3') for kind in ('checkpointfile', 'supernet')),
    ('ofa_resnet50d', 'supernet_ofa_resnet50')])
def test_released_supernet_names_fit_the_supernet(shared, space, file):
    model = timm.create_model(f'{space}_supernet', device='meta')
    converted = convert_upstream(released_keys(shared / f'upstream/state_dict_keys/{file}.txt'), model)
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in model.state_dict().items()}


@pytest.mark.parametrize('file, stem, depth, ratio', [
    ('subnet_resnet50d_min', (24, 40), (2, 2, 4, 2), 0.2),
    ('subnet_resnet50d_standard_d2-1-2-2-1_e0.25_w1.0', (32, 32, 64), (3, 4, 6, 3), 0.25)])
def test_standalone_resnets_of_the_original_fit(shared, file, stem, depth, ratio):
    space = load_space('ofa_resnet50d')
    width = tuple(s.widths[-1 if ratio == 0.25 else 0] for s in space.stages)
    arch = Arch(224, tuple((3,) * d for d in depth), tuple((ratio,) * d for d in depth), width, stem)
    tensors = released_keys(shared / f'upstream/state_dict_keys/{file}.txt')
    model = build(space, arch, 'meta')
    assert set(convert_upstream(tensors, model)) == set(model.state_dict())


def test_the_teacher_checkpoint_is_the_largest_network(shared):
    space = load_space('ofa_mbv3_w10')
    tensors = released_keys(shared / 'upstream/state_dict_keys/teacher_mbv3_D4_E6_K7_w1.0.txt')
    assert len(convert_upstream(tensors, build(space, space.max_arch(), 'meta'))) == 435


# ---- without the original code: names made from our own tensors -----------------------------------------------------


@pytest.fixture(scope='module')
def small():
    """(model, its tensors under the original's names)."""
    from timm_ofa.networks.convert import MOBILENETV3, upstream_names

    space = load_space('ofa_mbv3_tiny')
    model = build(space, space.min_arch())
    tensors = model.state_dict()
    return model, {theirs: tensors[ours] for ours, theirs in upstream_names(tensors, MOBILENETV3).items()}


def spell(tensors, prefix, twice):
    """The same tensors in one of the original's spellings."""
    def name(text):
        text = text.replace(NEW, prefix, 1) if text.startswith('blocks.') else text
        if twice and text.startswith('blocks.') and not text.startswith('blocks.0.') and '.se.' not in text:
            for layer in ('.conv', '.bn'):
                head, _, leaf = text.rpartition('.')
                text = f'{head}{layer}.{leaf}' if head.endswith(layer) else text
        return text
    return {name(k): v for k, v in tensors.items()}


@pytest.mark.parametrize('twice', [False, True])
@pytest.mark.parametrize('prefix', [OLD, NEW])
@pytest.mark.parametrize('wrap', WRAPPINGS)
def test_every_spelling_gives_the_same_tensors(small, prefix, twice, wrap):
    model, tensors = small
    spelled = spell(tensors, prefix, twice)
    assert ('blocks.1' + prefix + 'depth_conv.conv' + ('.conv' if twice else '') + '.weight') in spelled
    converted = convert_upstream(wrap(spelled), model)
    assert list(converted) == list(model.state_dict())
    assert all(converted[k] is v or torch.equal(converted[k], v) for k, v in model.state_dict().items())


def test_converted_dictionaries_pass_through(small):
    model, _ = small
    tensors = model.state_dict()
    assert convert_upstream(tensors, model) == tensors
    assert convert_upstream({'state_dict': tensors}, model) == tensors


@pytest.mark.parametrize(
    'name', ['blocks.2.conv.depth_conv.bn.running_var', 'classifier.linear.bias', 'first_conv.conv.weight'])
def test_a_missing_tensor_is_named(small, name):
    model, tensors = small
    with pytest.raises(InputError, match=f"'{name}' is missing"):
        convert_upstream({k: v for k, v in tensors.items() if k != name}, model)


def test_a_tensor_too_many_is_named(small):
    model, tensors = small
    with pytest.raises(InputError, match=r"'blocks\.99\.conv\.x\.weight' has no place"):
        convert_upstream({**tensors, 'blocks.99.conv.x.weight': torch.ones(1)}, model)


def test_a_misshapen_tensor_is_named_with_both_shapes(small):
    model, tensors = small
    with pytest.raises(InputError, match=r"'classifier\.linear\.bias' has the shape \(7,\), 'classifier\.bias' needs"):
        convert_upstream({**tensors, 'classifier.linear.bias': torch.ones(7)}, model)


def test_a_tensor_under_two_spellings_is_refused(small):
    model, tensors = small
    name = 'blocks.1.conv.point_linear.conv.weight'
    twice = name.replace(NEW, OLD, 1).replace('.conv.w', '.conv.conv.w')
    with pytest.raises(InputError, match='two spellings'):
        convert_upstream({**tensors, twice: tensors[name]}, model)


@pytest.mark.parametrize('nonsense', [None, [], {}, 'weights', {'state_dict': {}}, {'epoch': 3}, {1: torch.ones(1)}])
def test_what_is_no_checkpoint_is_one_line(small, nonsense):
    with pytest.raises(InputError, match='state_dict') as error:
        convert_upstream(nonsense, small[0])
    assert '\n' not in str(error.value)


def test_a_network_of_another_family_is_refused():
    with pytest.raises(InputError, match='ResNet has no name rules'):
        convert_upstream({'x': torch.ones(1)}, timm.create_model('resnet18', device='meta'))


def test_it_is_public():
    assert timm_ofa.convert_upstream is convert_upstream
