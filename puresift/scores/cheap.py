"""Cheaper scores: lower precision, smaller pieces, fewer tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from puresift import settings, trees
from puresift.errors import SiftError
from puresift.types import Batch, Losses, Pad, Params, ScoreFn


def autocast(score: ScoreFn, dtype: torch.dtype = torch.bfloat16) -> ScoreFn:
    """Score in lower precision, independent of the training step.

    It opens its own autocast region with `cache_enabled=False`: an outer region that spans optimizer steps would cache
    stale weights. Ranks hardly change (bfloat16 on MiniLM: rank correlation .9999 with float32). `autocast(score,
    torch.float32)` switches an outer region off.

    Args:
        score: a batched score; under vmap, linear layers ignore autocast.
        dtype: torch.bfloat16, torch.float16, or torch.float32 for none.

    Returns:
        A score, Float32[B].

    Raises:
        SiftError: dtype is none of the three.

    Example:
        >>> half = autocast(lambda params, batch: batch @ batch.T @ torch.ones(2), torch.bfloat16)
        >>> half({}, torch.eye(2))
        tensor([1., 1.])
    """
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise SiftError(f"dtype must be torch.float32, torch.bfloat16 or torch.float16, got {dtype!r}")

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
        score: a score that treats rows independently.
        size: rows per piece, >= 1.
        length: `length(batch)`, Int[B]. With it, pieces hold rows of similar length and are cut to their longest one,
            which reads the lengths once per pool.
        pad: the ragged leaves to cut, as in `ps.sifter`; only their names matter here.

    Returns:
        A score with the same numbers, in the batch's order.

    Raises:
        SiftError: size is out of range, or only one of length and pad is given.

    Example:
        >>> total = chunked(lambda params, batch: batch.sum(-1), 2)
        >>> total({}, torch.ones(5, 3))
        tensor([3., 3., 3., 3., 3.])
    """
    size = settings.count("size", size)
    if (length is None) != (pad is None):
        raise SiftError("give length= and pad= together: one says how long rows are, the other which leaves to cut")

    def one(params: Params, piece: Batch) -> Losses:
        return score(params, piece).clone()  # the score may write its next answer over this one

    def pieces(params: Params, batch: Batch) -> Losses:
        batch = trees.plain(batch)
        rows = trees.batch_size(batch)
        starts = range(0, rows, size)
        if length is None or pad is None:
            if rows <= size:
                return score(params, batch)
            return torch.cat([one(params, trees.index(batch, slice(at, at + size))) for at in starts])
        lengths, order = length(batch).sort(stable=True)
        ordered = trees.index(batch, order)
        widest = lengths[[min(at + size, rows) - 1 for at in starts]].tolist()
        losses = [
            one(params, trees.trim(trees.index(ordered, slice(at, at + size)), pad, max(width, 1)))
            for at, width in zip(starts, widest, strict=True)
        ]
        return torch.cat(losses)[torch.argsort(order)]

    return pieces


def truncated(score: ScoreFn, width: int, *, pad: Mapping[str, Pad]) -> ScoreFn:
    """Score only the beginning of each row: the first `width` tokens of the ragged leaves.

    If text lengths vary widely, a cut at about the mean length leaves most rows whole, and a pool is then scored in one
    piece with little padding, without `chunked`. A longer row is scored by its beginning only: weigh the kept rows
    (`ps.importance`, `ps.unbiased`), so that a wrong score adds variance but no bias.

    Args:
        score: a score of rows that can be cut, such as texts with special tokens in front.
        width: tokens scored, >= 1.
        pad: the ragged leaves to cut, as in `ps.sifter`; only their names matter here.

    Returns:
        A score; the kept rows stay whole.

    Raises:
        SiftError: width is out of range, pad names nothing or, when called, a leaf that the batch lacks.

    Example:
        >>> total = truncated(lambda params, batch: batch["x"].sum(-1), 2, pad={"x": Pad(0, 8)})
        >>> total({}, {"x": torch.ones(3, 5)})
        tensor([2., 2., 2.])

    References:
        Angela H. Jiang et al., "Accelerating Deep Learning by Focusing on the Biggest Losers", 2019: cheaper selection.
    """
    width = settings.count("width", width)
    if not pad:
        raise SiftError('pad must name the leaves to cut, such as {"input_ids": ps.Pad(0, 64)}')

    def beginning(params: Params, batch: Batch) -> Losses:
        batch = trees.plain(batch)
        if missing := sorted(set(pad) - {name for name, _ in trees.named(batch)}):
            raise SiftError(f"pad names {', '.join(missing)}, which the batch has not; name its ragged leaves")
        return score(params, trees.trim(batch, pad, width))

    return beginning
