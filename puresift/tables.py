"""Tables of one entry a sample, too large to be copied at every pool: what was written lately lies beside them.

States never change in place, so a write costs a copy of the table: 59 ms for ten million counts. A large one is kept
together with its last writes, sorted by id, and copied only when there is no more room for them, once in some sixty
pools. Where values cannot be read (under compile or vmap, on a GPU) every write is a copy: the same entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from puresift.trees import unreadable

LARGE = 1 << 18  # entries; a smaller table is copied in less time than its last writes are looked through
RECENT = 1 << 14  # writes; the more, the rarer are copies, and the longer takes a write


class Table(NamedTuple):
    """Stands in a state for a tensor [N] of one entry a sample."""

    values: Tensor  # [N], before what was written lately
    ids: Tensor  # Int64[RECENT], ascending and each once; N where there is none
    recent: Tensor  # [RECENT], the entries of these ids


def table(values: Tensor) -> Tensor | Table:
    """The values themselves where they are few."""
    return values if values.shape[0] < LARGE else _settled(values, RECENT)


def values(table: Tensor | Table) -> Tensor:
    """The tensor that the table stands for, [N]."""
    if isinstance(table, Tensor):
        return table
    beyond = torch.cat([table.values, table.values[-1:]])  # whose last entry is for what is no id
    return beyond.index_copy(0, table.ids, table.recent)[:-1]


def read(table: Tensor | Table, ids: Tensor) -> Tensor:
    """The entries of these ids, Int64[n] -> [n]."""
    if isinstance(table, Tensor):
        return table[ids]
    place = torch.searchsorted(table.ids, ids + torch.zeros_like(table.ids[:1])).clamp(max=table.ids.shape[0] - 1)
    return torch.where(table.ids[place] == ids, table.recent[place], table.values[ids])


def write(table: Tensor | Table, ids: Tensor, entries: Tensor) -> Tensor | Table:
    """The table with other entries for these ids, Int64[n] and [n]; an id that repeats has the same entry each time."""
    if isinstance(table, Tensor):
        return table.index_copy(0, ids, entries)
    size, room = table.values.shape[0], table.ids.shape[0]
    on_host = ids.device.type == "cpu" and table.ids.device.type == "cpu"
    if not on_host or unreadable(table.ids[0] + ids.sum()):
        return _settled(values(table).index_copy(0, ids, entries), room)
    held = int(torch.searchsorted(table.ids, size))
    if held + ids.shape[0] > room:
        whole = table.values.index_copy(0, table.ids[:held], table.recent[:held])
        return _settled(whole.index_copy_(0, ids, entries), room)
    # A merge: to sort all of them again takes twice as long. An id that is there moves up by those that came below it.
    ids, order = ids.sort()
    place = torch.searchsorted(table.ids, ids)
    there = table.ids[place] == ids
    new = ~there
    new[1:] &= ids[1:] != ids[:-1]
    place = place + new.cumsum(0) - (~there).long()
    come = torch.zeros_like(table.ids).index_add_(0, place, new.long()).cumsum(0)
    before = torch.arange(room).sub_(come).clamp_(min=0)
    return Table(
        table.values,
        table.ids.index_select(0, before).index_copy_(0, place, ids),
        table.recent.index_select(0, before).index_copy_(0, place, entries[order]),
    )


def count(table: Tensor | Table, ids: Tensor) -> tuple[Tensor | Table, Tensor, Tensor]:
    """The table with one more for each occurrence of these ids, Int64[n], and their entries before and after."""
    before = read(table, ids)
    if isinstance(table, Tensor):
        counted = table.index_add(0, ids, torch.ones_like(ids))
        return counted, before, counted[ids]
    ordered = ids.sort().values
    often = torch.searchsorted(ordered, ids, right=True) - torch.searchsorted(ordered, ids)
    return write(table, ids, before + often), before, before + often


def settled(table: Tensor | Table) -> Tensor:
    """The table's own tensor, [N], which may lack what was written lately."""
    return table if isinstance(table, Tensor) else table.values


def opened(wanted: Mapping[str, Tensor], flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of a flat state, where a table that was saved as one tensor gets the three names that are wanted."""
    found, mark = dict(flat), f":{Table.__name__}/"
    for name in wanted:
        whole = name.removesuffix(f"{mark}values")
        if whole != name and whole in found:
            parts = _settled(found.pop(whole), wanted[f"{whole}{mark}ids"].shape[0])
            found |= {f"{whole}{mark}{field}": part for field, part in zip(Table._fields, parts, strict=True)}
    return found


def _settled(values: Tensor, room: int) -> Table:
    """The values with nothing written since, and room for so many writes."""
    none = torch.full((room,), values.shape[0], device=values.device)
    return Table(values, none, values.new_zeros(room))
