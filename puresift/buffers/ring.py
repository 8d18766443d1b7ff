"""A fixed-capacity FIFO of rows: kept rows go in, full batches come out, in order, each exactly once.

The capacity C is window * batch_size + pool + 1: a full window that is still held, one pool of new rows, and
the slot that a refill which keeps nothing writes to. Rows lie in a ring, so a refill copies at most the buffer, and of
large leaves only the chunks it writes to.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from puresift import signals, trees
from puresift.buffers import chunks
from puresift.errors import MomentError
from puresift.types import Batch, Buffer, Kept


def empty(batch: Batch, batch_size: int, *, window: int = 1, spare: int = 0) -> Buffer:
    """A buffer for rows like those of `batch`, and pools of up to as many.

    Args:
        batch: the largest pool to come; its values do not matter.
        batch_size: rows in a batch that leaves.
        window: batches that leave together, when rows are to be sorted by length among themselves.
        spare: further slots, for rows that come from elsewhere.

    Returns:
        A buffer that holds no row.

    Example:
        >>> buffer = empty(torch.zeros(8, 3), batch_size=4)
        >>> buffer.rows.shape, bool(full(buffer))
        (torch.Size([13, 3]), False)
    """
    capacity = window * batch_size + trees.batch_size(batch) + 1 + spare
    weights = torch.zeros(capacity, device=_device(batch))
    rows = trees.map_leaves(lambda leaf: chunks.chunked(leaf.new_zeros((capacity, *leaf.shape[1:]))), batch)
    return Buffer(rows, weights, torch.tensor([0, window * batch_size, 0], device=weights.device))


def refill(buffer: Buffer, kept: Kept, *, count: int | None = None) -> Buffer:
    """The buffer with the kept rows added after those it holds, in order.

    Args:
        buffer: where they go.
        kept: rows [B, ...], weights Float[B], mask Bool[B].
        count: how many rows are added, where that is known; it saves a device some work. Where the mask keeps fewer,
            the first of them is added again.

    Returns:
        A new buffer; the old one is untouched. Rows beyond the capacity are counted, and `take` then raises.

    Example:
        >>> buffer = empty(torch.zeros(4), batch_size=2)
        >>> rows = torch.arange(4.0)
        >>> buffer = refill(buffer, Kept(rows, torch.ones(4), rows >= 2))
        >>> take(buffer, 2)[1]
        (tensor([2., 3.]), tensor([1., 1.]))
    """
    held, due, tail = buffer.fill.unbind()
    capacity = buffer.weights.shape[0]
    if torch.compiler.is_compiling():
        write, number = _merging(kept.mask, (torch.arange(capacity, device=tail.device) - tail) % capacity)
        tail = (tail + number) % capacity
    else:
        source, place = _sources(kept.mask, count)
        slots = (tail + place) % capacity
        write, number, tail = partial(chunks.scatter, slots=slots[:-1], source=source), place[-1], slots[-1]
    rows = chunks.map_leaves(lambda old, new: write(old, rows=new), buffer.rows, kept.rows)
    weights: Any = write(buffer.weights, rows=kept.weights.to(buffer.weights.dtype))
    return Buffer(rows, weights, signals.vector([held + number, due, tail]))


def _sources(mask: Tensor, count: int | None) -> tuple[Tensor, Tensor]:
    """Int64[n] which rows are written, and Int64[n + 1] to the how many-th slot, the last entry being the number kept.

    Of a pool that keeps nothing, its first row is written to the slot that the next kept row overwrites.
    """
    try:
        mask.data_ptr()  # under vmap there is none, and the number of rows cannot be known
        if count is not None:
            source = torch.nonzero_static(mask, size=count, fill_value=-1)[:, 0]
            source = source.maximum(source[:1].clamp(min=0))
            return source, torch.arange(count + 1, device=mask.device)
        if mask.device.type == "cpu":
            source = mask.nonzero()[:, 0]
            if len(source):
                return source, torch.arange(len(source) + 1)
            none = torch.zeros(len(mask[:1]) + 1, dtype=torch.int64)
            return none[1:], none
    except RuntimeError:
        pass
    sums = mask.cumsum(0)
    kept = sums[-1] if len(mask) else mask.sum()
    # Past the last kept row, write that row again to the same slot: nothing changes, and shapes stay fixed.
    place = torch.arange(mask.shape[0], device=mask.device).minimum((kept - 1).clamp(min=0))
    return torch.searchsorted(sums, place + 1) % max(mask.shape[0], 1), torch.cat([place, kept[None]])


def _merging(mask: Tensor, place: Tensor) -> tuple[Callable[..., Any], Tensor]:
    """What `_sources` is for, in a form that fuses: all slots read, of which `place`, Int64[C], is the how many-th.

    Returns:
        `write(leaf, rows=...)`, and the number kept.
    """
    sums = mask.cumsum(0)
    kept = mask.sum()
    source = (sums <= place[:, None]).sum(1) % mask.shape[0]  # the row that comes to each slot
    return partial(chunks.merge, new=place < kept.clamp(min=1), source=source), kept


def full(buffer: Buffer) -> Tensor:
    """Whether a batch can be taken.

    Args:
        buffer: any.

    Returns:
        Bool[].

    Example:
        >>> full(empty(torch.zeros(4), batch_size=2))
        tensor(False)
    """
    return buffer.fill[0] >= buffer.fill[1]


def window_slots(buffer: Buffer, span: int) -> Tensor:
    """Int64[span]: where the oldest `span` rows lie, including those of an open window that have left."""
    held, due, tail = buffer.fill.unbind()
    oldest = tail - held - (span - due)
    return (oldest + torch.arange(span, device=tail.device)) % buffer.weights.shape[0]


def held_slots(buffer: Buffer) -> Tensor:
    """Int64[held]: where the rows that have not left lie, oldest first; reads the fill, so it synchronises."""
    held, _, tail = buffer.fill.tolist()
    return (tail - held + torch.arange(held, device=buffer.fill.device)) % buffer.weights.shape[0]


def pop(
    buffer: Buffer, batch_size: int, *, window: int = 1, order: Tensor | None = None
) -> tuple[Buffer, tuple[Batch, Tensor]]:
    """`take` without its check: no host read, for use where `full` is already known.

    Args:
        buffer: a full one.
        batch_size: rows that leave.
        window: batches in a window.
        order: Int64[window * batch_size], the order in which the rows of the window leave; by default that of arrival.

    Returns:
        The new buffer, and rows [batch_size, ...] with weights Float[batch_size].
    """
    span = window * batch_size
    held, due, tail = buffer.fill.unbind()
    place = torch.arange(batch_size, device=tail.device)
    if order is None:
        chosen = (tail - held + place) % buffer.weights.shape[0]
    else:
        chosen = window_slots(buffer, span)[order][place + (span - due)]
    if window > 1:
        left = due - batch_size
        due = torch.where(left > 0, left, span)
    fill = signals.vector([held - batch_size, due, tail])
    return Buffer(buffer.rows, buffer.weights, fill), rows_at(buffer, chosen)


def rows_at(buffer: Buffer, slots: Tensor) -> tuple[Batch, Tensor]:
    """The rows and weights in these slots, Int64[n]."""
    rows = chunks.map_leaves(lambda leaf: chunks.gather(leaf, slots), buffer.rows)
    return rows, chunks.gather(buffer.weights, slots)


def take(
    buffer: Buffer, batch_size: int, *, window: int = 1, order: Tensor | None = None
) -> tuple[Buffer, tuple[Batch, Tensor]]:
    """The oldest batch out of a full buffer.

    Args:
        buffer: a full one.
        batch_size: rows that leave.
        window: batches in a window.
        order: Int64[window * batch_size], the order in which the rows of the window leave; by default that of arrival.

    Returns:
        The new buffer, and rows [batch_size, ...] with weights Float[batch_size].

    Raises:
        RuntimeError: the buffer is not full, or rows were lost because more came in than it has slots.

    Example:
        >>> rows = torch.arange(3.0)
        >>> buffer = refill(empty(rows, batch_size=2), Kept(rows, rows + 1, rows < 2))
        >>> take(buffer, 2)[1]
        (tensor([0., 1.]), tensor([1., 2.]))
    """
    check(buffer, window * batch_size)
    return pop(buffer, batch_size, window=window, order=order)


def emptied(buffer: Buffer, span: int) -> Buffer:
    """The buffer without the rows that it held; `span` rows are due again."""
    left = torch.stack([torch.zeros_like(buffer.fill[0]), torch.full_like(buffer.fill[0], span), buffer.fill[2]])
    return Buffer(buffer.rows, buffer.weights, left)


def example(buffer: Buffer) -> Batch:
    """Some rows of the buffer, for their structure, dtypes and shapes, independent of how the buffer stores them.

    Args:
        buffer: any.

    Returns:
        A batch with arbitrary values.

    Example:
        >>> example(empty({"x": torch.zeros(8, 3)}, batch_size=4))["x"].shape
        torch.Size([13, 3])
    """
    return chunks.first(buffer.rows)


def lengths(buffer: Buffer, length: Callable[[Batch], Tensor]) -> Tensor:
    """The length of the row in each slot.

    Args:
        buffer: any.
        length: `length(batch)`, Int[B].

    Returns:
        Int[C].

    Example:
        >>> lengths(empty(torch.zeros(2, 3), batch_size=1), lambda rows: (rows > 0).sum(1))
        tensor([0, 0, 0, 0])
    """
    return length(chunks.whole(buffer.rows))


def check(buffer: Buffer, span: int) -> None:
    """Refuse a buffer that is not full or has overflowed; reads the fill, so it synchronises.

    Raises:
        RuntimeError: naming the number of rows.
    """
    held, due, _ = buffer.fill.tolist()
    lost = held + (span - due) - (buffer.weights.shape[0] - 1)
    if lost > 0:
        raise MomentError(
            f"the buffer overflowed and {lost} kept rows were lost: take batches while full(buffer), before each refill"
        )
    if held < due:
        raise MomentError(f"the buffer holds {held} of the {due} rows of a batch; take only when full(buffer)")


def _device(batch: Batch) -> torch.device:
    return trees.leaves(batch)[0].device
