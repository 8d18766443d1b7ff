"""Wrappers that change odds, or what a rule sees: a rule in, a rule out.

Those that change probabilities leave the weights alone; put `unbiased` around the whole to weigh by what results.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from puresift import settings
from puresift.columns import MissingColumn, unreadable
from puresift.ranks import always, fill, inside, mean, remember, unseen
from puresift.settings import Number
from puresift.types import Losses, Odds, Rule


class MixState(NamedTuple):
    """The wrapped rules' states."""

    inner: tuple[Any, ...]


def mix(*rules: Rule, shares: tuple[Number, ...] | list[Number] | None = None) -> Rule:
    """Several rules as one, as if a coin chose among them for each row.

        p = sum_r share_r * p_r        weight = sum_r share_r * p_r * weight_r / p

    Each row's expected weight is the mean of what the rules give it, so a mixture of unbiased rules is unbiased.

    Args:
        rules: two or more.
        shares: a number > 0 each, relative to their sum; equal without it.

    Returns:
        A rule.

    Raises:
        ValueError: fewer than two rules, another number of shares, or one out of range.

    Example:
        >>> from puresift import rules
        >>> rule = mix(rules.top(keep=0.5), rules.uniform(keep=0.5), shares=(0.8, 0.2))
        >>> rule.select(rule.init(), torch.tensor([1.0, 2.0]))[1].probs
        tensor([0.1000, 0.9000])
    """
    if len(rules) < 2:
        raise ValueError(f"mix needs two rules or more, got {len(rules)}")
    parts = list(shares) if shares is not None else [1.0] * len(rules)
    if len(parts) != len(rules):
        raise ValueError(f"shares must have a number for each of the {len(rules)} rules, got {len(parts)}")
    for part in parts:
        settings.positive("each of shares", part)
    whole = sum(parts)

    def init() -> MixState:
        return MixState(tuple(rule.init() for rule in rules))

    def select(state: MixState, losses: Losses, **columns: Any) -> tuple[MixState, Odds]:
        states: list[Any] = []
        probs = pull = weights = torch.zeros_like(losses, dtype=torch.float64)
        for rule, inner, part in zip(rules, state.inner, parts, strict=True):
            after, odds = rule.select(inner, losses, **columns)
            states.append(after)
            share = part / whole
            probs = probs + share * odds.probs.double()
            pull = pull + share * odds.probs.double() * odds.weights
            weights = weights + share * odds.weights
        likely = probs.clamp(max=1)
        weighed = torch.where(likely > 0, pull / likely, weights)
        return MixState(tuple(states)), Odds(likely.float(), weighed.float())

    def wants(state: MixState) -> Tensor:
        each = [rule.wants(inner) for rule, inner in zip(rules, state.inner, strict=True)]
        device = next((wish.device for wish in each if wish.device.type != "cpu"), each[0].device)
        return torch.stack([wish.to(device) for wish in each]).any()

    return Rule(init, select, wants)


def floor(rule: Rule, least: Number) -> Rule:
    """No row is ever quite out: p = max(p, least). Weights stay.

    The plan grows by what is added; `hold` brings it back.

    Args:
        rule: any.
        least: the smallest probability, in (0, 1].

    Returns:
        A rule with p > 0, as `unbiased` needs it.

    Raises:
        ValueError: least is out of range.

    Example:
        >>> from puresift import rules
        >>> rule = floor(rules.top(keep=0.5), least=0.1)
        >>> rule.select(rule.init(), torch.tensor([1.0, 2.0]))[1].probs
        tensor([0.1000, 1.0000])
    """
    settings.fraction("least", least)

    def select(state: Any, losses: Losses, **columns: Any) -> tuple[Any, Odds]:
        state, odds = rule.select(state, losses, **columns)
        return state, Odds(torch.maximum(odds.probs, torch.ones_like(odds.probs) * least), odds.weights)

    return Rule(rule.init, select, rule.wants)


class DropTopState(NamedTuple):
    """The wrapped rule's state, and the last losses, in a ring."""

    inner: Any
    history: Tensor  # Float[history]
    seen: Tensor  # Int64[], losses so far


def drop_top(rule: Rule, quantile: Number, *, history: int = 1024) -> Rule:
    """Drop what lies above a quantile of the last losses, as suspected noise: p times the loss's share below it.

    A loss that ties across the quantile keeps the share of its ranks below. The plan shrinks by what is dropped;
    `hold` brings it back. Rows dropped are meant to be lost, so weigh inside: `drop_top(unbiased(rule), ...)`.

    Args:
        rule: any; it still sees all losses.
        quantile: of the history, in (0, 1]; .95 drops the largest twentieth.
        history: losses remembered, at least a pool.

    Returns:
        A rule that always wants scores; to begin later, put `delay` around it.

    Raises:
        ValueError: a setting is out of range; on the first pool, when it has more rows than the history.

    Example:
        >>> from puresift import rules
        >>> rule = drop_top(rules.uniform(keep=0.5), 0.75)
        >>> rule.select(rule.init(), torch.tensor([0.3, 9.0, 0.2, 0.7]))[1].probs
        tensor([0.5000, 0.0000, 0.5000, 0.5000])

    References:
        Bo Han et al., "Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels", 2018.
    """
    settings.fraction("quantile", quantile)
    settings.count("history", history)

    def init() -> DropTopState:
        return DropTopState(rule.init(), *unseen(history))

    def select(state: DropTopState, losses: Losses, **columns: Any) -> tuple[DropTopState, Odds]:
        inner, odds = rule.select(state.inner, losses, **columns)
        losses = losses.float()
        state = DropTopState(inner, *remember(state.history, state.seen, losses))
        trusted = inside(state.history, state.seen, losses, 0.0, quantile)
        return state, Odds(odds.probs * trusted, odds.weights)

    return Rule(init, select, always)


