"""models/train.py: a run from end to end, every refusal in words, and the same bits however often it is stopped."""

import errno
import json
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import puresift as ps
from models import bert, checkpoints, data, options, report, train
from models.options import KEEP, Options
from puresift.records.recorder import FILE
from puresift.report.page import _row
from puresift.report.reading import read

ROOT = Path(__file__).parents[2]
TINY = ["--batch-size", "16", "--max-length", "24", "--epochs", "2", "--threads", "1", "--save-every", "4"]
ARMS = ["plain", "shortened", "random", "sifted"]


@pytest.fixture(autouse=True)
def global_state() -> Iterator[None]:
    before = torch.get_rng_state()
    yield
    torch.set_rng_state(before)


@pytest.fixture(scope="module", autouse=True)
def smaller() -> Iterator[None]:
    """The whole corpus would be evaluated on for longer than these runs train, by a model of a million parameters."""
    load = data.load
    with pytest.MonkeyPatch.context() as patch:
        few = data.embedded(0, n_train=400, n_test=60)
        patch.setattr(data, "load", lambda source, seed: few if source is None else load(source, seed=seed))
        patch.setattr(bert, "WIDTH", 32)
        yield


def written(folder: Path, train: int, test: int) -> str:
    """A folder of so many reviews, as files."""
    corpus = data.embedded(5, n_train=train, n_test=test)
    for name, rows in (("train", corpus.train), ("test", corpus.test)):
        (folder / f"{name}.tsv").write_text("".join(f"{text}\t{label}\n" for text, label in rows))
    return str(folder)


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("reviews"), 150, 40)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compared") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.compare, "SECONDS", 0.0)
        assert (
            train.main([*TINY, "--limit", "200", "--sift", "relative", "--no-gate", "--compare", "--out", str(out)])
            == 0
        )
    return out


