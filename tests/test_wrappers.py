"""What is particular to a wrapper; the rest is law."""

import pytest
import torch

import puresift as ps
from tests import laws


def test_delay_hands_pools_through_and_then_starts_afresh():
    rule, pool = ps.relative(keep=0.5), torch.arange(4.0)
    delayed = ps.delay(rule, steps=2)
    state = delayed.init()
    for _ in range(2):
        assert not bool(delayed.wants(state))
        state, odds = delayed.select(state, pool * 100)
        assert odds.probs.tolist() == [1.0] * 4
    assert bool(delayed.wants(state))
    state, odds = delayed.select(state, pool)
    inner, expected = rule.select(rule.init(), pool)
    assert laws.equal((state.inner, odds), (inner, expected))


@pytest.mark.parametrize("steps", [-1, 1.5, True])
def test_a_bad_delay_is_refused(steps):
    with pytest.raises(ValueError, match="steps must be a whole number >= 0"):
        ps.delay(ps.top(keep=0.5), steps)
