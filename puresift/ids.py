"""Sample ids: a map-style dataset whose batches know which samples they hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset, default_collate

from puresift.types import Batch


class Numbered(NamedTuple):
    """An item of the dataset, and its place in it."""

    item: Any
    id: int


class with_ids(Dataset[Numbered]):
    """A dataset whose batches carry ids; the collate function sees its items as before.

    `DataLoader(dataset, ..., collate_fn=dataset.collate)`: batches that are mappings gain an "id", Int64[B], which is
    where scores that remember look for it; tuples and lists gain it as their last entry, and anything else becomes the
    pair (batch, id). There, say `id=lambda batch: batch[-1]`.

    Args:
        dataset: map-style: `__getitem__` and `__len__`; items of any kind.
        collate: items to batch; torch's own by default.

    Raises:
        ValueError: the dataset has no length or cannot be indexed, or a batch has an "id" already.

    Example:
        >>> dataset = with_ids([{"x": 0.5}, {"x": 1.5}, {"x": 2.5}])
        >>> dataset.collate([dataset[2], dataset[0]])["id"]
        tensor([2, 0])
    """

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Batch] = default_collate):
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise ValueError(
                f"ids number the items of a map-style dataset, and a {type(dataset).__name__} has no "
                "__getitem__ and __len__; let a stream write its own ids into its batches"
            )
        self.dataset, self._collate = dataset, collate
        if hasattr(dataset, "set_epoch"):
            self.set_epoch = dataset.set_epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, id: int) -> Numbered:
        return Numbered(self.dataset[id], int(id) % len(self))

    def __getitems__(self, ids: Sequence[int]) -> list[Numbered]:
        many = getattr(self.dataset, "__getitems__", None)
        items = many(ids) if many else [self.dataset[id] for id in ids]
        return [Numbered(item, int(id) % len(self)) for item, id in zip(items, ids, strict=True)]

    def collate(self, items: list[Numbered]) -> Batch:
        """The collated batch, and its ids with it."""
        batch, ids = self._collate([item for item, _ in items]), torch.tensor([id for _, id in items])
        if isinstance(batch, Mapping):
            if "id" in batch:
                raise ValueError('the batch has an "id" already; use that one, or rename it in the collate function')
            return {**batch, "id": ids}
        if isinstance(batch, list | tuple):
            return (*batch, ids)
        return batch, ids
