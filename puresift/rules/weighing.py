"""Rules that weigh what they keep, so that the kept rows represent the pool."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from puresift import settings
from puresift.errors import SiftError
from puresift.order import SORTED_UP_TO, mean
from puresift.rules.columns import MissingColumn
from puresift.rules.counting import counted, like
from puresift.rules.histories import ShortHistory, remember, unseen
from puresift.rules.planning import always, fill, wanting
from puresift.settings import Number
from puresift.trees import unreadable
from puresift.types import Losses, Odds, Rule


class ImportanceState(NamedTuple):
    """Nothing to remember."""


class MeanState(NamedTuple):
    """The last scores, in a ring, for their mean."""

    history: Tensor  # Float[history]
    seen: Tensor  # Int64[], scores so far


def importance(keep: Number, *, floor: Number = 0.1, bias: Number = 1.0, history: int | None = None) -> Rule:
    """Keep a row in proportion to its score and weigh it by the inverse: the lowest variance for an unbiased gradient.

        q = (1 - floor) * score / sum(score) + floor / B
        p = min(1, c * q), the one c with sum(p) = keep * B
        weight = (keep / p) ** bias

    Weights stay at most 1 / floor. Scores are taken to be >= 0, as losses and gradient norms are: smaller ones count
    as 0, and if all are 0, all rows have equal p. With floor = 0 a row of score 0 is never kept, unless the others do
    not fill the plan, and its weight is 1.

    With `history`, p = min(1, keep * ((1 - floor) * score / m + floor)), m the mean of that many scores, the pool's own
    included: no c is solved for, so a pool of low scores keeps less than one of high scores, and if a few scores
    are far above the mean, less than planned is kept.

    Differs from Katharopoulos & Fleuret (p = score / sum with replacement, weight 1 / (B p), no floor): each row is
    drawn at most once, and p is the inclusion probability itself, so that the weights are exact.

    Args:
        keep: the planned fraction, in (0, 1].
        floor: the share of uniform in the mixture, in [0, 1].
        bias: the exponent of the weights, >= 0; below 1 is biased towards large scores, 0 gives weights of 1.
        history: how many scores the mean is taken over, at least a pool; by default only the pool's own.

    Returns:
        A rule with weights.

    Raises:
        SiftError: a setting is out of range.

    Example:
        >>> rule = importance(keep=0.5, floor=0.0)
        >>> rule.select(rule.init(), torch.tensor([1.0, 1.0, 2.0, 6.0]))[1].probs
        tensor([0.2500, 0.2500, 0.5000, 1.0000])

    References:
        Angelos Katharopoulos, François Fleuret, "Not All Samples Are Created Equal: Deep Learning with Importance
        Sampling", 2018.
    """
    keep = settings.fraction("keep", keep)
    floor = settings.level("floor", floor)
    bias = settings.nonnegative("bias", bias)
    if history is not None:
        return _by_mean(keep, floor, bias, settings.count("history", history))

    def select(state: ImportanceState, losses: Losses, **columns: Any) -> tuple[ImportanceState, Odds]:
        size = losses.shape[0]
        scores = losses.float().clamp(min=0)
        scores = (
            scores if size > SORTED_UP_TO else scores.double()
        )  # of very many, copies would cost more than the sums
        average = mean(scores)
        relative = scores.add_(average <= 0).div_(torch.where(average > 0, average, 1.0))  # 1 where all are 0
        mixed = (1 - floor) * relative + floor if isinstance(floor, Tensor) else relative.mul_(1 - floor).add_(floor)
        probs = fill(mixed, keep * size)
        return state, Odds(probs, _weights(keep, probs, bias))

    return Rule(ImportanceState, counted(select, keep), always)


def _by_mean(keep: Number, floor: Number, bias: Number, length: int) -> Rule:
    def init() -> MeanState:
        return MeanState(*unseen(length))

    def select(state: MeanState, losses: Losses, **columns: Any) -> tuple[MeanState, Odds]:
        scores = losses.float().clamp(min=0)
        history, seen = remember(state.history, state.seen, scores)
        average = mean(torch.where(history.isinf(), 0.0, history), seen.clamp(max=length))
        relative = torch.where(average > 0, scores.double() / average, 1.0)
        probs = (keep * ((1 - floor) * relative + floor)).clamp(max=1).float()
        return MeanState(history, seen), Odds(probs, _weights(keep, probs, bias))

    return Rule(init, select, always)


def _weights(keep: Number, probs: Tensor, bias: Number) -> Tensor:
    if not isinstance(bias, Tensor) and bias == 0:
        return torch.ones_like(probs)  # powers are slow, and this one is known
    weights = torch.where(probs > 0, (keep / probs.double()) ** bias, 1.0)
    return weights.clamp(max=torch.finfo(torch.float32).max).float()


class UnbiasedState(NamedTuple):
    """The wrapped rule's state, and how many rows had p = 0, which no weight can correct."""

    inner: Any
    lost: Tensor  # Int64[]


