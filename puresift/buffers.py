"""A fixed-capacity FIFO of rows: kept rows go in, full batches come out, in order, each exactly once.

The capacity C is window * batch_size + pool + 1: a full window that has not left, the pool that arrives meanwhile, and
the slot where a refill that keeps nothing writes. Rows lie in a ring, so that a refill copies no more than the buffer,
and of large leaves the chunks it writes to.
"""

from __future__ import annotations

import torch
from torch import Tensor

from puresift import chunks, trees
from puresift.types import Batch, Buffer, Kept


def empty(batch: Batch, batch_size: int, *, window: int = 1) -> Buffer:
    """A buffer for rows like those of `batch`, and pools of up to as many.

    Args:
        batch: the largest pool to come; its values do not matter.
        batch_size: rows in a batch that leaves.
        window: batches that leave together, when rows are to be sorted by length among themselves.

    Returns:
        A buffer that holds no row.

    Example:
        >>> buffer = empty(torch.zeros(8, 3), batch_size=4)
        >>> buffer.rows.shape, bool(full(buffer))
        (torch.Size([13, 3]), False)
    """
    capacity = window * batch_size + trees.batch_size(batch) + 1
    weights = torch.zeros(capacity, device=_device(batch))
    rows = trees.map_leaves(lambda leaf: chunks.chunked(leaf.new_zeros((capacity, *leaf.shape[1:]))), batch)
    return Buffer(rows, weights, torch.tensor([0, window * batch_size, 0], device=weights.device))


def refill(buffer: Buffer, kept: Kept) -> Buffer:
    """The buffer with the kept rows behind those it holds, in their order.

    Args:
        buffer: where they go.
        kept: rows [B, ...], weights Float[B], mask Bool[B].

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
    count = kept.mask.sum()
    # Past the last kept row, write that row again: the same bits in the same slot, so shapes stay fixed.
    place = torch.arange(kept.mask.shape[0], device=tail.device).minimum((count - 1).clamp(min=0))
    source = torch.argsort((~kept.mask).to(torch.uint8), stable=True)[place]
    slot = (tail + place) % capacity
    rows, weights = chunks.map_leaves(
        lambda old, new: chunks.scatter(old, slot, new, source),
        (buffer.rows, buffer.weights),
        (kept.rows, kept.weights.to(buffer.weights.dtype)),
    )
    return Buffer(rows, weights, torch.stack([held + count, due, (tail + count) % capacity]))


def full(buffer: Buffer) -> Tensor:
    """Whether a batch may leave.

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
    """Int64[span]: where the oldest `span` rows lie, those of an open window that have left included."""
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
    """`take` without its check: pure to the last bit, for use where `full` is already known.

    Args:
        buffer: a full one.
        batch_size: rows that leave.
        window: batches in a window.
        order: Int64[window * batch_size], the order in which the rows of the window leave; by arrival without it.

    Returns:
        The new buffer, and rows [batch_size, ...] with weights Float[batch_size].
    """
    span = window * batch_size
    held, due, tail = buffer.fill.unbind()
    slots = window_slots(buffer, span) if order is None else window_slots(buffer, span)[order]
    place = torch.arange(batch_size, device=tail.device) + (span - due)
    chosen = slots[place]
    left = due - batch_size
    fill = torch.stack([held - batch_size, torch.where(left > 0, left, span), tail])
    return Buffer(buffer.rows, buffer.weights, fill), rows_at(buffer, chosen)


def rows_at(buffer: Buffer, slots: Tensor) -> tuple[Batch, Tensor]:
    """The rows and weights in these slots, Int64[n]."""
    rows, weights = chunks.map_leaves(lambda leaf: chunks.gather(leaf, slots), (buffer.rows, buffer.weights))
    return rows, weights


def take(
    buffer: Buffer, batch_size: int, *, window: int = 1, order: Tensor | None = None
) -> tuple[Buffer, tuple[Batch, Tensor]]:
    """The oldest batch out of a full buffer.

    Args:
        buffer: a full one.
        batch_size: rows that leave.
        window: batches in a window.
        order: Int64[window * batch_size], the order in which the rows of the window leave; by arrival without it.

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


def check(buffer: Buffer, span: int) -> None:
    """Refuse a buffer that is not full or has overflowed; reads the fill, so it synchronises.

    Raises:
        RuntimeError: naming the number of rows.
    """
    held, due, _ = buffer.fill.tolist()
    lost = held + (span - due) - (buffer.weights.shape[0] - 1)
    if lost > 0:
        raise RuntimeError(
            f"the buffer overflowed and {lost} kept rows were lost: take batches while full(buffer), before each refill"
        )
    if held < due:
        raise RuntimeError(f"the buffer holds {held} of the {due} rows of a batch; take only when full(buffer)")


def by_length(lengths: Tensor, batch_size: int, shuffle: Tensor) -> Tensor:
    """The order in which a window leaves: sorted by length, cut into batches, the batches shuffled.

    Args:
        lengths: Int[W * batch_size], of the window's rows in their order of arrival.
        batch_size: rows in a batch.
        shuffle: Float[W], a uniform number a batch.

    Returns:
        Int64[W * batch_size], a permutation; equal lengths stay in order.
    """
    order = torch.argsort(lengths, stable=True)
    return order.unflatten(0, (-1, batch_size))[torch.argsort(shuffle)].flatten()


def _device(batch: Batch) -> torch.device:
    return trees.leaves(batch)[0].device
