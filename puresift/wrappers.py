"""Wrappers: a rule in, a rule out."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from puresift import settings, trees
from puresift.types import Losses, Odds, Rule


class DelayState(NamedTuple):
    """The wrapped rule's state, and the pools seen."""

    inner: Any
    seen: Tensor  # Int64[]


def delay(rule: Rule, steps: int) -> Rule:
    """Keep everything for the first `steps` pools, then sift.

    The losses of a young model say little about the samples. Pools before the start are not scored, and the rule
    begins with an empty history.

    Args:
        rule: the rule that takes over.
        steps: pools to hand through, >= 0.

    Returns:
        A rule with p = 1 and weights 1 until then.

    Raises:
        ValueError: steps is out of range.

    Example:
        >>> from puresift import rules
        >>> rule = delay(rules.uniform(keep=0.5), steps=1)
        >>> state, first = rule.select(rule.init(), torch.zeros(1))
        >>> state, second = rule.select(state, torch.zeros(1))
        >>> first.probs, second.probs
        (tensor([1.]), tensor([0.5000]))
    """
    settings.count("steps", steps, least=0)

    def init() -> DelayState:
        return DelayState(rule.init(), torch.zeros((), dtype=torch.int64))

    def select(state: DelayState, losses: Losses, **columns: Any) -> tuple[DelayState, Odds]:
        inner, odds = rule.select(state.inner, losses, **columns)
        active = state.seen >= steps
        return DelayState(where(active, inner, state.inner), state.seen + 1), passing(active, odds)

    def wants(state: DelayState) -> Tensor:
        return (state.seen >= steps) & rule.wants(state.inner).to(state.seen.device)

    return Rule(init, select, wants)


def where(active: Tensor, then: Any, otherwise: Any) -> Any:
    """One of two trees, by a Bool[]."""
    return trees.map_leaves(lambda yes, no: torch.where(active, yes, no), then, otherwise)


def passing(active: Tensor, odds: Odds) -> Odds:
    """The odds where active; else everything is kept, at weight 1."""
    ones = torch.ones_like(odds.probs)
    return Odds(torch.where(active, odds.probs, ones), torch.where(active, odds.weights, ones))
