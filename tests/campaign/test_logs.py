"""Hostile logs and run folders by the hundred: a result, or one line that says why not; every readable row is kept."""

import json
import math
from collections import Counter
from random import Random

import pytest
import torch

from puresift.cli import main
from puresift.records.recorder import FILE
from tests.campaign.settings import SEED, number
from tests.campaign.test_files import DAMAGE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200), pytest.mark.filterwarnings("ignore")]
RULES = ("relative:keep=0.5", "top:keep=0.25", "band:low=0.2,high=0.8", "threshold:quantile=0.5", "uniform:keep=0.5")
TEXTS = ("", "a", "NaN", "1", "\ud800", "\0", "\x1b[31m", "$\\frac$", "<script>", "x" * 3000, "a\nb", "é" * 99, "_a")
NUMBERS = (0, -1, 1.5, 2**31, 2**63, -(2**70), 10**400, 1e308, -1e308, 5e-324, math.nan, math.inf, -math.inf)
DEEP = 100_000


def value(chance, depth=3):
    """Any JSON value, most of them hostile."""
    kind = chance.randrange(8)
    if kind < 3:
        return chance.choice(NUMBERS)
    if kind < 5:
        return chance.choice(TEXTS)
    if kind == 5 or not depth:
        return chance.choice((None, True, False))
    if kind == 6:
        return [value(chance, depth - 1) for _ in range(chance.randrange(4))]
    return {chance.choice(TEXTS): value(chance, depth - 1) for _ in range(chance.randrange(3))}


def hostile(lines, chance):
    """The lines with fields changed, lost and new, lines that are none, and bytes that are damaged."""
    made = []
    for line in lines:
        line = dict(line)
        if chance.random() < 0.15:
            line[chance.choice([*line, "state", "losses", "label", "age", "key"])] = value(chance)
        if chance.random() < 0.03:
            line.pop(chance.choice([*line]))
        made.append(json.dumps(line).encode())
        if chance.random() < 0.02:
            odd = (b"[" * DEEP, b'{"a":' * DEEP, b"\xff\xfe", b"\0" * 50, b"9" * 5000, b"x" * 100_000, b"null", b"")
            made.append(chance.choice(odd))
    raw = b"\n".join(made) + chance.choice((b"\n", b"", b"\r\n"))
    if chance.random() < 0.05:
        raw = b"\xef\xbb\xbf" + raw
    return chance.choice(DAMAGE)(raw, chance) if chance.random() < 0.3 else raw


def readable(raw):
    """The finite losses in a log, by a reader of our own."""
    losses = []
    for line in raw.decode("utf-8-sig", "replace").replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        try:
            loss = json.loads(line)["loss"]
            losses.append(float(loss) if type(loss) in (int, float) else math.nan)
        except OverflowError:
            losses.append(math.inf)
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            continue
    return int(torch.tensor(losses).isfinite().sum())


def called(argv, capsys, name):
    try:
        code = main(argv)
    except BaseException as error:
        raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error
    out, err = capsys.readouterr()
    (out + err).encode()
    told = err.splitlines()
    assert all(line.startswith("puresift: ") and line.isprintable() and len(line) < 1500 for line in told), (name, err)
    assert (code == 0 and out) or (code == 2 and told), (name, code, err)
    return code, out, told


def test_whatever_can_be_read_of_a_hostile_log_is_replayed(tmp_path, capsys):
    cases, counts = number(200, 1000), Counter()
    path = tmp_path / "log.jsonl"
    for case in range(cases):
        chance, name = Random(f"{SEED}, {case}"), f"seed {SEED}, case {case}"
        rows = [
            {"loss": chance.random(), "id": at, "label": at % 3, "age": 1.5} for at in range(chance.randrange(1, 150))
        ]
        raw = hostile(rows, chance)
        path.write_bytes(raw)
        code, out, told = called(["replay", str(path), "--rules", *chance.sample(RULES, 2)], capsys, name)
        kept = readable(raw)
        counts["replayed" if code == 0 else "refused"] += 1
        if code == 0:
            assert out.startswith(f"{kept} losses in pools of 64"), (name, kept, out[:80])
        else:
            assert not kept and len(told) <= 2, (name, kept, told)
    with capsys.disabled():
        print(f"\nlogs: seed {SEED}, {cases} hostile, {dict(counts)}")
    assert counts["replayed"] > cases / 2


def test_a_hostile_run_folder_is_a_page_or_one_line(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    cases, counts = number(30, 200), Counter()
    for case in range(cases):
        chance, name = Random(f"report {SEED}, {case}"), f"seed {SEED}, case {case}"
        (tmp_path / FILE).write_bytes(hostile(folder(chance), chance))
        code, _, told = called(["report", str(tmp_path), "--out", str(tmp_path / "out")], capsys, name)
        counts["reported" if code == 0 else "refused"] += 1
        if code:
            assert FILE in told[-1], (name, told)
    with capsys.disabled():
        print(f"\nreports: seed {SEED}, {cases} hostile, {dict(counts)}")
    assert min(counts["reported"], counts["refused"]) > cases / 10


def folder(chance):
    """The lines of a run."""
    pools = [
        {"kind": "pools", "pool": at, "seconds": at, "seen": 8, "kept": 4, "loss": 1.0, "kept_low": 0.5, "phi": 0.2}
        for at in range(1, chance.randrange(2, 5))
    ]
    return [
        {"kind": "run", "format": 1, "name": "mine", "unit": "nats", "facts": {"lr": 0.1}},
        *pools,
        {"kind": "evaluation", "pool": 3, "seconds": 3.5, "accuracy": 0.5},
        {"kind": "losses", "edges": [0, 1, 2], "seen": [3, 5], "kept": [1, 3]},
        {"kind": "class", "label": "a", "seen": 5, "kept": 3},
        {
            "kind": "sample",
            "rank": "most",
            "id": 3,
            "seen": 2,
            "kept": 2,
            "loss": 0.5,
            "text": "words",
            "image": "no.png",
        },
    ]


SETTINGS = ("nan", "-1", "0", "1e999", "9" * 400, "9" * 12, "1e12", "", "half", "2", "\x00", "1=1", "\u0663")


def test_hostile_settings_are_one_line(tmp_path, capsys):
    cases, path, counts = number(100, 1000), tmp_path / "log.jsonl", Counter()
    path.write_text("".join(f'{{"loss": {at % 7}.5}}\n' for at in range(100)))
    names = (
        "relative:keep",
        "top:keep",
        "band:low=0.1,high",
        "relative:keep=0.5,history",
        "threshold:value",
        "prune:ratio",
    )
    for case in range(cases):
        chance, name = Random(f"settings {SEED}, {case}"), f"seed {SEED}, case {case}"
        rule = f"{chance.choice(names)}={chance.choice(SETTINGS)}"
        argv = ["replay", str(path), "--rules", rule, f"--phi={chance.choice(SETTINGS)}"]
        argv += [f"--pool={chance.choice(('1', '7', '9' * 400, '0'))}"]
        try:
            called(argv, capsys, f"{name}, {argv}")
        except AssertionError as error:
            stopped = error.__cause__
            if not isinstance(stopped, SystemExit):
                raise
            assert stopped.code == 2 and capsys.readouterr().err.count("\n") == 1, (name, argv)
            counts["usage"] += 1
    with capsys.disabled():
        print(f"\nsettings: seed {SEED}, {cases} hostile, {dict(counts)} of them refused before anything was read")
