"""Batches that were handed out and wait for their losses, oldest first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from puresift.errors import SiftError
from puresift.ids import checked


class Handed(NamedTuple):
    """A batch of ids, the same on all ranks; a rank's own rows are [rank::ranks]."""

    ids: Tensor  # Int64[B]
    weights: Tensor  # Float[B]


class Queue:
    """What waits, and how much of it was handed out in this pass; the rest, of an earlier pass, comes again."""

    def __init__(self, prefetch: int, batch_size: int, size: int):
        self._shape, self._size = (prefetch, batch_size), size
        self.waiting: list[Handed] = []
        self.out = 0

    def __len__(self) -> int:
        return len(self.waiting)

    def again(self) -> bool:
        """Whether a batch of an earlier pass is next."""
        return self.out < len(self.waiting)

    def next(self) -> Handed:
        """The next batch, which stays in the queue."""
        self.out += 1
        return self.waiting[self.out - 1]

    def find(self, ids: list[int], rank: int, world: int) -> int:
        """The place of the oldest batch of which a rank has exactly these ids.

        Raises:
            SiftError: there is none.
        """
        for place, handed in enumerate(self.waiting):
            if handed.ids[rank::world].tolist() == ids:
                return place
        checked(torch.tensor(ids), self._size)
        rows = self._shape[1] // world
        if len(ids) != rows:
            raise SiftError(
                f"these are {len(ids)} ids, and the batches handed out have {rows}; pass those of a whole batch, and "
                f"a DataLoader that takes single ids batch_size={rows}"
            )
        raise SiftError(
            f"no batch that waits for its losses has these ids, {_few(ids)}: it was observed already, or never handed "
            "out, or its rows were reordered; ask for weights before observing, and observe each batch once, with its "
            "ids as ps.with_ids gives them"
        )

    def take(self, place: int) -> Handed:
        """The batch at this place, which leaves the queue."""
        self.out -= place < self.out
        return self.waiting.pop(place)

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors of fixed shapes."""
        ids, weights = torch.zeros(self._shape, dtype=torch.int64), torch.zeros(self._shape)
        for place, handed in enumerate(self.waiting):
            ids[place], weights[place] = handed
        return {"queue/ids": ids, "queue/weights": weights, "queue/count": torch.tensor(len(self.waiting))}

    def load_state_dict(self, flat: Mapping[str, Tensor]) -> None:
        """What waited when `flat` was taken, to be handed out again."""
        ids, weights, count = (flat[f"queue/{name}"] for name in ("ids", "weights", "count"))
        if int(count) > self._shape[0]:
            raise SiftError(
                f"{int(count)} batches wait in the state, so prefetch must be as many, not {self._shape[0]}"
            )
        pairs = zip(ids[: int(count)], weights[: int(count)], strict=True)
        self.waiting, self.out = [Handed(one.clone(), other.clone()) for one, other in pairs], 0


def _few(ids: list[int]) -> str:
    return f"[{', '.join(map(str, ids[:4]))}{', ...' if len(ids) > 4 else ''}]"
