"""Large leaves of a buffer in chunks, so that a refill copies the chunks it writes to and shares the others.

Allocating new memory costs several times a copy, and the allocator reuses chunks of a few megabytes.
Chunks are chosen by size alone, on the CPU. Where values cannot be read (under compile or vmap, on a GPU) the leaf is
joined, written as one and split again: the same bits, more copying.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from puresift import trees
from puresift.trees import unreadable

# Types that indexing does not know, and those of the same size by which their rows are copied.
_BYTES = {
    **{getattr(torch, f"float8_{kind}"): torch.uint8 for kind in ("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz", "e8m0fnu")},
    **{torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64},
}
SIZE = 8 << 20  # bytes of a chunk, at most, unless one row is larger


class Chunked(NamedTuple):
    """Stands in a buffer for a tensor [C, ...] that is cut along its rows."""

    parts: tuple[Tensor, ...]  # each [c, ...], the last one shorter


def chunked(leaf: Tensor) -> Tensor | Chunked:
    """The leaf itself if it is small or not on a CPU."""
    size = leaf.numel() * leaf.element_size()
    if leaf.device.type != "cpu" or size <= 2 * SIZE:
        return leaf
    return Chunked(tuple(part.clone() for part in leaf.split(max(1, SIZE * leaf.shape[0] // size))))


def whole(tree: Any) -> Any:
    """The tree with its chunked leaves joined."""
    return _each(lambda leaf: torch.cat(leaf.parts), tree)


def first(tree: Any) -> Any:
    """The tree with each chunked leaf replaced by its first chunk, to read shapes, dtypes and names from."""
    return _each(lambda leaf: leaf.parts[0], tree)


def map_leaves(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """`function` over the leaves of trees of one structure, where chunked leaves of the first tree are leaves."""
    return trees.map_leaves(function, tree, *rest, whole=Chunked)


def gather(leaf: Tensor | Chunked, slots: Tensor) -> Tensor:
    """The rows in these slots, Int64[n] -> [n, ...]."""
    if not isinstance(leaf, Chunked):
        return _known(leaf).index_select(0, slots).view(leaf.dtype)
    if _fixed(leaf, slots):
        return gather(torch.cat(leaf.parts), slots)
    size, runs = len(leaf.parts[0]), [[0, 0]]
    for slot in slots.tolist():
        if slot != runs[-1][1] or not slot % size:
            runs.append([slot, slot])
        runs[-1][1] += 1
    return torch.cat([leaf.parts[low // size][low % size :][: high - low] for low, high in runs])


def scatter(leaf: Tensor | Chunked, slots: Tensor, rows: Tensor, source: Tensor) -> Tensor | Chunked:
    """The leaf with `rows[source]` in these slots, source and slots Int64[n]; a slot may repeat with the same row."""
    if not isinstance(leaf, Chunked):
        return _known(leaf).index_copy(0, slots, _known(rows).index_select(0, source)).view(leaf.dtype)
    if _fixed(leaf, slots):
        joined = scatter(torch.cat(leaf.parts), slots, rows, source)
        assert isinstance(joined, Tensor)
        return Chunked(joined.split(len(leaf.parts[0])))
    size, parts = len(leaf.parts[0]), list(leaf.parts)
    coming: dict[int, dict[int, int]] = {}
    for slot, row in zip(slots.tolist(), source.tolist(), strict=True):
        coming.setdefault(slot // size, {})[slot % size] = row
    for number, places in coming.items():
        old = parts[number]
        parts[number] = part = torch.empty_like(old) if len(places) == len(old) else old.clone()
        come, out = _known(rows), _known(part)
        for run in _neighbours(places):
            torch.index_select(come, 0, torch.tensor([places[place] for place in run]), out=out[run[0] : run[-1] + 1])
    return Chunked(tuple(parts))


def merge(leaf: Tensor | Chunked, new: Tensor, rows: Tensor, source: Tensor) -> Tensor | Chunked:
    """The same for all slots at once: `rows[source]` where a slot is `new`, source and new Int64[C] and Bool[C]."""
    if isinstance(leaf, Chunked):
        merged = merge(torch.cat(leaf.parts), new, rows, source)
        assert isinstance(merged, Tensor)
        return Chunked(merged.split(len(leaf.parts[0])))
    come = _known(rows).index_select(0, source)
    return torch.where(new.view(-1, *[1] * (leaf.ndim - 1)), come, _known(leaf)).view(leaf.dtype)


def _known(leaf: Tensor) -> Tensor:
    """The same bytes, in a type that can be indexed."""
    kind = _BYTES.get(leaf.dtype)
    return leaf if kind is None else leaf.view(kind)


def _neighbours(places: dict[int, int]) -> list[list[int]]:
    """Runs of consecutive numbers; a chunk has two where the ring wraps around."""
    runs: list[list[int]] = []
    for place in places:
        if not runs or place != runs[-1][-1] + 1:
            runs.append([])
        runs[-1].append(place)
    return runs


def _fixed(leaf: Chunked, slots: Tensor) -> bool:
    """Whether shapes must not depend on values, or reading them would synchronise."""
    return leaf.parts[0].device.type != "cpu" or slots.device.type != "cpu" or unreadable(slots.any())


def _each(function: Callable[[Chunked], Tensor], tree: Any) -> Any:
    return map_leaves(lambda leaf: function(leaf) if isinstance(leaf, Chunked) else leaf, tree)
