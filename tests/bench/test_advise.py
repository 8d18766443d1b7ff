"""The bench of advice: what counts as right, and that its committed result says what its rows say."""

import json
from pathlib import Path

import pytest

pytest.importorskip("numpy")

import torch

import puresift as ps
from bench.quality.task import Data
from bench.speed import advise
from puresift.trials.advice import Advice
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


def test_the_rows_of_a_task_are_gathered_by_number():
    train = {"x": torch.arange(4.0), "labels": torch.arange(4), "id": torch.arange(4)}
    rows = advise.Ids(Data(train, train, train, lambda seed: torch.nn.Identity(), {}))
    loader = torch.utils.data.DataLoader(rows, 2, collate_fn=rows.collate)
    assert len(rows) == 4 and ps.peek(loader)["x"].tolist() == [0, 1]
