"""The named models, and checkpoints as the authors of Once-for-All save theirs."""
import re

import timm
import torch

from timm_ofa.hub import named_subnets
from timm_ofa.networks.convert import FAMILIES, upstream_names

SUBNETS = named_subnets()  # by the name of the file
NAMES = sorted(SUBNETS)
RELEASED = {name: s for name, s in SUBNETS.items() if s.upstream_id}
SHIPPED = {name: s for name, s in SUBNETS.items() if s.file}  # weights in the package
TWINS = ['ofa_mbv3_lg_g8_lat24ms', 'ofa_mbv3_lg_g8_lat16ms']  # one architecture, two sets of weights
NAME = TWINS[0]
SECOND = 'ofa_mbv3_note10_lat30ms.search_in1k'  # a second network under one name
SUPERNETS = [f'{space}_supernet' for space in ('ofa_mbv3_w10', 'ofa_mbv3_w12', 'ofa_proxyless_w13', 'ofa_resnet50d')]
OWN = {name: s for name, s in SUBNETS.items() if s.supernet in SUPERNETS and not s.file}  # found in a released supernet


def upstream_checkpoint(name, seed):
    """Random weights of a named model as the authors saved theirs: {'state_dict': ...} under their names."""
    torch.manual_seed(seed)
    model = timm.create_model(name)
    theirs = upstream_names(model.state_dict(), next(rules for kind, rules in FAMILIES if isinstance(model, kind)))
    return {'state_dict': {
        re.sub(r'^(blocks\.\d+)\.conv\.', r'\1.mobile_inverted_conv.', theirs[k]): v
        for k, v in model.state_dict().items()}}