def lines(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def same(one: Any, other: Any, where: str = "") -> None:
    """Equal to the bit; what a clock measured is passed over."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            if "seconds" not in str(key) and key not in ("phi", "metrics_bytes", "bytes", "predicted_cost"):
                same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for place, (a, b) in enumerate(zip(one, other, strict=True)):
            same(a, b, f"{where}/{place}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one.nan_to_num(7.5), other.nan_to_num(7.5)), where
    else:
        assert one == other, f"{where}: {one!r} != {other!r}"


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGTERM) -> None:
    """Raise a signal in the middle of the update of that number, counted from the start of this process."""
    update, count = train.arms.update, 0

    def interrupted(*args: Any, **kwargs: Any) -> float:
        nonlocal count
        count += 1
        if count == step:
            signal.raise_signal(number)
        return update(*args, **kwargs)

    monkeypatch.setattr(train.arms, "update", interrupted)


def test_a_comparison_leaves_a_complete_run_folder(compared: Path) -> None:
    summary = json.loads((compared / "summary.json").read_text())
    assert list(summary["arms"]) == ARMS
    pools = -(-200 // 16) * 2
    for name, arm in summary["arms"].items():
        assert set(arm) >= {"accuracy", "seconds", "eval_seconds", "seen", "scored", "trained", "phi", "keep", "cost"}
        assert 0 <= arm["accuracy"] <= 1 and arm["seconds"] > 0 and arm["lr"] == 0
        assert arm["scored"] == (400 if name == "sifted" else 0)
        assert (arm["phi"] is None) == (name != "sifted")
        assert arm["keep"] == arm["trained"] / arm["seen"]
        if name != "shortened":
            assert arm["seen"] == 400 and arm["pools"] == pools
    arms = summary["arms"]
    assert arms["plain"]["trained"] == 400 and arms["plain"]["steps"] == pools and arms["plain"]["cost"] == 1
    assert 100 < arms["sifted"]["trained"] < 300 and 100 < arms["random"]["trained"] < 300
    assert arms["sifted"]["predicted_cost"] == pytest.approx(arms["sifted"]["phi"] + arms["sifted"]["keep"])

    turns = summary["interleaved"]
    assert 0 < turns["low"] <= turns["cost"] <= turns["high"] and turns["alternations"] >= 5
    assert 0.3 < turns["keep"] < 0.7 and turns["phi"] > 0
    budget = turns["cost"] - turns["keep"] + arms["sifted"]["keep"]
    assert arms["shortened"]["steps"] == min(round(pools * budget), pools)
    assert summary["score"]["dtype"] in ("float32", "bfloat16") and set(summary["score"]["seconds"]) == {
        "float32",
        "bfloat16",
    }
    assert summary["config"]["keep"] == KEEP and summary["threads"] == 1 and summary["seed"] == 0
    assert summary["data"]["synthetic"] and summary["data"]["train"] == 200
    assert summary["hardware"]["cpu"] and set(summary["versions"]) >= {"python", "torch", "puresift", "transformers"}
    config = json.loads((compared / "config.json").read_text())
    assert Options(**{name: config[name] for name in Options.__dataclass_fields__}).compare
    for name in ("accuracy", "losses", "threshold"):
        assert (compared / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert not [*compared.rglob(".*")]  # no half-written file


@pytest.mark.parametrize("arm", ARMS)
def test_metrics_tell_the_course_of_an_arm(compared: Path, arm: str) -> None:
    rows = lines(compared / arm)
    summary = json.loads((compared / arm / "summary.json").read_text())
    for name in ("pool", "step", "seconds"):
        assert [row[name] for row in rows] == sorted(row[name] for row in rows)
    assert (rows[0]["pool"], rows[-1]["pool"]) == (0, summary["pools"])
    assert rows[-1]["step"] == summary["steps"] and rows[-1]["lr"] == 0
    assert max(row["lr"] for row in rows) <= Options.lr
    tried = [row["accuracy"] for row in rows if row["accuracy"] is not None]
    assert 8 <= len(tried) <= 11 and tried[-1] == summary["accuracy"]
    scored = [row for row in rows if row["threshold"] is not None]
    assert bool(scored) == (arm == "sifted")
    assert all(row["threshold"] <= row["kept_median"] for row in scored)
    assert checkpoint(compared / arm)["optimizer"]["param_groups"][0]["lr"] == 0


def test_arms_record_what_a_report_needs(compared: Path) -> None:
    runs = {run.name: run for run in read([compared])}
    assert set(runs) == set(ARMS)
    rows = data.load(None, seed=0).train
    for name, run in runs.items():
        summary = json.loads((compared / name / "summary.json").read_text())
        assert run.evaluations[0]["pool"] == 0 and run.evaluations[-1]["accuracy"] == summary["accuracy"]
        assert run.facts["batch_size"] == 16 and run.facts["model"] == "small"
        if name in ("plain", "shortened"):
            assert not run.pools and not run.samples
            continue
        sums = {part: sum(line[part] for line in run.pools) for part in ("seen", "kept", "scored")}
        assert sums == {"seen": 400, "kept": summary["trained"], "scored": summary["scored"]}
        assert {line["label"] for line in run.classes} == {"blame", "praise"}
        assert sum(line["kept"] for line in run.classes) == summary["trained"]
        assert len(run.samples) == 16
        for sample in run.samples:
            assert (sample["text"], sample["label"] == "praise") == (rows[sample["id"]][0], rows[sample["id"]][1] == 1)
    losses = runs["sifted"].losses
    assert losses is not None and runs["random"].losses is None
    assert sum(losses["seen"]) == 400 and all(k <= s for k, s in zip(losses["kept"], losses["seen"], strict=True))


def test_the_rate_rises_and_falls_to_zero() -> None:
    assert train.rate(2.0, 0.0) == 0 and train.rate(2.0, 1.0) == 0
    assert train.rate(2.0, train.WARM_UP) == pytest.approx(2.0)
    assert train.rate(2.0, train.WARM_UP / 2) == pytest.approx(1.0)
    assert train.rate(2.0, (1 + train.WARM_UP) / 2) == pytest.approx(1.0)


def test_a_finished_run_is_told_again_not_done_again(compared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stamps = {path: path.stat().st_mtime_ns for path in compared.glob("*/*")}
    assert train.main(["--resume", "--out", str(compared)]) == 0
    assert {path: path.stat().st_mtime_ns for path in compared.glob("*/*")} == stamps
    verdict, blank, *table = capsys.readouterr().out.splitlines()
    assert re.match("(Sifting pays|Do not sift|Nothing certain|No verdict)", verdict) and not blank
    assert table[0].split("  ")[0] == "arm" and [row.split()[0] for row in table[1:5]] == ARMS
    assert len({len(row) for row in table[:5]}) == 1
    assert table[5].startswith("sifted pass costs 0.") or table[5].startswith("sifted pass costs 1.")
    assert str(compared) in table[-1]


def test_the_table_and_the_page_tell_one_cost(compared: Path, tmp_path: Path) -> None:
    """And it is not the clock's, which holds whatever else the machine did while an arm ran."""
    arms = json.loads((compared / "summary.json").read_text())["arms"]
    printed = {row.split()[0]: row.split()[-1] for row in report.table(arms).splitlines()[1:]}
    runs = {run.name: _row(run, "accuracy")[-1] for run in read([compared])}
    assert runs == printed == {name: f"{arm['cost']:.2f}" for name, arm in arms.items()}
    slow = {name: arm | {"seconds": 9 * arm["seconds"]} if name == "sifted" else arm for name, arm in arms.items()}
    train.compare.add_costs(slow, json.loads((compared / "costs.json").read_text())["interleaved"])
    assert slow["sifted"]["cost"] == arms["sifted"]["cost"]
    assert slow["sifted"]["clock"] == pytest.approx(9 * arms["sifted"]["clock"])

    (tmp_path / FILE).write_bytes((compared / "sifted" / FILE).read_bytes().replace(b"measured_cost", b"mine"))
    (run,) = read([tmp_path])
    assert float(_row(run, "accuracy")[-1]) == pytest.approx(arms["sifted"]["predicted_cost"], abs=0.03)


def test_what_the_loop_saves_is_measured_against_a_textbook(compared: Path) -> None:
    """Pools of like length cost less by their padding alone, and that is told apart from sifting."""
    loops = json.loads((compared / "costs.json").read_text())["loops"]
    assert loops["turns"] >= 5 and all(0 < loops[name]["low"] <= loops[name]["cost"] for name in ("alike", "textbook"))
    assert loops["alike"]["cost"] < 1


ARMS_TO_STOP = {
    "plain": ["--sift", "none"],
    "random": ["--sift", "uniform", "--keep", "0.4"],
    "relative": ["--sift", "relative", "--no-gate", "--score-dtype", "float32"],
    "gated": ["--sift", "relative", "--score-dtype", "float32"],
    "alike": [*["--sift", "relative", "--no-gate", "--score-dtype", "float32", "--bucket", "--score-tokens", "8"]],
    "delayed": ["--sift", "relative", "--no-gate", "--delay", "5", "--beta", "2", "--score-dtype", "bfloat16"],
    "top": ["--sift", "top", "--keep", "0.75", "--score-dtype", "float32", "--train-dtype", "bfloat16"],
}


QUICK = ("plain", "gated")  # the others run alike, and each takes half a minute


@pytest.mark.parametrize(
    "arm", [pytest.param(arm, marks=() if arm in QUICK else pytest.mark.slow) for arm in ARMS_TO_STOP]
)
def test_stopped_and_resumed_is_the_same_to_the_bit(
    arm: str, reviews: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*TINY, "--data", reviews, *ARMS_TO_STOP[arm]]
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    assert train.main([*options, "--out", str(whole)]) == 0
    name = next(path.parent.name for path in whole.glob("*/checkpoint.pt"))
    steps = json.loads((whole / name / "summary.json").read_text())["steps"]

    command = [*options, "--out", str(pieces)]
    taken = 0
    for more in (1, 2, 1, steps - 5, 1):  # among them a stop after the last step but for evaluation
        with monkeypatch.context() as patch:
            stop_at(patch, more)
            assert train.main(command) == 128 + signal.SIGTERM
        taken += more
        assert checkpoint(pieces / name)["tally"]["step"] == taken
        assert f"--resume --out {pieces}" in capsys.readouterr().err
        command = ["--resume", "--out", str(pieces)]
    assert train.main(command) == 0
    same(checkpoint(pieces / name), checkpoint(whole / name))
    same(lines(pieces / name), lines(whole / name))
    same(lines(pieces / name, FILE), lines(whole / name, FILE))
    same(*(json.loads((out / name / "summary.json").read_text()) for out in (pieces, whole)))


def test_killed_after_any_checkpoint_it_goes_on_the_same(
    reviews: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill loses what came after the checkpoint, lines of metrics included."""
    options = [*TINY, "--data", reviews, "--sift", "relative", "--no-gate", "--score-dtype", "float32"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train.main([*options, "--out", str(whole)]) == 0
    command, update = [*options, "--out", str(killed)], train.arms.update

    class Killed(BaseException):
        pass

    for after in (1, 5, 4):

        def die(*args: Any, left: list[int] = [after], **kwargs: Any) -> float:  # noqa: B006 - a fresh one a turn
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return update(*args, **kwargs)

        monkeypatch.setattr(train.arms, "update", die)
        with pytest.raises(Killed):
            train.main(command)
        command = ["--resume", "--out", str(killed)]
    monkeypatch.setattr(train.arms, "update", update)
    with open(killed / "sifted" / "metrics.jsonl", "a") as file:
        file.write('{"half a li')
    (killed / "sifted" / ".checkpoint.pt.new").write_bytes(b"half a checkpoint")
    assert train.main(command) == 0
    same(checkpoint(killed / "sifted"), checkpoint(whole / "sifted"))
    same(lines(killed / "sifted"), lines(whole / "sifted"))
    same(lines(killed / "sifted", FILE), lines(whole / "sifted", FILE))


def test_a_comparison_goes_on_with_the_arm_it_was_in(
    reviews: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    monkeypatch.setattr(train.compare, "LEAST", 1)
    monkeypatch.setattr(train.compare, "SECONDS", 0.0)
    with monkeypatch.context() as patch:
        began, run = [], train.train
        patch.setattr(train, "train", lambda job, arm, *rest: (began.append(arm), run(job, arm, *rest))[1])
        patch.setattr(train.runs.Progress, "say", lambda self, line: self.name == "sifted" and line["pool"] and stop())

        def stop() -> None:
            patch.setattr(train.runs.Progress, "say", lambda self, line: None)
            signal.raise_signal(signal.SIGINT)

        assert train.main([*TINY, "--data", reviews, "--compare", "--out", str(out)]) == 130
        assert began == ["plain", "sifted"]
        before = (out / "plain" / "checkpoint.pt").stat().st_mtime_ns, (out / "costs.json").read_text()
        assert train.main(["--resume", "--out", str(out), "--seed", "0"]) == 0
        assert began == ["plain", "sifted", "sifted", "random", "shortened"]
    assert before == ((out / "plain" / "checkpoint.pt").stat().st_mtime_ns, (out / "costs.json").read_text())
    assert list(json.loads((out / "summary.json").read_text())["arms"]) == ARMS


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        train.main(argv)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.startswith("train: error: ") and said.count("\n") == 1, said
    return said


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--keep", "1.5"], "--keep must be in (0, 1], got 1.5"),
        (["--keep", "0"], "--keep must be in (0, 1]"),
        (["--keep", "nan"], "--keep must be in (0, 1], got nan"),
        (["--keep", "half"], "--keep: invalid float value"),
        (["--beta", "-1"], "--beta must be in [0, inf), got -1.0"),
        (["--keep", "0.5", "--beta", "1"], "--keep or --beta, not both"),
        (["--sift", "none", "--keep", "0.5"], "--keep does nothing with --sift none"),
        (["--sift", "top", "--gate"], "--gate does nothing with --sift top"),
        (["--sift", "top", "--history", "99"], "--history does nothing with --sift top"),
        (["--sift", "none", "--compare"], "choose auto, relative or top"),
        (["--sift", "best"], "invalid choice: 'best'"),
        (["--history", "32"], "--history must be at least --batch-size, 64, got 32"),
        (["--epochs", "0"], "must be a whole number >= 1, got '0'"),
        (["--batch-size", "a"], "must be a whole number >= 1, got 'a'"),
        (["--lr", "-1"], "--lr must be a number above 0"),
        (["--device", "abacus"], "--device abacus is not available here: choose cpu"),
        (["--resume"], "--resume needs --out"),
        (["--what"], "unrecognized arguments: --what"),
        (["--data", "no/such.tsv"], "no such file or folder"),
        (["--limit", "20"], "less than two batches of 64"),
        (["--max-length", "2"], "must be a whole number >= 3"),
        (["--score-tokens", "8", "--sift", "none"], "--score-tokens does nothing with --sift none: leave it out"),
        (["--seed", str(2**64)], f"--seed: must be a whole number <= {2**64 - 1}, got '18446744073709551616'"),
        (["--seed", "-1"], "--seed: must be a whole number >= 0, got '-1'"),
        (["--epochs", "9" * 5000], "--epochs: must be a whole number <= 2147483647, got '999999"),
    ],
)
def test_bad_options_are_refused_in_words(
    argv: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert words in refused(argv if argv == ["--resume"] else [*argv, "--out", str(out)], capsys)
    assert not out.exists()


def test_bad_files_are_refused_in_words(tmp_path: Path, reviews: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    bad = tmp_path / "bad.tsv"
    bad.write_text("good\t1\nbad\tmaybe\n")
    assert f"{bad}:2: label must be 0 or 1, got 'maybe'" in refused(["--data", str(bad), "--out", str(out)], capsys)
    assert f"--out {bad}/run cannot be written: {bad} is no folder" in refused(["--out", f"{bad}/run"], capsys)
    assert f"no checkpoint in {out}: check --out" in refused(["--resume", "--out", str(out)], capsys)
    out.mkdir()
    assert f"no checkpoint in {out}" in refused(["--resume", "--out", str(out)], capsys)
    assert not [*out.iterdir()]


def test_a_folder_in_use_is_left_alone(reviews: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    out.mkdir()
    held = {"pid": os.getppid(), "host": platform.node(), "born": None}
    (out / "lock.json").write_text(json.dumps(held))
    options = [*TINY, "--data", reviews, "--sift", "none", "--out", str(out)]
    assert f"{out} is in use by process {os.getppid()} on" in refused(options, capsys)
    assert [path.name for path in out.iterdir()] == ["lock.json"]


@pytest.fixture(scope="module")
def damaged(reviews: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A whole run, and one that was stopped at its seventh step: with checkpoints of pools 4 and 7."""
    whole, stopped = (tmp_path_factory.mktemp("damaged") / name for name in ("whole", "stopped"))
    options = [*TINY, "--data", reviews, "--sift", "none", "--epochs", "1"]
    assert train.main([*options, "--out", str(whole)]) == 0
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 7)
        assert train.main([*options, "--out", str(stopped)]) == 128 + signal.SIGTERM
    return whole, stopped


def flip(path: Path) -> None:
    """A bit of the weights, which torch.load would not notice."""
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.write_bytes(raw)


def ends(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The last line of a run that was refused after it told what it resumes, and how far it came."""
    with pytest.raises(SystemExit) as stopped:
        train.main(argv)
    told = capsys.readouterr().err.splitlines()
    assert (
        stopped.value.code == 2 and told[-1].startswith("train: error: ") and sum("error" in line for line in told) == 1
    ), told
    return told[-1]


def test_a_flipped_bit_is_not_trained_on(
    damaged: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, out = damaged[0], tmp_path / "run"
    shutil.copytree(damaged[1], out)
    flip(out / "plain" / "checkpoint.pt")
    assert train.main(["--resume", "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert "checkpoint.pt is damaged (its checksum" in said and "going on from checkpoint.before.pt, pool 4" in said
    same(checkpoint(out / "plain"), checkpoint(whole / "plain"))
    same(lines(out / "plain"), lines(whole / "plain"))
    same(lines(out / "plain", FILE), lines(whole / "plain", FILE))
    assert not [*out.rglob(".*")] and not (out / "lock.json").exists()


def test_lost_lines_of_metrics_stay_lost(
    damaged: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, out = damaged[0], tmp_path / "run"
    shutil.copytree(damaged[1], out)
    (out / "plain" / "metrics.jsonl").unlink()
    assert train.main(["--resume", "--out", str(out)]) == 0
    assert "metrics.jsonl has lost lines since the checkpoint; it goes on without them" in capsys.readouterr().err
    assert b"\0" not in (out / "plain" / "metrics.jsonl").read_bytes()
    same(lines(out / "plain"), lines(whole / "plain")[-len(lines(out / "plain")) :])
    same(checkpoint(out / "plain")["model"], checkpoint(whole / "plain")["model"])


def test_checkpoints_from_before_there_was_a_checksum_are_resumed(damaged: tuple[Path, Path], tmp_path: Path) -> None:
    whole, out = damaged[0], tmp_path / "run"
    shutil.copytree(damaged[1], out)
    content = checkpoint(out / "plain")
    del content["mark"]
    torch.save(content, out / "plain" / "checkpoint.pt")
    (out / "plain" / "checkpoint.before.pt").unlink()
    assert train.main(["--resume", "--out", str(out)]) == 0
    same(checkpoint(out / "plain"), checkpoint(whole / "plain"))


@pytest.mark.parametrize(
    ("place", "damage", "words"),
    [
        ("plain/checkpoint.pt", b"", "is damaged (it is empty), and"),
        ("plain/checkpoint.pt", b"PK", "is damaged (it is cut short, or no checkpoint), and"),
        ("config.json", b"{", "is damaged (JSONDecodeError"),
        ("config.json", b"[]", "is damaged (no object"),
        ("costs.json", b"null", "is damaged (no object with the entries score, interleaved): remove it"),
        ("plain/summary.json", b'{"accuracy": 1}', "is damaged (no object with the entries accuracy, "),
    ],
)
def test_damaged_files_are_refused_in_words(
    place: str,
    damage: bytes,
    words: str,
    damaged: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    shutil.copytree(damaged[1], out)
    (out / "plain" / "checkpoint.before.pt").write_bytes(b"")
    (out / place).write_bytes(damage)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "config.json"}
    assert f"{out / place} {words}" in ends(["--resume", "--out", str(out)], capsys)
    after = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "config.json"}
    assert after == before


def test_settings_in_a_damaged_config_are_refused(
    damaged: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(damaged[1], out)
    config = json.loads((out / "config.json").read_text())
    for name, value in {"keep": "half", "epochs": True, "sift": "relativ", "lr": None}.items():
        (out / "config.json").write_text(json.dumps(config | {name: value}))
        said = ends(["--resume", "--out", str(out)], capsys)
        assert f"config.json is damaged ({name} is {value!r}): put a copy of it back" in said
    (out / "config.json").write_text(json.dumps(config | {"lr": 0.5}))
    assert "is of another run or arm" in ends(["--resume", "--out", str(out)], capsys)


def test_a_full_disk_is_one_line_and_the_run_goes_on_from_there(
    damaged: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, out = damaged[0], tmp_path / "run"
    shutil.copytree(damaged[1], out)

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(train.runs.Metrics, "write", full)
        words = (
            "the run folder cannot be written or read (No space left on device): make room, then go on with --resume"
        )
        assert words in ends(["--resume", "--out", str(out)], capsys)
    with monkeypatch.context() as patch:
        patch.setattr(train.checkpoints, "seal", full)
        assert "checkpoint.pt cannot be written or read (No space" in ends(["--resume", "--out", str(out)], capsys)
    assert not [*out.rglob(".*")] and not (out / "lock.json").exists()
    assert train.main(["--resume", "--out", str(out)]) == 0
    same(checkpoint(out / "plain"), checkpoint(whole / "plain"))


def test_a_run_is_not_overwritten_nor_resumed_as_another(
    compared: Path, reviews: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"{compared} holds a run: go on with it by --resume" in refused([*TINY, "--out", str(compared)], capsys)
    again = ["--resume", "--out", str(compared)]
    assert "--lr 0.1 disagrees with the run in" in refused([*again, "--lr", "0.1"], capsys)
    assert "--keep 0.25 disagrees" in refused([*again, "--beta", "3"], capsys)
    assert "--data" in refused([*again, "--data", reviews], capsys)
    assert train.main([*again, "--beta", "1", "--epochs", "2", "--device", "cpu"]) == 0

    rows, out = tmp_path / "rows.tsv", tmp_path / "run"
    rows.write_text((Path(reviews) / "train.tsv").read_text())
    assert train.main([*TINY, "--data", str(rows), "--sift", "none", "--epochs", "1", "--out", str(out)]) == 0
    rows.write_text(rows.read_text() + "one more\t1\n")
    capsys.readouterr()
    assert "the data is not what the run" in refused(["--resume", "--out", str(out)], capsys)


@pytest.mark.parametrize("cost", [0.0, 1.0])
def test_by_default_it_sifts_only_while_that_pays(
    cost: float, reviews: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that scoring moves by its cost, and a training step by 1; stopped in the middle, too."""
    now, scorer, update = [0.0], train.arms.scorer, train.arms.update

    def scoring(*args: Any) -> Any:
        score = scorer(*args)

        def shim(params: Any, batch: Any) -> Any:
            now[0] += cost
            return score(params, batch)

        return shim

    def training(*args: Any) -> float:
        now[0] += 1
        return update(*args)

    sift = ps.sift
    monkeypatch.setattr(train.arms, "scorer", scoring)
    monkeypatch.setattr(train.arms, "update", training)
    monkeypatch.setattr(ps, "sift", lambda *args, **more: sift(*args, **more, clock=lambda: now[0]))
    out, epochs = tmp_path / "run", 4
    options = [*TINY, "--data", reviews, "--epochs", str(epochs), "--lr", "3e-3", "--score-dtype", "float32"]
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        assert train.main([*options, "--out", str(out)]) == 128 + signal.SIGTERM
    assert train.main(["--resume", "--out", str(out)]) == 0
    arm = json.loads((out / "summary.json").read_text())["arms"]["sifted"]
    assert json.loads((out / "config.json").read_text())["sift"] == "auto"
    assert arm["seen"] == 150 * epochs and arm["lr"] == 0
    (run,) = read([out])
    assert float(_row(run, "accuracy")[-2]) == pytest.approx(arm["phi"], rel=0.3), "the arm's, not the governor's last"
    if cost:
        assert arm["scored"] <= 5 * 16, "first looks alone, once more after the stop"
        assert arm["keep"] > 0.9
    else:
        assert arm["scored"] > 0.9 * arm["seen"] and arm["keep"] < 0.75


def test_a_diverging_run_says_so(reviews: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*TINY, "--data", reviews, "--lr", "1e30", "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        train.main(options)
    assert "train: error:" in (said := capsys.readouterr().err) and "NaN or infinite" in said


def test_comparing_is_the_default_only_for_the_generated_reviews(tmp_path: Path, reviews: str) -> None:
    out = str(tmp_path / "run")

    def compares(*argv: str) -> bool:
        return train.parse([*argv, "--out", out])[0].compare

    assert compares() and compares("--keep", "0.25") and compares("--compare", "--data", reviews)
    assert not compares("--sift", "relative") and not compares("--data", reviews) and not compares("--no-compare")


def test_auto_has_the_setting_of_the_evidence_and_other_rules_the_one_they_had(tmp_path: Path, reviews: str) -> None:
    def chosen(*argv: str) -> tuple[bool, int]:
        o = train.parse([*argv, "--out", str(tmp_path / "run")])[0]
        return o.bucket, o.score_tokens

    assert chosen() == chosen("--sift", "auto") == chosen("--data", reviews) == (True, 16)
    assert chosen("--model", "minilm") == (True, 24) and chosen("--no-bucket", "--score-tokens", "0") == (False, 0)
    assert chosen("--sift", "relative") == chosen("--sift", "none") == (False, 0)
    assert chosen("--sift", "none", "--bucket") == (True, 0)


def test_several_ranks_have_no_batches_of_like_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sorts what waits on it, and a rank more would deal it out in another order."""
    monkeypatch.setattr(options, "place", lambda: (0, 2))
    o = train.parse(["--out", str(tmp_path / "run")])[0]
    assert (o.sift, o.bucket, o.score_tokens) == ("relative", False, 0)
    with pytest.raises(ValueError, match="--bucket sorts the rows of one process, and there are 2 ranks: leave it out"):
        train.parse(["--bucket", "--out", str(tmp_path / "run")])


def test_a_run_from_before_there_were_batches_of_like_length_goes_on(
    damaged: tuple[Path, Path], tmp_path: Path
) -> None:
    """Switched off, the settings change neither what is trained nor the mark in a checkpoint."""
    whole, out = damaged[0], tmp_path / "run"
    shutil.copytree(damaged[1], out)
    config = json.loads((out / "config.json").read_text())
    del config["bucket"], config["score_tokens"]
    (out / "config.json").write_text(json.dumps(config))
    o, facts = train.parse(["--resume", "--out", str(out)])[0], config["rows"]
    free = {"data", "device", "threads", "save_every", "compare", "bucket", "score_tokens"}
    before = {name: value for name, value in asdict(o).items() if name not in free} | {"rows": facts["checksum"]}
    assert checkpoints.mark(o, facts) == f"{zlib.crc32(json.dumps(before, sort_keys=True).encode()):08x}"
    assert checkpoints.mark(replace(o, bucket=True), facts) != checkpoints.mark(o, facts)
    assert train.main(["--resume", "--out", str(out)]) == 0
    same(checkpoint(out / "plain"), checkpoint(whole / "plain"))


def test_pretrained_models_get_a_lower_rate(tmp_path: Path) -> None:
    rates = [train.parse(["--model", name, "--out", str(tmp_path)])[0].lr for name in ("small", "minilm", "some/bert")]
    assert rates[0] > rates[1] > rates[2]


def test_the_help_says_where_to_begin_and_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "Without options: four arms on generated reviews, a verdict and a table" in said
    for name, rate in (*options.RATES.items(), ("else", options.PRETRAINED_RATE)):
        assert f"{rate} for {name}" in said or f"{name} {rate})" in said
    assert f"with auto {options.TOKENS['small']} for small, {options.PRETRAINED_TOKENS} for others; else 0" in said


def test_only_the_first_few_sentences_are_used(reviews: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = [*TINY, "--data", reviews, "--sift", "none", "--epochs", "1", "--limit", "40", "--out", str(out)]
    assert train.main(options) == 0
    arms = json.loads((out / "summary.json").read_text())["arms"]
    assert list(arms) == ["plain"] and arms["plain"]["seen"] == 40 and arms["plain"]["cost"] is not None


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_ten_times_the_weights_are_the_same(tmp_path: Path) -> None:
    """The real program, a real kill -9, at ten random moments of resuming and training."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = [
        "--limit",
        "2000",
        "--batch-size",
        "32",
        "--epochs",
        "20",
        "--sift",
        "relative",
        "--no-gate",
        "--threads",
        "1",
    ]
    options += ["--score-dtype", "float32", "--save-every", "7"]
    start: Callable[[list[str]], subprocess.Popen[str]] = lambda argv: subprocess.Popen(  # noqa: E731
        [sys.executable, "-m", "models.train", *argv],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    began = time.monotonic()
    assert start([*options, "--out", str(whole)]).communicate() and (whole / "summary.json").is_file()
    print(f"\nuninterrupted: {time.monotonic() - began:.0f} s")

    rng = random.Random(7)
    place = killed / "sifted" / "checkpoint.pt"
    for turn in range(10):
        argv = ["--resume", "--out", str(killed)] if place.is_file() else [*options, "--out", str(killed)]
        process = start(argv)
        assert process.stderr is not None
        process.stderr.readline()  # it has come to life
        moment = rng.uniform(1, 6)
        time.sleep(moment)
        assert process.poll() is None, "finished before it was killed: make the run longer"
        process.kill()
        process.communicate()
        tally = checkpoint(place.parent)["tally"] if place.is_file() else {"pool": None}
        print(f"kill {turn + 1} after {moment:.2f} s: saved pool {tally['pool']}")
    assert start(["--resume", "--out", str(killed)]).communicate() and (killed / "summary.json").is_file()
    same(checkpoint(place.parent), checkpoint(whole / "sifted"))
    same(lines(place.parent), lines(whole / "sifted"))
    print(f"the same to the bit, at pool {checkpoint(place.parent)['tally']['pool']}")
