"""How a loader hands out weights: under a name in the batch, beside it, or on request; and whether they were read."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from puresift.errors import SiftError
from puresift.stream.later import Later, queued
from puresift.types import Batch

_CURES = (
    'pass weights="name" to have them in dict batches under that name, or weights=True to get (batch, weights), or '
    "multiply the per-sample losses by `loader.weights` after each batch"
)


class Handout:
    """Batches in the requested form. Weights that differ from 1 and are never read are an error.

    Args:
        mode: None, True or a name.

    Raises:
        SiftError: the mode is none of these.
    """

    def __init__(self, mode: str | bool | None):
        if not (mode is None or isinstance(mode, bool) or (isinstance(mode, str) and mode)):
            raise SiftError(f"weights must be None, True or a name for dict batches, got {mode!r}")
        self._mode = mode or None
        self._weights: Tensor | None = None
        self._read = False
        self._doubts = Later()

    def look(self) -> Tensor:
        """The weights of the batch last given."""
        if self._weights is None:
            raise SiftError("no batch was yielded yet, so there are no weights")
        self._read = True
        return self._weights

    def give(self, batch: Batch, weights: Tensor) -> Any:
        """The batch in the requested form."""
        self._weights = weights
        if self._mode is None:
            return batch
        if self._mode is True:
            return batch, weights
        if not isinstance(batch, dict):
            raise SiftError(
                f"weights={self._mode!r} puts them into dict batches, and this one is a {type(batch).__name__}; "
                "pass weights=True to get (batch, weights)"
            )
        if self._mode in batch:
            raise SiftError(f"the batch has an entry {self._mode!r} already; choose another name for weights=")
        return {**batch, self._mode: weights}

    def rest(self, left: list[tuple[Batch, Tensor]]) -> list[Any]:
        """Several batches at once, where the weights of each cannot be read."""
        if self._mode is None and any(bool((weights != 1).any()) for _, weights in left):
            raise SiftError("the rows left carry weights; " + _CURES)
        return [self.give(batch, weights) for batch, weights in left]

    def trained(self) -> None:
        """The batch last given was used: note whether its weights differ from 1, without synchronising."""
        if self._mode is None and not self._read and self._weights is not None:
            self._doubts.put((self._weights != 1).any())
            if not queued(self._weights.device):
                self.settle()

    def settle(self) -> None:
        """Read what was noted and has come."""
        if any(doubt for doubt, _ in self._doubts.come()) and not self._read:
            raise SiftError("this rule gives weights, and nothing has read them: the loss leaves them out; " + _CURES)
