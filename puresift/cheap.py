"""Cheaper scores: the same ranking for less. Each takes a score and gives one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from puresift import settings, trees
from puresift.types import Batch, Losses, Pad, Params, ScoreFn


def autocast(score: ScoreFn, dtype: torch.dtype = torch.bfloat16) -> ScoreFn:
    """Score in lower precision, whatever the training step uses.

    The region is an inner one that caches no cast weights: an outer region that spans optimizer steps would score with
    stale ones. Ranks hardly move (bfloat16 on MiniLM: a rank correlation of .9999 with float32). `autocast(score,
    torch.float32)` switches an outer region off.

    Args:
        score: a batched score; under vmap, linear layers ignore autocast.
        dtype: torch.bfloat16, torch.float16, or torch.float32 for none.

    Returns:
        A score, Float32[B].

    Raises:
        ValueError: dtype is none of the three.

    Example:
        >>> half = autocast(lambda params, batch: batch @ batch.T @ torch.ones(2), torch.bfloat16)
        >>> half({}, torch.eye(2))
        tensor([1., 1.])
    """
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype must be torch.float32, torch.bfloat16 or torch.float16, got {dtype!r}")

    def cast(params: Params, batch: Batch) -> Losses:
        device = trees.leaves(trees.plain(batch))[0].device.type
        enabled = dtype != torch.float32
        with torch.autocast(device, dtype if enabled else None, enabled=enabled, cache_enabled=False):
            return score(params, batch).float()

    return cast


def chunked(
    score: ScoreFn,
    size: int,
    *,
    length: Callable[[Batch], Tensor] | None = None,
    pad: Mapping[str, Pad] | None = None,
) -> ScoreFn:
    """Score a pool in pieces of at most `size` rows, to bound memory; sorted by length, to save padding.

    Args:
        score: a score whose rows do not meet.
        size: rows a piece, >= 1.
        length: `length(batch)`, Int[B]. With it, pieces hold rows of like length and are cut to their longest one,
            which reads the lengths once a pool.
        pad: the ragged leaves to cut, as in `ps.sifter`; only their names matter here.

    Returns:
        A score with the same numbers, in the batch's order.

    Raises:
        ValueError: size is out of range, or only one of length and pad is given.

    Example:
        >>> total = chunked(lambda params, batch: batch.sum(-1), 2)
        >>> total({}, torch.ones(5, 3))
        tensor([3., 3., 3., 3., 3.])
    """
    settings.count("size", size)
    if (length is None) != (pad is None):
        raise ValueError("give length= and pad= together: one says how long rows are, the other which leaves to cut")

    def pieces(params: Params, batch: Batch) -> Losses:
        batch = trees.plain(batch)
        rows = trees.batch_size(batch)
        starts = range(0, rows, size)
        if length is None or pad is None:
            if rows <= size:
                return score(params, batch)
            return torch.cat([score(params, trees.index(batch, slice(at, at + size))) for at in starts])
        lengths, order = length(batch).sort(stable=True)
        ordered = trees.index(batch, order)
        widest = lengths[[min(at + size, rows) - 1 for at in starts]].tolist()
        losses = [
            score(params, trees.trim(trees.index(ordered, slice(at, at + size)), pad, max(width, 1)))
            for at, width in zip(starts, widest, strict=True)
        ]
        return torch.cat(losses)[torch.argsort(order)]

    return pieces
