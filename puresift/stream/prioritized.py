"""The stream of drawn batches: ids from a prioritizer, rows gathered, losses fed back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from puresift import trees
from puresift.errors import SiftError
from puresift.prioritizers import Prioritizer, PrioritizerState, left, next_batch
from puresift.stream.runs import Once
from puresift.types import Batch, Info, Losses, Sifted


def prioritize(
    prioritizer: Prioritizer,
    state: PrioritizerState,
    data: Any,
    *,
    collate: Callable[[list[Any]], Batch] | None = None,
    device: torch.device | str | None = None,
) -> Prioritized:
    """Draw batches of ids, gather their rows and yield them: the twin of `ps.sift` for data that come again.

    Call `stream.observe(losses)` with the per-sample losses of each batch: these are what the next draws go by.

    Args:
        prioritizer: from `ps.prioritizer`.
        state: from `prioritizer.init`, or a saved one, from which the stream goes on with the same bits. Save
            `stream.state` after `observe`: the state that is yielded with a batch is from before its losses were known.
        data: a tree of tensors that share their leading dimension, gathered on their device; or a map-style dataset,
            whose items are read by id.
        collate: items to batch, for a dataset; torch's own by default.
        device: where a dataset's batches go.

    Returns:
        An iterator of `Sifted(batch, weights, state, info)`: rows [B, ...], weights Float[B], the state right after the
        batch, and an info whose `losses` are those last known and whose `extra["id"]` is Int64[B]. It ends after
        `steps` batches. It has the newest `state`, and `observe(losses, ids=None)`. On a GPU nothing is read on the
        host.

    Raises:
        SiftError: here, when the data have another length than the prioritizer's size, or change it later.

    Example:
        >>> import puresift as ps
        >>> x = torch.arange(4.0)
        >>> prioritizer = ps.prioritizer(ps.importance(keep=0.5), size=4, batch_size=2, steps=2)
        >>> stream = prioritize(prioritizer, prioritizer.init(ps.key(0)), {"x": x})
        >>> for batch, weights, state, info in stream:
        ...     stream.observe(batch["x"].square())
        >>> stream.state.step
        tensor(2)
    """
    return Prioritized(prioritizer, state, data, collate, device)


class Prioritized(Once[Sifted]):
    """What `prioritize` returns: an iterator whose `state` is always the newest, after exhaustion too."""

    _again = "give ps.prioritizer all the steps of the run, steps=passes * size // batch_size"

    def __init__(
        self,
        prioritizer: Prioritizer,
        state: PrioritizerState,
        data: Any,
        collate: Callable[[list[Any]], Batch] | None,
        device: torch.device | str | None,
    ):
        self._prioritizer, self._plan = prioritizer, prioritizer.plan
        self._rows: Tree | Items = Items(data, collate, device) if _is_dataset(data) else Tree(data)
        self._fits()
        plan = self._plan
        found, wanted = [len(state.losses), *state.ids.shape], [plan.size, plan.every, plan.batch_size]
        if found != wanted:
            raise SiftError(
                f"the state is that of {found[0]} samples in draws of {found[1]} x {found[2]}, and the prioritizer has "
                f"{wanted[0]} in draws of {wanted[1]} x {wanted[2]}; build it as when the state was saved"
            )
        self.state = trees.to(state, self._rows.device)
        # On the host, so that nothing is read from a device later.
        self._step, self._left = int(self.state.step), left(self.state)
        self._ids: Tensor | None = None
        self._ended = False

    def __next__(self) -> Sifted:
        if self._plan.steps is not None and self._step >= self._plan.steps:
            self._ended = True
            raise StopIteration
        self._fits()
        state, ids, odds = next_batch(self._prioritizer, self.state, self._left)
        batch = self._rows.at(ids)
        info = Info(state.losses[ids].float(), odds, torch.ones_like(ids, dtype=torch.bool), {"id": ids})
        self.state, self._ids = state, ids
        self._step, self._left = self._step + 1, (self._left or self._plan.every) - 1
        return Sifted(batch, odds.weights, self.state, info)

    def _over(self) -> bool:
        return self._ended

    def observe(self, losses: Losses, ids: Tensor | None = None) -> None:
        """Feed training losses, Float[B], back: those of the batch last yielded, or of the samples `ids`, Int[B]."""
        if self._ids is None:
            raise SiftError("observe takes the losses of the batch last yielded, but none was yielded yet")
        self.state = self._prioritizer.observe(self.state, self._ids if ids is None else ids, losses)

    def _fits(self) -> None:
        if len(self._rows) != self._plan.size:
            raise SiftError(
                f"the data have {len(self._rows)} samples and the prioritizer {self._plan.size}; "
                "build it with size=len(dataset), and anew when the dataset grows"
            )


class Tree:
    """Rows of a tree of tensors."""

    def __init__(self, data: Any):
        self._data = trees.plain(data)
        self._size = trees.batch_size(self._data)
        self.device: torch.device = trees.leaves(self._data)[0].device

    def __len__(self) -> int:
        return self._size

    def at(self, ids: Tensor) -> Batch:
        """The rows of these ids."""
        return trees.index(self._data, ids)


class Items:
    """Items of a map-style dataset, collated."""

    def __init__(self, data: Any, collate: Callable[[list[Any]], Batch] | None, device: torch.device | str | None):
        self._data, self._collate = data, collate or default_collate
        self.device = torch.device(device or "cpu")

    def __len__(self) -> int:
        return len(self._data)

    def at(self, ids: Tensor) -> Batch:
        """The items of these ids, as a batch on the device."""
        numbers, many = ids.tolist(), getattr(self._data, "__getitems__", None)
        items = many(numbers) if many else [self._data[number] for number in numbers]
        return trees.to(trees.plain(self._collate(items)), self.device)


def _is_dataset(data: Any) -> bool:
    """Whether to read items rather than rows: what is no tree of tensors and can be indexed."""
    if isinstance(data, Tensor | Mapping | list | tuple):
        return isinstance(data, list) and not all(isinstance(leaf, Tensor) for leaf in data)
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        raise SiftError(
            f"the data is a {type(data).__name__}; pass a tree of tensors, or a map-style dataset with __getitem__ and "
            "__len__, for ids must find their samples again. Data that come once are sifted by ps.sift"
        )
    return True
