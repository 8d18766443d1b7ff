"""Rules that say how many rows they keep: the law over all members, and who passes the mark on."""

import pytest
import torch

import puresift as ps
from puresift.rules.counting import count_of, whole
from puresift.steps import known
from tests import laws

MARKED = {
    *["uniform", "uniform-all", "top", "importance", "importance-pure", "ranked"],
    *["hold", "by_root"],
}


@pytest.mark.parametrize("name", laws.MEMBERS)
def test_who_says_its_count_keeps_it_in_every_pool(name):
    """Whatever the losses, equal ones and zeros among them, and whatever the key."""
    rule = laws.MEMBERS[name]().rule
    count = count_of(rule)
    assert (count is not None) == (name in MARKED)
    if count is None:
        return
    state = rule.init()
    for rows in (10, 20, 40):
        columns = laws.columns(rows)
        for seed, losses in enumerate((torch.rand(rows), torch.zeros(rows), torch.ones(rows), -torch.arange(rows) / 9)):
            state, odds = rule.select(state, losses, **columns)
            assert count(rows) is not None and abs(float(odds.probs.double().sum()) - count(rows)) < 1e-4
            assert int(ps.systematic(ps.key(seed), odds.probs, count=count(rows)).sum()) == count(rows)


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        (ps.hold(ps.relative(keep=0.5), keep=1 / 3), 8),
        (ps.hold(ps.gate(ps.relative(keep=0.5)), keep=0.25), 6),
        (ps.hold(ps.by_group(ps.relative(keep=0.5), groups=2), keep=0.25), 6),
        (ps.hold(ps.mix(ps.top(keep=0.1), ps.relative(keep=0.5)), keep=0.5), 12),
        (ps.hold(ps.floor(ps.unbiased(ps.relative(keep=0.5)), 0.1), keep=0.5), 12),
        (ps.unbiased(ps.hold(ps.relative(keep=0.5), keep=0.5)), 12),
        (ps.by_error(ps.ranked(keep=0.25)), 6),
        (ps.hold(ps.relative(keep=0.5), keep=0.3), None),  # 7.2 rows
        (ps.hold(ps.delay(ps.relative(keep=0.5), steps=2), keep=0.5), None),  # whole pools first
        (ps.delay(ps.top(keep=0.5), steps=2), None),
        (ps.floor(ps.top(keep=0.5), 0.1), None),
        (ps.anneal(ps.uniform, ps.ramp(0.5, pools=9)), None),
        (ps.uniform(keep=torch.tensor(0.5)), None),  # which may be mapped over
    ],
)
def test_wrappers_pass_the_count_on_or_drop_it(rule, kept):
    count = count_of(rule)
    assert (None if count is None else count(24)) == kept


def test_a_share_is_whole_up_to_the_rounding_of_its_fraction():
    assert [whole(0.1, 30), whole(1 / 3, 96), whole(0.7, 10), whole(0.5, 3)] == [3, 32, 7, None]


def test_a_count_needs_a_draw_that_keeps_it_and_rows_that_are_not_left_out():
    rule, score = ps.top(keep=0.5), ps.Score(lambda: (), lambda state, params, batch: (state, batch))
    assert known(score, rule, ps.systematic, "raise")(8) == 4
    assert known(score, rule, ps.bernoulli, "raise") is None
    assert known(score, rule, ps.systematic, "drop") is None
    assert known(None, rule, ps.systematic, "drop")(8) == 4
    assert known(score, rule, lambda key, probs: probs > 0, "raise") is None
    assert known(score, rule, min, "raise") is None, "which does not show its arguments"
