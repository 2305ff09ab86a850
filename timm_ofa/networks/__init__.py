"""Subnets as stock timm networks, and the supernet, which holds them all.

- `stock`, `ofa`: an arch as a stock timm network; the entry-points that timm registers for it; `blank`: networks
  without weights; `saved_config`: their `config.json`
- `slices`, `layers`, `depthwise`, `elastic`: the parts of weights that a subnet uses, and the blocks that use them
- `supernet`: the supernet of a search space; `initial`: a trained one, and the weights with which it may begin
- `chain`: the convolutions of a block, in order; `energy`: how much a channel counts; `repairing`, with `streams` and
  `least_squares`: subnets of a network that was trained as a whole
- `reading`, `frames`: a space read off a network of timm's; `flexible`: timm's own blocks, elastic; `narrowing`: a
  stock network, cut; `backbones`: the supernets of such spaces
- `hub_access`: whether the Hub answers, and its errors; `weights`: weights from a folder or the Hub, checked;
  `convert`: checkpoints of the original code

A new block of timm's is a class in `flexible`, one of our own in `elastic`. A new family is a class in `supernet`, its
arguments in `stock` and its names in `convert`.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# The first `import timm` registers all models at its end (see `timm_ofa/__init__.py`), for which no module of this
# package may be half imported. So timm is imported here, after the names above can be resolved.
import timm  # noqa: E402
