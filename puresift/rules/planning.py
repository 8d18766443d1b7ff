"""Rules and helpers that keep to a plan: a share of every pool, regardless of the losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from puresift import settings
from puresift.order import SORTED_UP_TO
from puresift.order import total as exact_sum
from puresift.rules.counting import counted
from puresift.settings import Number
from puresift.trees import unreadable
from puresift.types import Losses, Odds, Rule


class UniformState(NamedTuple):
    """Nothing to remember."""


def uniform(keep: Number) -> Rule:
    """Every row with the same p = keep: the random baseline that every other rule has to beat.

    Args:
        keep: the planned fraction, in (0, 1].

    Returns:
        A rule that never looks at the losses.

    Raises:
        SiftError: keep is out of range.

    Example:
        >>> rule = uniform(keep=0.25)
        >>> rule.select(rule.init(), torch.zeros(2))[1].probs
        tensor([0.2500, 0.2500])
    """
    keep = settings.fraction("keep", keep)

    def select(state: UniformState, losses: Losses, **columns: Any) -> tuple[UniformState, Odds]:
        ones = torch.ones_like(losses, dtype=torch.float32)
        return state, Odds(ones * keep, ones)

    return Rule(UniformState, counted(select, keep), never)


def hold(rule: Rule, keep: Number) -> Rule:
    """Hold the plan, regardless of the losses: p = min(1, c * p), the one c with sum(p) = keep * B in every pool.

    Rules that rank among older losses keep less than planned while losses fall; this does not, and it carries nothing
    from pool to pool. Drawn by `systematic`, the count is the floor or the ceiling of the plan: exactly keep * B where
    that is whole, for every pool. Several ranks then fill their batches at the same step without a word, and on a GPU
    the stream reads nothing on the host. Rows of p = 0 are kept only where the others cannot fill the plan at p = 1;
    they then share the rest equally. Pools that the rule passes unscored (`delay`, `interrupt`) are kept whole, so that
    the count around such a rule is not constant.

    Weights are unchanged, and those of the wrapped rule were made for its own p: `hold(importance(...))` is biased. Put
    `unbiased` outside, `unbiased(hold(...))`, which weighs by the p that result.

    Args:
        rule: any.
        keep: the planned fraction, in (0, 1].

    Returns:
        A rule.

    Raises:
        SiftError: keep is out of range.

    Example:
        >>> from puresift import rules
        >>> rule = hold(rules.relative(keep=0.5), keep=0.25)
        >>> rule.select(rule.init(), torch.tensor([1.0, 2.0]))[1].probs
        tensor([0.1250, 0.3750])
    """
    settings.called("rule", rule, "select")
    keep = settings.fraction("keep", keep)

    def select(state: Any, losses: Losses, **columns: Any) -> tuple[Any, Odds]:
        after, odds = rule.select(state, losses, **columns)
        probs = fill(odds.probs, keep * losses.shape[0])
        if rule.wants is not always:
            through = ~rule.wants(state).to(losses.device) & (odds.probs == 1).all()
            probs = torch.where(through, odds.probs, probs)
        return after, Odds(probs, odds.weights)

    return Rule(rule.init, counted(select, keep) if rule.wants is always else select, rule.wants)


def fill(scores: Tensor, total: Number) -> Tensor:
    """p = min(1, c * score) with the one c for which sum(p) = total; solved by sorting, not by iterating.

    Where the rows with a score cannot fill the total at p = 1, rows of score 0 share the rest equally.

    Args:
        scores: Float[B], >= 0; NaN counts as 0.
        total: the planned count, clipped to [0, B]; a number or Float[].

    Returns:
        Float32[B] in [0, 1].
    """
    size = scores.shape[0]
    if not size:  # an empty pool has no largest row
        return scores.float()
    total = total.double().clamp(0, size) if isinstance(total, Tensor) else min(max(float(total), 0.0), float(size))
    scores = scores.nan_to_num(0.0, posinf=torch.inf)
    if size > SORTED_UP_TO and scores.device.type == "cpu" and not unreadable(scores[0] + total > 0):
        return _fill_large(scores, total)
    scores = scores.double()
    sums = scores.sort().values.cumsum(0)
    above = torch.arange(size - 1, -1, -1, dtype=torch.float64, device=scores.device)
    # If the rows above some row get 1, the rest of the total gives c to those up to it. It rises with the row while
    # none of these goes beyond 1, and falls from there on: the largest is the one. 0 / 0, of rows of score 0, is none.
    factor = ((total - above) / sums).nan_to_num(0.0, posinf=torch.inf).amax()
    probs = (scores * factor).clamp(max=1)
    # Where rows with a score cannot fill the total, c is infinite and the others are NaN: they have what is left.
    spare = probs.isnan()
    number = spare.sum()
    return torch.where(spare, (total - (size - number)) / number, probs).float()


def _fill_large(scores: Tensor, planned: Tensor | float) -> Tensor:
    """`fill` without a sort: c for the rows below p = 1, again and again until no other row reaches it."""
    free = scores  # of the rows below p = 1
    full = torch.zeros((), dtype=torch.float64)  # how many rows are at it
    while True:
        factor = (planned - full).clamp(min=0) / exact_sum(free)
        if not bool(free.amax() * factor > 1):
            break
        over = free * factor > 1
        free, full = torch.where(over, 0.0, free), full + over.sum()
    if bool(free.amin() > 0):
        return (free * factor).float()
    scored = scores > 0
    spare = (planned - scored.sum(dtype=torch.float64)).clamp(min=0) / (~scored).sum()
    return torch.where(scored, torch.where(free > 0, free * factor, 1.0), spare).float()


def always(state: Any) -> Tensor:
    """Bool[]: a rule that wants every loss."""
    return torch.ones((), dtype=torch.bool)


def never(state: Any) -> Tensor:
    """Bool[]: a rule that wants none."""
    return torch.zeros((), dtype=torch.bool)


def wanting(rules: tuple[Rule, ...], wants: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
    """What a wrapper of these rules wants: `always` itself, which can be told from it, where all of them do."""
    return always if all(rule.wants is always for rule in rules) else wants
