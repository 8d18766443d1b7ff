"""Tables by sample id: where a batch carries its ids, and whether they can be what they claim."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from puresift import trees
from puresift.types import Batch

Ids = Callable[[Batch], Tensor]  # batch -> Int[B]


def by_id(batch: Batch) -> Tensor:
    """The ids of a batch that is a mapping with an "id" in it.

    Raises:
        ValueError: there is none.
    """
    if isinstance(batch, Mapping) and isinstance(batch.get("id"), Tensor):
        return batch["id"]
    raise ValueError(
        'the batch carries no ids: add them with ps.with_ids(dataset), which gives a mapping an "id"; '
        "for any other batch say where they are, such as id=lambda batch: batch[-1]"
    )


def newest(ids: Tensor) -> Tensor:
    """Where each row's id occurs last, Int64[B]: so that of rows with one id, the last one is written to a table."""
    ordered, order = ids.sort(stable=True)
    return order[torch.searchsorted(ordered, ids, right=True) - 1]


def ids_of(ids: Tensor, batch: Batch, table: Tensor) -> Tensor:
    """The ids as whole numbers on the table's device."""
    size = trees.batch_size(trees.plain(batch))
    if not isinstance(ids, Tensor) or ids.shape != (size,) or ids.is_floating_point() or ids.dtype == torch.bool:
        got = f"{ids.dtype}{list(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
        raise ValueError(f"ids must be whole numbers of shape [{size}], one a row, got {got}; see ps.with_ids")
    return ids.to(table.device, torch.int64)


def checked(ids: Tensor, size: int) -> Tensor:
    """The ids, if they are in range or if to know would mean to wait for the device."""
    if len(ids) and ids.device.type == "cpu" and not torch.compiler.is_compiling():
        refuse([*torch.stack(ids.aminmax()).tolist(), 0], size)
    return ids


def facts(ids: Tensor) -> list[Tensor]:
    """The smallest id, the largest, and how many come again."""
    return [*ids.aminmax(), (ids.sort().values.diff() == 0).sum()]


def refuse(facts: list[int], size: int) -> None:
    """Refuse ids with such facts.

    Raises:
        ValueError: naming the id and the cure.
    """
    least, most, again = facts
    if least < 0 or most >= size:
        raise ValueError(
            f"ids must lie in [0, {size}), got {least if least < 0 else most}; "
            "pass size=len(dataset), and number the samples by ps.with_ids"
        )
    if again:
        raise ValueError(
            f"{again} rows of the pool repeat the id of another row; number every sample by ps.with_ids, "
            "and draw samples without replacement"
        )
