"""Sample ids: datasets whose batches carry them, and the checks of a table by id."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from puresift import trees
from puresift.errors import SiftError
from puresift.types import Batch


class Numbered(NamedTuple):
    """An item of the dataset, and its place in it."""

    item: Any
    id: int


class with_ids(Dataset[Numbered]):
    """A dataset whose batches carry ids; the collate function sees its items as before.

    `DataLoader(dataset, ..., collate_fn=dataset.collate)`: batches that are mappings gain an "id", Int64[B], where
    scores that remember look for it; tuples and lists gain it as their last entry, and anything else becomes the
    pair (batch, id). For the last two, pass `id=lambda batch: batch[-1]`.

    Args:
        dataset: map-style: `__getitem__` and `__len__`; items of any kind.
        collate: items to batch; torch's own by default.

    Raises:
        SiftError: the dataset has no length or cannot be indexed, or a batch has an "id" already.

    Example:
        >>> dataset = with_ids([{"x": 0.5}, {"x": 1.5}, {"x": 2.5}])
        >>> dataset.collate([dataset[2], dataset[0]])["id"]
        tensor([2, 0])
    """

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Batch] = default_collate):
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise SiftError(
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
                raise SiftError('the batch has an "id" already; use that one, or rename it in the collate function')
            return {**batch, "id": ids}
        if isinstance(batch, list | tuple):
            return (*batch, ids)
        return batch, ids


Ids = Callable[[Batch], Tensor]  # batch -> Int[B]


def by_id(batch: Batch) -> Tensor:
    """The ids of a batch that is a mapping with an "id" in it.

    Raises:
        SiftError: there is none.
    """
    if isinstance(batch, Mapping) and isinstance(batch.get("id"), Tensor):
        return batch["id"]
    raise SiftError(
        'the batch carries no ids: add them with ps.with_ids(dataset), which gives a mapping an "id"; '
        "for any other batch say where they are, such as id=lambda batch: batch[-1]"
    )


def newest(ids: Tensor) -> Tensor:
    """The last row with each row's id, Int64[B]: of rows that share an id, the last one is written to a table."""
    ordered, order = ids.sort(stable=True)
    return order[torch.searchsorted(ordered, ids, right=True) - 1]


def ids_of(ids: Tensor, batch: Batch, table: Tensor) -> Tensor:
    """The ids as whole numbers on the table's device."""
    size = trees.batch_size(trees.plain(batch))
    if not isinstance(ids, Tensor) or ids.shape != (size,) or ids.is_floating_point() or ids.dtype == torch.bool:
        got = f"{ids.dtype}{list(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
        raise SiftError(f"ids must be whole numbers of shape [{size}], one a row, got {got}; see ps.with_ids")
    return ids.to(table.device, torch.int64)


def checked(ids: Tensor, size: int) -> Tensor:
    """The ids, checked to be in range unless the check would synchronise, or they cannot be read."""
    if len(ids) and ids.device.type == "cpu" and not trees.unreadable(ids[0] >= 0):
        refuse([*torch.stack(ids.aminmax()).tolist(), 0], size)
    return ids


def facts(ids: Tensor) -> list[Tensor]:
    """The smallest id, the largest, and how many rows repeat an id."""
    return [*ids.aminmax(), (ids.sort().values.diff() == 0).sum()]


def refuse(facts: list[int], size: int) -> None:
    """Raise if the ids, summarised by `facts`, are out of range or repeated.

    Raises:
        SiftError: naming the id and the fix.
    """
    least, most, again = facts
    if least < 0 or most >= size:
        raise SiftError(
            f"ids must lie in [0, {size}), got {least if least < 0 else most}; "
            "pass size=len(dataset), and number the samples by ps.with_ids"
        )
    if again:
        raise SiftError(
            f"{again} rows of the pool repeat the id of another row; number every sample by ps.with_ids, "
            "and draw samples without replacement"
        )
