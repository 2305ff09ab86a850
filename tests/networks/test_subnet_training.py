"""What one training step of a subnet changes in the supernet: gradients and running statistics."""
from dataclasses import replace

import torch
from supernet_makers import images, make

STATISTICS = ('running_mean', 'running_var', 'num_batches_tracked')


def test_the_smallest_kernels_train_every_parameter_of_the_largest_net(tiny):
    largest = tiny.space.max_arch()
    arch = replace(largest, kernel_size=tuple((3,) * len(s) for s in largest.kernel_size))
    tiny.train()(images(8, 3, 24, 24), arch).square().sum().backward()
    idle = [n for n, p in tiny.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


def test_only_what_a_subnet_uses_gets_gradients(tiny):
    arch = tiny.space.min_arch()
    tiny.train()(images(8, 3, 24, 24), arch).square().sum().backward()
    block, unused = tiny.elastic_stages()[1][0], tiny.elastic_stages()[1][1]
    mid = block.mid_chs(2)
    for weight in (block.conv_pw.weight, block.conv_dw.weight, block.bn1.weight, block.bn2.bias):
        assert (weight.grad[:mid].abs().flatten(1).sum(1) if weight.ndim > 1 else weight.grad[:mid].abs()).gt(0).any()
        assert weight.grad[mid:].abs().sum() == 0
    assert block.conv_pwl.weight.grad[:, mid:].abs().sum() == 0
    assert block.kernel_transform['k5to3'].grad.abs().sum() > 0
    assert all(p.grad is None for p in unused.parameters())
    largest = tiny.space.max_arch()
    tiny.zero_grad()
    tiny(images(8, 3, 24, 24), largest).square().sum().backward()
    assert block.kernel_transform['k5to3'].grad is None


def test_gradients_inside_equal_those_of_the_extracted_network(tiny, rng):
    arch, x = tiny.space.max_arch(), images(8, 3, 24, 24)
    arch = replace(arch, expand_ratio=((2, 4, 3), (3, 2, 2), (2, 2, 3)))
    subnet = tiny.train().extract(arch)
    tiny(x, arch).square().sum().backward()
    subnet(x).square().sum().backward()
    block, small = tiny.elastic_stages()[2][1], subnet.blocks[3][1]
    mid, hidden = block.mid_chs(2), block.hidden_chs(block.mid_chs(2))
    assert (mid, hidden) == (small.conv_dw.out_channels, small.se.conv_reduce.out_channels)
    for ours, theirs in [
            (block.conv_pw.weight.grad[:mid], small.conv_pw.weight.grad),
            (block.conv_dw.weight.grad[:mid], small.conv_dw.weight.grad),
            (block.se.conv_reduce.weight.grad[:hidden, :mid], small.se.conv_reduce.weight.grad),
            (block.se.conv_expand.bias.grad[:mid], small.se.conv_expand.bias.grad),
            (block.conv_pwl.weight.grad[:, :mid], small.conv_pwl.weight.grad)]:
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_running_statistics_move_for_the_active_channels_alone(tiny):
    block = tiny.elastic_stages()[0][0]
    mid, before = block.mid_chs(2), {k: v.clone() for k, v in tiny.state_dict().items()}
    tiny.train()(images(8, 3, 24, 24), tiny.space.min_arch())
    after = tiny.state_dict()
    for name in ('blocks.1.0.bn1.', 'blocks.1.0.bn2.'):
        for kind in ('running_mean', 'running_var'):
            moved = after[name + kind] != before[name + kind]
            assert moved[:mid].all() and not moved[mid:].any()
        assert after[name + 'num_batches_tracked'] == before[name + 'num_batches_tracked'] + 1
    assert all(torch.equal(after[k], v) for k, v in before.items() if k.startswith(('blocks.1.1.', 'blocks.3.2.')))
    assert all(torch.equal(after[k], v) for k, v in before.items() if not k.endswith(STATISTICS))


def test_running_statistics_move_as_in_the_extracted_network(tiny, rng):
    arch, x = tiny.space.min_arch(), images(8, 3, 24, 24)
    subnet = tiny.train().extract(arch)
    with torch.no_grad():
        torch.testing.assert_close(tiny(x, arch), subnet(x))
    extracted = tiny.extract(arch).state_dict()
    for name, tensor in subnet.state_dict().items():
        torch.testing.assert_close(extracted[name], tensor, msg=name)


def test_gradient_checkpointing_gives_the_same_gradients(tiny, rng):
    arch, x = replace(tiny.space.sample(rng), resolution=24), images(4, 3, 24, 24)
    found = []
    for enable in (False, True):
        model = make().train()
        model.set_grad_checkpointing(enable)
        model(x, arch).square().mean().backward()
        found.append({n: p.grad for n, p in model.named_parameters()})
    assert {n for n, g in found[0].items() if g is None} == {n for n, g in found[1].items() if g is None}
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad, msg=name)
