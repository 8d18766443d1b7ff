"""A wrapper that keeps everything while the model still guesses: a rule in, a rule out."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from puresift import settings
from puresift.errors import SiftError
from puresift.order import mean
from puresift.rules.planning import always
from puresift.rules.scheduling import passing, where
from puresift.settings import Number
from puresift.types import Losses, Odds, Rule


class GateState(NamedTuple):
    """The wrapped rule's state, and what the gate goes by."""

    inner: Any
    mean: Tensor  # Float64[1], running mean of the losses
    first: Tensor  # Float64[1], mean of the first pools
    seen: Tensor  # Int64[], pools
    open: Tensor  # Bool[], whether the rule decides


def gate(rule: Rule, share: Number = 0.8, *, classes: int | None = None, back: Number = 1.1, pools: int = 8) -> Rule:
    """Keep everything until the mean loss has fallen below a share of what guessing costs; then the rule decides.

        opens where   mean < share * bar,          bar = ln(classes), or the mean of the first pools
        closes where  mean > back * share * bar

    mean is an exponential moving average over about `pools` pools.

    Ranks ignore scale, and a model that guesses is the worse for it. For margins ~ N(mu, sigma), keep a row with a
    probability in proportion to rank ** beta of its loss. The expected gradient on the scale of the logits is then in
    proportion to the mean margin of what is kept: at beta 1, mu / 2 - sigma / (2 sqrt(pi)). It turns round where
    mu / sigma < 1 / sqrt(pi), at an accuracy of about 71 % (63, 80, 85 % for beta .5, 2, 3): below that, what is kept
    is answered wrong on average, the smallest loss on it is that of the constant answer, and training is pulled back
    to it. A mean loss below .8 ln(classes) is past that point; a fixed delay only sometimes is.

    Args:
        rule: one that ranks losses, such as `ps.relative`; its history waits while the gate is closed.
        share: of the bar, in (0, 1].
        classes: for losses in nats of a classifier, how many classes; without it the first `pools` pools give the bar.
        back: how far above the opening the mean must rise for the gate to close again, >= 1.
        pools: the length of the average, >= 1.

    Returns:
        A rule with p = 1 and weights 1 while the gate is closed. It always wants scores.

    Raises:
        SiftError: a setting is out of range.

    Example:
        >>> from puresift import rules
        >>> rule = gate(rules.top(keep=0.5), classes=2, pools=1)
        >>> state, guessing = rule.select(rule.init(), torch.tensor([0.6, 0.8]))
        >>> state, better = rule.select(state, torch.tensor([0.1, 0.3]))
        >>> guessing.probs, better.probs
        (tensor([1., 1.]), tensor([0., 1.]))
    """
    settings.called("rule", rule, "select")
    share = settings.fraction("share", share)
    pools = settings.count("pools", pools)
    if classes is not None:
        classes = settings.count("classes", classes, least=2)
    back = settings.nonnegative("back", back)
    if not isinstance(back, Tensor) and not back >= 1:
        raise SiftError(f"back must be >= 1, or the gate would close as soon as it opens, got {back!r}")

    def init() -> GateState:
        average, first = (torch.zeros(1, dtype=torch.float64) for _ in range(2))
        closed = torch.zeros((), dtype=torch.bool)
        return GateState(rule.init(), average, first, torch.zeros((), dtype=torch.int64), closed)

    def select(state: GateState, losses: Losses, **columns: Any) -> tuple[GateState, Odds]:
        if not losses.shape[0]:  # an empty pool has no mean, and moves none
            return state, Odds(losses.float(), losses.float())
        pool, count = mean(losses.float()), state.seen + 1
        rate = 1 / count.clamp(max=pools).double()  # a plain mean at first
        average = state.mean + rate * (pool - state.mean)
        first = torch.where(count <= pools, average, state.first)
        bar = share * (first if classes is None else math.log(classes))
        ready = count > pools if classes is None else count > 0
        below = (average < torch.where(state.open, back * bar, bar)).squeeze()
        active = ready & below
        inner, odds = rule.select(state.inner, losses, **columns)
        after = GateState(where(active, inner, state.inner), average, first, count, active)
        return after, passing(active, odds)

    return Rule(init, select, always)
