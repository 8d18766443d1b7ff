"""Rules whose probabilities are proportional to something, solved so that they sum to the plan exactly."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from puresift import settings
from puresift.ranks import always, fill, mean, ranks, remember, unseen
from puresift.settings import Number
from puresift.types import Losses, Odds, Rule


class ImportanceState(NamedTuple):
    """Nothing to remember."""


class MeanState(NamedTuple):
    """The last scores, in a ring, for their mean."""

    history: Tensor  # Float[history]
    seen: Tensor  # Int64[], scores so far


def importance(keep: Number, *, floor: Number = 0.1, bias: Number = 1.0, history: int | None = None) -> Rule:
    """Keep a row in proportion to its score and weigh it by the inverse: the least variance for an unbiased gradient.

        q = (1 - floor) * score / sum(score) + floor / B
        p = min(1, c * q), the one c with sum(p) = keep * B
        weight = (keep / p) ** bias

    Weights stay at most 1 / floor. Scores are taken to be >= 0, as losses and gradient norms are: smaller ones count
    as 0, and where all are 0 every row is alike. With floor = 0 a row of score 0 is never kept, unless the others do
    not fill the plan, and its weight is 1.

    With `history`, p = min(1, keep * ((1 - floor) * score / m + floor)), m the mean of that many scores, the pool's own
    included: nothing is solved for, so a pool of low scores keeps less than one of high scores, and where a few
    scores are far above the mean, less than the plan is kept.

    Differs from Katharopoulos & Fleuret (p = score / sum with replacement, weight 1 / (B p), no floor): each row is
    drawn once at most, and p is the inclusion probability itself, so that the weights are exact.

    Args:
        keep: the planned fraction, in (0, 1].
        floor: the share of uniform in the mixture, in [0, 1].
        bias: the exponent of the weights, >= 0; below 1 it leans towards large scores, 0 weighs nothing.
        history: how many scores their mean is taken over, at least a pool; by default each pool is its own measure.

    Returns:
        A rule with weights.

    Raises:
        ValueError: a setting is out of range.

    Example:
        >>> rule = importance(keep=0.5, floor=0.0)
        >>> rule.select(rule.init(), torch.tensor([1.0, 1.0, 2.0, 6.0]))[1].probs
        tensor([0.2500, 0.2500, 0.5000, 1.0000])

    References:
        Angelos Katharopoulos, François Fleuret, "Not All Samples Are Created Equal: Deep Learning with Importance
        Sampling", 2018.
    """
    settings.fraction("keep", keep)
    settings.level("floor", floor)
    settings.nonnegative("bias", bias)
    if history is not None:
        return _by_mean(keep, floor, bias, settings.count("history", history))

    def select(state: ImportanceState, losses: Losses, **columns: Any) -> tuple[ImportanceState, Odds]:
        size = losses.shape[0]
        scores = losses.float().double().clamp(min=0)
        average = mean(scores)
        relative = torch.where(average > 0, scores / average, 1.0)
        probs = fill((1 - floor) * relative + floor, keep * size)
        return state, Odds(probs, _weights(keep, probs, bias))

    return Rule(ImportanceState, select, always)


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
    weights = torch.where(probs > 0, (keep / probs.double()) ** bias, 1.0)
    return weights.clamp(max=torch.finfo(torch.float32).max).float()


class RankedState(NamedTuple):
    """Nothing to remember."""


def ranked(keep: Number) -> Rule:
    """Keep a row in proportion to a power of its rank in the pool, exactly keep * B of them.

        w = ((i + 1/2) / B) ** (1 / keep - 1) for the i-th smallest loss, i = 0, ..., B - 1; ties share their mean
        p = min(1, c * w), the one c with sum(p) = keep * B

    Draw it with `systematic`, and the count is the floor or the ceiling of the plan.

    Differs from Composer's SelectiveBackprop (int(keep * B) successive draws without replacement in proportion to w):
    p is the inclusion probability itself, the plan need not be whole, and kept rows fill batches rather than shrink
    them.

    Args:
        keep: the planned fraction, in (0, 1].

    Returns:
        A rule with weights 1.

    Raises:
        ValueError: keep is out of range.

    Example:
        >>> rule = ranked(keep=0.5)
        >>> rule.select(rule.init(), torch.tensor([0.1, 3.0, 0.2, 0.7]))[1].probs
        tensor([0.1250, 0.8750, 0.3750, 0.6250])

    References:
        Angela H. Jiang et al., "Accelerating Deep Learning by Focusing on the Biggest Losers", 2019.
        The Mosaic ML Team, "Composer", 2021.
    """
    settings.fraction("keep", keep)

    def select(state: RankedState, losses: Losses, **columns: Any) -> tuple[RankedState, Odds]:
        losses, size = losses.float(), losses.shape[0]
        middle = (torch.arange(size, device=losses.device, dtype=torch.float64) + 0.5) / size
        sums = torch.nn.functional.pad((middle ** (1 / keep - 1)).cumsum(0), (1, 0))
        below, upto = ranks(losses.sort().values, losses)
        probs = fill((sums[upto] - sums[below]) / (upto - below), keep * size)
        return state, Odds(probs, torch.ones_like(probs))

    return Rule(RankedState, select, always)
