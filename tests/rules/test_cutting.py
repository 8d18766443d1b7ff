"""Rules that cut: what lies exactly on the cut."""

import pytest
import torch

import puresift as ps
from puresift import order
from tests import laws


def test_the_mean_of_equal_values_is_that_value():
    """Of any value, as often as one likes; in single precision, a third of such means lies above it."""
    values = torch.cat([ps.keys.uniform(ps.key(3), 8), torch.tensor([0.0, -0.3, 3e38, 1e-42])])
    for size in (*range(1, 301), order.SORTED_UP_TO + 1, 3 * order.PIECE + 5):
        for value in values:
            assert order.mean(value.expand(size)) == value.double(), (size, value)


@pytest.mark.parametrize("history", [40, order.SORTED_UP_TO + 1])
def test_no_loss_at_the_mean_is_pruned(history):
    """In a history that is empty at first, then full of pools of other sizes."""
    rule = ps.prune(0.4, history=history)
    loss, ones = ps.keys.uniform(ps.key(4), 1), torch.ones(1)
    state = rule.init()
    for size in (3, 7, 13, 1, 40, 11):
        state, odds = rule.select(state, loss.expand(size))
        assert laws.equal(odds, ps.Odds(ones.expand(size), ones.expand(size)))


REFUSED = {  # by the setting's name in the words
    "value": lambda: ps.threshold(float("nan")),
    "quantile": lambda: ps.threshold(quantile=1.0),
    "low": lambda: ps.band(-0.1, high=0.5),
    "high": lambda: ps.band(0.1, high=1.5),
    "ratio": lambda: ps.prune(1.0),
    "history": lambda: ps.prune(history=0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_setting_out_of_range_is_refused_by_its_name(name):
    with pytest.raises(ps.SiftError, match=f"^{name} must be "):
        REFUSED[name]()
