"""Run folders that another program, or an enemy, wrote: a line that names what is wrong, or a page."""

import json
import re

import pytest

from puresift import report
from puresift.cli import main
from puresift.errors import SiftError
from puresift.records.recorder import FILE
from puresift.report import figures, single

pytest.importorskip("matplotlib")

HEAD = b'{"kind": "run", "format": 1}\n'
BIG = b"9" * 400
POOLS = b'{"kind": "pools", "pool": 1, "seconds": 1, "seen": 4, "kept": 2, "kept_low": 1}\n'

REFUSED = {
    "deep": (HEAD + b"[" * 100_000 + b"\n", ":2: not JSON"),
    "kind is a list": (HEAD + b'{"kind": []}\n', ':2: want an object with a "kind" among'),
    "kind is an object": (b'{"kind": {}}\n', ':1: want an object with a "kind" among'),
    "format": (b'{"kind": "run", "format": ' + BIG + b"}\n", ':1: a "run" line needs "format", a whole number, got 99'),
    "pool": (HEAD + b'{"kind": "pools", "seconds": 1, "pool": ' + BIG + b"}\n", 'needs "pool", a whole number, got 9'),
    "seconds": (HEAD + b'{"kind": "pools", "pool": 1, "seconds": 1e308}\n', 'needs "seconds", a number, got 1e+308'),
    "seen": (HEAD + b'{"kind": "pools", "pool": 1, "seconds": 1, "seen": ' + BIG + b"}\n", '"seen" must be a number'),
    "edges": (HEAD + b'{"kind": "losses", "edges": [1, ' + BIG + b'], "seen": [1], "kept": [1]}\n', "edges must be"),
    "counts": (HEAD + b'{"kind": "losses", "edges": [1, 2], "seen": [' + BIG + b'], "kept": [1]}\n', "edges must be"),
    "class": (HEAD + b'{"kind": "class", "label": "a", "kept": 1, "seen": ' + BIG + b"}\n", 'needs "seen", a number'),
    "loss": (
        HEAD + b'{"kind": "sample", "rank": "most", "id": 1, "seen": 1, "kept": 1, "loss": ' + BIG + b"}\n",
        "loss",
    ),
    "rank": (HEAD + b'{"kind": "sample", "rank": "' + BIG + b'", "id": 1, "seen": 1, "kept": 1}\n', "most"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_figure_has_room_for_is_refused_in_one_line(name, tmp_path, capsys):
    content, words = REFUSED[name]
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(SiftError, match=re.escape(words)) as refused:
        report.read([tmp_path])
    assert str(refused.value).startswith(f"{tmp_path / FILE}:") and len(str(refused.value)) < 600
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "out").exists()


IMAGES = ["a\0b", "a" * 5000, "\ud800", "..", ".", "/etc/hostname", "x" * 300 + "/y"]


@pytest.mark.parametrize("image", IMAGES)
def test_what_can_be_no_file_is_left_out_as_an_image(image, tmp_path):
    line = {"kind": "sample", "rank": "most", "id": 1, "seen": 1, "kept": 1, "image": image}
    (tmp_path / FILE).write_bytes(HEAD + json.dumps(line).encode() + b"\n")
    with pytest.warns(UserWarning, match="is left out"):
        (run,) = report.read([tmp_path])
    assert run.samples[0]["image"] is None


def test_a_page_is_made_of_odd_but_valid_lines(tmp_path, capsys):
    lines = [
        {
            "kind": "run",
            "format": 1,
            "name": "long " * 300,
            "unit": "$\\frac$",
            "facts": {"deep": [[[]]], "\ud800": "\ud800"},
        },
        {"kind": "evaluation", "pool": 1, "seconds": 1, "accuracy": float("inf"), "mine": 0.5, "\ud800$": 1e308},
        {"kind": "pools", "pool": 2**60, "seconds": 0, "seen": 4, "kept": 2, "sifting": [[], {}, "a", None, 10**400]},
        {"kind": "losses", "edges": [0, 5e-324, 1e99], "seen": [-1, 5], "kept": [0, -1]},
        {"kind": "class", "label": "a", "seen": -1, "kept": 1},
        {"kind": "sample", "rank": "most", "id": 10**400, "seen": 0, "kept": 0, "text": "\ud800", "label": "\0"},
    ]
    for name in ("one", "two"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / FILE).write_text("\ufeff" + "".join(json.dumps(line) + "\n" for line in lines))
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert "losses-one-long-long" in capsys.readouterr().out
    assert "mine" in (tmp_path / "out" / "report.html").read_text()
    assert all(len(path.name) < 110 for path in (tmp_path / "out").iterdir())


def test_figures_are_where_they_were():
    for name in ("losses", "threshold", "classes", "SINGLE"):
        assert getattr(figures, name) is getattr(single, name)
