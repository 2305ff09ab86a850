"""Networks without weights, which are read or given weights afterwards."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

DRAWS = (torch.Tensor.normal_, torch.Tensor.uniform_)


@contextmanager
def without_weights() -> Iterator[None]:
    """Build networks without storage for weights, and without drawing any, which would take most of the time."""
    with torch.device('meta'), _WithoutDraws():
        yield


class _WithoutDraws(TorchFunctionMode):
    """Initial values of a tensor are left out."""

    def __torch_function__(self, func: Callable, types: Sequence[type], args: Sequence[Any] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func in DRAWS or getattr(func, '__module__', '') == 'torch.nn.init':
            return kwargs['tensor'] if 'tensor' in kwargs else args[0]
        return func(*args, **kwargs)
