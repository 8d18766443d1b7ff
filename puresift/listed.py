"""Lists with one entry a row: any Python objects, or trees of tensors whose shapes differ from row to row."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

_serial = itertools.count()


class Serial(NamedTuple):
    """Replaces Python objects in a buffer, as tensors cannot hold them; the number tensor owns them, see `carry`."""

    number: Tensor  # Int64[B]


class RowSerial(NamedTuple):
    """The same for `Rows`, whose tensors can be saved."""

    number: Tensor  # Int64[B]


class Objects(list[Any]):
    """A list of B Python objects that belong to the rows of a batch."""

    def __init__(self, items: Any):
        super().__init__(items)
        self.numbers = fresh(len(self))


class Rows(Objects):
    """A list of B trees of tensors, one a row, as detection's targets are; their shapes may differ."""


def fresh(count: int) -> Tensor:
    """Int64[count]: serial numbers that no object has."""
    return torch.tensor([next(_serial) for _ in range(count)], dtype=torch.int64)


def tree(value: Any) -> bool:
    """Whether a value may hold tensors."""
    return isinstance(value, Tensor | Mapping | list | tuple)


def read(batch: Any) -> Any:
    """The batch with lists of one entry a row made `Rows`, where nothing else gives its leaves one number of rows.

    A list of tensors is as a rule a list of columns. So lists are read by rows only where their columns disagree: those
    within the batch first, [images, [target, target]], then the batch itself, [(image, target), (image, target)].
    """
    if not tree(batch) or isinstance(batch, Tensor | Objects):
        return batch
    inner = _marked(batch)
    whole = [Rows(batch)] if _alike_all(batch) else []
    if (inner is batch and not whole) or agree(batch):
        return batch
    return next((one for one in [inner, *whole] if agree(one)), batch)


def read_as(batch: Any, first: Any) -> Any:
    """The batch with those lists made `Rows` that were so in the first one, of which `first` has the structure."""
    if isinstance(first, RowSerial):
        several = isinstance(batch, list | tuple) and not isinstance(batch, Objects) and all(map(tree, batch))
        return Rows(batch) if several else batch
    if isinstance(batch, Objects):
        return batch
    if isinstance(batch, Mapping) and isinstance(first, Mapping):
        parts = {name: read_as(part, first[name]) if name in first else part for name, part in batch.items()}
        return batch if _same(parts.values(), batch.values()) else parts
    if isinstance(batch, list | tuple) and isinstance(first, list | tuple) and len(batch) == len(first):
        return _with(batch, [read_as(*pair) for pair in zip(batch, first, strict=True)])
    return batch


def agree(batch: Any) -> bool:
    """Whether all leaves have one number of rows."""
    sizes = list(_sizes(batch))
    return bool(sizes) and sizes[0] >= 0 and not any(size != sizes[0] for size in sizes)


def tensors(value: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors within a value, by name."""
    if isinstance(value, Tensor):
        yield "", value
        return
    if isinstance(value, Mapping):
        parts = list(value.items())
    else:
        parts = list(enumerate(value)) if isinstance(value, list | tuple) else []
    for name, part in parts:
        for rest, tensor in tensors(part):
            yield (f"{name}/{rest}" if rest else str(name)), tensor


def moved(rows: Rows, device: torch.device) -> Rows:
    """The rows with their tensors on `device`, under the same numbers."""
    if all(tensor.device == device for _, tensor in tensors(rows)):
        return rows
    there = Rows(_mapped(row, device) for row in rows)
    there.numbers = rows.numbers
    return there


def _mapped(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {name: _mapped(part, device) for name, part in value.items()}
    return _with(value, [_mapped(part, device) for part in value]) if isinstance(value, list | tuple) else value


def _marked(batch: Any, root: bool = True) -> Any:
    """The outermost lists of like entries within a batch made `Rows`; the batch itself where there are none."""
    if not tree(batch) or isinstance(batch, Tensor | Objects):
        return batch
    if isinstance(batch, Mapping):
        parts = {name: _marked(part, False) for name, part in batch.items()}
        return batch if _same(parts.values(), batch.values()) else parts
    return Rows(batch) if not root and _alike_all(batch) else _with(batch, [_marked(part, False) for part in batch])


def _with(batch: Any, parts: list[Any]) -> Any:
    """A list or tuple of these parts, or the old one if they are its own."""
    if _same(parts, batch):
        return batch
    return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)


def _same(parts: Any, others: Any) -> bool:
    return all(part is other for part, other in zip(parts, others, strict=True))


def _alike_all(batch: Any) -> bool:
    """Whether it is a list of trees of one kind."""
    if not isinstance(batch, list | tuple) or hasattr(batch, "_fields") or isinstance(batch, Objects):
        return False
    return bool(batch) and all(tree(item) and _alike(batch[0], item) for item in batch)


def _alike(one: Any, other: Any) -> bool:
    """Whether two entries have the same parts, with tensors of one type and number of dimensions unless empty."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return (one.dtype, one.ndim) == (other.dtype, other.ndim) or not (one.numel() and other.numel())
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_alike(part, other[name]) for name, part in one.items())
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    return tree(one) == tree(other) and (not tree(one) or (isinstance(one, list) and isinstance(other, list)))


def _sizes(batch: Any) -> Iterator[int]:
    """The number of rows of each leaf; -1 for one that has none."""
    if isinstance(batch, Tensor):
        yield batch.shape[0] if batch.ndim else -1
    elif isinstance(batch, Objects) or (isinstance(batch, list | tuple) and batch and not any(map(tree, batch))):
        yield len(batch)
    elif isinstance(batch, Mapping):
        for part in batch.values():
            yield from _sizes(part)
    elif isinstance(batch, list | tuple):
        for part in batch:
            yield from _sizes(part)
