"""How rows leave a buffer: in batches, in order of arrival or by length within a window, cut to their longest row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from puresift import keys, trees
from puresift.buffers import objects, ring
from puresift.types import Batch, Buffer, Key, Pad

Lengths = Callable[[Batch], Tensor]  # batch -> Int[B], the length of each row


class Windows(NamedTuple):
    """How rows leave. A window of several batches fills before any of them leaves."""

    batch_size: int
    batches: int  # in a window
    length: Lengths | None  # batches are cut to their longest row by it
    bucket: Lengths | None  # rows are sorted by it within a window
    pads: Mapping[str, Pad]

    @property
    def rows(self) -> int:
        """Rows in a window."""
        return self.batch_size * self.batches

    def empty(self, batch: Batch) -> Buffer:
        """A buffer for such pools."""
        return ring.empty(self.padded(batch), self.batch_size, window=self.batches)

    def padded(self, batch: Batch, device: torch.device | None = None) -> Batch:
        """The batch as the buffer holds it: ragged rows padded, Python objects replaced by their serial numbers."""
        rows = trees.numbered(batch)
        return trees.pad(rows if device is None else trees.to(rows, device), self.pads)

    def widths(self, buffer: Buffer, key: Key) -> Tensor:
        """Int64[batches]: the longest row of each batch of the window, as they leave; Int64[0] where none is cut."""
        if self.length is None or not self.pads:
            return buffer.fill[:0]
        slots = ring.window_slots(buffer, self.rows)
        if self.bucket is not None:
            slots = slots[self._order(buffer, key)]
        lengths = ring.lengths(buffer, self.length)[slots]
        return lengths.unflatten(0, (-1, self.batch_size)).amax(1).clamp(min=1)

    def take(self, buffer: Buffer, key: Key, width: int | None) -> tuple[Buffer, tuple[Batch, Tensor]]:
        """The next batch out of a full buffer; its width is read off the buffer unless it is given."""
        if width is None:
            ring.check(buffer, self.rows)
            widths = self.widths(buffer, key)
            width = int(widths[(self.rows - buffer.fill[1]) // self.batch_size]) if len(widths) else 0
        order = self._order(buffer, key) if self.bucket is not None else None
        after, (batch, weights) = ring.pop(buffer, self.batch_size, window=self.batches, order=order)
        batch = objects.resolved(batch, buffer)
        return after, (trees.trim(batch, self.pads, width) if width and self.pads else batch, weights)

    def flush(self, buffer: Buffer, key: Key) -> tuple[Buffer, list[tuple[Batch, Tensor]]]:
        """All that is left: full batches as `take` gives them, then the rest in order of arrival."""
        batches = []
        while bool(ring.full(buffer)):
            buffer, taken = self.take(buffer, key, None)
            batches.append(taken)
        slots = ring.held_slots(buffer)
        for part in slots.split(self.batch_size) if len(slots) else ():
            batch, weights = ring.rows_at(buffer, part)
            batch = objects.resolved(batch, buffer)
            if self.length is not None and self.pads:
                batch = trees.trim(batch, self.pads, max(int(self.length(batch).max()), 1))
            batches.append((batch, weights))
        return ring.emptied(buffer, self.rows), batches

    def _order(self, buffer: Buffer, key: Key) -> Tensor:
        """Int64[rows]: the order in which the rows of the window leave."""
        assert self.bucket is not None
        lengths = ring.lengths(buffer, self.bucket)[ring.window_slots(buffer, self.rows)]
        # The shuffle must not change while the window leaves, so it depends only on the rows in the window.
        name = (lengths * torch.arange(1, self.rows + 1, device=lengths.device)).sum()
        return by_length(lengths, self.batch_size, keys.uniform(keys.fold_in(key, name), self.batches))


def by_length(lengths: Tensor, batch_size: int, shuffle: Tensor) -> Tensor:
    """The order in which a window leaves: sorted by length, cut into batches, the batches shuffled.

    Args:
        lengths: Int[W * batch_size], of the window's rows in order of arrival.
        batch_size: rows in a batch.
        shuffle: Float[W], a uniform number per batch.

    Returns:
        Int64[W * batch_size], a permutation; equal lengths stay in order.
    """
    order = torch.argsort(lengths, stable=True)
    return order.unflatten(0, (-1, batch_size))[torch.argsort(shuffle)].flatten()
