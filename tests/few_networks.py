"""A search space as somebody may add one: 400 networks, two stages, three feature levels."""
from dataclasses import replace

from timm_ofa.spaces import load_space

_TINY = load_space('ofa_mbv3_tiny').restrict(depths=[1, 2], expand_ratios=[3, 4])
FEW = replace(_TINY, name='few', stem_stride=2, stages=_TINY.stages[:2])
