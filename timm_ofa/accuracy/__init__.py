"""How accurate subnets are: measured on images, or predicted from some dozens of measured ones.

`judge`: one subnet; `records`: many, collected in a file; `active`: which subnets to collect. Predictors: `gaussian`
(with `features`), `additive`, `released`; `numbering`, `checking` and `predictor_files` hold what they share, `loading`
opens any of them. A new predictor is a module beside `additive`.
"""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
