"""The bench of advice: what counts as right, and that its committed result says what its rows say."""

import json
from pathlib import Path

import pytest

pytest.importorskip("numpy")

import torch

import puresift as ps
from bench.quality.task import Data
from bench.quality.tasks import TASKS
from bench.speed import advise
from puresift.trials import evidence, verdicts
from puresift.trials.advice import Advice, Interval
from tests.trials.test_advising import even, facts

RESULTS = Path(advise.__file__).parents[1] / "results"


def advice(verdict):
    return Advice(verdict, "", "", even(1.0), facts(), 1.0)


@pytest.mark.parametrize("measured", ["win", "nothing", "loss"])
def test_advice_to_sift_is_right_where_the_table_has_a_win_and_advice_not_to_everywhere_else(measured):
    assert advise.right(advice("prioritize"), measured) == advise.right(advice("auto"), measured) == (measured == "win")
    assert advise.right(advice("shorten"), measured) == (measured != "win")


def test_what_was_measured_is_the_tables_verdict():
    found = {name: advise.measured(name)["verdict"] for name in (*advise.TEN, *advise.MORE)}
    assert [name for name in advise.TEN if found[name] == "win"] == [
        *("thin", "long", "letter-rare", "picture-coffee", "picture-camera")
    ]
    assert found["long-picture-camera"] == "loss" and found["scratch32"] == "nothing"
    assert advise.measured("noisy") == {"verdict": "not measured"}


def test_the_committed_result_counts_its_rows():
    result = json.loads(max(RESULTS.glob("advise_*.json")).read_text())
    rows = {name: row for name, row in result["tasks"].items() if name in advise.TEN}
    assert set(rows) == set(advise.TEN)
    for name, row in rows.items():
        assert row["measured"]["verdict"] == advise.measured(name)["verdict"]
        assert row["right"] == ((row["advice"]["verdict"] != "shorten") == (row["measured"]["verdict"] == "win"))
        assert name in advise.line(name, row)
    assert result["told"] == f"right on {sum(row['right'] for row in rows.values())} of 10 tasks"


def test_the_rule_gives_the_committed_verdicts_and_is_in_no_doubt_of_them():
    for name, row in json.loads(max(RESULTS.glob("advise_*.json")).read_text())["tasks"].items():
        found = row["advice"]
        worth, held_out = Interval(*found["worth"]), "picture" not in name
        told = facts(
            **{"steps": found["steps"], "visits": found["visits"], "held_out": held_out, "whole": found["whole"]},
            concentration=Interval(*found["concentration"]),
            shortening=found["shortening"] and Interval(*found["shortening"]),
        )
        told = told._replace(mode=told.mode._replace(worth=worth))
        assert verdicts.decide(told)[0] == found["verdict"], name
        assert not verdicts.unsure(told), name


ROWS = json.loads((Path(advise.__file__).parents[1] / "results" / "quality" / "report.json").read_text())
QUOTED = {task: (row, mean) for row in evidence.TABLE for task, mean in row.means.items()}


@pytest.mark.parametrize("task", QUOTED)
def test_what_a_page_quotes_is_what_was_measured(task):
    """More seeds move a figure, but not out of its interval."""
    row, mean = QUOTED[task]
    arms = ("prioritized-0",) if "drawn" in row.gain else ("auto", "auto-small")
    gaps = [
        found["versus"]["shortened"]
        for found in ROWS[task]["rows"]
        if found["arm"] in arms and found["budget"] == advise.BUDGET and found["accuracy"]
    ]
    assert any(gap["low"] <= mean <= gap["high"] and abs(gap["mean"] - mean) < 0.25 for gap in gaps)
    assert f"{mean:+.1f}".replace("0.", ".") in row.gain
    assert TASKS[task].epochs == pytest.approx(row.visits, rel=0.02)


def test_the_rows_of_a_task_are_gathered_by_number():
    train = {"x": torch.arange(4.0), "labels": torch.arange(4), "id": torch.arange(4)}
    rows = advise.Ids(Data(train, train, train, lambda seed: torch.nn.Identity(), {}))
    loader = torch.utils.data.DataLoader(rows, 2, collate_fn=rows.collate)
    assert len(rows) == 4 and ps.peek(loader)["x"].tolist() == [0, 1]
