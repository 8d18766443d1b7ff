"""models/train.py on several ranks: one run, one writer, and the same bits however often it is stopped or killed."""

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from models.data import Sentences, loader
from puresift.records.recorder import FILE
from tests.distributed.worlds import launch
from tests.models.test_train import TINY, checkpoint, lines, same, written

ONCE = [*TINY, "--epochs", "1"]


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("reviews"), 106, 20)


def scored(reviews: str) -> list[str]:
    return [*ONCE, "--data", reviews, "--sift", "relative", "--no-gate", "--score-dtype", "float32"]


def blind(reviews: str) -> list[str]:
    return [*ONCE, "--data", reviews, "--sift", "uniform", "--keep", "0.4"]


@pytest.fixture(scope="module")
def made(reviews: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Runs, one after another in the same processes, by name."""
    folder = tmp_path_factory.mktemp("ranks")

    def at(name: str) -> list[str]:
        return ["--out", str(folder / name)]

    again = {"environment": [["TORCHELASTIC_RESTART_COUNT", "1"]]}
    jobs: dict[str, tuple[int, dict[str, Any]]] = {
        "whole": (2, {"argv": [*scored(reviews), *at("whole")]}),
        "stopped": (2, {"argv": [*scored(reviews), *at("pieces")], "stop": 2}),
        "restarted": (2, {"argv": [*scored(reviews), *at("pieces")], **again}),  # by torchrun, with the same command
        "one": (1, {"argv": [*blind(reviews), *at("one")]}),
        "of two": (2, {"argv": [*blind(reviews), *at("fewer")], "stop": 1}),
        "damaged": (2, {"argv": ["--resume", *at("broken")], "broken": [f"{folder}/fewer", f"{folder}/broken"]}),
        "by one": (1, {"argv": ["--resume", *at("fewer")]}),
        "odd": (2, {"argv": [*scored(reviews), "--batch-size", "15", *at("none")]}),
        "auto": (2, {"argv": [*ONCE, "--data", reviews, "--sift", "auto", *at("none")]}),
        "rest": (2, {"argv": [*scored(reviews), "--limit", "97", *at("none")]}),
        "lost": (2, {"argv": [*scored(reviews), *at("none")], "lost": True}),
        "lr": (2, {"argv": [*scored(reviews), "--lr", "-1", *at("none")]}),
        "nowhere": (2, {"argv": scored(reviews), "environment": [["TORCHELASTIC_MAX_RESTARTS", "3"]]}),
    }
    answers = launch("tests.models.ranked", [("trained", *job) for job in jobs.values()], processes=2)
    return folder, dict(zip(jobs, answers, strict=True))


def test_two_ranks_are_one_run(made: tuple[Path, dict[str, Any]]) -> None:
    """Rows are counted over both, weights are the same, and one rank writes and speaks."""
    folder, runs = made
    first, other = runs["whole"]
    assert (first["code"], other["code"]) == (0, 0) and first["weights"] == other["weights"], "DDP"
    assert "sifted" in first["out"] and not other["out"] and not other["err"]
    summary = json.loads((folder / "whole" / "summary.json").read_text())
    arm = summary["arms"]["sifted"]
    assert summary["ranks"] == 2 and arm["seen"] == arm["scored"] == 106
    kept = [line["kept"] for line in lines(folder / "whole" / "sifted", FILE) if line["kind"] == "pools"]
    assert arm["trained"] == len(first["ids"]) + len(other["ids"]) == sum(kept)
    assert len({*first["ids"], *other["ids"]}) == arm["trained"], "no row on both"
    assert len(first["ids"]) > 16 and len(other["ids"]) > 16
    assert not [*folder.rglob("lock.json")] and not [*folder.rglob(".*")]


def test_ranks_stop_together_and_go_on_to_the_bit(made: tuple[Path, dict[str, Any]]) -> None:
    """Told to stop on one; torchrun then starts the same command anew."""
    folder, runs = made
    assert [one["code"] for one in runs["stopped"]] == [128 + signal.SIGTERM] * 2
    assert "everything is saved" in runs["stopped"][0]["err"] and not runs["stopped"][1]["err"]
    assert runs["restarted"][0]["code"] == 0 and "resuming on" in runs["restarted"][0]["err"]
    for whole, *parts in zip(runs["whole"], runs["stopped"], runs["restarted"], strict=True):
        assert whole["ids"] == sum((part["ids"] for part in parts), [])
    whole, pieces = (folder / name / "sifted" for name in ("whole", "pieces"))
    same(checkpoint(pieces), checkpoint(whole))
    same(lines(pieces), lines(whole))
    same(lines(pieces, FILE), lines(whole, FILE))
    assert len(checkpoint(whole)["ranks"]) == 2


def test_another_number_of_ranks_goes_on_with_every_row(made: tuple[Path, dict[str, Any]]) -> None:
    """A draw that asks no model keeps the same rows of every pool, on any number of ranks."""
    _, runs = made
    (whole,), (gone_on,) = runs["one"], runs["by one"]
    parts = [*runs["of two"], gone_on]
    assert whole["code"] == gone_on["code"] == 0 and len(whole["ids"]) > 32 and all(part["ids"] for part in parts)
    assert Counter(sum((part["ids"] for part in parts), [])) == Counter(whole["ids"]), "none lost, none twice"
    assert "saved on 2 ranks, going on with 1: rows that wait are dealt out again" in gone_on["err"]


REFUSED = {
    "odd": "--batch-size 15 is the batch of all ranks, and 2 of them cannot share it: choose a multiple",
    "auto": "--sift auto follows the clock of one process, and there are 2 ranks: choose relative",
    "rest": "97 sentences end with a pool of 1, which 2 ranks cannot share: choose another --batch-size",
    "lr": "--lr must be a number above 0, got -1.0",
    "nowhere": "torchrun --max-restarts needs --out: a restart goes on with the run in that folder",
    "damaged": "checkpoint.pt is damaged (it is cut short, or no checkpoint)",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_told_once(name: str, made: tuple[Path, dict[str, Any]]) -> None:
    folder, runs = made
    first, other = runs[name]
    assert (first["code"], other["code"]) == (2, 2), (first, other)
    said = first["err"].splitlines()[-1]
    assert said.startswith("train: error: ") and REFUSED[name] in said
    assert not other["err"], "rank 0 has told it"
    assert not (folder / "none").exists()


def test_what_one_rank_lacks_ends_all(made: tuple[Path, dict[str, Any]]) -> None:
    first, other = made[1]["lost"]
    assert (first["code"], other["code"]) == (2, 2) and not first["err"]
    assert other["err"] == "train: error: rank 1: reviews: no such file\n"


@pytest.mark.parametrize(("rows", "ranks"), [(96, 2), (90, 3), (101, 4)])
def test_shares_of_a_pool_are_the_pool_of_one_process(rows: int, ranks: int) -> None:
    sentences = Sentences([(f"{n}", n % 2) for n in range(rows)], lambda texts: [[int(text)] for text in texts])
    one = loader(sentences, 12, seed=4)
    shares = [loader(sentences, 12, seed=4, share=(rank, ranks)) for rank in range(ranks)]
    orders = []
    for epoch in range(2):
        for part in (one, *shares):
            getattr(part, "batch_sampler" if part is not one else "sampler").set_epoch(epoch)
        pools = [batch["id"].tolist() for batch in one]
        parts = [[batch["id"].tolist() for batch in share] for share in shares]
        assert [sum(together, []) for together in zip(*parts, strict=True)] == pools
        assert all(len(share) == len(one) == len(pools) for share in shares)
        orders.append(pools)
    assert orders[0] != orders[1], "another order every epoch"
