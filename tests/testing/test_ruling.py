"""What a rule can break, and that the law it breaks is named."""

from typing import NamedTuple

import pytest
import torch

import puresift as ps
from tests import laws
from tests.laws import MEMBERS

PLANNED = {
    "uniform": 0.3,
    "relative": 0.5,
    "relative-ordered": 0.4,
    "relative-window": 0.4,
    "top": 0.4,
    "ranked": 0.3,
    "importance": 0.4,
    "band": 0.65,
    "hold": 0.4,
}


@pytest.mark.parametrize("name", MEMBERS)
def test_every_member_keeps_the_laws_to_the_bit(name):
    ps.testing.assert_rule(MEMBERS[name]().rule, keep=PLANNED.get(name), columns=laws.columns, rounding=0)


class Count(NamedTuple):
    seen: torch.Tensor


def build(select, init=lambda: (), wants=lambda state: torch.tensor(True)):
    return ps.Rule(init, select, wants)


def odds(losses, probs=None, weights=None):
    ones = torch.ones_like(losses)
    return ps.Odds(ones / 2 if probs is None else probs, ones if weights is None else weights)


def writes(state, losses, **columns):
    losses.clamp_(max=0.5)
    return state, odds(losses)


def writes_the_same(state, losses, **columns):
    losses.copy_(losses.clone())
    return state, odds(losses)


def writes_to_its_state(state, losses, **columns):
    state.seen.add_(1)
    return state, odds(losses)


def draws_numbers(state, losses, **columns):
    return state, odds(losses, torch.rand(len(losses)))


def grows(state, losses, **columns):
    return Count(torch.cat([state.seen.reshape(-1), losses])), odds(losses)


def turns_float(state, losses, **columns):
    return Count(state.seen + 0.5), odds(losses)


def remembers_aside():
    seen = []

    def select(state, losses, **columns):
        seen.append(losses)
        return state, odds(losses, torch.full_like(losses, 1 / (1 + len(seen))))

    return build(select)


def leaves_gradients_off(state, losses, **columns):
    torch.set_grad_enabled(False)
    return state, odds(losses)


def reads_a_value(state, losses, **columns):
    return state, odds(losses, losses.clamp(0, 1) if float(losses.max()) > 0.5 else None)


def over_the_first(state, losses, **columns):
    return state, odds(losses, (losses >= losses[0]).float())


count = lambda: Count(torch.tensor(0))  # noqa: E731
BROKEN = {
    "not a rule": (lambda: lambda state: state, r"a rule is ps.Rule\(init, select, wants\)"),
    "p above 1": (lambda: build(lambda s, x, **c: (s, odds(x, x))), r"odds: probabilities lie in \[0, 1\], got 2"),
    "p is NaN": (lambda: build(lambda s, x, **c: (s, odds(x, x / x.sum()))), r"odds: probabilities .* got"),
    "a weight of 0": (lambda: build(lambda s, x, **c: (s, odds(x, weights=0 * x))), "odds: weights are finite and > 0"),
    "an infinite weight": (lambda: build(lambda s, x, **c: (s, odds(x, weights=1 / (0 * x)))), "odds: weights are fin"),
    "one p for all": (lambda: build(lambda s, x, **c: (s, odds(x, x.mean()))), r"odds: probs must be Float\[16\], got"),
    "no state given back": (lambda: build(lambda s, x, **c: odds(x).probs), r"odds: select gives \(state, ps.Odds\)"),
    "a list of odds": (lambda: build(lambda s, x, **c: (s, [1.0])), r"odds: select gives \(state, ps.Odds\), got list"),
    "writes to losses": (lambda: build(writes), "purity: an input tensor changed, losses: it differs in .* places"),
    "writes the same": (lambda: build(writes_the_same), "purity: an input tensor was written to, losses: it, if only"),
    "writes to its state": (
        lambda: build(writes_to_its_state, count),
        "purity: an input tensor changed, state: :Count/s",
    ),
    "draws": (lambda: build(draws_numbers), "purity: the global RNG moved, that of torch; draw from a ps.key"),
    "leaves gradients off": (lambda: build(leaves_gradients_off), "purity: the gradient mode changed; use `with torch"),
    "remembers aside": (remembers_aside, "purity: the same input gives another answer at the second call: .*probs"),
    "by position": (lambda: build(over_the_first), "order: permuting the rows moves the probs of a row by 1"),
    "a state that grows": (lambda: build(grows, count), r"state: .* changes its layout: .*int64\[\] in the first"),
    "a state turns float": (
        lambda: build(turns_float, count),
        r"state: .* layout: .*int64\[\] in the first and float32",
    ),
    "a number in the state": (
        lambda: build(lambda s, x, **c: (s, odds(x)), lambda: (0,)),
        "state: /0 is a int; a state",
    ),
    "another first state": (
        lambda: build(lambda s, x, **c: (s, odds(x)), lambda: Count(torch.rand(()))),
        "second call",
    ),
    "wants a bool": (
        lambda: build(lambda s, x, **c: (s, odds(x)), wants=lambda s: True),
        r"wants: it must give a Bool\[",
    ),
    "reads a value": (lambda: build(reads_a_value), "vmap: .*; choose by torch.where, and read no value on the host"),
    "off the plan": (lambda: ps.uniform(keep=0.4), r"plan: a mean of 0.4000 is kept and 0.5 is planned, \+- 0.01"),
    "a column missing": (lambda: ps.by_group(ps.top(0.5), groups=3), "this rule needs the column 'group'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_told_its_law(name):
    make, words = BROKEN[name]
    kind = AssertionError if name != "a column missing" else ps.SiftError
    try:
        with pytest.raises(kind, match=f"(?s){words}"):
            ps.testing.assert_rule(make(), keep=0.5)
    finally:
        torch.set_grad_enabled(True)


def test_rounding_is_allowed_for_a_users_rule_and_can_be_forbidden():
    def select(state, losses, **columns):
        total = sum(losses.unbind(), torch.ones(()))  # one after another, so by their order
        return state, odds(losses, (losses / total).abs().clamp(max=1))

    ps.testing.assert_rule(build(select))
    with pytest.raises(AssertionError, match="order: permuting the rows moves the probs"):
        ps.testing.assert_rule(build(select), size=64, rounding=0)
