"""Rows as Python lists."""

from __future__ import annotations

from typing import Any

from puresift.integrations.smart_sifting.data_model.data_model_interface import SiftingBatch

__all__ = ["ListBatch"]


class ListBatch(SiftingBatch):
    """Rows in lists; they may be any objects, of any lengths.

    Args:
        inputs: a list with one entry per row.
        labels: another, or None.

    Example:
        >>> ListBatch([[1, 2], [3]], [0, 1]).labels
        [0, 1]
    """

    def __init__(self, inputs: list[Any], labels: list[Any] | None = None):
        self.inputs, self.labels = inputs, labels
