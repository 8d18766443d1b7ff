"""How rows leave a buffer: in batches, in order of arrival or by length within a window, cut to their longest row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from puresift import keys, settings, signals, trees
from puresift.buffers import objects, ring
from puresift.errors import ArgumentError, SiftError
from puresift.types import Batch, Buffer, Key, Pad

Lengths = Callable[[Batch], Tensor]  # batch -> Int[B], the length of each row


def declared(pads: Mapping[str, Any]) -> dict[str, Pad]:
    """The paddings by leaf, each checked to be one.

    Raises:
        SiftError: it is none, or its length is out of range.
    """
    if not isinstance(pads, Mapping):
        raise ArgumentError(f"pad is {pads!r}; pass a ps.Pad by the name of each ragged leaf, or leave it out")
    checked = {}
    for name, pad in pads.items():
        if not isinstance(pad, tuple) or len(pad) != 2:
            raise ArgumentError(
                f"pad={{{name!r}: {pad!r}}} is no padding; pass ps.Pad(value, length), as ps.Pad(0, 128)"
            )
        value: Any = settings.plain(pad[0])
        if not isinstance(value, int | float):
            raise ArgumentError(f"leaf {name!r} is padded by a number, got {value!r}; pass ps.Pad(value, length)")
        checked[name] = Pad(value, settings.count(f"the length of the padded {name!r}", pad[1]))
    return checked


class Windows(NamedTuple):
    """How rows leave. A window of several batches fills before any of them leaves."""

    batch_size: int
    batches: int  # in a window
    length: Lengths | None  # batches are cut to their longest row by it
    bucket: Lengths | None  # rows are sorted by it within a window
    pads: Mapping[str, Pad]
    spare: int = 0  # slots for rows that other ranks hand over

    @property
    def rows(self) -> int:
        """Rows in a window."""
        return self.batch_size * self.batches

    def empty(self, batch: Batch) -> Buffer:
        """A buffer for such pools."""
        return ring.empty(self.padded(batch), self.batch_size, window=self.batches, spare=self.spare)

    def pool(self, buffer: Buffer) -> int:
        """Rows in the largest pool that such a buffer takes."""
        return buffer.weights.shape[0] - self.rows - 1 - self.spare

    def padded(self, batch: Batch, device: torch.device | None = None) -> Batch:
        """The batch as the buffer holds it: ragged rows padded, Python objects replaced by their serial numbers."""
        rows = trees.numbered(batch)
        return trees.pad(rows if device is None else trees.to(rows, device), self.pads)

    def cut(self, rows: Batch) -> Tensor | None:
        """Int64[]: how many of these padded rows have content past their `length`, which would be cut as they leave.
        None where none is ever cut.

        Content is where none of the padded leaves holds its padding; a leaf of nothing but padding has no say.

        Raises:
            SiftError: there are such rows, where that can be read for free (on the CPU, uncompiled); or lengths are not
                one a row.
        """
        if self.length is None or not self.pads:
            return None
        size, device = trees.batch_size(rows), trees.leaves(rows)[0].device
        lengths = self.length(rows)
        if not isinstance(lengths, Tensor) or lengths.shape != (size,) or lengths.dtype == torch.bool:
            got = f"{lengths.dtype}{list(lengths.shape)}" if isinstance(lengths, Tensor) else type(lengths).__name__
            raise SiftError(f"length= (or bucket=) must give a whole number a row, Int[{size}], got {got}")
        filled = _filled(rows, self.pads)
        past = torch.arange(filled.shape[1], device=device) >= lengths.clamp(min=1)[:, None]
        cut = (filled & past).any(1).sum()
        if cut.device.type == "cpu" and not trees.unreadable(cut > 0):
            signals.uncut(int(cut))
        return cut

    def widths(self, buffer: Buffer, key: Key) -> Tensor:
        """Int64[batches]: the longest row of each batch of the window, as they leave; Int64[0] where none is cut."""
        if self.length is None or not self.pads:
            return buffer.fill[:0]
        slots = ring.window_slots(buffer, self.rows)
        if self.bucket is not None:
            slots = slots[self._order(buffer, key)]
        lengths = ring.lengths(buffer, self.length)[slots]
        return lengths.unflatten(0, (-1, self.batch_size)).amax(1).clamp(min=1)

    def take(
        self, buffer: Buffer, key: Key, width: int | None, pop: Callable[..., Any] = ring.pop
    ) -> tuple[Buffer, tuple[Batch, Tensor]]:
        """The next batch out of a full buffer, by `ring.pop`; its width is read off the buffer unless it is given."""
        if width is None:
            ring.check(buffer, self.rows)
            widths = self.widths(buffer, key)
            width = int(widths[(self.rows - buffer.fill[1]) // self.batch_size]) if len(widths) else 0
        order = self._order(buffer, key) if self.bucket is not None else None
        after, (batch, weights) = pop(buffer, self.batch_size, window=self.batches, order=order)
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
            batches.append(self.rows_at(buffer, part))
        return ring.emptied(buffer, self.rows), batches

    def rows_at(self, buffer: Buffer, slots: Tensor) -> tuple[Batch, Tensor]:
        """The rows in these slots as they leave, cut to the longest of them, and their weights."""
        batch, weights = ring.rows_at(buffer, slots)
        batch = objects.resolved(batch, buffer)
        if self.length is not None and self.pads:
            batch = trees.trim(batch, self.pads, max(int(self.length(batch).max()), 1))
        return batch, weights

    def _order(self, buffer: Buffer, key: Key) -> Tensor:
        """Int64[rows]: the order in which the rows of the window leave."""
        assert self.bucket is not None
        lengths = ring.lengths(buffer, self.bucket)[ring.window_slots(buffer, self.rows)]
        # The shuffle must not change while the window leaves, so it depends only on the rows in the window.
        name = (lengths * torch.arange(1, self.rows + 1, device=lengths.device)).sum()
        return by_length(lengths, self.batch_size, keys.uniform(keys.fold_in(key, name), self.batches))


def _filled(rows: Batch, pads: Mapping[str, Pad]) -> Tensor:
    """Bool[B, L]: where no padded leaf holds its padding; leaves of nothing else, and shorter ones, have no say."""
    named = {name: leaf for name, leaf in trees.named(rows) if name in pads}
    width = max(leaf.shape[1] for leaf in named.values())
    votes, said = [], []
    for name, leaf in named.items():
        value = pads[name].value
        other = ~leaf.isnan() if value != value else leaf != value
        other = other.flatten(2).any(2) if other.ndim > 2 else other
        votes.append(torch.nn.functional.pad(other | ~other.any(), (0, width - leaf.shape[1]), value=True))
        said.append(other.any())
    return torch.stack(votes).all(0) & torch.stack(said).any()


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
