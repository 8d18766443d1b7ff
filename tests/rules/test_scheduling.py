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


def shares(rule, pools, pool=None):
    """The mean probability of each pool, and whether its losses were wanted; unwanted ones are NaN."""
    pool = torch.arange(4.0) if pool is None else pool
    state, kept, wanted = rule.init(), [], []
    for _ in range(pools):
        wants = bool(rule.wants(state))
        state, odds = rule.select(state, pool if wants else torch.full_like(pool, torch.nan))
        assert bool(odds.probs.isfinite().all())
        kept.append(round(float(odds.probs.mean()), 4))
        wanted.append(wants)
    return kept, wanted


def test_delay_comes_again_every_so_many_pools():
    kept, wanted = shares(ps.delay(ps.relative(keep=0.5), steps=2, every=5), 12)
    assert kept == [1, 1, 0.5, 0.5, 0.5, 1, 1, 0.5, 0.5, 0.5, 1, 1]
    assert wanted == [share < 1 for share in kept]


@pytest.mark.parametrize(("start", "end", "every"), [(0.5, 0.9, 2), (0.0, 1.0, 3), (0.3, 0.31, 0), (0.25, 0.75, 0)])
def test_interrupt_is_composers_schedule(start, end, every):
    kept, wanted = shares(ps.interrupt(ps.relative(keep=0.5), pools=40, start=start, end=end, every=every), 50)
    for t, share in enumerate(kept):
        active = start <= t / 40 < end and (every == 0 or (t + 1) % every != 0)
        assert share == (0.5 if active else 1.0)
        assert wanted[t] == active


def test_anneal_follows_its_schedule_back_to_full_data():
    rule = ps.anneal(ps.relative, ps.ramp(0.25, last=0.5, pools=10, full=0.2))
    kept, wanted = shares(rule, 12, torch.arange(512.0))
    assert kept[:8] == pytest.approx([0.25 + 0.25 * t / 8 for t in range(8)], abs=2e-3)
    assert kept[8:] == [1.0] * 4
    assert wanted == [True] * 8 + [False] * 4


def test_anneal_leaves_the_history_alone_while_everything_is_kept():
    schedule = lambda seen: torch.where(seen % 2 == 0, 0.5, 1.0)  # noqa: E731
    rule = ps.anneal(lambda keep: ps.relative(keep, history=16), schedule)
    plain, pool = ps.relative(keep=0.5, history=16), torch.arange(4.0)
    state, inner = rule.init(), plain.init()
    for t in range(6):
        losses = pool + t if t % 2 == 0 else pool * torch.nan
        state, odds = rule.select(state, losses)
        if t % 2 == 0:
            inner, expected = plain.select(inner, losses)
            assert laws.equal((state.inner, odds), (inner, expected))


@pytest.mark.parametrize(
    "name", ["delay-again", "interrupt", "anneal", "anneal-importance", "hold-delay", "by_group-loss"]
)
def test_pools_that_are_not_wanted_leave_no_trace(name):
    """Whatever stands in for the losses of an unscored pool, the run is the same."""
    rule = laws.MEMBERS[name]().rule
    one = other = rule.init()
    skipped = 0
    for t in range(12):
        losses = ps.keys.uniform(ps.key(t), 12)
        wants = bool(rule.wants(one))
        skipped += not wants
        one, odds = rule.select(one, losses, **laws.columns(12))
        other, again = rule.select(other, losses if wants else torch.full((12,), torch.nan), **laws.columns(12))
        assert laws.equal((one, odds), (other, again))
    assert skipped


def test_wrappers_hand_columns_down():
    inner = ps.by_group(ps.relative(keep=0.5), groups=2)
    pool, group = torch.tensor([1.0, 2.0, 30.0, 40.0]), torch.tensor([0, 0, 1, 1])
    expected = inner.select(inner.init(), pool, group=group)[1]
    for rule in (
        ps.delay(inner, 0),
        ps.interrupt(inner, pools=2, start=0.0),
        ps.anneal(lambda keep: ps.by_group(ps.relative(keep), groups=2), ps.ramp(0.5, pools=9)),
        ps.mix(inner, inner),
        ps.floor(inner, 0.01),
        ps.drop_top(inner, 1.0),
        ps.unbiased(inner),
        ps.hold(inner, 0.5),
    ):
        assert torch.equal(rule.select(rule.init(), pool, group=group)[1].probs, expected.probs)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda rule: ps.delay(rule, 3, every=3), "every must be larger than steps, .* got steps=3, every=3"),
        (lambda rule: ps.interrupt(rule, pools=0), "pools must be a whole number >= 1"),
        (lambda rule: ps.interrupt(rule, pools=9, start=0.9, end=0.5), "start must lie below end, got start=0.9"),
        (lambda rule: ps.interrupt(rule, pools=9, end=1.5), r"end must be in \[0, 1\]"),
        (lambda rule: ps.interrupt(rule, pools=9, every=1), "every=1 would hand every pool through"),
        (lambda rule: ps.anneal(ps.uniform, lambda seen: 0.5), r"schedule must map pools seen, Int\[\], to keep"),
        (lambda rule: ps.anneal(ps.uniform, lambda seen: torch.tensor(0.0)), r"schedule\(0\) must be in \(0, 1\]"),
        (lambda rule: ps.ramp(0.0, pools=3), r"first must be in \(0, 1\]"),
        (lambda rule: ps.ramp(0.5, last=2.0, pools=3), r"last must be in \(0, 1\]"),
        (lambda rule: ps.ramp(0.5, pools=3, full=1.0), r"full must be in \[0, 1\)"),
    ],
)
def test_conflicting_schedules_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make(ps.top(keep=0.5))


@pytest.mark.parametrize(
    ("classes", "loss", "opens"), [(2, 0.5, True), (2, 0.6, False), (10, 0.6, True), (10, 2.0, False)]
)
def test_a_gate_opens_below_its_share_of_what_guessing_costs(classes, loss, opens):
    """.8 ln 2 is .55, .8 ln 10 is 1.84, known at the first pool."""
    rule = ps.gate(ps.top(keep=0.5), classes=classes, pools=1)
    state, _ = rule.select(rule.init(), torch.full((8,), loss))
    _, odds = rule.select(state, loss + torch.arange(8) / 1000)
    assert bool((odds.probs < 1).any()) == opens
