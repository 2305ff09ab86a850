"""Search: the best network of a space under limits, and the whole front, for a predictor and a device profile.

Modules: `strategy` (the search), `limits`, `problem` (costs and what is allowed), `anneal`, `exact` (proven results),
`knapsack` (the cheapest networks), `pool` (what was judged), `additive` (accuracy as a sum). A new algorithm is a
module here that `strategy` calls; a new limit is a class in `limits`.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
