"""Rules that cut: above a value, between two quantiles, below the mean, without the largest losses."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from puresift import settings
from puresift.errors import SiftError
from puresift.order import inside, mean
from puresift.rules.histories import remember, unseen
from puresift.rules.planning import always
from puresift.settings import Number
from puresift.types import Losses, Odds, Rule


class CutState(NamedTuple):
    """The last losses, in a ring."""

    history: Tensor  # Float[history]
    seen: Tensor  # Int64[], losses so far


class ValueState(NamedTuple):
    """Nothing to remember."""


def threshold(value: Number | None = None, *, quantile: Number | None = None, history: int = 1024) -> Rule:
    """Keep what lies above a loss, or above a quantile of the last losses: p = 1 there, else 0.

        value:     p = (loss > value), for any share of the pool
        quantile:  p = the share of the loss's ranks, [#less, #less-or-equal] / n, that lies above the quantile

    The second plans to keep 1 - quantile; losses that tie across the quantile share what is left of the plan.

    Differs from the online hard-example mining of Shrivastava et al. (the largest k losses of a pool): the cut is a
    value, or comes from a history across pools, so that an easy pool may keep fewer rows than a hard one.

    Args:
        value: the loss above which rows are kept, in the loss's unit.
        quantile: a quantile of the history, in [0, 1), instead of value.
        history: losses remembered for the quantile, at least a pool.

    Returns:
        A rule with weights 1.

    Raises:
        SiftError: not exactly one of value and quantile is given, or a setting is out of range; on the first pool,
            when it has more rows than the history.

    Example:
        >>> rule = threshold(quantile=0.5)
        >>> rule.select(rule.init(), torch.tensor([3.0, 1.0, 1.0, 0.0]))[1].probs
        tensor([1.0000, 0.5000, 0.5000, 0.0000])

    References:
        Abhinav Shrivastava, Abhinav Gupta, Ross Girshick, "Training Region-based Object Detectors with Online Hard
        Example Mining", 2016.
    """
    if (value is None) == (quantile is None):
        raise SiftError("give exactly one of value (a loss) and quantile (of the last losses)")
    if quantile is not None:
        return _between(settings.share("quantile", quantile), 1.0, settings.count("history", history))
    assert value is not None
    least = settings.finite("value", value)

    def select(state: ValueState, losses: Losses, **columns: Any) -> tuple[ValueState, Odds]:
        probs = (losses.float() > least).float()
        return state, Odds(probs, torch.ones_like(probs))

    return Rule(ValueState, select, always)


def band(low: Number, *, high: Number, history: int = 1024) -> Rule:
    """Keep what lies between two quantiles of the last losses: p = 1 there, else 0. The plan is high - low.

    Learnt rows lie below the band, mislabelled or unlearnable ones above it. p is the share of the loss's ranks,
    [#less, #less-or-equal] / n, that lies in [low, high]: ties at either end do not change the plan.

    Differs from the small-loss selection of Jiang et al. in the lower cut, and in taking both from a running history
    in place of a learned or scheduled threshold.

    Args:
        low: the lower quantile, in [0, 1).
        high: the upper quantile, in (0, 1], above low.
        history: losses remembered, at least a pool.

    Returns:
        A rule with weights 1.

    Raises:
        SiftError: a quantile is out of range or low is not below high; on the first pool, when it has more rows than
            the history.

    Example:
        >>> rule = band(0.25, high=0.75)
        >>> rule.select(rule.init(), torch.tensor([3.0, 1.0, 2.0, 0.0]))[1].probs
        tensor([0., 1., 1., 0.])

    References:
        Lu Jiang, Zhengyuan Zhou, Thomas Leung, Li-Jia Li, Li Fei-Fei, "MentorNet: Learning Data-Driven Curriculum for
        Very Deep Neural Networks on Corrupted Labels", 2018.
    """
    low = settings.share("low", low)
    high = settings.fraction("high", high)
    settings.ordered(("low", low), ("high", high))
    return _between(low, high, settings.count("history", history))


def _between(low: Number, high: Number, history: int) -> Rule:
    def select(state: CutState, losses: Losses, **columns: Any) -> tuple[CutState, Odds]:
        losses = losses.float()
        state = CutState(*remember(state.history, state.seen, losses))
        probs = inside(state.history, state.seen, losses, low, high)
        return state, Odds(probs, torch.ones_like(probs))

    return Rule(lambda: CutState(*unseen(history)), select, always)


def prune(ratio: Number = 0.5, *, history: int = 1024) -> Rule:
    """Drop a share `ratio` of the losses below the running mean, and upweight the rest of them: unbiased by design.

        below the mean:  p = 1 - ratio, weight 1 / (1 - ratio)
        else:            p = 1, weight 1

    The mean is that of the last `history` losses, the pool itself included, so the first pool uses its own. It keeps
    about 1 - ratio * (the share below the mean); the expected weighted sum over all rows seen is that of all rows, so
    a kept batch has a larger gradient than a random one: `unbiased` scales the weights to a plan.

    Differs from InfoBatch: pool by pool on live losses rather than epoch by epoch on those of the last epoch; for
    last epochs on full data, see `anneal`.

    Args:
        ratio: the share to drop below the mean, in [0, 1).
        history: losses the mean is over, at least a pool.

    Returns:
        A rule with weights.

    Raises:
        SiftError: a setting is out of range; on the first pool, when it has more rows than the history.

    Example:
        >>> rule = prune(ratio=0.5)
        >>> rule.select(rule.init(), torch.tensor([1.0, 5.0, 2.0]))[1]
        Odds(probs=tensor([0.5000, 1.0000, 0.5000]), weights=tensor([2., 1., 2.]))

    References:
        Ziheng Qin et al., "InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning", 2024.
    """
    ratio = settings.share("ratio", ratio)
    history = settings.count("history", history)

    def select(state: CutState, losses: Losses, **columns: Any) -> tuple[CutState, Odds]:
        losses = losses.float()
        state = CutState(*remember(state.history, state.seen, losses))
        filled = torch.arange(history, device=losses.device) < state.seen
        middle = mean(torch.where(filled, state.history, 0.0), state.seen.clamp(max=history))
        ones = torch.ones_like(losses)
        probs = torch.where(losses.double() < middle, ones * (1 - ratio), ones)
        return state, Odds(probs, 1 / probs)

    return Rule(lambda: CutState(*unseen(history)), select, always)


class DropTopState(NamedTuple):
    """The wrapped rule's state, and the last losses, in a ring."""

    inner: Any
    history: Tensor  # Float[history]
    seen: Tensor  # Int64[], losses so far


def drop_top(rule: Rule, quantile: Number, *, history: int = 1024) -> Rule:
    """Drop what lies above a quantile of the last losses, as suspected noise: p times the loss's share below it.

    A loss that ties across the quantile keeps the share of its ranks below. The plan shrinks by what is dropped;
    `hold` restores it. Dropped rows are lost on purpose, so weigh inside: `drop_top(unbiased(rule), ...)`.

    Args:
        rule: any; it still sees all losses.
        quantile: a quantile of the history, in (0, 1]; .95 drops the largest twentieth.
        history: losses remembered, at least a pool.

    Returns:
        A rule that always wants scores; to start later, wrap it in `delay`.

    Raises:
        SiftError: a setting is out of range; on the first pool, when it has more rows than the history.

    Example:
        >>> from puresift import rules
        >>> rule = drop_top(rules.uniform(keep=0.5), 0.75)
        >>> rule.select(rule.init(), torch.tensor([0.3, 9.0, 0.2, 0.7]))[1].probs
        tensor([0.5000, 0.0000, 0.5000, 0.5000])

    References:
        Bo Han et al., "Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels", 2018.
    """
    settings.called("rule", rule, "select")
    quantile = settings.fraction("quantile", quantile)
    history = settings.count("history", history)

    def init() -> DropTopState:
        return DropTopState(rule.init(), *unseen(history))

    def select(state: DropTopState, losses: Losses, **columns: Any) -> tuple[DropTopState, Odds]:
        inner, odds = rule.select(state.inner, losses, **columns)
        losses = losses.float()
        state = DropTopState(inner, *remember(state.history, state.seen, losses))
        trusted = inside(state.history, state.seen, losses, 0.0, quantile)
        return state, Odds(odds.probs * trusted, odds.weights)

    return Rule(init, select, always)
