"""Rules: losses to odds. A rule says how likely each row is to be kept and what it then weighs; drawing is separate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from puresift import settings
from puresift.ranks import always, exchange, mean, never, ranks, remember, slots, unseen
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


class RelativeState(NamedTuple):
    """The last losses, in a ring."""

    history: Tensor  # Float[history]
    seen: Tensor  # Int64[], losses so far


class OrderedState(NamedTuple):
    """The last losses, in a ring, and once more in order."""

    history: Tensor  # Float[history]
    ordered: Tensor  # Float[history], ascending
    seen: Tensor  # Int64[], losses so far


class AgedState(NamedTuple):
    """The last losses, in a ring, and when they came."""

    history: Tensor  # Float[history]
    born: Tensor  # Int64[history], losses seen when the pool had come in
    seen: Tensor  # Int64[], losses so far


class ScaledState(NamedTuple):
    """The last losses, in a ring, in units of the location and the scale of their time."""

    history: Tensor  # Float[history]
    seen: Tensor  # Int64[], losses so far
    moments: Tensor  # Float64[3]: mass, location, mass * scale ** 2; one tensor, for compile reads 0-d doubles


class WindowState(NamedTuple):
    """Nothing to remember: a pool is ranked by itself."""


def relative(
    keep: Number | None = None,
    *,
    beta: Number | None = None,
    history: int = 1024,
    drift: Literal["window", "age", "scale"] | None = None,
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

    Differs from Jiang et al.: ranks include ties (theirs keep nothing of equal losses), the plan is given as `keep`,
    and drift can be made up for.

    Args:
        keep: the planned fraction, in (0, 1].
        beta: the exponent, >= 0, in place of keep; 0 keeps everything, larger is harsher.
        history: losses remembered, at least a pool.
        drift: how ranks follow losses that move, see above.

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
    if drift not in _DRIFTS:
        raise ValueError(f'drift must be None, "window", "age" or "scale", got {drift!r}')
    start, place = _ORDERED if drift is None and history > _SORTED_UP_TO else _DRIFTS[drift]

    def select(state: Any, losses: Losses, **columns: Any) -> tuple[Any, Odds]:
        state, placed = place(state, losses.float())
        probs = _mean_power(*placed, exponent)
        return state, Odds(probs, torch.ones_like(probs))

    return Rule(lambda: start(history), select, always)


class _Placed(NamedTuple):
    """The ranks a loss owns, [below, upto] out of number, and how many losses share them."""

    below: Tensor
    upto: Tensor
    number: Tensor | int
    equal: Tensor


def _by_history(state: RelativeState, losses: Losses) -> tuple[RelativeState, _Placed]:
    state = RelativeState(*remember(state.history, state.seen, losses))
    below, upto = ranks(state.history.sort().values, losses)
    return state, _Placed(below, upto, state.seen.clamp(max=state.history.shape[0]), upto - below)


def _by_order(state: OrderedState, losses: Losses) -> tuple[OrderedState, _Placed]:
    leaving = state.history.gather(0, slots(state.history, state.seen, losses))
    history, seen = remember(state.history, state.seen, losses)
    ordered = exchange(state.ordered, leaving, losses)
    below, upto = ranks(ordered, losses)
    return OrderedState(history, ordered, seen), _Placed(below, upto, seen.clamp(max=history.shape[0]), upto - below)


def _by_itself(state: WindowState, losses: Losses) -> tuple[WindowState, _Placed]:
    below, upto = ranks(losses.sort().values, losses)
    return state, _Placed(below, upto, losses.shape[0], upto - below)


def _by_age(state: AgedState, losses: Losses) -> tuple[AgedState, _Placed]:
    length, places = state.history.shape[0], slots(state.history, state.seen, losses)
    history, seen = remember(state.history, state.seen, losses)
    born = state.born.index_copy(0, places, seen.expand(losses.shape[0]))
    filled = torch.arange(length, device=losses.device) < seen
    # Whole numbers, so that their sums are exact in any order.
    counts = torch.exp((seen - born).double() * (-4 / length)).mul(2**20).round().long().where(filled, 0)
    ordered, order = history.sort()
    sums = torch.nn.functional.pad(counts.gather(0, order).cumsum(0), (1, 0))
    below, upto = ranks(ordered, losses)
    placed = _Placed(sums.gather(0, below), sums.gather(0, upto), sums[-1], upto - below)
    return AgedState(history, born, seen), placed


def _by_scale(state: ScaledState, losses: Losses) -> tuple[ScaledState, _Placed]:
    size, rate = losses.shape[0], 8 / state.history.shape[0]
    fade = math.exp(-rate * size)
    pool = losses.double()
    middle = mean(pool)
    mass, location, spread = state.moments.unbind()
    old, shift = mass * fade, middle - location
    mass = old + size
    location = location + shift * (size / mass)
    within = mean((pool - middle).square()) * size
    spread = spread * fade + within + shift.square() * (old * size / mass)
    scale = (spread / mass).sqrt()
    units = torch.where(scale > 0, (pool - location) / scale, 0.0).float()
    inner, placed = _by_history(RelativeState(state.history, state.seen), units)
    return ScaledState(*inner, torch.stack([mass, location, spread])), placed


_DRIFTS: dict[str | None, tuple[Callable[[int], Any], Callable[[Any, Losses], tuple[Any, _Placed]]]] = {
    None: (lambda history: RelativeState(*unseen(history)), _by_history),
    "window": (lambda history: WindowState(), _by_itself),
    "age": (
        lambda history: AgedState(
            unseen(history)[0], torch.zeros(history, dtype=torch.int64), torch.zeros((), dtype=torch.int64)
        ),
        _by_age,
    ),
    "scale": (lambda history: ScaledState(*unseen(history), torch.zeros(3, dtype=torch.float64)), _by_scale),
}


# Up to here, sorting the history at every pool is as fast as keeping it in order; far beyond, it is ten times slower.
_SORTED_UP_TO = 4096
_ORDERED = (lambda history: OrderedState(unseen(history)[0], *unseen(history)), _by_order)


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
