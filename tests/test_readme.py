"""The code of the README and its pages runs, verbatim; their commands and links are real."""

import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import puresift as ps
from puresift.testing.comparing import difference
from tests import laws
from tests.strategies import data

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
LIBRARY, EVIDENCE = (ROOT / "puresift" / "README.md").read_text(), (ROOT / "bench" / "README.md").read_text()
PAGES = ["README.md", "puresift/README.md", "puresift/integrations/README.md", "bench/README.md", "models/README.md"]
QUICKSTART = """
def loss(model, batch):                       # per-sample loss, Float[B]: the one thing a user writes
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="none")

score  = ps.batched(model, loss)
sifter = ps.sifter(score, ps.relative(keep=0.5), batch_size=64)
stream = ps.sift(sifter, sifter.init(ps.key(0), ps.peek(loader)), ps.live(model), loader)

for batch, weights, state, info in stream:
    optimizer.zero_grad()
    (weights * loss(model, batch)).mean().backward()
    optimizer.step()
"""


PRIORITIZED = """
prioritizer = ps.prioritizer(ps.by_root(ps.importance(keep=0.05, floor=0.1, bias=0.0)), size=len(x), batch_size=1024, steps=5_000)
stream = ps.prioritize(prioritizer, prioritizer.init(ps.key(0)), (x, y))

for batch, weights, state, info in stream:
    losses = loss(model, batch)
    optimizer.zero_grad()
    (weights * losses).mean().backward()
    optimizer.step()
    stream.observe(losses)
"""  # noqa: E501


def blocks(language, text=TEXT):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_python_blocks_run_one_after_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some save files
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    before = model.weight.clone()
    names = {
        "F": F,
        "torch": torch,
        "ps": ps,
        "device": "cpu",
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "loader": torch.utils.data.DataLoader(data(512), batch_size=64),
        **dict(zip("xy", data(2048).tensors, strict=True)),
    }
    assert len(blocks("python")) >= 3 and len(blocks("python", LIBRARY)) >= 5
    for block in blocks("python") + blocks("python", LIBRARY):
        exec(compile(block, "README.md", "exec"), names)
    assert int(names["state"].step) > 0
    assert not torch.equal(model.weight, before)
    assert names["schedule"].get_last_lr()[0] < 0.1 * 4 / 16, "the schedule follows the candidates read"
    names["schedule"].step()
    assert names["schedule"].get_last_lr()[0] == 0.0, "and ends at zero"


def per_sample(model, batch):
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="none")


class Broken(Exception):
    """The machine went away."""


