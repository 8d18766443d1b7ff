"""Damaged files of a run by the hundred, and a real run killed at random moments: never a wrong training in silence."""

import json
import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from random import Random

import pytest
import torch

from models import checkpoints, compare, data, files, train
from models.options import Options, agreed
from puresift.records.recorder import FILE
from tests.campaign.settings import SEED, number
from tests.models.test_checkpoints import content, equal, plainly, saved
from tests.models.test_train import ARMS_TO_STOP, TINY, checkpoint, lines, same

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


def cut(raw, chance):
    return raw[: chance.randrange(len(raw))]


def flipped(raw, chance):
    changed = bytearray(raw)
    for _ in range(chance.choice((1, 1, 2, 8))):
        changed[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def swapped(raw, chance):
    """Two blocks in each other's place."""
    size = chance.randrange(1, len(raw) // 3)
    one = chance.randrange(len(raw) - 2 * size)
    other = chance.randrange(one + size, len(raw) - size + 1)
    return raw[:one] + raw[other : other + size] + raw[one + size : other] + raw[one : one + size] + raw[other + size :]


def blank(raw, chance):
    """A block that was never written."""
    start = chance.randrange(len(raw))
    size = min(chance.choice((1, 512, 4096)), len(raw) - start)
    return raw[:start] + b"\0" * size + raw[start + size :]


def lacking(raw, chance):
    start = chance.randrange(len(raw))
    return raw[:start] + raw[start + chance.randrange(1, 600) :]


def longer(raw, chance):
    start = chance.randrange(len(raw) + 1)
    return raw[:start] + chance.randbytes(chance.randrange(1, 600)) + raw[start:]


def foreign(raw, chance):
    return chance.choice(
        (b"", b"PK\5\6" + bytes(18), pickle.dumps(content()), chance.randbytes(3000), b"{}\n", raw * 2)
    )


def other_digit(raw, chance):
    """Still JSON, mostly, with another number in it."""
    at = chance.choice([place for place, byte in enumerate(raw) if chr(byte).isdigit()])
    return raw[:at] + str(chance.randrange(10)).encode() + raw[at + 1 :]


DAMAGE = (cut, flipped, swapped, blank, lacking, longer, foreign)


def other_program(path, chance):
    torch.save(chance.choice(({"state_dict": {}}, [1], torch.ones(3), content() | {"tally": 3}, "text")), path)


def other_run(path, chance):
    files.replace(
        path, lambda file: checkpoints.seal(file, content(7) | {"mark": chance.choice(("plain 12", "sifted 1", 3))})
    )


def missing(path, chance):
    path.unlink()


PATHS = (other_program, other_run, missing)


def test_no_damaged_checkpoint_is_trained_on(tmp_path, capsys):
    cases, counts = number(300, 5000), Counter()
    for case in range(cases):
        chance, folder = Random(f"{SEED}, {case}"), tmp_path / str(case)
        folder.mkdir()
        older, old_format = chance.random() < 0.5, chance.random() < 0.3
        newest = folder / files.CHECKPOINT
        for pool in (1, 2) if older else (2,):
            saved(folder, pool=pool)
        if old_format:
            plainly(newest, 2)
        raw, damage = newest.read_bytes(), chance.choice((*DAMAGE, *PATHS))
        if damage in PATHS:
            damage(newest, chance)
        else:
            newest.write_bytes(damage(raw, chance))
        name = f"seed {SEED}, case {case}, {damage.__name__}, older {older}, format of before {old_format}"
        unchanged = newest.exists() and newest.read_bytes() == raw
        try:
            read, refused = checkpoints.restore(folder, "sifted 1234"), ""
        except ValueError as error:
            read, refused = None, str(error)
        told = capsys.readouterr().err
        if refused:
            assert str(newest) in refused and "\n" not in refused and files.RESTORE in refused and not older, name
            counts["refused"] += 1
        elif read is None:
            assert damage is missing and not older, name
            counts["none"] += 1
        elif equal(read, content(2)):  # only where nothing that counts was changed
            assert unchanged or old_format, name
            counts["harmless"] += 1
        else:
            assert equal(read, content(1)) and older and told.count("\n") == 1 and str(newest) in told, name
            counts["the one before"] += 1
    with capsys.disabled():
        print(f"\ncheckpoints: seed {SEED}, {cases} damaged, {dict(counts)}, 0 trained on")
    assert min(counts["refused"], counts["the one before"]) > cases / 5


def test_no_damaged_json_of_a_run_goes_unnoticed(tmp_path):
    cases, counts, facts = number(200, 5000), Counter(), {"checksum": 5, "train": 3}
    options = Options()
    (tmp_path / "sifted").mkdir()
    saved(tmp_path / "sifted")
    summary = dict.fromkeys(compare.SUMMARY, 0.5)
    for case in range(cases):
        chance = Random(f"json {SEED}, {case}")
        kind, damage = chance.choice(("config", "summary")), chance.choice((*DAMAGE, *[other_digit] * 7))
        path, whole = tmp_path / f"{kind}.json", asdict(options) | {"rows": facts} if kind == "config" else summary
        files.write_json(path, whole)
        path.write_bytes(damage(path.read_bytes(), chance))
        name = f"seed {SEED}, case {case}, {kind}, {damage.__name__}"
        try:
            read = agreed(tmp_path, {}) if kind == "config" else compare.read_summary(path)
        except ValueError as error:
            counts["refused"] += 1
            assert str(path) in str(error) and len(str(error).splitlines()) == 1, name
            continue
        counts["read"] += 1
        if kind == "config":  # another setting makes another mark, which no checkpoint of the run has
            free = ("data", "device", "threads", "save_every", "compare")
            same_options = all(getattr(read, f) == value for f, value in asdict(options).items() if f not in free)
            assert same_options or checkpoints.mark(read, facts) != checkpoints.mark(options, facts), name
        else:
            assert set(summary) <= set(read), name
    print(f"\nJSON: seed {SEED}, {cases} damaged, {dict(counts)}")
    assert min(counts.values()) > cases / 5


def trained(argv, said):
    """In a process of its own, forked with all imported."""
    with open(said, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", buffering=1) for number in (1, 2))
    torch.set_num_threads(1)
    Path(f"{said}.alive").touch()
    try:
        code = train.main(argv)
    except SystemExit as stopped:
        code = stopped.code
    os._exit(code)


@pytest.fixture(scope="module")
def start():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.campaign.test_files", "tests.campaign.preloaded"])

    def started(argv, said):
        with suppress(FileNotFoundError):
            Path(f"{said}.alive").unlink()
        process = context.Process(target=trained, args=(argv, str(said)), daemon=True)
        process.start()
        while not Path(f"{said}.alive").exists():
            assert process.is_alive(), Path(said).read_text()
            time.sleep(0.005)
        return process

    return started


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reviews")
    corpus = data.embedded(5, n_train=150, n_test=40)
    for name, rows in (("train", corpus.train), ("test", corpus.test)):
        (folder / f"{name}.tsv").write_text("".join(f"{text}\t{label}\n" for text, label in rows))
    return str(folder)


SHORT = ["--epochs", "8", "--batch-size", "8", "--limit", "40", "--max-length", "8"]  # 40 pools, two or three seconds


@pytest.fixture(scope="module")
def whole(start, reviews, tmp_path_factory):
    """By arm: its options, a run that nothing disturbed, and the seconds it took."""
    made = {}

    def run(arm):
        if arm not in made:
            out = tmp_path_factory.mktemp("whole") / arm
            options = [*TINY, "--data", reviews, *ARMS_TO_STOP[arm], *SHORT]
            process = start([*options, "--out", str(out)], out.with_suffix(".txt"))
            began = time.monotonic()
            process.join()
            assert process.exitcode == 0, out.with_suffix(".txt").read_text()
            made[arm] = options, out, time.monotonic() - began
        return made[arm]

    return run


def assert_same(out, other):
    (arm,) = (path.parent.name for path in other.glob("*/checkpoint.pt"))
    same(checkpoint(out / arm), checkpoint(other / arm))
    for name in ("metrics.jsonl", FILE):
        same(lines(out / arm, name), lines(other / arm, name))
    assert not [*out.rglob(".*")] and not (out / "lock.json").exists(), "nothing half written, and no lock"


def test_killed_at_random_moments_it_ends_the_same_to_the_bit(start, whole, tmp_path):
    kills, chance, counts, runs = number(5, 100), Random(f"kills {SEED}"), Counter(), 0
    while sum(counts.values()) < kills:
        arm = chance.choice(("plain", "relative", "gated") if kills > 5 else ("relative",))
        options, other, seconds = whole(arm)
        out, said, done, runs = tmp_path / f"run {runs}", tmp_path / f"run {runs}.txt", False, runs + 1
        while not done:
            began = list(out.glob("*/checkpoint*.pt"))
            process = start(["--resume", "--out", str(out)] if began else [*options, "--out", str(out)], said)
            name, moment = chance.choice(("SIGINT", "SIGTERM", "SIGKILL")), chance.uniform(0, seconds / 2)
            if sum(counts.values()) < kills:
                process.join(moment)
                if process.is_alive():
                    os.kill(process.pid, getattr(signal, name))
                    counts[name] += 1
            process.join()
            done = process.exitcode == 0
            wanted = {"SIGINT": (130,), "SIGTERM": (143,), "SIGKILL": (-9, 255)}[name]
            told = said.read_text()
            assert done or process.exitcode in wanted, f"seed {SEED}, run {runs}, {name}: {process.exitcode}\n{told}"
            assert "Traceback" not in told, told
        assert_same(out, other)
    print(f"\nkills: seed {SEED}, {sum(counts.values())} ({dict(counts)}) of {runs} runs, all the same to the bit")


def test_two_processes_never_share_a_folder(start, whole, tmp_path):
    options, other, _ = whole("relative")
    for turn in range(number(1, 10)):
        out = tmp_path / str(turn)
        racing = [start([*options, "--out", str(out)], tmp_path / f"{turn} {racer}.txt") for racer in range(2)]
        for process in racing:
            process.join()
        assert sorted(process.exitcode for process in racing) == [0, 2]
        told = "".join((tmp_path / f"{turn} {racer}.txt").read_text() for racer in range(2))
        assert told.count("train: error: ") == 1 and (" is in use by process " in told or " holds a run" in told), told
        assert_same(out, other)


def test_a_damaged_run_is_resumed_from_the_one_before_or_refused(start, whole, tmp_path):
    """From end to end, as a person would."""
    options, other, seconds = whole("relative")
    chance, out, counts = Random(f"whole {SEED}"), tmp_path / "run", Counter()
    for turn in range(number(3, 20)):
        said, newest = tmp_path / f"{turn}.txt", out / "sifted" / files.CHECKPOINT
        argv = ["--resume", "--out", str(out)] if files.saved(out) else [*options, "--out", str(out)]
        process = start(argv, said)
        while process.is_alive() and not (newest.exists() and (newest.parent / files.BEFORE).exists()):
            time.sleep(0.01)
        process.join(chance.uniform(0, seconds / 8))
        process.kill()
        process.join()
        damage = chance.choice((cut, flipped))
        if newest.exists():
            newest.write_bytes(damage(newest.read_bytes(), chance))
            counts[damage.__name__] += 1
    process = start(["--resume", "--out", str(out)], said)
    process.join()
    told = said.read_text()
    assert process.exitcode == 0 and f"going on from {files.BEFORE}" in told and "Traceback" not in told, told
    assert_same(out, other)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["arms"]["sifted"]["accuracy"] == checkpoint_accuracy(other)
    print(f"\ndamaged runs: seed {SEED}, {dict(counts)}, the same to the bit")


def checkpoint_accuracy(out):
    return json.loads((out / "summary.json").read_text())["arms"]["sifted"]["accuracy"]
