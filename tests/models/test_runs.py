"""models/runs.py: progress in one line that stays in place on a terminal, and in few lines elsewhere."""

import io
import re
import sys
from typing import Any

import pytest

from models import runs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def arm(name: str, pools: int) -> None:
    """An arm as the loop shows it: a step and sometimes an evaluation a pool."""
    progress = runs.Progress(name, pools, 0)
    tally = runs.Tally()
    for pool in range(1, pools + 1):
        tally.pool, tally.loss, tally.steps = pool, tally.loss + 0.5, tally.steps + 1
        progress.update(tally, 0.5)
        if pool % 5 == 0:
            line: dict[str, Any] = {"pool": pool, "accuracy": 0.75, "loss": 0.5, "keep": 0.5, "phi": None}
            progress.say(line | {"seconds": pool / 10})
    progress.close()


def test_on_a_terminal_it_is_one_line_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all arms: the next takes the place of the one before, and what comes after the last finds an empty line."""
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("COLUMNS", "60")
    for name in ("plain", "sifted"):
        arm(name, 40)
    text = shown.getvalue()
    assert "\n" not in text and text.count("\r") > 2 and "sifted" in text
    assert not text.split("\r")[-1].strip() and not text.split("\r")[-2].strip(), "wiped at the end"


def test_elsewhere_it_is_few_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    monkeypatch.setattr(runs.time, "monotonic", lambda: now[0])
    arm("plain", 40)
    said = capsys.readouterr().err
    assert re.fullmatch(r" +plain  pool 40/40  accuracy 0.750  loss 0.500  keep 0.500\n", said)

    def later() -> float:
        now[0] += runs.APART / 2
        return now[0]

    monkeypatch.setattr(runs.time, "monotonic", later)
    arm("plain", 40)
    said = capsys.readouterr().err
    assert 3 <= said.count("\n") <= 5 and "pool 20/40" in said and "2 s left" in said
