"""Weights that make up for what is not kept; and pools of any size, none included."""

import pytest
import torch

import puresift as ps
from tests import laws
from tests.laws import MEMBERS


@pytest.mark.parametrize("history", [1, 3, 4, 7, 8])
@pytest.mark.parametrize("wrap", ["plain", "grouped"])
def test_unbiased_takes_a_rule_whose_history_is_shorter_than_its_test_pools(history, wrap):
    inner = ps.relative(keep=0.5, history=history)
    rule = ps.unbiased(inner if wrap == "plain" else ps.by_group(inner, groups=2))
    group = torch.zeros(history, dtype=torch.int64)
    _, odds = rule.select(rule.init(), ps.keys.uniform(ps.key(history), history), group=group)
    torch.testing.assert_close(odds.weights, odds.probs.mean() / odds.probs)


def test_a_short_history_that_gives_up_rows_is_refused_all_the_same():
    with pytest.raises(ps.SiftError, match="this rule gives some rows p = 0"):
        ps.unbiased(ps.threshold(quantile=0.5, history=4))


@pytest.mark.parametrize("member", MEMBERS)
def test_an_empty_pool_has_empty_odds_and_spoils_nothing(member):
    rule = MEMBERS[member]().rule
    for state in (rule.init(), laws.warmed(rule)):
        after, odds = rule.select(state, torch.zeros(0), **laws.columns(0))
        laws.odds_are_odds(odds, 0)
        laws.same_layout(state, after)
        for name, tensor in laws.flat(after).items():
            assert not bool(tensor.isnan().any()), name
        if laws.equal(state, after):
            continue
        # What counts pools has counted it; nothing else is remembered.
        changed = [name for name, tensor in laws.flat(after).items() if not torch.equal(tensor, laws.flat(state)[name])]
        assert all(name.split("/")[-1] in ("seen", "pools") for name in changed), changed
