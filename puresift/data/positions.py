"""Sources that tell their own position: where it is found in a loader, and whether it holds all that was read."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from puresift.data.generators import restored
from puresift.data.pools import begun
from puresift.types import Batch

_INSIDE = ("dataset", "root", "source", "iterable", "_ex_iterable", "ex_iterable")  # of loaders, nodes, Hugging Face's
_BUFFER = "BufferShuffledExamplesIterable"  # whose rows are in no position


def teller(loader: Any) -> Any:
    """What tells the position of a loader; None if nothing does.

    It is the loader itself, or the stream that a plain DataLoader reads in this process. What Accelerate prepared does
    not tell its shuffle, and reads one batch ahead.
    """
    if hasattr(loader, "base_dataloader"):
        return None
    if _tells(loader):
        return loader
    plain = getattr(type(loader), "__iter__", None) is DataLoader.__iter__  # one of another may read ahead
    if not plain or loader.num_workers or not isinstance(loader.dataset, IterableDataset):
        return None
    return loader.dataset if _tells(loader.dataset) else None


def buffered(loader: Any) -> bool:
    """Whether a shuffle buffer of Hugging Face's lies in a loader: rows that wait in it are in no position."""
    waiting, seen = [loader], set[int]()
    while waiting:
        part = waiting.pop()
        if type(part).__name__ == _BUFFER:
            return True
        seen.add(id(part))
        inside = [vars(part).get(name) for name in _INSIDE] if hasattr(part, "__dict__") else []
        inside += getattr(part, "ex_iterables", None) or []
        waiting += [one for one in inside if one is not None and id(one) not in seen]
    return False


def position(loader: Any) -> Any:
    """A copy of the position that a loader tells, as of the last batch that it gave."""
    return copy.deepcopy(teller(loader).state_dict())


def put(loader: Any, place: Any) -> None:
    """Let the next `iter` of a loader go on at a position."""
    teller(loader).load_state_dict(copy.deepcopy(place))


def resumed(loader: Any, place: Any) -> Iterator[Batch]:
    """The batches after a position, none if it is the end; the global generators stay as they are."""
    put(loader, place)
    again = getattr(loader, "restart_on_stop_iteration", None)  # of torchdata's nodes, which begin anew at the end
    try:
        if again:
            loader.restart_on_stop_iteration = False
        with restored():
            return begun(loader)
    finally:
        if again:
            loader.restart_on_stop_iteration = again


def _tells(source: Any) -> bool:
    return all(hasattr(source, name) for name in ("state_dict", "load_state_dict"))
