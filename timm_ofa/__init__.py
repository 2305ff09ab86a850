"""Once-for-All as a timm plug-in: after `import timm, timm_ofa` every network of this package is a timm model.

The public names are those of `__init__.pyi`. Each is imported when it is first used. The models are registered as soon
as timm is imported, before or after this package. So `import timm_ofa` alone loads neither timm nor torch.
"""
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

import lazy_loader

__version__ = '0.1.0'
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def _register_models() -> None:
    from .hub import ofa


class _AfterTimm(MetaPathFinder):
    """Registers the models at the end of the first `import timm`. Others may ask before that whether timm is there."""

    def find_spec(
            self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != 'timm':
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                    _register_models()

            vars(spec.loader)['exec_module'] = exec_module  # of this loader alone
        return spec


if 'timm' in sys.modules:
    _register_models()
else:
    sys.meta_path.insert(0, _AfterTimm())
