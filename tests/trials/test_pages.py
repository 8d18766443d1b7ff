"""The page: no flat no where it is not certain, no order to cut where that may cost, and words that are explained."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import puresift as ps
from puresift.trials import verdicts
from puresift.trials.advice import Advice, Interval
from tests.strategies import cross_entropy
from tests.trials.test_advising import even, facts, job


def text(verdict="shorten", **changed):
    """The page of such facts, on one line."""
    known = facts(**changed)
    decided, reason = verdicts.decide(known)
    verdict = decided if verdict is None else verdict
    advice = Advice(verdict, reason, verdicts.code(verdict, known), verdicts.gain(verdict, known), known, 1.0)
    return " ".join(str(advice).split())


AROUND = {
    "estimate below": (Interval(2.48, 1.58, 3.21), True),
    "estimate above": (Interval(9.0, 2.9, 20.0), True),
    "touching": (Interval(2.0, 1.0, 3.0), True),
    "below": (Interval(2.48, 1.58, 2.99), False),
}


@pytest.mark.parametrize("case", AROUND)
def test_an_interval_around_the_bar_is_not_certain_and_both_loops_are_told(case):
    concentration, around = AROUND[case]
    page = text(None, concentration=concentration, drawn=even(6.6))
    says = f"TRY BOTH, not certain: B / ESS {concentration} lies on both sides of 3; try drawing by training's losses"
    assert page.startswith(says) == around
    assert ("gradients are even" in page) == (not around)
    assert ("ps.prioritize(" in page) == around and "itertools.islice(" in page
    if around:
        assert page.index("ps.prioritize(") < page.index("itertools.islice("), "first what is worth a try"
        assert "a row has as little noise as 6.60" in page and "DO NOT" not in page


def test_a_rare_class_behind_batch_norm_and_dropout_gets_no_flat_no():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x, y = torch.randn(1000, 8), (torch.arange(1000) % 100 == 0).long()
        x += 0.9 * y[:, None]
        layers = nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 2)
        model = nn.Sequential(*layers)
        loader = DataLoader(TensorDataset(x, y), 64, shuffle=True, generator=torch.Generator().manual_seed(1))
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        advice = ps.advise(model, cross_entropy, loader, optimizer, passes=30, seconds=2)
    assert advice.facts.concentration.low < 3 <= advice.facts.concentration.high, "this job lies on the bar"
    assert not str(advice).startswith("DO NOT") and "gradients are even" not in str(advice)
    assert "ps.prioritize(" in advice.code


CUTS = {  # what a cut leaves of the loss, of how much of the run it was measured, and what is said
    "harmless": (Interval(-0.21, -0.22, 0.05), 1.0, "leaves the held-out loss 21% lower [-22%, +5%]: do it"),
    "unclear": (Interval(-0.21, -0.22, 0.61), 1.0, "21% lower [-22%, +61%]: not shown to be harmless, keep your run"),
    "harmful": (Interval(0.3, 0.06, 0.6), 1.0, "leaves the held-out loss 30% higher [+6%, +60%]: keep your run"),
    "measured in part": (Interval(-0.2, -0.2, 0.0), 0.4, "is open, for it was measured on a run of 40% of the steps"),
    "not measured": (None, 0.0, "What cutting the run to 60% costs is open, for it was not measured"),
}


@pytest.mark.parametrize("case", CUTS)
def test_no_sifting_and_a_shorter_run_are_two_things(case):
    rise, whole, says = CUTS[case]
    page = text(shortening=rise, whole=whole)
    assert page.startswith("DO NOT SIFT, train for less time: " if case == "harmless" else "DO NOT SIFT: ")
    assert says in page
    kept = case in ("unclear", "harmful")
    assert ("# your run, whole" in page) == kept == ("n=32), 2000)" in page)
    assert ("# your run, cut to 60%" in page) != kept


@pytest.mark.parametrize("verdict", ["prioritize", "auto", "shorten"])
@pytest.mark.parametrize("case", CUTS)
def test_what_is_saved_has_one_sense(verdict, case):
    rise, whole, _ = CUTS[case]
    page = text(verdict, shortening=rise, whole=whole)
    assert "takes 60% of the time, saves 40%" in page
    assert "of itself" not in page and "of the time of the plain run" not in page and "higher by" not in page


def test_the_page_ends_with_what_its_words_mean():
    last = str(ps.advise(*job(rows=64), seconds=0.2)).splitlines()[-2:]
    assert [line.split(":")[0] for line in last] == ["phi", "B / ESS"]
    assert max(map(len, last)) <= 110


def test_few_steps_are_laid_to_the_pass_where_it_is_short():
    assert "36 steps are few to tell by; a pass has no more" in text(pilot=36, steps=400, passes=10.0)
    assert "36 steps are few to tell by; give it more seconds=" in text(pilot=36, steps=1000, passes=10.0)


def test_one_assumed_pass_comes_first_of_what_to_beware_of():
    model, loss, loader = job(rows=64)
    told = "one pass was assumed; --passes N"
    assert f"beware       {told}" in str(ps.advise(model, loss, loader, seconds=0.2))
    for given in ({"passes": 1}, {"steps": 4}):
        assert told not in str(ps.advise(model, loss, loader, seconds=0.2, **given))


def test_a_list_of_batches_is_told_what_would_allow_drawing():
    model, loss, loader = job(rows=64)
    told = "a DataLoader over a map-style dataset would allow drawing by id"
    page = lambda loader: " ".join(str(ps.advise(model, loss, loader, seconds=0.2)).split())  # noqa: E731
    assert told in page(list(loader)) and told not in page(loader)
