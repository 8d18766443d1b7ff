"""Wrappers that change odds, or the losses that a rule sees: a rule in, a rule out.

Those that change probabilities leave the weights alone; put `unbiased` around the whole to weigh by what results.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from puresift import settings
from puresift.errors import SiftError
from puresift.rules.counting import like
from puresift.rules.planning import wanting
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
        SiftError: fewer than two rules, another number of shares, or one out of range.

    Example:
        >>> from puresift import rules
        >>> rule = mix(rules.top(keep=0.5), rules.uniform(keep=0.5), shares=(0.8, 0.2))
        >>> rule.select(rule.init(), torch.tensor([1.0, 2.0]))[1].probs
        tensor([0.1000, 0.9000])
    """
    for rule in rules:
        settings.called("rule", rule, "select")
    if len(rules) < 2:
        raise SiftError(f"mix needs two rules or more, got {len(rules)}")
    parts = list(shares) if shares is not None else [1.0] * len(rules)
    if len(parts) != len(rules):
        raise SiftError(f"shares must have a number for each of the {len(rules)} rules, got {len(parts)}")
    parts = [settings.positive("each of shares", part) for part in parts]
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

    return Rule(init, select, wanting(rules, wants))


def floor(rule: Rule, least: Number) -> Rule:
    """No row is ever quite out: p = max(p, least). Weights stay.

    The plan grows by what is added; `hold` brings it back.

    Args:
        rule: any.
        least: the smallest probability, in (0, 1].

    Returns:
        A rule with p > 0, as `unbiased` needs it.

    Raises:
        SiftError: least is out of range.

    Example:
        >>> from puresift import rules
        >>> rule = floor(rules.top(keep=0.5), least=0.1)
        >>> rule.select(rule.init(), torch.tensor([1.0, 2.0]))[1].probs
        tensor([0.1000, 1.0000])
    """
    settings.called("rule", rule, "select")
    least = settings.fraction("least", least)

    def select(state: Any, losses: Losses, **columns: Any) -> tuple[Any, Odds]:
        state, odds = rule.select(state, losses, **columns)
        return state, Odds(torch.maximum(odds.probs, torch.ones_like(odds.probs) * least), odds.weights)

    return Rule(rule.init, select, rule.wants)


def by_error(rule: Rule) -> Rule:
    """The rule, shown the probability of being wrong in place of the loss: 1 - exp(-loss), for losses in nats.

    It lies in [0, 1), so that a few rows with a very large loss, outliers and wrong labels among them, do not take the
    mean for themselves. The losses in the infos stay losses.

    Args:
        rule: any; for a rule by rank alone nothing changes but rounding.

    Returns:
        A rule with the same state.

    Example:
        >>> from puresift import rules
        >>> rule = by_error(rules.importance(keep=0.5, floor=0.0))
        >>> rule.select(rule.init(), torch.tensor([0.1, 9.0, 9.5]))[1].probs
        tensor([0.0681, 0.7159, 0.7159])
    """
    settings.called("rule", rule, "select")

    def select(state: Any, losses: Losses, **columns: Any) -> tuple[Any, Odds]:
        return rule.select(state, -torch.expm1(-losses.float().clamp(min=0)), **columns)

    return Rule(rule.init, like(select, rule), rule.wants)


def by_root(rule: Rule) -> Rule:
    """The rule, shown the square root of the loss.

    For a loss that is a squared error, the root is the error, and the norm of the gradient is in proportion to it: the
    odds that lower the variance most. It also keeps a few rows with a very large loss from taking all the odds.

    Args:
        rule: any; for a rule by rank alone nothing changes but rounding.

    Returns:
        A rule with the same state; losses below 0 count as 0.

    Example:
        >>> from puresift import rules
        >>> rule = by_root(rules.importance(keep=0.5, floor=0.0))
        >>> rule.select(rule.init(), torch.tensor([1.0, 1.0, 4.0, 4.0]))[1].probs
        tensor([0.3333, 0.3333, 0.6667, 0.6667])

    References:
        Angelos Katharopoulos, François Fleuret, "Not All Samples Are Created Equal: Deep Learning with Importance
        Sampling", 2018 (odds in proportion to the norm of the gradient).
    """
    settings.called("rule", rule, "select")

    def select(state: Any, losses: Losses, **columns: Any) -> tuple[Any, Odds]:
        return rule.select(state, losses.float().clamp(min=0).sqrt_(), **columns)

    return Rule(rule.init, like(select, rule), rule.wants)
