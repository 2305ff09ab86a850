"""Networks and supernets of spaces that are read off timm networks, as named models for timm's own tests.

For each class of timm's: the smallest subnet of a small network, and the supernet of that network.
"""
from functools import partial

import timm
from timm.models import generate_default_cfgs, register_model

import timm_ofa
from timm_ofa.hub.ofa import create_named_supernet
from timm_ofa.networks import data_cfg, model_args
from timm_ofa.networks.ofa import ofa_timm

__all__: list[str] = []
NETWORKS = {'efficientnet': 'tinynet_e', 'mobilenetv3': 'mobilenetv4_conv_small_035', 'resnet': 'test_resnet',
            'byobnet': 'gernet_s'}
SPACES = {f'small_{kind}': timm_ofa.space_of(name, resolutions=[64]) for kind, name in NETWORKS.items()}
SUBNETS, SUPERNETS = list(SPACES), [f'{name}_supernet' for name in SPACES]
default_cfgs = generate_default_cfgs({
    name: dict(url='', num_classes=1000, **data_cfg(space))
    for key, space in SPACES.items() for name in (key, f'{key}_supernet')})


def _register(name, build):
    def entry_point(pretrained=False, **kwargs):
        return build(pretrained=pretrained, **kwargs)
    entry_point.__name__ = name
    register_model(entry_point)


for _name, _space in SPACES.items():
    _register(_name, partial(ofa_timm, **model_args(_space, _space.min_arch())))
    _register(f'{_name}_supernet', partial(create_named_supernet, f'{_name}_supernet', _space))
assert all(map(timm.is_model, [*SUBNETS, *SUPERNETS]))
