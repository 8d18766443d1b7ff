"""Which rank trains on which of the rows that all of them kept: as many each, and few rows move."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Deal(NamedTuple):
    """Where rows go, and what that leaves open."""

    to: Tensor  # Int64[K]: the rank that gets each row
    opened: Tensor  # Int64[ranks]: rows that each holds of the batch that is not full yet
    batches: int  # that are full now, on every rank


def deal(sources: Tensor, opened: Tensor, batch_size: int) -> Deal:
    """Deal out the rows that were kept of one pool.

    The rows of all ranks, in the order of ranks and of rows within them, fill global batches of ranks * batch_size one
    after another: which batch a row is in hangs on its number alone, not on the number of ranks. Within a batch a rank
    keeps its own rows until its share is full; the others go to those whose share is not.

    Args:
        sources: Int64[K], ascending: the rank that kept each row.
        opened: Int64[ranks], rows of the open batch on each rank.
        batch_size: a rank's share of a batch.

    Returns:
        `Deal(to, opened, batches)`.

    Example:
        >>> deal(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0]), 2)
        Deal(to=tensor([0, 0, 1, 1]), opened=tensor([0, 0]), batches=1)
    """
    ranks, size = len(opened), len(opened) * batch_size
    held = int(opened.sum())
    to, batches = [], 0
    while True:
        part, sources = sources[: size - held], sources[size - held :]
        dealt, opened = _shares(part, opened, batch_size)
        to.append(dealt)
        held += len(part)
        if held < size:
            return Deal(torch.cat(to), opened, batches)
        held, opened, batches = 0, torch.zeros(ranks, dtype=torch.int64), batches + 1


def _shares(sources: Tensor, opened: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """The rows of one batch: their ranks, and how full these are then."""
    ranks = torch.arange(len(opened))
    counts = torch.bincount(sources, minlength=len(opened))
    stay = counts.minimum(batch_size - opened)
    nth = torch.arange(len(sources)) - (counts.cumsum(0) - counts)[sources]  # of a rank's own rows
    moves = nth >= stay[sources]
    free = batch_size - opened - stay
    to = torch.where(moves, 0, sources)
    to[moves] = ranks.repeat_interleave(free)[: int(moves.sum())]
    return to, opened + torch.bincount(to, minlength=len(opened))
