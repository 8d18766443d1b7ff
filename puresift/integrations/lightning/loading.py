"""What Lightning iterates over in place of the loader that a callback wraps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MethodType
from typing import Any

from puresift.types import Batch


class Loader(Iterable[Any]):
    """What Lightning iterates over."""

    def __init__(self, pools: Iterable[Batch], callback: Any):
        self.pools, self.callback = pools, callback

    def __iter__(self) -> Iterator[Any]:
        return self.callback._begin(self.pools)

    def state_dict(self) -> dict[str, Any]:
        """Empty: Lightning loses a loader's state when estimated_stepping_batches is read; the callback saves it."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        pass


def through(module: Any, wrap: Callable[[Any], Any]) -> Any:
    """A copy of a data module whose training loader is wrapped; its own `setup` prepares it, as Lightning calls it."""
    inner, wrapped = module.train_dataloader, copy.copy(module)
    if getattr(inner, "__self__", None) is module:  # its method, which is to read what setup gave the copy
        inner = MethodType(inner.__func__, wrapped)
    wrapped.train_dataloader = lambda: wrap(inner())
    return wrapped
