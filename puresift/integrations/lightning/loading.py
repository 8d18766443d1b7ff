"""What Lightning iterates over in place of the loader that a callback wraps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
