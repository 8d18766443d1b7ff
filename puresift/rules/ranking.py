"""Rules that rank: a loss is kept by its rank among others."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from puresift import settings
from puresift.errors import SiftError
from puresift.order import ranks
from puresift.rules import histories
from puresift.rules.counting import counted
from puresift.rules.planning import always, fill
from puresift.rules.sketches import Placed
from puresift.settings import Number
from puresift.types import Losses, Odds, Rule


def relative(
    keep: Number | None = None,
    *,
    beta: Number | None = None,
    history: int = 1024,
    drift: Literal["window", "age", "scale"] | None = None,
    sketch: int | None = None,
) -> Rule:
    """Keep a loss with a probability that grows with its percentile: p = CDF(loss) ** beta, and keep = 1 / (1 + beta).

    CDF is the mid-rank among the last `history` losses, the pool itself included: (#less + 1/2) / n. Losses that tie
    share the mean of u ** beta over the ranks that they span, so that a stream of equal losses still keeps the planned
    fraction. That fraction holds from the first pool on while losses are exchangeable, for pools of 16 rows or more;
    while they fall, ranks among older, larger losses are too low and the rule keeps less than planned. `drift` says
    how to correct for that:

        None      no correction: every loss in the history counts the same
        "window"  the pool is ranked by itself, without a history; there are only as many ranks as rows in it
        "age"     a loss seen `a` losses ago counts exp(-4 * a / history) in the CDF
        "scale"   losses are ranked as (loss - location) / scale, running over about the last `history / 8` losses

    Cost: a history of up to 4,096 losses is sorted at every pool, a longer one is kept in order by merging, which is
    linear in its length, because states never change in place. A sketch costs the same for any history: its bins follow
    the quantiles, and a loss seen `a` losses ago counts exp(-a / history).

    Differs from Jiang et al.: ranks include ties (theirs keep nothing of equal losses), the plan is given as `keep`,
    and drift can be corrected.

    Args:
        keep: the planned fraction, in (0, 1].
        beta: the exponent, >= 0, instead of keep; 0 keeps everything, larger keeps less.
        history: losses remembered, at least a pool.
        drift: how ranks follow changing losses, see above.
        sketch: bins to keep instead of the losses, for histories too expensive to keep sorted; with 4,096, the CDF is
            accurate to 1/1000.

    Returns:
        A rule with weights 1.

    Raises:
        SiftError: not exactly one of keep and beta is given, or one is out of range; on the first pool, when it has
            more rows than the history.

    Example:
        >>> rule = relative(keep=0.5)
        >>> rule.select(rule.init(), torch.tensor([0.1, 3.0, 0.2, 0.7]))[1].probs
        tensor([0.1250, 0.8750, 0.3750, 0.6250])

    References:
        Angela H. Jiang et al., "Accelerating Deep Learning by Focusing on the Biggest Losers", 2019.
    """
    if (keep is None) == (beta is None):
        raise SiftError("give exactly one of keep (the planned fraction) and beta (keep = 1 / (1 + beta))")
    if keep is not None:
        exponent = 1 / settings.fraction("keep", keep) - 1
    elif beta is not None:
        exponent = settings.nonnegative("beta", beta, cure="keep = 1 / (1 + beta)")
    history = settings.count("history", history)
    if sketch is not None:
        sketch = settings.count("sketch", sketch, least=16)
    start, place = histories.choose(drift, history, sketch)

    def select(state: Any, losses: Losses, **columns: Any) -> tuple[Any, Odds]:
        state, placed = place(state, losses.float())
        probs = _mean_power(placed, exponent)
        return state, Odds(probs, torch.ones_like(probs))

    return Rule(start, select, always)


class TopState(NamedTuple):
    """Nothing to remember."""


def top(keep: Number) -> Rule:
    """The keep * B largest losses of each pool, p = 1; the rest 0.

    The planned count need not be whole, and losses may tie at the boundary: they share the rest of the plan equally,
    p = clip((keep * B - #greater) / #equal, 0, 1). Drawn by `systematic`, the count is its floor or its ceiling.

    Args:
        keep: the planned fraction, in (0, 1].

    Returns:
        A rule with weights 1.

    Raises:
        SiftError: keep is out of range.

    Example:
        >>> rule = top(keep=0.5)
        >>> rule.select(rule.init(), torch.tensor([3.0, 1.0, 1.0, 0.0]))[1].probs
        tensor([1.0000, 0.5000, 0.5000, 0.0000])

    References:
        Kenji Kawaguchi, Haihao Lu, "Ordered SGD: A New Stochastic Optimization Framework for Empirical Risk
        Minimization", 2020.
    """
    keep = settings.fraction("keep", keep)

    def select(state: TopState, losses: Losses, **columns: Any) -> tuple[TopState, Odds]:
        losses, size = losses.float(), losses.shape[0]
        below, upto = ranks(losses, losses)
        probs = ((keep * size - (size - upto)) / (upto - below)).clamp(0, 1).to(losses.dtype)
        return state, Odds(probs, torch.ones_like(probs))

    return Rule(TopState, counted(select, keep), always)


def _mean_power(placed: Placed, exponent: Number) -> Tensor:
    """u ** exponent at the mid-rank, or, for a tie, its mean over u in [below / n, upto / n].

    In double precision: float32 powers differ in the last bit between a vector's lanes and its tail.
    """
    below, upto, number, equal = placed
    middle = (below + upto).double() / 2 / number
    if not isinstance(exponent, Tensor) and exponent == 1:  # the mean of u is its middle
        return middle.float()
    middle = middle**exponent
    equal = upto - below if equal is None else equal
    below, upto = below.double(), upto.double()
    share = (below - upto) / upto  # of the interval [0, upto / n], below 0; log1p is exact for small shares
    power = exponent + 1
    tied = (upto / number) ** exponent * torch.expm1(power * torch.log1p(share)) / (power * share)
    return torch.where(equal == 1, middle, tied).float()


class RankedState(NamedTuple):
    """Nothing to remember."""


def ranked(keep: Number) -> Rule:
    """Keep a row in proportion to a power of its rank in the pool, exactly keep * B of them.

        w = ((i + 1/2) / B) ** (1 / keep - 1) for the i-th smallest loss, i = 0, ..., B - 1; ties share their mean
        p = min(1, c * w), the one c with sum(p) = keep * B

    Draw it with `systematic`, and the count is the floor or the ceiling of the plan.

    Differs from Composer's SelectiveBackprop (int(keep * B) successive draws without replacement in proportion to w):
    p is the inclusion probability itself, the plan need not be whole, and kept rows fill full batches rather than
    smaller ones.

    Args:
        keep: the planned fraction, in (0, 1].

    Returns:
        A rule with weights 1.

    Raises:
        SiftError: keep is out of range.

    Example:
        >>> rule = ranked(keep=0.5)
        >>> rule.select(rule.init(), torch.tensor([0.1, 3.0, 0.2, 0.7]))[1].probs
        tensor([0.1250, 0.8750, 0.3750, 0.6250])

    References:
        Angela H. Jiang et al., "Accelerating Deep Learning by Focusing on the Biggest Losers", 2019.
        The Mosaic ML Team, "Composer", 2021.
    """
    keep = settings.fraction("keep", keep)

    def select(state: RankedState, losses: Losses, **columns: Any) -> tuple[RankedState, Odds]:
        losses, size = losses.float(), losses.shape[0]
        middle = (torch.arange(size, device=losses.device, dtype=torch.float64) + 0.5) / size
        sums = torch.nn.functional.pad((middle ** (1 / keep - 1)).cumsum(0), (1, 0))
        below, upto = ranks(losses, losses)
        probs = fill((sums[upto] - sums[below]) / (upto - below), keep * size)
        return state, Odds(probs, torch.ones_like(probs))

    return Rule(RankedState, counted(select, keep), always)
