"""networks."""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

import timm  # noqa: E402 - first, since it registers the models, for which no module here may be half imported