class UnbiasedState(NamedTuple):
    """The wrapped rule's state, and how many rows had p = 0: no weight makes up for them."""

    inner: Any
    lost: Tensor  # Int64[]


def unbiased(rule: Rule, *, keep: Number | None = None, clip: Number | None = None, exponent: Number = 1.0) -> Rule:
    """Weigh each row by the inverse of its probability, so that the kept rows stand for all of them.

        weight = min((keep / p) ** exponent, clip)

    For exponent 1 and no clip, the expectation of the weighted sum over the kept rows, divided by keep * B, is the
    mean over the pool, whatever draw has p as its inclusion probabilities. Weights keep / p leave uniform at weight 1
    and the learning rate its meaning. The wrapped rule's own weights are replaced.

    A rule that may give p = 0 is biased beyond any weight. It is refused here if a few probing pools show it; what
    slips through (behind a `delay`, say) is counted in the state's `lost` and has weight 1.

    Differs from Katharopoulos & Fleuret in working for any rule and draw; the exponent is theirs.

    Args:
        rule: one with p > 0.
        keep: the planned fraction, in (0, 1]; without it the pool's mean p, for which weights differ little from
            those of a fixed plan, and are 1 wherever everything is kept.
        clip: the largest weight, > 0; a little bias for less variance.
        exponent: >= 0; below 1 leans towards likely rows, 0 weighs nothing.

    Returns:
        A rule with weights.

    Raises:
        ValueError: a setting is out of range, or the rule may give p = 0.

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
    if keep is not None:
        settings.fraction("keep", keep)
    if clip is not None:
        settings.positive("clip", clip)
    settings.nonnegative("exponent", exponent)
    if _gives_up_rows(rule):
        raise ValueError(
            "this rule gives some rows p = 0, and no weight makes up for rows that are never kept; give each a chance "
            "first, as in ps.unbiased(ps.floor(rule, least=0.05)), or mean to lose them and weigh inside, as in "
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

    return Rule(init, select, wants)


def hold(rule: Rule, keep: Number) -> Rule:
    """Hold the plan, whatever the losses do: p = min(1, c * p), the one c with sum(p) = keep * B in every pool.

    Rules that rank among older losses keep less than planned while losses fall; this does not, and it carries nothing
    from pool to pool. Drawn by `systematic`, the count is the floor or the ceiling of the plan. Rows of p = 0 are kept
    only where the others cannot fill the plan at p = 1; they then share the rest equally. Pools that the rule hands
    through unscored (`delay`, `interrupt`) stay whole. Weights stay.

    Args:
        rule: any.
        keep: the planned fraction, in (0, 1].

    Returns:
        A rule.

    Raises:
        ValueError: keep is out of range.

    Example:
        >>> from puresift import rules
        >>> rule = hold(rules.relative(keep=0.5), keep=0.25)
        >>> rule.select(rule.init(), torch.tensor([1.0, 2.0]))[1].probs
        tensor([0.1250, 0.3750])
    """
    settings.fraction("keep", keep)

    def select(state: Any, losses: Losses, **columns: Any) -> tuple[Any, Odds]:
        after, odds = rule.select(state, losses, **columns)
        through = ~rule.wants(state).to(losses.device) & (odds.probs == 1).all()
        probs = torch.where(through, odds.probs, fill(odds.probs, keep * losses.shape[0]))
        return after, Odds(probs, odds.weights)

    return Rule(rule.init, select, rule.wants)


def _gives_up_rows(rule: Rule) -> bool:
    """Whether some row of a few pools that rules find hard gets p = 0; False where that cannot be read."""
    ramp = torch.arange(8.0)
    state, columns = rule.init(), dict[str, Tensor]()
    for pool in (ramp, torch.zeros(8), 2.0**ramp, ramp - 4, ramp):
        while True:
            try:
                state, odds = rule.select(state, pool, **columns)
                break
            except MissingColumn as missing:
                columns[missing.name] = torch.zeros(8, dtype=torch.int64)
        lost = (odds.probs == 0).any()
        if not unreadable(lost) and bool(lost):
            return True
    return False


def by_error(rule: Rule) -> Rule:
    """The rule, shown the chance of being wrong in place of the loss: 1 - exp(-loss), for losses in nats.

    It lies in [0, 1), so that a few rows with a very large loss, outliers and wrong labels among them, do not take the
    mean for themselves. The losses in the infos stay losses.

    Args:
        rule: any; for a rule by rank alone nothing changes but rounding.

    Returns:
        A rule with the same state.

    Example:
        >>> from puresift import weighted
        >>> rule = by_error(weighted.importance(keep=0.5, floor=0.0))
        >>> rule.select(rule.init(), torch.tensor([0.1, 9.0, 9.5]))[1].probs
        tensor([0.0681, 0.7159, 0.7159])
    """

    def select(state: Any, losses: Losses, **columns: Any) -> tuple[Any, Odds]:
        return rule.select(state, -torch.expm1(-losses.float().clamp(min=0)), **columns)

    return Rule(rule.init, select, rule.wants)
