"""What a score is worth: the stated variance, counted out; and a choice by it."""

import itertools
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import puresift as ps
from puresift.scores import integers
from puresift.trials import merits
from tests.strategies import seeds


def numbers(rows, seed=0):
    return ps.keys.uniform(ps.key(seed), rows)


def look(losses):
    return merits.Look(losses, torch.arange(len(losses)), torch.ones(len(losses)))


@given(seed=seeds, floor=st.sampled_from([0.1, 0.5]))
def test_the_reduction_is_that_of_all_draws_counted_out(seed, floor):
    """Gradients at right angles, whose sum is as long as the root of their squares: every mask, by its probability."""
    norms, losses = numbers(6, seed), numbers(6, seed + 1)
    found = merits.merit(norms, [look(losses)], 0.3, lambda keep: ps.importance(keep, floor=floor))
    rule = ps.importance(found.keep, floor=floor)
    odds = rule.select(rule.init(), losses)[1]
    probs, weights, squares = (part.double() for part in (odds.probs, odds.weights, norms.square()))
    second = 0.0
    for mask in itertools.product([0.0, 1.0], repeat=6):
        drawn = torch.tensor(mask, dtype=torch.float64)
        chance = torch.where(drawn > 0, probs, 1 - probs).prod()
        second += float(chance * (drawn * (weights / (found.keep * 6)).square() * squares).sum())
    plain = float(squares.mean()) / (found.keep * 6)  # of so many rows, each as likely as any other
    assert found.reduction == pytest.approx(plain / second, rel=1e-4)
    assert found.merit == pytest.approx(found.reduction / (1 + 0.3 / found.keep))


def test_a_cascade_s_reduction_is_that_of_its_draws():
    pool = {"cheap": numbers(12), "dear": numbers(12, 1)}
    both = ps.cascade(lambda params, batch: batch["cheap"], lambda params, batch: batch["dear"], keep=0.5, floor=0.4)
    rule = ps.importance(keep=0.5, floor=0.3)
    sifter = ps.sifter(both, rule, batch_size=1)
    begun, norms = sifter.init(ps.key(0), pool), numbers(12, 2)
    every = ps.keys.split(ps.key(1), 4_000)
    infos = torch.func.vmap(lambda key: sifter.step(begun._replace(key=key), {}, pool)[1])(every)
    drawn = ((infos.mask * infos.odds.weights / 0.25).double().square() * norms.double().square()).sum(1)

    def thinned(key):
        _, losses, left = both.thin(both.init(), key, {}, pool)
        return merits.Look(losses, left.rows, left.probs)

    seen = [merits.moments(norms, [thinned(key)], 0.25, lambda keep: rule)[1] for key in every[:400]]
    expected, error = torch.tensor(seen).mean(), float(drawn.std()) / 4_000**0.5 + float(torch.tensor(seen).std()) / 20
    assert abs(float(drawn.mean() - expected)) < 4 * error


def test_a_merit_is_known_where_it_can_be_worked_out():
    ones, norms = torch.ones(20), torch.tensor([10.0] + [0.0] * 19)
    assert merits.merit(ones, [look(ones)], 0.5) == pytest.approx((1 / 1.5, 1.0, 1.0))
    assert merits.merit(torch.zeros(20), [look(ones)], 0.5).reduction == 1.0
    best = merits.merit(norms, [look(norms)], 1e-9, lambda keep: ps.importance(keep, floor=0.0))
    assert best == pytest.approx((20.0, 0.05, 20.0))  # one row in twenty has all of the gradient, and is always kept
    assert merits.merit(norms, [look(norms)], 0.1).merit > merits.merit(norms, [look(numbers(20))], 0.1).merit
    assert merits.merit(norms, [look(norms * torch.nan)], 0.1).merit != merits.merit(norms, [look(norms)], 0.1).merit


def pause(seconds, score):
    def slow(params, batch):
        time.sleep(seconds)
        return score(params, batch)

    return slow


def exact(params, batch):
    return batch["norm"]


def rough(params, batch):
    return batch["norm"].round(decimals=1) + 0.2


POOL = {"norm": numbers(128) ** 6}
SCORES = {"exact": pause(0.02, exact), "rough": rough, "blind": lambda params, batch: torch.ones(128)}


def test_the_better_score_wins_where_scores_cost_nothing_and_the_cheaper_one_where_they_do():
    free, dear = (ps.fastest(SCORES, {}, POOL, step=step, more=False) for step in (200.0, 0.02))
    assert (free.name, dear.name) == ("exact", "rough")
    assert dear.score is rough
    assert set(free.merits) == set(SCORES)
    assert free.merits["blind"].merit < 1 < free.merits["rough"].merit < free.merits["exact"].merit
    assert free.agreement["rough"] < 0.99, "ranks alone would have refused it"
    assert ps.fastest(SCORES, {}, POOL).merits == {}
    name, score, seconds, agreement = free
    assert score is SCORES[name] and set(seconds) == set(agreement) == set(SCORES)
    told = ps.fastest(SCORES, {}, POOL, step=200.0, more=False, norms=1 - POOL["norm"])
    assert told.merits["exact"].merit < 1, "these norms go against the loss"


