"""models/train.py under torchrun: ranks that die by SIGKILL, and arms of three ranks; minutes of real processes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from puresift.records.recorder import FILE
from tests.models.test_train import ROOT, checkpoint, lines, same, written

KILLS = 10
SMALL = ["--batch-size", "16", "--max-length", "24", "--epochs", "3", "--threads", "1", "--save-every", "3"]
SMALL += ["--sift", "relative", "--no-gate", "--score-dtype", "float32"]


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("reviews"), 600, 20)


def torchrun(argv: list[str], ranks: int = 2, restarts: int = 0) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return subprocess.Popen(
        [*command, "--max-restarts", str(restarts), "-m", "models.train", *argv],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def ended(group: "subprocess.Popen[str]", seconds: float = 200) -> str:
    """What a group of processes has said in all; one that hangs is killed, and fails."""
    try:
        said, _ = group.communicate(timeout=seconds)
    finally:
        if group.poll() is None:
            os.killpg(group.pid, signal.SIGKILL)
    return said


def children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ranks_killed_ten_times_end_with_the_same_weights(reviews: str, tmp_path: Path) -> None:
    """One of two ranks, at random moments of beginning, resuming and training; torchrun starts both anew."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    began = time.monotonic()
    said = ended(torchrun([*SMALL, "--data", reviews, "--out", str(whole)]))
    assert (whole / "summary.json").is_file(), said
    print(f"\nuninterrupted: {time.monotonic() - began:.0f} s")

    dice, place = random.Random(11), killed / "sifted" / "checkpoint.pt"
    group = torchrun([*SMALL, "--data", reviews, "--out", str(killed)], restarts=KILLS)
    seen: set[int] = set()
    try:
        for turn in range(KILLS):
            ranks = _fresh(group, seen)
            seen |= {*ranks}
            started, stamp = time.monotonic(), _stamp(place)
            if turn % 2:  # while it begins or resumes
                time.sleep(dice.uniform(0.5, 8))
            else:  # after it has come further
                while _stamp(place) == stamp and group.poll() is None and time.monotonic() - started < 60:
                    time.sleep(0.02)
                time.sleep(dice.uniform(0, 0.6))
            assert group.poll() is None and not (killed / "summary.json").exists(), "ended before: make the run longer"
            victim = dice.choice(ranks)
            os.kill(victim, signal.SIGKILL)
            pool = checkpoint(place.parent)["tally"]["pool"] if place.is_file() else None
            print(f"kill {turn + 1}: rank {ranks.index(victim)} after {time.monotonic() - started:.2f} s, saved {pool}")
    finally:
        said = ended(group)
    assert group.returncode == 0 and (killed / "summary.json").is_file(), said
    assert "Traceback" not in said, said
    same(checkpoint(place.parent), checkpoint(whole / "sifted"))
    same(lines(place.parent), lines(whole / "sifted"))
    same(lines(place.parent, FILE), lines(whole / "sifted", FILE))
    pools = checkpoint(place.parent)["tally"]["pool"]
    print(f"the same to the bit, at pool {pools}; {time.monotonic() - began:.0f} s in all")


def _fresh(group: "subprocess.Popen[str]", seen: set[int]) -> list[int]:
    """Both ranks, once they are started anew."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and group.poll() is None:
        ranks = [pid for pid in children(group.pid) if pid not in seen and _trains(pid)]
        if len(ranks) == 2:
            return ranks
        time.sleep(0.02)
    raise AssertionError(f"no two ranks were started: {ended(group, 1)}")


def _trains(pid: int) -> bool:
    try:
        return b"models.train" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _stamp(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.is_file() else None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_comparison_and_three_ranks(reviews: str, tmp_path: Path) -> None:
    """All arms on two ranks; and three ranks that stop and go on to the bit, where sums have an order."""
    out = tmp_path / "compared"
    few = ["--data", reviews, "--limit", "150", *SMALL[:4], "--epochs", "2", "--threads", "1"]
    rule = ["--sift", "relative", "--no-gate"]
    said = ended(torchrun([*few, *rule, "--compare", "--out", str(out)]))
    summary = json.loads((out / "summary.json").read_text())
    assert [*summary["arms"]] == ["plain", "shortened", "random", "sifted"], said
    assert summary["arms"]["plain"]["trained"] == summary["arms"]["sifted"]["seen"] == 300
    assert summary["interleaved"]["alternations"] >= 5 and said.count("interleaved (median") == 1

    few = ["--data", reviews, "--limit", "150", "--batch-size", "15", *SMALL[2:4], "--epochs", "2", "--threads", "1"]
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    for folder in (whole, pieces):
        group = torchrun([*few, *rule, "--score-dtype", "float32", "--save-every", "4", "--out", str(folder)], ranks=3)
        if folder == pieces:
            place = folder / "sifted" / "checkpoint.before.pt"
            while not place.is_file() and group.poll() is None:
                time.sleep(0.02)
            group.terminate()
        said = ended(group)
    assert not (pieces / "summary.json").exists() and checkpoint(pieces / "sifted")["tally"]["pool"] < 20, said
    assert group.returncode and "everything is saved" in said
    said = ended(torchrun(["--resume", "--out", str(pieces)], ranks=3))
    same(checkpoint(pieces / "sifted"), checkpoint(whole / "sifted"))
    same(lines(pieces / "sifted"), lines(whole / "sifted"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_rank_that_fails_in_the_middle_ends_all(reviews: str, tmp_path: Path) -> None:
    """It says why, and the others do not wait for a time-out."""
    few = ["--data", reviews, "--limit", "64", *SMALL[:4], "--epochs", "2", "--threads", "1"]
    began = time.monotonic()
    group = torchrun([*few, "--sift", "none", "--lr", "1e30", "--out", str(tmp_path / "run")])
    said = ended(group)
    assert group.returncode and "the training loss is NaN or infinite: lower --lr" in said, said
    assert said.count("Traceback") == 1, "torchrun's own"
    assert time.monotonic() - began < 90
