"""models/verdict.py: one line that says what to do, and nothing that is claimed twice."""

import re
from typing import Any

import pytest

from models import verdict


def arm(accuracy: float, cost: float = 1.0, scored: int = 0) -> dict[str, Any]:
    return {"accuracy": accuracy, "cost": cost, "seen": 1000, "scored": scored, "keep": min(cost, 1.0)}


CASES = {
    "pays": (0.90, 0.80, 1000, "Sifting pays here, by this one seed: 90.0 % right, against 80.0 %"),
    "loses": (0.80, 0.90, 1000, "Do not sift this job: 80.0 % right, against 90.0 %"),
    "chance": (0.801, 0.80, 1000, "Nothing certain: 80.1 % right, against 80.0 %"),
    "idle": (0.801, 0.80, 20, "Do not sift this job: scoring did not pay, so ps.auto left it off. 80.1 % right"),
    "guesses": (0.52, 0.50, 1000, "No verdict: no arm does better than guessing; train for longer"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_verdict_says_what_to_do(case: str) -> None:
    sifted, short, scored, words = CASES[case]
    plain = arm(max(short, 0.5))
    arms = {"plain": plain, "shortened": arm(short), "random": arm(0.5), "sifted": arm(sifted, 0.6, scored)}
    said = verdict.verdict(arms, 1000)
    assert said.startswith(words) and "\n" not in said


def test_more_test_rows_make_a_difference_certain() -> None:
    arms = {"shortened": arm(0.80), "sifted": arm(0.82, 0.6, 1000)}
    assert verdict.verdict(arms, 200).startswith("Nothing certain")
    assert verdict.verdict(arms, 100_000).startswith("Sifting pays")
    assert verdict.chance(arms["sifted"], arms["shortened"], 2500) == pytest.approx(
        verdict.chance(arms["sifted"], arms["shortened"], 10_000) * 2
    )


@pytest.mark.parametrize("name", ["plain", "sifted", "random"])
def test_an_arm_alone_has_no_verdict_but_the_way_to_one(name: str) -> None:
    said = verdict.verdict({name: arm(0.8, 0.6, 1000)}, 1000)
    assert said.startswith(f"{name}: 80.0 % right, trained on 60 % of 1,000") and ("--compare" in said) == (
        name != "plain"
    )


@pytest.mark.parametrize("bucket", [True, False])
@pytest.mark.parametrize("cost", [0.5, 1.0, 1.2])
def test_what_is_saved_in_all_is_the_parts_together(bucket: bool, cost: float) -> None:
    """What plain training has too is a part of its own."""
    loops = {"alike": {"cost": 0.4, "low": 0.3, "high": 0.5}, "textbook": {"cost": 0.8, "low": 0.7, "high": 0.9}}
    lines = verdict.savings({"sifted": arm(0.8, cost, 1000)}, loops | {"turns": 5}, bucket)
    ours = cost * (0.4 if bucket else 1.0)
    assert lines[4].split()[-1] == f"{ours:.2f}" and lines[1].split()[-1] == "1.00"
    assert verdict.saves(ours) in lines[5] and verdict.saves(ours / 0.8) in lines[5]
    assert "saves 60 %" in lines[6] and ("--no-bucket tells" in lines[6]) == bucket
    assert verdict.saves(cost) in lines[7]

    def factor(said: str) -> float:
        save, more = re.search(r"saves (\d+) %", said), re.search(r"costs (\d+) % more", said)
        return 1 - int(save[1]) / 100 if save else 1 + int(more[1]) / 100 if more else float("nan")

    parts = factor(lines[7]) * (factor(lines[6]) if bucket else 1.0)
    assert factor(lines[5].split("against the first")[0]) == pytest.approx(parts, abs=0.011)


def test_without_a_measurement_there_is_nothing_to_say() -> None:
    assert verdict.savings({"sifted": arm(0.8)}, None, True) == []
    assert verdict.savings({"plain": arm(0.8)}, {"turns": 5}, True) == []
