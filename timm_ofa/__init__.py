"""Once-for-All as a timm plug-in: after `import timm, timm_ofa` every network of this package is a timm model.

The public names are those of `__init__.pyi`. Each is imported when it is first used, and the models are registered as
soon as timm is imported, before or after this package: so the command line answers without loading torch.
"""
import sys
from importlib.abc import MetaPathFinder
from importlib.util import find_spec

import lazy_loader

__version__ = '0.1.0'
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def _register_models() -> None:
    from .hub import ofa


class _AfterTimm(MetaPathFinder):
    """Registers the models at the end of the first `import timm`."""

    def find_spec(self, name, path=None, target=None):
        if name != 'timm':
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module):
                run(module)
                _register_models()

            spec.loader.exec_module = exec_module
        return spec


if 'timm' in sys.modules:
    _register_models()
else:
    sys.meta_path.insert(0, _AfterTimm())
