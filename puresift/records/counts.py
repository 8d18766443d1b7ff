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
IDS, LABELS = 2**17, 2**12  # counted at most, so that memory does not grow with a run
OTHERS = -(2**63)  # in place of the labels that came later


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
        label = label.long()
        if len(self.table) >= LABELS:
            label = label.where(torch.isin(label, self.table[:, 0]), OTHERS)
        rows = torch.stack([label, torch.ones_like(label), info.mask.long()], 1)
        labels, place = torch.cat([self.table[:, 0], rows[:, 0]]).unique(return_inverse=True)
        counts = torch.zeros(len(labels), 2, dtype=torch.int64)
        counts.index_add_(0, place, torch.cat([self.table, rows])[:, 1:])
        self.table = torch.cat([labels[:, None], counts], 1)


class Samples:
    """How often each sample was seen, kept and scored, its summed loss and its label, by id.

    Of more than IDS ids, those whose hash ends in enough zero bits: the same ids whatever the order of the rows, and
    none that was ever left out before, so that what is counted of them is complete.
    """

    def __init__(self, state: Mapping[str, Tensor]):
        self.ids = state.get("ids", torch.zeros(0, dtype=torch.int64))
        self.table = state.get("table", torch.zeros(0, 5, dtype=torch.float64))  # seen, kept, scored, loss, label
        self.halvings = int(state.get("halvings", 0))  # of the share of ids that are counted
        self._pending: list[tuple[Tensor, Tensor]] = []  # rows not added to the table yet

    def add(self, info: Info) -> None:
        """Count the rows of an info that has a column "id"."""
        if "id" not in info.extra:
            return
        finite, ones = info.losses.isfinite(), torch.ones(len(info.losses), dtype=torch.float64)
        label = info.extra.get("label")
        named = ones * math.nan if label is None else label.double()
        entries = [ones, info.mask.double(), finite.double(), info.losses.double().where(finite, 0.0), named]
        ids, rows = info.extra["id"].long(), torch.stack(entries, 1)
        if self.halvings:
            chosen = self._counted(ids)
            ids, rows = ids[chosen], rows[chosen]
        self._pending.append((ids, rows))
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
        while len(self.ids) > IDS:
            self.halvings += 1
            chosen = self._counted(self.ids)
            self.ids, self.table = self.ids[chosen], self.table[chosen]

    def _counted(self, ids: Tensor) -> Tensor:
        return _hashed(ids) & ((1 << self.halvings) - 1) == 0

    def ranked(self, most: int) -> list[tuple[str, int]]:
        """Table rows of the most kept samples, hardest first, and of the least kept ones, easiest first."""
        seen, kept, scored, loss, _ = self.table.unbind(1)
        by_mean = torch.where(scored > 0, loss / scored, 0.0).argsort(stable=True)
        order = by_mean[(kept / seen)[by_mean].argsort(stable=True)]
        shown = min(most, len(order) // 2)
        hardest, easiest = order.flip(0)[:shown].tolist(), order[:shown].tolist()
        return [("most", at) for at in hardest] + [("least", at) for at in easiest]


def _hashed(ids: Tensor) -> Tensor:
    """The bits of each id, mixed: splitmix64 without its first addition, in wrapping int64."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        ids = (ids ^ ((ids >> shift) & ((1 << (64 - shift)) - 1))) * (factor - 2**64)
    return ids ^ ((ids >> 31) & ((1 << 33) - 1))
