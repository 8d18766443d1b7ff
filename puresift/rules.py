"""Rules: losses to odds. A rule says how likely each row is to be kept and what it then weighs; drawing is separate."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from puresift import histories, settings
from puresift.ranks import always, never, ranks
from puresift.settings import Number
from puresift.types import Losses, Odds, Rule


class UniformState(NamedTuple):
    """Nothing to remember."""


def uniform(keep: Number) -> Rule:
    """Every row alike: p = keep. The random arm that every other rule has to beat.

    Args:
        keep: the planned fraction, in (0, 1].

    Returns:
        A rule that never looks at the losses.

    Raises:
        ValueError: keep is out of range.

    Example:
        >>> rule = uniform(keep=0.25)
        >>> rule.select(rule.init(), torch.zeros(2))[1].probs
        tensor([0.2500, 0.2500])
    """
    settings.fraction("keep", keep)

    def select(state: UniformState, losses: Losses, **columns: Any) -> tuple[UniformState, Odds]:
        ones = torch.ones_like(losses, dtype=torch.float32)
        return state, Odds(ones * keep, ones)

    return Rule(UniformState, select, never)


def relative(
    keep: Number | None = None,
    *,
    beta: Number | None = None,
    history: int = 1024,
    drift: Literal["window", "age", "scale"] | None = None,
    sketch: int | None = None,
) -> Rule:
    """Keep a loss with the probability of its percentile: p = CDF(loss) ** beta, and keep = 1 / (1 + beta).

    CDF is the mid-rank among the last `history` losses, the pool itself included: (#less + 1/2) / n. Losses that tie
    share the mean of u ** beta over the ranks that they span, so that a stream of equal losses still keeps the planned
    fraction. That fraction holds from the first pool on while losses are exchangeable, for pools of 16 rows or more;
    while they fall, ranks among older, larger losses are too low and the rule keeps less than planned. `drift` says
    how to make up for that:

        None      not at all: every loss in the history counts alike
        "window"  the pool is ranked by itself, without a history; the pool's number of ranks is all there is
        "age"     a loss that came `a` losses ago counts exp(-4 * a / history) in the CDF
        "scale"   losses are ranked as (loss - location) / scale, both running over the last `history / 8` losses or so

    Cost: a history of up to 4,096 losses is sorted at every pool, a longer one is kept in order by merging, which is
    linear in its length, for a state is never written to. A sketch costs the same for any history: its bins follow the
    quantiles, and a loss that came `a` losses ago counts exp(-a / history).

    Differs from Jiang et al.: ranks include ties (theirs keep nothing of equal losses), the plan is given as `keep`,
    and drift can be made up for.

    Args:
        keep: the planned fraction, in (0, 1].
        beta: the exponent, >= 0, in place of keep; 0 keeps everything, larger is harsher.
        history: losses remembered, at least a pool.
        drift: how ranks follow losses that move, see above.
        sketch: bins to keep in place of the losses, for histories whose exact order is too dear; with 4,096, the CDF is
            right to 1/1000.

    Returns:
        A rule with weights 1.

    Raises:
        ValueError: not exactly one of keep and beta is given, or one is out of range; on the first pool, when it has
            more rows than the history.

    Example:
        >>> rule = relative(keep=0.5)
        >>> rule.select(rule.init(), torch.tensor([0.1, 3.0, 0.2, 0.7]))[1].probs
        tensor([0.1250, 0.8750, 0.3750, 0.6250])

    References:
        Angela H. Jiang et al., "Accelerating Deep Learning by Focusing on the Biggest Losers", 2019.
    """
    if (keep is None) == (beta is None):
        raise ValueError("give exactly one of keep (the planned fraction) and beta (keep = 1 / (1 + beta))")
    if keep is not None:
        exponent = 1 / settings.fraction("keep", keep) - 1
    elif beta is not None:
        exponent = settings.nonnegative("beta", beta, cure="keep = 1 / (1 + beta)")
    settings.count("history", history)
    if sketch is not None:
        settings.count("sketch", sketch, least=16)
    start, place = histories.choose(drift, history, sketch)

    def select(state: Any, losses: Losses, **columns: Any) -> tuple[Any, Odds]:
        state, placed = place(state, losses.float())
        probs = _mean_power(*placed, exponent)
        return state, Odds(probs, torch.ones_like(probs))

    return Rule(start, select, always)


class TopState(NamedTuple):
    """Nothing to remember."""


def top(keep: Number) -> Rule:
    """The keep * B largest losses of each pool, p = 1; the rest 0.

    The planned count need not be whole, and the boundary may tie: what is left of the plan there is shared equally,
    p = clip((keep * B - #greater) / #equal, 0, 1). Drawn by `systematic`, the count is its floor or its ceiling.

    Args:
        keep: the planned fraction, in (0, 1].

    Returns:
        A rule with weights 1.

    Raises:
        ValueError: keep is out of range.

    Example:
        >>> rule = top(keep=0.5)
        >>> rule.select(rule.init(), torch.tensor([3.0, 1.0, 1.0, 0.0]))[1].probs
        tensor([1.0000, 0.5000, 0.5000, 0.0000])

    References:
        Kenji Kawaguchi, Haihao Lu, "Ordered SGD: A New Stochastic Optimization Framework for Empirical Risk
        Minimization", 2020.
    """
    settings.fraction("keep", keep)

    def select(state: TopState, losses: Losses, **columns: Any) -> tuple[TopState, Odds]:
        losses, size = losses.float(), losses.shape[0]
        below, upto = ranks(losses.sort().values, losses)
        probs = ((keep * size - (size - upto)) / (upto - below)).clamp(0, 1).to(losses.dtype)
        return state, Odds(probs, torch.ones_like(probs))

    return Rule(TopState, select, always)


def _mean_power(below: Tensor, upto: Tensor, number: Tensor | int, equal: Tensor, exponent: Number) -> Tensor:
    """u ** exponent at the mid-rank, or, for a tie, its mean over u in [below / n, upto / n].

    In double precision: float32 powers differ in the last bit between a vector's lanes and its tail.
    """
    below, upto = below.double(), upto.double()
    middle = ((below + upto) / 2 / number) ** exponent
    share = (upto - below) / upto  # of the interval [0, upto / n]; log1p keeps small shares exact
    power = exponent + 1
    tied = (upto / number) ** exponent * -torch.expm1(power * torch.log1p(-share)) / (power * share)
    return torch.where(equal == 1, middle, tied).float()
