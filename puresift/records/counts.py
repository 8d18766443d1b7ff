"""What a run counts for its report: losses by bin, rows by class, and how often each sample was seen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from puresift.types import Info

# 64 bins per decade on both sides of zero, because a score may be negative. Values outside count in the end bins, and
# those below 1e-6 in absolute value in the middle bin.
_ARM = torch.logspace(-6, 6, 769, dtype=torch.float64)
EDGES = torch.cat([-_ARM.flip(0), _ARM])


class Histogram:
    """Losses seen and kept, by bin."""

    def __init__(self, counts: Tensor | None = None):
        self.counts = torch.zeros(2, len(EDGES) - 1, dtype=torch.int64) if counts is None else counts  # seen, kept

    def add(self, info: Info) -> None:
        """Count the finite losses of an info on the host."""
        finite = info.losses.isfinite()
        for row, chosen in enumerate((finite, finite & info.mask)):
            places = torch.bucketize(info.losses[chosen].double(), EDGES) - 1
            self.counts[row] += places.clamp(0, len(EDGES) - 2).bincount(minlength=len(EDGES) - 1)

    def line(self) -> dict[str, Any] | None:
        """Edges and counts over the bins in use; None where nothing was scored."""
        used = self.counts[0].nonzero()
        if not len(used):
            return None
        first, last = int(used.min()), int(used.max()) + 1
        seen, kept = self.counts[:, first:last].tolist()
        return {"edges": [float(f"{e:.6g}") for e in EDGES[first : last + 1]], "seen": seen, "kept": kept}


class Classes:
    """Rows seen and kept, by label."""

    def __init__(self, table: Tensor | None = None):
        self.table = torch.zeros(0, 3, dtype=torch.int64) if table is None else table  # label, seen, kept

    def add(self, info: Info) -> None:
        """Count the rows of an info that has a column "label"."""
        label = info.extra.get("label")
        if label is None:
            return
        rows = torch.stack([label.long(), torch.ones_like(label.long()), info.mask.long()], 1)
        labels, place = torch.cat([self.table[:, 0], rows[:, 0]]).unique(return_inverse=True)
        counts = torch.zeros(len(labels), 2, dtype=torch.int64)
        counts.index_add_(0, place, torch.cat([self.table, rows])[:, 1:])
        self.table = torch.cat([labels[:, None], counts], 1)


class Samples:
    """How often each sample was seen, kept and scored, its summed loss and its label, by id."""

    def __init__(self, state: Mapping[str, Tensor]):
        self.ids = state.get("ids", torch.zeros(0, dtype=torch.int64))
        self.table = state.get("table", torch.zeros(0, 5, dtype=torch.float64))  # seen, kept, scored, loss, label
        self._pending: list[tuple[Tensor, Tensor]] = []  # rows not added to the table yet

    def add(self, info: Info) -> None:
        """Count the rows of an info that has a column "id"."""
        if "id" not in info.extra:
            return
        finite, ones = info.losses.isfinite(), torch.ones(len(info.losses), dtype=torch.float64)
        label = info.extra.get("label")
        named = ones * math.nan if label is None else label.double()
        entries = [ones, info.mask.double(), finite.double(), info.losses.double().where(finite, 0.0), named]
        self._pending.append((info.extra["id"].long(), torch.stack(entries, 1)))
        if sum(len(ids) for ids, _ in self._pending) > max(4096, len(self.ids) // 2):
            self.merge()

    def merge(self) -> None:
        """Add the pending rows to the table; rarely, because it sorts all ids."""
        pending, self._pending = self._pending, []
        old = torch.cat([self.table, *(rows for _, rows in pending)])
        self.ids, place = torch.cat([self.ids, *(ids for ids, _ in pending)]).unique(return_inverse=True)
        self.table = torch.zeros(len(self.ids), 5, dtype=torch.float64)
        self.table[:, :4].index_add_(0, place, old[:, :4])
        self.table[place, 4] = old[:, 4]

    def ranked(self, most: int) -> list[tuple[str, int]]:
        """Table rows of the most kept samples, hardest first, and of the least kept ones, easiest first."""
        seen, kept, scored, loss, _ = self.table.unbind(1)
        mean = torch.where(scored > 0, loss / scored, 0.0)
        order = sorted(range(len(seen)), key=list(zip((kept / seen).tolist(), mean.tolist(), strict=True)).__getitem__)
        shown = min(most, len(order) // 2)
        return [("most", at) for at in order[::-1][:shown]] + [("least", at) for at in order[:shown]]
