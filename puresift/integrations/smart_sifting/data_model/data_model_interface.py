"""Batches whose rows can be told apart, and the transform into them and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from puresift.integrations.smart_sifting.exceptions import UnsupportedDataFormatException

__all__ = ["SiftingBatch", "SiftingBatchTransform", "UnsupportedDataFormatException"]


class SiftingBatch:
    """A batch that can be sifted and accumulated: every attribute has one entry per row, or is None.

    Attributes may be tensors, lists of any objects, and dicts of these.
    """

    def __iter__(self) -> Iterator[Any]:
        """The attributes that are not None, in order: inputs, then labels."""
        return (value for value in vars(self).values() if value is not None)


class SiftingBatchTransform(ABC):
    """A pair of functions between a loader's batches and `SiftingBatch`es."""

    @abstractmethod
    def transform(self, batch: Any) -> SiftingBatch:
        """A batch of the loader as one that can be sifted."""

    @abstractmethod
    def reverse_transform(self, batch: Any) -> Any:
        """Kept and accumulated rows as a batch such as the loader gives."""