def unbiased(rule: Rule, *, keep: Number | None = None, clip: Number | None = None, exponent: Number = 1.0) -> Rule:
    """Weigh each row by the inverse of its probability, so that the kept rows represent all of them.

        weight = min((keep / p) ** exponent, clip)

    For exponent 1 and no clip, the expectation of the weighted sum over the kept rows, divided by keep * B, is the
    mean over the pool, for every draw with inclusion probabilities p. With keep / p, uniform has weight 1 and the
    learning rate keeps its meaning. The wrapped rule's own weights are replaced.

    No weight corrects the bias of a rule with p = 0. Such a rule raises here if a few test pools show it; rows found
    only later (for example, after a `delay`) are counted in the state's `lost` and have weight 1.

    Differs from Katharopoulos & Fleuret in working for any rule and draw; the exponent is theirs.

    Args:
        rule: one with p > 0.
        keep: the planned fraction, in (0, 1]; by default the pool's mean p, whose weights differ little from
            those of a fixed plan, and are 1 where everything is kept.
        clip: the largest weight, > 0; adds a little bias for less variance.
        exponent: >= 0; below 1 is biased towards likely rows, 0 gives weights of 1.

    Returns:
        A rule with weights.

    Raises:
        SiftError: a setting is out of range, or the rule may give p = 0.

    Example:
        >>> from puresift import rules
        >>> rule = unbiased(rules.relative(keep=0.5))
        >>> rule.select(rule.init(), torch.tensor([1.0, 2.0]))[1]
        Odds(probs=tensor([0.2500, 0.7500]), weights=tensor([2.0000, 0.6667]))

    References:
        Daniel G. Horvitz, Donovan J. Thompson, "A Generalization of Sampling Without Replacement from a Finite
        Universe", 1952.
        Angelos Katharopoulos, François Fleuret, "Not All Samples Are Created Equal: Deep Learning with Importance
        Sampling", 2018.
    """
    settings.called("rule", rule, "select")
    if keep is not None:
        keep = settings.fraction("keep", keep)
    if clip is not None:
        clip = settings.positive("clip", clip)
    exponent = settings.nonnegative("exponent", exponent)
    if _gives_up_rows(rule):
        raise SiftError(
            "this rule gives some rows p = 0, and no weight makes up for rows that are never kept; give each p > 0 "
            "first, as in ps.unbiased(ps.floor(rule, least=0.05)), or drop them on purpose and weigh inside, as in "
            "ps.drop_top(ps.unbiased(rule), 0.95)"
        )

    def init() -> UnbiasedState:
        return UnbiasedState(rule.init(), torch.zeros((), dtype=torch.int64))

    def select(state: UnbiasedState, losses: Losses, **columns: Any) -> tuple[UnbiasedState, Odds]:
        inner, odds = rule.select(state.inner, losses, **columns)
        never = odds.probs == 0
        plan = mean(odds.probs) if keep is None else keep
        weights = (plan / torch.where(never, 1.0, odds.probs.double())) ** exponent
        weights = weights.clamp(max=torch.finfo(torch.float32).max)
        if clip is not None:
            weights = torch.minimum(weights, torch.ones_like(weights) * clip)
        odds = Odds(odds.probs, torch.where(never, 1.0, weights).float())
        return UnbiasedState(inner, state.lost + never.sum()), odds

    def wants(state: UnbiasedState) -> Tensor:
        return rule.wants(state.inner)

    return Rule(init, like(select, rule), wanting((rule,), wants))


def _gives_up_rows(rule: Rule, rows: int = 8) -> bool:
    """Whether some row of a few difficult test pools gets p = 0; False where that cannot be read."""
    ramp = torch.arange(float(rows))
    state, columns = rule.init(), dict[str, Tensor]()
    for pool in (ramp, torch.zeros(rows), 2.0**ramp, ramp - rows // 2, ramp):
        while True:
            try:
                state, odds = rule.select(state, pool, **columns)
                break
            except MissingColumn as missing:
                columns[missing.name] = torch.zeros(rows, dtype=torch.int64)
            except ShortHistory as short:  # such a rule meets no larger pool
                return _gives_up_rows(rule, short.length)
        lost = (odds.probs == 0).any()
        if not unreadable(lost) and bool(lost):
            return True
    return False