def resumable(block, *, fails=None, seed=0):
    """Run a block in a process that has just begun, with dropout in its model; it is broken off in step `fails`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3))

    def step(*_):
        names["steps"] += 1
        if names["steps"] == fails:
            raise Broken

    names = {"torch": torch, "ps": ps, "model": model, "loss": per_sample, "steps": 0}
    names["optimizer"] = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    names["optimizer"].register_step_pre_hook(step)
    names["loader"] = torch.utils.data.DataLoader(data(512), batch_size=64)
    names["sifter"] = ps.sifter(ps.batched(model, per_sample), ps.importance(keep=0.7), batch_size=32)
    torch.manual_seed(seed)
    exec(compile(block, "README.md", "exec"), names)
    return names


RESUMING = blocks("python", LIBRARY[LIBRARY.index("\n## Resuming\n") :])[:2]


@pytest.mark.parametrize("block", RESUMING, ids=["sifted", "drawn"])
def test_a_run_that_is_broken_off_goes_on_to_the_bit(block, tmp_path, monkeypatch):
    folders = [tmp_path / name for name in ("whole", *"abcd")]
    for folder in folders:
        folder.mkdir()
    monkeypatch.chdir(folders[0])
    whole = resumable(block)
    for folder, fails in zip(folders[1:], (2, 4, 12, 15), strict=True):
        monkeypatch.chdir(folder)
        with pytest.raises(Broken):
            resumable(block, fails=fails)
        left = resumable(block, seed=0 if fails < 3 else 7)  # before the first file there is nothing to go on from
        assert left["steps"] == whole["steps"] - (fails - 1) // 3 * 3, fails
        for name in ("model", "optimizer"):
            saved, expected = (names[name].state_dict() for names in (left, whole))
            assert difference(saved, expected) == "", (fails, name)


DOORS = blocks("python", (ROOT / "puresift" / "integrations" / "README.md").read_text())
NEEDS = {"accelerate": "Accelerator(", "huggingface": "huggingface.sift(", "lightning": "pl."}


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_the_smallest_lightning_script_goes_on_from_its_last_checkpoint(tmp_path, monkeypatch):
    pytest.importorskip("lightning")
    (block,) = (block for block in DOORS if "ckpt_path=" in block)

    def run(folder, script=block):
        monkeypatch.chdir(folder)
        torch.manual_seed(0)
        names = {"torch": torch, "F": F, "ps": ps, "loss": per_sample}
        names["loader"] = torch.utils.data.DataLoader(data(512), batch_size=64)
        exec(compile(script, "README.md", "exec"), names)
        return names["trainer"].global_step, dict(names["module"].state_dict())

    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    whole, weights = run(tmp_path / "whole")
    assert run(tmp_path / "broken", block.replace("max_epochs=2,", "max_epochs=2, max_steps=3,"))[0] == 3 < whole
    steps, left = run(tmp_path / "broken")
    assert steps == whole and difference(left, weights) == ""


@pytest.mark.parametrize("block", DOORS, ids=range(len(DOORS)))
@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
def test_the_blocks_of_the_doors_run(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for package, use in NEEDS.items():
        if use in block:
            pytest.importorskip(package if package != "huggingface" else "transformers")
    torch.manual_seed(0)
    model = nn.Linear(4, 3)

    names = {
        "F": F,
        "torch": torch,
        "ps": ps,
        "model": model,
        "loss": per_sample,
        "score": ps.batched(model, per_sample),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "loader": torch.utils.data.DataLoader(data(512), batch_size=64),
    }
    if "trainer.train()" in block:
        from tests.integrations import test_huggingface as small

        arguments = small.arguments(tmp_path, max_steps=2)
        names["trainer"] = small.transformers.Trainer(small.bert(), arguments, train_dataset=small.Phrases())
    before = model.weight.clone()
    exec(compile(block, "README.md", "exec"), names)
    trained = names["module"].model if "module" in names else model
    assert "trainer.train()" in block or not torch.equal(trained.weight, before)


def test_the_page_of_the_doors_names_the_rules_with_weights_of_1():
    page = (ROOT / "puresift" / "integrations" / "README.md").read_text()
    said = re.search(r"^- ((?:`\w+`,? ?(?:and )?)+) have weights of 1,", page, re.MULTILINE)
    ones = set(re.findall(r"`(\w+)`", said[1]))
    assert len(ones) > 3
    losses, weighed = torch.cat([torch.zeros(8), torch.linspace(0.1, 3.0, 32)]), set()
    for name, member in laws.RULES.items():
        rule = member().rule
        state, weights = rule.init(), []
        for _ in range(3):
            state, odds = rule.select(state, losses)
            weights.append(odds.weights)
        weighed |= {name.split("-")[0]} if bool((torch.cat(weights) != 1).any()) else set()
    assert ones == {name.split("-")[0] for name in laws.RULES} - weighed


def test_the_quickstart_is_the_agreed_one():
    assert [block.strip() for block in blocks("python")[:2]] == [QUICKSTART.strip(), PRIORITIZED.strip()]


def test_the_diff_ends_in_the_quickstart():
    added = [line[1:] for line in blocks("diff")[0].splitlines() if not line.startswith("-")]
    assert [line.strip() for line in added if line.strip()] == [
        line.strip() for line in QUICKSTART.strip().splitlines()[4:] if line.strip()
    ]


def test_the_table_of_arms_is_the_reports():
    report = (ROOT / "bench" / "results" / "quality" / "report.md").read_text()
    table = re.search(r"^### At 60%.*?\n\n((?:\|.*\n)+)", report, re.MULTILINE)
    assert table and len(table[1].splitlines()) > 3
    assert table[1] in EVIDENCE


@pytest.mark.parametrize("extra", ["demo", "dev"])
def test_each_command_stands_on_one_line(extra):
    lines = [line for line in TEXT.splitlines() if line.startswith(f'pip install -e ".[{extra}]" && ')]
    assert len(lines) == 1


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
        assert "://" in target or ((ROOT / page).parent / target).exists(), target


def test_the_front_page_is_short():
    assert len(TEXT.encode()) < 8 * 1024


def test_the_front_page_gives_figures_of_the_evidence():
    """Each difference with its interval stands in the tables behind it, too."""
    found = re.findall(r"[+-]\d*\.\d+ \[[^]]+\]", TEXT)
    plain = EVIDENCE.replace("0.", ".")
    assert len(found) >= 8
    for figure in found:
        assert figure.replace("0.", ".") in plain, figure


@pytest.mark.parametrize(("run", "row"), [("sst2", "| SST-2 sentences"), ("synthetic", "| synthetic reviews")])
def test_the_accuracies_are_those_of_the_run_folders(run, row):
    arms = json.loads((ROOT / "bench" / "results" / run / "summary.json").read_text())["arms"]
    cells = next(line for line in EVIDENCE.splitlines() if line.startswith(row)).split("|")[2:-1]
    expected = [f"{100 * arms[name]['accuracy']:.2f}" for name in ("plain", "shortened", "random", "sifted")]
    assert [cell.strip() for cell in cells] == expected
