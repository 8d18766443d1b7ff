"""Users' scripts in the published style, unchanged but for our lines: each trains, resumes, and says what is wrong."""

import importlib
import json
import math
import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

import puresift as ps

FOLDER = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs a script in this process, in a folder of its own; returns the numbers of its last line."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(tmp_path)

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with torch.random.fork_rng():
            runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
        lines = capsys.readouterr().out.splitlines()
        return json.loads(lines[-1]) if lines and lines[-1].startswith("{") else None

    return run


def half(numbers):
    return 0.2 < numbers["sift/keep"] < 0.8


# The Hugging Face Trainer


def test_a_glue_script_trains_evaluates_and_resumes(run, tmp_path):
    """Dynamic padding to multiples of 8, metrics, checkpoints: one line more."""
    pytest.importorskip("datasets"), pytest.importorskip("transformers")
    sizes = ("--max_steps", 12, "--save_steps", 6, "--gradient_accumulation_steps", 2)
    whole = run("run_glue", *sizes, "--sift")
    assert half(whole) and math.isfinite(whole["train_loss"]) and 0 <= whole["eval_accuracy"] <= 1
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert [row["step"] for row in state["log_history"] if "eval_accuracy" in row] == [6, 12]
    again = run("run_glue", *sizes, "--sift", "--resume_from_checkpoint", tmp_path / "out" / "checkpoint-6")
    assert (again["weights"], again["eval_loss"]) == (whole["weights"], whole["eval_loss"])


@pytest.mark.slow
def test_a_glue_script_learns_as_the_unsifted_one(run):
    plain, sifted = (run("run_glue", "--max_steps", 240, "--save_steps", 240, *flag) for flag in ((), ("--sift",)))
    assert "sift/keep" not in plain and half(sifted)
    assert sifted["eval_accuracy"] > plain["eval_accuracy"] - 0.1 > 0.6


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("masked", "line by line"),
        ("causal", "grouped"),
        pytest.param("masked", "grouped", marks=pytest.mark.slow),
        pytest.param("causal", "line by line", marks=pytest.mark.slow),
    ],
)
def test_a_language_model_script_trains(run, kind, rows):
    pytest.importorskip("datasets"), pytest.importorskip("transformers")
    flags = [*(["--mlm"] if kind == "masked" else []), *(["--line_by_line"] if rows == "line by line" else [])]
    sifted = run("run_lm", "--max_steps", 6, "--sift", *flags)
    assert half(sifted) and math.isfinite(sifted["perplexity"])


# nanoGPT


def test_a_function_that_gives_batches_is_sifted_and_resumes(run):
    whole = run("nanogpt", "--max_iters", 20, "--sift")
    assert half(whole) and math.isfinite(whole["eval_loss"])
    run("nanogpt", "--max_iters", 20, "--sift", "--stop_at", 8)
    again = run("nanogpt", "--max_iters", 20, "--sift", "--init_from", "resume")
    assert (again["weights"], again["eval_loss"]) == (whole["weights"], whole["eval_loss"])


@pytest.mark.slow
def test_a_gpt_learns_as_the_unsifted_one(run):
    plain, sifted = (run("nanogpt", "--max_iters", 150, *flag) for flag in ((), ("--sift",)))
    assert sifted["eval_loss"] < plain["eval_loss"] + 0.1


# Detection


def test_a_detector_trains_on_images_of_any_number_of_boxes_and_resumes(run):
    run("detection", "--epochs", 2, "--output_dir", ".")
    whole = run("detection", "--epochs", 2, "--output_dir", ".", "--sift")
    assert half(whole) and math.isfinite(whole["eval_loss"])
    for step in (whole["steps"] // 2, whole["steps"] - 1):
        run("detection", "--epochs", 2, "--output_dir", ".", "--sift", "--stop_at", step)
        again = run("detection", "--epochs", 2, "--output_dir", ".", "--sift", "--resume")
        assert (again["weights"], again["steps"]) == (whole["weights"], whole["steps"]), step


# Lightning


def lightning_runs(run, *flags):
    pytest.importorskip("lightning.pytorch")
    return run("lightning_images", *flags)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_lightning_module_validates_within_an_epoch_and_resumes(run, tmp_path):
    flags = ("--max_epochs", 2, "--val_check_interval", 3, "--sift")
    whole = lightning_runs(run, *flags)
    assert half({"sift/keep": whole["sift/keep_epoch"]}) and whole["checks"][:4] == [3, 6, 9, 12]
    again = lightning_runs(run, *flags, "--ckpt_path", tmp_path / "out" / "steps" / "step=5.ckpt")
    assert (again["steps"], again["checks"][-2:]) == (whole["steps"], whole["checks"][-2:])


@pytest.mark.parametrize("share", [0.25, pytest.param(0.4, marks=pytest.mark.slow)])
def test_a_share_of_an_epoch_is_a_share_of_its_candidates(run, share):
    """32 pools of 16 rows: a check after each that is a multiple of the share, and none for the rest."""
    whole = lightning_runs(run, "--max_epochs", 2, "--val_check_interval", share, "--sift")
    checks, steps = whole["checks"], whole["steps"]
    assert len(checks) == 2 * int(1 / share)
    assert (checks[-1] == steps) == (share == 0.25)
    expected = [(epoch + share * number) * steps / 2 for epoch in range(2) for number in range(1, int(1 / share) + 1)]
    assert all(abs(check - due) <= 2 for check, due in zip(checks, expected, strict=True))


# Mixed rows


@pytest.mark.parametrize("where", ["in the loop", "in the collate function"])
def test_mixup_and_cutmix_train_on_sifted_rows(run, where):
    flags = ["--epochs", 1, *(["--prefetcher"] if "collate" in where else [])]
    sifted, plain = run("mixup", *flags, "--sift"), run("mixup", *flags)
    assert half(sifted) and sifted["updates"] < plain["updates"] and math.isfinite(sifted["eval_loss"])


def test_a_soft_row_is_scored_by_its_soft_target(run):
    """Rows that were mixed before they are sifted: images, targets and losses belong together."""
    pytest.MonkeyPatch().syspath_prepend(str(FOLDER))
    script = importlib.import_module("mixup")
    mixed = [script.Mixup(seed=n)(*script.images(8, n).tensors) for n in range(4)]
    model = script.create_model().eval()
    score = ps.batched(model, lambda model, batch: cross_entropy(model(batch[0]), batch[1], reduction="none"))
    loader = ps.SiftingDataLoader(mixed, score, ps.top(keep=0.5), params=ps.live(model), batch_size=4)
    for (x, soft), pool in zip(loader, mixed, strict=True):
        with torch.no_grad():
            losses = torch.sum(-pool[1] * torch.log_softmax(model(pool[0]), -1), -1)
        kept = losses.argsort(descending=True)[:4].sort().values
        assert torch.equal(x, pool[0][kept]) and torch.equal(soft, pool[1][kept])
    reduced = ps.batched(model, lambda model, batch: script.SoftTargetCrossEntropy()(model(batch[0]), batch[1]))
    with pytest.raises(ps.SiftError, match="already reduced to one number"):
        next(iter(ps.SiftingDataLoader(mixed, reduced, ps.top(keep=0.5), params=ps.live(model), batch_size=4)))
