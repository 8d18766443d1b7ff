"""What is particular to wrappers that change odds: unbiasedness, the held plan, mixtures; the rest is law."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import puresift as ps
from puresift.rules import planning
from tests import laws
from tests.laws import DRAWS, MEMBERS
from tests.strategies import seeds


def select(rule, pool, state=None, **columns):
    return rule.select(rule.init() if state is None else state, pool, **columns)[1]


BIASED = {
    *("top", "threshold", "threshold-value", "band", "importance-pure", "nonzero"),
    *("delay-none", "drop_top", "hold-delay", "by_group-balanced"),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_unbiased_refuses_a_rule_that_gives_up_rows(name):
    rule = MEMBERS[name]().rule
    if name in BIASED:
        with pytest.raises(ValueError, match=r"p = 0.*ps.unbiased\(ps.floor\(rule, least=0.05\)\)"):
            ps.unbiased(rule)
        rule = ps.floor(rule, least=0.05)
    ps.unbiased(rule)


POOLS = {
    "distinct": [0.3, 2.0, 0.1, 0.7, 5.0, 1.1, 0.2],
    "ties": [1.0, 0.0, 1.0, 2.0, 2.0, 1.0, 2.0, 0.5],
    "constant": [0.7] * 6,
    "heavy": [1e-3, 1e6, 0.1, 3e2, 1.0, 0.02, 7.0, 4e4],
    "one": [0.4],
}


def possible(draw, p):
    """Every mask that a draw may give, with its probability, exactly."""
    exact = [Fraction(q) for q in p.tolist()]
    if draw == "bernoulli":
        for mask in itertools.product((0, 1), repeat=len(exact)):
            yield mask, math.prod(q if m else 1 - q for m, q in zip(mask, exact, strict=True))
        return
    running = [Fraction(0), *itertools.accumulate(exact)]
    ends = sorted({Fraction(0), Fraction(1), *((-total) % 1 for total in running)})
    for start, end in itertools.pairwise(ends):
        floors = [math.floor(total + (start + end) / 2) for total in running]
        yield tuple(int(b > a) for a, b in itertools.pairwise(floors)), end - start


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("name", MEMBERS)
def test_the_weighted_kept_sum_is_the_full_mean_enumerated(name, pool, draw):
    rule = MEMBERS[name]().rule
    rule = ps.unbiased(ps.floor(rule, least=0.05) if name in BIASED else rule)
    losses = torch.tensor(POOLS[pool])
    columns = laws.columns(len(losses))
    odds = select(rule, losses, laws.warmed(rule), **columns)
    gradient = [(-1) ** i * (i + 1.5) for i in range(len(losses))]
    planned = math.fsum(odds.probs.tolist())
    mean, whole = 0.0, Fraction(0)
    for mask, chance in possible(draw, odds.probs):
        kept = math.fsum(m * w * g for m, w, g in zip(mask, odds.weights.tolist(), gradient, strict=True))
        mean += float(chance) * kept / planned
        whole += chance
    assert whole == 1
    assert mean == pytest.approx(math.fsum(gradient) / len(gradient), abs=1e-5)


@pytest.mark.parametrize("pool", POOLS)
def test_the_enumerated_masks_are_those_of_the_real_draw(pool):
    odds = select(ps.ranked(keep=0.4), torch.tensor(POOLS[pool]))
    known = {mask for mask, chance in possible("systematic", odds.probs) if chance}
    masks = torch.func.vmap(ps.systematic, in_dims=(0, None))(ps.keys.split(ps.key(0), 500), odds.probs)
    assert {tuple(mask) for mask in masks.long().tolist()} <= known


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("name", MEMBERS)
def test_the_weighted_kept_sum_is_the_full_mean_by_monte_carlo(name, draw):
    rule = ps.unbiased(ps.floor(MEMBERS[name]().rule, least=0.05))  # rows too rare to be met would need more draws
    losses, n = (1 / (ps.keys.uniform(ps.key(1), 40) + 0.01)), 3000
    odds = select(rule, losses, laws.warmed(rule, 1), **laws.columns(40))
    gradient = ps.keys.uniform(ps.key(2), 40 * 3).reshape(40, 3).double() - 0.3
    masks = torch.func.vmap(DRAWS[draw], in_dims=(0, None))(ps.keys.split(ps.key(3), n), odds.probs)
    sums = (masks * odds.weights).double() @ gradient / odds.probs.double().sum()
    error = (sums.mean(0) - gradient.mean(0)).abs()
    assert bool((error <= 4.5 * sums.std(0) / n**0.5 + 1e-6).all()), error


@pytest.mark.parametrize("name", ["importance", "prune"])
def test_rules_with_weights_of_their_own_need_no_wrapper(name):
    """Importance weighs keep / p already, prune 1 / p: up to the plan they are what unbiased makes of them."""
    rule = MEMBERS[name]().rule
    pool = torch.tensor(POOLS["heavy"])
    mine, theirs = select(rule, pool), select(ps.unbiased(rule), pool)
    ratio = mine.weights / theirs.weights
    assert ratio.tolist() == pytest.approx([float(ratio[0])] * len(pool), rel=1e-5)


def test_unbiased_weights_are_what_they_say():
    pool = torch.tensor([1.0, 2.0, 3.0, 4.0])
    rule = ps.relative(keep=0.5)
    p = select(rule, pool).probs
    torch.testing.assert_close(select(ps.unbiased(rule), pool).weights, p.mean() / p)
    torch.testing.assert_close(select(ps.unbiased(rule, keep=0.3), pool).weights, 0.3 / p)
    torch.testing.assert_close(select(ps.unbiased(rule, exponent=0.5), pool).weights, (0.5 / p) ** 0.5)
    torch.testing.assert_close(select(ps.unbiased(rule, clip=1.5), pool).weights, (0.5 / p).clamp(max=1.5))
    assert select(ps.unbiased(ps.uniform(keep=0.3)), pool).weights.tolist() == [1.0] * 4


def test_rows_lost_behind_a_delay_are_counted_and_weigh_one():
    rule = ps.unbiased(ps.delay(ps.top(keep=0.5), steps=9))
    state, pool = rule.init(), torch.arange(4.0)
    for seen in (*[0] * 9, 2, 4):
        state, odds = rule.select(state, pool)
        assert int(state.lost) == seen
        assert odds.weights[odds.probs == 0].tolist() == [1.0] * (2 if seen else 0)


def test_dropping_noise_on_purpose_is_said_by_the_order_of_wrappers():
    rule = ps.drop_top(ps.unbiased(ps.relative(keep=0.5)), 0.75)
    odds = select(rule, torch.arange(4.0))
    assert odds.probs.tolist() == [0.125, 0.375, 0.625, 0.0]
    assert odds.weights.tolist() == pytest.approx([4, 4 / 3, 0.8, 4 / 7])


HELD = {
    "relative": lambda keep: ps.relative(beta=1 / keep, history=512),
    "importance": lambda keep: ps.importance(keep=0.2),
    "prune": lambda keep: ps.prune(ratio=0.5),
    "threshold": lambda keep: ps.threshold(0.5),
    "top": lambda keep: ps.top(keep=0.1),
    "ranked": lambda keep: ps.ranked(keep=0.6),
}


@pytest.mark.parametrize("keep", [0.1, 0.33, 0.5, 0.8])
@pytest.mark.parametrize("name", HELD)
def test_hold_keeps_the_plan_while_losses_drop_a_hundredfold(name, keep):
    rule, pools, size = ps.hold(HELD[name](keep), keep), 120, 50
    state, planned, realised = rule.init(), [], {draw: [] for draw in DRAWS}
    spread = 0.0
    for t in range(pools):
        losses = -torch.log1p(-ps.keys.uniform(ps.key(t), size)) * 100 ** (-t / (pools - 1))
        state, odds = rule.select(state, losses)
        planned.append(float(odds.probs.double().sum()))
        spread = max(spread, float((odds.probs * (1 - odds.probs)).mean()))
        for draw in DRAWS:
            realised[draw].append(int(DRAWS[draw](ps.keys.fold_in(ps.key(9), t), odds.probs).sum()))

    def off(counts):
        """The largest distance from keep, in points, over any 1,000 samples."""
        return max(abs(sum(counts[at : at + 20]) / 10 - 100 * keep) for at in range(pools - 20))

    assert off(planned) < 0.001
    assert off(realised["systematic"]) < 1
    # Independent coins miss by chance: at most 1.6 points of standard deviation, so 3 points is the usual distance.
    sigma = 100 * (spread / 1000) ** 0.5
    assert off(realised["bernoulli"]) < max(3, 4 * sigma)


def test_hold_lets_pools_pass_that_are_handed_through():
    rule = ps.hold(ps.delay(ps.relative(keep=0.5), steps=1), keep=0.25)
    pool, state = torch.arange(4.0), rule.init()
    state, odds = rule.select(state, pool)
    assert odds.probs.tolist() == [1.0] * 4
    state, odds = rule.select(state, pool)
    assert float(odds.probs.sum()) == pytest.approx(1)


def test_hold_falls_back_on_uniform_where_no_row_is_likely():
    assert select(ps.hold(ps.threshold(9.0), keep=0.25), torch.arange(4.0)).probs.tolist() == [0.25] * 4
    odds = select(ps.hold(ps.threshold(2.5), keep=0.5), torch.arange(4.0))
    assert odds.probs.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1])


def test_a_mixture_is_the_mean_of_its_parts():
    pool = torch.tensor(POOLS["distinct"])
    one, other = ps.importance(keep=0.3), ps.relative(keep=0.5)
    a, b = select(one, pool), select(other, pool)
    mixed = select(ps.mix(one, other, shares=(1, 3)), pool)
    torch.testing.assert_close(mixed.probs, 0.25 * a.probs + 0.75 * b.probs)
    pull = 0.25 * a.probs * a.weights + 0.75 * b.probs * b.weights
    torch.testing.assert_close(mixed.probs * mixed.weights, pull)


def test_a_mixture_wants_scores_where_one_of_its_rules_does():
    rule = ps.mix(ps.uniform(keep=0.5), ps.delay(ps.relative(keep=0.5), steps=1))
    state = rule.init()
    assert not bool(rule.wants(state))
    state, _ = rule.select(state, torch.zeros(2))
    assert bool(rule.wants(state))


def test_drop_top_ranks_among_the_last_losses():
    rule = ps.drop_top(ps.uniform(keep=1.0), 0.5, history=4)
    state, _ = rule.select(rule.init(), torch.tensor([0.0, 1.0]))
    state, odds = rule.select(state, torch.tensor([2.0, 0.5]))
    assert odds.probs.tolist() == [0.0, 1.0]
    assert select(rule, torch.ones(4)).probs.tolist() == [0.5] * 4


TOP = ps.top(keep=0.5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ps.mix(TOP), "two rules or more, got 1"),
        (lambda: ps.mix(TOP, TOP, shares=(1.0,)), "a number for each of the 2 rules, got 1"),
        (lambda: ps.mix(TOP, TOP, shares=(1.0, 0.0)), r"each of shares must be in \(0, inf\), got 0.0"),
        (lambda: ps.floor(TOP, least=0.0), r"least must be in \(0, 1\], got 0.0"),
        (lambda: ps.drop_top(TOP, 1.5), r"quantile must be in \(0, 1\], got 1.5"),
        (lambda: ps.drop_top(TOP, 0.9, history=0), "history must be a whole number >= 1"),
        (lambda: ps.unbiased(TOP, keep=0.0), r"keep must be in \(0, 1\]"),
        (lambda: ps.unbiased(TOP, clip=0.0), r"clip must be in \(0, inf\)"),
        (lambda: ps.unbiased(TOP, exponent=-1.0), r"exponent must be in \[0, inf\)"),
        (lambda: ps.hold(TOP, keep=2), r"keep must be in \(0, 1\], got 2"),
        (lambda: ps.threshold(), "exactly one of value"),
        (lambda: ps.threshold(1.0, quantile=0.5), "exactly one of value"),
        (lambda: ps.threshold(float("nan")), r"value must be in \(-inf, inf\)"),
        (lambda: ps.threshold(quantile=1.0), r"quantile must be in \[0, 1\)"),
        (lambda: ps.band(0.5, high=0.5), "low must lie below high, got low=0.5 and high=0.5"),
        (lambda: ps.band(0.5, high=1.5), r"high must be in \(0, 1\]"),
        (lambda: ps.prune(ratio=1.0), r"ratio must be in \[0, 1\), got 1.0"),
        (lambda: ps.importance(keep=0.5, floor=2.0), r"floor must be in \[0, 1\]"),
        (lambda: ps.importance(keep=0.5, bias=-1.0), r"bias must be in \[0, inf\)"),
        (lambda: ps.ranked(keep=0.0), r"keep must be in \(0, 1\]"),
        (lambda: ps.relative(keep=0.5, drift="often"), r'drift must be None, "window", "age" or "scale"'),
        (lambda: select(ps.prune(history=2), torch.zeros(3)), "a pool of 3 losses does not fit a history of 2"),
        (lambda: select(ps.drop_top(TOP, 0.9, history=2), torch.zeros(3)), "does not fit a history of 2"),
    ],
)
def test_bad_settings_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda v: ps.threshold(v),
        lambda v: ps.threshold(quantile=v),
        lambda v: ps.band(v / 2, high=v),
        lambda v: ps.prune(v),
        lambda v: ps.importance(v, floor=v / 2, bias=v),
        lambda v: ps.ranked(v),
        lambda v: ps.relative(v, drift="age"),
        lambda v: ps.hold(ps.floor(ps.top(v), least=v / 9), keep=v),
        lambda v: ps.unbiased(ps.floor(ps.top(v), least=v / 9), keep=v, clip=v * 9, exponent=v),
        lambda v: ps.drop_top(ps.mix(ps.top(v), ps.ranked(v), shares=(v, 1.0)), v),
        lambda v: ps.interrupt(ps.top(v), pools=4, start=v / 9, end=v),
        lambda v: ps.anneal(ps.ranked, ps.ramp(v, last=v / 2, pools=4, full=v / 9)),
    ],
)
def test_settings_can_be_vmapped(make):
    pool, values = ps.keys.uniform(ps.key(1), 16), torch.tensor([0.2, 0.5, 0.9])
    mapped = torch.func.vmap(lambda v: select(make(v), pool))(values)
    for row, v in enumerate(values):
        one = select(make(v), pool)
        torch.testing.assert_close(mapped.probs[row], one.probs, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(mapped.weights.expand(3, 16)[row], one.weights, rtol=1e-5, atol=1e-6)


@given(seed=seeds, size=st.integers(1, 60), share=st.floats(0, 1.2), nothing=st.sampled_from([0.0, torch.nan]))
@pytest.mark.parametrize("zeros", [0, 0.2, 0.9, 1])
def test_a_plan_is_solved_in_double_precision(seed, size, share, nothing, zeros):
    """To the last bit but one of float32, as by hand: rows above 1 are set to it, until there are none.

    What rows with a score leave of the plan at 1 is shared by those without one.
    """
    scores = ps.keys.uniform(ps.key(seed), size).double() + 1e-3
    scores = torch.where(ps.keys.uniform(ps.key(seed ^ 1), size) < zeros, nothing, scores)
    free = {row: score for row, score in enumerate(scores.tolist()) if score > 0}
    plan, known, factor = min(share, 1.0) * size, {}, 0.0
    if (others := size - len(free)) and plan >= len(free):
        known = {row: 1.0 if row in free else (plan - len(free)) / others for row in range(size)}
        free = {}
    while free:
        factor = (plan - len(known)) / sum(free.values())
        if not (over := [row for row, score in free.items() if factor * score > 1]):
            break
        known |= dict.fromkeys(over, 1.0)
        free = {row: score for row, score in free.items() if row not in known}
    expected = torch.tensor([known.get(row, factor * free.get(row, 0.0)) for row in range(size)])
    torch.testing.assert_close(planning.fill(scores, share * size), expected, rtol=1.2e-7, atol=0)
