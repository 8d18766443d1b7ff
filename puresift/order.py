"""Order statistics of losses: ranks, means and shares.

Sums run in double precision over sorted values, so that a permutation of the rows permutes the answer bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from puresift.settings import Number
from puresift.types import Losses

SORTED_UP_TO = 8192  # values; sorting more is slow on a CPU
COMPARED = 2**22  # pairs of values; more are compared slower than sorted, even in one kernel
PIECE = 2**16  # values; copies of so many stay in the cache of a CPU, where memory asked anew for all is slow


def rank_bounds(ordered: Tensor, losses: Losses, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """How many of `ordered` are < each loss, and how many are <= it.

    Args:
        ordered: Float[n], ascending.
        losses: Float[B].
        seen: Int64[], any number that is mapped over if `ordered` is; it saves an operation.

    Returns:
        Two Int64[B].
    """
    losses = beside(ordered, losses) if seen is None else torch.add(losses, seen, alpha=0)
    return torch.searchsorted(ordered, losses), torch.searchsorted(ordered, losses, right=True)


def ranks(values: Tensor, losses: Losses, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`rank_bounds` among values in any order; compiled, by comparing all pairs, which fuses where a sort does not.

    Args:
        values: Float[n].
        losses: Float[B].
        seen: as in `rank_bounds`.

    Returns:
        Two Int64[B].
    """
    if torch.compiler.is_compiling() and values.shape[0] * losses.shape[0] <= COMPARED:
        return (values < losses[:, None]).sum(1), (values <= losses[:, None]).sum(1)
    return rank_bounds(values.sort().values, losses, seen)


def median(values: Tensor, finite: Tensor) -> Tensor:
    """Float[]: the middle one of the finite values, the lower one of two; NaN where none is finite.

    Args:
        values: Float[B].
        finite: Bool[B].
    """
    if not (torch.compiler.is_compiling() and 0 < values.shape[0] ** 2 <= COMPARED):
        return torch.where(finite, values, torch.nan).nanmedian()
    last = torch.where(finite, values, torch.inf)  # behind the finite ones
    below, upto = ranks(last, last)
    middle = (finite.sum() - 1) // 2
    found = torch.where((below <= middle) & (middle < upto), last, -torch.inf).amax()
    return torch.where(middle < 0, torch.nan, found)


def beside(ordered: Tensor, losses: Losses) -> Losses:
    """The losses, copied: under a vmap over states only, searchsorted warns about an expanded view."""
    return losses + torch.zeros_like(ordered[:1])


def inside(history: Tensor, seen: Tensor, losses: Losses, low: Number, high: Number) -> Tensor:
    """The share of each loss's ranks that lies between two quantiles of the history: 1, 0, or a fraction at the ends.

    A tied loss has the ranks [#less, #less-or-equal]; the mean over the history is exactly high - low.

    Returns:
        Float[B] in [0, 1].
    """
    below, upto = ranks(history, losses)
    number = seen.clamp(max=history.shape[0]).double()
    span = (number * high).minimum(upto) - (number * low).maximum(below)
    return (span / (upto - below)).clamp(0, 1).float()


def total(values: Tensor) -> Tensor:
    """Float64[]: the sum; the same bits in any order.

    Up to `SORTED_UP_TO` values by sorting; of more, in whole multiples of 2**-38 of the largest, which takes a
    twentieth of the time.
    """
    if values.shape[0] <= SORTED_UP_TO:
        return values.double().sort().values.sum()
    low, high = values.aminmax()
    largest = torch.maximum(-low, high)
    largest = torch.where(largest > 0, largest, 1.0)
    in_turn = values.device.type == "cpu" and not torch.compiler.is_compiling()
    pieces = values.split(PIECE) if in_turn else (values,)
    sums = [(piece / largest).mul_(2.0**38).long().sum() for piece in pieces]
    whole = torch.stack(sums).sum() if len(sums) > 1 else sums[0]
    return whole * (largest.double() * 2.0**-38)


def mean(values: Tensor, number: Tensor | None = None) -> Tensor:
    """Float64[]: the sum over the number of values, or another number; the same bits in any order."""
    return total(values) / (values.shape[0] if number is None else number)
