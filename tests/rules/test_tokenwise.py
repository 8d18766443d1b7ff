"""Token selection is row selection over the real tokens."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import puresift as ps
from tests import laws
from tests.laws import DRAWS

KEY = ps.key(3)


def grid(rows=4, width=6, seed=0):
    losses = ps.keys.uniform(ps.key(seed), rows * width).reshape(rows, width)
    mask = ps.keys.uniform(ps.key(seed + 1), rows * width).reshape(rows, width) < 0.7
    return losses, mask


@given(rows=st.integers(1, 5), width=st.integers(1, 7), seed=st.integers(0, 99), draw=st.sampled_from([None, *DRAWS]))
def test_real_tokens_are_selected_as_rows_are(rows, width, seed, draw):
    losses, mask = grid(rows, width, seed)
    rule = ps.relative(keep=0.5, history=64)
    state = laws.warmed(rule)
    with laws.untouched(state, losses, mask):
        after, weights = ps.tokens(rule, draw=DRAWS.get(draw))(state, KEY, losses, mask)
    expected, odds = rule.select(state, losses[mask])
    thinned = odds.probs if draw is None else DRAWS[draw](KEY, odds.probs)
    assert laws.equal(after, expected)
    assert torch.equal(weights[mask], odds.weights * thinned)
    assert not bool(weights[~mask].any())
    assert weights.shape == losses.shape


def test_padding_changes_nothing():
    losses, mask = grid()
    rule = ps.top(keep=0.6)
    wide = torch.cat([losses, torch.full((4, 3), 99.0)], 1), torch.cat([mask, torch.zeros(4, 3).bool()], 1)
    narrow = ps.tokens(rule, draw=ps.systematic)(rule.init(), KEY, losses, mask)[1]
    assert torch.equal(ps.tokens(rule, draw=ps.systematic)(rule.init(), KEY, *wide)[1][:, :6], narrow)


def test_gradients_flow_through_the_losses_and_not_through_the_weights():
    losses, mask = grid()
    losses.requires_grad_()
    rule = ps.top(keep=0.5)
    _, weights = ps.tokens(rule, draw=ps.bernoulli)(rule.init(), KEY, losses, mask.long())
    (weights * losses).sum().backward()
    assert torch.equal(losses.grad, weights)


def test_a_batch_without_tokens_weighs_nothing():
    rule = ps.top(keep=0.5)
    assert not bool(ps.tokens(rule)(rule.init(), KEY, torch.ones(2, 3), torch.zeros(2, 3))[1].any())


@pytest.mark.parametrize("shape", [(4,), (4, 5)])
def test_losses_and_mask_must_match(shape):
    rule = ps.top(keep=0.5)
    with pytest.raises(ValueError, match=r"must both have shape \[B, T\]"):
        ps.tokens(rule)(rule.init(), KEY, torch.zeros(shape), torch.zeros(4, 6))