def test_a_step_is_run_to_be_timed_and_a_rule_is_the_user_s():
    ran, asked = [], []

    def rule(keep):
        asked.append(keep)
        return ps.importance(keep, floor=0.5)

    timed = ps.fastest(SCORES, {}, POOL, step=lambda: ran.append(1) or time.sleep(0.05), more=False)
    assert len(ran) == 4
    known = timed.merits["exact"]
    assert known.merit < known.reduction / (1 + 0.1 / known.keep), "the step takes far less than ten times the score"
    mild, default = (ps.fastest(SCORES, {}, POOL, step=200.0, rule=r, more=False) for r in (rule, ps.importance))
    assert sorted(set(asked)) == merits.KEEPS
    assert mild.merits["exact"].merit < default.merits["exact"].merit


def test_a_cheap_score_in_front_of_a_dear_one_is_tried_and_takes_states():
    choice = ps.fastest(SCORES, {}, POOL, step=0.1)
    assert set(choice.merits) == {*SCORES, "cascade"}
    assert choice.merits["cascade"].merit > 0
    assert choice.seconds["cascade"] >= 0.02, "the second score must have been asked"
    batch = {**POOL, "norm": POOL["norm"] ** 6, "id": torch.arange(128)}  # few rows have most of the gradient
    memory = ps.recalled(128)
    knows = memory.init()._replace(losses=batch["norm"].clone())
    pair = ps.cascade(memory, exact)
    warm = pair.init()._replace(first=knows)
    slow = {"step": 100.0}  # so that scores cost nothing, however busy the machine
    known = ps.fastest({"exact": exact, "cascade": pair}, {}, batch, states={"cascade": warm}, **slow)
    unknown = ps.fastest({"exact": exact, "cascade": pair}, {}, batch, **slow)
    assert known.merits["cascade"].merit > 1.1 * unknown.merits["cascade"].merit
    alone = ps.fastest({"exact": pause(0.02, exact), "kept": memory}, {}, batch, step=0.1, states={"kept": knows})
    assert (alone.name, alone.score) == ("kept", memory)


def test_eight_bits_enter_where_they_apply(monkeypatch):
    model = nn.Linear(256, 256)
    score = ps.batched(model, lambda model, x: model(x).square().sum(1))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_int8": True})
    integers.multiplies.cache_clear()
    try:
        choice = ps.fastest({"plain": score}, ps.live(model), torch.randn(4, 256), step=1.0)
        assert set(choice.merits) >= {"plain", "int8"}
        assert choice.agreement["int8"] > 0.9
        narrow = ps.fastest(SCORES, {}, POOL, step=1.0, more=False)
        assert "int8" not in narrow.merits
        small = nn.Linear(8, 8)
        score = ps.batched(small, lambda model, x: model(x).square().sum(1))
        assert "int8" not in ps.fastest({"plain": score}, ps.live(small), torch.randn(8, 8), step=1.0).merits
    finally:
        integers.multiplies.cache_clear()


@pytest.mark.parametrize(
    ("scores", "settings", "words"),
    [
        ({"a": ps.recalled(9)}, {}, "a remembers or draws, which ranks do not judge; give step="),
        ({"a": exact, "b": ps.cascade(rough, exact)}, {}, "b remembers or draws"),
        ({"a": ps.cascade(rough, exact)}, {"step": 1.0}, "the first candidate, .*, is a cascade; put a score there"),
        ({"a": exact, "b": 3}, {"step": 1.0}, "a candidate is 3; pass score"),
        ({"a": exact}, {"step": 0.0}, "step must be in"),
        ({"a": exact}, {"step": 1.0, "states": {"b": ()}}, "states of b, which are no candidates"),
        ({"a": exact}, {"step": 1.0, "norms": torch.ones(3)}, r"norms must be 128 numbers >= 0, one a row, got \[3\]"),
        ({"a": exact}, {"step": 1.0, "norms": -POOL["norm"]}, "norms must be 128 numbers >= 0"),
        ({"a": lambda params, batch: batch["norm"] / 0}, {"step": 1.0}, "losses that are not finite"),
    ],
)
def test_what_cannot_be_compared_is_refused(scores, settings, words):
    with pytest.raises(ps.SiftError, match=words):
        ps.fastest(scores, {}, POOL, **settings)


def test_a_score_that_is_not_finite_is_never_the_best():
    scores = {"exact": exact, "broken": lambda params, batch: batch["norm"] * torch.nan}
    choice = ps.fastest(scores, {}, POOL, step=1.0)
    assert choice.name == "exact"
    assert choice.merits["broken"].merit != choice.merits["broken"].merit
