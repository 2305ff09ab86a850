"""Search spaces: what may vary in a family of networks, each network as a value, and what its rows are and cost.

Modules: `arch` (one network), `space` (the search space), `shelf` (loading), `checking` (of files), `walk` and `rows`
(a network row by row), `blocks` (the parts of a network that a space was read off), `pricing` (costs of many networks),
`codes` (networks as integers), `upstream` (archs of the original code). A new search space is a JSON file in this
folder, or is read off a network of timm's; a new kind of row goes to `rows`.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
