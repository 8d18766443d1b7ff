"""What rules share: ranks in a history, shares of tied ranks, odds that sum to a plan, and whether losses are wanted.

Sums run in double precision over sorted values, so that a permutation of the rows permutes the answer bit for bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from puresift.settings import Number
from puresift.types import Losses


def ranks(ordered: Tensor, losses: Losses) -> tuple[Tensor, Tensor]:
    """How many of `ordered` lie below each loss, and how many up to it.

    Args:
        ordered: Float[n], ascending.
        losses: Float[B].

    Returns:
        Two Int64[B].
    """
    losses = beside(ordered, losses)
    return torch.searchsorted(ordered, losses), torch.searchsorted(ordered, losses, right=True)


def beside(ordered: Tensor, losses: Losses) -> Losses:
    """The losses, copied for each state where vmap runs over states alone: searchsorted warns of an expanded view."""
    return torch.where(ordered[:1].isnan(), losses, losses)


def unseen(history: int) -> tuple[Tensor, Tensor]:
    """An empty ring, Float[history], and the number of losses seen, Int64[]."""
    return torch.full((history,), torch.inf), torch.zeros((), dtype=torch.int64)


def remember(history: Tensor, seen: Tensor, losses: Losses) -> tuple[Tensor, Tensor]:
    """The ring with a pool's losses in place of its oldest ones, and the number seen.

    Args:
        history: Float[n], infinite where nothing was seen yet.
        seen: Int64[], losses so far.
        losses: Float[B].

    Returns:
        Float[n] and Int64[].

    Raises:
        ValueError: the pool is longer than the history.
    """
    return history.index_copy(0, slots(history, seen, losses), losses), seen + losses.shape[0]


def exchange(ordered: Tensor, leaving: Tensor, coming: Tensor) -> Tensor:
    """An ordered tensor with some of its values exchanged for others: a merge in linear time, where a sort is not.

    Args:
        ordered: Float[n], ascending.
        leaving: Float[B], values in it, as often as they occur here.
        coming: Float[B].

    Returns:
        Float[n], ascending.
    """
    size, length = leaving.shape[0], ordered.shape[0]
    leaving, coming, number = leaving.sort().values, coming.sort().values, torch.arange(size, device=ordered.device)
    twins = number - torch.searchsorted(leaving, leaving)  # how many of the same value leave before this one
    gone = torch.searchsorted(ordered, leaving) + twins
    at = torch.searchsorted(ordered, beside(ordered, coming))
    # A value that stays moves up by those that come in below it and down by those that leave.
    ones = torch.ones_like(at, dtype=torch.int32)
    moves = torch.zeros_like(torch.cat([ordered, coming[:1]]), dtype=torch.int32)  # mapped wherever either is
    moves = moves.index_add_(0, torch.cat([at, gone + 1]), torch.cat([ones, -ones])).cumsum(0)
    place = moves[:length] + torch.arange(length, device=ordered.device)
    # Those that come in take the seats of those that leave, and go where they belong with all the rest.
    place = place.scatter(0, gone, at - torch.searchsorted(gone, at) + number)
    seated = ordered.scatter(0, gone, coming)
    return seated.scatter(0, place, seated)


def slots(history: Tensor, seen: Tensor, losses: Losses) -> Tensor:
    """Int64[B]: where in the ring a pool's losses go.

    Raises:
        ValueError: the pool is longer than the history.
    """
    size, length = losses.shape[0], history.shape[0]
    if size > length:
        raise ValueError(f"a pool of {size} losses does not fit a history of {length}; pass history={size} or more")
    return (seen + torch.arange(size, device=losses.device)) % length


def inside(history: Tensor, seen: Tensor, losses: Losses, low: Number, high: Number) -> Tensor:
    """The share of each loss's ranks that lies between two quantiles of the history: 1, 0, or a fraction at the ends.

    A loss that ties owns the ranks [#less, #less-or-equal]; their mean over the history is high - low exactly.

    Returns:
        Float[B] in [0, 1].
    """
    below, upto = ranks(history.sort().values, losses)
    number = seen.clamp(max=history.shape[0]).double()
    span = (number * high).minimum(upto) - (number * low).maximum(below)
    return (span / (upto - below)).clamp(0, 1).float()


def mean(values: Tensor, number: Tensor | None = None) -> Tensor:
    """Float64[]: the sum over the number of values, or another number; the same bits in any order."""
    total = values.double().sort().values.sum()
    return total / (values.shape[0] if number is None else number)


def fill(scores: Tensor, total: Number) -> Tensor:
    """p = min(1, c * score) with the one c for which sum(p) = total; solved by sorting, not by iterating.

    Where the rows with a score cannot fill the total at p = 1, the rest of it is shared equally by rows of score 0.

    Args:
        scores: Float[B], >= 0.
        total: the planned count, clipped to [0, B]; a number or Float[].

    Returns:
        Float32[B] in [0, 1].
    """
    scores, size = scores.double(), scores.shape[0]
    total = (scores.new_zeros(()) + total).clamp(0, size)
    ordered = scores.sort().values
    sums = ordered.cumsum(0)
    full = torch.arange(size - 1, -1, -1, device=scores.device)  # rows at p = 1 if row i is the largest below it
    fits = (total - full) * ordered <= sums
    # The largest row that fits: sums and rests there give c. Row 0 always fits, up to rounding.
    last = torch.where(fits, torch.arange(size, device=scores.device), 0).amax(0, keepdim=True)
    rest, mass = (total - full.gather(0, last)).clamp(min=0), sums.gather(0, last)
    probs = (scores * (rest / mass)).clamp(max=1)
    probs = torch.where(scores > ordered.gather(0, last), 1.0, probs)
    scored = (scores > 0).sum()
    spare = (total - scored).clamp(min=0) / (size - scored)
    return torch.where(scores > 0, probs, spare).float()


def always(state: Any) -> Tensor:
    """Bool[]: a rule that wants every loss."""
    return torch.ones((), dtype=torch.bool)


def never(state: Any) -> Tensor:
    """Bool[]: a rule that wants none."""
    return torch.zeros((), dtype=torch.bool)
